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
	rows := make([][]any, len(asked))
	for i, b := range asked {
		rows[i] = []any{b.Room, b.Page.Place, b.Page.Number}
	}
	events, err := each(ctx, t.s, scanEvent, rows, []string{"text", "bigint", "bigint"}, eventColumns, fmt.Sprintf("SELECT "+eventColumns+` FROM events
		WHERE room_id = {0} AND place IS NOT NULL AND (place < {1} OR (place = {1} AND number < {2})) ORDER BY place DESC, number DESC LIMIT %d`, limit))
	found := make(map[id.RoomID][]*Event, len(asked))
	for _, e := range events {
		found[e.RoomID] = append(found[e.RoomID], e)
	}
	return found, err
}

// Threaded gives those of the rooms in which there is an event in a thread.
func (t *Events) Threaded(ctx context.Context, rooms []id.RoomID) (map[id.RoomID]bool, error) {
	found, err := each(ctx, t.s, column[id.RoomID], single(rooms), []string{"text"}, "room_id",
		"SELECT room_id FROM events WHERE room_id = {0} AND place IS NOT NULL AND rel_type = 'm.thread' LIMIT 1")
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
	type hero struct {
		room id.RoomID
		user id.UserID
	}
	first, err := each(ctx, t.s, func(row dbutil.Scannable) (h hero, err error) {
		err = row.Scan(&h.room, &h.user)
		return h, err
	}, single(rooms), []string{"text"}, "room_id, user_id",
		fmt.Sprintf("SELECT room_id, user_id FROM memberships WHERE room_id = {0} AND membership IN ('join', 'invite') ORDER BY event LIMIT %d", heroes))
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

// each asks one question for each row of values, which stand in it as {0}, {1} and so on, all at once. kinds are the values' types,
// columns what is selected. PostgreSQL plans the question once; SQLite, which has no LATERAL, is quick to plan each.
func each[T any](ctx context.Context, s *Store, scan func(dbutil.Scannable) (T, error), rows [][]any, kinds []string, columns, question string) ([]T, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	var args []any
	parts := make([]string, len(rows))
	lateral := make([]string, 0, 2*len(kinds))
	for i := range kinds {
		lateral = append(lateral, fmt.Sprintf("{%d}", i), fmt.Sprintf("asked.v%d", i))
	}
	for n, row := range rows {
		names := make([]string, len(row))
		values := make([]string, 0, 2*len(row))
		for i := range row {
			names[i] = fmt.Sprintf("$%d::%s", len(args)+i+1, kinds[i])
			values = append(values, fmt.Sprintf("{%d}", i), fmt.Sprintf("$%d", len(args)+i+1))
		}
		args = append(args, row...)
		if parts[n] = "(" + strings.Join(names, ", ") + ")"; !s.Postgres() {
			parts[n] = fmt.Sprintf("SELECT * FROM (%s) AS part%d", strings.NewReplacer(values...).Replace(question), n)
		}
	}
	if !s.Postgres() {
		return all(ctx, s, scan, strings.Join(parts, " UNION ALL "), args...)
	}
	names := make([]string, len(kinds))
	for i := range kinds {
		names[i] = fmt.Sprintf("v%d", i)
	}
	return all(ctx, s, scan, "SELECT "+columns+" FROM (VALUES "+strings.Join(parts, ", ")+") AS asked("+strings.Join(names, ", ")+
		") CROSS JOIN LATERAL ("+strings.NewReplacer(lateral...).Replace(question)+") AS found", args...)
}

func single[K any](keys []K) [][]any {
	rows := make([][]any, len(keys))
	for i, key := range keys {
		rows[i] = []any{key}
	}
	return rows
}
