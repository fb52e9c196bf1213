package membership

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// The bounds of looking for the members by whom a nameless room is called.
const (
	maxHeroes     = 5
	heroesAtOnce  = 50
	maxHeroesSeen = 1000
)

// roomFor gives a joining server the room: the state before the join, its auth chain, and the servers that were in it. Without
// members, the state holds only those by whom a nameless room is called, and the chain only what the state does not.
// Spec: server-server-api/#put_matrixfederationv2send_joinroomideventid
func (m *Membership) roomFor(ctx context.Context, version id.RoomVersion, join *storage.Event, signed json.RawMessage, servers []string, omitMembers bool) (json.RawMessage, error) {
	state, err := m.store.State.At(ctx, join.Before)
	if err != nil {
		return nil, err
	}
	if omitMembers {
		if state, err = m.withoutMembers(ctx, state, join); err != nil {
			return nil, err
		}
	}
	events, err := m.store.Events.ByNumbers(ctx, slices.Sorted(maps.Values(state)))
	if err != nil {
		return nil, err
	}
	chain, err := m.view.AuthChain(ctx, version, append(events[:len(events):len(events)], join))
	if err != nil {
		return nil, err
	}
	if omitMembers {
		in := make(map[id.EventID]bool, len(events))
		for _, e := range events {
			in[e.ID] = true
		}
		chain = slices.DeleteFunc(chain, func(e *storage.Event) bool { return in[e.ID] })
	}
	if servers == nil {
		servers = []string{}
	}
	names, err := json.Marshal(servers)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`{"state":`)
	if err := m.writeEvents(ctx, &b, events); err != nil {
		return nil, err
	}
	b.WriteString(`,"auth_chain":`)
	if err := m.writeEvents(ctx, &b, chain); err != nil {
		return nil, err
	}
	b.WriteString(`,"event":`)
	b.Write(signed)
	b.WriteString(`,"members_omitted":` + strconv.FormatBool(omitMembers) + `,"origin":` + strconv.Quote(m.name) + `,"servers_in_room":`)
	b.Write(names)
	b.WriteByte('}')
	return b.Bytes(), nil
}

// withoutMembers gives the state but for its members; where nothing else names the room, a few of those remain.
func (m *Membership) withoutMembers(ctx context.Context, state map[pdu.Key]int64, join *storage.Event) (map[pdu.Key]int64, error) {
	rest := make(map[pdu.Key]int64, 32)
	var members []int64
	for key, number := range state {
		if key.Type != event.StateMember.Type {
			rest[key] = number
		} else if join.StateKey == nil || key.StateKey != *join.StateKey {
			members = append(members, number)
		}
	}
	_, named := rest[pdu.Key{Type: event.StateRoomName.Type}]
	_, aliased := rest[pdu.Key{Type: event.StateCanonicalAlias.Type}]
	if named || aliased {
		return rest, nil
	}
	slices.Sort(members)
	heroes, err := m.heroes(ctx, members)
	if err != nil {
		return nil, err
	}
	for _, e := range heroes {
		rest[pdu.Key{Type: e.Type, StateKey: *e.StateKey}] = e.Number
	}
	return rest, nil
}

// heroes gives the first members who are in the room or invited; if there are none, the first who were.
// Spec: client-server-api/#get_matrixclientv3sync (m.heroes)
func (m *Membership) heroes(ctx context.Context, members []int64) ([]*storage.Event, error) {
	var here, gone []*storage.Event
	for part := range slices.Chunk(members[:min(len(members), maxHeroesSeen)], heroesAtOnce) {
		events, err := m.store.Events.ByNumbers(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			switch event.Membership(gjson.GetBytes(e.JSON, "content.membership").Str) {
			case event.MembershipJoin, event.MembershipInvite:
				here = append(here, e)
			case event.MembershipLeave, event.MembershipBan:
				gone = append(gone, e)
			}
			if len(here) == maxHeroes {
				return here, nil
			}
		}
	}
	if len(here) > 0 {
		return here, nil
	}
	return gone[:min(len(gone), maxHeroes)], nil
}

// writeEvents writes PDUs as other servers get them, redacted ones pruned.
func (m *Membership) writeEvents(ctx context.Context, b *bytes.Buffer, events []*storage.Event) error {
	b.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		raw, err := m.view.Federation(ctx, e)
		if err != nil {
			return err
		}
		b.Write(raw)
	}
	b.WriteByte(']')
	return nil
}
