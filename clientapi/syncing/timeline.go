package syncing

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// timeline is what of a room's history an answer shows.
type timeline struct {
	entries []*entry // in their order
	limited bool
	// prev is where paging backwards goes on.
	prev storage.Page
	// leave is the event by which the user left; for rooms that were left.
	leave *entry
}

// maxPages bounds how often history is read for one timeline whose filter lets little through.
const maxPages = 10

// timeline gathers the newest events with from < position <= to that the user may see and the filter lets through; from 0
// goes back as far as the limit wants.
func (a *answer) timeline(ctx context.Context, p *roomPlan, from, to storage.Position) (*timeline, error) {
	t := &timeline{prev: to.End()}
	part := &a.q.filter.Room.Timeline
	if !part.room(p.id) {
		return t, nil
	}
	limit := part.limit()
	for tries := 0; p.live && !a.outlived(p); tries++ {
		done, err := a.fromRing(ctx, p, t, from, to)
		if err != nil || done {
			return t, err
		}
		if tries == 2 {
			break
		}
		if deeper, err := a.deepen(ctx, p, reads(limit)+tries*a.s.cfg.RingEvents); err != nil {
			return t, err
		} else if !deeper {
			break
		}
	}
	t.entries = nil
	return t, a.fromTables(ctx, p, t, from, to)
}

// fromRing takes the timeline from memory, if that reaches far enough back.
func (a *answer) fromRing(ctx context.Context, p *roomPlan, t *timeline, from, to storage.Position) (bool, error) {
	limit := a.q.filter.Room.Timeline.limit()
	whole := from > 0 && p.eventsFrom <= from || p.bottom
	entries := within(p.events, from, to, entryPosition)
	if !whole && len(entries) <= limit {
		return false, nil
	}
	t.entries = make([]*entry, 0, len(entries))
	for _, x := range entries {
		if a.lets(x.row()) {
			t.entries = append(t.entries, x)
		}
	}
	if n := len(t.entries); n > limit+limit/2+8 {
		t.entries = t.entries[n-limit-limit/2-8:] // the rest is left out whatever can be seen of it
		if err := a.keep(ctx, p, &t.entries); err != nil || len(t.entries) <= limit {
			t.entries = nil
			return false, err
		}
	} else if err := a.keep(ctx, p, &t.entries); err != nil {
		return false, err
	}
	if !whole && len(t.entries) <= limit {
		return false, nil
	}
	t.prev = from.End()
	if from == 0 && len(p.events) > 0 {
		t.prev = p.events[0].row().PageOf()
	}
	t.cut(limit, to)
	t.begin(func(x *entry) bool { return x.afterGap() })
	return true, nil
}

func (a *answer) fromTables(ctx context.Context, p *roomPlan, t *timeline, from, to storage.Position) error {
	limit := a.q.filter.Room.Timeline.limit()
	page := to.End()
	var found []*entry // newest first
	whole := false     // nothing is left before what was found
	for range maxPages {
		var more []*entry
		events, err := a.s.store.Events.Backwards(ctx, p.id, page, limit+1)
		if err != nil {
			return err
		}
		for _, e := range events {
			if from > 0 && e.Place <= from.End().Place {
				whole = true
				break
			}
			page = e.PageOf()
			if e.Standing == storage.Accepted && (from == 0 || e.Position > from) && a.lets(e) {
				more = append(more, a.s.rendered.hold(e))
			}
		}
		if err := a.keep(ctx, p, &more); err != nil {
			return err
		}
		found = append(found, more...)
		if whole = whole || len(events) <= limit; whole || len(found) > limit {
			break
		}
	}
	slices.Reverse(found)
	t.entries = found
	t.prev = page
	if whole && from > 0 {
		t.prev = from.End()
	}
	t.limited = !whole
	if whole && from > 0 {
		if err := a.purged(ctx, p, t, from); err != nil {
			return err
		}
	}
	t.cut(limit, to)
	for _, x := range t.entries {
		if x.row().Sender.Homeserver() != a.u.id.Homeserver() || from == 0 {
			gaps, err := a.s.store.Rooms.Gaps(ctx, []id.RoomID{p.id})
			if err != nil {
				return err
			}
			t.begin(func(x *entry) bool { return gaps[x.id] })
			break
		}
	}
	return nil
}

