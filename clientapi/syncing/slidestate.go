package syncing

import (
	"context"
	"slices"
	"sort"
	"strings"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// manyMembers is from how many members on a room's state is not read as a whole for a few pieces of it.
const manyMembers = 300

// slideState is the state of a room that is to be told.
type slideState struct {
	// numbers are the events by key; 0 for a piece that is gone.
	numbers map[pdu.Key]int64
	// all are all changes since the client was last told, wanted or not; members: there is a membership among them.
	all     map[pdu.Key]int64
	members bool
}

// any tells whether anything of it is to be told.
func (c *slideState) any() bool {
	if len(c.numbers) > 0 || c.members {
		return true
	}
	_, name := c.all[pdu.Key{Type: "m.room.name"}]
	_, avatar := c.all[pdu.Key{Type: "m.room.avatar"}]
	return name || avatar
}

// stateToTell finds the state that the client wants and does not have: all that it wants of a new room; of others what
// changed, by an event or by a resolution, what it wants now and did not want before, and members who matter to the timeline.
func (a *slideAnswer) stateToTell(ctx context.Context, w *slideWork) (*slideState, error) {
	c := &slideState{numbers: map[pdu.Key]int64{}}
	if w.fresh {
		at, err := w.ra.current(ctx, w.plan)
		if err != nil {
			return nil, err
		}
		if c.numbers, err = a.wanted(ctx, w, at, w.want.state, nil); err != nil {
			return nil, err
		}
		return c, a.lazily(ctx, w, c)
	}
	changes, err := a.changesOf(ctx, w)
	if err != nil {
		return nil, err
	}
	c.all = net(changes)
	lazy := w.want.state.lazy()
	for key, number := range c.all {
		member := key.Type == memberType
		c.members = c.members || member
		if w.want.state.matches(key) || (member && lazy && !w.timeline.limited) {
			c.numbers[key] = number
		}
	}
	if w.want.state.text != w.old.state.text {
		at, err := w.ra.current(ctx, w.plan)
		if err != nil {
			return nil, err
		}
		more, err := a.wanted(ctx, w, at, w.want.state, w.old.state)
		if err != nil {
			return nil, err
		}
		for key, number := range more {
			if _, ok := c.numbers[key]; !ok {
				c.numbers[key] = number
			}
		}
	}
	return c, a.lazily(ctx, w, c)
}

// changesOf gives the room's changes of state since the client was told of it.
func (a *slideAnswer) changesOf(ctx context.Context, w *slideWork) ([]storage.StateChange, error) {
	if w.plan.live && w.plan.changesFrom <= w.since {
		return within(w.plan.changes, w.since, a.to, changePosition), nil
	}
	return a.s.store.State.Changed(ctx, w.id, w.since, a.to)
}

// wanted gives the pieces of the state that are wanted, and were not before.
func (a *slideAnswer) wanted(ctx context.Context, w *slideWork, at storage.Snapshot, wish, before *wishes) (map[pdu.Key]int64, error) {
	keys, types, whole := wish.named()
	if !whole && len(types) > 0 {
		// The state of a small room is read once for all who ask, that of a large one is not worth it.
		sum, err := w.ra.summary(ctx, w.plan)
		if err != nil {
			return nil, err
		}
		whole = sum.joined < manyMembers
	}
	state := map[pdu.Key]int64{}
	var err error
	if known := a.s.states.known(at); known != nil {
		state = known
	} else if whole {
		state, err = a.s.states.at(ctx, a.s.store, at)
	} else {
		err = a.pieces(ctx, at, keys, types, state)
	}
	if err != nil {
		return nil, err
	}
	chosen := make(map[pdu.Key]int64, len(keys)+8)
	for key, number := range state {
		if number != 0 && wish.matches(key) && (before == nil || !before.matches(key)) {
			chosen[key] = number
		}
	}
	return chosen, nil
}

// pieces reads single pieces of a state, and all of some types.
func (a *slideAnswer) pieces(ctx context.Context, at storage.Snapshot, keys []pdu.Key, types []string, into map[pdu.Key]int64) error {
	asked := make([]storage.Lookup, len(keys))
	for i, key := range keys {
		asked[i] = storage.Lookup{At: at, Key: key}
	}
	numbers, err := a.s.store.State.Lookups(ctx, asked)
	if err != nil {
		return err
	}
	for i, key := range keys {
		into[key] = numbers[i]
	}
	for _, typ := range types {
		found, err := a.s.store.State.OfType(ctx, at, typ)
		if err != nil {
			return err
		}
		for key, number := range found {
			into[pdu.Key{Type: typ, StateKey: key}] = number
		}
	}
	return nil
}

// lazily adds the members who speak in the timeline, or of whom it speaks, as far as the client was not sent them before.
// Spec: MSC4186
func (a *slideAnswer) lazily(ctx context.Context, w *slideWork, c *slideState) error {
	if !w.want.state.lazy() || len(w.timeline.entries) == 0 {
		return nil
	}
	users := w.timeline.senders()
	for _, x := range w.timeline.entries {
		if e := x.row(); e.Type == memberType && e.StateKey != nil {
			users = append(users, id.UserID(*e.StateKey))
		}
	}
	slices.Sort(users)
	users = slices.Compact(users)
	since := int64(-1) // a client forgets members with a gap
	if !w.fresh && !w.timeline.limited && a.x.base != nil {
		since = a.x.base.sequence
	}
	fresh := a.s.sent.unsent(a.x.members(), w.id, users, storage.Position(since), storage.Position(a.x.last+1))
	var asked []storage.Lookup
	var at storage.Snapshot
	for _, user := range fresh {
		key := pdu.Key{Type: memberType, StateKey: string(user)}
		if _, ok := c.numbers[key]; ok {
			continue
		}
		if number, ok := c.all[key]; ok {
			c.numbers[key] = number
			continue
		}
		if at == (storage.Snapshot{}) {
			var err error
			if at, err = w.ra.current(ctx, w.plan); err != nil {
				return err
			}
		}
		asked = append(asked, storage.Lookup{At: at, Key: key})
	}
	numbers, err := a.s.store.State.Lookups(ctx, asked)
	for i, number := range numbers {
		if number != 0 {
			c.numbers[asked[i].Key] = number
		}
	}
	return err
}

// members is the name under which is remembered which members the connection was sent.
func (x *slide) members() connection {
	return connection{x.key.user, x.key.device, "sliding " + x.id}
}

// stateUntil finds the state of a room that was left, as of then.
func (a *slideAnswer) stateUntil(ctx context.Context, w *slideWork, c *slideState, leave *entry, left storage.Position) (err error) {
	if w.fresh {
		c.numbers, err = a.wanted(ctx, w, leave.row().After, w.want.state, nil)
		return err
	}
	changes, err := a.changesOf(ctx, w)
	if err != nil {
		return err
	}
	// The leave's own change has a position of its own, just behind the event's.
	until := slices.DeleteFunc(slices.Clone(changes), func(x storage.StateChange) bool { return x.Position > left && x.Event != leave.number })
	for key, number := range net(until) {
		if w.want.state.matches(key) {
			c.numbers[key] = number
		}
	}
	return nil
}

// appendSlideState writes the state. What is gone is told by a stub that has no content, in the shape that knows such.
func (a *slideAnswer) appendSlideState(ctx context.Context, b []byte, w *slideWork, c *slideState) ([]byte, error) {
	var numbers []int64
	var gone []pdu.Key
	for key, number := range c.numbers {
		if number == 0 {
			gone = append(gone, key)
		} else {
			numbers = append(numbers, number)
		}
	}
	if !w.fresh && len(numbers) == 0 && (len(gone) == 0 || a.ask.shape == unstableShape) {
		return b, nil
	}
	found, err := a.s.byNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	slices.Sort(numbers)
	entries := make([]*entry, 0, len(numbers))
	for _, n := range numbers {
		if x := found[n]; x != nil {
			entries = append(entries, x)
		}
	}
	b = append(b, `,"required_state":[`...)
	if b, err = w.ra.appendEntries(ctx, b, entries); err != nil {
		return nil, err
	}
	if a.ask.shape == mergedShape {
		sort.Slice(gone, func(i, j int) bool {
			return strings.Compare(gone[i].Type+gone[i].StateKey, gone[j].Type+gone[j].StateKey) < 0
		})
		for i, key := range gone {
			if i > 0 || len(entries) > 0 {
				b = append(b, ',')
			}
			b = appendText(append(b, `{"type":`...), key.Type)
			b = append(appendText(append(b, `,"state_key":`...), key.StateKey), '}')
		}
	}
	return append(b, ']'), nil
}
