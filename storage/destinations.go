package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Destination is how it stands with a server that we send to.
type Destination struct {
	Server string
	// Failures in a row; 0 when the last attempt went well.
	Failures int
	// RetryAt in ms since 1970: not before then.
	RetryAt int64
	// FailedAt is when the last attempt failed, FailsSince when the first one in a row did, in ms since 1970; 0 when the last
	// attempt went well.
	FailedAt, FailsSince int64
	// DeviceList is the stream_id of the last device list update told to it; 0 for none.
	DeviceList Position
}

// Destinations remembers servers that fail or lag. Only federation/sender writes it.
type Destinations struct{ s *Store }

func scanDestination(row dbutil.Scannable) (*Destination, error) {
	d := &Destination{}
	err := row.Scan(&d.Server, &d.Failures, &d.RetryAt, &d.FailedAt, &d.FailsSince, &d.DeviceList)
	return d, err
}

// ByName gives the server's row, or nil.
func (t *Destinations) ByName(ctx context.Context, server string) (*Destination, error) {
	return one(ctx, t.s, scanDestination, "SELECT server, failures, retry_at, failed_at, fails_since, device_list FROM destinations WHERE server = $1", server)
}

// Failing gives all servers whose last attempt failed.
func (t *Destinations) Failing(ctx context.Context) ([]*Destination, error) {
	return all(ctx, t.s, scanDestination, "SELECT server, failures, retry_at, failed_at, fails_since, device_list FROM destinations WHERE failures > 0")
}

// All gives all other servers with which we share a room, or of which we know how sending to them went; in the order of
// their names.
func (t *Destinations) All(ctx context.Context, own string) ([]*Destination, error) {
	return all(ctx, t.s, scanDestination, `SELECT s.server, COALESCE(d.failures, 0), COALESCE(d.retry_at, 0),
		COALESCE(d.failed_at, 0), COALESCE(d.fails_since, 0), COALESCE(d.device_list, 0)
		FROM (SELECT server FROM room_servers WHERE until IS NULL UNION SELECT server FROM destinations) s
		LEFT JOIN destinations d ON d.server = s.server WHERE s.server <> $1 ORDER BY s.server`, own)
}

// Attempted writes how the last attempt went: the failures in a row, and when to try again.
func (t *Destinations) Attempted(ctx context.Context, server string, failures int, retryAt int64) error {
	failed := int64(0)
	if failures > 0 {
		failed = t.s.now().UnixMilli()
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, `INSERT INTO destinations (server, failures, retry_at, failed_at, fails_since) VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (server) DO UPDATE SET failures = excluded.failures, retry_at = excluded.retry_at, failed_at = excluded.failed_at,
			fails_since = CASE WHEN destinations.failures > 0 AND excluded.failures > 0 THEN destinations.fails_since ELSE excluded.fails_since END`,
			server, failures, retryAt, failed)
		return err
	})
}

// NextDeviceList notes the stream_id that is now told to the server, and gives the one told before, 0 for none.
func (t *Destinations) NextDeviceList(ctx context.Context, server string, id Position) (before Position, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		told, err := one(ctx, t.s, column[sql.NullInt64], "SELECT device_list FROM destinations WHERE server = $1", server)
		if err != nil {
			return err
		}
		before = Position(told.Int64)
		_, err = t.s.exec(ctx, `INSERT INTO destinations (server, device_list) VALUES ($1, $2)
			ON CONFLICT (server) DO UPDATE SET device_list = excluded.device_list`, server, id)
		return err
	})
	return before, err
}

// Lag is a room of which a server lacks our events from the position on.
type Lag struct {
	Server   string
	RoomID   id.RoomID
	Position Position
}

// Lags gives all that any server lacks.
func (t *Destinations) Lags(ctx context.Context) ([]Lag, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (l Lag, err error) {
		err = row.Scan(&l.Server, &l.RoomID, &l.Position)
		return l, err
	}, "SELECT server, room_id, position FROM destination_rooms")
}

// AddLags writes what servers lack; an earlier position stays.
func (t *Destinations) AddLags(ctx context.Context, lags []Lag) error {
	rows := make([][]any, len(lags))
	for i, l := range lags {
		rows[i] = []any{l.Server, l.RoomID, l.Position}
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		return t.s.insert(ctx, "INSERT INTO destination_rooms (server, room_id, position) VALUES", rows, "ON CONFLICT (server, room_id) DO NOTHING")
	})
}

// MoveLag says that the server has had everything before the position; 0 that it lacks nothing any more.
func (t *Destinations) MoveLag(ctx context.Context, l Lag) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		if l.Position == 0 {
			_, err := t.s.exec(ctx, "DELETE FROM destination_rooms WHERE server = $1 AND room_id = $2", l.Server, l.RoomID)
			return err
		}
		_, err := t.s.exec(ctx, "UPDATE destination_rooms SET position = $3 WHERE server = $1 AND room_id = $2", l.Server, l.RoomID, l.Position)
		return err
	})
}

// Unanswered is a transaction that a server has not answered yet.
type Unanswered struct {
	Server string `json:"-"`
	ID     string `json:"-"`
	Body   []byte `json:"-"`
	PDUs   int    `json:"pdus"`
	EDUs   int    `json:"edus"`
	// Outbound are the rows, and Reached how far each room's lag moves, when it is answered.
	Outbound []Position             `json:"outbound,omitempty"`
	Reached  map[id.RoomID]Position `json:"reached,omitempty"`
}

// PutUnanswered keeps a transaction that has to be repeated, with how the attempt went, as Attempted does.
func (t *Destinations) PutUnanswered(ctx context.Context, u *Unanswered, failures int, retryAt int64) error {
	holds, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("keep transaction: %w", err)
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		if err := t.Attempted(ctx, u.Server, failures, retryAt); err != nil {
			return err
		}
		_, err := t.s.exec(ctx, `INSERT INTO destination_transactions (server, transaction_id, body, holds) VALUES ($1, $2, $3, $4)
			ON CONFLICT (server) DO UPDATE SET transaction_id = excluded.transaction_id, body = excluded.body, holds = excluded.holds`,
			u.Server, u.ID, u.Body, holds)
		return err
	})
}

// Unanswered gives the transaction that the server has not answered, nil if there is none.
func (t *Destinations) Unanswered(ctx context.Context, server string) (*Unanswered, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*Unanswered, error) {
		u := &Unanswered{Server: server}
		var holds []byte
		if err := row.Scan(&u.ID, &u.Body, &holds); err != nil {
			return nil, err
		}
		return u, json.Unmarshal(holds, u)
	}, "SELECT transaction_id, body, holds FROM destination_transactions WHERE server = $1", server)
}

// WithUnanswered gives the servers that have not answered a transaction.
func (t *Destinations) WithUnanswered(ctx context.Context) ([]string, error) {
	return all(ctx, t.s, column[string], "SELECT server FROM destination_transactions")
}

// Answered says that the server has answered: the transaction is forgotten, and there are no failures in a row any more.
func (t *Destinations) Answered(ctx context.Context, server string) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		if err := t.Attempted(ctx, server, 0, 0); err != nil {
			return err
		}
		_, err := t.s.exec(ctx, "DELETE FROM destination_transactions WHERE server = $1", server)
		return err
	})
}
