package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/policy"
	"chancery/storage"
	"chancery/storage/bus"
)

// fociPatience is how long is waited for all the call foci of this server to say what they have.
const fociPatience = 500 * time.Millisecond

// liveCalls asks every focus for its calls: those of a room, or all. more: not all of them, or not all who are in them.
func (h *Handlers) liveCalls(ctx context.Context, room id.RoomID) (calls []bus.LiveCall, more bool, err error) {
	answers, err := bus.AskAll[bus.FociQuestion, bus.FociAnswer](ctx, h.bus, bus.AllFoci, bus.FociQuestion{List: &bus.CallList{RoomID: room}}, fociPatience)
	calls = []bus.LiveCall{}
	for _, a := range answers {
		calls, more = append(calls, a.Calls...), more || a.More
	}
	return calls, more, err
}

// Calls handles GET /_chancery/admin/v1/calls: the calls that are open, who is in them, and how their lines are.
func (h *Handlers) Calls(r *rest.Request) (any, error) {
	calls, more, err := h.liveCalls(r.Context(), "")
	return map[string]any{"calls": calls, "total": len(calls), "more": more}, err
}

// CallRecords handles GET /_chancery/admin/v1/calls/records: who was in which call, the latest first. room_id, user_id and
// from_ts and to_ts (ms since 1970) narrow it down; from and limit page it.
func (h *Handlers) CallRecords(r *rest.Request) (any, error) {
	_, offset, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	const longest = 1 << 52
	from, err := r.Int("from_ts", 0, 0, longest)
	if err != nil {
		return nil, err
	}
	to, err := r.Int("to_ts", 0, 0, longest)
	if err != nil {
		return nil, err
	}
	records, err := h.store.CallRecords.Find(r.Context(), storage.CallSearch{
		RoomID: id.RoomID(r.Query("room_id")), UserID: id.UserID(r.Query("user_id")), From: int64(from), To: int64(to), Limit: limit + 1, Offset: offset,
	})
	if err != nil {
		return nil, err
	}
	answer := map[string]any{}
	if len(records) > limit {
		records, answer["next_token"] = records[:limit], fmt.Sprint(offset+limit)
	}
	answer["records"] = append([]*storage.CallRecord{}, records...)
	return answer, nil
}

// Call handles GET /_chancery/admin/v1/rooms/{roomId}/call: the room's calls, and what is ordered for them here.
func (h *Handlers) Call(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	order, err := h.store.CallOrders.ByRoom(r.Context(), room.ID)
	if err != nil {
		return nil, err
	}
	orders := json.RawMessage("{}")
	if order != nil {
		orders = order.Orders
	}
	calls, more, err := h.liveCalls(r.Context(), room.ID)
	return map[string]any{"room_id": room.ID, "orders": orders, "calls": calls, "more": more}, err
}

