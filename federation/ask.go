package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// answer answers federation.do: what the other components want of other servers.
func (f *Federation) answer(ctx context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
	var answer bus.FederationAnswer
	var err error
	switch {
	case q.Join != nil:
		return f.membership.Join(ctx, q.Join)
	case q.Knock != nil:
		return f.membership.Knock(ctx, q.Knock)
	case q.Leave != nil:
		return f.membership.Leave(ctx, q.Leave)
	case q.Invite != nil:
		return f.membership.Invite(ctx, q.Invite)
	case q.Backfill != nil:
		answer.Events, err = f.receiver.Backfill(ctx, q.Backfill.RoomID, q.Backfill.Limit)
	case q.FetchEvent != nil:
		answer.Events, err = f.receiver.FetchEvent(ctx, q.FetchEvent)
	case q.FetchMedia != nil:
		err = f.fetchMedia(ctx, q.FetchMedia)
	case q.Timestamp != nil:
		answer.Body, err = f.askTimestamp(ctx, q.Timestamp)
	case q.Hierarchy != nil:
		answer.Body, err = f.askHierarchy(ctx, q.Hierarchy)
	case q.UserStatus != nil:
		answer.Body, err = f.askUserStatus(ctx, q.UserStatus)
	case q.QueryProfile != nil:
		answer.Body, err = f.askProfile(ctx, q.QueryProfile)
	case q.QueryAlias != nil:
		answer.Body, err = f.askAlias(ctx, q.QueryAlias)
	case q.QueryKeys != nil:
		answer.Body, err = f.askKeys(ctx, q.QueryKeys)
	case q.ClaimKeys != nil:
		answer.Body, err = f.askClaim(ctx, q.ClaimKeys)
	case q.PublicRooms != nil:
		answer.Body, err = f.askPublicRooms(ctx, q.PublicRooms)
	case q.PolicySign != nil:
		answer.Body, err = f.askPolicy(ctx, q.PolicySign)
	case q.UserInfo != nil:
		answer.Body, err = f.askUserInfo(ctx, q.UserInfo)
	case q.CallToken != nil:
		answer.Body, err = f.askCallToken(ctx, q.CallToken)
	case q.DelayedLeave != nil:
		err = f.delayedLeave(ctx, q.DelayedLeave)
	case q.Peers != nil:
		answer.Body, err = f.peers(ctx, q.Peers)
	default:
		err = bus.Refuse(http.StatusNotFound, "M_UNRECOGNIZED", "Federation does not know this question")
	}
	return answer, err
}

// ask puts a question to another server and gives its answer as it came. What goes wrong comes back as a Refusal that a client
// may be told: the other server's own refusal, or that it cannot be reached.
func (f *Federation) ask(ctx context.Context, q remote.Request) (json.RawMessage, error) {
	var raw json.RawMessage
	if err := f.remote.Ask(ctx, q, &raw); err != nil {
		return nil, refusal(err)
	}
	return raw, nil
}

// refusal turns the failure of a question into what a client is told.
func refusal(err error) error {
	if said, ok := remote.Refused(err); ok {
		return &bus.Refusal{Status: said.StatusCode, Code: said.ErrCode, Message: said.Err}
	}
	if errors.Is(err, remote.ErrNotAllowed) {
		return bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "This server does not federate with that one")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return bus.Refuse(http.StatusGatewayTimeout, "M_UNKNOWN", "The other server did not answer in time")
	}
	return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The other server cannot be reached"), err)
}

// cutServer parts an identifier at its first colon.
func cutServer(s string) (local, server string, ok bool) {
	local, server, ok = strings.Cut(s, ":")
	return local, server, ok && pdu.ValidServerName(server)
}

// openID gives the user whom one of our own OpenID tokens names, empty for none. Whose account was locked or suspended, or has
// expired, meanwhile proves nothing with one.
func (f *Federation) openID(ctx context.Context, token string) (id.UserID, error) {
	user, _, err := f.store.Tokens.PassUser(ctx, storage.OpenIDPass, token)
	if err != nil || user == "" {
		return "", err
	}
	barred, err := f.store.Accounts.Barred(ctx, []id.UserID{user})
	if err != nil || len(barred) > 0 {
		return "", err
	}
	return user, nil
}
