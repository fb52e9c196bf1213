package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/mattn/go-sqlite3"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// ErrLease says that the writer's lease has passed to another process.
var ErrLease = errors.New("storage: another process writes the rooms")

// ErrRepeated says that rows hold a transaction whose event is stored already. Nothing of them, nor of what came after them on
// their line, was written.
var ErrRepeated = errors.New("storage: the transaction was sent before")

// repeats tells whether the database refused an event for its transaction.
func repeats(err error) bool {
	if refused := (sqlite3.Error{}); errors.As(err, &refused) {
		return refused.ExtendedCode == sqlite3.ErrConstraintUnique && strings.Contains(refused.Error(), "events.transaction_id")
	}
	refused := (*pgconn.PgError)(nil)
	return errors.As(err, &refused) && refused.ConstraintName == "events_transaction"
}

// Line is the order of one live room's writes: once one of them has failed, all
// later ones are refused. A room that reads itself anew begins a new line.
type Line struct {
	err error // the committer's own
}

// RoomRows is what a room's turn writes. The committer fills in positions (and the
// places of live events); nothing in it may be touched until done was called.
type RoomRows struct {
	Line *Line
	Room id.RoomID

	// Events are new rows, with their numbers. Where News is set in the parallel
	// slice, the event gets the next position, and, if it has no place, the place of that position.
	Events []*Event
	News   []bool
	// Risen are stored outliers that now stand otherwise: standing, snapshots, place, and perhaps news, are rewritten.
	Risen     []*Event
	RisenNews []bool

	Chains  []Chain
	Entries []Entry
	// Attach names unattached chains that are taken into use.
	Attach []int64

	Memberships []*Membership
	// Servers that came in or went out with this turn, in that order, each at the position of the membership that made it so.
	Servers []ServerMove
	// ServersBefore are those that were in when the state was adopted: all others are forgotten. They take effect before Servers.
	ServersBefore []string

	// Head is the room as it stands after the turn; nil leaves the row alone.
	Head *Room

	// Redactions: target to the redaction that took effect.
	Redactions map[id.EventID]id.EventID
	// Waiting: redactions that must wait, to their targets; Waited are removed.
	Waiting map[id.EventID]id.EventID
	Waited  []id.EventID

	EdgesAdded []Edge
	// EdgesClosed are parents that we now hold.
	EdgesClosed []id.EventID

	// AliasRemoved takes effect before AliasAdded: an alias can go to another room in one turn.
	AliasRemoved id.RoomAlias
	AliasAdded   *Alias
	// Upgrade: this room is made to replace another.
	Upgrade *Upgrade
	// Forgotten by this user.
	Forgotten id.UserID
	// Erasure takes something away; nil: nothing.
	Erasure *Erasure

	// Outbound are events of other servers that we send on.
	Outbound []*Outbound

	last Position // the last position that the rows were given
}

// ServerMove is a server whose first member came in, or whose last one went out.
type ServerMove struct {
	Server string
	In     bool
}

// moved gives the position at which the server's first member came in, or its last one went out.
func (r *RoomRows) moved(server string, in bool) Position {
	at := r.last
	for _, m := range r.Memberships {
		if m.UserID.Homeserver() != server || m.Position == 0 || (m.Membership == event.MembershipJoin) != in {
			continue
		}
		if in {
			return m.Position
		}
		at = m.Position
	}
	return at
}

// RoomWriter writes rooms. There is one, in the process that holds the lease.
type RoomWriter struct{ s *Store }

// RoomWriter gives the right to write rooms; only the room server calls it, once.
// lease gives the lease whose epoch each commit names; nil where the process is the only one.
func (s *Store) RoomWriter(lease func() *Lease) *RoomWriter {
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	s.committer.lease = lease
	return &RoomWriter{s: s}
}

// Write hands the rows to the committer and returns at once; done is called when they are on
// disk (nil) or refused. done must not block. Rows of one line are written in the order of the calls.
func (w *RoomWriter) Write(rows *RoomRows, done func(error)) {
	if err := w.s.committer.add(&job{ctx: context.Background(), rows: rows, done: done}); err != nil {
		done(err)
	}
}

// WriteAndWait is Write, waited for.
func (w *RoomWriter) WriteAndWait(rows *RoomRows) error {
	done := make(chan error, 1)
	w.Write(rows, func(err error) { done <- err })
	return <-done
}

// positionsOf counts the positions that the rooms' rows take at most.
func positionsOf(rooms []*RoomRows) int {
	n := 0
	for _, r := range rooms {
		for _, news := range r.News {
			if news {
				n++
			}
		}
		for _, news := range r.RisenNews {
			if news {
				n++
			}
		}
		for _, e := range r.Entries {
			if e.News {
				n++
			}
		}
		for _, m := range r.Memberships {
			if m.News {
				n++
			}
		}
		n += len(r.Outbound)
	}
	return n
}

