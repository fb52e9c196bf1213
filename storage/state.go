package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Snapshot is the state at one moment: (chain, sequence). What it says never
// changes once written. The zero snapshot is the empty state.
type Snapshot struct {
	Chain, Sequence int64
}

// Key names one piece of a room's state: event type and state key. It is the same type as Key.
type Key = struct{ Type, StateKey string }

// MaxHeight is how many chains may lie beneath one; beyond that it is rewritten as a new base.
const MaxHeight = 32

// Chain is the head of a log of state entries.
type Chain struct {
	Chain  int64
	RoomID id.RoomID
	// Parent is the snapshot on which it stands; zero for a base.
	Parent Snapshot
	// Height is how many chains lie beneath.
	Height     int
	Unattached bool
}

// Entry is one line of a chain: from this sequence on the key holds the event.
type Entry struct {
	Chain, Sequence int64
	Key             Key
	// Event's number; 0 where the key was removed.
	Event int64
	// Old is the number of the event that the current state held before, 0 for none; for entries that are news.
	Old int64
	// News: the entry is a change of the room's current state, and gets a position.
	News bool
	// Position is filled in by the commit.
	Position Position
}

// StateChange is a change of a room's current state, by an event or by a resolution.
type StateChange struct {
	Position Position
	RoomID   id.RoomID
	Key      Key
	// Event and Old are event numbers; 0 for none.
	Event, Old int64
	// After is the snapshot from which on it holds.
	After Snapshot
}

// State reads snapshots. Chains are written by the room server, unattached ones by federation.
type State struct {
	s      *Store
	mu     sync.Mutex
	chains map[int64]chainLink // never changes once known
}

type chainLink struct {
	parent Snapshot
	room   id.RoomID
}

// lineage gives the snapshot and those beneath it, the nearest first.
func (t *State) lineage(ctx context.Context, at Snapshot) ([]Snapshot, error) {
	var links []Snapshot
	for at.Chain != 0 {
		links = append(links, at)
		if len(links) > 4*MaxHeight {
			return nil, fmt.Errorf("storage: chain %d has no bottom", links[0].Chain)
		}
		link, err := t.link(ctx, at.Chain)
		if err != nil {
			return nil, err
		}
		at = link.parent
	}
	return links, nil
}

func (t *State) link(ctx context.Context, chain int64) (chainLink, error) {
	t.mu.Lock()
	link, ok := t.chains[chain]
	t.mu.Unlock()
	if ok {
		return link, nil
	}
	var parent, sequence sql.NullInt64
	err := t.s.queryRow(ctx, "SELECT parent_chain, parent_sequence, room_id FROM state_chains WHERE chain = $1", chain).Scan(&parent, &sequence, &link.room)
	if errors.Is(err, sql.ErrNoRows) {
		return link, nil // of a room that was removed: an empty state, on nothing
	}
	if err != nil {
		return link, fmt.Errorf("read chain %d: %w", chain, err)
	}
	link.parent = Snapshot{parent.Int64, sequence.Int64}
	if transactionOf(ctx) == nil { // within a transaction it may yet be undone
		t.mu.Lock()
		if len(t.chains) > 100_000 {
			clear(t.chains)
		}
		t.chains[chain] = link
		t.mu.Unlock()
	}
	return link, nil
}

// Height gives how many chains lie beneath one.
func (t *State) Height(ctx context.Context, chain int64) (int, error) {
	links, err := t.lineage(ctx, Snapshot{Chain: chain})
	return max(0, len(links)-1), err
}

