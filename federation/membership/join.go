package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// Join joins a user of ours to a room through one of the servers. It blocks until the room is ours, or nobody let us in.
// Spec: server-server-api/#joining-rooms
func (m *Membership) Join(ctx context.Context, q *bus.JoinRemote) (bus.FederationAnswer, error) {
	var answer bus.FederationAnswer
	defer m.entrances.enter(q.RoomID)()
	err := m.eachServer(ctx, q.Servers, func(server string) error {
		eventID, err := m.joinThrough(ctx, server, q)
		answer = bus.FederationAnswer{RoomID: q.RoomID, EventID: eventID}
		if err != nil {
			zerolog.Ctx(ctx).Info().Err(err).Str("server", server).Stringer("room_id", q.RoomID).Msg("Not joined through this server")
		}
		return err
	})
	return answer, err
}

// joinTime bounds send_join, whose answer may hold many thousands of events.
const joinTime = 3 * time.Minute

func (m *Membership) joinThrough(ctx context.Context, server string, q *bus.JoinRemote) (id.EventID, error) {
	t, err := m.make(ctx, server, "make_join", q.RoomID, q.UserID, event.MembershipJoin)
	if err != nil {
		return "", err
	}
	extra := map[string]string{}
	authoriser := gjson.GetBytes(t.Event, "content.join_authorised_via_users_server")
	if t.Version.RestrictedJoins() && authoriser.Exists() {
		if !pdu.ValidUserID(authoriser.Str) {
			return "", errors.New("make_join: the authorising user is no user ID")
		}
		extra["join_authorised_via_users_server"] = authoriser.Str
	}
	raw, err := content(q.Content, event.MembershipJoin, extra)
	if err != nil {
		return "", err
	}
	ev, err := m.build(t, q.RoomID, q.UserID, raw)
	if err != nil {
		return "", fmt.Errorf("build join: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	resp, err := m.client.Open(asking, remote.Request{
		Server: server, Method: http.MethodPut, Path: []string{"v2", "send_join", string(q.RoomID), ev.EventID()}, Body: json.RawMessage(ev.JSON()),
		Query: map[string][]string{"omit_members": {"false"}},
	})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	snapshot, back, err := m.takeOver(asking, t.Version, q.RoomID, resp.Body)
	if err != nil {
		return "", err
	}
	if ev, err = m.cosigned(ctx, t.Version, q.RoomID, ev, back); err != nil {
		return "", err
	}
	outcome, err := m.askRoom(ctx, q.RoomID, bus.RoomQuestion{Adopt: &bus.Adopt{
		Version: t.Version, Event: ev.JSON(), Snapshot: snapshot, Resident: server,
	}})
	if err != nil {
		return "", err
	}
	switch outcome.Verdict {
	case bus.Accepted, bus.Known:
		return id.EventID(ev.EventID()), nil
	case bus.Missing:
		return "", fmt.Errorf("join: %d events are missing from the answer, %s among them", len(outcome.Missing), outcome.Missing[0])
	}
	return "", bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "The room does not allow the join: "+outcome.Reason)
}

// cosigned takes the event as the resident server gave it back, if it is still our event; where the join was authorised by one
// of its users, its signature must be there.
func (m *Membership) cosigned(ctx context.Context, version id.RoomVersion, room id.RoomID, ours gomatrixserverlib.PDU, back json.RawMessage) (gomatrixserverlib.PDU, error) {
	if len(back) == 0 || string(back) == "null" {
		return ours, m.signedByAll(ctx, ours)
	}
	events, errs := m.ring.Believe(ctx, version, room, []json.RawMessage{back})
	if errs[0] != nil || events[0].EventID() != ours.EventID() || events[0].Redacted() {
		return ours, m.signedByAll(ctx, ours)
	}
	return events[0], nil
}

func (m *Membership) signedByAll(ctx context.Context, ev gomatrixserverlib.PDU) error {
	if err := pdu.Verify(ctx, []gomatrixserverlib.PDU{ev}, m.ring)[0]; err != nil {
		return fmt.Errorf("join: the authorising server did not sign: %w", err)
	}
	return nil
}

// MakeJoin answers GET /_matrix/federation/v1/make_join/{roomId}/{userId}.
// Spec: server-server-api/#get_matrixfederationv1make_joinroomiduserid
func (m *Membership) MakeJoin(ctx context.Context, origin string, room id.RoomID, user id.UserID, versions []string) (any, error) {
	if err := own(origin, user); err != nil {
		return nil, err
	}
	if err := m.compatible(ctx, origin, room, versions); err != nil {
		return nil, err
	}
	return m.draft(ctx, origin, room, user, event.MembershipJoin)
}

// SendJoin answers PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}. The members are left out of the state where the joining
// server wishes it.
// Spec: server-server-api/#put_matrixfederationv2send_joinroomideventid
func (m *Membership) SendJoin(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, raw json.RawMessage, omitMembers bool) (json.RawMessage, error) {
	a, err := m.check(ctx, origin, room, eventID, raw, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	signed := json.RawMessage(a.ev.JSON())
	if a.authoriser != "" {
		if signed, err = m.authorise(ctx, origin, a); err != nil {
			return nil, err
		}
	}
	servers, err := m.store.Rooms.ServersNow(ctx, room) // those before the join
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx, origin, a, signed); err != nil {
		return nil, err
	}
	stored, err := m.store.Events.ByID(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, mautrix.MNotFound.WithMessage("The event is gone")
	}
	if err := m.tellBetween(ctx, origin, stored, a.ev); err != nil {
		return nil, err
	}
	return m.roomFor(ctx, a.version, stored, signed, servers, omitMembers)
}

// authorise signs a restricted join that one of our users lets in, if the room still lets in that way.
func (m *Membership) authorise(ctx context.Context, origin string, a *arrived) (json.RawMessage, error) {
	if a.authoriser.Homeserver() != m.name {
		return nil, mautrix.MBadJSON.WithMessage("The authorising user is not one of this server")
	}
	if _, err := m.draft(ctx, origin, a.room, pdu.Sender(a.ev), event.MembershipJoin); err != nil {
		return nil, err
	}
	return pdu.Sign(a.version, a.ev.JSON(), m.client.Keys().Signer())
}
