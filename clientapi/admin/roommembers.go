package admin

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// named reads the user of a body.
func named(r *rest.Request, fallback id.UserID) (id.UserID, error) {
	var body struct {
		UserID id.UserID `json:"user_id"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return "", err
	}
	if body.UserID == "" {
		body.UserID = fallback
	}
	switch {
	case body.UserID == "":
		return "", missing.WithMessage("user_id is missing")
	case !rest.ValidUserID(body.UserID):
		return "", invalid("user_id is no user ID")
	}
	return body.UserID, nil
}

// MakeRoomAdmin handles POST /_synapse/admin/v1/rooms/{roomIdOrAlias}/make_room_admin: the mightiest of our users in the room
// gives the user as much power as they may. Who is not in the room, and could not simply join, is invited.
func (h *Handlers) MakeRoomAdmin(r *rest.Request) (any, error) {
	room, err := h.roomOrAlias(r)
	if err != nil {
		return nil, err
	}
	user, err := named(r, r.By.User)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	by, levels, err := h.mightiest(ctx, room)
	if err != nil {
		return nil, err
	}
	if levels.User(user) < min(levels.User(by), 100) {
		content, err := h.raised(ctx, room, user, min(levels.User(by), 100))
		if err != nil {
			return nil, err
		}
		key := ""
		if _, err := h.propose(ctx, room.ID, bus.Proposal{Sender: by, Type: event.StatePowerLevels.Type, StateKey: &key, Content: content}); err != nil {
			return nil, err
		}
	}
	m, err := h.store.Memberships.Of(ctx, room.ID, user)
	if err != nil || m != nil && (m.Membership == event.MembershipJoin || m.Membership == event.MembershipInvite) {
		return rest.Empty, err
	}
	rule, err := h.store.State.Current(ctx, room.ID, storage.Key{Type: event.StateJoinRules.Type})
	if err != nil || rule != nil && gjson.GetBytes(rule.JSON, "content.join_rule").Str == "public" {
		return rest.Empty, err
	}
	_, err = h.propose(ctx, room.ID, state(by, event.StateMember.Type, string(user), map[string]any{"membership": "invite"}))
	return rest.Empty, err
}

// mightiest is the one of our users in the room who has the most power, and enough to give it to others.
func (h *Handlers) mightiest(ctx context.Context, room *storage.Room) (id.UserID, *auth.Levels, error) {
	levels, err := h.levels(ctx, room)
	if err != nil {
		return "", nil, err
	}
	members, err := h.store.Memberships.OfServer(ctx, room.ID, h.server)
	if err != nil {
		return "", nil, err
	}
	var best id.UserID
	for _, m := range members {
		if m.Membership != event.MembershipJoin || levels.User(m.UserID) < levels.Event(event.StatePowerLevels.Type, true) {
			continue
		}
		if best == "" || levels.User(m.UserID) > levels.User(best) {
			best = m.UserID
		}
	}
	if best == "" {
		return "", nil, mautrix.MUnknown.WithStatus(400).WithMessage("None of our users in this room may give power to others")
	}
	return best, levels, nil
}

func (h *Handlers) levels(ctx context.Context, room *storage.Room) (*auth.Levels, error) {
	parse := func(typ string) (ev *storage.Event, err error) {
		return h.store.State.Event(ctx, room.State, storage.Key{Type: typ})
	}
	create, err := parse(event.StateCreate.Type)
	if err != nil {
		return nil, err
	}
	if create == nil {
		return nil, noSuchRoom
	}
	createPDU, err := pdu.Trusted(room.Version, create.ID, create.JSON)
	if err != nil {
		return nil, err
	}
	levels, err := parse(event.StatePowerLevels.Type)
	if err != nil {
		return nil, err
	}
	if levels == nil {
		return auth.ParsePowerLevels(room.Version, createPDU, nil)
	}
	levelsPDU, err := pdu.Trusted(room.Version, levels.ID, levels.JSON)
	if err != nil {
		return nil, err
	}
	return auth.ParsePowerLevels(room.Version, createPDU, levelsPDU)
}

// raised is the content of the room's power levels in which the user has this one.
func (h *Handlers) raised(ctx context.Context, room *storage.Room, user id.UserID, level auth.Level) (json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	e, err := h.store.State.Event(ctx, room.State, storage.Key{Type: event.StatePowerLevels.Type})
	if err != nil {
		return nil, err
	}
	if e != nil {
		if err := json.Unmarshal([]byte(gjson.GetBytes(e.JSON, "content").Raw), &content); err != nil {
			return nil, err
		}
	}
	users := map[id.UserID]json.RawMessage{}
	if raw := content["users"]; raw != nil {
		if err := json.Unmarshal(raw, &users); err != nil {
			return nil, err
		}
	}
	if users[user], err = json.Marshal(level); err != nil {
		return nil, err
	}
	if content["users"], err = json.Marshal(users); err != nil {
		return nil, err
	}
	return json.Marshal(content)
}

// Join handles POST /_synapse/admin/v1/join/{roomIdOrAlias}: it has one of our users join a room. Where nobody may simply come
// in, the asking administrator invites first, and has to be in the room for that.
func (h *Handlers) Join(r *rest.Request) (any, error) {
	user, err := named(r, "")
	if err != nil {
		return nil, err
	}
	if user.Homeserver() != h.server {
		return nil, invalid("This user belongs to another server")
	}
	ctx := r.Context()
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil {
		return nil, err
	}
	if account == nil || account.Deactivated {
		return nil, noSuchUser
	}
	roomID, servers, err := h.whereTo(r)
	if err != nil {
		return nil, err
	}
	content, err := h.joinContent(ctx, user)
	if err != nil {
		return nil, err
	}
	answer := map[string]id.RoomID{"room_id": roomID}
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if room == nil || !room.Joined {
		by, err := h.store.Rooms.BlockedBy(ctx, roomID)
		if err != nil {
			return nil, err
		}
		if by != "" {
			return nil, mautrix.MForbidden.WithMessage("This room has been blocked on this server")
		}
		_, err = bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, bus.FederationQuestion{
			Join: &bus.JoinRemote{RoomID: roomID, UserID: user, Servers: servers, Content: content},
		})
		return answer, err
	}
	key := string(user)
	join := bus.Proposal{Sender: user, Type: event.StateMember.Type, StateKey: &key, Content: content}
	_, refusal := h.propose(ctx, roomID, join)
	if !refused(refusal) {
		return answer, refusal
	}
	invite := state(r.By.User, event.StateMember.Type, key, map[string]any{"membership": "invite"})
	if _, err := h.propose(ctx, roomID, invite); err != nil {
		return nil, refusal // what the user was told says more
	}
	_, err = h.propose(ctx, roomID, join)
	return answer, err
}

// joinContent is the content of a user's join.
func (h *Handlers) joinContent(ctx context.Context, user id.UserID) (json.RawMessage, error) {
	profile, err := h.store.Profiles.All(ctx, user)
	if err != nil {
		return nil, err
	}
	content := map[string]json.RawMessage{"membership": json.RawMessage(`"join"`)}
	for _, field := range []string{"displayname", "avatar_url"} {
		if raw := profile[field]; raw != nil {
			content[field] = raw
		}
	}
	return json.Marshal(content)
}

// whereTo reads {roomIdOrAlias}, and which servers may know the room.
func (h *Handlers) whereTo(r *rest.Request) (id.RoomID, []string, error) {
	name, query := r.Path("roomIdOrAlias"), r.HTTP.URL.Query()
	servers := append(query["via"], query["server_name"]...)
	switch {
	case strings.HasPrefix(name, "!"):
		return id.RoomID(name), servers, nil
	case !strings.HasPrefix(name, "#"):
		return "", nil, invalid("This is neither a room ID nor an alias")
	}
	alias := id.RoomAlias(name)
	roomID, err := h.store.Rooms.ByAlias(r.Context(), alias)
	if err != nil || roomID != "" {
		return roomID, servers, err
	}
	_, server, _ := strings.Cut(name, ":")
	if server == h.server {
		return "", nil, noSuchRoom
	}
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](r.Context(), h.bus, bus.FederationDo, bus.FederationQuestion{
		QueryAlias: &bus.QueryAlias{Alias: alias},
	})
	if err != nil {
		return "", nil, err
	}
	for _, s := range gjson.GetBytes(answer.Body, "servers").Array() {
		servers = append(servers, s.Str)
	}
	return id.RoomID(gjson.GetBytes(answer.Body, "room_id").Str), servers, nil
}

// Extremities handles GET /_synapse/admin/v1/rooms/{roomIdOrAlias}/forward_extremities.
func (h *Handlers) Extremities(r *rest.Request) (any, error) {
	room, err := h.roomOrAlias(r)
	if err != nil {
		return nil, err
	}
	events, err := h.store.Events.ByIDs(r.Context(), room.Extremities)
	type extremity struct {
		EventID    id.EventID `json:"event_id"`
		StateGroup int64      `json:"state_group"`
		Depth      int64      `json:"depth"`
		Received   int64      `json:"received_ts"`
	}
	shown := make([]extremity, len(events))
	for i, e := range events {
		shown[i] = extremity{e.ID, e.After.Chain, e.Depth, e.Timestamp}
	}
	return map[string]any{"count": len(shown), "results": shown}, err
}

// DeleteExtremities handles DELETE /_synapse/admin/v1/rooms/{roomIdOrAlias}/forward_extremities: the deepest stays.
func (h *Handlers) DeleteExtremities(r *rest.Request) (any, error) {
	room, err := h.roomOrAlias(r)
	if err != nil {
		return nil, err
	}
	o, err := h.ask(r.Context(), room.ID, bus.RoomQuestion{Purge: &bus.Purge{Extremities: true}})
	return map[string]int{"deleted": o.Removed}, err
}
