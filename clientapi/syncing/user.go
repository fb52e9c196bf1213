package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// user is one of ours who syncs at this process. The watcher writes it, with mu held.
type user struct {
	id id.UserID
	// from: everything after this position is noted below, once it is loaded.
	from   storage.Position
	ready  chan struct{} // closed when loaded, or failed
	loaded bool
	err    error

	waiters map[*waiter]struct{}
	waited  int64 // how many syncs have waited
	over    bool  // the account has expired by somebody's word
	using   int   // requests at work
	seen    time.Time

	stays map[id.RoomID]*stay
	// latest is the position of the newest news that concerns the user, and marked the newest mark.
	latest storage.Position
	marked int64
	// touched is the position of the newest news in a room.
	touched map[id.RoomID]storage.Position
	// typed and shown are the marks of the newest typing in a room, and of another user's presence.
	typed map[id.RoomID]int64
	shown map[id.UserID]int64
	// counted are the marks of rooms whose counts were finished after their answer.
	counted map[id.RoomID]int64

	// account data since accountFrom, ascending, each key once.
	accountFrom storage.Position
	account     []*storage.AccountData
	ignored     map[id.UserID]bool

	devices map[id.DeviceID]*device
	// changed and left are whose device lists concern the user, by the newest position.
	changed, left map[id.UserID]storage.Position

	counts map[id.RoomID]*count
	rules  *rules.Set
	// threads that the user follows; nil until they are needed, and again when they change.
	threads *storage.Followed

	// notes and kicked are for sliding syncs: direct chats and tags, and which leaves (by the event's number) ended a stay.
	notes  *notes
	kicked map[int64]bool
	// threadsAt is when a subscription of a thread last changed.
	threadsAt storage.Position
}

// stay is how a user stands to a room. It is never changed once it is in the memory.
type stay struct {
	membership event.Membership
	// position of the newest membership event; since, where exact, is that from which on the membership has been so.
	position, since storage.Position
	exact           bool
	event           int64
	eventID         id.EventID
	sender          id.UserID
	stripped        []json.RawMessage
}

// device is what is known of a device's to-device messages.
type device struct {
	// newest is the position of the newest message, as far as known.
	newest storage.Position
	// fetched: everything up to here was read from the tables, and none is left after it but those up to newest.
	fetched storage.Position
	// deleted: what the device has acknowledged is gone up to here.
	deleted storage.Position
	// answered is when it last got an answer with something in it.
	answered time.Time
}

// waiter is one sync that waits.
type waiter struct {
	device id.DeviceID
	// express: it was woken by what is not for a crowd.
	express atomic.Bool
	// surplus is closed when the device has too many that wait; nil for one that does not count. age tells the oldest.
	surplus chan struct{}
	age     int64
	woken   chan struct{}
	ended   chan struct{} // closed when the device has ended, or the account expired: why is then set
	why     error
}

// errEnded is what a sync hears whose device has ended.
var errEnded = mautrix.MUnknownToken.WithMessage("This device has been logged out")

// patienceUntil is how long a sync waits: not beyond the end of its account.
func patienceUntil(wait time.Duration, now, until time.Time) time.Duration {
	if until.IsZero() {
		return wait
	}
	return max(0, min(wait, until.Sub(now)))
}

// expired says whether the account's time is over.
func expired(now, until time.Time) bool { return !until.IsZero() && !now.Before(until) }

func newUser(name id.UserID, from storage.Position) *user {
	return &user{
		id: name, from: from, ready: make(chan struct{}), waiters: map[*waiter]struct{}{},
		stays: map[id.RoomID]*stay{}, touched: map[id.RoomID]storage.Position{}, typed: map[id.RoomID]int64{}, shown: map[id.UserID]int64{},
		accountFrom: from, devices: map[id.DeviceID]*device{}, changed: map[id.UserID]storage.Position{}, left: map[id.UserID]storage.Position{},
		counts: map[id.RoomID]*count{}, counted: map[id.RoomID]int64{},
	}
}

// enter brings a user into the memory, or finds them there; leave must be called when the request ends.
func (s *Syncing) enter(ctx context.Context, name id.UserID) (*user, error) {
	s.mu.Lock()
	u := s.users[name]
	fresh := u == nil
	if fresh {
		u = newUser(name, storage.Position(s.applied.Load()))
		s.users[name] = u
	}
	u.using++
	u.seen = s.now()
	s.mu.Unlock()
	if fresh {
		// Others may wait for it: the first one's end is not theirs.
		apart(func() { s.load(context.WithoutCancel(ctx), u) })
	}
	select {
	case <-u.ready:
	case <-ctx.Done():
		s.leave(u)
		return nil, ctx.Err()
	}
	if u.err != nil {
		s.leave(u)
		return nil, u.err
	}
	return u, nil
}

func (s *Syncing) leave(u *user) {
	s.mu.Lock()
	u.using--
	u.seen = s.now()
	s.mu.Unlock()
}

