package rooms

import (
	"context"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// access is how far somebody may read a room.
type access struct {
	room *storage.Room
	// state is what the reader is shown as the room's state: the current one, or that of the moment when the reader left.
	state storage.Snapshot
	// left is the event by which the reader left; nil while joined, and for those who read from outside.
	left *storage.Event
	// joined: the reader is in the room now.
	joined bool
	// overseen: the reader is an administrator, who reads all.
	overseen bool
}

// forbidden is what those hear who may not read a room, whether it exists or not.
var forbidden = mautrix.MForbidden.WithMessage("You are not in this room")

// read says how far the user may read the room; M_FORBIDDEN if not at all.
func (h *Handlers) read(ctx context.Context, user id.UserID, roomID id.RoomID) (*access, error) {
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	m, err := h.store.Memberships.Of(ctx, roomID, user)
	if err != nil {
		return nil, err
	}
	if room == nil {
		return nil, forbidden
	}
	a := &access{room: room, state: room.State}
	if m != nil && m.Membership == event.MembershipJoin {
		a.joined = true
		return a, nil
	}
	if m != nil && !m.Forgotten {
		if a.left, err = h.leaving(ctx, user, m); err != nil {
			return nil, err
		}
	}
	// What anybody may read, those who left may read too, up to now.
	open, err := h.worldReadable(ctx, room)
	switch {
	case err != nil:
		return nil, err
	case open:
		a.left = nil
		return a, nil
	case a.left != nil:
		a.state = a.left.After
		return a, nil
	}
	return nil, forbidden
}

// maxSteps bounds how many of a user's membership changes are followed back in search of the last join.
const maxSteps = 20

// leaving gives the event by which the user last ceased to be joined, or nil for who never was.
func (h *Handlers) leaving(ctx context.Context, user id.UserID, m *storage.Membership) (*storage.Event, error) {
	events, err := h.store.Events.ByNumbers(ctx, []int64{m.Event})
	if err != nil || len(events) == 0 {
		return nil, err
	}
	e := events[0]
	for range maxSteps {
		before, err := h.store.State.Event(ctx, e.Before, pdu.Key{Type: event.StateMember.Type, StateKey: string(user)})
		if err != nil || before == nil || before.ID == e.ID {
			return nil, err
		}
		if contentText(before, "membership") == string(event.MembershipJoin) {
			return e, nil
		}
		e = before
	}
	return nil, nil
}

// worldReadable says whether anybody may read the room. What we know of a room that we have left is no longer true.
func (h *Handlers) worldReadable(ctx context.Context, room *storage.Room) (bool, error) {
	if !room.Joined {
		return false, nil
	}
	e, err := h.store.State.Event(ctx, room.State, pdu.Key{Type: event.StateHistoryVisibility.Type})
	return contentText(e, "history_visibility") == "world_readable", err
}

// mustBeJoined refuses who is not in the room now.
func (h *Handlers) mustBeJoined(ctx context.Context, user id.UserID, roomID id.RoomID) error {
	joined, err := h.store.Memberships.Joined(ctx, roomID, user)
	if err == nil && !joined {
		return forbidden
	}
	return err
}

// visibleEvent gives an event of the room that the user may see; M_NOT_FOUND otherwise.
func (h *Handlers) visibleEvent(ctx context.Context, user id.UserID, roomID id.RoomID, eventID id.EventID) (*storage.Event, error) {
	e, err := h.store.Events.ByID(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if e == nil || e.RoomID != roomID {
		return nil, noSuchEvent
	}
	visible, err := h.view.Visible(ctx, user, []*storage.Event{e})
	if err != nil {
		return nil, err
	}
	if len(visible) == 0 {
		return nil, noSuchEvent
	}
	return visible[0], nil
}

var noSuchEvent = mautrix.MNotFound.WithMessage("There is no such event, or you may not see it")

// missingParam answers a request that lacks something.
var missingParam = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: 400}

// badToken answers a token that is none of ours.
var badToken = mautrix.MInvalidParam.WithMessage("This is no token of this server")

// contentText is a string of an event's content; empty where there is none, or no event.
func contentText(e *storage.Event, field string) string {
	if e == nil {
		return ""
	}
	if v := gjson.GetBytes(e.JSON, "content."+field); v.Type == gjson.String {
		return v.Str
	}
	return ""
}
