package syncing

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// maxSticky bounds the sticky events of one room in one answer.
const maxSticky = 1000

// sticky gives the room's sticky events after the position that still are sticky and that the timeline does not show: neither its
// limit nor the filter keeps them from a client. No history visibility is asked.
// Spec: MSC4354
func (a *answer) sticky(ctx context.Context, p *roomPlan, t *timeline, from storage.Position) ([]*entry, error) {
	var found []*entry
	if p.live && p.eventsFrom <= from && from > 0 {
		for _, x := range within(p.events, from, a.to, entryPosition) {
			if e := x.row(); e.StickyUntil > a.look.now && e.RedactedBy == "" {
				found = append(found, x)
			}
		}
	} else {
		some, err := a.mayStick(ctx, p, from)
		if err != nil || !some {
			return nil, err
		}
		events, err := a.s.store.Events.Sticky(ctx, p.id, from, a.to, a.look.now, maxSticky)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			found = append(found, a.s.rendered.hold(e))
		}
	}
	return slices.DeleteFunc(found, func(x *entry) bool {
		return a.ignored[x.row().Sender] || slices.ContainsFunc(t.entries, func(shown *entry) bool { return shown.number == x.number })
	}), nil
}

// mayStick asks once for all rooms of the answer which of them hold anything sticky.
func (a *answer) mayStick(ctx context.Context, p *roomPlan, from storage.Position) (bool, error) {
	a.stickOnce.Do(func() {
		rooms := make([]id.RoomID, 0, len(a.rooms))
		for _, room := range a.rooms {
			if room.stay.membership == "join" {
				rooms = append(rooms, room.id)
			}
		}
		var sticking []id.RoomID
		sticking, a.stickErr = a.s.store.Events.StickyRooms(ctx, rooms, a.since, a.to, a.look.now)
		a.sticking = make(map[id.RoomID]bool, len(sticking))
		for _, room := range sticking {
			a.sticking[room] = true
		}
	})
	return a.sticking[p.id] || from < a.since, a.stickErr
}
