package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// CallOrder is what administrators ordered for the calls of a room on this server's foci.
type CallOrder struct {
	RoomID id.RoomID
	// Orders is a JSON object of the form of the room's own settings.
	Orders json.RawMessage
	By     id.UserID
	Since  int64 // ms since 1970
}

// CallOrders are the administrators' orders, and which calls have been begun by those who may.
type CallOrders struct{ s *Store }

const (
	callOrderColumns = "room_id, orders, by_user, since"
	callOrderByRoom  = "SELECT " + callOrderColumns + " FROM call_orders WHERE room_id = $1"
	callOrderPage    = "SELECT " + callOrderColumns + " FROM call_orders WHERE room_id > $1 ORDER BY room_id LIMIT $2"
	callOrderPut     = "INSERT INTO call_orders (" + callOrderColumns + `) VALUES ($1, $2, $3, $4)
		ON CONFLICT (room_id) DO UPDATE SET orders = excluded.orders, by_user = excluded.by_user,
			since = CASE WHEN excluded.since > call_orders.since THEN excluded.since ELSE call_orders.since + 1 END`
	callStartPut   = "INSERT INTO call_starts (call, until) VALUES ($1, $2) ON CONFLICT (call) DO UPDATE SET until = excluded.until"
	callStartUntil = "SELECT until FROM call_starts WHERE call = $1"
	callStartSweep = "DELETE FROM call_starts WHERE until < $1"
)

func scanCallOrder(row dbutil.Scannable) (*CallOrder, error) {
	o := &CallOrder{}
	var orders string
	err := row.Scan(&o.RoomID, &orders, &o.By, &o.Since)
	o.Orders = json.RawMessage(orders)
	return o, err
}

// ByRoom gives the order for a room, or nil.
func (t *CallOrders) ByRoom(ctx context.Context, room id.RoomID) (*CallOrder, error) {
	return one(ctx, t.s, scanCallOrder, callOrderByRoom, room)
}

// Page lists orders by the names of their rooms, after this one.
func (t *CallOrders) Page(ctx context.Context, after id.RoomID, limit int) ([]*CallOrder, error) {
	return all(ctx, t.s, scanCallOrder, callOrderPage, after, limit)
}

// Written tells of those of the rooms that have an order when it was written. An order that takes another's place always has a
// greater number, though it may be written by a process whose clock is behind.
func (t *CallOrders) Written(ctx context.Context, rooms []id.RoomID) (map[id.RoomID]int64, error) {
	orders, err := chunked(ctx, rooms, func(part []id.RoomID) ([]*CallOrder, error) {
		return all(ctx, t.s, scanCallOrder, "SELECT "+callOrderColumns+" FROM call_orders WHERE room_id IN "+list(1, len(part)), anys(part)...)
	})
	written := make(map[id.RoomID]int64, len(orders))
	for _, o := range orders {
		written[o.RoomID] = o.Since
	}
	return written, err
}

// Put writes an order in place of the room's older one; it fills in Since, about. An empty object orders nothing.
func (t *CallOrders) Put(ctx context.Context, o *CallOrder) error {
	o.Since = t.s.now().UnixMilli()
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, callOrderPut, o.RoomID, string(o.Orders), o.By, o.Since)
		return err
	})
}

// Begin notes that the call of this name may be joined until the time, also by those who may not begin one. In ms since 1970.
func (t *CallOrders) Begin(ctx context.Context, call string, until int64) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		if _, err := t.s.exec(ctx, callStartSweep, t.s.now().UnixMilli()); err != nil {
			return err
		}
		_, err := t.s.exec(ctx, callStartPut, call, until)
		return err
	})
}

// Begun says whether the call of this name was begun, and its time is not over.
func (t *CallOrders) Begun(ctx context.Context, call string) (bool, error) {
	until, err := one(ctx, t.s, column[int64], callStartUntil, call)
	return until > t.s.now().UnixMilli(), err
}
