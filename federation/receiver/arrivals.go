package receiver

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// unasked is the stream ID of a list that is being fetched for the first time since its user came, and whose keys nobody
// here has asked for: no client holds anything that an update could outdate.
const unasked = -1

// arrivals follows who comes into rooms. A copy of a device list that nobody kept up to date, since its user was in no
// room of ours or we were in none of theirs, is doubted; the list of who comes into an encrypted room is fetched at once.
// Spec: server-server-api/#device-management
func (l *lists) arrivals(ctx context.Context) error {
	return l.r.store.Follow(ctx, storage.Follower{
		Name: "device-lists", Kinds: []storage.Kind{storage.StateNews},
		Handle: func(ctx context.Context, news []storage.Change, _ storage.Position) error {
			for i := range news {
				if c := news[i].State; c.Key.Type == event.StateMember.Type {
					if err := l.arrival(ctx, c); err != nil {
						return err
					}
				}
			}
			return nil
		},
	})
}

func (l *lists) arrival(ctx context.Context, c *storage.StateChange) error {
	events, err := l.r.store.Events.ByNumbers(ctx, []int64{c.Event, c.Old})
	if err != nil {
		return err
	}
	in := map[int64]bool{}
	for _, e := range events {
		in[e.Number] = gjson.GetBytes(e.JSON, "content.membership").Str == string(event.MembershipJoin)
	}
	if !in[c.Event] || in[c.Old] {
		return nil
	}
	if user := id.UserID(c.Key.StateKey); user.Homeserver() != l.r.client.ServerName() {
		return l.arrived(ctx, user, c.RoomID)
	}
	return l.weArrived(ctx, id.UserID(c.Key.StateKey), c.RoomID)
}

// weArrived: one of ours came into a room.
func (l *lists) weArrived(ctx context.Context, user id.UserID, room id.RoomID) error {
	// Where others of ours are, we were told all the time.
	if others, err := l.r.store.Memberships.Another(ctx, room, l.r.client.ServerName(), user); err != nil || others {
		return err
	}
	return l.r.store.Do(ctx, func(ctx context.Context) error { return l.r.store.DeviceLists.DoubtRoom(ctx, room) })
}

// arrived: a user of another server came into a room.
func (l *lists) arrived(ctx context.Context, user id.UserID, room id.RoomID) error {
	rooms, err := l.r.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return err
	}
	for _, m := range rooms {
		if m.RoomID != room {
			return nil // we were told all the time
		}
	}
	known, err := l.r.store.DeviceLists.Remote(ctx, user)
	if err != nil {
		return err
	}
	if known == nil {
		encryption, err := l.r.store.State.Current(ctx, room, pdu.Key{Type: event.StateEncryption.Type})
		if err != nil || encryption == nil {
			return err
		}
	}
	err = l.r.store.Do(ctx, func(ctx context.Context) error {
		return l.r.store.DeviceLists.PutRemote(ctx, storage.RemoteDeviceList{UserID: user, StreamID: unasked, Stale: true})
	})
	if err == nil {
		l.want(user)
	}
	return err
}

// Query asks another server for its users' keys, by ask, for a client: changes are told from now on, and the next question is
// answered from a copy, as long as they share a room with one of ours. What the server answers of whole lists becomes that copy, so that
// clients hold nothing older than the copy.
func (r *Receiver) Query(ctx context.Context, users map[id.UserID][]id.DeviceID, ask func() (json.RawMessage, error)) (json.RawMessage, error) {
	since := map[id.UserID]int{}
	for user, devices := range users {
		stale, err := r.track(ctx, user)
		if err != nil {
			return nil, err
		}
		switch {
		case stale && len(devices) == 0:
			since[user] = r.lists.begin(user)
			defer r.lists.end(user)
		case stale:
			r.lists.want(user)
		}
	}
	raw, err := ask()
	answer := partAnswer(raw)
	for user, doubts := range since {
		list := answer.whole(user)
		if list == nil {
			r.lists.want(user)
		} else if err := r.lists.keep(ctx, user, list, doubts); err != nil {
			return nil, err
		}
	}
	return raw, err
}

// queryAnswer is an answer to a query of keys, by user.
type queryAnswer struct {
	devices, master, selfSigning map[string]gjson.Result
}

func partAnswer(raw json.RawMessage) queryAnswer {
	parts := gjson.GetManyBytes(raw, "device_keys", "master_keys", "self_signing_keys")
	return queryAnswer{parts[0].Map(), parts[1].Map(), parts[2].Map()}
}

// whole is what the answer says of a user of whom all devices were asked for; nil if it says nothing.
func (a queryAnswer) whole(user id.UserID) *deviceList {
	devices := a.devices[string(user)]
	if !devices.IsObject() {
		return nil
	}
	list := &deviceList{UserID: user, Master: object(a.master[string(user)]), SelfSigning: object(a.selfSigning[string(user)])}
	devices.ForEach(func(device, keys gjson.Result) bool {
		d := listedDevice{DeviceID: id.DeviceID(device.Str), Name: keys.Get("unsigned.device_display_name").Str}
		var err error
		if d.Keys, err = sjson.DeleteBytes([]byte(keys.Raw), "unsigned"); err == nil {
			list.Devices = append(list.Devices, d)
		}
		return true
	})
	return list
}

func object(v gjson.Result) json.RawMessage {
	if v.IsObject() {
		return json.RawMessage(v.Raw)
	}
	return nil
}

// track notes that a client asks for the user's keys; it says whether there is no copy that can be believed, of a user of whom there
// should be one.
func (r *Receiver) track(ctx context.Context, user id.UserID) (stale bool, err error) {
	known, err := r.store.DeviceLists.Remote(ctx, user)
	if err != nil {
		return false, err
	}
	if known != nil && known.StreamID != unasked {
		return known.Stale, nil
	}
	rooms, err := r.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil || len(rooms) == 0 {
		return false, err
	}
	return true, r.store.Do(ctx, func(ctx context.Context) error {
		return r.store.DeviceLists.PutRemote(ctx, storage.RemoteDeviceList{UserID: user, Stale: true})
	})
}

// holds says whether an update tells nothing that clients have to know: it says what our copy says, or nobody has
// asked for the list that is being fetched.
func (l *lists) holds(ctx context.Context, u *deviceUpdate) (bool, error) {
	known, err := l.r.store.DeviceLists.Remote(ctx, u.UserID)
	if err != nil || known == nil {
		return false, err
	}
	if known.StreamID == unasked {
		l.want(u.UserID)
		return true, nil
	}
	if known.Stale {
		return false, nil
	}
	devices, err := l.r.store.Keys.Devices(ctx, u.UserID)
	if err != nil {
		return false, err
	}
	for _, d := range devices {
		if d.DeviceID != u.DeviceID {
			continue
		}
		return !u.Deleted && d.DisplayName == u.Name && sameJSON(d.JSON, u.Keys), nil
	}
	return u.Deleted || len(u.Keys) == 0, nil
}

func sameJSON(a, b []byte) bool {
	a, err1 := pdu.Canonical(a)
	b, err2 := pdu.Canonical(b)
	return err1 == nil && err2 == nil && bytes.Equal(a, b)
}
