package storage

import (
	"context"
	"database/sql"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// Membership is how a user stands to a room now.
type Membership struct {
	RoomID     id.RoomID
	UserID     id.UserID
	Membership event.Membership
	// EventID and Event are the membership event's ID and number.
	EventID id.EventID
	Event   int64
	Sender  id.UserID
	// Position when it became news; 0 where it came with an adopted state.
	Position Position
	// Stripped state, sent along with an invite or knock to a room that we are not in.
	Stripped []json.RawMessage
	// Forgotten by the user after leaving.
	Forgotten bool
	// News: the row gets a position when it is written.
	News bool
}

// Memberships reads who is where. Only the room server writes it.
type Memberships struct{ s *Store }

const membershipColumns = "room_id, user_id, membership, event_id, event, sender, position, stripped, forgotten"

func scanMembership(row dbutil.Scannable) (*Membership, error) {
	m := &Membership{}
	var position sql.NullInt64
	var stripped []byte
	err := row.Scan(&m.RoomID, &m.UserID, &m.Membership, &m.EventID, &m.Event, &m.Sender, &position, &stripped, &m.Forgotten)
	if err != nil {
		return nil, err
	}
	m.Position = Position(position.Int64)
	if len(stripped) > 0 {
		err = json.Unmarshal(stripped, &m.Stripped)
	}
	return m, err
}

// Of gives how the user stands to the room, or nil if never there.
func (t *Memberships) Of(ctx context.Context, room id.RoomID, user id.UserID) (*Membership, error) {
	return one(ctx, t.s, scanMembership, "SELECT "+membershipColumns+" FROM memberships WHERE room_id = $1 AND user_id = $2", room, user)
}

// ByUser gives the rooms to which the user stands in one of the ways (all, if none is named), forgotten ones left out.
func (t *Memberships) ByUser(ctx context.Context, user id.UserID, ways ...event.Membership) ([]*Membership, error) {
	q := "SELECT " + membershipColumns + " FROM memberships WHERE user_id = $1 AND NOT forgotten"
	if len(ways) > 0 {
		q += " AND membership IN " + list(2, len(ways))
	}
	return all(ctx, t.s, scanMembership, q, append([]any{user}, anys(ways)...)...)
}

// EverOf gives how the user stands to all rooms that we know of, forgotten ones too.
func (t *Memberships) EverOf(ctx context.Context, user id.UserID) ([]*Membership, error) {
	return all(ctx, t.s, scanMembership, "SELECT "+membershipColumns+" FROM memberships WHERE user_id = $1 ORDER BY room_id", user)
}

// Population is how many users are joined to a room, and how many of them are the server's.
type Population struct {
	RoomID       id.RoomID
	Joined, Ours int
}

// Populations counts who is joined, by room; rooms with nobody are left out.
func (t *Memberships) Populations(ctx context.Context, server string, rooms []id.RoomID) (map[id.RoomID]Population, error) {
	list, err := chunked(ctx, rooms, func(part []id.RoomID) ([]Population, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (p Population, err error) {
			err = row.Scan(&p.RoomID, &p.Joined, &p.Ours)
			return p, err
		}, `SELECT room_id, COUNT(*), SUM(CASE WHEN server = $1 THEN 1 ELSE 0 END) FROM memberships
			WHERE membership = 'join' AND room_id IN `+list(2, len(part))+" GROUP BY room_id", append([]any{server}, anys(part)...)...)
	})
	found := make(map[id.RoomID]Population, len(list))
	for _, p := range list {
		found[p.RoomID] = p
	}
	return found, err
}

// Forgotten says whether none of the server's users stands to the room in any way that was not forgotten.
func (t *Memberships) Forgotten(ctx context.Context, room id.RoomID, server string) (bool, error) {
	n, err := one(ctx, t.s, column[int], "SELECT COUNT(*) FROM memberships WHERE room_id = $1 AND server = $2 AND NOT forgotten", room, server)
	return n == 0, err
}

// DevicesIn counts the devices of the server's users that are joined to the room.
func (t *Memberships) DevicesIn(ctx context.Context, room id.RoomID, server string) (int, error) {
	return one(ctx, t.s, column[int], `SELECT COUNT(*) FROM devices d JOIN memberships m ON m.user_id = d.user_id
		WHERE m.room_id = $1 AND m.server = $2 AND m.membership = 'join'`, room, server)
}

// Ever gives all rooms to which the user stands in any way, forgotten ones too, in the order of their IDs.
func (t *Memberships) Ever(ctx context.Context, user id.UserID) ([]*Membership, error) {
	return all(ctx, t.s, scanMembership, "SELECT "+membershipColumns+" FROM memberships WHERE user_id = $1 ORDER BY room_id", user)
}

