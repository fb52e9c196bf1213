package appservice

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

const (
	// maxRooms bounds the rooms whose verdict a service remembers.
	maxRooms = 20_000
	// verdictAge is how long a verdict stands: aliases come and go without news.
	verdictAge = time.Minute
)

var (
	typeMember = event.StateMember.Type
	typeAlias  = event.StateCanonicalAlias.Type
)

// interests says which rooms concern a service.
// Spec: application-service-api/#registration
type interests struct {
	app *service

	mu    sync.Mutex
	rooms map[id.RoomID]verdict
}

type verdict struct {
	concerns bool
	until    time.Time
}

func newInterests(app *service) *interests {
	return &interests{app: app, rooms: map[id.RoomID]verdict{}}
}

// event says whether an event concerns the service: by its sender, its target, or its room.
func (i *interests) event(ctx context.Context, e *storage.Event) (bool, error) {
	target := e.Type == typeMember && e.StateKey != nil && i.app.Owns(id.UserID(*e.StateKey))
	if target || e.Type == typeAlias {
		// What follows is judged anew: somebody came or went, or the room has another name.
		i.forget(e.RoomID)
	}
	if target || i.app.Owns(e.Sender) {
		return true, nil
	}
	return i.room(ctx, e.RoomID, e)
}

// room says whether a room concerns the service: as it is now, or as it was just before an event.
func (i *interests) room(ctx context.Context, room id.RoomID, at *storage.Event) (bool, error) {
	if in, _ := match(i.app.Namespaces.Rooms, string(room)); in {
		return true, nil
	}
	now := i.app.all.now()
	i.mu.Lock()
	known, ok := i.rooms[room]
	i.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.concerns, nil
	}
	concerns, err := i.judge(ctx, room, at)
	if err != nil {
		return false, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.rooms) >= maxRooms {
		i.rooms = map[id.RoomID]verdict{}
	}
	i.rooms[room] = verdict{concerns, now.Add(verdictAge)}
	return concerns, nil
}

func (i *interests) forget(room id.RoomID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.rooms, room)
}

// judge looks for an alias of the namespaces, and for a joined user.
func (i *interests) judge(ctx context.Context, room id.RoomID, at *storage.Event) (bool, error) {
	store := i.app.all.store
	if len(i.app.Namespaces.Aliases) > 0 {
		aliases, err := store.Rooms.Aliases(ctx, room)
		if err != nil {
			return false, err
		}
		for _, a := range aliases {
			if in, _ := match(i.app.Namespaces.Aliases, string(a.Alias)); in {
				return true, nil
			}
		}
	}
	members, err := store.Memberships.OfServer(ctx, room, i.app.all.cfg.ServerName)
	if err != nil {
		return false, err
	}
	var asked []storage.Lookup
	for _, m := range members {
		switch {
		case !i.app.Owns(m.UserID):
		case at != nil && m.Position > at.Position:
			// Changed since: what counts is how it was.
			asked = append(asked, storage.Lookup{At: at.Before, Key: pdu.Key{Type: typeMember, StateKey: string(m.UserID)}})
		case m.Membership == event.MembershipJoin:
			return true, nil
		}
	}
	return i.wasJoined(ctx, asked)
}

// wasJoined says whether one of the membership events asked for is a join.
func (i *interests) wasJoined(ctx context.Context, asked []storage.Lookup) (bool, error) {
	if len(asked) == 0 {
		return false, nil
	}
	numbers, err := i.app.all.store.State.Lookups(ctx, asked)
	if err != nil {
		return false, err
	}
	events, err := i.app.all.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return false, err
	}
	for _, e := range events {
		if membershipOf(e) == event.MembershipJoin {
			return true, nil
		}
	}
	return false, nil
}

// shares says whether a user is in a room that concerns the service, or is one of its own.
func (i *interests) shares(ctx context.Context, user id.UserID) (bool, error) {
	if i.app.Owns(user) {
		return true, nil
	}
	rooms, err := i.app.all.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return false, err
	}
	for _, m := range rooms {
		if concerns, err := i.room(ctx, m.RoomID, nil); concerns || err != nil {
			return concerns, err
		}
	}
	return false, nil
}
