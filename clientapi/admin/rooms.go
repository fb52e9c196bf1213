package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage"
)

// shownRoom is a room as Synapse's tools read it.
type shownRoom struct {
	RoomID      id.RoomID      `json:"room_id"`
	Name        *string        `json:"name"`
	Alias       *string        `json:"canonical_alias"`
	Joined      int            `json:"joined_members"`
	Ours        int            `json:"joined_local_members"`
	Version     id.RoomVersion `json:"version"`
	Creator     *string        `json:"creator"`
	Encryption  *string        `json:"encryption"`
	Federatable bool           `json:"federatable"`
	Public      bool           `json:"public"`
	JoinRules   *string        `json:"join_rules"`
	GuestAccess *string        `json:"guest_access"`
	Visibility  *string        `json:"history_visibility"`
	StateEvents int            `json:"state_events"`
	Type        *string        `json:"room_type"`

	topic, avatar *string
}

var noSuchRoom = mautrix.MNotFound.WithMessage("There is no such room")

// roomID reads {roomId}.
func (h *Handlers) room(r *rest.Request) (*storage.Room, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	room, err := h.store.Rooms.ByID(r.Context(), roomID)
	if err == nil && room == nil {
		err = noSuchRoom
	}
	return room, err
}

// roomOrAlias reads {roomIdOrAlias}: a room that we know, or one of its local aliases.
func (h *Handlers) roomOrAlias(r *rest.Request) (*storage.Room, error) {
	name := r.Path("roomIdOrAlias")
	if strings.HasPrefix(name, "#") {
		roomID, err := h.store.Rooms.ByAlias(r.Context(), id.RoomAlias(name))
		if err != nil {
			return nil, err
		}
		name = string(roomID)
	} else if !strings.HasPrefix(name, "!") {
		return nil, invalid("This is neither a room ID nor an alias")
	}
	room, err := h.store.Rooms.ByID(r.Context(), id.RoomID(name))
	if err == nil && room == nil {
		err = noSuchRoom
	}
	return room, err
}

// described are the pieces of state that describe a room, and where in their content.
var described = []struct {
	typ, field string
	into       func(*shownRoom) **string
}{
	{event.StateRoomName.Type, "name", func(s *shownRoom) **string { return &s.Name }},
	{event.StateTopic.Type, "topic", func(s *shownRoom) **string { return &s.topic }},
	{event.StateRoomAvatar.Type, "url", func(s *shownRoom) **string { return &s.avatar }},
	{event.StateCanonicalAlias.Type, "alias", func(s *shownRoom) **string { return &s.Alias }},
	{event.StateEncryption.Type, "algorithm", func(s *shownRoom) **string { return &s.Encryption }},
	{event.StateJoinRules.Type, "join_rule", func(s *shownRoom) **string { return &s.JoinRules }},
	{event.StateGuestAccess.Type, "guest_access", func(s *shownRoom) **string { return &s.GuestAccess }},
	{event.StateHistoryVisibility.Type, "history_visibility", func(s *shownRoom) **string { return &s.Visibility }},
	{event.StateCreate.Type, "type", func(s *shownRoom) **string { return &s.Type }},
}

// describe says of rooms what their state says, all but how large it is.
func (h *Handlers) describe(ctx context.Context, rooms []*storage.Room) ([]*shownRoom, error) {
	shown := make([]*shownRoom, len(rooms))
	ids := make([]id.RoomID, len(rooms))
	asked := make([]storage.Lookup, 0, len(rooms)*len(described))
	for i, room := range rooms {
		shown[i] = &shownRoom{RoomID: room.ID, Version: room.Version, Public: room.Listed, Federatable: true}
		ids[i] = room.ID
		for _, d := range described {
			asked = append(asked, storage.Lookup{At: room.State, Key: storage.Key{Type: d.typ}})
		}
	}
	populations, err := h.store.Memberships.Populations(ctx, h.server, ids)
	if err != nil {
		return nil, err
	}
	numbers, err := h.store.State.Lookups(ctx, asked)
	if err != nil {
		return nil, err
	}
	events, err := h.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	byNumber := make(map[int64]*storage.Event, len(events))
	for _, e := range events {
		byNumber[e.Number] = e
	}
	for i, s := range shown {
		s.Joined, s.Ours = populations[s.RoomID].Joined, populations[s.RoomID].Ours
		for j, d := range described {
			e := byNumber[numbers[i*len(described)+j]]
			if e == nil || e.RedactedBy != "" && e.Type != event.StateCreate.Type {
				continue
			}
			content := gjson.GetBytes(e.JSON, "content")
			if v := content.Get(d.field); v.Type == gjson.String && v.Str != "" {
				text := v.Str
				*d.into(s) = &text
			}
			if e.Type == event.StateCreate.Type {
				creator := string(e.Sender)
				s.Creator, s.Federatable = &creator, content.Get(`m\.federate`).Type != gjson.False
			}
		}
	}
	return shown, nil
}

