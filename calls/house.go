package calls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/policy"
	"chancery/storage"
	"chancery/storage/bus"
)

// house is the homeserver as calls see it: the rows that say who may be where, and the bus to other servers.
type house struct {
	name        string
	store       *storage.Store
	bus         *bus.Bus
	allowed     policy.Servers // with which we federate
	guestsStart bool
	restricted  []string // servers whose users may join a call here, and not begin one
	viewOnly    []string // and those whose users only watch
	externals   policy.Externals
	asked       atomic.Uint64
}

// ask numbers a question of what holds now. The number is taken before the rows are read: whatever has changed until then, an answer
// with a greater number knows of.
func (h *house) ask() uint64 { return h.asked.Add(1) }

// New makes the focus of a homeserver.
func New(ctx context.Context, config Config, serverName string, store *storage.Store, messages *bus.Bus) (*Focus, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	if config.Secret == "" {
		secret, err := store.Secrets.Shared(ctx, "calls")
		if err != nil {
			return nil, fmt.Errorf("calls: secret: %w", err)
		}
		config.Secret = secret
	}
	h := &house{
		name: serverName, store: store, bus: messages, allowed: policy.NewServers(config.AllowedServers),
		guestsStart: config.GuestsStart, restricted: config.RestrictedServers, viewOnly: config.ViewOnlyServers, externals: config.ExternalServers,
	}
	f, err := newFocus(ctx, config, h)
	if err != nil {
		return nil, err
	}
	f.house = h
	f.service = &tokenService{focus: f, house: h}
	if config.Limits {
		f.service.limits = newTokenLimits()
	}
	f.leaves = newLeaves(f, h)
	f.records = newRecorder(store, config.KeepRecords, f.tokens.now)
	if !messages.Embedded() {
		if f.homes, err = openHomes(ctx, f, store, messages); err != nil {
			return nil, errors.Join(fmt.Errorf("calls: %w", err), f.shut())
		}
	}
	f.handler = f.routes()
	if err := f.answerTURN(); err != nil {
		return nil, errors.Join(fmt.Errorf("calls: %w", err), f.shut())
	}
	return f, nil
}

// admit reads the rows, never a cache: the bearer is joined, our server is in the room, its own one is not shut out, its
// device has not ended and its account stands (open, and neither locked, suspended nor expired), and the room has not removed it from its calls.
func (h *house) admit(ctx context.Context, c *Claims) (ruling, error) {
	m := c.Matrix
	if m == nil {
		return ruling{}, ErrNotAdmitted // signed with our secret, but not given to a user
	}
	asked := h.ask()
	joined, err := h.store.Memberships.Joined(ctx, m.Room, m.User)
	if err != nil {
		return ruling{}, fmt.Errorf("read membership: %w", err)
	}
	if !joined {
		return ruling{}, ErrNotAdmitted
	}
	if stands, err := h.stands(ctx, m); err != nil || !stands {
		return ruling{}, cmp.Or(err, ErrNotAdmitted)
	}
	rules, err := h.rules(ctx, m.Room)
	if err != nil {
		return ruling{}, err
	}
	v, ok := h.judge(rules, m)
	if !ok {
		return ruling{}, ErrNotAdmitted
	}
	v.asked = asked
	if !v.start { // somebody who may begin it has asked for a token a moment ago
		if v.start, err = h.store.CallOrders.Begun(ctx, c.Video.Room); err != nil {
			return ruling{}, fmt.Errorf("read begun calls: %w", err)
		}
	}
	return v, nil
}

// stands says whether the account of a user of ours is in order, and the device still there: the one that it says it is, and the one
// that asked.
func (h *house) stands(ctx context.Context, m *Matrix) (bool, error) {
	if m.User.Homeserver() != h.name {
		return true, nil
	}
	barred, err := h.store.Accounts.Barred(ctx, []id.UserID{m.User})
	if err != nil {
		return false, fmt.Errorf("read account: %w", err)
	}
	if len(barred) > 0 {
		return false, nil
	}
	if m.By != "" {
		if there, err := h.hasDevice(ctx, m.User, m.By); err != nil || !there {
			return false, err
		}
	}
	switch {
	case m.Known:
		return h.hasDevice(ctx, m.User, m.Device)
	case m.Others:
		return h.hasDevices(ctx, m.User)
	}
	return true, nil
}

// hasDevice says whether this is a device of a user of ours.
func (h *house) hasDevice(ctx context.Context, user id.UserID, device id.DeviceID) (bool, error) {
	if user.Homeserver() != h.name {
		return false, nil
	}
	d, err := h.store.Devices.ByID(ctx, user, device)
	if err != nil {
		return false, fmt.Errorf("read device: %w", err)
	}
	return d != nil, nil
}

