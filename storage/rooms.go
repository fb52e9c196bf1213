package storage

import (
	"context"
	"database/sql"
	"strings"
	"sync"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Room is a room as stored. Only the room server writes it.
type Room struct {
	ID      id.RoomID
	Version id.RoomVersion
	// State is the current state: the head of its chain.
	State Snapshot
	// Extremities are the events that no other names as parent; soft-failed ones never are among them.
	Extremities []id.EventID
	// Depth of the deepest extremity.
	Depth int64
	// Joined: our server has a joined member.
	Joined bool
	// Listed in the directory.
	Listed bool
	// Purged is the place before which history has been purged; 0: nothing has.
	Purged Place
}

// Rooms reads rooms.
type Rooms struct {
	s      *Store
	purged sync.Map // id.RoomID to Place: purges that this process has written
}

// PurgedHere is the place before which this process has purged the room's history since it began; 0 where it has not. What is
// kept in memory from before is no longer to be shown. It costs no query.
func (t *Rooms) PurgedHere(room id.RoomID) Place {
	place, _ := t.purged.Load(room)
	edge, _ := place.(Place)
	return edge
}

const roomColumns = "room_id, version, chain, sequence, extremities, depth, joined, listed, purged"

func scanRoom(row dbutil.Scannable) (*Room, error) {
	r := &Room{}
	var extremities string
	err := row.Scan(&r.ID, &r.Version, &r.State.Chain, &r.State.Sequence, &extremities, &r.Depth, &r.Joined, &r.Listed, &r.Purged)
	if err != nil {
		return nil, err
	}
	for _, e := range strings.Fields(extremities) {
		r.Extremities = append(r.Extremities, id.EventID(e))
	}
	return r, nil
}

func (r *Room) row() []any {
	ids := make([]string, len(r.Extremities))
	for i, e := range r.Extremities {
		ids[i] = string(e)
	}
	return []any{r.ID, r.Version, r.State.Chain, r.State.Sequence, strings.Join(ids, " "), r.Depth, r.Joined, r.Listed, r.Purged}
}

// ByID gives the room, or nil if we have no state of it.
func (t *Rooms) ByID(ctx context.Context, room id.RoomID) (*Room, error) {
	return one(ctx, t.s, scanRoom, "SELECT "+roomColumns+" FROM rooms WHERE room_id = $1", room)
}

// Listed gives up to limit rooms of the directory after the room ID, in its order.
func (t *Rooms) Listed(ctx context.Context, after id.RoomID, limit int) ([]*Room, error) {
	return all(ctx, t.s, scanRoom, "SELECT "+roomColumns+" FROM rooms WHERE listed AND room_id > $1 ORDER BY room_id LIMIT $2", after, limit)
}

// After gives up to limit rooms after the room ID, in the order of their IDs.
func (t *Rooms) After(ctx context.Context, after id.RoomID, limit int) ([]*Room, error) {
	return all(ctx, t.s, scanRoom, "SELECT "+roomColumns+" FROM rooms WHERE room_id > $1 ORDER BY room_id LIMIT $2", after, limit)
}

// BlockedBy gives the administrator who blocked the room; empty where nobody did.
func (t *Rooms) BlockedBy(ctx context.Context, room id.RoomID) (id.UserID, error) {
	return one(ctx, t.s, column[id.UserID], "SELECT by_user FROM blocked_rooms WHERE room_id = $1", room)
}

// Block keeps all our users from joining the room, inside Do; whether we know it or not.
func (t *Rooms) Block(ctx context.Context, room id.RoomID, by id.UserID) error {
	_, err := t.s.exec(ctx, `INSERT INTO blocked_rooms (room_id, by_user, blocked) VALUES ($1, $2, $3) ON CONFLICT (room_id) DO NOTHING`,
		room, by, t.s.now().UnixMilli())
	return err
}

// Unblock lets them in again, inside Do.
func (t *Rooms) Unblock(ctx context.Context, room id.RoomID) error {
	_, err := t.s.exec(ctx, "DELETE FROM blocked_rooms WHERE room_id = $1", room)
	return err
}

// ByAlias gives the room of a local alias, empty if there is none.
func (t *Rooms) ByAlias(ctx context.Context, alias id.RoomAlias) (id.RoomID, error) {
	return one(ctx, t.s, column[id.RoomID], "SELECT room_id FROM aliases WHERE alias = $1", alias)
}

// Alias is a local alias.
type Alias struct {
	Alias   id.RoomAlias
	RoomID  id.RoomID
	Creator id.UserID
}

// Aliases gives the room's local aliases.
func (t *Rooms) Aliases(ctx context.Context, room id.RoomID) ([]Alias, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (a Alias, err error) {
		err = row.Scan(&a.Alias, &a.RoomID, &a.Creator)
		return a, err
	}, "SELECT alias, room_id, creator FROM aliases WHERE room_id = $1 ORDER BY alias LIMIT 1000", room)
}

