package appservice

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// encrypted is what a service needs that keeps the keys of its users' devices itself.
// Spec: MSC3202, MSC2409
type encrypted struct {
	messages      []json.RawMessage
	changed, left map[id.UserID]bool
	// fetched are the messages' rows, which go when the transaction that holds them is written.
	fetched map[deviceName]storage.Position
	// keys are users of the service whose keys may have become more or fewer.
	keys map[id.UserID]bool
}

type deviceName struct {
	user   id.UserID
	device id.DeviceID
}

func (e *encrypted) empty() bool { return len(e.messages)+len(e.changed)+len(e.left)+len(e.keys) == 0 }

func (e *encrypted) join(next encrypted) {
	e.messages = append(e.messages, next.messages...)
	for user := range next.changed {
		e.change(user)
	}
	for user := range next.left {
		e.leave(user)
	}
	for name, position := range next.fetched {
		e.fetch(name, position)
	}
	for user := range next.keys {
		e.touch(user)
	}
}

func (e *encrypted) change(user id.UserID) {
	if e.changed == nil {
		e.changed = map[id.UserID]bool{}
	}
	e.changed[user] = true
	delete(e.left, user)
}

func (e *encrypted) leave(user id.UserID) {
	if e.left == nil {
		e.left = map[id.UserID]bool{}
	}
	e.left[user] = true
	delete(e.changed, user)
}

func (e *encrypted) touch(user id.UserID) {
	if e.keys == nil {
		e.keys = map[id.UserID]bool{}
	}
	e.keys[user] = true
}

func (e *encrypted) fetch(name deviceName, position storage.Position) {
	if e.fetched == nil {
		e.fetched = map[deviceName]storage.Position{}
	}
	e.fetched[name] = max(position, e.fetched[name])
}

// made says whether the service made this user: a person who is merely in its namespaces syncs, and keeps the messages.
func (a *service) made(ctx context.Context, user id.UserID) (bool, error) {
	if !a.Owns(user) {
		return false, nil
	}
	account, err := a.all.store.Accounts.ByID(ctx, user)
	return account != nil && account.ServiceID == a.ID(), err
}

// addToDevice adds a message for a device of one of the service's users.
func (f *feeder) addToDevice(ctx context.Context, p *parcel, c *storage.Change) error {
	made, err := f.made(ctx, c.UserID)
	if err != nil || !made {
		return err
	}
	messages, err := f.all.store.ToDevice.After(ctx, c.UserID, c.DeviceID, c.Position-1, c.Position, 1)
	if err != nil || len(messages) == 0 {
		return err
	}
	raw, err := sjson.SetBytes(messages[0].JSON, "to_user_id", c.UserID)
	if err == nil {
		raw, err = sjson.SetBytes(raw, "to_device_id", c.DeviceID)
	}
	if err != nil {
		return err
	}
	p.encrypted.messages = append(p.encrypted.messages, raw)
	p.encrypted.fetch(deviceName{c.UserID, c.DeviceID}, c.Position)
	p.encrypted.touch(c.UserID)
	p.bytes += len(raw)
	return nil
}

// addDeviceList adds that somebody's devices changed whom the service's users meet.
func (f *feeder) addDeviceList(ctx context.Context, p *parcel, c *storage.Change) error {
	shares, err := f.interest.shares(ctx, c.UserID)
	if err != nil || !shares {
		return err
	}
	p.encrypted.change(c.UserID)
	if f.Owns(c.UserID) {
		p.encrypted.touch(c.UserID)
	}
	return nil
}

// addMember adds whose devices are to be followed since they came, and whose no longer since they went.
func (f *feeder) addMember(ctx context.Context, p *parcel, e *storage.Event) error {
	user := id.UserID(*e.StateKey)
	if membershipOf(e) == event.MembershipJoin {
		was, err := f.interest.wasJoined(ctx, []storage.Lookup{{At: e.Before, Key: pdu.Key{Type: typeMember, StateKey: *e.StateKey}}})
		if err == nil && !was {
			p.encrypted.change(user)
		}
		return err
	}
	shares, err := f.interest.shares(ctx, user)
	if err == nil && !shares {
		p.encrypted.leave(user)
	}
	return err
}

// keysLeft is what devices have left to give out, where it is not what the service was told last.
func (d *deliverer) keysLeft(ctx context.Context, users map[id.UserID]bool) (counts map[id.UserID]map[id.DeviceID]map[string]int, unused map[id.UserID]map[id.DeviceID][]string, err error) {
	counts, unused = map[id.UserID]map[id.DeviceID]map[string]int{}, map[id.UserID]map[id.DeviceID][]string{}
	store := d.all.store
	for _, user := range slices.Sorted(maps.Keys(users)) {
		devices, err := store.Devices.All(ctx, user)
		if err != nil {
			return nil, nil, err
		}
		for _, device := range devices {
			left, err := store.Keys.Left(ctx, user, device.DeviceID)
			if err != nil {
				return nil, nil, err
			}
			name, now := deviceName{user, device.DeviceID}, string(object(left))
			if d.told[name] == now {
				continue
			}
			if len(d.told) > maxRooms {
				clear(d.told)
			}
			d.told[name] = now
			if counts[user] == nil {
				counts[user], unused[user] = map[id.DeviceID]map[string]int{}, map[id.DeviceID][]string{}
			}
			counts[user][device.DeviceID], unused[user][device.DeviceID] = left.OneTime, left.Fallback
		}
	}
	return counts, unused, nil
}