// outlived says whether the memory may hold events of the room that have been purged since.
func (a *answer) outlived(p *roomPlan) bool {
	edge := a.s.store.Rooms.PurgedHere(p.id)
	return edge != 0 && len(p.events) > 0 && p.events[0].row().Place < edge
}

// purged makes a timeline limited whose client knows the room from before its history was purged: between there and here
// something may be missing.
func (a *answer) purged(ctx context.Context, p *roomPlan, t *timeline, from storage.Position) error {
	room, err := a.s.store.Rooms.ByID(ctx, p.id)
	if err == nil && room != nil && room.Purged > (from+1).Place() {
		t.limited, t.prev = true, storage.Page{Place: room.Purged}
	}
	return err
}

// begin lets the timeline begin at the last event before which history is missing: a client pages back to fill the gap.
func (t *timeline) begin(gap func(*entry) bool) {
	for i := len(t.entries) - 1; i >= 0; i-- {
		if gap(t.entries[i]) {
			t.entries, t.limited = t.entries[i:], true
			t.prev = t.entries[0].row().PageOf()
			return
		}
	}
}

// lets tells whether the filter and the user's own ignoring let the event into a timeline.
func (a *answer) lets(e *storage.Event) bool {
	if e.StateKey == nil && a.ignored[e.Sender] {
		return false
	}
	return a.q.filter.Room.Timeline.event(e)
}

// cut keeps the newest events of those that reach to the position.
func (t *timeline) cut(limit int, to storage.Position) {
	if n := len(t.entries); n > limit {
		t.limited = true
		t.entries = t.entries[n-limit:]
		if limit == 0 {
			t.prev = to.End()
			return
		}
	}
	if t.limited && len(t.entries) > 0 {
		t.prev = t.entries[0].row().PageOf()
	}
}

// mustHold puts the event by which the user left into the timeline, which history visibility may have kept out.
func (t *timeline) mustHold(leave *entry, f *Filter) {
	t.leave = leave
	part := &f.Room.Timeline
	if part.limit() == 0 || !part.event(leave.row()) || slices.ContainsFunc(t.entries, func(x *entry) bool { return x.number == leave.number }) {
		return
	}
	t.entries = append(t.entries, leave)
	if len(t.entries) > part.limit() {
		t.entries = t.entries[1:]
		t.limited = true
	}
}

func (t *timeline) senders() []id.UserID {
	users := make([]id.UserID, len(t.entries))
	for i, x := range t.entries {
		users[i] = x.row().Sender
	}
	return users
}

// keep takes out what the user may not see, and what the filter leaves out for what relates to it.
func (a *answer) keep(ctx context.Context, p *roomPlan, entries *[]*entry) error {
	if err := a.visible(ctx, p, entries); err != nil {
		return err
	}
	part := &a.q.filter.Room.Timeline
	if !part.related() || len(*entries) == 0 {
		return nil
	}
	events := make([]id.EventID, len(*entries))
	for i, x := range *entries {
		events[i] = x.id
	}
	var relTypes []string
	if part.RelatedByRelTypes != nil {
		relTypes = *part.RelatedByRelTypes
	}
	var senders []id.UserID
	if part.RelatedBySenders != nil {
		senders = *part.RelatedBySenders
	}
	related, err := a.s.store.Events.RelatedBy(ctx, events, relTypes, senders)
	*entries = slices.DeleteFunc(*entries, func(x *entry) bool { return !related[x.id] })
	return err
}

// visible takes out what the user may not see. What came while the user is joined needs no question.
func (a *answer) visible(ctx context.Context, p *roomPlan, entries *[]*entry) error {
	if p.stay.membership == "join" {
		if err := a.askOpen(ctx, p, *entries); err != nil {
			return err
		}
	}
	var doubtful []*storage.Event
	for _, x := range *entries {
		if !p.stay.sees(x) {
			doubtful = append(doubtful, x.row())
		}
	}
	if len(doubtful) == 0 {
		return nil
	}
	seen, err := a.s.view.Visible(ctx, a.u.id, doubtful)
	if err != nil {
		return err
	}
	// What is kept here is rendered whole. A pruned copy, of somebody's words who was erased, is to be had from /messages.
	whole := make(map[*storage.Event]bool, len(seen))
	for _, e := range seen {
		whole[e] = true
	}
	ok := make(map[int64]bool, len(seen))
	for _, e := range doubtful {
		ok[e.Number] = whole[e]
	}
	*entries = slices.DeleteFunc(*entries, func(x *entry) bool { return !p.stay.sees(x) && !ok[x.number] })
	return nil
}

