package roomserver

import (
	"context"
	"slices"
	"strings"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

func cmp(a, b pdu.Key) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.StateKey, b.StateKey)
}

// step lies between the places of two events of history from afar.
const step = 1 << 16

// backfill takes in history that lies before what we have: authorised like all else, placed before the events
// that name it, and news to nobody. given is the state before the first of it.
func (r *room) backfill(ctx context.Context, in bus.Received, given *moment) ([]bus.Outcome, error) {
	if err := r.quiet(ctx); err != nil {
		return nil, err
	}
	outcomes := make([]bus.Outcome, len(in.PDUs))
	order := make([]int, len(in.PDUs))
	arrivals := make([]*arrival, len(in.PDUs))
	depth := make([]int64, len(in.PDUs))
	for i, raw := range in.PDUs {
		order[i] = i
		if ev, err := pdu.Parse(r.version, raw); err == nil {
			depth[i] = ev.Depth()
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(max(-1, min(1, depth[a]-depth[b]))) })
	var entered []*arrival
	for _, i := range order {
		a, outcome, err := r.arrive(ctx, in.PDUs[i], given != nil)
		if err != nil {
			return nil, err
		}
		outcomes[i] = outcome
		if a == nil {
			continue
		}
		arrivals[i] = a
		if outcomes[i], err = r.history(ctx, a, given); err != nil {
			return nil, err
		}
		entered = append(entered, a)
		r.events.fly(a.held) // the next may stand on this one
	}
	if err := r.placeHistory(ctx, entered); err != nil {
		return nil, err
	}
	for _, a := range entered {
		r.enter(a, false)
		r.edgesOf(a)
		if a.row.Standing != storage.Accepted {
			continue
		}
		// What was redacted then is redacted now.
		diff, err := r.levelsBefore(ctx, a.held)
		if err != nil {
			return nil, err
		}
		if _, err := r.receiveRedaction(ctx, a.held, diff); err != nil {
			return nil, err
		}
		if err := r.awaited(ctx, a.held); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// history judges one event of the past; its state before and after is found, but the current state is left alone.
func (r *room) history(ctx context.Context, a *arrival, given *moment) (bus.Outcome, error) {
	o := bus.Outcome{EventID: a.row.ID, Verdict: bus.Accepted}
	before, err := r.stateBefore(ctx, a, given)
	if err != nil {
		return o, err
	}
	cause := r.checkAuthEvents(a)
	if cause == nil {
		cause = r.check(ctx, a.ev, before.diff)
	}
	a.row.Before, a.row.After, a.row.Standing = before.at, before.at, storage.Accepted
	if cause != nil {
		if err := forbidden(cause); err == cause {
			return o, err // a fault, not a refusal
		}
		a.row.Standing, a.row.Rule = storage.Rejected, cause.Error()
		o.Verdict, o.Reason = bus.Rejected, cause.Error()
		return o, nil
	}
	r.events.fly(a.held)
	after, err := r.after(ctx, before, a.held)
	a.row.After = after.at
	return o, err
}

// placeHistory spreads the events, oldest first, between the earliest child that names one of them and what lies
// before that; or downwards in steps where nothing does.
func (r *room) placeHistory(ctx context.Context, entered []*arrival) error {
	var shown []*arrival
	ceiling := storage.Place(0)
	found := false
	for _, a := range entered {
		if a.row.Standing == storage.Accepted {
			shown = append(shown, a)
		}
		for _, e := range r.edges[a.row.ID] {
			place, err := r.placeOf(ctx, e)
			if err != nil {
				return err
			}
			if !found || place < ceiling {
				ceiling, found = place, true
			}
		}
	}
	if len(shown) == 0 {
		return nil
	}
	if !found {
		first, err := r.s.store.Events.Forwards(ctx, r.id, storage.Page{Place: -1 << 62}, 1)
		if err != nil || len(first) == 0 {
			return err
		}
		ceiling = first[0].Place
	}
	below, err := r.s.store.Events.Backwards(ctx, r.id, storage.Page{Place: ceiling}, 1)
	if err != nil {
		return err
	}
	gap := storage.Place(step)
	if len(below) > 0 {
		gap = min(gap, (ceiling-below[0].Place)/storage.Place(len(shown)+1))
	}
	for i, a := range shown {
		a.row.Place = ceiling - gap*storage.Place(len(shown)-i)
		if a.row.Place == 0 {
			a.row.Place = -1 // 0 means none
		}
	}
	return nil
}

// placeOf gives the place of the child at an edge; of one that was just written, the edge does not know it.
func (r *room) placeOf(ctx context.Context, e storage.Edge) (storage.Place, error) {
	if e.Place != 0 {
		return e.Place, nil
	}
	row, err := r.s.store.Events.ByID(ctx, e.EventID)
	if err != nil || row == nil {
		return 0, err
	}
	return row.Place, nil
}