// hasDevices says whether a user of ours has any device. Those of application services may have none.
func (h *house) hasDevices(ctx context.Context, user id.UserID) (bool, error) {
	if user.Homeserver() != h.name {
		return false, nil
	}
	all, err := h.store.Devices.All(ctx, user)
	if err != nil {
		return false, fmt.Errorf("read devices: %w", err)
	}
	return len(all) > 0, nil
}

// serveHouse does what a homeserver's focus does beside its calls, until ctx ends.
func (f *Focus) serveHouse(ctx context.Context) error {
	stop, err := bus.Answer(ctx, f.house.bus, bus.CallsDo, f.answer)
	if err != nil {
		return err
	}
	defer stop()
	stopAll, err := bus.AnswerAll(ctx, f.house.bus, bus.AllFoci, f.answerAll)
	if err != nil {
		return err
	}
	defer stopAll()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.follow(ctx) })
	group.Go(func() error { return f.leaves.run(ctx) })
	group.Go(func() error { f.patrol(ctx); return nil })
	group.Go(func() error { return f.records.run(ctx, f.homes != nil) })
	if f.homes != nil {
		group.Go(func() error { return f.homes.run(ctx) })
	}
	return group.Wait()
}

// follow ends the sessions of those who may no longer be in a call, and has those who may obey their rooms, until ctx ends.
func (f *Focus) follow(ctx context.Context) error {
	return f.house.store.Follow(ctx, storage.Follower{
		Kinds:    []storage.Kind{storage.MembershipNews, storage.DeviceEndedNews, storage.StateNews, storage.EventNews, storage.ValidityNews},
		Patience: patrolEvery, // once the database is back, so are we
		Handle: func(ctx context.Context, news []storage.Change, _ storage.Position) error {
			for i := range news {
				if err := f.heard(ctx, &news[i]); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// heard looks at one change: most concern no live call.
func (f *Focus) heard(ctx context.Context, c *storage.Change) error {
	switch c.Kind {
	case storage.DeviceEndedNews:
		return f.deviceEnded(ctx, c.UserID, c.DeviceID)
	case storage.ValidityNews:
		if v, ok := c.Row.(*storage.Validity); ok && v.Expired(time.Now()) {
			f.remove(ctx, func(p *Participant) bool { return p.user == c.UserID })
		}
	case storage.MembershipNews:
		f.membershipChanged(ctx, c.Membership)
	case storage.StateNews:
		switch {
		case c.State == nil:
		case isRule(c.State.Key):
			f.heed(ctx, c.RoomID, newRules)
		case c.State.Key.Type == event.StateMember.Type:
			f.comesBack(c.State)
		}
	case storage.EventNews:
		switch {
		case c.Event == nil:
		case c.Event.Type == policy.CallCommandType:
			f.heed(ctx, c.Event.RoomID, newCommand(c.Event))
		case c.Event.Type == event.EventRedaction.Type: // maybe of a rule
			f.heed(ctx, c.Event.RoomID, newRules)
		}
	}
	return nil
}

// deviceEnded ends the sessions of a device, and those for which it asked in another's name. One of which we know only that it is not the user's lasts as long as the user has another.
func (f *Focus) deviceEnded(ctx context.Context, user id.UserID, device id.DeviceID) error {
	for _, p := range f.present(func(p *Participant) bool { return p.user == user }) {
		ended := p.device == device || p.binding.By == device
		if !ended && !p.binding.Known {
			left, err := f.house.hasDevices(ctx, user)
			if err != nil {
				return err
			}
			ended = !left
		}
		if ended {
			p.dismiss(ctx)
		}
	}
	return nil
}

// membershipChanged ends the sessions of who is no longer joined; with our last user the call has no home here any more. Who was let in again
// before we came to the news stays: that is asked of the row, and if it does not answer the news counts.
func (f *Focus) membershipChanged(ctx context.Context, m *storage.Membership) {
	if m == nil || m.Membership == event.MembershipJoin {
		return
	}
	gone := f.present(func(p *Participant) bool { return p.user == m.UserID && p.matrixRoom == m.RoomID })
	if len(gone) > 0 {
		asking, cancel := context.WithTimeout(ctx, patrolEvery)
		defer cancel()
		if joined, err := f.house.store.Memberships.Joined(asking, m.RoomID, m.UserID); err == nil && joined {
			return
		}
	}
	for _, p := range gone {
		f.sendOff(ctx, p)
	}
	if m.UserID.Homeserver() == f.house.name {
		f.heed(ctx, m.RoomID, newRules)
	}
}

// remove ends the sessions for which which is true.
func (f *Focus) remove(ctx context.Context, which func(*Participant) bool) {
	for _, p := range f.present(which) {
		f.sendOff(ctx, p)
	}
}

// has says whether the Matrix room has a live call here.
func (f *Focus) has(room id.RoomID) bool {
	return len(f.present(func(p *Participant) bool { return p.matrixRoom == room })) > 0
}
