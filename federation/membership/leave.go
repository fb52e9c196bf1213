package membership

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// Leave takes a user of ours out of a room that we are not in: an invite is rejected, a knock taken back. If no server can be
// reached that could tell the room, the user is out all the same, as far as we are concerned.
// Spec: server-server-api/#leaving-rooms-rejecting-invites
func (m *Membership) Leave(ctx context.Context, q *bus.LeaveRemote) (bus.FederationAnswer, error) {
	was, err := m.store.Memberships.Of(ctx, q.RoomID, q.UserID)
	if err != nil {
		return bus.FederationAnswer{}, err
	}
	if was == nil || was.Membership != event.MembershipInvite && was.Membership != event.MembershipKnock {
		return bus.FederationAnswer{}, bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "You are neither invited to this room nor knocking on it")
	}
	servers := append(slices.Clone(q.Servers), was.Sender.Homeserver())
	if _, server, ok := strings.Cut(string(q.RoomID), ":"); ok {
		servers = append(servers, server)
	}
	raw, err := content(q.Content, event.MembershipLeave, nil)
	if err != nil {
		return bus.FederationAnswer{}, err
	}
	var left gomatrixserverlib.PDU
	var version id.RoomVersion
	err = m.eachServer(ctx, servers, func(server string) error {
		t, err := m.make(ctx, server, "make_leave", q.RoomID, q.UserID, event.MembershipLeave)
		if err != nil {
			return err
		}
		ev, err := m.build(t, q.RoomID, q.UserID, raw)
		if err != nil {
			return fmt.Errorf("build leave: %w", err)
		}
		err = m.client.Ask(ctx, remote.Request{
			Server: server, Method: http.MethodPut, Path: []string{"v2", "send_leave", string(q.RoomID), ev.EventID()}, Body: json.RawMessage(ev.JSON()), Timeout: askTime,
		}, nil)
		if err == nil {
			left, version = ev, t.Version
		}
		return err
	})
	if err != nil {
		zerolog.Ctx(ctx).Info().Err(err).Stringer("room_id", q.RoomID).Msg("Left without telling the room")
		if left, version, err = m.leaveAlone(ctx, was, raw); err != nil {
			return bus.FederationAnswer{}, err
		}
	}
	outcome, err := m.askRoom(ctx, q.RoomID, bus.RoomQuestion{Receive: &bus.Received{
		Origin: m.name, Version: version, PDUs: []json.RawMessage{left.JSON()},
	}})
	if err != nil {
		return bus.FederationAnswer{}, err
	}
	if outcome.Verdict == bus.Rejected {
		return bus.FederationAnswer{}, bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", outcome.Reason)
	}
	return bus.FederationAnswer{RoomID: q.RoomID, EventID: id.EventID(left.EventID())}, nil
}

// leaveAlone makes a leave that stands on the invite, or knock, that it answers: nobody else will ever see it.
func (m *Membership) leaveAlone(ctx context.Context, was *storage.Membership, raw json.RawMessage) (gomatrixserverlib.PDU, id.RoomVersion, error) {
	version := strippedVersion(was.Stripped)
	if !pdu.Known(version) {
		version = id.RoomV11
	}
	pending, err := m.store.Events.ByID(ctx, was.EventID)
	if err != nil {
		return nil, "", err
	}
	key := string(was.UserID)
	draft := pdu.Draft{
		Type: "m.room.member", StateKey: &key, Sender: was.UserID, RoomID: was.RoomID, Content: raw, Timestamp: m.now(),
		PrevEvents: []id.EventID{was.EventID}, AuthEvents: []id.EventID{was.EventID}, Depth: 1,
	}
	if pending != nil {
		draft.Depth = pending.Depth + 1
		if ev, err := pdu.Trusted(version, pending.ID, pending.JSON); err == nil {
			if hash, err := pdu.ReferenceHash(ev); err == nil {
				draft.Hashes = map[id.EventID][]byte{pending.ID: hash}
			}
		}
	}
	ev, err := pdu.Build(version, draft, m.client.Keys().Signer())
	return ev, version, err
}

// strippedVersion reads the room's version from stripped state; version 1 where its create event names none, empty without one.
func strippedVersion(stripped []json.RawMessage) id.RoomVersion {
	for _, raw := range stripped {
		if gjson.GetBytes(raw, "type").Str != "m.room.create" {
			continue
		}
		if v := gjson.GetBytes(raw, "content.room_version"); v.Exists() {
			return id.RoomVersion(v.Str)
		}
		return id.RoomV1
	}
	return ""
}

// MakeLeave answers GET /_matrix/federation/v1/make_leave/{roomId}/{userId}.
// Spec: server-server-api/#get_matrixfederationv1make_leaveroomiduserid
func (m *Membership) MakeLeave(ctx context.Context, origin string, room id.RoomID, user id.UserID) (any, error) {
	return m.draft(ctx, origin, room, user, event.MembershipLeave)
}

// SendLeave answers PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}.
// Spec: server-server-api/#put_matrixfederationv2send_leaveroomideventid
func (m *Membership) SendLeave(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, raw json.RawMessage) (any, error) {
	a, err := m.check(ctx, origin, room, eventID, raw, event.MembershipLeave)
	if err != nil {
		return nil, err
	}
	return struct{}{}, m.take(ctx, origin, a, a.ev.JSON())
}