// At gives the whole state at the snapshot: the event number of each key.
func (t *State) At(ctx context.Context, at Snapshot) (map[Key]int64, error) {
	links, err := t.lineage(ctx, at)
	if err != nil {
		return nil, err
	}
	state := map[Key]int64{}
	for i := len(links) - 1; i >= 0; i-- { // from the bottom up: the nearest wins
		entries, err := all(ctx, t.s, scanKeyed, `SELECT type, state_key, event FROM state_entries
			WHERE chain = $1 AND sequence <= $2 ORDER BY sequence`, links[i].Chain, links[i].Sequence)
		if err != nil {
			return nil, fmt.Errorf("read chain %d: %w", links[i].Chain, err)
		}
		for _, e := range entries {
			if e.event == 0 {
				delete(state, e.key)
			} else {
				state[e.key] = e.event
			}
		}
	}
	return state, nil
}

// Ref names an event by number and ID.
type Ref struct {
	Number int64
	ID     id.EventID
}

// Refs gives the whole state at the snapshot, with event IDs.
func (t *State) Refs(ctx context.Context, at Snapshot) (map[Key]Ref, error) {
	links, err := t.lineage(ctx, at)
	if err != nil {
		return nil, err
	}
	type line struct {
		key Key
		ref Ref
	}
	state := map[Key]Ref{}
	for i := len(links) - 1; i >= 0; i-- {
		lines, err := all(ctx, t.s, func(row dbutil.Scannable) (l line, err error) {
			var number sql.NullInt64
			var event sql.NullString
			err = row.Scan(&l.key.Type, &l.key.StateKey, &number, &event)
			l.key.Type, l.key.StateKey = unescape(l.key.Type), unescape(l.key.StateKey)
			l.ref = Ref{number.Int64, id.EventID(event.String)}
			return l, err
		}, `SELECT s.type, s.state_key, s.event, e.event_id FROM state_entries s LEFT JOIN events e ON e.number = s.event
			WHERE s.chain = $1 AND s.sequence <= $2 ORDER BY s.sequence`, links[i].Chain, links[i].Sequence)
		if err != nil {
			return nil, fmt.Errorf("read chain %d: %w", links[i].Chain, err)
		}
		for _, l := range lines {
			if l.ref.Number == 0 {
				delete(state, l.key)
			} else {
				state[l.key] = l.ref
			}
		}
	}
	return state, nil
}

// Touched gives the keys that may differ between two snapshots: those written above what both stand on.
func (t *State) Touched(ctx context.Context, a, b Snapshot) ([]Key, error) {
	la, err := t.lineage(ctx, a)
	if err != nil {
		return nil, err
	}
	lb, err := t.lineage(ctx, b)
	if err != nil {
		return nil, err
	}
	depth := map[int64]int64{} // chain to the sequence at which a stands on it
	for _, link := range la {
		depth[link.Chain] = link.Sequence
	}
	seen := map[Key]bool{}
	read := func(chain, after, upTo int64) error {
		entries, err := all(ctx, t.s, scanKeyed, `SELECT type, state_key, event FROM state_entries
			WHERE chain = $1 AND sequence > $2 AND sequence <= $3`, chain, after, upTo)
		for _, e := range entries {
			seen[e.key] = true
		}
		return err
	}
	met := int64(0) // the chain that both stand on
	for _, link := range lb {
		if at, ok := depth[link.Chain]; ok {
			met = link.Chain
			if err := read(link.Chain, min(at, link.Sequence), max(at, link.Sequence)); err != nil {
				return nil, err
			}
			break
		}
		if err := read(link.Chain, 0, link.Sequence); err != nil {
			return nil, err
		}
	}
	for _, link := range la {
		if link.Chain == met {
			break
		}
		if err := read(link.Chain, 0, link.Sequence); err != nil {
			return nil, err
		}
	}
	keys := make([]Key, 0, len(seen))
	for key := range seen {
		keys = append(keys, key)
	}
	return keys, nil
}

// manyKeys is how many keys are looked up one by one; for more the whole state is read.
const manyKeys = 2000

