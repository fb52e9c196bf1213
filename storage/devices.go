package storage

import (
	"context"
	"slices"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Device is one of a user's devices.
type Device struct {
	UserID      id.UserID
	DeviceID    id.DeviceID
	DisplayName string
	Created     time.Time
	// Seen is when it last asked for something; a few minutes late.
	Seen    time.Time
	Address string
	Agent   string
}

// Devices are the devices of this server's users.
type Devices struct{ s *Store }

const (
	deviceColumns = "user_id, device_id, display_name, created, seen, address, agent"
	deviceByID    = "SELECT " + deviceColumns + " FROM devices WHERE user_id = $1 AND device_id = $2"
	deviceAll     = "SELECT " + deviceColumns + " FROM devices WHERE user_id = $1 ORDER BY device_id LIMIT 10000"
	deviceInsert  = `INSERT INTO devices (` + deviceColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (user_id, device_id) DO UPDATE SET seen = excluded.seen, address = excluded.address, agent = excluded.agent`
	deviceRename = "UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2"
	deviceSee    = "UPDATE devices SET seen = $3, address = $4, agent = $5 WHERE user_id = $1 AND device_id = $2"
	deviceIdle   = "SELECT " + deviceColumns + ` FROM devices WHERE seen < $1 AND user_id NOT IN
		(SELECT user_id FROM accounts WHERE service_id <> '') AND NOT EXISTS (SELECT 1 FROM dehydrated_devices d
		WHERE d.user_id = devices.user_id AND d.device_id = devices.device_id) ORDER BY seen LIMIT $2`
	deviceEndedAdd   = "INSERT INTO ended_devices (position, user_id, device_id, ended) VALUES ($1, $2, $3, $4)"
	deviceEndedSince = "SELECT position, user_id, device_id FROM ended_devices WHERE position > $1 AND position <= $2"
	deviceEndedSweep = "DELETE FROM ended_devices WHERE ended < $1"
)

// deviceRows are the tables that hold something for a device, and lose it with the device.
var deviceRows = []string{
	"DELETE FROM tokens WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM passes WHERE user_id = $1 AND device_id = $2 AND device_id <> ''",
	"DELETE FROM confirmations WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM device_keys WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM key_signatures WHERE user_id = $1 AND key_name = $2",
	"DELETE FROM pushers WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM to_device WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM dehydrated_devices WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2",
	"DELETE FROM upstream_devices WHERE user_id = $1 AND device_id = $2",
}

func scanDevice(row dbutil.Scannable) (*Device, error) {
	var d Device
	var created, seen int64
	if err := row.Scan(&d.UserID, &d.DeviceID, &d.DisplayName, &created, &seen, &d.Address, &d.Agent); err != nil {
		return nil, err
	}
	d.Created, d.Seen = time.UnixMilli(created), time.UnixMilli(seen)
	return &d, nil
}

// ByID is the device, or nil.
func (d *Devices) ByID(ctx context.Context, user id.UserID, device id.DeviceID) (*Device, error) {
	return one(ctx, d.s, scanDevice, deviceByID, user, device)
}

// All are the user's devices, in the order of their IDs.
func (d *Devices) All(ctx context.Context, user id.UserID) ([]*Device, error) {
	return all(ctx, d.s, scanDevice, deviceAll, user)
}

// IDs are the devices of all these users, read with one statement for a thousand of them. Users without devices are left out.
func (d *Devices) IDs(ctx context.Context, users []id.UserID) (map[id.UserID][]id.DeviceID, error) {
	type owned struct {
		user   id.UserID
		device id.DeviceID
	}
	found := make(map[id.UserID][]id.DeviceID, len(users))
	for chunk := range slices.Chunk(users, 1000) {
		rows, err := all(ctx, d.s, func(row dbutil.Scannable) (o owned, err error) {
			err = row.Scan(&o.user, &o.device)
			return o, err
		}, "SELECT user_id, device_id FROM devices WHERE user_id IN "+list(1, len(chunk))+" ORDER BY user_id, device_id", anys(chunk)...)
		if err != nil {
			return nil, err
		}
		for _, o := range rows {
			found[o.user] = append(found[o.user], o.device)
		}
	}
	return found, nil
}

// Idle are devices that have not been seen since then, the longest first; but for those of application services' users, and
// for dehydrated ones.
func (d *Devices) Idle(ctx context.Context, since time.Time, limit int) ([]*Device, error) {
	return all(ctx, d.s, scanDevice, deviceIdle, since.UnixMilli(), limit)
}

// Put makes the device, inside Do, or finds it as it is: the name of a known one stays.
func (d *Devices) Put(ctx context.Context, device *Device) error {
	now := d.s.now().UnixMilli()
	_, err := d.s.exec(ctx, deviceInsert, device.UserID, device.DeviceID, device.DisplayName, now, now, device.Address, device.Agent)
	return err
}

// Rename gives the device another name, inside Do; false if there is no such device.
func (d *Devices) Rename(ctx context.Context, user id.UserID, device id.DeviceID, name string) (bool, error) {
	done, err := d.s.exec(ctx, deviceRename, user, device, name)
	if err != nil {
		return false, err
	}
	if n, err := done.RowsAffected(); n == 0 || err != nil {
		return false, err
	}
	return true, d.s.DeviceLists.Change(ctx, user, device)
}

// Saw notes that the device asked for something, inside Do.
func (d *Devices) Saw(ctx context.Context, user id.UserID, device id.DeviceID, address, agent string) error {
	d.s.Tokens.forget(ctx, user, device)
	_, err := d.s.exec(ctx, deviceSee, user, device, d.s.now().UnixMilli(), address, agent)
	return err
}

// End takes the device away with its tokens, keys and messages, inside Do, and tells of it. A device that does not exist
// (any more) is no error.
func (d *Devices) End(ctx context.Context, user id.UserID, device id.DeviceID) error {
	done, err := d.s.exec(ctx, "DELETE FROM devices WHERE user_id = $1 AND device_id = $2", user, device)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); n == 0 || err != nil {
		return err
	}
	d.s.Tokens.forget(ctx, user, device)
	d.s.Keys.forgetLeft(ctx, user, device)
	for _, q := range deviceRows {
		if _, err := d.s.exec(ctx, q, user, device); err != nil {
			return err
		}
	}
	if err := d.endSettings(ctx, user, device); err != nil {
		return err
	}
	position := d.s.Next(ctx, 1)
	if _, err := d.s.exec(ctx, deviceEndedAdd, position, user, device, d.s.now().UnixMilli()); err != nil {
		return err
	}
	d.s.note(ctx, Change{Position: position, Kind: DeviceEndedNews, UserID: user, DeviceID: device})
	return d.s.DeviceLists.Change(ctx, user, device)
}

// endSettings takes away the account data that only concerned the device.
// Spec: MSC3890
func (d *Devices) endSettings(ctx context.Context, user id.UserID, device id.DeviceID) error {
	for _, prefix := range []string{"m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."} {
		note, err := d.s.AccountData.ByType(ctx, user, "", prefix+string(device))
		if err != nil {
			return err
		}
		if note == nil || note.Deleted {
			continue
		}
		if err := d.s.AccountData.Put(ctx, AccountData{UserID: user, Type: note.Type, Deleted: true}); err != nil {
			return err
		}
	}
	return nil
}

// Sweep forgets, inside Do, devices that ended before this time.
func (d *Devices) Sweep(ctx context.Context, before time.Time) error {
	_, err := d.s.exec(ctx, deviceEndedSweep, before.UnixMilli())
	return err
}

func (d *Devices) changes(ctx context.Context, from, to Position) ([]Change, error) {
	return all(ctx, d.s, func(row dbutil.Scannable) (Change, error) {
		c := Change{Kind: DeviceEndedNews}
		err := row.Scan(&c.Position, &c.UserID, &c.DeviceID)
		return c, err
	}, deviceEndedSince, from, to)
}
