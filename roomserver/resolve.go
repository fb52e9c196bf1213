package roomserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/roomserver/state"
	"chancery/storage"
)

// source answers state resolution about this room's events.
type source struct{ r *room }

// Events implements state.Source.
func (s source) Events(ctx context.Context, ids []id.EventID) (map[id.EventID]state.Event, error) {
	found, err := s.r.get(ctx, ids)
	if err != nil {
		return nil, err
	}
	events := make(map[id.EventID]state.Event, len(found))
	for event, h := range found {
		events[event] = state.Event{PDU: h.ev, Rejected: h.row.Standing == storage.Rejected}
	}
	return events, nil
}

// Links implements state.Source. Chains are long: what is not in memory is read, not parsed, and not kept.
func (s source) Links(ctx context.Context, ids []id.EventID) (map[id.EventID]state.Link, error) {
	links := make(map[id.EventID]state.Link, len(ids))
	var wanted []id.EventID
	for _, at := range ids {
		h := s.r.events.get(at)
		if h == nil {
			wanted = append(wanted, at)
			continue
		}
		key, _ := pdu.KeyOf(h.ev)
		links[at] = state.Link{Auth: pdu.AuthEvents(h.ev), PowerLevels: key == levelsKey}
	}
	// A great room's first fork asks for all its members: side by side that is soon read.
	const slice, atOnce = 500, 4
	var mu sync.Mutex
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(atOnce)
	for part := range slices.Chunk(wanted, slice) {
		reads.Go(func() error {
			stored, err := s.r.s.store.Events.Links(ctx, s.r.id, part)
			read := make([]state.Link, len(stored))
			for i, row := range stored {
				read[i] = state.Link{
					Auth:        pdu.AuthEventsOf(row.JSON),
					PowerLevels: row.StateKey != nil && pdu.Key{Type: row.Type, StateKey: *row.StateKey} == levelsKey,
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for i, row := range stored {
				links[row.ID] = read[i]
			}
			return err
		})
	}
	return links, reads.Wait()
}

// base is the current state, as the common state of a fork.
type base struct{ r *room }

// At implements state.Base.
func (b base) At(_ context.Context, keys []pdu.Key) (state.Map, error) {
	found := make(state.Map, len(keys))
	for _, key := range keys {
		if at, ok := b.r.current[key]; ok {
			found[key] = at.id
		}
	}
	return found, nil
}

// Each implements state.Base.
func (b base) Each(_ context.Context, visit func(pdu.Key, id.EventID)) error {
	for key, at := range b.r.current {
		visit(key, at.id)
	}
	return nil
}

// over is a state that differs from the current one by a little, as the rules read it.
type over struct {
	now
	diff state.Diff
}

// Event gives the event under the key.
func (o *over) Event(key pdu.Key) gomatrixserverlib.PDU {
	at, differs := o.diff[key]
	if !differs {
		return o.now.Event(key)
	}
	if at == "" {
		return nil
	}
	found, err := o.r.get(o.ctx, []id.EventID{at})
	if err != nil || found[at] == nil {
		o.err = fmt.Errorf("state event %s is missing: %w", at, err)
		return nil
	}
	return found[at].ev
}

// moment is the state before an event: its snapshot, and how it differs from the current state.
type moment struct {
	at   storage.Snapshot
	diff state.Diff
	// fresh: the snapshot was made in this turn, and its chain may grow.
	fresh bool
}

// differs tells how a stored snapshot differs from the current state. Nothing may be in flight, but for the turn's own rows.
func (r *room) differs(ctx context.Context, at storage.Snapshot) (state.Diff, error) {
	diff := state.Diff{}
	if at == r.head.State {
		return diff, nil
	}
	keys, err := r.s.store.State.Touched(ctx, r.head.State, at)
	if err != nil {
		return nil, err
	}
	refs, err := r.s.store.State.RefsOf(ctx, at, keys)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if there := refs[key].ID; there != r.current[key].id {
			diff[key] = there
		}
	}
	return diff, nil
}

// before finds the state before an event from its parents, all of them known. Where they fork, it resolves.
// Spec: server-server-api/#room-state-resolution
func (r *room) before(ctx context.Context, parents []*held) (moment, error) {
	if len(parents) == 0 {
		return r.nothing(), nil
	}
	if r.upon(parents) {
		return moment{at: r.head.State, diff: state.Diff{}}, nil
	}
	if err := r.quiet(ctx); err != nil {
		return moment{}, err
	}
	var ats []storage.Snapshot
	seen := map[storage.Snapshot]bool{}
	for _, p := range parents {
		if !seen[p.row.After] {
			seen[p.row.After] = true
			ats = append(ats, p.row.After)
		}
	}
	fork := state.Fork{Common: base{r}}
	for _, at := range ats {
		diff, err := r.differs(ctx, at)
		if err != nil {
			return moment{}, err
		}
		fork.States = append(fork.States, diff)
	}
	if len(ats) == 1 {
		return moment{at: ats[0], diff: fork.States[0]}, nil
	}
	diff, err := r.resolve(ctx, fork)
	if err != nil {
		return moment{}, fmt.Errorf("resolve state: %w", err)
	}
	if len(diff) == 0 {
		return moment{at: r.head.State, diff: diff}, nil
	}
	at, err := r.chain(ctx, r.head.State, diff)
	return moment{at: at, diff: diff, fresh: true}, err
}

// nothing is the state before the first event of a room: there is none.
func (r *room) nothing() moment {
	m := moment{diff: make(state.Diff, len(r.current))}
	for key := range r.current {
		m.diff[key] = ""
	}
	return m
}

// upon tells whether the parents stand at the current state: they are all the extremities, or no state has changed since them.
func (r *room) upon(parents []*held) bool {
	if len(parents) == len(r.head.Extremities) {
		named := map[id.EventID]bool{}
		for _, p := range parents {
			named[p.row.ID] = true
		}
		all := true
		for _, x := range r.head.Extremities {
			all = all && named[x]
		}
		if all {
			return true
		}
	}
	for _, p := range parents {
		if p.row.After != r.head.State {
			return false
		}
	}
	return true
}

// chain begins a new chain upon the snapshot, with what differs; and gives its end.
func (r *room) chain(ctx context.Context, parent storage.Snapshot, diff state.Diff) (storage.Snapshot, error) {
	number, err := r.s.store.Numbers(ctx, 1)
	if err != nil {
		return storage.Snapshot{}, err
	}
	height, err := r.s.store.State.Height(ctx, parent.Chain)
	if err != nil {
		return storage.Snapshot{}, err
	}
	if height+1 > storage.MaxHeight {
		return r.newBase(ctx, parent, diff)
	}
	r.turn.rows.Chains = append(r.turn.rows.Chains, storage.Chain{Chain: number, RoomID: r.id, Parent: parent, Height: height + 1})
	return r.lengthen(ctx, storage.Snapshot{Chain: number}, diff)
}

// lengthen appends to a chain that is not the head's; its end must be at.
func (r *room) lengthen(ctx context.Context, at storage.Snapshot, diff state.Diff) (storage.Snapshot, error) {
	var ids []id.EventID
	for _, event := range diff {
		if event != "" {
			ids = append(ids, event)
		}
	}
	found, err := r.get(ctx, ids)
	if err != nil {
		return at, err
	}
	for key, event := range diff {
		at.Sequence++
		entry := storage.Entry{Chain: at.Chain, Sequence: at.Sequence, Key: key}
		if event != "" {
			if found[event] == nil {
				return at, fmt.Errorf("state event %s is missing", event)
			}
			entry.Event = found[event].row.Number
		}
		r.turn.rows.Entries = append(r.turn.rows.Entries, entry)
	}
	return at, nil
}

// newBase writes a snapshot and what differs from it as a chain that stands on nothing: too many lie beneath.
func (r *room) newBase(ctx context.Context, parent storage.Snapshot, diff state.Diff) (storage.Snapshot, error) {
	whole, err := r.s.store.State.At(ctx, parent)
	if err != nil {
		return storage.Snapshot{}, err
	}
	chain, err := r.s.store.State.WriteUnattached(ctx, r.id, whole)
	if err != nil {
		return storage.Snapshot{}, err
	}
	r.turn.rows.Attach = append(r.turn.rows.Attach, chain)
	return r.lengthen(ctx, storage.Snapshot{Chain: chain, Sequence: int64(len(whole))}, diff)
}

// after gives the snapshot after an event that does not stand at the head: its predecessor's, or one entry more.
func (r *room) after(ctx context.Context, before moment, h *held) (moment, error) {
	key, ok := pdu.KeyOf(h.ev)
	if !ok {
		return before, nil
	}
	changed := state.Diff{key: h.row.ID}
	diff := make(state.Diff, len(before.diff)+1)
	for k, v := range before.diff {
		diff[k] = v
	}
	if diff[key] = h.row.ID; r.current[key].id == h.row.ID {
		delete(diff, key)
	}
	grow := before.fresh
	if !grow && before.at.Chain != r.head.State.Chain && before.at.Chain != 0 {
		if err := r.quiet(ctx); err != nil {
			return moment{}, err
		}
		top, err := r.s.store.State.Top(ctx, before.at.Chain)
		if err != nil {
			return moment{}, err
		}
		grow = top == before.at
	}
	var err error
	m := moment{diff: diff, fresh: true}
	if grow {
		m.at, err = r.lengthen(ctx, before.at, changed)
	} else {
		m.at, err = r.chain(ctx, before.at, changed)
	}
	return m, err
}

// reconcile makes the current state what the extremities say together. newest is the one among them that this
// turn wrote, with the state after it.
func (r *room) reconcile(ctx context.Context, newest *held, after moment) error {
	fork := state.Fork{Common: base{r}, States: []state.Diff{after.diff}}
	found, err := r.get(ctx, r.head.Extremities)
	if err != nil {
		return err
	}
	same := len(after.diff) == 0
	for _, x := range r.head.Extremities {
		if x == newest.row.ID {
			continue
		}
		h := found[x]
		if h == nil {
			return fmt.Errorf("extremity %s is missing", x)
		}
		if h.row.After == r.head.State {
			fork.States = append(fork.States, state.Diff{})
			continue
		}
		diff, err := r.differs(ctx, h.row.After)
		if err != nil {
			return err
		}
		same = same && len(diff) == 0
		fork.States = append(fork.States, diff)
	}
	if same {
		return nil
	}
	diff := after.diff
	if len(fork.States) > 1 {
		if diff, err = r.resolve(ctx, fork); err != nil {
			return fmt.Errorf("resolve current state: %w", err)
		}
	}
	return r.become(ctx, diff)
}

// resolve resolves a fork whose common state is the current one, and gives what is otherwise than now. Most of what was in conflict
// mostly stays as it is: nothing of that is written anew, nor news.
func (r *room) resolve(ctx context.Context, fork state.Fork) (state.Diff, error) {
	diff, err := r.resolver.Resolve(ctx, fork)
	maps.DeleteFunc(diff, func(key pdu.Key, event id.EventID) bool { return r.current[key].id == event })
	return diff, err
}

// become moves the current state by a difference; each key is news.
func (r *room) become(ctx context.Context, diff state.Diff) error {
	var ids []id.EventID
	for _, event := range diff {
		if event != "" {
			ids = append(ids, event)
		}
	}
	found, err := r.get(ctx, ids)
	if err != nil {
		return err
	}
	for key, event := range diff {
		if event == "" {
			r.advance(key, nil)
			continue
		}
		if found[event] == nil {
			return fmt.Errorf("state event %s is missing", event)
		}
		r.advance(key, found[event])
	}
	return nil
}
