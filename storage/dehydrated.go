package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Dehydrated is a user's device that nobody holds. Its keys and messages are those of any device.
type Dehydrated struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	Data     json.RawMessage // how to bring it to life, encrypted for the user
}

// DehydratedDevices are they: one for each user at most. They end as other devices do (Devices.End).
type DehydratedDevices struct{ s *Store }

const (
	dehydratedOf  = "SELECT user_id, device_id, data FROM dehydrated_devices WHERE user_id = $1"
	dehydratedPut = `INSERT INTO dehydrated_devices (user_id, device_id, data) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id, data = excluded.data`
)

// Of is the user's dehydrated device, or nil.
func (d *DehydratedDevices) Of(ctx context.Context, user id.UserID) (*Dehydrated, error) {
	return one(ctx, d.s, func(row dbutil.Scannable) (*Dehydrated, error) {
		var v Dehydrated
		var data []byte
		err := row.Scan(&v.UserID, &v.DeviceID, &data)
		v.Data = data
		return &v, err
	}, dehydratedOf, user)
}

// Put makes a device, which is there already, the user's dehydrated one, inside Do.
func (d *DehydratedDevices) Put(ctx context.Context, v Dehydrated) error {
	_, err := d.s.exec(ctx, dehydratedPut, v.UserID, v.DeviceID, []byte(v.Data))
	return err
}