// OrderCall handles PUT /_chancery/admin/v1/rooms/{roomId}/call: what holds for the room's calls on this server, beside what the
// room itself says: locked, view_only, max_participants, max_bitrate, publish_level, muted, no_video and removed.
func (h *Handlers) OrderCall(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	var settings policy.CallSettings
	if err := r.JSON(&settings); err != nil {
		return nil, err
	}
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(new(policy.CallSettings)); err != nil { // what is misspelt would be an order that nobody follows
		return nil, invalid("There is no such order: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if settings.MaxParticipants < 0 || settings.MaxBitrate < 0 {
		return nil, invalid("A bound is less than nothing")
	}
	if err := h.OrderCalls(r.Context(), room.ID, settings, r.By.User); err != nil {
		return nil, err
	}
	return map[string]any{"room_id": room.ID, "orders": settings}, nil
}

// OrderCalls orders what holds for the calls of a room.
func (h *Handlers) OrderCalls(ctx context.Context, room id.RoomID, settings policy.CallSettings, by id.UserID) error {
	orders, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = bus.Ask[bus.CallsQuestion, bus.CallsAnswer](ctx, h.bus, bus.CallsDo, bus.CallsQuestion{
		Order: &bus.CallOrder{RoomID: room, Orders: orders, By: by},
	})
	return err
}

// CommandCall handles POST /_chancery/admin/v1/rooms/{roomId}/call/{command}: mute or remove somebody (user_id, and perhaps
// device_id and track_sid), or end the call.
func (h *Handlers) CommandCall(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	var command policy.CallCommand
	if err := r.OptionalJSON(&command); err != nil {
		return nil, err
	}
	command.Do = r.Path("command")
	done, err := h.CommandCalls(r.Context(), room.ID, command)
	return map[string]int{"done": done}, err
}

var noSuchCommand = mautrix.MUnrecognized.WithMessage("There is no such command, or nobody is named").WithStatus(http.StatusBadRequest)

// CommandCalls does something once in the calls of a room, and says to how many.
func (h *Handlers) CommandCalls(ctx context.Context, room id.RoomID, command policy.CallCommand) (done int, err error) {
	raw, err := json.Marshal(command)
	if err != nil {
		return 0, err
	}
	if _, ok := policy.ParseCallCommand(raw); !ok {
		return 0, noSuchCommand
	}
	answers, err := bus.AskAll[bus.FociQuestion, bus.FociAnswer](ctx, h.bus, bus.AllFoci, bus.FociQuestion{
		Command: &bus.CallCommand{RoomID: room, Command: raw},
	}, fociPatience)
	for _, a := range answers {
		done += a.Done
	}
	return done, err
}

// CallWish is what is wished for a room's calls at the machine itself.
type CallWish struct {
	// Do is list, end, mute, remove, lock, unlock, view-only or open.
	Do string `json:"do"`
	// Room is a room's ID or alias, User whom it is about.
	Room string    `json:"room,omitempty"`
	User id.UserID `json:"user,omitempty"`
}

// ListCalls gives all live calls; more: there are some, or participants of theirs, that are not listed.
func (h *Handlers) ListCalls(ctx context.Context) (calls []bus.LiveCall, more bool, err error) {
	return h.liveCalls(ctx, "")
}

// KeepCalls does what is wished, and says what was done.
func (h *Handlers) KeepCalls(ctx context.Context, wish CallWish) (string, error) {
	room := id.RoomID(wish.Room)
	if strings.HasPrefix(wish.Room, "#") {
		var err error
		if room, err = h.store.Rooms.ByAlias(ctx, id.RoomAlias(wish.Room)); err != nil {
			return "", err
		}
	}
	known, err := h.store.Rooms.ByID(ctx, room)
	switch {
	case err != nil:
		return "", err
	case known == nil:
		return "", noSuchRoom
	}
	switch wish.Do {
	case policy.CallMute, policy.CallRemove:
		if _, _, err := wish.User.Parse(); err != nil {
			return "", fmt.Errorf("%q is no user ID: want one such as @ben:%s", wish.User, h.server)
		}
		fallthrough
	case policy.CallEnd:
		done, err := h.CommandCalls(ctx, room, policy.CallCommand{Do: wish.Do, UserID: wish.User})
		if err == nil && done == 0 {
			return wish.Do + ": 0, nothing there to do that to", nil
		}
		return fmt.Sprintf("%s: %d", wish.Do, done), err
	}
	var settings policy.CallSettings
	order, err := h.store.CallOrders.ByRoom(ctx, room)
	if err != nil {
		return "", err
	}
	if order != nil {
		settings = policy.ParseCallSettings(order.Orders)
	}
	switch wish.Do {
	case "lock", "unlock":
		settings.Locked = wish.Do == "lock"
	case "view-only", "open":
		settings.ViewOnly = wish.Do == "view-only"
	default:
		return "", fmt.Errorf("calls: there is no verb %q", wish.Do)
	}
	return fmt.Sprintf("%s: %s", wish.Do, room), h.OrderCalls(ctx, room, settings, rest.ServerUser(h.server))
}
