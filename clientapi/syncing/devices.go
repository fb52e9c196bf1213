package syncing

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// maxToDevice is how many to-device messages one answer carries.
const maxToDevice = 100

// acknowledge deletes the to-device messages that the client has got: it came back with their token.
func (s *Syncing) acknowledge(ctx context.Context, u *user, q *question) error {
	upTo := q.since.ToDevice
	if q.by.Device == "" || upTo == 0 {
		return nil
	}
	s.mu.Lock()
	d := u.device(q.by.Device)
	nothing := d.deleted >= upTo || (d.fetched > 0 && d.newest <= d.deleted)
	s.mu.Unlock()
	if nothing {
		return nil
	}
	var err error
	apart(func() {
		var waiting []storage.ToDeviceMessage
		if waiting, err = s.store.ToDevice.After(ctx, u.id, q.by.Device, 0, upTo, 1); err == nil && len(waiting) > 0 {
			err = s.store.Do(ctx, func(ctx context.Context) error { return s.store.ToDevice.Delete(ctx, u.id, q.by.Device, upTo) })
		}
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	d.deleted = max(d.deleted, upTo)
	s.mu.Unlock()
	return nil
}

// messages gives the device's next to-device messages, and the position up to which they were given.
func (a *answer) messages(ctx context.Context) (messages []storage.ToDeviceMessage, next storage.Position, err error) {
	after := storage.Position(0)
	if a.q.since != nil {
		after = a.q.since.ToDevice
	}
	if a.q.by.Device == "" {
		return nil, a.to, nil
	}
	// Everything that waits was looked at up to fetched; what came later is known by newest.
	if a.toDevice.fetched > 0 && a.toDevice.newest <= max(after, a.toDevice.deleted) {
		return nil, max(a.to, after), nil
	}
	messages, err = a.s.store.ToDevice.After(ctx, a.u.id, a.q.by.Device, after, a.to, maxToDevice+1)
	if err != nil {
		return nil, 0, err
	}
	next = max(a.to, after)
	newest := storage.Position(0)
	if len(messages) > 0 {
		newest = messages[len(messages)-1].Position
	}
	if len(messages) > maxToDevice {
		messages = messages[:maxToDevice]
		next = messages[maxToDevice-1].Position
	}
	a.s.mu.Lock()
	d := a.u.device(a.q.by.Device)
	d.fetched = max(d.fetched, a.to)
	d.newest = max(d.newest, newest)
	a.s.mu.Unlock()
	return messages, next, nil
}

// deviceLists completes what the plan found: by the tables where the memory does not reach back, and by the rooms that the
// user came into or left.
func (a *answer) deviceLists(ctx context.Context) error {
	if a.q.since == nil {
		return nil
	}
	if !a.covered {
		if err := a.changedSince(ctx); err != nil {
			return err
		}
	}
	for _, p := range a.rooms {
		if p.stay.position <= a.since {
			continue
		}
		switch p.stay.membership {
		case event.MembershipJoin:
			fresh, err := a.newlyJoined(ctx, p)
			if err != nil {
				return err
			}
			if fresh {
				if err := a.met(ctx, p.id); err != nil {
					return err
				}
			}
		case event.MembershipLeave, event.MembershipBan:
			if err := a.parted(ctx, p.id); err != nil {
				return err
			}
		}
	}
	slices.Sort(a.changed)
	a.changed = slices.Compact(a.changed)
	slices.Sort(a.left)
	a.left = slices.Compact(a.left)
	return nil
}

// changedSince asks the tables whose devices changed, and who came into or left the user's rooms.
func (a *answer) changedSince(ctx context.Context) error {
	sharing, err := a.s.store.Memberships.ShareRoom(ctx, a.u.id)
	if err != nil {
		return err
	}
	share := make(map[id.UserID]bool, len(sharing)+1)
	share[a.u.id] = true
	for _, user := range sharing {
		share[user] = true
	}
	changes, err := a.s.store.DeviceLists.Between(ctx, a.since, a.to)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if share[c.UserID] {
			a.changed = append(a.changed, c.UserID)
		}
	}
	for _, p := range a.rooms {
		if p.stay.membership != event.MembershipJoin {
			continue
		}
		changes, err := a.changesIn(ctx, p, a.since)
		if err != nil {
			return err
		}
		for _, c := range changes {
			user := id.UserID(c.Key.StateKey)
			switch {
			case c.Key.Type != "m.room.member" || user == a.u.id:
			case share[user]:
				a.changed = append(a.changed, user)
			default:
				a.left = append(a.left, user)
			}
		}
	}
	return nil
}

// met notes that the user now shares a room with all who are in it: the user too, whose other devices may need to know.
func (a *answer) met(ctx context.Context, room id.RoomID) error {
	members, err := a.s.store.Memberships.ByRoom(ctx, room, event.MembershipJoin)
	for _, m := range members {
		a.changed = append(a.changed, m.UserID)
	}
	return err
}

// parted notes with whom of a room that the user left no other room is shared.
func (a *answer) parted(ctx context.Context, room id.RoomID) error {
	members, err := a.s.store.Memberships.ByRoom(ctx, room, event.MembershipJoin)
	if err != nil || len(members) == 0 {
		return err
	}
	sharing, err := a.s.store.Memberships.ShareRoom(ctx, a.u.id)
	if err != nil {
		return err
	}
	share := make(map[id.UserID]bool, len(sharing))
	for _, user := range sharing {
		share[user] = true
	}
	for _, m := range members {
		if m.UserID != a.u.id && !share[m.UserID] {
			a.left = append(a.left, m.UserID)
		}
	}
	return nil
}

func appendLists(b []byte, changed, left []id.UserID) []byte {
	if len(changed) == 0 && len(left) == 0 {
		return b
	}
	list := func(b []byte, users []id.UserID) []byte {
		b = append(b, '[')
		for i, user := range users {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, string(user))
		}
		return append(b, ']')
	}
	b = list(append(b, `,"device_lists":{"changed":`...), changed)
	b = list(append(b, `,"left":`...), left)
	return append(b, '}')
}

// keyCounts writes the counts of one-time keys and the unused fallback keys, which clients expect in each answer.
func (s *Syncing) keyCounts(ctx context.Context, by rest.Requester) ([]byte, error) {
	if by.Device == "" {
		return nil, nil
	}
	left, err := s.store.Keys.Left(ctx, by.User, by.Device)
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, 200), `,"device_one_time_keys_count":{`...)
	for i, algorithm := range slices.Sorted(maps.Keys(left.OneTime)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, algorithm), ':')
		b = strconv.AppendInt(b, int64(left.OneTime[algorithm]), 10)
	}
	b = append(b, '}')
	for _, name := range []string{`,"device_unused_fallback_key_types":[`, `,"org.matrix.msc2732.device_unused_fallback_key_types":[`} {
		b = append(b, name...)
		for i, algorithm := range left.Fallback {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, algorithm)
		}
		b = append(b, ']')
	}
	return b, nil
}
