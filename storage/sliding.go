package storage

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// SlidingPos says how far a sliding sync has come: a token, and the answer of a connection with which it was given out.
type SlidingPos struct {
	Token
	// Connection and Sequence name the answer.
	Connection string
	Sequence   int64
	// Owner is a mark of the user, device and name for whom the connection is.
	Owner string
}

// String is its text: what only sliding sync reads, and behind it a token's. [ParsePage] takes it as it takes a token.
func (p SlidingPos) String() string {
	return fmt.Sprintf("%s~%d~%s~%s", p.Connection, p.Sequence, p.Owner, p.Token.String())
}

// ParseSlidingPos reads its text. The token is not judged here: see [Store.Valid].
func ParseSlidingPos(text string) (SlidingPos, error) {
	if len(text) > 2*maxToken {
		return SlidingPos{}, ErrBadToken
	}
	parts := strings.Split(text, "~")
	if len(parts) != 4 {
		return SlidingPos{}, ErrBadToken
	}
	token, err := ParseToken(parts[3])
	if err != nil {
		return SlidingPos{}, err
	}
	sequence, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || sequence < 0 || parts[0] == "" {
		return SlidingPos{}, ErrBadToken
	}
	return SlidingPos{Token: token, Connection: parts[0], Sequence: sequence, Owner: parts[2]}, nil
}

// SlidingConnection is what a device's sliding sync was told, as of some answer.
type SlidingConnection struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	// Name is the client's, Connection ours.
	Name, Connection string
	// Sequence and Position of the answer.
	Sequence int64
	Position Position
	Used     time.Time
	// State of the rooms, in a form that only sync reads.
	State []byte
}

// Sliding is what sliding syncs are to remember over a restart.
type Sliding struct{ s *Store }

const (
	slidingColumns = "user_id, device_id, name, connection, sequence, position, used, state"
	slidingOne     = "SELECT " + slidingColumns + " FROM sliding_connections WHERE user_id = $1 AND device_id = $2 AND name = $3"
	slidingPut     = "INSERT INTO sliding_connections (" + slidingColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_id, device_id, name) DO UPDATE SET connection = excluded.connection, sequence = excluded.sequence,
		position = excluded.position, used = excluded.used, state = excluded.state`
	// slidingCrowd keeps the newest ten of a device.
	slidingCrowd = `DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2 AND name NOT IN
		(SELECT name FROM sliding_connections WHERE user_id = $1 AND device_id = $2 ORDER BY used DESC LIMIT $3)`
	slidingSweep = "DELETE FROM sliding_connections WHERE used < $1"
)

// MaxSliding is how many connections a device may have.
const MaxSliding = 10

// Of gives what the connection was told, or nil.
func (t *Sliding) Of(ctx context.Context, user id.UserID, device id.DeviceID, name string) (*SlidingConnection, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*SlidingConnection, error) {
		c := &SlidingConnection{}
		var used int64
		err := row.Scan(&c.UserID, &c.DeviceID, &c.Name, &c.Connection, &c.Sequence, &c.Position, &used, &c.State)
		c.Used = time.UnixMilli(used)
		return c, err
	}, slidingOne, user, device, escape(name))
}

// Put writes it, inside Do; of a device with more than [MaxSliding] the oldest go.
func (t *Sliding) Put(ctx context.Context, c *SlidingConnection) error {
	_, err := t.s.exec(ctx, slidingPut, c.UserID, c.DeviceID, escape(c.Name), c.Connection, c.Sequence, c.Position, c.Used.UnixMilli(), c.State)
	if err != nil {
		return err
	}
	_, err = t.s.exec(ctx, slidingCrowd, c.UserID, c.DeviceID, MaxSliding)
	return err
}

// Sweep forgets, inside Do, connections that nobody has used since this time.
func (t *Sliding) Sweep(ctx context.Context, before time.Time) error {
	_, err := t.s.exec(ctx, slidingSweep, before.UnixMilli())
	return err
}

// bumping are the types of events that move a room up a list.
// Spec: MSC4186
const bumping = `('m.room.create', 'm.room.message', 'm.room.encrypted', 'm.sticker', 'm.call.invite', 'm.poll.start',
	'org.matrix.msc3381.poll.start', 'm.beacon_info', 'org.matrix.msc3672.beacon_info')`

// Bumps tells whether an event of this type moves its room up a list.
func Bumps(typ string) bool {
	return strings.Contains(bumping, "'"+typ+"'")
}

// RoomHead is where the newest news of a room stands.
type RoomHead struct {
	RoomID id.RoomID
	// Active is the position of the newest event, Bump of the newest that moves the room up a list; 0 where there is none.
	Active, Bump Position
}

// Heads gives the heads of those of the rooms that we have.
func (t *Sliding) Heads(ctx context.Context, rooms []id.RoomID) ([]RoomHead, error) {
	return chunked(ctx, rooms, func(part []id.RoomID) ([]RoomHead, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (h RoomHead, err error) {
			err = row.Scan(&h.RoomID, &h.Active, &h.Bump)
			return h, err
		}, `SELECT r.room_id,
			COALESCE((SELECT e.position FROM events e WHERE e.room_id = r.room_id AND e.place IS NOT NULL AND e.position IS NOT NULL
				ORDER BY e.place DESC LIMIT 1), 0),
			COALESCE((SELECT e.position FROM events e WHERE e.room_id = r.room_id AND e.place IS NOT NULL AND e.position IS NOT NULL
				AND e.type IN `+bumping+` ORDER BY e.place DESC LIMIT 1), 0)
			FROM rooms r WHERE r.room_id IN `+list(1, len(part)), anys(part)...)
	})
}

// Snapshots gives the current state of those of the rooms that we have.
func (t *Rooms) Snapshots(ctx context.Context, rooms []id.RoomID) (map[id.RoomID]Snapshot, error) {
	type pair struct {
		room id.RoomID
		at   Snapshot
	}
	pairs, err := chunked(ctx, rooms, func(part []id.RoomID) ([]pair, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (p pair, err error) {
			err = row.Scan(&p.room, &p.at.Chain, &p.at.Sequence)
			return p, err
		}, "SELECT room_id, chain, sequence FROM rooms WHERE room_id IN "+list(1, len(part)), anys(part)...)
	})
	snapshots := make(map[id.RoomID]Snapshot, len(pairs))
	for _, p := range pairs {
		snapshots[p.room] = p.at
	}
	return snapshots, err
}

// OfType gives the user's notes of one type in all rooms, and the global one; those taken away too.
func (a *AccountDatas) OfType(ctx context.Context, user id.UserID, typ string) ([]*AccountData, error) {
	return all(ctx, a.s, scanAccountData, "SELECT "+accountDataColumns+" FROM account_data WHERE user_id = $1 AND type = $2", user, typ)
}
