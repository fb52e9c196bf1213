package storage

import (
	"context"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Received remembers what other servers have sent: transactions and how we answered them, and PDUs that wait for their parents.
// (To-device messages: ToDevice.Once.) Only federation/receiver writes it.
type Received struct{ s *Store }

// Answer gives how we answered the origin's transaction, nil if it is new to us.
func (t *Received) Answer(ctx context.Context, origin, transaction string) ([]byte, error) {
	return one(ctx, t.s, column[[]byte], "SELECT answer FROM received_transactions WHERE origin = $1 AND transaction_id = $2", origin, escape(transaction))
}

// Answered remembers an answer.
func (t *Received) Answered(ctx context.Context, origin, transaction string, answer []byte) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, `INSERT INTO received_transactions (origin, transaction_id, answer, received) VALUES ($1, $2, $3, $4)
			ON CONFLICT (origin, transaction_id) DO NOTHING`, origin, escape(transaction), answer, t.s.now().UnixMilli())
		return err
	})
}

// The spans for which arrivals are remembered.
const (
	keepTransactions = 7 * 24 * time.Hour
	keepAside        = 24 * time.Hour
)

// Sweep forgets what is older than it need be.
func (t *Received) Sweep(ctx context.Context) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		now := t.s.now()
		if _, err := t.s.exec(ctx, "DELETE FROM received_transactions WHERE received < $1", now.Add(-keepTransactions).UnixMilli()); err != nil {
			return err
		}
		_, err := t.s.exec(ctx, "DELETE FROM pdus_aside WHERE received < $1", now.Add(-keepAside).UnixMilli())
		return err
	})
}

// Aside is a PDU that was checked but waits for its parents.
type Aside struct {
	EventID id.EventID
	RoomID  id.RoomID
	// Origin is the server that sent it.
	Origin string
	JSON   []byte
}

// SetAside keeps PDUs until their parents have come.
func (t *Received) SetAside(ctx context.Context, pdus []Aside) error {
	rows := make([][]any, len(pdus))
	for i, p := range pdus {
		rows[i] = []any{p.EventID, p.RoomID, p.Origin, t.s.now().UnixMilli() + int64(i), p.JSON}
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		return t.s.insert(ctx, "INSERT INTO pdus_aside (event_id, room_id, origin, received, json) VALUES", rows, "ON CONFLICT (event_id) DO NOTHING")
	})
}

// AsideIn gives up to limit of the room's PDUs that wait, the oldest first.
func (t *Received) AsideIn(ctx context.Context, room id.RoomID, limit int) ([]Aside, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (a Aside, err error) {
		err = row.Scan(&a.EventID, &a.RoomID, &a.Origin, &a.JSON)
		return a, err
	}, "SELECT event_id, room_id, origin, json FROM pdus_aside WHERE room_id = $1 ORDER BY received, event_id LIMIT $2", room, limit)
}

// RoomsAside gives the rooms in which PDUs wait.
func (t *Received) RoomsAside(ctx context.Context) ([]id.RoomID, error) {
	return all(ctx, t.s, column[id.RoomID], "SELECT DISTINCT room_id FROM pdus_aside")
}

// NoLongerAside removes PDUs that need not wait any more.
func (t *Received) NoLongerAside(ctx context.Context, events []id.EventID) error {
	if len(events) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "DELETE FROM pdus_aside WHERE event_id IN "+list(1, len(events)), anys(events)...)
		return err
	})
}
