package storage

import (
	"context"
	"fmt"
	"slices"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Erasure is what one turn takes away of a room: a slice of its history, or of the room altogether. Only the room server
// writes it, with [RoomRows.Erasure].
type Erasure struct {
	// Begin closes the room: from now on, and whatever crashes, nothing else is written there.
	Begin bool
	// Events are taken away, with what can be found of them. Hidden ones stay, since the state or other servers need them, but are
	// not shown any more. Numbers.
	Events, Hidden []int64
	// Before: edges of history before this place are forgotten.
	Before Place
	// Chain loses its entries up to UpTo; or all, and itself, if that is nil. Chains go whole: they are short.
	Chain  int64
	UpTo   *entryName
	Chains []int64
	// Users lose how they stood to the room, and what they noted there.
	Users []id.UserID
	// Last takes the rest, and the room's row.
	Last bool
}

// entryName is where an entry lies in its chain, in the order of the table's key.
type entryName struct {
	typ, stateKey string
	sequence      int64
}

// Closing says whether the room is being removed.
func (t *Rooms) Closing(ctx context.Context, room id.RoomID) (bool, error) {
	n, err := one(ctx, t.s, column[int], "SELECT 1 FROM closing_rooms WHERE room_id = $1", room)
	return n > 0, err
}

// NextErasure gives the next slice, of at most so many rows, of a room that is being removed altogether.
func (t *Rooms) NextErasure(ctx context.Context, room id.RoomID, limit int) (*Erasure, error) {
	for _, where := range []string{"place IS NOT NULL", "place IS NULL"} {
		events, err := all(ctx, t.s, column[int64], "SELECT number FROM events WHERE room_id = $1 AND "+where+" LIMIT $2", room, limit)
		if err != nil || len(events) > 0 {
			return &Erasure{Events: events}, err
		}
	}
	chain, err := one(ctx, t.s, column[int64], "SELECT chain FROM state_chains WHERE room_id = $1 LIMIT 1", room)
	if err != nil {
		return nil, err
	}
	if chain != 0 {
		upTo, err := one(ctx, t.s, func(row dbutil.Scannable) (*entryName, error) {
			e := &entryName{}
			return e, row.Scan(&e.typ, &e.stateKey, &e.sequence)
		}, `SELECT type, state_key, sequence FROM state_entries WHERE chain = $1 ORDER BY type, state_key, sequence LIMIT 1 OFFSET $2`, chain, limit-1)
		return &Erasure{Chain: chain, UpTo: upTo}, err
	}
	for _, table := range []string{"memberships", "receipts"} {
		users, err := all(ctx, t.s, column[id.UserID], "SELECT DISTINCT user_id FROM "+table+" WHERE room_id = $1 LIMIT $2", room, limit)
		if err != nil || len(users) > 0 {
			return &Erasure{Users: users}, err
		}
	}
	return &Erasure{Last: true}, nil
}

// Old is an event that may be purged.
type Old struct {
	Number int64
	ID     id.EventID
	Sender id.UserID
	State  bool
}

// OldEvents gives up to limit events of the room that are shown before the place, the oldest first.
func (t *Events) OldEvents(ctx context.Context, room id.RoomID, before Place, limit int) ([]Old, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (o Old, err error) {
		err = row.Scan(&o.Number, &o.ID, &o.Sender, &o.State)
		return o, err
	}, `SELECT number, event_id, sender, state_key IS NOT NULL FROM events
		WHERE room_id = $1 AND place IS NOT NULL AND place < $2 ORDER BY place, number LIMIT $3`, room, before, limit)
}

// Unused gives chains of the room that no event of it names, and on which no chain stands that is named. head is the current
// state.
func (t *State) Unused(ctx context.Context, room id.RoomID, head Snapshot) ([]int64, error) {
	chains, err := all(ctx, t.s, column[int64], "SELECT chain FROM state_chains WHERE room_id = $1 AND NOT unattached", room)
	if err != nil || len(chains) < 2 {
		return nil, err
	}
	named, err := all(ctx, t.s, column[int64], `SELECT chain FROM events WHERE room_id = $1 AND chain IS NOT NULL
		UNION SELECT after_chain FROM events WHERE room_id = $1 AND after_chain IS NOT NULL`, room)
	if err != nil {
		return nil, err
	}
	used := map[int64]bool{}
	for _, chain := range append(named, head.Chain) {
		links, err := t.lineage(ctx, Snapshot{Chain: chain})
		if err != nil {
			return nil, err
		}
		for _, link := range links {
			used[link.Chain] = true
		}
	}
	return slices.DeleteFunc(chains, func(chain int64) bool { return used[chain] }), nil
}

