package storage

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// ToDevice are messages from device to device, kept until their device has fetched them.
type ToDevice struct{ s *Store }

// ToDeviceMessage waits for a device.
type ToDeviceMessage struct {
	Position Position
	UserID   id.UserID
	DeviceID id.DeviceID
	JSON     json.RawMessage // {"sender", "type", "content"}
}

// maxToDevice bounds what waits for one device; beyond it the oldest go.
const maxToDevice = 100_000

// trimEvery spreads the counting: one message in so many looks whether its device has too many.
const trimEvery = 512

const (
	toDeviceInsert = "INSERT INTO to_device (position, user_id, device_id, json) VALUES"
	toDeviceAfter  = `SELECT position, user_id, device_id, json FROM to_device
		WHERE user_id = $1 AND device_id = $2 AND position > $3 AND position <= $4 ORDER BY position LIMIT $5`
	toDeviceSince  = "SELECT position, user_id, device_id FROM to_device WHERE position > $1 AND position <= $2"
	toDeviceDelete = "DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND position <= $3"
	toDeviceExcess = `DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND position <=
		(SELECT position FROM to_device WHERE user_id = $1 AND device_id = $2 ORDER BY position DESC LIMIT 1 OFFSET $3)`

	toDeviceOnce      = "INSERT INTO to_device_sent (sender, name, created) VALUES ($1, $2, $3) ON CONFLICT (sender, name) DO NOTHING"
	toDeviceOnceSweep = "DELETE FROM to_device_sent WHERE created < $1"
)

// Once says, inside Do, whether this is the first time that sender sends what has this name: of a device a transaction
// ("@user:server/DEVICE"), of a server a message ID.
func (t *ToDevice) Once(ctx context.Context, sender, name string) (bool, error) {
	done, err := t.s.exec(ctx, toDeviceOnce, escape(sender), escape(name), t.s.now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Put stores messages for our own devices, inside Do, and tells of them. It gives them their positions.
func (t *ToDevice) Put(ctx context.Context, messages []ToDeviceMessage) error {
	if len(messages) == 0 {
		return nil
	}
	first := t.s.Next(ctx, len(messages))
	rows := make([][]any, len(messages))
	for i := range messages {
		m := &messages[i]
		m.Position = first + Position(i)
		rows[i] = []any{m.Position, m.UserID, m.DeviceID, []byte(m.JSON)}
		t.s.note(ctx, Change{Position: m.Position, Kind: ToDeviceNews, UserID: m.UserID, DeviceID: m.DeviceID})
	}
	if err := t.s.insert(ctx, toDeviceInsert, rows, ""); err != nil {
		return err
	}
	for _, m := range messages {
		if m.Position%trimEvery == 0 {
			if _, err := t.Trim(ctx, m.UserID, m.DeviceID); err != nil {
				return err
			}
		}
	}
	return nil
}

// After are the device's next messages after from and not after to, in their order, at most limit.
func (t *ToDevice) After(ctx context.Context, user id.UserID, device id.DeviceID, from, to Position, limit int) ([]ToDeviceMessage, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (ToDeviceMessage, error) {
		var m ToDeviceMessage
		var raw []byte
		err := row.Scan(&m.Position, &m.UserID, &m.DeviceID, &raw)
		m.JSON = raw
		return m, err
	}, toDeviceAfter, user, device, from, to, limit)
}

// Delete forgets what the device has fetched, inside Do.
func (t *ToDevice) Delete(ctx context.Context, user id.UserID, device id.DeviceID, upTo Position) error {
	_, err := t.s.exec(ctx, toDeviceDelete, user, device, upTo)
	return err
}

// Trim drops the oldest of a device's messages beyond what may wait for it, inside Do; it says how many.
func (t *ToDevice) Trim(ctx context.Context, user id.UserID, device id.DeviceID) (int64, error) {
	done, err := t.s.exec(ctx, toDeviceExcess, user, device, maxToDevice)
	if err != nil {
		return 0, err
	}
	n, err := done.RowsAffected()
	if n > 0 {
		zerolog.Ctx(ctx).Warn().Stringer("user_id", user).Stringer("device_id", device).Int64("messages", n).
			Msg("Device does not fetch its messages, the oldest were dropped")
	}
	return n, err
}

// PutOutgoing stores a message for another server, inside Do, and tells of it (OutboundNews).
func (t *ToDevice) PutOutgoing(ctx context.Context, destination string, edu json.RawMessage) error {
	return t.s.Outbound.Add(ctx, []*Outbound{{Server: destination, Type: "m.direct_to_device", Content: edu}})
}

// Sweep forgets, inside Do, the names of what was sent before this time.
func (t *ToDevice) Sweep(ctx context.Context, before time.Time) error {
	_, err := t.s.exec(ctx, toDeviceOnceSweep, before.UnixMilli())
	return err
}

func (t *ToDevice) changes(ctx context.Context, from, to Position) ([]Change, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (Change, error) {
		c := Change{Kind: ToDeviceNews}
		err := row.Scan(&c.Position, &c.UserID, &c.DeviceID)
		return c, err
	}, toDeviceSince, from, to)
}
