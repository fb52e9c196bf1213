package syncing

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// fillAtLeast is how many events are read at least when a ring is made deeper.
const fillAtLeast = 32

// deepen reads more of a room's history into its ring, so that all who ask for it read it once; want is how many events the ring
// should hold. It takes the ring anew into the plan, and says whether that is deeper now.
func (a *answer) deepen(ctx context.Context, p *roomPlan, want int) (bool, error) {
	r := p.room
	if r == nil {
		return false, nil
	}
	r.filling.Lock()
	defer r.filling.Unlock()
	had, from := len(p.events), p.eventsFrom
	a.s.mu.RLock()
	full := len(r.events) >= 2*a.s.cfg.RingEvents || r.bytes > maxRingBytes || r.bottom || r.sealed
	missing := min(want, 2*a.s.cfg.RingEvents) - len(r.events)
	bottomUp, reworked := r.eventsFrom, r.reworked
	a.s.mu.RUnlock()
	if !full && missing > 0 {
		f, err := a.readDown(ctx, r.id, bottomUp, max(missing, fillAtLeast))
		if err != nil {
			return false, err
		}
		a.s.mu.Lock()
		if r.eventsFrom == bottomUp && a.s.rooms[r.id] == r {
			before := r.bytes
			r.fill(f, r.reworked != reworked)
			a.s.ringed += r.bytes - before
			a.s.boundRings()
		}
		a.s.mu.Unlock()
	}
	a.s.mu.RLock()
	p.events, p.eventsFrom, p.bottom = r.events, r.eventsFrom, r.bottom
	a.s.mu.RUnlock()
	return len(p.events) > had || p.eventsFrom < from || p.bottom, nil
}

// found is history that was read for a ring.
type found struct {
	entries        []*entry // ascending
	bottom, sealed bool
}

// readDown reads up to limit events before the position, with what all viewers have in common.
func (a *answer) readDown(ctx context.Context, room id.RoomID, from storage.Position, limit int) (*found, error) {
	events, err := a.s.store.Events.Backwards(ctx, room, from.End(), limit)
	if err != nil {
		return nil, err
	}
	f := &found{bottom: len(events) < limit}
	var names []id.EventID
	for _, e := range events {
		if e.Position == 0 || e.Standing != storage.Accepted {
			// What came from afar has no position, and may get company that no tail tells of.
			f.sealed, f.bottom = true, false
			break
		}
		f.entries = append(f.entries, a.s.rendered.hold(e))
		names = append(names, e.ID)
	}
	slices.Reverse(f.entries)
	if len(names) == 0 {
		return f, nil
	}
	related, err := a.s.store.Events.RelatedBy(ctx, names, nil, nil)
	if err != nil {
		return nil, err
	}
	gaps, err := a.s.store.Rooms.Gaps(ctx, []id.RoomID{room})
	if err != nil {
		return nil, err
	}
	for _, x := range f.entries {
		x.enliven(gaps[x.id])
		if related[x.id] {
			x.relate()
		}
	}
	return f, nil
}

// fill puts history before what the ring holds. reworked: an event of it may have been redacted or related to meanwhile.
// mu is held.
func (r *room) fill(f *found, reworked bool) {
	r.bottom, r.sealed = f.bottom, f.sealed
	if len(f.entries) == 0 {
		return
	}
	for _, x := range f.entries {
		if reworked {
			x.outdate()
			x.relate()
		}
		r.bytes += x.size
	}
	r.events = slices.Concat(f.entries, r.events)
	r.eventsFrom = f.entries[0].position - 1
}

// reads says how many events the ring should hold for a timeline of this limit.
func reads(limit int) int { return limit + limit/4 + 1 }