// askOpen finds out, once for all viewers, which of the events everybody may see who is joined.
func (a *answer) askOpen(ctx context.Context, p *roomPlan, entries []*entry) error {
	return a.learnOpen(ctx, a.notKnownOpen(p, entries))
}

func (a *answer) notKnownOpen(p *roomPlan, entries []*entry) (unknown []*entry) {
	for _, x := range entries {
		x.mu.Lock()
		if !x.openKnown && !p.stay.seesAll(x.position) {
			unknown = append(unknown, x)
		}
		x.mu.Unlock()
	}
	return unknown
}

func (a *answer) learnOpen(ctx context.Context, unknown []*entry) error {
	if len(unknown) == 0 {
		return nil
	}
	events := make([]*storage.Event, len(unknown))
	for i, x := range unknown {
		events[i] = x.row()
	}
	open, err := a.s.view.Open(ctx, events)
	if err != nil {
		return err
	}
	for _, x := range unknown {
		x.mu.Lock()
		x.open, x.openKnown = open[x.number], true
		x.mu.Unlock()
	}
	return nil
}

// sees tells whether the user is known to be allowed to see the event.
func (st *stay) sees(x *entry) bool {
	if st.seesAll(x.position) {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open && st.membership == "join"
}

// seesAll tells whether the user is known to have been joined from before this position until now.
func (st *stay) seesAll(at storage.Position) bool {
	if st.membership != "join" || at == 0 {
		return false
	}
	return at > st.position || (st.exact && at > st.since)
}

// appendTimeline writes "timeline":{...}.
func (a *answer) appendTimeline(ctx context.Context, b []byte, t *timeline, st *stay) ([]byte, error) {
	b, err := a.appendShown(ctx, append(b, `"timeline":{"events":[`...), t.entries, st)
	if err != nil {
		return nil, err
	}
	b = append(b, `],"limited":`...)
	if t.limited {
		b = append(b, `true`...)
	} else {
		b = append(b, `false`...)
	}
	b = append(b, `,"prev_batch":`...)
	return append(appendText(b, t.prev.String()), '}'), nil
}

// appendShown writes events of the timeline. What is shared by all viewers comes from the ring as it stands; what is not, because
// others relate to it or it was read from history, is rendered for this viewer, in one go.
func (a *answer) appendShown(ctx context.Context, b []byte, entries []*entry, st *stay) ([]byte, error) {
	own := map[int64]int{}
	var events []*storage.Event
	arrival := storage.Position(-1) // of who was never in the room before
	for _, x := range entries {
		if x.shared() && !st.seesAll(x.position) && arrival < 0 {
			var err error
			if arrival, err = a.arrival(ctx, st); err != nil {
				return nil, err
			}
		}
		if !x.shared() || !st.seesAll(x.position) && arrival == 0 {
			e, err := x.now(ctx, a.s)
			if err != nil {
				return nil, err
			}
			own[x.number] = len(events)
			events = append(events, e)
		}
	}
	rendered, err := a.look.render(ctx, a.s, events)
	if err != nil {
		return nil, err
	}
	for i, x := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		if n, ok := own[x.number]; ok {
			b = append(b, rendered[n]...)
			continue
		}
		membership := "join"
		if !st.seesAll(x.position) && x.position < arrival {
			membership = "leave"
		}
		if b, err = a.look.show(ctx, a.s, b, x, membership); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// arrival gives the position at which the user came into the room, if they were never in it before; 0 otherwise.
func (a *answer) arrival(ctx context.Context, st *stay) (storage.Position, error) {
	found, err := a.s.byNumbers(ctx, []int64{st.event})
	own := found[st.event]
	if err != nil || own == nil || st.membership != "join" || own.position == 0 {
		return 0, err
	}
	own.mu.Lock()
	first, before := own.first, own.event.Before
	own.mu.Unlock()
	if first == 0 {
		number, err := a.s.store.State.Key(ctx, before, pdu.Key{Type: "m.room.member", StateKey: string(a.u.id)})
		if err != nil {
			return 0, err
		}
		if first = 1; number != 0 {
			first = -1
		}
		own.mu.Lock()
		own.first = first
		own.mu.Unlock()
	}
	if first < 0 {
		return 0, nil
	}
	return own.position, nil
}