// RefsOf gives what the keys hold at the snapshot; absent ones are left out. It costs a query for a few hundred keys.
func (t *State) RefsOf(ctx context.Context, at Snapshot, keys []Key) (map[Key]Ref, error) {
	found := make(map[Key]Ref, len(keys))
	if len(keys) > manyKeys {
		whole, err := t.Refs(ctx, at)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if ref, ok := whole[key]; ok {
				found[key] = ref
			}
		}
		return found, nil
	}
	asked := make([]Lookup, len(keys))
	for i, key := range keys {
		asked[i] = Lookup{at, key}
	}
	numbers, err := t.Lookups(ctx, asked)
	if err != nil {
		return nil, err
	}
	ids, err := t.s.Events.IDs(ctx, slices.DeleteFunc(slices.Clone(numbers), func(n int64) bool { return n == 0 }))
	for i, key := range keys {
		if numbers[i] != 0 {
			found[key] = Ref{numbers[i], ids[numbers[i]]}
		}
	}
	return found, err
}

type keyed struct {
	key   Key
	event int64
}

func scanKeyed(row dbutil.Scannable) (k keyed, err error) {
	var event sql.NullInt64
	err = row.Scan(&k.key.Type, &k.key.StateKey, &event)
	k.key.Type, k.key.StateKey, k.event = unescape(k.key.Type), unescape(k.key.StateKey), event.Int64
	return k, err
}

// Key gives the number of the event that the key holds at the snapshot; 0 for none.
func (t *State) Key(ctx context.Context, at Snapshot, key Key) (int64, error) {
	links, err := t.lineage(ctx, at)
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		event, err := one(ctx, t.s, column[*int64], `SELECT COALESCE(event, 0) FROM state_entries
			WHERE chain = $1 AND type = $2 AND state_key = $3 AND sequence <= $4 ORDER BY sequence DESC LIMIT 1`,
			link.Chain, escape(key.Type), escape(key.StateKey), link.Sequence)
		if err != nil {
			return 0, err
		}
		if event != nil {
			return *event, nil
		}
	}
	return 0, nil
}

// OfType gives the state of one type at the snapshot: event numbers by state key.
func (t *State) OfType(ctx context.Context, at Snapshot, typ string) (map[string]int64, error) {
	links, err := t.lineage(ctx, at)
	if err != nil {
		return nil, err
	}
	state := map[string]int64{}
	for i := len(links) - 1; i >= 0; i-- {
		entries, err := all(ctx, t.s, scanKeyed, `SELECT type, state_key, event FROM state_entries
			WHERE chain = $1 AND type = $2 AND sequence <= $3 ORDER BY state_key, sequence`, links[i].Chain, escape(typ), links[i].Sequence)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.event == 0 {
				delete(state, e.key.StateKey)
			} else {
				state[e.key.StateKey] = e.event
			}
		}
	}
	return state, nil
}

// Event gives the event that the key holds at the snapshot, or nil.
func (t *State) Event(ctx context.Context, at Snapshot, key Key) (*Event, error) {
	number, err := t.Key(ctx, at, key)
	if err != nil || number == 0 {
		return nil, err
	}
	events, err := t.s.Events.ByNumbers(ctx, []int64{number})
	if err != nil || len(events) == 0 {
		return nil, err
	}
	return events[0], nil
}

// Current gives the event that the key holds in the room's current state, or nil.
func (t *State) Current(ctx context.Context, room id.RoomID, key Key) (*Event, error) {
	r, err := t.s.Rooms.ByID(ctx, room)
	if err != nil || r == nil {
		return nil, err
	}
	return t.Event(ctx, r.State, key)
}

// Changed gives, for the room, which keys of its current state changed with from < position <= to,
// each once: what it held before, and what it holds after.
func (t *State) Changed(ctx context.Context, room id.RoomID, from, to Position) ([]StateChange, error) {
	changes, err := t.between(ctx, from, to, " AND c.room_id = $3", room)
	if err != nil {
		return nil, err
	}
	at := map[Key]int{}
	var merged []StateChange
	for _, c := range changes {
		if i, ok := at[c.Key]; ok {
			old := merged[i].Old
			merged[i] = c
			merged[i].Old = old
			continue
		}
		at[c.Key] = len(merged)
		merged = append(merged, c)
	}
	return merged, nil
}

