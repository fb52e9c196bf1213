package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// carried is the state that the new room takes over as it is.
// Spec: client-server-api/#server-behaviour-19
var carried = []string{
	event.StateServerACL.Type, event.StateEncryption.Type, event.StateRoomName.Type, event.StateRoomAvatar.Type, event.StateTopic.Type,
	event.StateGuestAccess.Type, event.StateHistoryVisibility.Type, event.StateJoinRules.Type,
}

// maxCarried bounds the bans and the children of a space that the new room takes over.
const maxCarried = 1000

// Upgrade handles POST /_matrix/client/v3/rooms/{roomId}/upgrade.
// Spec: client-server-api/#post_matrixclientv3roomsroomidupgrade
func (h *Handlers) Upgrade(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Version  id.RoomVersion `json:"new_version"`
		Creators []id.UserID    `json:"additional_creators"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if !pdu.Known(body.Version) {
		return nil, mautrix.RespError{ErrCode: "M_UNSUPPORTED_ROOM_VERSION", Err: "This server does not know that room version", StatusCode: 400}
	}
	for _, user := range body.Creators {
		if !rest.ValidUserID(user) {
			return nil, mautrix.MInvalidParam.WithMessage("An additional creator is not a user ID")
		}
	}
	u := &upgrade{Handlers: h, user: r.By.User, old: roomID, version: body.Version, creators: body.Creators}
	replacement, err := u.run(r.Context())
	if err != nil {
		return nil, err
	}
	return map[string]id.RoomID{"replacement_room": replacement}, nil
}

// finishUpgrades does what is left of upgrades that a stop has cut off, and then waits for ctx to end.
func (h *Handlers) finishUpgrades(ctx context.Context) error {
	begun, err := h.store.Upgrades.Unfinished(ctx, 1000)
	if err != nil && ctx.Err() == nil {
		return err
	}
	for _, b := range begun {
		u := &upgrade{Handlers: h, user: b.By, old: b.Old}
		err := u.read(ctx)
		if err == nil {
			err = u.finish(ctx, b.New)
		}
		if err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Stringer("room_id", b.Old).Msg("A room's upgrade cannot be finished")
		}
	}
	<-ctx.Done()
	return nil
}

// upgrade replaces a room by a new one.
type upgrade struct {
	*Handlers
	user id.UserID
	// maker of the new room: the user, or who began what the user goes on with.
	maker    id.UserID
	old      id.RoomID
	version  id.RoomVersion
	creators []id.UserID

	room  *storage.Room
	state map[pdu.Key]*storage.Event
}

// run makes the new room and does all that follows. What was cut off goes on where it stopped, here when the client asks
// again or in finishUpgrades: each step may be done twice.
func (u *upgrade) run(ctx context.Context) (id.RoomID, error) {
	if err := u.mustBeJoined(ctx, u.user, u.old); err != nil {
		return "", err
	}
	// Nothing is made unless the last step, the tombstone, will be allowed.
	if _, err := u.draft(ctx, u.old, u.tombstone(u.old)); err != nil {
		return "", err
	}
	if err := u.read(ctx); err != nil {
		return "", err
	}
	if replacement, err := u.already(ctx); err != nil || replacement != "" {
		return replacement, err
	}
	question, err := u.question(ctx)
	if err != nil {
		return "", err
	}
	created, err := bus.Ask[bus.Create, bus.Created](ctx, u.bus, bus.CreateRoom, *question)
	if err != nil {
		return "", err
	}
	return created.RoomID, u.finish(ctx, created.RoomID)
}

// already gives the room by which the same user has replaced this one by the same version: the answer was lost, and the client
// asks again.
func (u *upgrade) already(ctx context.Context) (id.RoomID, error) {
	tombstone := u.state[pdu.Key{Type: event.StateTombstone.Type}]
	if tombstone == nil || tombstone.Sender != u.user {
		return "", nil
	}
	replacement := id.RoomID(contentText(tombstone, "replacement_room"))
	create, err := u.store.State.Current(ctx, replacement, pdu.Key{Type: event.StateCreate.Type})
	if err != nil || create == nil || create.Sender != u.user || contentText(create, "predecessor.room_id") != string(u.old) {
		return "", err
	}
	if version, err := u.view.Version(ctx, replacement); err != nil || version != u.version {
		return "", err
	}
	return replacement, nil
}

// finish does what follows once the new room is there.
func (u *upgrade) finish(ctx context.Context, replacement id.RoomID) error {
	begun, err := u.store.Upgrades.Of(ctx, u.old)
	if err != nil {
		return err
	}
	if u.maker = u.user; begun != nil && begun.New == replacement {
		u.maker = begun.By
	}
	if _, err := u.propose(ctx, u.old, u.tombstone(replacement)); err != nil {
		return err
	}
	// The rest is courtesy: the room is replaced even where the user may not do all of it.
	for _, step := range []func(context.Context, id.RoomID) error{u.moveAliases, u.unlist, u.quieten} {
		if err := step(ctx, replacement); err != nil {
			zerolog.Ctx(ctx).Info().Err(err).Stringer("room_id", u.old).Msg("A step after a room's upgrade failed")
		}
	}
	u.inherit(ctx, u.maker, replacement)
	return u.store.Upgrades.End(ctx, u.old)
}

func (u *upgrade) tombstone(replacement id.RoomID) bus.Proposal {
	key := ""
	content := object(map[string]any{"body": "This room has been replaced", "replacement_room": replacement})
	return bus.Proposal{Sender: u.user, Type: event.StateTombstone.Type, StateKey: &key, Content: content}
}

// read reads the old room's state, without the members but for the banned.
func (u *upgrade) read(ctx context.Context) error {
	var err error
	if u.room, err = u.store.Rooms.ByID(ctx, u.old); err != nil {
		return err
	}
	if u.room == nil {
		return errors.New("room vanished")
	}
	state, err := u.store.State.At(ctx, u.room.State)
	if err != nil {
		return err
	}
	banned, err := u.store.Memberships.ByRoom(ctx, u.old, event.MembershipBan)
	if err != nil {
		return err
	}
	bans := map[string]bool{}
	for _, m := range banned {
		bans[string(m.UserID)] = true
	}
	var numbers []int64
	for key, number := range state {
		if key.Type != event.StateMember.Type || bans[key.StateKey] {
			numbers = append(numbers, number)
		}
	}
	events, err := u.numbered(ctx, numbers)
	if err != nil {
		return err
	}
	u.state = make(map[pdu.Key]*storage.Event, len(events))
	for _, e := range events {
		if e.StateKey != nil && e.RedactedBy == "" {
			u.state[pdu.Key{Type: e.Type, StateKey: *e.StateKey}] = e
		}
	}
	return nil
}

// content is what the old room's state says under the key; nil if nothing.
func (u *upgrade) content(typ string) json.RawMessage {
	if e := u.state[pdu.Key{Type: typ}]; e != nil {
		return json.RawMessage(gjson.GetBytes(e.JSON, "content").Raw)
	}
	return nil
}

// question gathers all that makes the new room.
func (u *upgrade) question(ctx context.Context) (*bus.Create, error) {
	q := &bus.Create{Version: u.version, Sender: u.user, Listed: u.room.Listed, Replaces: u.old}
	var err error
	if q.Content, err = u.createContent(); err != nil {
		return nil, err
	}
	state := func(typ, key string, content json.RawMessage) {
		q.Events = append(q.Events, bus.Proposal{Sender: u.user, Type: typ, StateKey: &key, Content: content})
	}
	join, err := u.memberContent(ctx, u.user, event.MembershipJoin, "")
	if err != nil {
		return nil, err
	}
	state(event.StateMember.Type, string(u.user), join)
	levels, final, err := u.levels()
	if err != nil {
		return nil, err
	}
	state(event.StatePowerLevels.Type, "", levels)
	for _, typ := range carried {
		if content := u.content(typ); content != nil {
			state(typ, "", content)
		}
	}
	n := 0
	for key, e := range u.state {
		content := gjson.GetBytes(e.JSON, "content")
		link := key.Type == event.StateSpaceChild.Type && content.Get("via").Exists()
		if n < maxCarried && (link || key.Type == event.StateMember.Type && content.Get("membership").Str == "ban") {
			state(key.Type, key.StateKey, json.RawMessage(content.Raw))
			n++
		}
	}
	if final != nil {
		state(event.StatePowerLevels.Type, "", final)
	}
	return q, nil
}

// createContent is the old room's, with the predecessor and the new creators.
func (u *upgrade) createContent() (json.RawMessage, error) {
	content := u.content(event.StateCreate.Type)
	if content == nil {
		content = json.RawMessage("{}")
	}
	var err error
	for _, field := range []string{"creator", "room_version", "predecessor", "additional_creators"} {
		if content, err = sjson.DeleteBytes(content, field); err != nil {
			return nil, err
		}
	}
	predecessor := map[string]any{"room_id": u.old}
	// From version 12 on the room alone is named: its ID is made of its first event already.
	if n := len(u.room.Extremities); n > 0 && !privilegedCreators(u.version) {
		predecessor["event_id"] = u.room.Extremities[n-1]
	}
	if content, err = sjson.SetBytes(content, "predecessor", predecessor); err != nil {
		return nil, err
	}
	if privilegedCreators(u.version) && len(u.creators) > 0 {
		content, err = sjson.SetBytes(content, "additional_creators", u.creators)
	}
	return content, err
}

// levels are the new room's power levels. Where the old ones would not let the user set up the room, the user stands
// higher at first, and final are those that hold in the end.
func (u *upgrade) levels() (first, final json.RawMessage, err error) {
	old := map[string]any{}
	if content := u.content(event.StatePowerLevels.Type); content != nil {
		if err := json.Unmarshal(content, &old); err != nil {
			return nil, nil, err
		}
	}
	users := map[string]any{}
	if given, ok := old["users"].(map[string]any); ok {
		users = given
	}
	old["users"] = users
	if privilegedCreators(u.version) {
		delete(users, string(u.user))
		for _, creator := range u.creators {
			delete(users, string(creator))
		}
		first, err = json.Marshal(old)
		return first, nil, err
	}
	has, listed := users[string(u.user)].(float64)
	need := highest(old)
	switch {
	case privilegedCreators(u.room.Version) && !listed:
		// A creator's power has no number in older versions; the highest will do.
		users[string(u.user)] = max(need, 100)
	case has < need:
		if final, err = json.Marshal(old); err != nil {
			return nil, nil, err
		}
		users[string(u.user)] = need
	}
	first, err = json.Marshal(old)
	return first, final, err
}

// highest is the highest level that sending or setting anything in a room takes.
func highest(levels map[string]any) float64 {
	need := 50.0
	for _, field := range []string{"state_default", "events_default", "ban", "kick", "invite", "redact"} {
		if v, ok := levels[field].(float64); ok {
			need = max(need, v)
		}
	}
	if events, ok := levels["events"].(map[string]any); ok {
		for _, v := range events {
			if n, ok := v.(float64); ok {
				need = max(need, n)
			}
		}
	}
	return need
}

// moveAliases gives the old room's local aliases to the new one, and its canonical alias too.
func (u *upgrade) moveAliases(ctx context.Context, replacement id.RoomID) error {
	aliases, err := u.store.Rooms.Aliases(ctx, u.old)
	if err != nil {
		return err
	}
	var failed []error
	for _, a := range aliases {
		_, err := u.ask(ctx, u.old, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: a.Alias, By: u.user, Remove: true, To: replacement}})
		failed = append(failed, err)
	}
	if content := u.content(event.StateCanonicalAlias.Type); content != nil && len(canonicalAliases(gjson.ParseBytes(content))) > 0 {
		for _, change := range []struct {
			room    id.RoomID
			by      id.UserID
			content json.RawMessage
		}{{replacement, u.maker, content}, {u.old, u.user, json.RawMessage("{}")}} {
			key := ""
			_, err := u.propose(ctx, change.room, bus.Proposal{Sender: change.by, Type: event.StateCanonicalAlias.Type, StateKey: &key, Content: change.content})
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// unlist takes the old room out of the directory; the new one was listed when it was made.
func (u *upgrade) unlist(ctx context.Context, _ id.RoomID) error {
	if !u.room.Listed {
		return nil
	}
	_, err := u.ask(ctx, u.old, bus.RoomQuestion{Publish: &bus.Publish{By: u.user, Listed: false}})
	return err
}

// quieten raises what it takes to speak and to invite in the old room above what ordinary members have.
func (u *upgrade) quieten(ctx context.Context, _ id.RoomID) error {
	content := u.content(event.StatePowerLevels.Type)
	if content == nil {
		return nil
	}
	level := max(gjson.GetBytes(content, "users_default").Int()+1, 50)
	content = slices.Clone(content)
	var err error
	for _, field := range []string{"events_default", "invite"} {
		if gjson.GetBytes(content, field).Int() < level {
			if content, err = sjson.SetBytes(content, field, level); err != nil {
				return err
			}
		}
	}
	key := ""
	_, err = u.propose(ctx, u.old, bus.Proposal{Sender: u.user, Type: event.StatePowerLevels.Type, StateKey: &key, Content: content})
	return err
}