// sized counts the state of rooms.
func (h *Handlers) sized(ctx context.Context, rooms []*shownRoom) error {
	for _, s := range rooms {
		room, err := h.store.Rooms.ByID(ctx, s.RoomID)
		if err != nil || room == nil {
			return err
		}
		state, err := h.store.State.At(ctx, room.State)
		if err != nil {
			return err
		}
		s.StateEvents = len(state)
	}
	return nil
}

// texts compares what may not be there.
func texts(field func(*shownRoom) *string) func(a, b *shownRoom) int {
	return func(a, b *shownRoom) int {
		x, y := field(a), field(b)
		switch {
		case x == nil && y == nil:
			return 0
		case x == nil:
			return 1 // those without stand behind
		case y == nil:
			return -1
		}
		return cmp.Compare(strings.ToLower(*x), strings.ToLower(*y))
	}
}

func flags(field func(*shownRoom) bool) func(a, b *shownRoom) int {
	return func(a, b *shownRoom) int {
		x, y := field(a), field(b)
		switch {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	}
}

// largest compares numbers, the greater first.
func largest(field func(*shownRoom) int) func(a, b *shownRoom) int {
	return func(a, b *shownRoom) int { return cmp.Compare(field(b), field(a)) }
}

var byName = texts(func(s *shownRoom) *string { return s.Name })

var roomOrders = map[string]func(a, b *shownRoom) int{
	"": byName, "name": byName, "alphabetical": byName,
	"size":                 largest(func(s *shownRoom) int { return s.Joined }),
	"joined_members":       largest(func(s *shownRoom) int { return s.Joined }),
	"joined_local_members": largest(func(s *shownRoom) int { return s.Ours }),
	"state_events":         largest(func(s *shownRoom) int { return s.StateEvents }),
	"version": func(a, b *shownRoom) int {
		return cmp.Or(len(b.Version)-len(a.Version), cmp.Compare(b.Version, a.Version))
	},
	"canonical_alias":    texts(func(s *shownRoom) *string { return s.Alias }),
	"creator":            texts(func(s *shownRoom) *string { return s.Creator }),
	"encryption":         texts(func(s *shownRoom) *string { return s.Encryption }),
	"join_rules":         texts(func(s *shownRoom) *string { return s.JoinRules }),
	"guest_access":       texts(func(s *shownRoom) *string { return s.GuestAccess }),
	"history_visibility": texts(func(s *shownRoom) *string { return s.Visibility }),
	"room_type":          texts(func(s *shownRoom) *string { return s.Type }),
	"federatable":        flags(func(s *shownRoom) bool { return s.Federatable }),
	"public":             flags(func(s *shownRoom) bool { return s.Public }),
}

// found says whether a search term is in the room's name, in the localpart of its alias, or in its ID.
func (s *shownRoom) found(term string) bool {
	if term == "" {
		return true
	}
	holds := func(text *string) bool {
		return text != nil && strings.Contains(strings.ToLower(*text), strings.ToLower(term))
	}
	if s.Alias != nil {
		if local, _, _ := strings.Cut(strings.TrimPrefix(*s.Alias, "#"), ":"); holds(&local) {
			return true
		}
	}
	return holds(s.Name) || strings.Contains(string(s.RoomID), term)
}

// Rooms handles GET /_synapse/admin/v1/rooms.
func (h *Handlers) Rooms(r *rest.Request) (any, error) {
	backward, offset, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	by := r.Query("order_by")
	compare := roomOrders[by]
	if compare == nil {
		return nil, invalid("Rooms cannot be put in order by %q", by)
	}
	if r.HTTP.URL.Query().Has("search_term") && r.Query("search_term") == "" {
		return nil, invalid("search_term is empty")
	}
	public, err := flag(r, "public_rooms")
	if err != nil {
		return nil, err
	}
	empty, err := flag(r, "empty_rooms")
	if err != nil {
		return nil, err
	}
	list, err := h.allRooms(r.Context(), func(s *shownRoom) bool {
		return s.found(r.Query("search_term")) && (public == nil || *public == s.Public) && (empty == nil || *empty == (s.Joined == 0))
	})
	if err != nil {
		return nil, err
	}
	if by == "state_events" {
		if err := h.sized(r.Context(), list); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b *shownRoom) int { return cmp.Or(compare(a, b), cmp.Compare(a.RoomID, b.RoomID)) })
	if backward {
		slices.Reverse(list)
	}
	shown := cut(list, offset, limit)
	if by != "state_events" {
		if err := h.sized(r.Context(), shown); err != nil {
			return nil, err
		}
	}
	answer := map[string]any{"rooms": append([]*shownRoom{}, shown...), "offset": offset, "total_rooms": len(list)}
	if next := offset + len(shown); len(shown) > 0 && next < len(list) {
		answer["next_batch"] = next
	}
	if offset > 0 {
		answer["prev_batch"] = max(0, offset-limit)
	}
	return answer, nil
}