// load reads how the user stands to rooms. News that comes meanwhile is noted already, and wins.
func (s *Syncing) load(ctx context.Context, u *user) {
	defer close(u.ready)
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	rows, err := s.store.Memberships.ByUser(ctx, u.id)
	var ignored *storage.AccountData
	if err == nil {
		ignored, err = s.store.AccountData.ByType(ctx, u.id, "", event.AccountDataIgnoredUserList.Type)
	}
	newest := storage.Position(0)
	for _, m := range rows {
		newest = max(newest, m.Position)
	}
	if err == nil {
		// What the rows say may be ahead of the memory: an answer must not know of a leave whose news it cannot tell.
		err = s.reach(ctx, newest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		u.err = fmt.Errorf("read rooms of %s: %w", u.id, err)
		delete(s.users, u.id)
		for _, r := range s.rooms {
			s.leaveRoom(u, r)
		}
		return
	}
	for _, m := range rows {
		if u.stays[m.RoomID] == nil {
			s.stand(u, m, storage.Position(s.applied.Load()))
		}
	}
	if u.ignored == nil && ignored != nil {
		u.ignored = ignoredUsers(ignored.Content)
	}
	// What came while the rows were read was noted in no room of this user.
	u.from, u.loaded = storage.Position(s.applied.Load()), true
}

// maxAccount bounds the account data held at hand for a user.
const maxAccount = 256

func (u *user) noteAccountData(d *storage.AccountData) {
	if d.RoomID == "" && d.Type == event.AccountDataIgnoredUserList.Type {
		u.ignored = ignoredUsers(d.Content)
	}
	kept := make([]*storage.AccountData, 0, len(u.account)+1)
	for _, old := range u.account {
		if old.RoomID != d.RoomID || old.Type != d.Type {
			kept = append(kept, old)
		}
	}
	if len(kept) >= maxAccount {
		u.accountFrom = kept[0].Position
		kept = kept[1:]
	}
	u.account = append(kept, d)
	if d.RoomID != "" {
		u.touch(d.RoomID, d.Position)
	}
	u.latest = max(u.latest, d.Position)
}

// touch notes news in a room.
func (u *user) touch(room id.RoomID, at storage.Position) {
	u.touched[room], u.latest = max(u.touched[room], at), max(u.latest, at)
}

func (u *user) device(name id.DeviceID) *device {
	d := u.devices[name]
	if d == nil {
		d = &device{}
		u.devices[name] = d
	}
	return d
}

func (u *user) count(room id.RoomID) *count {
	c := u.counts[room]
	if c == nil {
		c = &count{}
		u.counts[room] = c
	}
	return c
}

// maxWaiting bounds how many syncs of one device wait at once.
const maxWaiting = 16

// wait lets a sync wait; the device's oldest ends when there are too many. mu is held.
func (u *user) wait(w *waiter) {
	u.waited++
	w.age = u.waited
	u.waiters[w] = struct{}{}
	waiting, oldest := 0, w
	for x := range u.waiters {
		if x.surplus != nil && x.device == w.device {
			waiting++
			if x.age < oldest.age {
				oldest = x
			}
		}
	}
	if waiting > maxWaiting {
		close(oldest.surplus)
		delete(u.waiters, oldest)
	}
}

// end tells the waiters of a device that it is gone.
func (u *user) end(name id.DeviceID) {
	delete(u.devices, name)
	for w := range u.waiters {
		if w.device == name {
			u.dismiss(w, errEnded)
		}
	}
}

func (u *user) dismiss(w *waiter, why error) {
	w.why = why
	close(w.ended)
	delete(u.waiters, w)
}

// expire takes in until when the account is good. If its time is over, all waiters of the user hear of it.
func (u *user) expire(over bool) {
	if u.over = over; !over {
		return
	}
	for w := range u.waiters {
		u.dismiss(w, rest.ErrExpired)
	}
}

// maxLists bounds the users whose device lists are held at hand for one who no longer asks: beyond it the tables are asked.
const maxLists = 5000

func (u *user) boundLists(at storage.Position) {
	if len(u.changed)+len(u.left) > maxLists {
		clear(u.changed)
		clear(u.left)
		u.from = max(u.from, at)
	}
}

func (u *user) listChanged(other id.UserID, at storage.Position) {
	u.boundLists(at)
	u.changed[other], u.latest = at, max(u.latest, at)
	delete(u.left, other)
}

func (u *user) listLeft(other id.UserID, at storage.Position) {
	u.boundLists(at)
	u.left[other], u.latest = at, max(u.latest, at)
	delete(u.changed, other)
}

// shares tells whether the user is joined to one of the rooms.
func (u *user) shares(rooms []id.RoomID) bool {
	for _, room := range rooms {
		if st := u.stays[room]; st != nil && st.membership == event.MembershipJoin {
			return true
		}
	}
	return false
}