// ChangedFor gives the changes of state with from < position <= to in all rooms to which the user stands in some way, in
// their order.
func (t *State) ChangedFor(ctx context.Context, user id.UserID, from, to Position) ([]StateChange, error) {
	return t.between(ctx, from, to, " AND c.room_id IN (SELECT room_id FROM memberships WHERE user_id = $3)", user)
}

func (t *State) between(ctx context.Context, from, to Position, and string, args ...any) ([]StateChange, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (c StateChange, err error) {
		var event, old sql.NullInt64
		err = row.Scan(&c.Position, &c.RoomID, &c.Key.Type, &c.Key.StateKey, &event, &old, &c.After.Chain, &c.After.Sequence)
		c.Key.Type, c.Key.StateKey = unescape(c.Key.Type), unescape(c.Key.StateKey)
		c.Event, c.Old = event.Int64, old.Int64
		return c, err
	}, `SELECT e.position, c.room_id, e.type, e.state_key, e.event, e.old_event, e.chain, e.sequence
		FROM state_entries e JOIN state_chains c ON c.chain = e.chain
		WHERE e.position > $1 AND e.position <= $2`+and+` ORDER BY e.position, e.sequence`, append([]any{from, to}, args...)...)
}

func (t *State) changes(ctx context.Context, from, to Position) ([]Change, error) {
	list, err := t.between(ctx, from, to, "")
	changes := make([]Change, len(list))
	for i := range list {
		changes[i] = list[i].news()
	}
	return changes, err
}

func (c *StateChange) news() Change {
	return Change{Position: c.Position, Kind: StateNews, RoomID: c.RoomID, State: c}
}

// WriteUnattached stores a state that federation fetched, as a base chain which
// belongs to nobody until the room takes it in by its number. It writes in
// slices, so that others' writes go on.
func (t *State) WriteUnattached(ctx context.Context, room id.RoomID, state map[Key]int64) (chain int64, err error) {
	if chain, err = t.s.Numbers(ctx, 1); err != nil {
		return 0, err
	}
	c := Chain{Chain: chain, RoomID: room, Unattached: true}
	if err := t.s.Do(ctx, func(ctx context.Context) error { return t.s.insertChains(ctx, []Chain{c}) }); err != nil {
		return 0, err
	}
	entries := make([]Entry, 0, len(state))
	for key, event := range state {
		entries = append(entries, Entry{Chain: chain, Sequence: int64(len(entries) + 1), Key: key, Event: event})
	}
	const slice = 500
	for len(entries) > 0 {
		part := entries[:min(slice, len(entries))]
		if err := t.s.Do(ctx, func(ctx context.Context) error { return t.s.insertEntries(ctx, part) }); err != nil {
			return 0, err
		}
		entries = entries[len(part):]
	}
	return chain, nil
}

// Top gives the snapshot at the end of a chain.
func (t *State) Top(ctx context.Context, chain int64) (Snapshot, error) {
	sequence, err := one(ctx, t.s, column[sql.NullInt64], "SELECT MAX(sequence) FROM state_entries WHERE chain = $1", chain)
	return Snapshot{chain, sequence.Int64}, err
}

func (s *Store) insertChains(ctx context.Context, chains []Chain) error {
	rows := make([][]any, len(chains))
	now := s.now().UnixMilli()
	for i, c := range chains {
		rows[i] = []any{c.Chain, c.RoomID, nullable(c.Parent.Chain), nullable(c.Parent.Sequence), c.Height, c.Unattached, now}
	}
	return s.insert(ctx, "INSERT INTO state_chains (chain, room_id, parent_chain, parent_sequence, height, unattached, created) VALUES", rows, "")
}