// ByRoom gives the users who stand to the room in one of the ways (all, if none is named).
func (t *Memberships) ByRoom(ctx context.Context, room id.RoomID, ways ...event.Membership) ([]*Membership, error) {
	q := "SELECT " + membershipColumns + " FROM memberships WHERE room_id = $1"
	if len(ways) > 0 {
		q += " AND membership IN " + list(2, len(ways))
	}
	return all(ctx, t.s, scanMembership, q, append([]any{room}, anys(ways)...)...)
}

// OfServer gives how the server's users stand to the room, whichever way.
func (t *Memberships) OfServer(ctx context.Context, room id.RoomID, server string) ([]*Membership, error) {
	return all(ctx, t.s, scanMembership, "SELECT "+membershipColumns+" FROM memberships WHERE room_id = $1 AND user_id LIKE $2", room, "%:"+server)
}

// Another tells whether a user of the server other than this one is joined to the room.
func (t *Memberships) Another(ctx context.Context, room id.RoomID, server string, user id.UserID) (bool, error) {
	n, err := one(ctx, t.s, column[int], `SELECT 1 FROM memberships
		WHERE room_id = $1 AND membership = 'join' AND server = $2 AND user_id <> $3 LIMIT 1`, room, server, user)
	return n > 0, err
}

// With gives how the user stands, or stood, to the rooms in which host is joined, the oldest first. At most ten.
func (t *Memberships) With(ctx context.Context, host, user id.UserID) ([]*Membership, error) {
	return all(ctx, t.s, scanMembership, "SELECT "+membershipColumns+` FROM memberships m WHERE user_id = $2 AND EXISTS
		(SELECT 1 FROM memberships h WHERE h.room_id = m.room_id AND h.user_id = $1 AND h.membership = 'join') ORDER BY event LIMIT 10`, host, user)
}

// Counts gives the number of joined and of invited users.
func (t *Memberships) Counts(ctx context.Context, room id.RoomID) (joined, invited int, err error) {
	type count struct {
		membership event.Membership
		n          int
	}
	counts, err := all(ctx, t.s, func(row dbutil.Scannable) (c count, err error) {
		err = row.Scan(&c.membership, &c.n)
		return c, err
	}, "SELECT membership, COUNT(*) FROM memberships WHERE room_id = $1 AND membership IN ('join', 'invite') GROUP BY membership", room)
	for _, c := range counts {
		if c.membership == event.MembershipJoin {
			joined = c.n
		} else {
			invited = c.n
		}
	}
	return joined, invited, err
}

// Joined tells whether the user is joined now, from the row, never from a cache.
func (t *Memberships) Joined(ctx context.Context, room id.RoomID, user id.UserID) (bool, error) {
	m, err := t.Of(ctx, room, user)
	return m != nil && m.Membership == event.MembershipJoin, err
}

// ShareRoom gives the users who are joined to a room in which the user is joined too, the user left out.
func (t *Memberships) ShareRoom(ctx context.Context, user id.UserID) ([]id.UserID, error) {
	return all(ctx, t.s, column[id.UserID], `SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON a.room_id = b.room_id
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership = 'join' AND b.user_id <> $1`, user)
}

// DoShare tells whether both users are joined to one room.
func (t *Memberships) DoShare(ctx context.Context, a, b id.UserID) (bool, error) {
	n, err := one(ctx, t.s, column[int], `SELECT 1 FROM memberships a JOIN memberships b ON a.room_id = b.room_id
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id = $2 AND b.membership = 'join' LIMIT 1`, a, b)
	return n > 0, err
}

// Heroes gives up to limit users by whom a room without a name may be called: who is joined or invited, in the order in
// which they came, or else who was.
func (t *Memberships) Heroes(ctx context.Context, room id.RoomID, limit int) ([]id.UserID, error) {
	const q = "SELECT user_id FROM memberships WHERE room_id = $1 AND membership IN "
	heroes, err := all(ctx, t.s, column[id.UserID], q+"('join', 'invite') ORDER BY event LIMIT $2", room, limit)
	if err != nil || len(heroes) > 1 {
		return heroes, err
	}
	gone, err := all(ctx, t.s, column[id.UserID], q+"('leave', 'ban') ORDER BY event LIMIT $2", room, limit-len(heroes))
	return append(heroes, gone...), err
}

func (t *Memberships) changes(ctx context.Context, from, to Position) ([]Change, error) {
	rows, err := all(ctx, t.s, scanMembership, "SELECT "+membershipColumns+" FROM memberships WHERE position > $1 AND position <= $2", from, to)
	changes := make([]Change, len(rows))
	for i, m := range rows {
		changes[i] = m.news()
	}
	return changes, err
}

func (m *Membership) news() Change {
	return Change{Position: m.Position, Kind: MembershipNews, RoomID: m.RoomID, UserID: m.UserID, Membership: m}
}