// writeRooms writes the rows of all rooms of a group, table by table.
func (s *Store) writeRooms(ctx context.Context, rooms []*RoomRows) error {
	if len(rooms) == 0 {
		return nil
	}
	if err := s.checkLease(ctx); err != nil {
		return err
	}
	var events, memberships, entries [][]any
	var chains []Chain
	for _, r := range rooms {
		s.place(ctx, r)
		for _, e := range r.Events {
			events = append(events, e.row())
		}
		chains = append(chains, r.Chains...)
		for _, e := range r.Entries {
			entries = append(entries, []any{e.Chain, e.Sequence, escape(e.Key.Type), escape(e.Key.StateKey), nullable(e.Event), nullable(e.Position), nullable(e.Old)})
		}
	}
	if err := s.insert(ctx, "INSERT INTO events ("+eventColumns+") VALUES", events, ""); err != nil {
		if repeats(err) {
			err = fmt.Errorf("%w (%w)", ErrRepeated, err)
		}
		return fmt.Errorf("write events: %w", err)
	}
	if err := s.insertChains(ctx, chains); err != nil {
		return fmt.Errorf("write chains: %w", err)
	}
	if err := s.insert(ctx, "INSERT INTO state_entries (chain, sequence, type, state_key, event, position, old_event) VALUES", entries, ""); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	heads := map[id.RoomID]*Room{}
	for _, r := range rooms {
		rows, err := membershipRows(r.Memberships)
		if err != nil {
			return err
		}
		memberships = append(memberships, rows...)
		if err := s.writeRest(ctx, r); err != nil {
			return fmt.Errorf("write %s: %w", r.Room, err)
		}
		if r.Head != nil {
			heads[r.Room] = r.Head
		}
	}
	if err := s.writeMemberships(ctx, memberships); err != nil {
		return fmt.Errorf("write memberships: %w", err)
	}
	rows := make([][]any, 0, len(heads))
	for _, head := range heads {
		rows = append(rows, head.row())
	}
	if err := s.insert(ctx, "INSERT INTO rooms ("+roomColumns+") VALUES", rows, `ON CONFLICT (room_id) DO UPDATE SET
		version = excluded.version, chain = excluded.chain, sequence = excluded.sequence, extremities = excluded.extremities,
		depth = excluded.depth, joined = excluded.joined, listed = excluded.listed, purged = excluded.purged`); err != nil {
		return fmt.Errorf("write heads: %w", err)
	}
	return nil
}

// place gives the rows their positions, and live events their places; and notes what is news.
func (s *Store) place(ctx context.Context, r *RoomRows) {
	byNumber := map[int64]Position{}
	give := func(e *Event, news bool) {
		e.Position = 0
		if !news {
			return
		}
		e.Position = s.Next(ctx, 1)
		if e.Place == 0 || e.livePlace {
			e.Place, e.livePlace = e.Position.Place(), true
		}
		byNumber[e.Number] = e.Position
		s.note(ctx, e.news())
	}
	for i, e := range r.Events {
		give(e, r.News[i])
	}
	for i, e := range r.Risen {
		give(e, r.RisenNews[i])
	}
	for i := range r.Entries {
		e := &r.Entries[i]
		if e.Position = 0; !e.News {
			continue
		}
		// A change made by an event becomes news together with it.
		if e.Position = byNumber[e.Event]; e.Position == 0 {
			e.Position = s.Next(ctx, 1)
		}
		change := &StateChange{Position: e.Position, RoomID: r.Room, Key: e.Key, Event: e.Event, Old: e.Old, After: Snapshot{e.Chain, e.Sequence}}
		s.note(ctx, change.news())
	}
	for _, m := range r.Memberships {
		if m.Position = 0; !m.News {
			continue
		}
		if m.Position = byNumber[m.Event]; m.Position == 0 {
			m.Position = s.Next(ctx, 1)
		}
		s.note(ctx, m.news())
	}
	s.Outbound.place(ctx, r.Outbound)
	r.last = transactionOf(ctx).next
}

func membershipRows(list []*Membership) ([][]any, error) {
	rows := make([][]any, len(list))
	for i, m := range list {
		var stripped any
		if len(m.Stripped) > 0 {
			raw, err := json.Marshal(m.Stripped)
			if err != nil {
				return nil, fmt.Errorf("encode stripped state: %w", err)
			}
			stripped = raw
		}
		rows[i] = []any{m.RoomID, m.UserID, m.Membership, m.EventID, m.Event, m.Sender, nullable(m.Position), stripped, m.Forgotten, m.UserID.Homeserver()}
	}
	return rows, nil
}

// writeMemberships writes the last row of each user and room: one statement may not write a row twice.
func (s *Store) writeMemberships(ctx context.Context, rows [][]any) error {
	last := map[[2]any]int{}
	for i, row := range rows {
		last[[2]any{row[0], row[1]}] = i
	}
	kept := rows[:0:0]
	for i, row := range rows {
		if last[[2]any{row[0], row[1]}] == i {
			kept = append(kept, row)
		}
	}
	return s.insert(ctx, "INSERT INTO memberships ("+membershipColumns+", server) VALUES", kept, `ON CONFLICT (room_id, user_id) DO UPDATE SET
		membership = excluded.membership, event_id = excluded.event_id, event = excluded.event, sender = excluded.sender,
		position = excluded.position, stripped = excluded.stripped, forgotten = excluded.forgotten`)
}

