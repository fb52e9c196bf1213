package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// createRequest is the body of createRoom.
type createRequest struct {
	Visibility      string          `json:"visibility"`
	AliasName       string          `json:"room_alias_name"`
	Name            string          `json:"name"`
	Topic           string          `json:"topic"`
	Invite          []id.UserID     `json:"invite"`
	InviteByEmail   []any           `json:"invite_3pid"`
	Version         *id.RoomVersion `json:"room_version"`
	CreationContent json.RawMessage `json:"creation_content"`
	InitialState    []initialState  `json:"initial_state"`
	Preset          string          `json:"preset"`
	IsDirect        bool            `json:"is_direct"`
	LevelsOverride  json.RawMessage `json:"power_level_content_override"`
}

type initialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// The presets.
const (
	presetPrivate = "private_chat"
	presetTrusted = "trusted_private_chat"
	presetPublic  = "public_chat"
)

// maxInvites bounds the users who are invited in the request that creates a room.
const maxInvites = 100

// Create handles POST /_matrix/client/v3/createRoom.
// Spec: client-server-api/#post_matrixclientv3createroom
func (h *Handlers) Create(r *rest.Request) (any, error) {
	var req createRequest
	if err := r.OptionalJSON(&req); err != nil {
		return nil, err
	}
	if r.By.Shadowed {
		req.Invite = nil // they would hear of it
	}
	version, err := h.check(&req)
	if err != nil {
		return nil, err
	}
	if req.AliasName != "" {
		if err := h.bridges.MayChangeAlias(r.By.Service, h.localAlias(req.AliasName)); err != nil {
			return nil, err
		}
	}
	question, err := h.creation(r.Context(), r.By.User, version, &req)
	if err != nil {
		return nil, err
	}
	created, err := bus.Ask[bus.Create, bus.Created](r.Context(), h.bus, bus.CreateRoom, *question)
	if err != nil {
		return nil, err
	}
	for _, user := range req.Invite {
		if h.local(user) || user == r.By.User {
			continue // in the creation itself
		}
		if _, err := h.inviteRemote(r.Context(), created.RoomID, h.invitation(r.By.User, user, "", req.IsDirect)); err != nil {
			// The room is there, and the user can be invited again.
			zerolog.Ctx(r.Context()).Info().Err(err).Stringer("room_id", created.RoomID).Msg("Invite to a new room failed")
		}
	}
	return created, nil
}

// check refuses what no room can be made of, fills in what was left out, and gives the version.
func (h *Handlers) check(req *createRequest) (id.RoomVersion, error) {
	version := h.cfg.DefaultVersion
	if req.Version != nil {
		version = *req.Version
	}
	if !pdu.Known(version) {
		return "", mautrix.RespError{ErrCode: "M_UNSUPPORTED_ROOM_VERSION", Err: "This server does not know that room version", StatusCode: 400}
	}
	switch req.Visibility {
	case "", "private", "public":
	default:
		return "", mautrix.MInvalidParam.WithMessage("visibility is neither public nor private")
	}
	if req.Preset == "" {
		req.Preset = presetPrivate
		if req.Visibility == "public" {
			req.Preset = presetPublic
		}
	}
	if !slices.Contains([]string{presetPrivate, presetTrusted, presetPublic}, req.Preset) {
		return "", mautrix.MInvalidParam.WithMessage("There is no such preset")
	}
	if len(req.InviteByEmail) > 0 {
		return "", mautrix.MForbidden.WithMessage("This server does not invite by e-mail address or telephone number: it has no identity server")
	}
	if len(req.Invite) > maxInvites {
		return "", mautrix.MInvalidParam.WithMessage("At most %d users are invited at once", maxInvites)
	}
	for _, user := range req.Invite {
		if !rest.ValidUserID(user) {
			return "", mautrix.MInvalidParam.WithMessage("%q is not a user ID", user)
		}
	}
	for _, content := range []json.RawMessage{req.CreationContent, req.LevelsOverride} {
		if len(content) > 0 && string(content) != "null" && !gjson.ParseBytes(content).IsObject() {
			return "", mautrix.MBadJSON.WithMessage("creation_content and power_level_content_override are objects")
		}
	}
	for _, s := range req.InitialState {
		if s.Type == "" || !gjson.ParseBytes(s.Content).IsObject() {
			return "", mautrix.MBadJSON.WithMessage("An event of initial_state has no type or no content")
		}
		if s.Type == event.StateCreate.Type || s.Type == event.StateMember.Type {
			return "", mautrix.RespError{ErrCode: "M_INVALID_ROOM_STATE", Err: s.Type + " cannot stand in initial_state", StatusCode: 400}
		}
	}
	return version, nil
}

