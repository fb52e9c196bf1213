package membership

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage/bus"
)

// Knock knocks for a user of ours on a room's door, through one of the servers.
// Spec: server-server-api/#knocking-upon-a-room
func (m *Membership) Knock(ctx context.Context, q *bus.JoinRemote) (bus.FederationAnswer, error) {
	raw, err := content(q.Content, event.MembershipKnock, nil)
	if err != nil {
		return bus.FederationAnswer{}, err
	}
	answer := bus.FederationAnswer{RoomID: q.RoomID}
	err = m.eachServer(ctx, q.Servers, func(server string) error {
		t, err := m.make(ctx, server, "make_knock", q.RoomID, q.UserID, event.MembershipKnock)
		if err != nil {
			return err
		}
		ev, err := m.build(t, q.RoomID, q.UserID, raw)
		if err != nil {
			return fmt.Errorf("build knock: %w", err)
		}
		var sent struct {
			State []json.RawMessage `json:"knock_room_state"`
		}
		err = m.client.Ask(ctx, remote.Request{
			Server: server, Method: http.MethodPut, Path: []string{"v1", "send_knock", string(q.RoomID), ev.EventID()}, Body: json.RawMessage(ev.JSON()), Timeout: askTime,
		}, &sent)
		if err != nil {
			return err
		}
		answer.EventID = id.EventID(ev.EventID())
		outcome, err := m.askRoom(ctx, q.RoomID, bus.RoomQuestion{Receive: &bus.Received{
			Origin: server, Version: t.Version, PDUs: []json.RawMessage{ev.JSON()}, Stripped: stripped(sent.State),
		}})
		if err == nil && outcome.Verdict == bus.Rejected {
			err = bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", outcome.Reason)
		}
		return err
	})
	return answer, err
}

// MakeKnock answers GET /_matrix/federation/v1/make_knock/{roomId}/{userId}.
// Spec: server-server-api/#get_matrixfederationv1make_knockroomiduserid
func (m *Membership) MakeKnock(ctx context.Context, origin string, room id.RoomID, user id.UserID, versions []string) (any, error) {
	if err := own(origin, user); err != nil {
		return nil, err
	}
	if err := m.compatible(ctx, origin, room, versions); err != nil {
		return nil, err
	}
	return m.draft(ctx, origin, room, user, event.MembershipKnock)
}

// SendKnock answers PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}.
// Spec: server-server-api/#put_matrixfederationv1send_knockroomideventid
func (m *Membership) SendKnock(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, raw json.RawMessage) (any, error) {
	version, err := m.ourRoom(ctx, origin, room)
	if err != nil {
		return nil, err
	}
	if !version.Knocks() {
		return nil, mautrix.MForbidden.WithMessage("Rooms of version %s do not know knocking", version)
	}
	a, err := m.check(ctx, origin, room, eventID, raw, event.MembershipKnock)
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx, origin, a, a.ev.JSON()); err != nil {
		return nil, err
	}
	state, err := m.view.InviteState(ctx, room)
	if err != nil {
		return nil, err
	}
	return map[string][]json.RawMessage{"knock_room_state": state}, nil
}
