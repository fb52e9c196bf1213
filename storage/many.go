package storage

import (
	"context"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"go.mau.fi/util/dbutil"
)

// What is asked of many rooms at once, by who shows all of a user's rooms: a question each would be some thousand. Callers ask for at
// most some dozens of rooms at a time.

// ByIDs gives those of the rooms of which we have a state.
func (t *Rooms) ByIDs(ctx context.Context, rooms []id.RoomID) (map[id.RoomID]*Room, error) {
	rows, err := chunked(ctx, rooms, func(part []id.RoomID) ([]*Room, error) {
		return all(ctx, t.s, scanRoom, "SELECT "+roomColumns+" FROM rooms WHERE room_id IN "+list(1, len(part)), anys(part)...)
	})
	found := make(map[id.RoomID]*Room, len(rows))
	for _, r := range rows {
		found[r.ID] = r
	}
	return found, err
}

// AtEach gives the whole state at each of the snapshots, as [State.At] does.
func (t *State) AtEach(ctx context.Context, snapshots []Snapshot) (map[Snapshot]map[Key]int64, error) {
	states := make(map[Snapshot]map[Key]int64, len(snapshots))
	var chains []int64
	bases := map[int64]Snapshot{}
	if err := t.readLinks(ctx, snapshots); err != nil {
		return nil, err
	}
	for _, at := range snapshots {
		links, err := t.lineage(ctx, at)
		if err != nil {
			return nil, err
		}
		if _, twice := bases[at.Chain]; len(links) == 1 && !twice {
			chains, bases[at.Chain], states[at] = append(chains, at.Chain), at, map[Key]int64{}
		} else if states[at] == nil {
			if states[at], err = t.At(ctx, at); err != nil {
				return nil, err
			}
		}
	}
	type entry struct {
		chain, sequence int64
		keyed
	}
	entries, err := chunked(ctx, chains, func(part []int64) ([]entry, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (e entry, err error) {
			var number *int64
			if err = row.Scan(&e.chain, &e.sequence, &e.key.Type, &e.key.StateKey, &number); err == nil && number != nil {
				e.event = *number
			}
			e.key.Type, e.key.StateKey = unescape(e.key.Type), unescape(e.key.StateKey)
			return e, err
		}, "SELECT chain, sequence, type, state_key, event FROM state_entries WHERE chain IN "+list(1, len(part))+" ORDER BY chain, sequence", anys(part)...)
	})
	if err != nil {
		return nil, fmt.Errorf("read chains: %w", err)
	}
	for _, e := range entries {
		at := bases[e.chain]
		switch {
		case e.sequence > at.Sequence:
		case e.event == 0:
			delete(states[at], e.key)
		default:
			states[at][e.key] = e.event
		}
	}
	return states, nil
}

