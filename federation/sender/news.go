package sender

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// handle gives a run of news to the destinations concerned.
func (s *Sender) handle(ctx context.Context, news []storage.Change, to storage.Position) error {
	fell := make(map[string]*destination)
	for i := range news {
		c := &news[i]
		var err error
		switch c.Kind {
		case storage.EventNews:
			err = s.event(ctx, c.Event, fell)
		case storage.StateNews:
			if c.State.Key.Type == event.StateMember.Type {
				s.spans.forget(c.RoomID)
				err = s.joined(ctx, c.State)
			}
		case storage.OutboundNews:
			if o, ok := c.Row.(*storage.Outbound); ok && s.worthy(o.Server) {
				d := s.to(o.Server)
				d.addOutbound()
				d.start(ctx)
			}
		case storage.ReceiptNews:
			if r, ok := c.Row.(*storage.Receipt); ok {
				err = s.receipt(ctx, r)
			}
		case storage.DeviceListNews:
			err = s.deviceList(ctx, c)
		}
		if err != nil {
			return fmt.Errorf("news at %d: %w", c.Position, err)
		}
	}
	if err := s.writeLags(ctx, fell); err != nil {
		return err
	}
	s.handled.Store(int64(to))
	return nil
}

// event goes to all servers that are in the room before or after it, if one of our users sent it. Destinations that begin to lag
// by it are put into fell.
func (s *Sender) event(ctx context.Context, e *storage.Event, fell map[string]*destination) error {
	if e.Type == event.StateMember.Type && e.StateKey != nil {
		s.spans.forget(e.RoomID)
	}
	if e.Sender.Homeserver() != s.name {
		return nil
	}
	if through, err := s.letIn(ctx, e); err != nil || through {
		return err
	}
	servers, err := s.spans.at(ctx, e.RoomID, e.Position)
	if err != nil {
		return err
	}
	if target := alsoFor(e); target != "" {
		servers = append(servers[:len(servers):len(servers)], target)
	}
	seen := make(map[string]bool, len(servers))
	for _, server := range servers {
		if !s.worthy(server) || seen[server] {
			continue
		}
		seen[server] = true
		d := s.to(server)
		if d.addEvent(e) {
			fell[server] = d
		}
		d.start(ctx)
	}
	return nil
}

// letIn says whether the event is a join of ours through another server: that server tells the others.
func (s *Sender) letIn(ctx context.Context, e *storage.Event) (bool, error) {
	if e.Type != event.StateMember.Type || e.StateKey == nil || *e.StateKey != string(e.Sender) ||
		gjson.GetBytes(e.JSON, "content.membership").Str != string(event.MembershipJoin) {
		return false, nil
	}
	return s.store.Rooms.HasEdge(ctx, e.RoomID, e.ID)
}

// alsoFor names the server of a user who is sent away from a room: by a kick or ban of one who was only invited, the user's
// server learns that the invite is void, though it was never in the room.
func alsoFor(e *storage.Event) string {
	if e.Type != event.StateMember.Type || e.StateKey == nil {
		return ""
	}
	switch event.Membership(gjson.GetBytes(e.JSON, "content.membership").Str) {
	case event.MembershipLeave, event.MembershipBan:
		return id.UserID(*e.StateKey).Homeserver()
	}
	return ""
}

// receipt goes to the servers in the room, unless it is private.
func (s *Sender) receipt(ctx context.Context, r *storage.Receipt) error {
	if r.Type != storage.ReceiptRead || r.UserID.Homeserver() != s.name {
		return nil
	}
	servers, err := s.spans.at(ctx, r.RoomID, r.Position)
	if err != nil {
		return err
	}
	for _, server := range servers {
		if s.worthy(server) {
			d := s.to(server)
			d.addReceipt(r)
			d.start(ctx)
		}
	}
	return nil
}