// roomLeavings are the tables of which the last slice takes what is left.
var roomLeavings = []string{
	"aliases", "edges", "waiting_redactions", "room_servers", "delayed_events", "destination_rooms", "pdus_aside", "network_rooms",
	"thread_subscriptions", "rooms", "closing_rooms",
}

// erase takes away what the erasure names, inside the committer's transaction.
func (s *Store) erase(ctx context.Context, room id.RoomID, e *Erasure) error {
	do := func(q string, args ...any) error {
		_, err := s.exec(ctx, q, args...)
		return err
	}
	if e.Begin {
		if err := do("INSERT INTO closing_rooms (room_id) VALUES ($1) ON CONFLICT (room_id) DO NOTHING", room); err != nil {
			return err
		}
	}
	if err := s.eraseEvents(ctx, e); err != nil {
		return err
	}
	if e.Before != 0 {
		s.After(ctx, func() { s.Rooms.purged.Store(room, e.Before) })
		if err := do("DELETE FROM edges WHERE room_id = $1 AND place < $2", room, e.Before); err != nil {
			return err
		}
	}
	if err := s.eraseChains(ctx, e); err != nil {
		return err
	}
	for _, user := range e.Users {
		for _, table := range []string{"account_data", "receipts", "thread_subscriptions", "memberships"} {
			if err := do("DELETE FROM "+table+" WHERE room_id = $1 AND user_id = $2", room, user); err != nil {
				return err
			}
		}
	}
	if !e.Last {
		return nil
	}
	for _, table := range roomLeavings {
		if err := do("DELETE FROM "+table+" WHERE room_id = $1", room); err != nil {
			return fmt.Errorf("erase %s: %w", table, err)
		}
	}
	return nil
}

func (s *Store) eraseEvents(ctx context.Context, e *Erasure) error {
	if err := s.Search.Remove(ctx, append(slices.Clone(e.Events), e.Hidden...)); err != nil {
		return fmt.Errorf("erase from the index: %w", err)
	}
	for part := range slices.Chunk(e.Events, 500) {
		if _, err := s.exec(ctx, "DELETE FROM events WHERE number IN "+list(1, len(part)), anys(part)...); err != nil {
			return fmt.Errorf("erase events: %w", err)
		}
	}
	for part := range slices.Chunk(e.Hidden, 500) {
		if _, err := s.exec(ctx, "UPDATE events SET place = NULL WHERE number IN "+list(1, len(part)), anys(part)...); err != nil {
			return fmt.Errorf("hide events: %w", err)
		}
	}
	return nil
}

func (s *Store) eraseChains(ctx context.Context, e *Erasure) error {
	whole := e.Chains
	if e.Chain != 0 && e.UpTo != nil {
		_, err := s.exec(ctx, "DELETE FROM state_entries WHERE chain = $1 AND (type, state_key, sequence) <= ($2, $3, $4)",
			e.Chain, e.UpTo.typ, e.UpTo.stateKey, e.UpTo.sequence)
		if err != nil {
			return fmt.Errorf("erase state: %w", err)
		}
	} else if e.Chain != 0 {
		whole = []int64{e.Chain}
	}
	for _, chain := range whole {
		for _, table := range []string{"state_entries", "state_chains"} {
			if _, err := s.exec(ctx, "DELETE FROM "+table+" WHERE chain = $1", chain); err != nil {
				return fmt.Errorf("erase state: %w", err)
			}
		}
	}
	if e.Chain != 0 || len(whole) > 0 {
		s.After(ctx, s.State.forget)
	}
	return nil
}

// forget drops what is known of chains: some are gone.
func (t *State) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.chains)
}

// Passed says whether all followers that keep a cursor have read up to the position.
func (s *Store) Passed(ctx context.Context, at Position) (bool, error) {
	n, err := one(ctx, s, column[int], "SELECT COUNT(*) FROM cursors WHERE position < $1", at)
	return n == 0, err
}
