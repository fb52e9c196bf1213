package syncing

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// joined writes the part of a room in which the user is joined; nothing if there is nothing to tell.
func (a *answer) joined(ctx context.Context, p *roomPlan) ([]byte, error) {
	fresh := a.q.since == nil
	if !fresh {
		var err error
		if fresh, err = a.newlyJoined(ctx, p); err != nil {
			return nil, err
		}
	}
	from := a.since
	if fresh {
		from = 0
	}
	t, err := a.timeline(ctx, p, from, a.to)
	if err != nil {
		return nil, err
	}
	if fresh && a.q.since != nil {
		t.limited = true // what a client held of the room before does not lead up to this
	}
	full := fresh || a.q.fullState
	state, members, err := a.state(ctx, p, t, full)
	if err != nil {
		return nil, err
	}
	ephemeral, ownReceipt, err := a.ephemeral(ctx, p, fresh)
	if err != nil {
		return nil, err
	}
	sticky, err := a.sticky(ctx, p, t, from)
	if err != nil {
		return nil, err
	}
	private := a.appendAccountData(nil, p)
	if !full && len(t.entries) == 0 && !t.limited && len(state) == 0 && len(ephemeral) == 0 && len(private) == 0 && len(sticky) == 0 && !ownReceipt && !p.counted {
		return nil, nil
	}
	b := make([]byte, 0, 600*len(t.entries)+500*len(state)+len(ephemeral)+len(private)+400)
	b = append(b, '{')
	if b, err = a.appendTimeline(ctx, b, t, &p.stay); err != nil {
		return nil, err
	}
	b = append(append(append(b, `,"`...), a.q.stateName()...), `":{"events":[`...)
	if b, err = a.appendEntries(ctx, b, state); err != nil {
		return nil, err
	}
	b = append(b, `]},"ephemeral":{"events":[`...)
	b = append(append(b, ephemeral...), `]},"account_data":{"events":[`...)
	b = append(append(b, private...), `]}`...)
	if len(sticky) > 0 {
		if b, err = a.appendShown(ctx, append(b, `,"msc4354_sticky":{"events":[`...), sticky, &p.stay); err != nil {
			return nil, err
		}
		b = append(b, `]}`...)
	}
	if full || members {
		if b, err = a.appendSummary(ctx, b, p); err != nil {
			return nil, err
		}
	}
	if b, err = a.appendCounts(ctx, b, p); err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

// newlyJoined tells whether the user joined after since, and was not joined then.
func (a *answer) newlyJoined(ctx context.Context, p *roomPlan) (bool, error) {
	st := &p.stay
	switch {
	case st.position <= a.since:
		return false, nil
	case st.exact:
		return st.since > a.since, nil
	}
	// The newest membership event came after since, and may be a change of profile only: what held before it?
	changes, err := a.changesIn(ctx, p, a.since)
	if err != nil {
		return false, err
	}
	for _, c := range changes {
		if c.Key.Type != "m.room.member" || c.Key.StateKey != string(a.u.id) {
			continue
		}
		if c.Old == 0 {
			return true, nil
		}
		old, err := a.s.byNumbers(ctx, []int64{c.Old})
		if err != nil || old[c.Old] == nil {
			return true, err
		}
		return membershipOf(old[c.Old].row()) != "join", nil
	}
	return true, nil
}

func membershipOf(e *storage.Event) string {
	return gjson.GetBytes(e.JSON, "content.membership").Str
}

// changesIn gives the room's changes of state with from < position <= to, in their order.
func (a *answer) changesIn(ctx context.Context, p *roomPlan, from storage.Position) ([]storage.StateChange, error) {
	if p.live && p.changesFrom <= from {
		return within(p.changes, from, a.to, changePosition), nil
	}
	// Once for all rooms of the answer.
	a.changesOnce.Do(func() {
		var all []storage.StateChange
		all, a.changesErr = a.s.store.State.ChangedFor(ctx, a.u.id, a.since, a.to)
		a.changes = map[id.RoomID][]storage.StateChange{}
		for _, c := range all {
			a.changes[c.RoomID] = append(a.changes[c.RoomID], c)
		}
	})
	return within(a.changes[p.id], from, a.to, changePosition), a.changesErr
}

// state gives the state events to be sent beside the timeline, in the order of their numbers; members: a membership changed.
func (a *answer) state(ctx context.Context, p *roomPlan, t *timeline, full bool) (state []*entry, members bool, err error) {
	var last map[pdu.Key]int64
	var held before
	if full {
		if last, err = a.whole(ctx, p); err != nil {
			return nil, false, err
		}
		held = a.heldAt(ctx, t)
	} else {
		changes, err := a.changesIn(ctx, p, a.since)
		if err != nil {
			return nil, false, err
		}
		last = net(changes)
		for key := range last {
			members = members || key.Type == "m.room.member"
		}
		held = changedBefore(changes, t.entries)
	}
	state, err = a.pick(ctx, p, t, last, held, full)
	return state, members, err
}

// lastBefore gives what the changes made of the key before the timeline first shows one; 0 if nothing.
func lastBefore(changes []storage.StateChange, key pdu.Key, timeline []*entry) int64 {
	old := int64(0)
	for _, c := range changes {
		if c.Key != key {
			continue
		}
		if slices.ContainsFunc(timeline, func(x *entry) bool { return x.number == c.Event }) {
			return old
		}
		old = c.Event
	}
	return old
}

// whole gives the room's state at the end of the answer.
func (a *answer) whole(ctx context.Context, p *roomPlan) (map[pdu.Key]int64, error) {
	at, err := a.current(ctx, p)
	if err != nil {
		return nil, err
	}
	return a.s.states.at(ctx, a.s.store, at)
}

// current is the snapshot that holds now.
func (a *answer) current(ctx context.Context, p *roomPlan) (storage.Snapshot, error) {
	if changes := within(p.changes, 0, a.to, changePosition); len(changes) > 0 {
		return changes[len(changes)-1].After, nil
	}
	if p.snapshot != (storage.Snapshot{}) {
		return p.snapshot, nil
	}
	room, err := a.s.store.Rooms.ByID(ctx, p.id)
	if err != nil || room == nil {
		return storage.Snapshot{}, err
	}
	a.learn(p, room.State)
	return room.State, nil
}

// learn notes the snapshot that held at the start of the answer, for others too if no change is known since.
func (a *answer) learn(p *roomPlan, at storage.Snapshot) {
	p.snapshot = at
	if p.room == nil {
		return
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if p.room.snapshot == (storage.Snapshot{}) {
		p.room.snapshot = at
	}
}

// pick applies what the client asked for (the state before or after the timeline, lazy members, the filter) to the state at the end.
func (a *answer) pick(ctx context.Context, p *roomPlan, t *timeline, last map[pdu.Key]int64, held before, full bool) ([]*entry, error) {
	part := &a.q.filter.Room.State
	wanted := last
	if part.LazyLoadMembers {
		var err error
		if wanted, err = a.lazy(ctx, p, t, last, full); err != nil {
			return nil, err
		}
	}
	if !a.q.after() && len(t.entries) > 0 {
		var err error
		if wanted, err = beforeTimeline(wanted, t.entries, held); err != nil {
			return nil, err
		}
	}
	numbers := make([]int64, 0, len(wanted))
	for key, number := range wanted {
		if number != 0 && part.kind(key.Type, "") {
			numbers = append(numbers, number)
		}
	}
	found, err := a.s.byNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	slices.Sort(numbers)
	entries := make([]*entry, 0, len(numbers))
	for _, n := range numbers {
		if x := found[n]; x != nil && part.event(x.row()) {
			entries = append(entries, x)
		}
	}
	return entries, nil
}

// lazy leaves out the members whom the client need not know yet, and puts in those who speak in the timeline.
// Spec: client-server-api/#lazy-loading-room-members
func (a *answer) lazy(ctx context.Context, p *roomPlan, t *timeline, last map[pdu.Key]int64, full bool) (map[pdu.Key]int64, error) {
	speakers := t.senders()
	if full {
		speakers = append(speakers, a.u.id)
		for _, hero := range a.heroes(ctx, p) {
			speakers = append(speakers, hero)
		}
	}
	slices.Sort(speakers)
	speakers = slices.Compact(speakers)
	fresh := speakers
	if !a.q.filter.Room.State.IncludeRedundantMembers {
		since := a.since
		if full {
			since = -1 // all are sent anew
		}
		fresh = a.s.sent.unsent(a.q.connection(), p.id, speakers, since, a.to)
	}
	wanted := make(map[pdu.Key]int64, len(fresh)+16)
	for key, number := range last {
		if !full || key.Type != "m.room.member" {
			wanted[key] = number
		}
	}
	if len(fresh) == 0 {
		return wanted, nil
	}
	for _, user := range fresh {
		key := pdu.Key{Type: "m.room.member", StateKey: string(user)}
		number, known := last[key]
		if !known {
			var err error
			if number, err = a.member(ctx, p, key); err != nil {
				return nil, err
			}
		}
		wanted[key] = number
	}
	return wanted, nil
}

// maxSpeakers bounds whose member events are held at hand for a room.
const maxSpeakers = 1000

// member gives the number of a user's member event in the current state: found once for all who are told of a speaker.
func (a *answer) member(ctx context.Context, p *roomPlan, key pdu.Key) (int64, error) {
	user, r := id.UserID(key.StateKey), p.room
	if r != nil {
		a.s.mu.RLock()
		number, known := r.speakers[user]
		known = known && r.spokeAt == p.members
		a.s.mu.RUnlock()
		if known {
			return number, nil
		}
	}
	at, err := a.current(ctx, p)
	if err != nil {
		return 0, err
	}
	number, err := a.s.store.State.Key(ctx, at, key)
	if err != nil || r == nil {
		return number, err
	}
	a.s.mu.Lock()
	if r.members == p.members {
		if r.spokeAt != p.members || len(r.speakers) >= maxSpeakers || r.speakers == nil {
			r.speakers, r.spokeAt = map[id.UserID]int64{}, p.members
		}
		r.speakers[user] = number
	}
	a.s.mu.Unlock()
	return number, nil
}

// appendEntries writes events of the state.
func (a *answer) appendEntries(ctx context.Context, b []byte, entries []*entry) ([]byte, error) {
	err := a.s.renderAll(ctx, entries)
	if err != nil {
		return nil, err
	}
	for i, x := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = a.look.show(ctx, a.s, b, x, ""); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// departed writes the part of a room that the user has left: as it was when they left.
func (a *answer) departed(ctx context.Context, p *roomPlan) ([]byte, error) {
	found, err := a.s.byNumbers(ctx, []int64{p.stay.event})
	if err != nil {
		return nil, err
	}
	leave := found[p.stay.event]
	if leave == nil {
		return []byte(`{"timeline":{"events":[],"limited":false},"` + a.q.stateName() + `":{"events":[]}}`), nil
	}
	row := leave.row()
	left := p.stay.position
	if row.Position != 0 {
		left = row.Position
	}
	since := a.since
	if p.stay.position <= a.since {
		since = 0 // an archived room that is shown again
	}
	t, err := a.timeline(ctx, p, since, left)
	if err != nil {
		return nil, err
	}
	t.mustHold(leave, a.q.filter)
	var state []*entry
	if since == 0 || a.q.fullState {
		state, err = a.stateAtLeave(ctx, p, t, row)
	} else {
		state, err = a.stateUntilLeave(ctx, p, t, left)
	}
	if err != nil {
		return nil, err
	}
	b := append([]byte(nil), '{')
	if b, err = a.appendTimeline(ctx, b, t, &p.stay); err != nil {
		return nil, err
	}
	b = append(append(append(b, `,"`...), a.q.stateName()...), `":{"events":[`...)
	if b, err = a.appendEntries(ctx, b, state); err != nil {
		return nil, err
	}
	b = append(b, `]},"account_data":{"events":[`...)
	b = a.appendAccountData(b, p)
	return append(b, `]}}`...), nil
}

func (a *answer) stateAtLeave(ctx context.Context, p *roomPlan, t *timeline, leave *storage.Event) ([]*entry, error) {
	// Who was never in, and rejected an invite, sees no state but that.
	if was, err := a.membershipBefore(ctx, leave); err != nil || was != string(event.MembershipJoin) {
		return nil, err
	}
	last, err := a.s.states.at(ctx, a.s.store, leave.After)
	if err != nil {
		return nil, err
	}
	return a.pick(ctx, p, t, last, a.heldAt(ctx, t), true)
}

func (a *answer) stateUntilLeave(ctx context.Context, p *roomPlan, t *timeline, left storage.Position) ([]*entry, error) {
	was, err := a.membershipBefore(ctx, t.leave.row())
	if err != nil || was != string(event.MembershipJoin) {
		return nil, err
	}
	changes, err := a.changesIn(ctx, p, a.since)
	if err != nil {
		return nil, err
	}
	// The leave's own change has a position of its own, just behind the event's.
	until := changes[:0:0]
	for _, c := range changes {
		if c.Position <= left || c.Event == t.leave.number {
			until = append(until, c)
		}
	}
	return a.pick(ctx, p, t, net(until), changedBefore(until, t.entries), false)
}

// membershipBefore is how the user stood to the room before this event.
func (a *answer) membershipBefore(ctx context.Context, e *storage.Event) (string, error) {
	old, err := a.s.store.State.Event(ctx, e.Before, pdu.Key{Type: "m.room.member", StateKey: string(a.u.id)})
	if err != nil || old == nil {
		return "leave", err
	}
	return membershipOf(old), nil
}
