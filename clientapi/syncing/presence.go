package syncing

import (
	"context"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// The states of presence, and how long somebody counts as active after the last sign.
const (
	online         = "online"
	unavailable    = "unavailable"
	offline        = "offline"
	activeFor      = 5 * time.Minute
	offlineAfter   = 5 * time.Minute // without a sync
	presenceRepeat = 30 * time.Second
	maxStatus      = 1024

	presencePatience = 5 * time.Second
)

// presence is how a user is, as far as this process was told. Never changed once it is in the memory.
type presence struct {
	user   id.UserID
	state  string
	status string
	active int64 // ms since 1970
	// rooms of somebody who does not sync here, as they were when this was told.
	rooms []id.RoomID
}

// appeared takes in how somebody is, and marks it for those who share a room with them.
func (s *Syncing) appeared(m bus.Presence) {
	if !s.cfg.Presence {
		return
	}
	s.mu.RLock()
	_, here := s.users[m.UserID]
	s.mu.RUnlock()
	var rooms []id.RoomID
	if !here {
		ctx, stop := context.WithTimeout(context.Background(), presencePatience)
		defer stop()
		var err error
		if rooms, err = s.joinedRooms(ctx, m.UserID); err != nil {
			return // told again when it changes again
		}
	}
	woken := wake{}
	s.mu.Lock()
	old := s.presence[m.UserID]
	p := &presence{user: m.UserID, state: m.Presence, status: m.StatusMessage, active: m.LastActive, rooms: rooms}
	s.presence[m.UserID] = p
	if old == nil || old.state != p.state || old.status != p.status {
		s.mark++
		if u := s.users[m.UserID]; u != nil {
			u.shown[m.UserID], u.marked = s.mark, s.mark
			woken.all(u)
			rooms = u.joinedRooms()
		}
		for _, roomID := range rooms {
			if r := s.rooms[roomID]; r != nil {
				for u := range r.users {
					u.shown[m.UserID], u.marked = s.mark, s.mark
				}
				woken.room(r)
			}
		}
	}
	s.mu.Unlock()
	woken.ring()
}

func (u *user) joinedRooms() []id.RoomID {
	var rooms []id.RoomID
	for roomID, st := range u.stays {
		if st.membership == event.MembershipJoin {
			rooms = append(rooms, roomID)
		}
	}
	return rooms
}

// follow keeps the rooms of somebody whose presence is known, and who does not sync here. mu is held.
func (s *Syncing) follow(m *storage.Membership) {
	p := s.presence[m.UserID]
	if p == nil {
		return
	}
	moved := *p
	moved.rooms = slices.DeleteFunc(slices.Clone(p.rooms), func(room id.RoomID) bool { return room == m.RoomID })
	if m.Membership == event.MembershipJoin {
		moved.rooms = append(moved.rooms, m.RoomID)
	}
	s.presence[m.UserID] = &moved
}

// introduce marks for who came into a room how those are who are in it, and the other way round. mu is held.
func (s *Syncing) introduce(r *room, user id.UserID) {
	if !s.cfg.Presence {
		return
	}
	s.mark++
	newcomer := s.users[user]
	for u := range r.users {
		if s.presence[user] != nil {
			u.shown[user], u.marked = s.mark, s.mark
		}
		if newcomer != nil && s.presence[u.id] != nil {
			newcomer.shown[u.id], newcomer.marked = s.mark, s.mark
		}
	}
}

// planPresence copies how those are whom the user may see, where it changed. mu is held.
func (a *answer) planPresence(since int64) {
	s := a.s
	if !s.cfg.Presence {
		return
	}
	part := &a.q.filter.Presence
	if !part.kind("m.presence", "") {
		return
	}
	add := func(p *presence) {
		if p != nil && !a.ignored[p.user] && part.kind("m.presence", p.user) {
			a.present = append(a.present, p)
		}
	}
	switch {
	case a.q.since == nil || since < 0:
		seen := map[id.UserID]bool{}
		for _, roomID := range a.u.joinedRooms() {
			r := s.rooms[roomID]
			if r == nil {
				continue
			}
			for other := range r.users {
				if !seen[other.id] {
					seen[other.id] = true
					add(s.presence[other.id])
				}
			}
		}
		for other, p := range s.presence {
			if !seen[other] && p.rooms != nil && a.u.shares(p.rooms) {
				add(p)
			}
		}
	default:
		for other, mark := range a.u.shown {
			if mark > since {
				add(s.presence[other])
			}
		}
	}
	slices.SortFunc(a.present, func(x, y *presence) int { return strings.Compare(string(x.user), string(y.user)) })
}

func (a *answer) appendPresence(b []byte) []byte {
	if len(a.present) == 0 {
		return b
	}
	b = append(b, `,"presence":{"events":[`...)
	for i, p := range a.present {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(append(b, `{"type":"m.presence","sender":`...), string(p.user))
		b = p.appendContent(append(b, `,"content":`...), a.look.now)
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

func (p *presence) appendContent(b []byte, now int64) []byte {
	b = appendText(append(b, `{"presence":`...), p.state)
	if p.status != "" {
		b = appendText(append(b, `,"status_msg":`...), p.status)
	}
	ago := max(0, now-p.active)
	if p.active != 0 {
		b = appendInt(b, `,"last_active_ago":`, int(ago))
	}
	if p.state == online && ago < activeFor.Milliseconds() {
		return append(b, `,"currently_active":true}`...)
	}
	return append(b, `,"currently_active":false}`...)
}

// setPresence notes by a sync that the user is there.
func (s *Syncing) setPresence(r *rest.Request, state string) error {
	switch state {
	case "":
		state = online
	case online, unavailable, offline:
	default:
		return mautrix.MInvalidParam.WithMessage("set_presence is none of online, unavailable, offline")
	}
	if !s.cfg.Presence || state == offline || r.By.Service != nil {
		return nil
	}
	s.mu.RLock()
	old := s.presence[r.By.User]
	s.mu.RUnlock()
	now := s.now()
	if old != nil && old.state == state && now.UnixMilli()-old.active < presenceRepeat.Milliseconds() {
		return nil
	}
	status := ""
	if old != nil {
		status = old.status
	}
	m := bus.Presence{UserID: r.By.User, Presence: state, StatusMessage: status, LastActive: now.UnixMilli(), CurrentlyActive: state == online}
	s.appeared(m) // here at once: this very answer tells it, and is not followed by another for it
	return s.tellPresence(m)
}

func (s *Syncing) tellPresence(m bus.Presence) error {
	return bus.Tell(s.bus, bus.PresenceOf(m.UserID), m)
}

// PutPresence handles PUT /_matrix/client/v3/presence/{userId}/status.
// Spec: client-server-api/#put_matrixclientv3presenceuseridstatus
func (s *Syncing) PutPresence(r *rest.Request) (any, error) {
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	var body struct {
		Presence string `json:"presence"`
		Status   string `json:"status_msg"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{online, unavailable, offline}, body.Presence) {
		return nil, mautrix.MInvalidParam.WithMessage("presence is none of online, unavailable, offline")
	}
	if len(body.Status) > maxStatus {
		return nil, mautrix.MInvalidParam.WithMessage("The status message is too long")
	}
	if !s.cfg.Presence {
		return rest.Empty, nil
	}
	m := bus.Presence{UserID: user, Presence: body.Presence, StatusMessage: body.Status, LastActive: s.now().UnixMilli(), CurrentlyActive: body.Presence == online}
	// Who asks next is told this already: the bus is not waited for.
	s.appeared(m)
	return rest.Empty, s.tellPresence(m)
}

// Presence handles GET /_matrix/client/v3/presence/{userId}/status.
// Spec: client-server-api/#get_matrixclientv3presenceuseridstatus
func (s *Syncing) Presence(r *rest.Request) (any, error) {
	user, err := r.UserID()
	if err != nil {
		return nil, err
	}
	if user != r.By.User {
		share, err := s.store.Memberships.DoShare(r.Context(), r.By.User, user)
		if err != nil {
			return nil, err
		}
		if !share {
			return nil, mautrix.MForbidden.WithMessage("You share no room with this user")
		}
	}
	s.mu.RLock()
	p := s.presence[user]
	s.mu.RUnlock()
	if p == nil {
		p = &presence{user: user, state: offline}
	}
	return rawJSON(p.appendContent(nil, s.now().UnixMilli())), nil
}

// fadePresence takes those for offline who have not been seen for long. mu is not held.
func (s *Syncing) fadePresence() {
	now := s.now().UnixMilli()
	var faded []bus.Presence
	s.mu.Lock()
	for user, p := range s.presence {
		u := s.users[user]
		here := u != nil && (len(u.waiters) > 0 || u.using > 0 || now-u.seen.UnixMilli() < offlineAfter.Milliseconds())
		// Others' presence is their own server's to take back.
		if p.state != offline && !here && (u != nil || s.local(user)) && now-p.active > offlineAfter.Milliseconds() {
			faded = append(faded, bus.Presence{UserID: user, Presence: offline, StatusMessage: p.status, LastActive: p.active})
		}
	}
	s.mu.Unlock()
	for _, m := range faded {
		_ = s.tellPresence(m) // told again at the next turn
	}
}