// allRooms describes all rooms that are wanted.
func (h *Handlers) allRooms(ctx context.Context, wanted func(*shownRoom) bool) ([]*shownRoom, error) {
	const slice = 200
	var list []*shownRoom
	for after := id.RoomID(""); ; {
		rooms, err := h.store.Rooms.After(ctx, after, slice)
		if err != nil || len(rooms) == 0 {
			return list, err
		}
		shown, err := h.describe(ctx, rooms)
		if err != nil {
			return nil, err
		}
		for _, s := range shown {
			if wanted(s) {
				list = append(list, s)
			}
		}
		after = rooms[len(rooms)-1].ID
	}
}

// Room handles GET /_synapse/admin/v1/rooms/{roomId}.
func (h *Handlers) Room(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	shown, err := h.describe(ctx, []*storage.Room{room})
	if err != nil {
		return nil, err
	}
	if err := h.sized(ctx, shown); err != nil {
		return nil, err
	}
	devices, err := h.store.Memberships.DevicesIn(ctx, room.ID, h.server)
	if err != nil {
		return nil, err
	}
	forgotten, err := h.store.Memberships.Forgotten(ctx, room.ID, h.server)
	return struct {
		*shownRoom
		Topic     *string `json:"topic"`
		Avatar    *string `json:"avatar"`
		Devices   int     `json:"joined_local_devices"`
		Forgotten bool    `json:"forgotten"`
	}{shown[0], shown[0].topic, shown[0].avatar, devices, forgotten}, err
}

// Members handles GET /_synapse/admin/v1/rooms/{roomId}/members.
func (h *Handlers) Members(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	list, err := h.store.Memberships.ByRoom(r.Context(), room.ID, event.MembershipJoin)
	members := make([]id.UserID, len(list))
	for i, m := range list {
		members[i] = m.UserID
	}
	slices.Sort(members)
	return map[string]any{"members": members, "total": len(members)}, err
}

// State handles GET /_synapse/admin/v1/rooms/{roomId}/state.
func (h *Handlers) State(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	state, err := h.store.State.At(r.Context(), room.State)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for key, number := range state {
		if typ := r.Query("type"); typ == "" || typ == key.Type {
			numbers = append(numbers, number)
		}
	}
	events, err := h.store.Events.ByNumbers(r.Context(), numbers)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(events, func(a, b *storage.Event) int { return cmp.Compare(a.Number, b.Number) })
	rendered, err := h.view.Client(r.Context(), view.Viewer{User: r.By.User, Device: r.By.Device}, events)
	if rendered == nil {
		rendered = []json.RawMessage{}
	}
	return map[string]any{"state": rendered}, err
}

// Blocked handles GET /_synapse/admin/v1/rooms/{roomId}/block.
func (h *Handlers) Blocked(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	by, err := h.store.Rooms.BlockedBy(r.Context(), roomID)
	return struct {
		Block  bool      `json:"block"`
		UserID id.UserID `json:"user_id,omitempty"`
	}{by != "", by}, err
}

// Block handles PUT /_synapse/admin/v1/rooms/{roomId}/block. The room need not be known here.
func (h *Handlers) Block(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	block, err := wanted(r, "block")
	if err != nil {
		return nil, err
	}
	return map[string]bool{"block": block}, h.store.Do(r.Context(), func(ctx context.Context) error {
		if block {
			return h.store.Rooms.Block(ctx, roomID, r.By.User)
		}
		return h.store.Rooms.Unblock(ctx, roomID)
	})
}

// Event handles GET /_synapse/admin/v1/fetch_event/{eventId}: an event as it is stored.
func (h *Handlers) Event(r *rest.Request) (any, error) {
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	e, err := h.store.Events.ByID(r.Context(), eventID)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, mautrix.MNotFound.WithMessage("There is no such event")
	}
	whole := map[string]json.RawMessage{}
	if err := json.Unmarshal(e.JSON, &whole); err != nil {
		return nil, err
	}
	if whole["event_id"], err = json.Marshal(e.ID); err != nil {
		return nil, err
	}
	if whole["room_id"], err = json.Marshal(e.RoomID); err != nil {
		return nil, err
	}
	return map[string]any{"event": whole}, nil
}