func (s *Store) insertEntries(ctx context.Context, entries []Entry) error {
	rows := make([][]any, len(entries))
	for i, e := range entries {
		rows[i] = []any{e.Chain, e.Sequence, escape(e.Key.Type), escape(e.Key.StateKey), nullable(e.Event), nullable(e.Position), nullable(e.Old)}
	}
	return s.insert(ctx, "INSERT INTO state_entries (chain, sequence, type, state_key, event, position, old_event) VALUES", rows, "")
}

// SweepUnattached removes snapshots that nobody took in within the age; the events stay as outliers.
func (t *State) SweepUnattached(ctx context.Context, before int64) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		if _, err := t.s.exec(ctx, `DELETE FROM state_entries WHERE chain IN
			(SELECT chain FROM state_chains WHERE unattached AND created < $1)`, before); err != nil {
			return err
		}
		_, err := t.s.exec(ctx, "DELETE FROM state_chains WHERE unattached AND created < $1", before)
		return err
	})
}

// Lookup asks for one key of the state at a snapshot.
type Lookup struct {
	At  Snapshot
	Key Key
}

// Lookups gives the number of the event that each key holds at its snapshot, 0
// for none, in the order of the questions. It costs one query for a few hundred of them.
func (t *State) Lookups(ctx context.Context, asked []Lookup) ([]int64, error) {
	const size = 200 // keys in one query
	lineages := map[Snapshot][]Snapshot{}
	chains := map[int64]struct{}{}
	for _, q := range asked {
		if _, ok := lineages[q.At]; ok {
			continue
		}
		links, err := t.lineage(ctx, q.At)
		if err != nil {
			return nil, err
		}
		lineages[q.At] = links
		for _, link := range links {
			chains[link.Chain] = struct{}{}
		}
	}
	numbers := make([]int64, len(asked))
	if len(chains) == 0 {
		return numbers, nil
	}
	for start := 0; start < len(asked); start += size {
		part := asked[start:min(start+size, len(asked))]
		logs, err := t.logs(ctx, slices.Collect(maps.Keys(chains)), part)
		if err != nil {
			return nil, err
		}
		for i, q := range part {
			numbers[start+i] = logs.held(lineages[q.At], q.Key)
		}
	}
	return numbers, nil
}

// logs holds what chains say of keys, in no order: asked for one, SQLite would rather walk the whole chain than look up keys.
type logs map[chainKey][]logged

type chainKey struct {
	chain int64
	key   Key
}

type logged struct{ sequence, event int64 }

func (t *State) logs(ctx context.Context, chains []int64, asked []Lookup) (logs, error) {
	types, keys := map[string]struct{}{}, map[string]struct{}{}
	for _, q := range asked {
		types[escape(q.Key.Type)], keys[escape(q.Key.StateKey)] = struct{}{}, struct{}{}
	}
	args := anys(chains)
	args = append(args, anys(slices.Collect(maps.Keys(types)))...)
	args = append(args, anys(slices.Collect(maps.Keys(keys)))...)
	found := logs{}
	_, err := all(ctx, t.s, func(row dbutil.Scannable) (struct{}, error) {
		var ck chainKey
		var l logged
		err := row.Scan(&ck.chain, &l.sequence, &ck.key.Type, &ck.key.StateKey, &l.event)
		ck.key.Type, ck.key.StateKey = unescape(ck.key.Type), unescape(ck.key.StateKey)
		found[ck] = append(found[ck], l)
		return struct{}{}, err
	}, `SELECT chain, sequence, type, state_key, COALESCE(event, 0) FROM state_entries WHERE chain IN `+list(1, len(chains))+
		" AND type IN "+list(len(chains)+1, len(types))+" AND state_key IN "+list(len(chains)+len(types)+1, len(keys)), args...)
	return found, err
}

func (l logs) held(lineage []Snapshot, key Key) int64 {
	for _, link := range lineage {
		newest := logged{}
		for _, e := range l[chainKey{link.Chain, key}] {
			if e.sequence <= link.Sequence && e.sequence > newest.sequence {
				newest = e
			}
		}
		if newest.sequence > 0 {
			return newest.event
		}
	}
	return 0
}