// deviceList tells all servers that share a room with the user: in rows, which wait until they are acknowledged.
// Spec: server-server-api/#device-management
func (s *Sender) deviceList(ctx context.Context, c *storage.Change) error {
	if c.UserID.Homeserver() != s.name {
		return nil
	}
	servers, err := s.sharing(ctx, c.UserID)
	if err != nil || len(servers) == 0 {
		return err
	}
	if c.DeviceID == "" {
		return s.signingKeys(ctx, c.UserID, servers)
	}
	device, err := s.store.Devices.ByID(ctx, c.UserID, c.DeviceID)
	if err != nil {
		return err
	}
	update := deviceUpdate{UserID: c.UserID, DeviceID: c.DeviceID, Deleted: device == nil}
	if device != nil {
		update.Name = device.DisplayName
	}
	keys, err := s.deviceKeys(ctx, c.UserID)
	if err != nil {
		return err
	}
	update.Keys = keys[c.DeviceID]
	return s.store.Do(ctx, func(ctx context.Context) error { return s.tellDevice(ctx, update, c.Position, servers) })
}

// deviceKeys are the identity keys of a user's devices, with the signatures that came after them: a device that was verified is news
// by its owner's signature alone.
func (s *Sender) deviceKeys(ctx context.Context, user id.UserID) (map[id.DeviceID]json.RawMessage, error) {
	published, err := s.store.Keys.Published(ctx, user, "")
	if err != nil {
		return nil, err
	}
	keys := make(map[id.DeviceID]json.RawMessage, len(published.Devices))
	for _, d := range published.Devices {
		keys[d.DeviceID] = d.JSON
	}
	return keys, nil
}

// deviceUpdate is the content of an m.device_list_update.
type deviceUpdate struct {
	UserID   id.UserID          `json:"user_id"`
	DeviceID id.DeviceID        `json:"device_id"`
	Name     string             `json:"device_display_name,omitempty"`
	StreamID storage.Position   `json:"stream_id"`
	Previous []storage.Position `json:"prev_id"`
	Deleted  bool               `json:"deleted,omitempty"`
	Keys     json.RawMessage    `json:"keys,omitempty"`
}

// tellDevice writes the update's rows, inside Do.
func (s *Sender) tellDevice(ctx context.Context, update deviceUpdate, at storage.Position, servers []string) error {
	update.StreamID = at
	var rows []*storage.Outbound
	for _, server := range servers {
		before, err := s.store.Destinations.NextDeviceList(ctx, server, at)
		if err != nil {
			return err
		}
		update.Previous = []storage.Position{}
		if before != 0 && before != at {
			update.Previous = append(update.Previous, before)
		}
		content, err := json.Marshal(update)
		if err != nil {
			return err
		}
		rows = append(rows, &storage.Outbound{Server: server, Type: "m.device_list_update", Content: content})
	}
	return s.store.Outbound.Add(ctx, rows)
}

// joined tells the servers that come to share a room with one of our users, by the user's joining, of all the devices.
// Spec: server-server-api/#device-management
func (s *Sender) joined(ctx context.Context, c *storage.StateChange) error {
	user := id.UserID(c.Key.StateKey)
	if user.Homeserver() != s.name {
		return nil
	}
	events, err := s.store.Events.ByNumbers(ctx, []int64{c.Event, c.Old})
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
	servers, err := s.newlySharing(ctx, user, c.RoomID)
	if err != nil || len(servers) == 0 {
		return err
	}
	devices, err := s.store.Devices.All(ctx, user)
	if err != nil {
		return err
	}
	keys, err := s.deviceKeys(ctx, user)
	if err != nil {
		return err
	}
	return s.store.Do(ctx, func(ctx context.Context) error {
		for _, d := range devices {
			update := deviceUpdate{UserID: user, DeviceID: d.DeviceID, Name: d.DisplayName, Keys: keys[d.DeviceID]}
			if err := s.tellDevice(ctx, update, s.store.Next(ctx, 1), servers); err != nil {
				return err
			}
		}
		return nil
	})
}

// newlySharing are the servers in the room that share no other room with the user.
func (s *Sender) newlySharing(ctx context.Context, user id.UserID, room id.RoomID) ([]string, error) {
	here, err := s.spans.now(ctx, room)
	if err != nil {
		return nil, err
	}
	rooms, err := s.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, m := range rooms {
		if m.RoomID == room {
			continue
		}
		in, err := s.spans.now(ctx, m.RoomID)
		if err != nil {
			return nil, err
		}
		for _, server := range in {
			known[server] = true
		}
	}
	var fresh []string
	for _, server := range here {
		if s.worthy(server) && !known[server] {
			fresh = append(fresh, server)
		}
	}
	return fresh, nil
}

