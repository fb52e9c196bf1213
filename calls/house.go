package calls

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/storage"
	"chancery/storage/bus"
)

// house is the homeserver as calls see it: the rows that say who may be where, and the bus to other servers.
type house struct {
	name        string
	store       *storage.Store
	bus         *bus.Bus
	guestsStart bool
}

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
	h := &house{name: serverName, store: store, bus: messages, guestsStart: config.GuestsStart}
	f, err := newFocus(ctx, config, h)
	if err != nil {
		return nil, err
	}
	f.house = h
	f.service = &tokenService{focus: f, house: h}
	if config.Limits {
		f.service.limits = newTokenLimits()
	}
	f.handler = f.routes()
	return f, nil
}

// admit reads the rows, never a cache: the bearer is joined, our server is in the room, its device has not ended.
func (h *house) admit(ctx context.Context, c *Claims) (start bool, err error) {
	m := c.Matrix
	if m == nil {
		return false, ErrNotAdmitted // signed with our secret, but not given to a user
	}
	joined, err := h.store.Memberships.Joined(ctx, m.Room, m.User)
	if err != nil {
		return false, fmt.Errorf("read membership: %w", err)
	}
	if !joined {
		return false, ErrNotAdmitted
	}
	here, err := h.store.Rooms.HasServer(ctx, m.Room, h.name)
	if err != nil {
		return false, fmt.Errorf("read servers: %w", err)
	}
	if !here {
		return false, ErrNotAdmitted
	}
	if m.Known {
		still, err := h.hasDevice(ctx, m.User, m.Device)
		if err != nil {
			return false, err
		}
		if !still {
			return false, ErrNotAdmitted
		}
	}
	return h.guestsStart || m.User.Homeserver() == h.name, nil
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

// follow ends the sessions of those who may no longer be in a call, until ctx ends.
func (f *Focus) follow(ctx context.Context) error {
	return f.house.store.Follow(ctx, storage.Follower{
		Kinds: []storage.Kind{storage.MembershipNews, storage.DeviceEndedNews},
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
		f.remove(ctx, func(p *Participant) bool { return p.user == c.UserID && p.device == c.DeviceID })
	case storage.MembershipNews:
		m := c.Membership
		if m == nil || m.Membership == event.MembershipJoin {
			return nil
		}
		f.remove(ctx, func(p *Participant) bool { return p.user == m.UserID && p.matrixRoom == m.RoomID })
		if m.UserID.Homeserver() != f.house.name || !f.has(m.RoomID) {
			return nil
		}
		here, err := f.house.store.Rooms.HasServer(ctx, m.RoomID, f.house.name)
		if err != nil {
			return err
		}
		if !here { // our last user has left: the call has no home here
			f.remove(ctx, func(p *Participant) bool { return p.matrixRoom == m.RoomID })
		}
	}
	return nil
}

// remove ends the sessions for which which is true.
func (f *Focus) remove(ctx context.Context, which func(*Participant) bool) {
	for _, r := range f.liveRooms() {
		for _, p := range *r.everyone.Load() {
			if which(p) {
				zerolog.Ctx(ctx).Info().Str("participant", p.sid).Str("call", r.sid).Msg("Participant removed from the call")
				p.end(signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT)
			}
		}
	}
}

// has says whether the Matrix room has a live call here.
func (f *Focus) has(room id.RoomID) bool {
	for _, r := range f.liveRooms() {
		for _, p := range *r.everyone.Load() {
			if p.matrixRoom == room {
				return true
			}
		}
	}
	return false
}
