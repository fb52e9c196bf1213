package view

import (
	"context"
	"fmt"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// maxChain bounds an auth chain that we walk for others.
const maxChain = 200_000

// References reads the event IDs in prev_events or auth_events of a stored PDU, in the format of any room version.
func References(raw []byte, field string) []id.EventID {
	var ids []id.EventID
	gjson.GetBytes(raw, field).ForEach(func(_, item gjson.Result) bool {
		if item.IsArray() {
			item = item.Get("0")
		}
		ids = append(ids, id.EventID(item.Str))
		return true
	})
	return ids
}

// authEvents are the events by which an event was allowed; in version 12 the create event, which the room ID names, is among them.
func authEvents(version id.RoomVersion, e *storage.Event) []id.EventID {
	ids := References(e.JSON, "auth_events")
	if version == id.RoomV12 && e.Type != "m.room.create" {
		ids = append(ids, id.EventID("$"+string(e.RoomID[1:])))
	}
	return ids
}

// AuthChain gives the auth events of the events, theirs, and so on; the events themselves are in it only if others name them.
func (r *Reader) AuthChain(ctx context.Context, version id.RoomVersion, from []*storage.Event) ([]*storage.Event, error) {
	known := make(map[id.EventID]*storage.Event, len(from))
	for _, e := range from {
		known[e.ID] = e
	}
	asked := make(map[id.EventID]bool)
	var chain []*storage.Event
	for wave := from; len(wave) > 0; {
		var missing []id.EventID
		var next []*storage.Event
		for _, e := range wave {
			for _, a := range authEvents(version, e) {
				if asked[a] {
					continue
				}
				asked[a] = true
				if have := known[a]; have != nil {
					next = append(next, have)
				} else {
					missing = append(missing, a)
				}
			}
		}
		if len(asked) > maxChain {
			return nil, fmt.Errorf("auth chain of more than %d events", maxChain)
		}
		fetched, err := r.store.Events.ByIDs(ctx, missing)
		if err != nil {
			return nil, err
		}
		next = append(next, fetched...)
		chain = append(chain, next...)
		wave = next
	}
	return chain, nil
}
