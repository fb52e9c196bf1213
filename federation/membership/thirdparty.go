package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// maxBound bounds the invites that one binding brings along.
const maxBound = 50

// signedInvite is what an identity server signs when it learns whose an invited address is; as it came, for the signature's sake.
type signedInvite json.RawMessage

// MarshalJSON is json.Marshaler's.
func (s signedInvite) MarshalJSON() ([]byte, error) { return json.RawMessage(s).MarshalJSON() }

// UnmarshalJSON is json.Unmarshaler's.
func (s *signedInvite) UnmarshalJSON(raw []byte) error {
	return (*json.RawMessage)(s).UnmarshalJSON(raw)
}

func (s signedInvite) user() id.UserID { return id.UserID(gjson.GetBytes(s, "mxid").Str) }
func (s signedInvite) token() string   { return gjson.GetBytes(s, "token").Str }

// exchanged is the member event, in part, that an invite by address becomes.
type exchanged struct {
	Type     string    `json:"type"`
	RoomID   id.RoomID `json:"room_id"`
	Sender   id.UserID `json:"sender"`
	StateKey id.UserID `json:"state_key"`
	Content  struct {
		Membership event.Membership `json:"membership"`
		ThirdParty struct {
			DisplayName string       `json:"display_name"`
			Signed      signedInvite `json:"signed"`
		} `json:"third_party_invite"`
	} `json:"content"`
}

// Exchange answers PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}: an invite by address, which one of our users
// sent, becomes an invite of the user whose address it is.
// Spec: server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
func (m *Membership) Exchange(ctx context.Context, origin string, room id.RoomID, body []byte) (any, error) {
	var e exchanged
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, mautrix.MBadJSON.WithMessage("The body is no member event")
	}
	if _, err := m.ourRoom(ctx, origin, room); err != nil {
		return nil, err
	}
	signed := e.Content.ThirdParty.Signed
	switch {
	case e.Type != event.StateMember.Type || e.Content.Membership != event.MembershipInvite || e.RoomID != room:
		return nil, mautrix.MBadJSON.WithMessage("Not an invite to this room")
	case !pdu.ValidUserID(string(e.StateKey)) || e.StateKey != signed.user() || signed.token() == "":
		return nil, mautrix.MBadJSON.WithMessage("The signed part is not about the invited user")
	case e.StateKey.Homeserver() != origin:
		return nil, mautrix.MForbidden.WithMessage("The invited user is not one of %s", origin)
	case e.Sender.Homeserver() != m.name:
		return nil, mautrix.MForbidden.WithMessage("The inviter is not a user of this server")
	}
	return struct{}{}, m.exchange(ctx, &e)
}

// exchange makes the invite, has it co-signed where the user is another server's, and brings it into the room.
func (m *Membership) exchange(ctx context.Context, e *exchanged) error {
	signed := e.Content.ThirdParty.Signed
	pending, err := m.store.State.Current(ctx, e.RoomID, pdu.Key{Type: event.StateThirdPartyInvite.Type, StateKey: signed.token()})
	if err != nil {
		return err
	}
	if pending == nil || pending.Sender != e.Sender {
		return mautrix.MForbidden.WithMessage("There is no such invite")
	}
	content, err := json.Marshal(map[string]any{
		"membership": event.MembershipInvite,
		"third_party_invite": map[string]any{
			"display_name": gjson.GetBytes(pending.JSON, "content.display_name").Str, "signed": signed,
		},
	})
	if err != nil {
		return fmt.Errorf("exchange invite: %w", err)
	}
	key := string(e.StateKey)
	proposal := &bus.Proposal{Sender: e.Sender, Type: event.StateMember.Type, StateKey: &key, Content: content}
	if e.StateKey.Homeserver() == m.name {
		_, err := m.askRoom(ctx, e.RoomID, bus.RoomQuestion{Propose: proposal})
		return err
	}
	draft, err := m.askRoom(ctx, e.RoomID, bus.RoomQuestion{Draft: proposal})
	if err != nil {
		return err
	}
	state, err := m.view.InviteState(ctx, e.RoomID)
	if err != nil {
		return err
	}
	cosigned, err := m.Invite(ctx, &bus.InviteRemote{Version: draft.Version, Event: draft.Event, Stripped: state})
	if err != nil {
		return err
	}
	outcome, err := m.askRoom(ctx, e.RoomID, bus.RoomQuestion{Receive: &bus.Received{
		Origin: m.name, Version: draft.Version, PDUs: []json.RawMessage{cosigned.Body},
	}})
	if err == nil && outcome.Verdict != bus.Accepted && outcome.Verdict != bus.Known {
		err = mautrix.MForbidden.WithMessage("The room does not allow it: %s", outcome.Reason)
	}
	return err
}

// Bound answers PUT /_matrix/federation/v1/3pid/onbind: an identity server tells of an address that is now one of our users', and
// of the invites that wait for it. Each goes to its inviter's server, which checks what the identity server signed.
// Spec: server-server-api/#put_matrixfederationv13pidonbind
func (m *Membership) Bound(ctx context.Context, body []byte) (any, error) {
	var q struct {
		MXID    id.UserID `json:"mxid"`
		Invites []struct {
			RoomID id.RoomID    `json:"room_id"`
			Sender id.UserID    `json:"sender"`
			Signed signedInvite `json:"signed"`
		} `json:"invites"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, mautrix.MBadJSON.WithMessage("The body is no binding")
	}
	if len(q.Invites) > maxBound {
		return nil, mautrix.MTooLarge.WithMessage("At most %d invites at once", maxBound)
	}
	if q.MXID.Homeserver() != m.name {
		return nil, mautrix.MForbidden.WithMessage("The user is not one of this server")
	}
	account, err := m.store.Accounts.ByID(ctx, q.MXID)
	if err != nil {
		return nil, err
	}
	if account == nil || account.Deactivated {
		return nil, mautrix.MForbidden.WithMessage("There is no such user")
	}
	for _, invite := range q.Invites {
		if invite.Signed.user() != q.MXID || !pdu.ValidUserID(string(invite.Sender)) || !pdu.ValidRoomID(string(invite.RoomID)) {
			continue
		}
		e := exchanged{Type: event.StateMember.Type, RoomID: invite.RoomID, Sender: invite.Sender, StateKey: q.MXID}
		e.Content.Membership, e.Content.ThirdParty.Signed = event.MembershipInvite, invite.Signed
		err := m.hand(ctx, &e)
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			zerolog.Ctx(ctx).Info().Err(err).Stringer("room_id", invite.RoomID).Msg("Invite by address not exchanged")
		}
	}
	return struct{}{}, nil
}

// hand has the inviter's server, ours or another, exchange the invite.
func (m *Membership) hand(ctx context.Context, e *exchanged) error {
	server := e.Sender.Homeserver()
	if server == m.name {
		if _, err := m.ourRoom(ctx, m.name, e.RoomID); err != nil {
			return err
		}
		return m.exchange(ctx, e)
	}
	err := m.client.Ask(ctx, remote.Request{
		Server: server, Method: http.MethodPut, Path: []string{"v1", "exchange_third_party_invite", string(e.RoomID)}, Body: e, Timeout: askTime,
	}, nil)
	if errors.Is(err, remote.ErrNotAllowed) {
		return fmt.Errorf("invite by %s: %w", e.Sender, err)
	}
	return err
}
