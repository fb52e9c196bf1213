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
	if short := a.shortage(r, want); short.missing > 0 {
		limit := max(short.missing, fillAtLeast)
		events, err := a.s.store.Events.Backwards(ctx, r.id, short.from.End(), limit)
		if err != nil {
			return false, err
		}
		f := a.s.found(events, limit)
		if err := a.s.company(ctx, map[id.RoomID]*found{r.id: f}); err != nil {
			return false, err
		}
		a.pour(r, f, short)
	}
	p.take(a.s)
	return len(p.events) > had || p.eventsFrom < from || p.bottom, nil
}

// shortage is what a ring misses: so many events before this position. reworked is as of then.
type shortage struct {
	missing  int
	from     storage.Position
	reworked int
}

// shortage says what a room's ring misses of so many events; none missing if there is no more to be had.
func (a *answer) shortage(r *room, want int) shortage {
	a.s.mu.RLock()
	defer a.s.mu.RUnlock()
	if len(r.events) >= 2*a.s.cfg.RingEvents || r.bytes > maxRingBytes || r.bottom || r.sealed {
		return shortage{}
	}
	return shortage{min(want, 2*a.s.cfg.RingEvents) - len(r.events), r.eventsFrom, r.reworked}
}

// pour puts into a ring what was read for it, if the ring is still what it was.
func (a *answer) pour(r *room, f *found, short shortage) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if r.eventsFrom == short.from && a.s.rooms[r.id] == r {
		before := r.bytes
		r.fill(f, r.reworked != short.reworked)
		a.s.ringed += r.bytes - before
		a.s.boundRings()
	}
}

// take takes the ring anew into the plan.
func (p *roomPlan) take(s *Syncing) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p.events, p.eventsFrom, p.bottom = p.room.events, p.room.eventsFrom, p.room.bottom
}

// found is history that was read for a ring.
type found struct {
	entries        []*entry // ascending
	bottom, sealed bool
}

// found makes of events, newest first, what a ring takes in. They are all there are if there are fewer than limit.
func (s *Syncing) found(events []*storage.Event, limit int) *found {
	f := &found{bottom: len(events) < limit}
	for _, e := range events {
		if e.Position == 0 || e.Standing != storage.Accepted {
			// What came from afar has no position, and may get company that no tail tells of.
			f.sealed, f.bottom = true, false
			break
		}
		f.entries = append(f.entries, s.rendered.hold(e))
	}
	slices.Reverse(f.entries)
	return f
}

// company finds out what relates to what was found, and before which of it history is missing: what all viewers have in common.
func (s *Syncing) company(ctx context.Context, rooms map[id.RoomID]*found) error {
	var names []id.EventID
	var some []id.RoomID
	for room, f := range rooms {
		if len(f.entries) > 0 {
			some = append(some, room)
		}
		for _, x := range f.entries {
			names = append(names, x.id)
		}
	}
	if len(names) == 0 {
		return nil
	}
	related, err := s.store.Events.RelatedBy(ctx, names, nil, nil)
	if err != nil {
		return err
	}
	gaps, err := s.store.Rooms.Gaps(ctx, some)
	if err != nil {
		return err
	}
	for _, f := range rooms {
		for _, x := range f.entries {
			x.enliven(gaps[x.id])
			if related[x.id] {
				x.relate()
			}
		}
	}
	return nil
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
