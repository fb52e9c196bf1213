package syncing

import (
	"context"
	"sync"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// states keeps whole states at hand, by snapshot: what a snapshot says never changes. Two halves, as in rendered.
type states struct {
	mu         sync.Mutex
	limit      int
	bytes      int
	young, old map[storage.Snapshot]map[pdu.Key]int64
}

func newStates(limit int) *states {
	return &states{limit: limit / 2, young: map[storage.Snapshot]map[pdu.Key]int64{}}
}

// known gives the whole state at a snapshot if it is at hand, or nil. Shared: read only.
func (c *states) known(snapshot storage.Snapshot) map[pdu.Key]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state, ok := c.young[snapshot]; ok {
		return state
	}
	return c.old[snapshot]
}

// at gives the whole state at a snapshot. Shared: read only.
func (c *states) at(ctx context.Context, store *storage.Store, snapshot storage.Snapshot) (map[pdu.Key]int64, error) {
	c.mu.Lock()
	state, ok := c.young[snapshot]
	if !ok {
		state, ok = c.old[snapshot]
	}
	c.mu.Unlock()
	if ok {
		return state, nil
	}
	state, err := store.State.At(ctx, snapshot)
	if err != nil {
		return nil, err
	}
	c.keep(snapshot, state)
	return state, nil
}

// keep holds a whole state at hand. It must not be changed from then on.
func (c *states) keep(snapshot storage.Snapshot, state map[pdu.Key]int64) {
	size := 200 + 160*len(state)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes += size; c.bytes > c.limit {
		c.old, c.young, c.bytes = c.young, map[storage.Snapshot]map[pdu.Key]int64{}, size
	}
	c.young[snapshot] = state
}

// net folds changes into what they come to: the event that each changed key holds at last, 0 for none.
func net(changes []storage.StateChange) map[pdu.Key]int64 {
	last := make(map[pdu.Key]int64, len(changes))
	for _, c := range changes {
		last[c.Key] = c.Event
	}
	return last
}

// before gives, of each key, what held before a timeline; 0 for nothing, or for what the client knows already.
type before func([]pdu.Key) (map[pdu.Key]int64, error)

// beforeTimeline turns the state at the end into the one to which a client applies the timeline: what the timeline itself
// shows is put back to what held before it, or left out where nothing did.
func beforeTimeline(last map[pdu.Key]int64, timeline []*entry, held before) (map[pdu.Key]int64, error) {
	shown := make(map[int64]bool, len(timeline))
	for _, x := range timeline {
		shown[x.number] = true
	}
	state := make(map[pdu.Key]int64, len(last))
	var changed []pdu.Key
	for key, event := range last {
		if shown[event] {
			changed = append(changed, key)
		} else {
			state[key] = event
		}
	}
	if len(changed) == 0 {
		return state, nil
	}
	old, err := held(changed)
	if err != nil {
		return nil, err
	}
	for key, event := range old {
		if event != 0 && !shown[event] {
			state[key] = event
		}
	}
	return state, nil
}

// fewKeys is how many keys are looked up one by one; for more the whole state is read, which others may ask for too.
const fewKeys = 16

// heldAt asks the snapshot before the timeline's first event.
func (a *answer) heldAt(ctx context.Context, t *timeline) before {
	return func(keys []pdu.Key) (map[pdu.Key]int64, error) {
		at := t.entries[0].row().Before
		if len(keys) > fewKeys {
			whole, err := a.s.states.at(ctx, a.s.store, at)
			held := make(map[pdu.Key]int64, len(keys))
			for _, key := range keys {
				held[key] = whole[key]
			}
			return held, err
		}
		asked := make([]storage.Lookup, len(keys))
		for i, key := range keys {
			asked[i] = storage.Lookup{At: at, Key: key}
		}
		numbers, err := a.s.store.State.Lookups(ctx, asked)
		if err != nil {
			return nil, err
		}
		held := make(map[pdu.Key]int64, len(keys))
		for i, key := range keys {
			held[key] = numbers[i]
		}
		return held, nil
	}
}

// changedBefore takes it from changes of which the timeline shows some: what they made of each key before it first does.
func changedBefore(changes []storage.StateChange, timeline []*entry) before {
	return func(keys []pdu.Key) (map[pdu.Key]int64, error) {
		held := make(map[pdu.Key]int64, len(keys))
		for _, key := range keys {
			held[key] = lastBefore(changes, key, timeline)
		}
		return held, nil
	}
}
