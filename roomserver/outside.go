package roomserver

import (
	"context"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// receiveOutside takes in what concerns our users in a room that we are not in: invites, knocks, and their end.
// All else is refused: we cannot judge it.
func (r *room) receiveOutside(ctx context.Context, in bus.Received) ([]bus.Outcome, error) {
	outcomes := make([]bus.Outcome, len(in.PDUs))
	for i, raw := range in.PDUs {
		o, err := r.outside(ctx, in, raw)
		if err != nil {
			return nil, err
		}
		outcomes[i] = o
	}
	return outcomes, nil
}

func (r *room) outside(ctx context.Context, in bus.Received, raw []byte) (bus.Outcome, error) {
	version := in.Version
	if r.exists {
		version = r.version
	}
	if !pdu.Known(version) {
		return bus.Outcome{Verdict: bus.Rejected, Reason: "we are not in this room"}, nil
	}
	ev, err := pdu.Parse(version, raw)
	if err != nil {
		return bus.Outcome{Verdict: bus.Rejected, Reason: err.Error()}, nil
	}
	eventID := id.EventID(ev.EventID())
	o := bus.Outcome{EventID: eventID, Verdict: bus.Accepted}
	reject := func(reason string) (bus.Outcome, error) {
		o.Verdict, o.Reason = bus.Rejected, reason
		return o, nil
	}
	if ev.Type() != event.StateMember.Type || ev.StateKey() == nil || pdu.RoomIDOf(ev) != r.id {
		return reject("we are not in this room")
	}
	user := id.UserID(*ev.StateKey())
	if user.Homeserver() != r.s.signer.ServerName {
		return reject("we are not in this room")
	}
	was, err := r.s.store.Memberships.Of(ctx, r.id, user)
	if err != nil {
		return o, err
	}
	is := event.Membership(gjson.GetBytes(ev.Content(), "membership").Str)
	pending := was != nil && (was.Membership == event.MembershipInvite || was.Membership == event.MembershipKnock)
	switch is {
	case event.MembershipInvite, event.MembershipKnock:
		if err := r.barred(ctx, user, is); err != nil {
			return o, err
		}
		if was != nil && was.EventID == eventID {
			o.Already = true
			return o, nil
		}
		if was != nil && was.Membership == event.MembershipBan && is == event.MembershipKnock {
			return reject("the user is banned")
		}
	case event.MembershipLeave, event.MembershipBan:
		if !pending {
			return reject("the user is neither invited nor knocking")
		}
		// Whether anybody else may end it we cannot judge.
		if sender := pdu.Sender(ev); sender != user && sender != was.Sender {
			return reject("neither the user nor who invited it")
		}
		// Who withdraws it must know it: strangers to the room cannot name the event.
		if user != pdu.Sender(ev) && !slices.Contains(ev.AuthEventIDs(), string(was.EventID)) {
			return reject("the invite or knock is not among the auth events")
		}
	default:
		return reject("we are not in this room")
	}
	return o, r.noteOutside(ctx, outlier(ev, r.id), is, in)
}

func outlier(ev gomatrixserverlib.PDU, room id.RoomID) *storage.Event {
	row := Row(ev, 0)
	row.RoomID = room
	return row
}

// noteOutside writes the membership with its event as an outlier.
func (r *room) noteOutside(ctx context.Context, row *storage.Event, is event.Membership, in bus.Received) error {
	if err := r.s.store.Events.AddOutliers(ctx, []*storage.Event{row}); err != nil {
		return err
	}
	user := id.UserID(*row.StateKey)
	m := &storage.Membership{RoomID: r.id, UserID: user, Membership: is, EventID: row.ID, Event: row.Number, Sender: row.Sender, News: true}
	if is == event.MembershipInvite || is == event.MembershipKnock {
		m.Stripped = in.Stripped
	}
	r.turn.rows.Memberships = append(r.turn.rows.Memberships, m)
	r.members[user] = is
	return r.written()
}
