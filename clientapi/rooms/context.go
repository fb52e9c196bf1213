package rooms

import (
	"context"
	"encoding/json"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// Event handles GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}.
// Spec: client-server-api/#get_matrixclientv3roomsroomideventeventid
func (h *Handlers) Event(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	e, err := h.visibleEvent(r.Context(), r.By.User, roomID, eventID)
	if err != nil {
		return nil, err
	}
	rendered, err := h.view.Client(r.Context(), viewer(r), []*storage.Event{e})
	if err != nil {
		return nil, err
	}
	return rendered[0], nil
}

// contextAnswer is the body of /context.
type contextAnswer struct {
	Start  string            `json:"start"`
	End    string            `json:"end"`
	Event  json.RawMessage   `json:"event"`
	Before []json.RawMessage `json:"events_before"`
	After  []json.RawMessage `json:"events_after"`
	State  []json.RawMessage `json:"state"`
}

// Context handles GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}.
// Spec: client-server-api/#get_matrixclientv3roomsroomidcontexteventid
func (h *Handlers) Context(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	a, err := h.read(r.Context(), r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	e, err := h.visibleEvent(r.Context(), r.By.User, roomID, eventID)
	if err != nil {
		return nil, err
	}
	return h.context(r, a, e)
}

// context answers with what lies around an event that the reader may see.
func (h *Handlers) context(r *rest.Request, a *access, e *storage.Event) (any, error) {
	ctx := r.Context()
	past, err := walkOf(r, a.room.ID, "b")
	if err != nil {
		return nil, err
	}
	future := *past
	future.limit -= past.limit / 2
	past.limit /= 2
	past.backwards, past.from, past.to = true, e.PageOf(), nil
	future.backwards, future.from, future.to = false, e.PageOf(), nil
	for _, w := range []*walk{past, &future} {
		w.within(a)
		if err := h.walk(ctx, a, w); err != nil {
			return nil, err
		}
	}
	answer := contextAnswer{Start: past.next.String(), End: after(e).String()}
	last := e
	if n := len(future.found); n > 0 {
		last = future.found[n-1]
		answer.End = after(last).String()
	}
	state, err := h.contextState(ctx, past, append(append([]*storage.Event{e}, past.found...), future.found...), last.After)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		events []*storage.Event
		into   *[]json.RawMessage
	}{{past.found, &answer.Before}, {future.found, &answer.After}, {state, &answer.State}} {
		rendered, err := h.view.Client(ctx, viewer(r), part.events)
		if err != nil {
			return nil, err
		}
		*part.into = emptied(rendered)
	}
	rendered, err := h.view.Client(ctx, viewer(r), []*storage.Event{e})
	if err != nil {
		return nil, err
	}
	answer.Event = rendered[0]
	return answer, nil
}

// contextState is the state at the end of the context; with lazy loading, of the members the senders alone.
func (h *Handlers) contextState(ctx context.Context, w *walk, shown []*storage.Event, at storage.Snapshot) ([]*storage.Event, error) {
	state, err := h.store.State.At(ctx, at)
	if err != nil {
		return nil, err
	}
	senders := map[id.UserID]bool{}
	for _, e := range shown {
		senders[e.Sender] = true
	}
	numbers := make([]int64, 0, len(state))
	for key, number := range state {
		if w.filter.LazyLoadMembers && key.Type == event.StateMember.Type && !senders[id.UserID(key.StateKey)] {
			continue
		}
		numbers = append(numbers, number)
	}
	return h.numbered(ctx, numbers)
}

// Members handles GET /_matrix/client/v3/rooms/{roomId}/members.
// Spec: client-server-api/#get_matrixclientv3roomsroomidmembers
func (h *Handlers) Members(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	a, err := h.read(ctx, r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	at, err := h.stateThen(ctx, a, r.Query("at"))
	if err != nil {
		return nil, err
	}
	members, err := h.store.State.OfType(ctx, at, event.StateMember.Type)
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, 0, len(members))
	for _, number := range members {
		numbers = append(numbers, number)
	}
	events, err := h.numbered(ctx, numbers)
	if err != nil {
		return nil, err
	}
	only, not := r.Query("membership"), r.Query("not_membership")
	wanted := events[:0]
	for _, e := range events {
		membership := contentText(e, "membership")
		if (only == "" || membership == only) && (not == "" || membership != not) {
			wanted = append(wanted, e)
		}
	}
	rendered, err := h.view.Client(ctx, viewer(r), wanted)
	if err != nil {
		return nil, err
	}
	return map[string]any{"chunk": emptied(rendered)}, nil
}

// stateThen is the state at a token of sync or of a page, as far as the reader may see; without one, the newest.
func (h *Handlers) stateThen(ctx context.Context, a *access, token string) (storage.Snapshot, error) {
	if token == "" {
		return a.state, nil
	}
	page, err := storage.ParsePage(token)
	if err != nil {
		return storage.Snapshot{}, badToken
	}
	if a.left != nil && before(a.left.PageOf(), page) {
		return a.state, nil
	}
	last, err := h.store.Events.Backwards(ctx, a.room.ID, page, 1)
	if err != nil {
		return storage.Snapshot{}, err
	}
	if len(last) == 0 {
		return h.founding(ctx, a.room.ID)
	}
	return last[0].After, nil
}

// founding is the state after the creator's join. A timeline that reaches back to the beginning has a token from before
// there was anybody; who asks for the members then means those with whom the room began.
func (h *Handlers) founding(ctx context.Context, roomID id.RoomID) (storage.Snapshot, error) {
	first, err := h.store.Events.Forwards(ctx, roomID, firstPage, 10)
	for _, e := range first {
		if e.Type == event.StateMember.Type {
			return e.After, err
		}
	}
	return storage.Snapshot{}, err
}

// JoinedMembers handles GET /_matrix/client/v3/rooms/{roomId}/joined_members.
// Spec: client-server-api/#get_matrixclientv3roomsroomidjoined_members
func (h *Handlers) JoinedMembers(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if err := h.mustBeJoined(ctx, r.By.User, roomID); err != nil {
		return nil, err
	}
	list, err := h.store.Memberships.ByRoom(ctx, roomID, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, len(list))
	for i, m := range list {
		numbers[i] = m.Event
	}
	events, err := h.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	joined := make(map[string]map[string]any, len(events))
	for _, e := range events {
		content := gjson.GetBytes(e.JSON, "content")
		shown := map[string]any{"display_name": nil, "avatar_url": nil}
		for field, name := range map[string]string{"displayname": "display_name", "avatar_url": "avatar_url"} {
			if v := content.Get(field); v.Type == gjson.String {
				shown[name] = v.Str
			}
		}
		if e.StateKey != nil {
			joined[*e.StateKey] = shown
		}
	}
	return map[string]any{"joined": joined}, nil
}