// creation gathers all that makes the room, in the order that the specification gives.
func (h *Handlers) creation(ctx context.Context, creator id.UserID, version id.RoomVersion, req *createRequest) (*bus.Create, error) {
	q := &bus.Create{Version: version, Sender: creator, Listed: req.Visibility == "public"}
	var err error
	if q.Content, err = createContent(version, creator, req); err != nil {
		return nil, err
	}
	if req.AliasName != "" {
		if q.Alias, err = h.newAlias(ctx, req.AliasName); err != nil {
			return nil, err
		}
	}
	state := func(typ, key string, content json.RawMessage) {
		q.Events = append(q.Events, bus.Proposal{Sender: creator, Type: typ, StateKey: &key, Content: content})
	}
	// 2. The creator's join.
	join, err := h.memberContent(ctx, creator, event.MembershipJoin, "")
	if err != nil {
		return nil, err
	}
	state(event.StateMember.Type, string(creator), join)
	// 3. The power levels.
	levels, err := h.powerLevels(version, creator, q.Content, req)
	if err != nil {
		return nil, err
	}
	state(event.StatePowerLevels.Type, "", levels)
	// 4. The canonical alias.
	if q.Alias != "" {
		state(event.StateCanonicalAlias.Type, "", object(map[string]any{"alias": q.Alias}))
	}
	// 5. The preset, but for what initial_state says otherwise.
	for _, s := range presetState(req.Preset) {
		if !slices.ContainsFunc(req.InitialState, func(other initialState) bool { return other.Type == s.Type && other.StateKey == "" }) {
			state(s.Type, "", s.Content)
		}
	}
	// 6. The initial state.
	for _, s := range req.InitialState {
		state(s.Type, s.StateKey, s.Content)
	}
	// 7. Name and topic.
	if req.Name != "" {
		state(event.StateRoomName.Type, "", object(map[string]any{"name": req.Name}))
	}
	if req.Topic != "" {
		state(event.StateTopic.Type, "", object(topicContent(req.Topic)))
	}
	// 8. Invites; those of other servers' users need the room to be there first.
	for _, user := range req.Invite {
		if h.local(user) && user != creator {
			p := h.invitation(creator, user, "", req.IsDirect)
			if p.Content, err = h.withProfile(ctx, user, p.Content); err != nil {
				return nil, err
			}
			if err := h.welcome(ctx, p); err != nil {
				return nil, err
			}
			q.Events = append(q.Events, p)
		}
	}
	return q, nil
}

// topicContent has the topic in both of its forms.
// Spec: client-server-api/#mroomtopic
func topicContent(topic string) map[string]any {
	return map[string]any{
		"topic":   topic,
		"m.topic": map[string]any{"m.text": []any{map[string]any{"body": topic, "mimetype": "text/plain"}}},
	}
}

// createContent is the content of m.room.create without what the room server puts in. In version 12, whom a trusted
// private chat invites becomes a creator too.
func createContent(version id.RoomVersion, creator id.UserID, req *createRequest) (json.RawMessage, error) {
	content := json.RawMessage("{}")
	if gjson.ParseBytes(req.CreationContent).IsObject() {
		content = req.CreationContent
	}
	var err error
	for _, field := range []string{"creator", "room_version"} {
		if content, err = sjson.DeleteBytes(content, field); err != nil {
			return nil, err
		}
	}
	if !privilegedCreators(version) || req.Preset != presetTrusted || len(req.Invite) == 0 {
		return content, nil
	}
	var additional []string
	for _, v := range gjson.GetBytes(content, "additional_creators").Array() {
		additional = append(additional, v.Str)
	}
	for _, user := range req.Invite {
		if user != creator && !slices.Contains(additional, string(user)) {
			additional = append(additional, string(user))
		}
	}
	return sjson.SetBytes(content, "additional_creators", additional)
}

// presetState is what a preset says about joining, history and guests.
// Spec: client-server-api/#post_matrixclientv3createroom
func presetState(preset string) []initialState {
	joinRule := "invite"
	if preset == presetPublic {
		joinRule = "public"
	}
	state := []initialState{
		{Type: event.StateJoinRules.Type, Content: object(map[string]any{"join_rule": joinRule})},
		{Type: event.StateHistoryVisibility.Type, Content: object(map[string]any{"history_visibility": "shared"})},
	}
	if preset != presetPublic { // without an event guests are forbidden to join
		state = append(state, initialState{Type: event.StateGuestAccess.Type, Content: object(map[string]any{"guest_access": "can_join"})})
	}
	return state
}

// newAlias is the alias of a local part that nobody has taken.
func (h *Handlers) newAlias(ctx context.Context, local string) (id.RoomAlias, error) {
	alias := h.localAlias(local)
	if strings.ContainsAny(local, ":#") || !validAlias(alias) {
		return "", mautrix.MInvalidParam.WithMessage("%q cannot be the local part of an alias", local)
	}
	taken, err := h.store.Rooms.ByAlias(ctx, alias)
	if err != nil {
		return "", err
	}
	if taken != "" {
		return "", mautrix.RespError{ErrCode: "M_ROOM_IN_USE", Err: "The alias is taken", StatusCode: 400}
	}
	return alias, nil
}

func (h *Handlers) localAlias(local string) id.RoomAlias {
	return id.RoomAlias("#" + local + ":" + h.cfg.ServerName)
}