// ServersNow gives the servers with a joined member.
func (t *Rooms) ServersNow(ctx context.Context, room id.RoomID) ([]string, error) {
	return all(ctx, t.s, column[string], "SELECT server FROM room_servers WHERE room_id = $1 AND until IS NULL ORDER BY since", room)
}

// AllServers gives the servers with a joined member in any room, at most so many.
func (t *Rooms) AllServers(ctx context.Context, most int) ([]string, error) {
	return all(ctx, t.s, column[string], "SELECT DISTINCT server FROM room_servers WHERE until IS NULL ORDER BY server LIMIT $1", most)
}

// ServerSpan is a span of positions in which a server had a joined member.
type ServerSpan struct {
	RoomID id.RoomID
	Server string
	// Since is the position of the first join, 0 where it came with an adopted state; Until of the last leave, 0 while it is in.
	Since, Until Position
}

// ServerSpans gives all spans of the room.
func (t *Rooms) ServerSpans(ctx context.Context, room id.RoomID) ([]ServerSpan, error) {
	return all(ctx, t.s, scanSpan, "SELECT room_id, server, since, until FROM room_servers WHERE room_id = $1", room)
}

// SpansOf gives the rooms in which the server is or was.
func (t *Rooms) SpansOf(ctx context.Context, server string) ([]ServerSpan, error) {
	return all(ctx, t.s, scanSpan, "SELECT room_id, server, since, until FROM room_servers WHERE server = $1", server)
}

// HasServer tells whether the server has a joined member in the room now.
func (t *Rooms) HasServer(ctx context.Context, room id.RoomID, server string) (bool, error) {
	n, err := one(ctx, t.s, column[int], "SELECT COUNT(*) FROM room_servers WHERE room_id = $1 AND server = $2 AND until IS NULL", room, server)
	return n > 0, err
}

func scanSpan(row dbutil.Scannable) (sp ServerSpan, err error) {
	var until sql.NullInt64
	err = row.Scan(&sp.RoomID, &sp.Server, &sp.Since, &until)
	sp.Until = Position(until.Int64)
	return sp, err
}

// Edge is a parent that we do not hold: history from afar begins there.
type Edge struct {
	RoomID  id.RoomID
	Missing id.EventID
	// EventID is the child that names it, at Place.
	EventID id.EventID
	Place   Place
}

// Edges gives the room's backward extremities, the latest first, at most limit.
func (t *Rooms) Edges(ctx context.Context, room id.RoomID, limit int) ([]Edge, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (e Edge, err error) {
		err = row.Scan(&e.RoomID, &e.Missing, &e.EventID, &e.Place)
		return e, err
	}, "SELECT room_id, missing_id, event_id, place FROM edges WHERE room_id = $1 ORDER BY place DESC LIMIT $2", room, limit)
}

// Gaps gives those events of the rooms before which history is missing.
func (t *Rooms) Gaps(ctx context.Context, rooms []id.RoomID) (map[id.EventID]bool, error) {
	events, err := chunked(ctx, rooms, func(part []id.RoomID) ([]id.EventID, error) {
		return all(ctx, t.s, column[id.EventID], "SELECT event_id FROM edges WHERE room_id IN "+list(1, len(part)), anys(part)...)
	})
	gaps := make(map[id.EventID]bool, len(events))
	for _, e := range events {
		gaps[e] = true
	}
	return gaps, err
}

// HasEdge tells whether a parent of the event is one that we do not hold: it came to us with a fetched state.
func (t *Rooms) HasEdge(ctx context.Context, room id.RoomID, event id.EventID) (bool, error) {
	n, err := one(ctx, t.s, column[int], "SELECT 1 FROM edges WHERE room_id = $1 AND event_id = $2 LIMIT 1", room, event)
	return n > 0, err
}

// WaitingRedactions gives the redactions that wait for the event.
func (t *Rooms) WaitingRedactions(ctx context.Context, target id.EventID) ([]id.EventID, error) {
	return all(ctx, t.s, column[id.EventID], "SELECT redaction_id FROM waiting_redactions WHERE target_id = $1 LIMIT 100", target)
}

// Touched gives the rooms, of those in which the user is joined, in which an event or a receipt became news after the position.
func (t *Rooms) Touched(ctx context.Context, user id.UserID, after Position) ([]id.RoomID, error) {
	return all(ctx, t.s, column[id.RoomID], `SELECT m.room_id FROM memberships m WHERE m.user_id = $1 AND m.membership = 'join' AND (
		EXISTS (SELECT 1 FROM events e WHERE e.room_id = m.room_id AND e.place > $2 AND e.position > $3)
		OR EXISTS (SELECT 1 FROM receipts r WHERE r.room_id = m.room_id AND r.position > $3)
		OR EXISTS (SELECT 1 FROM account_data d WHERE d.user_id = m.user_id AND d.room_id = m.room_id AND d.position > $3))`,
		user, after.Place(), after)
}