// readLinks brings to hand on what the chains of the snapshots stand.
func (t *State) readLinks(ctx context.Context, snapshots []Snapshot) error {
	var unknown []int64
	t.mu.Lock()
	for _, at := range snapshots {
		if _, ok := t.chains[at.Chain]; !ok {
			unknown = append(unknown, at.Chain)
		}
	}
	t.mu.Unlock()
	if len(unknown) < 2 || transactionOf(ctx) != nil {
		return nil
	}
	type link struct {
		chain int64
		chainLink
	}
	links, err := chunked(ctx, unknown, func(part []int64) ([]link, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (l link, err error) {
			var parent, sequence *int64
			if err = row.Scan(&l.chain, &parent, &sequence, &l.room); err == nil && parent != nil && sequence != nil {
				l.parent = Snapshot{*parent, *sequence}
			}
			return l, err
		}, "SELECT chain, parent_chain, parent_sequence, room_id FROM state_chains WHERE chain IN "+list(1, len(part)), anys(part)...)
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range links {
		t.chains[l.chain] = l.chainLink
	}
	return err
}

// Before says from where a room's history is read backwards.
type Before struct {
	Room id.RoomID
	Page Page
}

// BackwardsEach gives of each room the newest events before a page, newest first, as [Events.Backwards] does.
func (t *Events) BackwardsEach(ctx context.Context, asked []Before, limit int) (map[id.RoomID][]*Event, error) {
	var parts []string
	var args []any
	for _, b := range asked {
		n := len(args)
		parts = append(parts, fmt.Sprintf("SELECT * FROM (SELECT "+eventColumns+` FROM events
			WHERE room_id = $%d AND place IS NOT NULL AND (place < $%d OR (place = $%d AND number < $%d))
			ORDER BY place DESC, number DESC LIMIT %d) AS room%d`, n+1, n+2, n+2, n+3, limit, len(parts)))
		args = append(args, b.Room, b.Page.Place, b.Page.Number)
	}
	events, err := union(ctx, t.s, scanEvent, parts, args)
	found := make(map[id.RoomID][]*Event, len(asked))
	for _, e := range events {
		found[e.RoomID] = append(found[e.RoomID], e)
	}
	return found, err
}

// Threaded gives those of the rooms in which there is an event in a thread.
func (t *Events) Threaded(ctx context.Context, rooms []id.RoomID) (map[id.RoomID]bool, error) {
	var parts []string
	for i := range rooms {
		parts = append(parts, fmt.Sprintf("SELECT * FROM (SELECT room_id FROM events WHERE room_id = $%d AND place IS NOT NULL AND rel_type = 'm.thread' LIMIT 1) AS room%d", i+1, i))
	}
	found, err := union(ctx, t.s, column[id.RoomID], parts, anys(rooms))
	threaded := make(map[id.RoomID]bool, len(found))
	for _, room := range found {
		threaded[room] = true
	}
	return threaded, err
}

// Crowd says how many are in a room, and who came first.
type Crowd struct {
	Joined, Invited int
	Heroes          []id.UserID // see [Memberships.Heroes]
}

// Crowds tells it of each of the rooms.
func (t *Memberships) Crowds(ctx context.Context, rooms []id.RoomID, heroes int) (map[id.RoomID]*Crowd, error) {
	type count struct {
		room       id.RoomID
		membership event.Membership
		n          int
	}
	counts, err := chunked(ctx, rooms, func(part []id.RoomID) ([]count, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (c count, err error) {
			err = row.Scan(&c.room, &c.membership, &c.n)
			return c, err
		}, "SELECT room_id, membership, COUNT(*) FROM memberships WHERE room_id IN "+list(1, len(part))+" AND membership IN ('join', 'invite') GROUP BY room_id, membership", anys(part)...)
	})
	if err != nil {
		return nil, err
	}
	crowds := make(map[id.RoomID]*Crowd, len(rooms))
	for _, room := range rooms {
		crowds[room] = &Crowd{}
	}
	for _, c := range counts {
		if c.membership == event.MembershipJoin {
			crowds[c.room].Joined = c.n
		} else {
			crowds[c.room].Invited = c.n
		}
	}
	var parts []string
	for i := range rooms {
		parts = append(parts, fmt.Sprintf("SELECT * FROM (SELECT room_id, user_id FROM memberships WHERE room_id = $%d AND membership IN ('join', 'invite') ORDER BY event LIMIT %d) AS room%d", i+1, heroes, i))
	}
	type hero struct {
		room id.RoomID
		user id.UserID
	}
	first, err := union(ctx, t.s, func(row dbutil.Scannable) (h hero, err error) {
		err = row.Scan(&h.room, &h.user)
		return h, err
	}, parts, anys(rooms))
	for _, h := range first {
		crowds[h.room].Heroes = append(crowds[h.room].Heroes, h.user)
	}
	// A room of one is called by who was there before.
	for room, c := range crowds {
		if err == nil && len(c.Heroes) < 2 {
			c.Heroes, err = t.Heroes(ctx, room, heroes)
		}
	}
	return crowds, err
}

func union[T any](ctx context.Context, s *Store, scan func(dbutil.Scannable) (T, error), parts []string, args []any) ([]T, error) {
	if len(parts) == 0 {
		return nil, nil
	}
	return all(ctx, s, scan, strings.Join(parts, " UNION ALL "), args...)
}