// signingKeys tells the servers of a user's cross-signing keys.
func (s *Sender) signingKeys(ctx context.Context, user id.UserID, servers []string) error {
	keys, err := s.store.Keys.Published(ctx, user, "")
	if err != nil {
		return err
	}
	update := struct {
		UserID      id.UserID       `json:"user_id"`
		Master      json.RawMessage `json:"master_key,omitempty"`
		SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
	}{user, keys.Master, keys.SelfSigning}
	content, err := json.Marshal(update)
	if err != nil {
		return err
	}
	var rows []*storage.Outbound
	for _, server := range servers {
		rows = append(rows, &storage.Outbound{Server: server, Type: "m.signing_key_update", Content: content})
	}
	return s.store.Outbound.Add(ctx, rows)
}

// sharing gives the servers that share a room with the user.
func (s *Sender) sharing(ctx context.Context, user id.UserID) ([]string, error) {
	rooms, err := s.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	var servers []string
	for _, m := range rooms {
		in, err := s.spans.now(ctx, m.RoomID)
		if err != nil {
			return nil, err
		}
		for _, server := range in {
			if s.worthy(server) && !seen[server] {
				seen[server] = true
				servers = append(servers, server)
			}
		}
	}
	return servers, nil
}

// listen takes from the bus what lives only there: typing, presence, and that a server is back.
func (s *Sender) listen(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	log := zerolog.Ctx(ctx)
	typing, err := bus.Listen(s.bus, bus.AllTyping, func(_ string, t bus.Typing) {
		if t.UserID.Homeserver() != s.name || ctx.Err() != nil {
			return
		}
		servers, err := s.spans.now(ctx, t.RoomID)
		if err != nil {
			log.Debug().Err(err).Msg("Typing not sent")
		}
		for _, server := range servers {
			if s.worthy(server) {
				d := s.to(server)
				d.addTyping(t)
				d.start(ctx)
			}
		}
	})
	if err != nil {
		return stop, err
	}
	stops = append(stops, typing)
	alive, err := bus.Listen(s.bus, bus.AllAlive, func(_ string, server string) {
		s.mu.Lock()
		d := s.destinations[server]
		s.mu.Unlock()
		if d != nil && ctx.Err() == nil {
			d.alive()
		}
	})
	if err != nil {
		stop()
		return nil, err
	}
	stops = append(stops, alive)
	if !s.cfg.Presence {
		return stop, nil
	}
	presence, err := bus.Listen(s.bus, bus.AllPresence, func(_ string, p bus.Presence) {
		if p.UserID.Homeserver() != s.name || ctx.Err() != nil {
			return
		}
		servers, err := s.sharing(ctx, p.UserID)
		if err != nil {
			log.Debug().Err(err).Msg("Presence not sent")
		}
		for _, server := range servers {
			d := s.to(server)
			d.addPresence(p)
			d.start(ctx)
		}
	})
	if err != nil {
		stop()
		return nil, err
	}
	stops = append(stops, presence)
	return stop, nil
}

// spans remembers which servers were in a room when. It is dropped for a room whenever somebody comes or goes there.
type spans struct {
	store *storage.Store
	mu    sync.Mutex
	known map[id.RoomID][]storage.ServerSpan
}

const maxSpans = 10_000

func newSpans(store *storage.Store) *spans {
	return &spans{store: store, known: make(map[id.RoomID][]storage.ServerSpan)}
}

func (s *spans) forget(room id.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, room)
}

func (s *spans) of(ctx context.Context, room id.RoomID) ([]storage.ServerSpan, error) {
	s.mu.Lock()
	list, ok := s.known[room]
	s.mu.Unlock()
	if ok {
		return list, nil
	}
	list, err := s.store.Rooms.ServerSpans(ctx, room)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxSpans {
		clear(s.known)
	}
	s.known[room] = list
	return list, nil
}

// at gives the servers that were in the room before or after what happened at the position.
func (s *spans) at(ctx context.Context, room id.RoomID, at storage.Position) ([]string, error) {
	list, err := s.of(ctx, room)
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, span := range list {
		if span.Since <= at && (span.Until == 0 || at <= span.Until) {
			servers = append(servers, span.Server)
		}
	}
	return servers, nil
}

// now gives the servers that are in the room.
func (s *spans) now(ctx context.Context, room id.RoomID) ([]string, error) {
	list, err := s.of(ctx, room)
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, span := range list {
		if span.Until == 0 {
			servers = append(servers, span.Server)
		}
	}
	return servers, nil
}
