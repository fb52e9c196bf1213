package view

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// Child is a room that a space names as its child.
type Child struct {
	RoomID    id.RoomID
	Servers   []string // through which it may be reached
	Suggested bool
	// Event is the m.space.child event in its stripped form, with origin_server_ts.
	Event json.RawMessage
}

// maxChildren bounds the children of one space that are looked at.
const maxChildren = 1000

// Children gives the children of a space in their order, or the suggested ones alone; none for a room that is no space.
// Spec: client-server-api/#ordering-of-children-within-a-space
func (r *Reader) Children(ctx context.Context, roomID id.RoomID, suggested bool) ([]Child, error) {
	room, err := r.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return nil, err
	}
	create, err := r.store.State.Event(ctx, room.State, pdu.Key{Type: "m.room.create"})
	if err != nil || create == nil || gjson.GetBytes(create.JSON, "content.type").Str != "m.space" {
		return nil, err
	}
	state, err := r.store.State.OfType(ctx, room.State, "m.space.child")
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, 0, len(state))
	for _, number := range state {
		numbers = append(numbers, number)
	}
	events, err := r.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(events, childOrder)
	var children []Child
	for _, e := range events {
		child, ok, err := childOf(e)
		if err != nil {
			return nil, fmt.Errorf("child %s of %s: %w", e.ID, roomID, err)
		}
		if ok && (child.Suggested || !suggested) && len(children) < maxChildren {
			children = append(children, child)
		}
	}
	return children, nil
}

// childOf reads one m.space.child; false for a link that was taken away, or that leads nowhere.
func childOf(e *storage.Event) (child Child, ok bool, err error) {
	content := gjson.GetBytes(e.JSON, "content")
	if e.RedactedBy != "" || e.StateKey == nil || !pdu.ValidRoomID(*e.StateKey) || !content.Get("via").IsArray() {
		return child, false, nil
	}
	child = Child{RoomID: id.RoomID(*e.StateKey), Suggested: content.Get("suggested").Bool()}
	for _, v := range content.Get("via").Array() {
		if v.Type == gjson.String && pdu.ValidServerName(v.Str) {
			child.Servers = append(child.Servers, v.Str)
		}
	}
	if len(child.Servers) == 0 {
		return child, false, nil
	}
	if child.Event, err = Stripped(e); err == nil {
		child.Event, err = sjson.SetBytes(child.Event, "origin_server_ts", e.Timestamp)
	}
	return child, true, err
}

// childOrder compares by `order`, then by time, then by room ID; those without a valid order come last.
func childOrder(a, b *storage.Event) int {
	first, second := orderOf(a), orderOf(b)
	if (first == "") != (second == "") {
		if first != "" {
			return -1
		}
		return 1
	}
	key := func(e *storage.Event) string {
		if e.StateKey == nil {
			return ""
		}
		return *e.StateKey
	}
	return cmp.Or(cmp.Compare(first, second), cmp.Compare(a.Timestamp, b.Timestamp), cmp.Compare(key(a), key(b)))
}

// orderOf is a child's order; empty where it is none, or malformed.
func orderOf(e *storage.Event) string {
	v := gjson.GetBytes(e.JSON, "content.order")
	if v.Type != gjson.String || len(v.Str) > 50 {
		return ""
	}
	for _, c := range []byte(v.Str) {
		if c < 0x20 || c > 0x7e {
			return ""
		}
	}
	return v.Str
}
