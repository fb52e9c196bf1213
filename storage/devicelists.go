package storage

import (
	"context"
	"encoding/json"
	"slices"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// DeviceLists say which users' devices or keys changed, and when.
type DeviceLists struct{ s *Store }

// DeviceChange is the newest change of a device. DeviceID is empty where it is the user's cross-signing keys, or the
// list of a user of another server.
type DeviceChange struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	Position Position
}

const (
	deviceChangePut = `INSERT INTO device_changes (user_id, device_id, position) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, device_id) DO UPDATE SET position = excluded.position`
	deviceChangeSince = "SELECT user_id, device_id, position FROM device_changes WHERE position > $1 AND position <= $2 ORDER BY position"
	deviceChangeOf    = "SELECT COALESCE(MAX(position), 0) FROM device_changes WHERE user_id = $1"

	remoteListOne = "SELECT user_id, stream_id, stale FROM remote_device_lists WHERE user_id = $1"
	remoteListPut = `INSERT INTO remote_device_lists (user_id, stream_id, stale) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, stale = excluded.stale`
	remoteListStale = "SELECT user_id, stream_id, stale FROM remote_device_lists WHERE stale ORDER BY user_id LIMIT $1"
	remoteListDoubt = `UPDATE remote_device_lists SET stale = true WHERE user_id IN
		(SELECT user_id FROM memberships WHERE room_id = $1 AND membership = 'join')`
	remoteListForget = "DELETE FROM remote_device_lists WHERE user_id = $1"
)

func scanDeviceChange(row dbutil.Scannable) (DeviceChange, error) {
	var c DeviceChange
	err := row.Scan(&c.UserID, &c.DeviceID, &c.Position)
	return c, err
}

// Change notes that a device, its name or its keys changed, inside Do, and tells of it.
func (d *DeviceLists) Change(ctx context.Context, user id.UserID, device id.DeviceID) error {
	position := d.s.Next(ctx, 1)
	if _, err := d.s.exec(ctx, deviceChangePut, user, device, position); err != nil {
		return err
	}
	d.s.note(ctx, Change{Position: position, Kind: DeviceListNews, UserID: user, DeviceID: device})
	return nil
}

// Between are the changes after from and not after to. A device that changed again after to is missing.
func (d *DeviceLists) Between(ctx context.Context, from, to Position) ([]DeviceChange, error) {
	return all(ctx, d.s, scanDeviceChange, deviceChangeSince, from, to)
}

// Newest is the position of the user's newest change; 0 if there was none.
func (d *DeviceLists) Newest(ctx context.Context, user id.UserID) (Position, error) {
	return one(ctx, d.s, column[Position], deviceChangeOf, user)
}

// RemoteDeviceList says how good our copy of another server's user's devices is.
type RemoteDeviceList struct {
	UserID   id.UserID
	StreamID int64
	// Stale: it has to be fetched before it is believed.
	Stale bool
}

func scanRemoteList(row dbutil.Scannable) (*RemoteDeviceList, error) {
	var l RemoteDeviceList
	err := row.Scan(&l.UserID, &l.StreamID, &l.Stale)
	return &l, err
}

// Remote is what we know of a remote user's list, or nil: then there is no copy.
func (d *DeviceLists) Remote(ctx context.Context, user id.UserID) (*RemoteDeviceList, error) {
	return one(ctx, d.s, scanRemoteList, remoteListOne, user)
}

// PutRemote writes it, inside Do. Telling clients is the caller's (Change with no device).
func (d *DeviceLists) PutRemote(ctx context.Context, l RemoteDeviceList) error {
	_, err := d.s.exec(ctx, remoteListPut, l.UserID, l.StreamID, l.Stale)
	return err
}

// Stale lists remote users whose copies have to be fetched.
func (d *DeviceLists) Stale(ctx context.Context, limit int) ([]*RemoteDeviceList, error) {
	return all(ctx, d.s, scanRemoteList, remoteListStale, limit)
}

// DoubtRoom has all copies of the lists of who is joined to the room fetched anew before they are believed, inside Do.
func (d *DeviceLists) DoubtRoom(ctx context.Context, room id.RoomID) error {
	_, err := d.s.exec(ctx, remoteListDoubt, room)
	return err
}

// ForgetRemote drops what we know of a remote user's list, inside Do: nobody here shares a room with them any more.
func (d *DeviceLists) ForgetRemote(ctx context.Context, user id.UserID) error {
	if _, err := d.s.exec(ctx, remoteListForget, user); err != nil {
		return err
	}
	return d.s.Keys.DropUser(ctx, user)
}

func (d *DeviceLists) changes(ctx context.Context, from, to Position) ([]Change, error) {
	return all(ctx, d.s, func(row dbutil.Scannable) (Change, error) {
		c, err := scanDeviceChange(row)
		return Change{Position: c.Position, Kind: DeviceListNews, UserID: c.UserID, DeviceID: c.DeviceID}, err
	}, deviceChangeSince, from, to)
}

// maxCatchUp is how many positions are looked through for changes; over a longer span everybody counts as changed.
const maxCatchUp = 100_000

// ChangedFor says whose device lists have changed for the user after from and not after to: of those who share a room
// now, whose devices or keys changed, or who did not share one before; and who no longer shares one.
// Spec: client-server-api/#tracking-the-device-list-for-a-user
func (d *DeviceLists) ChangedFor(ctx context.Context, user id.UserID, from, to Position) (changed, left []id.UserID, err error) {
	sharing, err := d.s.Memberships.ShareRoom(ctx, user)
	if err != nil {
		return nil, nil, err
	}
	if to-from > maxCatchUp {
		return append(sharing, user), nil, nil
	}
	shares := map[id.UserID]bool{user: true}
	for _, other := range sharing {
		shares[other] = true
	}
	candidates, err := d.comings(ctx, user, from, to)
	if err != nil {
		return nil, nil, err
	}
	rows, err := d.Between(ctx, from, to)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range rows {
		if shares[c.UserID] {
			candidates[c.UserID] = true
		}
	}
	for other := range candidates {
		if shares[other] {
			changed = append(changed, other)
		} else {
			left = append(left, other)
		}
	}
	slices.Sort(changed)
	slices.Sort(left)
	return changed, left, nil
}

// comings are those who came into a room of the user or left it, and, where the user did, all who are in it.
func (d *DeviceLists) comings(ctx context.Context, user id.UserID, from, to Position) (map[id.UserID]bool, error) {
	moved, err := d.s.State.between(ctx, from, to, ` AND e.type = 'm.room.member' AND c.room_id IN
		(SELECT room_id FROM memberships WHERE user_id = $3)`, user)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, c := range moved {
		numbers = append(numbers, c.Event, c.Old)
	}
	events, err := d.s.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	joined := map[int64]bool{}
	for _, ev := range events {
		var member struct {
			Content struct {
				Membership event.Membership `json:"membership"`
			} `json:"content"`
		}
		// What was accepted as a membership has one; anything else is none.
		_ = json.Unmarshal(ev.JSON, &member)
		joined[ev.Number] = member.Content.Membership == event.MembershipJoin
	}
	who := map[id.UserID]bool{}
	for _, c := range moved {
		switch {
		case joined[c.Event] == joined[c.Old]:
		case id.UserID(c.Key.StateKey) != user:
			who[id.UserID(c.Key.StateKey)] = true
		default:
			members, err := d.s.Memberships.ByRoom(ctx, c.RoomID, event.MembershipJoin)
			if err != nil {
				return nil, err
			}
			for _, m := range members {
				who[m.UserID] = true
			}
		}
	}
	delete(who, user)
	return who, nil
}
