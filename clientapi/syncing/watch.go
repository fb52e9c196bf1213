package syncing

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/storage"
)

// receiptPause is how often receipts alone wake the others in a room, at most.
const receiptPause = 100 * time.Millisecond

// watchSpan bounds how many positions are read from the tables at once when the tail no longer holds them.
const watchSpan = 1000

// watch reads the stream and keeps the memory equal to it.
func (s *Syncing) watch(ctx context.Context) error {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		at := storage.Position(s.applied.Load())
		head, moved := s.store.Moved()
		if at >= head {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		news, to, ok := s.store.Since(at)
		var err error
		if !ok {
			to = min(head, at+watchSpan)
			news, err = s.store.Changes(ctx, at, to)
		}
		if err == nil {
			err = s.apply(ctx, news, to)
		}
		if err == nil {
			pause = 50 * time.Millisecond
			continue
		}
		if ctx.Err() != nil {
			break
		}
		zerolog.Ctx(ctx).Error().Err(err).Int64("after", int64(at)).Msg("Sync cannot read the stream, will try again")
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
	return nil
}

// surroundings is what the database says of users in the news, where that matters to those who wait here.
type surroundings struct {
	// rooms in which somebody is joined now whose devices changed, or who left a room.
	rooms map[id.UserID][]id.RoomID
	// arrived: this join is one, and not a change of profile; by position.
	arrived map[storage.Position]bool
	// gaps are events before which history is missing.
	gaps map[id.EventID]bool
}

// apply takes news into the memory, and wakes each user whom it concerns once.
func (s *Syncing) apply(ctx context.Context, news []storage.Change, to storage.Position) error {
	around, err := s.surroundings(ctx, news)
	if err != nil {
		return err
	}
	woken := wake{}
	s.mu.Lock()
	for i := range news {
		s.take(&news[i], around, woken)
	}
	s.boundRings()
	s.applied.Store(int64(to))
	close(s.reached)
	s.reached = make(chan struct{})
	s.mu.Unlock()
	woken.ring()
	return nil
}

// surroundings asks the database before the lock is taken, and only when somebody waits.
func (s *Syncing) surroundings(ctx context.Context, news []storage.Change) (around surroundings, err error) {
	s.mu.RLock()
	nobody := len(s.users) == 0
	s.mu.RUnlock()
	if nobody {
		return around, nil
	}
	around = surroundings{rooms: map[id.UserID][]id.RoomID{}, arrived: map[storage.Position]bool{}}
	for i := range news {
		c := &news[i]
		switch {
		case c.Kind == storage.MembershipNews && !s.matters(c.Membership):
		case c.Kind == storage.MembershipNews && c.Membership.Membership == event.MembershipJoin:
			around.arrived[c.Position], err = s.arrived(ctx, news, c.Membership)
		case c.Kind == storage.MembershipNews || c.Kind == storage.DeviceListNews:
			if around.rooms[c.UserID] == nil {
				around.rooms[c.UserID], err = s.joinedRooms(ctx, c.UserID)
			}
		}
		if err != nil {
			return around, err
		}
	}
	around.gaps, err = s.gaps(ctx, news)
	return around, err
}

// gaps asks where history is missing before what came from other servers; our own events always follow what we hold.
func (s *Syncing) gaps(ctx context.Context, news []storage.Change) (map[id.EventID]bool, error) {
	var rooms []id.RoomID
	s.mu.RLock()
	for i := range news {
		c := &news[i]
		if c.Kind == storage.EventNews && c.Event.TransactionID == "" && s.rooms[c.RoomID] != nil && !s.local(c.Event.Sender) {
			rooms = append(rooms, c.RoomID)
		}
	}
	s.mu.RUnlock()
	if len(rooms) == 0 {
		return nil, nil
	}
	slices.Sort(rooms)
	return s.store.Rooms.Gaps(ctx, slices.Compact(rooms))
}

// local tells whether the user is one of ours. mu is held: all users in memory are ours, and of one server.
func (s *Syncing) local(user id.UserID) bool {
	for name := range s.users {
		return name.Homeserver() == user.Homeserver()
	}
	return false
}

func (s *Syncing) joinedRooms(ctx context.Context, user id.UserID) ([]id.RoomID, error) {
	joined, err := s.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	rooms := make([]id.RoomID, len(joined))
	for i, m := range joined {
		rooms[i] = m.RoomID
	}
	return rooms, err
}

// arrived looks at what the join replaced in the room's state.
func (s *Syncing) arrived(ctx context.Context, news []storage.Change, m *storage.Membership) (bool, error) {
	for i := range news {
		c := news[i].State
		if c == nil || c.RoomID != m.RoomID || c.Event != m.Event {
			continue
		}
		if c.Old == 0 {
			return true, nil
		}
		old, err := s.byNumbers(ctx, []int64{c.Old})
		if err != nil || old[c.Old] == nil {
			return true, err
		}
		return membershipOf(old[c.Old].row()) != "join", nil
	}
	return true, nil
}

// matters tells whether a change of membership may change what somebody here shares with the user.
func (s *Syncing) matters(m *storage.Membership) bool {
	if m.Membership == event.MembershipInvite || m.Membership == event.MembershipKnock {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rooms[m.RoomID] != nil
}

// take puts one piece of news into the memory. mu is held.
func (s *Syncing) take(c *storage.Change, around surroundings, woken wake) {
	switch c.Kind {
	case storage.EventNews:
		s.takeEvent(c, around, woken)
	case storage.StateNews:
		if r := s.rooms[c.RoomID]; r != nil {
			r.addChange(*c.State, s.cfg.RingEvents)
			r.snapshot = c.State.After
			r.touch(c.Position, woken)
		}
	case storage.MembershipNews:
		s.takeMembership(c, around, woken)
	case storage.ReceiptNews:
		s.takeReceipt(c, woken)
	case storage.ThreadNews:
		if u := s.users[c.UserID]; u != nil {
			u.threads, u.threadsAt = nil, c.Position
			if counted := u.counts[c.RoomID]; counted != nil {
				counted.again("")
			}
			woken.all(u)
		}
	case storage.AccountDataNews:
		if u := s.users[c.UserID]; u != nil {
			if d, ok := c.Row.(*storage.AccountData); ok {
				u.noteAccountData(d)
				if d.RoomID == "" && d.Type == rules.Type {
					u.takeRules(d.Content)
				}
			}
			woken.all(u)
		}
	case storage.ToDeviceNews:
		if u := s.users[c.UserID]; u != nil {
			u.device(c.DeviceID).newest = c.Position
			woken.device(u, c.DeviceID)
		}
	case storage.DeviceListNews:
		s.takeDeviceList(c, around.rooms[c.UserID], woken)
	case storage.DeviceEndedNews:
		if u := s.users[c.UserID]; u != nil {
			u.end(c.DeviceID)
		}
	case storage.ValidityNews:
		if v, ok := c.Row.(*storage.Validity); ok && s.users[c.UserID] != nil {
			s.users[c.UserID].expire(v.Expired(s.now()))
		}
	}
}

func (s *Syncing) takeEvent(c *storage.Change, around surroundings, woken wake) {
	e := c.Event
	// What an event does to another changes how that one looks.
	if e.Type == "m.room.redaction" {
		for _, path := range []string{"redacts", "content.redacts"} {
			if target := gjson.GetBytes(e.JSON, path); target.Type == gjson.String {
				s.outdate(c.RoomID, id.EventID(target.Str))
				s.uncount(c.RoomID)
			}
		}
	}
	if e.RelatesTo != "" {
		s.rendered.relate(e.RelatesTo)
	}
	r := s.rooms[c.RoomID]
	if r == nil {
		return
	}
	if e.RelatesTo != "" {
		r.reworked++
		for _, x := range r.events {
			if x.id == e.RelatesTo {
				x.relate()
			}
		}
	}
	x := s.rendered.hold(e)
	x.enliven(around.gaps[e.ID])
	before := r.bytes
	r.addEvent(x, s.cfg.RingEvents)
	s.ringed += r.bytes - before
	r.touch(c.Position, woken)
}

// outdate makes an event be read and rendered again when it is next shown.
func (s *Syncing) outdate(room id.RoomID, target id.EventID) {
	s.rendered.drop(target)
	s.walked.outdate(room)
	if r := s.rooms[room]; r != nil {
		r.reworked++
		for _, x := range r.events {
			if x.id == target {
				x.outdate()
			}
		}
	}
}

// uncount lets those count again in whose counts an event may be that was redacted. mu is held.
func (s *Syncing) uncount(room id.RoomID) {
	r := s.rooms[room]
	if r == nil {
		return
	}
	for u := range r.users {
		if c := u.counts[room]; c != nil && len(c.threads) > 0 {
			c.again("")
		}
	}
}

func (s *Syncing) takeMembership(c *storage.Change, around surroundings, woken wake) {
	m := c.Membership
	if u := s.users[m.UserID]; u != nil {
		s.stand(u, m, c.Position)
		woken.all(u)
	} else {
		s.follow(m)
	}
	r := s.rooms[m.RoomID]
	if r == nil {
		return
	}
	r.members = c.Position
	left := m.Membership != event.MembershipJoin && m.Membership != event.MembershipInvite && m.Membership != event.MembershipKnock
	for u := range r.users {
		switch {
		case u.id == m.UserID:
		case around.arrived[c.Position]:
			u.listChanged(m.UserID, c.Position)
		case left && around.rooms != nil && !u.shares(around.rooms[m.UserID]):
			u.listLeft(m.UserID, c.Position)
		}
	}
	if around.arrived[c.Position] {
		s.introduce(r, m.UserID)
	}
}

// stand notes how a user in memory stands to a room, and keeps the room's list of them; a room that is new here holds what
// comes after from. mu is held.
func (s *Syncing) stand(u *user, m *storage.Membership, from storage.Position) {
	old := u.stays[m.RoomID]
	if old != nil && old.position > m.Position {
		return
	}
	st := &stay{membership: m.Membership, position: m.Position, event: m.Event, eventID: m.EventID, sender: m.Sender, stripped: m.Stripped}
	switch {
	case old != nil && old.membership == m.Membership:
		st.since, st.exact = old.since, old.exact
	case old != nil || u.loaded:
		st.since, st.exact = m.Position, true
	}
	u.stays[m.RoomID] = st
	switch {
	case st.membership == event.MembershipJoin:
		r := s.rooms[m.RoomID]
		if r == nil {
			r = newRoom(m.RoomID, from)
			s.rooms[m.RoomID] = r
		}
		r.users[u] = struct{}{}
	default:
		if r := s.rooms[m.RoomID]; r != nil {
			s.leaveRoom(u, r)
		}
	}
	u.touch(m.RoomID, m.Position)
}

// leaveRoom takes a user from a room, and lets the room go with the last one. mu is held.
func (s *Syncing) leaveRoom(u *user, r *room) {
	delete(r.users, u)
	if len(r.users) == 0 && s.rooms[r.id] == r {
		delete(s.rooms, r.id)
		s.ringed -= r.bytes
		r.bytes = 0
	}
}

// boundRings empties the rings of the rooms that were silent longest when all together hold too much. mu is held.
func (s *Syncing) boundRings() {
	if s.ringed <= s.cfg.RingBytes {
		return
	}
	held := make([]*room, 0, len(s.rooms))
	for _, r := range s.rooms {
		if len(r.events) > 0 {
			held = append(held, r)
		}
	}
	slices.SortFunc(held, func(x, y *room) int {
		return cmp.Compare(x.events[len(x.events)-1].position, y.events[len(y.events)-1].position)
	})
	for _, r := range held {
		if s.ringed <= s.cfg.RingBytes*3/4 {
			return
		}
		s.ringed -= r.bytes
		r.empty()
	}
}

func (s *Syncing) takeReceipt(c *storage.Change, woken wake) {
	receipt, ok := c.Row.(*storage.Receipt)
	if !ok {
		return
	}
	if u := s.users[c.UserID]; u != nil {
		u.count(c.RoomID).takeReceipt(receipt)
		u.touch(c.RoomID, c.Position)
		woken.all(u)
	}
	r := s.rooms[c.RoomID]
	if r == nil {
		return
	}
	r.addReceipt(receipt)
	if receipt.Type == storage.ReceiptReadPrivate {
		return
	}
	for u := range r.users {
		u.touch(r.id, c.Position)
	}
	if now := s.now(); now.Sub(r.rung) >= receiptPause {
		r.rung = now
		woken.room(r)
	} else if !r.ringing {
		r.ringing = true
		time.AfterFunc(receiptPause-now.Sub(r.rung), func() { s.ringLate(r) })
	}
}

// ringLate wakes a room for receipts that came soon after others.
func (s *Syncing) ringLate(r *room) {
	woken := wake{}
	s.mu.Lock()
	r.ringing, r.rung = false, s.now()
	woken.room(r)
	s.mu.Unlock()
	woken.ring()
}

func (s *Syncing) takeDeviceList(c *storage.Change, circle []id.RoomID, woken wake) {
	if u := s.users[c.UserID]; u != nil {
		u.listChanged(c.UserID, c.Position)
		woken.all(u)
	}
	for _, roomID := range circle {
		r := s.rooms[roomID]
		if r == nil {
			continue
		}
		for u := range r.users {
			u.listChanged(c.UserID, c.Position)
		}
		woken.room(r)
	}
}

// tidy drops users who no longer sync, and rooms without any.
func (s *Syncing) tidy(ctx context.Context) {
	tick := time.NewTicker(min(s.cfg.Idle/4+time.Millisecond, time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.dropIdle()
			s.walked.age()
			s.fadePresence()
		}
	}
}

func (s *Syncing) dropIdle() {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, u := range s.users {
		if len(u.waiters) > 0 || u.using > 0 || now.Sub(u.seen) < s.cfg.Idle {
			continue
		}
		delete(s.users, name)
		if p := s.presence[name]; p != nil {
			kept := *p
			kept.rooms = u.joinedRooms()
			s.presence[name] = &kept
		}
		for roomID := range u.stays {
			if r := s.rooms[roomID]; r != nil {
				s.leaveRoom(u, r)
			}
		}
	}
}

// wake gathers whom news concerns: all of a user's waiters, or those of one device; false for those whom it concerns as part of
// a crowd only.
type wake map[*waiter]bool

// crowded is how many of a room's users sync here before they are a crowd.
const crowded = 50

func (w wake) all(u *user) {
	for x := range u.waiters {
		w[x] = true
	}
}

// room wakes all of the room's users.
func (w wake) room(r *room) {
	few := len(r.users) <= crowded
	for u := range r.users {
		for x := range u.waiters {
			w[x] = w[x] || few
		}
	}
}

func (w wake) device(u *user, device id.DeviceID) {
	for x := range u.waiters {
		if x.device == device {
			w[x] = true
		}
	}
}

// ring wakes them, the crowd last; it never blocks.
func (w wake) ring() {
	for _, express := range []bool{true, false} {
		for x, is := range w {
			if is != express {
				continue
			}
			if express {
				x.express.Store(true)
			}
			select {
			case x.woken <- struct{}{}:
			default:
			}
		}
	}
}

// ignoredUsers reads m.ignored_user_list.
func ignoredUsers(content json.RawMessage) map[id.UserID]bool {
	ignored := map[id.UserID]bool{}
	gjson.GetBytes(content, "ignored_users").ForEach(func(key, _ gjson.Result) bool {
		ignored[id.UserID(key.Str)] = true
		return true
	})
	return ignored
}
