package syncing

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// roomsTogether is how many rooms are asked of the tables in one question when an answer shows many that are not at hand.
const roomsTogether = 32

// warm brings to hand what the sections of these rooms will ask for: a first sync of hundreds of rooms would else put a dozen questions
// for each. It is no more than that: what it leaves out, or finds outdated, the sections read themselves.
func (a *answer) warm(ctx context.Context, plans []*roomPlan) error {
	var rooms []*roomPlan
	for _, p := range plans {
		if p.live && p.stay.membership == event.MembershipJoin {
			rooms = append(rooms, p)
		}
	}
	if len(rooms) < 2 {
		return nil
	}
	for _, step := range []func(context.Context, []*roomPlan) error{a.warmStates, a.warmSummaries, a.warmRings, a.warmVisible, a.warmThreads, a.warmEvents} {
		if err := step(ctx, rooms); err != nil {
			return fmt.Errorf("read %d rooms at once: %w", len(rooms), err)
		}
	}
	return nil
}

// warmStates reads the current states.
func (a *answer) warmStates(ctx context.Context, rooms []*roomPlan) error {
	var unknown []id.RoomID
	for _, p := range rooms {
		if p.snapshot == (storage.Snapshot{}) && len(within(p.changes, 0, a.to, changePosition)) == 0 {
			unknown = append(unknown, p.id)
		}
	}
	rows, err := a.s.store.Rooms.ByIDs(ctx, unknown)
	if err != nil {
		return err
	}
	var missing []storage.Snapshot
	for _, p := range rooms {
		if row := rows[p.id]; row != nil {
			a.learn(p, row.State)
		}
		at, err := a.current(ctx, p)
		if err != nil {
			return err
		}
		if a.s.states.known(at) == nil {
			missing = append(missing, at)
		}
	}
	states, err := a.s.store.State.AtEach(ctx, missing)
	for at, state := range states {
		a.s.states.keep(at, state)
	}
	return err
}

// warmSummaries counts the members.
func (a *answer) warmSummaries(ctx context.Context, rooms []*roomPlan) error {
	var missing []id.RoomID
	members := map[id.RoomID]*roomPlan{}
	a.s.mu.RLock()
	for _, p := range rooms {
		if known := p.room.summary; known == nil || known.members != p.room.members {
			missing, members[p.id] = append(missing, p.id), p
		}
	}
	a.s.mu.RUnlock()
	crowds, err := a.s.store.Memberships.Crowds(ctx, missing, maxHeroes+1)
	if err != nil {
		return err
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	for room, c := range crowds {
		p := members[room]
		p.room.summary = &summary{members: p.members, joined: c.Joined, invited: c.Invited, heroes: c.Heroes}
	}
	return nil
}

// warmRings reads the newest history of the rooms whose rings hold too little of it.
func (a *answer) warmRings(ctx context.Context, rooms []*roomPlan) error {
	part := &a.q.filter.Room.Timeline
	limit, shorts := part.limit(), map[*roomPlan]shortage{}
	defer func() {
		for p := range shorts {
			p.room.filling.Unlock()
		}
	}()
	var asked []storage.Before
	for _, p := range rooms {
		if !part.room(p.id) || a.outlived(p) || p.bottom || len(within(p.events, 0, a.to, entryPosition)) > limit {
			continue
		}
		// Who fills it now reads it for this answer too.
		if short := a.shortage(p.room, reads(limit)); short.missing > 0 && p.room.filling.TryLock() {
			shorts[p] = short
			asked = append(asked, storage.Before{Room: p.id, Page: short.from.End()})
		}
	}
	most := reads(limit)
	events, err := a.s.store.Events.BackwardsEach(ctx, asked, most)
	if err != nil {
		return err
	}
	read := make(map[id.RoomID]*found, len(asked))
	for _, b := range asked {
		read[b.Room] = a.s.found(events[b.Room], most)
	}
	if err := a.s.company(ctx, read); err != nil {
		return err
	}
	for p, short := range shorts {
		a.pour(p.room, read[p.id], short)
		p.take(a.s)
	}
	return nil
}

// warmVisible finds out which of the rooms' newest events everybody in them may see.
func (a *answer) warmVisible(ctx context.Context, rooms []*roomPlan) error {
	var unknown []*entry
	for _, p := range rooms {
		unknown = append(unknown, a.notKnownOpen(p, a.newest(p))...)
	}
	return a.learnOpen(ctx, unknown)
}

// newest are the events of the ring that the answer may show.
func (a *answer) newest(p *roomPlan) []*entry {
	entries := within(p.events, 0, a.to, entryPosition)
	return entries[max(0, len(entries)-reads(a.q.filter.Room.Timeline.limit())):]
}

// warmThreads finds the rooms without threads, in which no thread needs to be walked through for what is unread.
func (a *answer) warmThreads(ctx context.Context, rooms []*roomPlan) error {
	names := make([]id.RoomID, len(rooms))
	for i, p := range rooms {
		names[i] = p.id
	}
	threaded, err := a.s.store.Events.Threaded(ctx, names)
	if err != nil {
		return err
	}
	for _, p := range rooms {
		p.threadless = !threaded[p.id]
	}
	return nil
}

// warmEvents reads and renders the events of the states and of the timelines.
func (a *answer) warmEvents(ctx context.Context, rooms []*roomPlan) error {
	var numbers []int64
	var entries []*entry
	lazy := a.q.filter.Room.State.LazyLoadMembers
	for _, p := range rooms {
		at, err := a.current(ctx, p)
		if err != nil {
			return err
		}
		state, shown := a.s.states.known(at), a.newest(p)
		entries = append(entries, shown...)
		members := map[id.UserID]bool{a.u.id: true}
		for _, x := range shown {
			members[x.row().Sender] = true
		}
		for _, hero := range a.heroes(ctx, p) {
			members[hero] = true
		}
		for key, number := range state {
			if !lazy || key.Type != "m.room.member" {
				numbers = append(numbers, number)
			}
		}
		for user := range members {
			if number := state[pdu.Key{Type: "m.room.member", StateKey: string(user)}]; lazy && number != 0 {
				numbers = append(numbers, number)
			}
		}
	}
	found, err := a.s.byNumbers(ctx, numbers)
	if err != nil {
		return err
	}
	for _, x := range found {
		entries = append(entries, x)
	}
	return a.s.renderAll(ctx, entries)
}

// together makes the sections of rooms that are warmed together.
func (a *answer) together(ctx context.Context, plans []*roomPlan, parts *sections) error {
	if err := a.warm(ctx, plans); err != nil {
		return err
	}
	for _, p := range plans {
		if err := a.section(ctx, p, parts); err != nil {
			return fmt.Errorf("sync %s: %w", p.id, err)
		}
	}
	return nil
}