// writeRest writes what few turns have.
func (s *Store) writeRest(ctx context.Context, r *RoomRows) error {
	do := func(q string, args ...any) error {
		_, err := s.exec(ctx, q, args...)
		return err
	}
	var errs []error
	for _, e := range r.Risen {
		row := e.row()
		errs = append(errs, do(`UPDATE events SET position = $2, place = $3, standing = $4, chain = $5, sequence = $6, after_chain = $7,
			after_sequence = $8, rule = $9, relates_to = $10, rel_type = $11, sticky_until = $12 WHERE number = $1`,
			e.Number, row[3], row[4], row[5], row[11], row[12], row[13], row[14], row[21], row[16], row[17], row[23]))
	}
	for _, chain := range r.Attach {
		errs = append(errs, do("UPDATE state_chains SET unattached = false WHERE chain = $1", chain))
	}
	if len(r.ServersBefore) > 0 {
		errs = append(errs, do("DELETE FROM room_servers WHERE room_id = $1 AND until IS NULL", r.Room))
	}
	var before [][]any
	for _, server := range r.ServersBefore {
		before = append(before, []any{r.Room, server, 0})
	}
	errs = append(errs, s.insert(ctx, "INSERT INTO room_servers (room_id, server, since) VALUES", before,
		"ON CONFLICT (room_id, server, since) DO UPDATE SET until = NULL"))
	for _, move := range r.Servers {
		at := r.moved(move.Server, move.In)
		if move.In {
			errs = append(errs, do(`INSERT INTO room_servers (room_id, server, since) VALUES ($1, $2, $3)
				ON CONFLICT (room_id, server, since) DO UPDATE SET until = NULL`, r.Room, move.Server, at))
		} else {
			errs = append(errs, do("UPDATE room_servers SET until = $3 WHERE room_id = $1 AND server = $2 AND until IS NULL", r.Room, move.Server, at))
		}
	}
	for target, redaction := range r.Redactions {
		errs = append(errs, do("UPDATE events SET redacted_by = $2 WHERE event_id = $1 AND redacted_by IS NULL", target, redaction))
	}
	for redaction, target := range r.Waiting {
		errs = append(errs, do(`INSERT INTO waiting_redactions (target_id, redaction_id, room_id) VALUES ($1, $2, $3)
			ON CONFLICT (target_id, redaction_id) DO NOTHING`, target, redaction, r.Room))
	}
	for _, redaction := range r.Waited {
		errs = append(errs, do("DELETE FROM waiting_redactions WHERE redaction_id = $1", redaction))
	}
	for _, e := range r.EdgesAdded {
		place := e.Place
		if place == 0 {
			place = r.last.Place()
		}
		errs = append(errs, do(`INSERT INTO edges (room_id, missing_id, event_id, place) VALUES ($1, $2, $3, $4)
			ON CONFLICT (room_id, missing_id, event_id) DO NOTHING`, r.Room, e.Missing, e.EventID, place))
	}
	for _, missing := range r.EdgesClosed {
		errs = append(errs, do("DELETE FROM edges WHERE room_id = $1 AND missing_id = $2", r.Room, missing))
	}
	if r.AliasRemoved != "" {
		errs = append(errs, do("DELETE FROM aliases WHERE alias = $1 AND room_id = $2", r.AliasRemoved, r.Room))
	}
	errs = append(errs, s.Outbound.insert(ctx, r.Outbound))
	if a := r.AliasAdded; a != nil {
		errs = append(errs, do("INSERT INTO aliases (alias, room_id, creator, created) VALUES ($1, $2, $3, $4)", a.Alias, a.RoomID, a.Creator, s.now().UnixMilli()))
	}
	if u := r.Upgrade; u != nil {
		errs = append(errs, do("INSERT INTO upgrades (old_room, new_room, by_user, begun) VALUES ($1, $2, $3, $4)", u.Old, u.New, u.By, s.now().UnixMilli()))
	}
	if r.Forgotten != "" {
		errs = append(errs, do("UPDATE memberships SET forgotten = true WHERE room_id = $1 AND user_id = $2", r.Room, r.Forgotten))
	}
	if r.Erasure != nil {
		errs = append(errs, s.erase(ctx, r.Room, r.Erasure))
	}
	return errors.Join(errs...)
}

// checkLease makes sure that no other process has become the writer: who slept through its lease cannot write.
func (s *Store) checkLease(ctx context.Context) error {
	s.committer.mu.Lock()
	get := s.committer.lease
	s.committer.mu.Unlock()
	if get == nil {
		return nil
	}
	l := get()
	if l == nil {
		return ErrLease
	}
	epoch, err := one(ctx, s, column[int64], "SELECT epoch FROM leases WHERE name = $1", l.Name)
	if err != nil {
		return fmt.Errorf("check lease: %w", err)
	}
	if epoch != l.Epoch {
		return ErrLease
	}
	return nil
}
