package push

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage"
)

const (
	// searchSpan is how many positions of the stream one request looks through.
	searchSpan = 20_000
	// searchBatch is how many events are judged at once.
	searchBatch      = 200
	maxNotifications = 100
)

// listed is one notification as clients see it.
type listed struct {
	Actions []json.RawMessage `json:"actions"`
	Event   json.RawMessage   `json:"event"`
	Read    bool              `json:"read"`
	RoomID  id.RoomID         `json:"room_id"`
	TS      int64             `json:"ts"`
}

// Notifications handles GET /_matrix/client/v3/notifications.
// Spec: client-server-api/#get_matrixclientv3notifications
//
// Nothing is kept of notifications: the newest events are judged again, by the rules as they are now.
func (h *Handlers) Notifications(r *rest.Request) (any, error) {
	limit, err := r.Int("limit", 20, 1, maxNotifications)
	if err != nil {
		return nil, err
	}
	before := h.store.Head() + 1
	if from := r.Query("from"); from != "" {
		n, err := strconv.ParseInt(from, 10, 64)
		if err != nil || n < 1 {
			return nil, mautrix.MInvalidParam.WithMessage("from is no token of this list")
		}
		before = min(before, storage.Position(n))
	}
	s := &search{Handlers: h, by: r.By, limit: limit, highlights: r.Query("only") == "highlight", rooms: map[id.RoomID]*searched{}}
	if s.set, err = h.set(r.Context(), r.By.User); err != nil {
		return nil, err
	}
	if s.threads, err = h.store.ThreadSubscriptions.Followed(r.Context(), r.By.User); err != nil {
		return nil, err
	}
	next, err := s.look(r.Context(), before)
	if err != nil {
		return nil, err
	}
	answer := struct {
		Notifications []listed `json:"notifications"`
		Next          string   `json:"next_token,omitempty"`
	}{Notifications: s.found}
	if answer.Notifications == nil {
		answer.Notifications = []listed{}
	}
	if next > 1 {
		answer.Next = strconv.FormatInt(int64(next), 10)
	}
	return answer, nil
}

// search looks through what came lately for what a user was notified of.
type search struct {
	*Handlers
	by         rest.Requester
	set        *rules.Set
	limit      int
	highlights bool
	threads    storage.Followed
	rooms      map[id.RoomID]*searched
	found      []listed
}

// searched is what judging in one room takes.
type searched struct {
	person  rules.Person
	members int
	read    map[string]storage.Place
}

// look goes back from before, and gives where the next request goes on; 0 at the beginning of everything.
func (s *search) look(ctx context.Context, before storage.Position) (storage.Position, error) {
	end := max(0, before-searchSpan)
	for len(s.found) < s.limit {
		events, err := s.store.Events.NewsFor(ctx, s.by.User, end, before, searchBatch)
		if err != nil {
			return 0, err
		}
		for _, e := range events {
			before = e.Position
			if err := s.judge(ctx, e); err != nil {
				return 0, err
			}
			if len(s.found) >= s.limit {
				return before, nil
			}
		}
		if len(events) < searchBatch {
			break
		}
	}
	return end + min(end, 1), nil
}

func (s *search) judge(ctx context.Context, e *storage.Event) error {
	room, err := s.room(ctx, e.RoomID)
	if err != nil || e.RedactedBy != "" {
		return err
	}
	v := s.set.Judge(&rules.Event{
		Type: e.Type, Sender: e.Sender, RoomID: e.RoomID, EventID: e.ID, StateKey: e.StateKey, JSON: e.JSON,
		Members:         func() int { return room.members },
		SenderMayNotify: func() bool { return s.view.MayNotifyRoom(ctx, e.RoomID, e.Sender) },
	}, room.person)
	if !v.Notify || s.highlights && !v.Highlight {
		return nil
	}
	seen, err := s.view.Visible(ctx, s.by.User, []*storage.Event{e})
	if err != nil || len(seen) == 0 {
		return err
	}
	rendered, err := s.view.Render(ctx, view.Viewer{User: s.by.User, Device: s.by.Device}, view.Form{WithoutRoomID: true}, seen)
	if err != nil {
		return err
	}
	thread := "main"
	if e.RelType == "m.thread" {
		thread = string(e.RelatesTo)
	}
	s.found = append(s.found, listed{
		Actions: v.Actions(), Event: rendered[0], RoomID: e.RoomID, TS: e.Timestamp,
		Read: e.Place <= max(room.read[""], room.read[thread]),
	})
	return nil
}

func (s *search) room(ctx context.Context, roomID id.RoomID) (*searched, error) {
	if room := s.rooms[roomID]; room != nil {
		return room, nil
	}
	room := &searched{person: rules.Person{ID: s.by.User, Subscribed: s.threads.In(roomID)}, read: map[string]storage.Place{}}
	var err error
	if room.members, _, err = s.store.Memberships.Counts(ctx, roomID); err != nil {
		return nil, err
	}
	own, err := s.store.Memberships.Of(ctx, roomID, s.by.User)
	if err != nil {
		return nil, err
	}
	if own != nil && own.Membership == event.MembershipJoin {
		events, err := s.store.Events.ByNumbers(ctx, []int64{own.Event})
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			room.person.DisplayName = gjson.GetBytes(events[0].JSON, "content.displayname").Str
		}
	}
	receipts, err := s.store.Receipts.Of(ctx, roomID, s.by.User)
	if err != nil {
		return nil, err
	}
	for _, receipt := range receipts {
		room.read[receipt.Thread] = max(room.read[receipt.Thread], receipt.Place)
	}
	s.rooms[roomID] = room
	return room, nil
}
