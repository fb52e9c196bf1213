package syncing

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/roomserver/view"
	"chancery/storage"
)

// maxStripped bounds one room's stripped state in bytes.
const maxStripped = 64 << 10

// offered writes a room to which the user is invited, or on which they knocked.
func (a *answer) offered(ctx context.Context, p *roomPlan, name string) ([]byte, error) {
	list, err := a.offer(ctx, p)
	if err != nil {
		return nil, err
	}
	b := append(append([]byte(`{"`), name...), `":{"events":[`...)
	return append(appendRaw(b, list), `]}}`...), nil
}

// offer is the stripped state by which the user may know such a room.
func (a *answer) offer(ctx context.Context, p *roomPlan) ([]json.RawMessage, error) {
	var list []json.RawMessage
	var err error
	if len(p.stay.stripped) > 0 {
		list = sane(p.stay.stripped)
	} else if list, err = a.strippedState(ctx, p); err != nil {
		return nil, err
	}
	return a.withOwn(ctx, p, list)
}

// appendRaw writes the items of a list.
func appendRaw(b []byte, list []json.RawMessage) []byte {
	for i, raw := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, raw...)
	}
	return b
}

// unwelcome says whether the user does not want to see invites by sender. The server's own notices are always shown.
// Spec: client-server-api/#invite-permission
func (a *answer) unwelcome(ctx context.Context, sender id.UserID) (bool, error) {
	if sender == rest.ServerUser(a.u.id.Homeserver()) {
		return false, nil
	}
	a.invitesOnce.Do(func() { a.invites, a.invitesErr = a.s.view.Invites(ctx, a.u.id) })
	return a.invites.Judge(sender) != policy.InviteAllowed, a.invitesErr
}

// neverShown says whether the user left a room of which they were shown nothing but an invite, and not even that: its end is no news.
func (a *answer) neverShown(ctx context.Context, p *roomPlan) (bool, error) {
	found, err := a.s.byNumbers(ctx, []int64{p.stay.event})
	if err != nil || found[p.stay.event] == nil {
		return false, err
	}
	// An event names in its auth events what was before it, also in rooms whose state we do not hold.
	var names []id.EventID
	gjson.GetBytes(found[p.stay.event].row().JSON, "auth_events").ForEach(func(_, v gjson.Result) bool {
		if v.IsArray() { // in the first room versions with its hash
			v = v.Get("0")
		}
		names = append(names, id.EventID(v.Str))
		return len(names) < 20
	})
	events, err := a.s.store.Events.ByIDs(ctx, names)
	if err != nil {
		return false, err
	}
	for _, e := range events {
		if e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == string(a.u.id) && membershipOf(e) == "invite" {
			hidden := a.ignored[e.Sender]
			if !hidden {
				if hidden, err = a.unwelcome(ctx, e.Sender); err != nil {
					return false, err
				}
			}
			if hidden && a.q.since != nil && e.Position <= a.since {
				hidden, err = a.unwelcomeAt(ctx, e.Position)
			}
			return hidden, err
		}
	}
	return false, nil
}

// unwelcomeAt says whether what the user does not want to see today was unwanted then already: no wish was changed since. Whoever saw an
// invite before they blocked its sender is told of its end.
func (a *answer) unwelcomeAt(ctx context.Context, then storage.Position) (bool, error) {
	for _, typ := range []string{event.AccountDataIgnoredUserList.Type, policy.InvitesType, policy.FilterType} {
		wish, err := a.s.store.AccountData.ByType(ctx, a.u.id, "", typ)
		if err != nil || wish != nil && wish.Position > then {
			return false, err
		}
	}
	return true, nil
}

// sane drops from foreign stripped state what would break a client.
func sane(list []json.RawMessage) []json.RawMessage {
	kept, size := make([]json.RawMessage, 0, len(list)), 0
	for _, raw := range list {
		e := gjson.ParseBytes(raw)
		if !gjson.ValidBytes(raw) || !e.IsObject() || e.Get("type").Type != gjson.String || e.Get("sender").Type != gjson.String ||
			e.Get("state_key").Type != gjson.String || !e.Get("content").IsObject() {
			continue
		}
		stripped := clientFields(e)
		if size += len(stripped); size > maxStripped {
			break
		}
		kept = append(kept, stripped)
	}
	return kept
}

// clientFields keeps of a foreign event what a client is shown: other servers may have sent whole PDUs. Of the create event that
// is more, since it vouches for the room.
// Spec: MSC4311
func clientFields(e gjson.Result) json.RawMessage {
	wanted := []string{"content", "sender", "state_key", "type"}
	if e.Get("type").Str == "m.room.create" {
		wanted = append(wanted, "event_id", "origin_server_ts", "room_id")
	}
	b := []byte{'{'}
	e.ForEach(func(key, value gjson.Result) bool {
		if slices.Contains(wanted, key.Str) {
			b = member(b, key.Raw, value.Raw)
		}
		return true
	})
	return append(b, '}')
}

// strippedState takes it from the current state of a room that we are in, with the member event of who invites.
func (a *answer) strippedState(ctx context.Context, p *roomPlan) ([]json.RawMessage, error) {
	room, err := a.s.store.Rooms.ByID(ctx, p.id)
	if err != nil || room == nil {
		return nil, err
	}
	events, err := a.s.view.StrippedState(ctx, room.State, pdu.Key{Type: "m.room.member", StateKey: string(p.stay.sender)})
	if err != nil {
		return nil, err
	}
	list := make([]json.RawMessage, 0, len(events)+1)
	for _, e := range events {
		var raw json.RawMessage
		if e.Type == "m.room.create" {
			// The create event vouches for the room: whole. Spec: MSC4311
			whole, err := a.s.view.Render(ctx, view.Viewer{}, view.Form{}, []*storage.Event{e})
			if err != nil {
				return nil, err
			}
			raw = whole[0]
		} else if raw, err = view.Stripped(e); err != nil {
			return nil, err
		}
		list = append(list, raw)
	}
	return list, nil
}

// withOwn adds the invite or knock itself, where it is not in the list yet.
func (a *answer) withOwn(ctx context.Context, p *roomPlan, list []json.RawMessage) ([]json.RawMessage, error) {
	for _, raw := range list {
		if gjson.GetBytes(raw, "type").Str == "m.room.member" && gjson.GetBytes(raw, "state_key").Str == string(a.u.id) {
			return list, nil
		}
	}
	found, err := a.s.byNumbers(ctx, []int64{p.stay.event})
	if err != nil || found[p.stay.event] == nil {
		return list, err
	}
	raw, err := view.Stripped(found[p.stay.event].row())
	if err != nil {
		return nil, err
	}
	return append(list, raw), nil
}
