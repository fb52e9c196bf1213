package rooms

import (
	"context"
	"encoding/json"
	"slices"

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

// PutState handles PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}, and the form without a key.
// Spec: client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
func (h *Handlers) PutState(r *rest.Request) (any, error) {
	roomID, p, err := h.proposal(r, "")
	if err != nil {
		return nil, err
	}
	key := r.Path("stateKey")
	if p.StateKey = &key; len(key) > maxName {
		return nil, mautrix.MTooLarge.WithMessage("The state key is too long")
	}
	if delay, ok, err := h.delayOf(r); err != nil {
		return nil, err
	} else if ok {
		return h.schedule(r, roomID, p, delay)
	}
	if p.Content, err = r.Object(); err != nil {
		return nil, err
	}
	eventID, err := h.sendState(r.Context(), roomID, p)
	if err != nil {
		return nil, err
	}
	return eventAnswer{eventID}, nil
}

// sendState has the room make a state event, once its content has been looked at.
func (h *Handlers) sendState(ctx context.Context, roomID id.RoomID, p bus.Proposal) (id.EventID, error) {
	switch p.Type {
	case event.StateCreate.Type:
		return "", mautrix.MInvalidParam.WithMessage("A room is created once")
	case event.StatePowerLevels.Type:
		if err := h.checkCreators(ctx, roomID, p.Content); err != nil {
			return "", err
		}
	case event.StateMember.Type:
		return h.putMember(ctx, roomID, p)
	case event.StateCanonicalAlias.Type:
		if err := h.checkCanonicalAlias(ctx, roomID, p.Content); err != nil {
			return "", err
		}
	}
	return h.propose(ctx, roomID, p)
}

// checkCreators refuses power levels that give a level to somebody who stands above all levels: no such event can be.
// Spec: rooms/v12/#authorisation-rules
func (h *Handlers) checkCreators(ctx context.Context, roomID id.RoomID, content json.RawMessage) error {
	version, err := h.view.Version(ctx, roomID)
	if err != nil || !privilegedCreators(version) {
		return err
	}
	create, err := h.store.State.Current(ctx, roomID, pdu.Key{Type: event.StateCreate.Type})
	if err != nil || create == nil {
		return err
	}
	creators := []string{string(create.Sender)}
	for _, v := range gjson.GetBytes(create.JSON, "content.additional_creators").Array() {
		creators = append(creators, v.Str)
	}
	for user := range gjson.GetBytes(content, "users").Map() {
		if slices.Contains(creators, user) {
			return mautrix.MInvalidParam.WithMessage("%s is a creator of the room, and has no level", user)
		}
	}
	return nil
}

// putMember is a membership event sent as plain state. Who authorises a restricted join is the room's business, and an
// invite of another server's user has to be co-signed there.
func (h *Handlers) putMember(ctx context.Context, roomID id.RoomID, p bus.Proposal) (id.EventID, error) {
	var err error
	if p.Content, err = sjson.DeleteBytes(p.Content, "join_authorised_via_users_server"); err != nil {
		return "", err
	}
	target := id.UserID(*p.StateKey)
	if !rest.ValidUserID(target) {
		return "", mautrix.MBadJSON.WithMessage("The state key is not a user ID")
	}
	if gjson.GetBytes(p.Content, "membership").Str == string(event.MembershipInvite) && !h.local(target) {
		return h.inviteRemote(ctx, roomID, p)
	}
	return h.propose(ctx, roomID, p)
}

// checkCanonicalAlias refuses aliases that are none, or that do not lead to the room. Those that stand there already
// are not looked at again.
// Spec: client-server-api/#mroomcanonical_alias
func (h *Handlers) checkCanonicalAlias(ctx context.Context, roomID id.RoomID, content json.RawMessage) error {
	old, err := h.store.State.Current(ctx, roomID, pdu.Key{Type: event.StateCanonicalAlias.Type})
	if err != nil {
		return err
	}
	var known []string
	if old != nil {
		known = canonicalAliases(gjson.GetBytes(old.JSON, "content"))
	}
	for _, v := range []gjson.Result{gjson.GetBytes(content, "alias"), gjson.GetBytes(content, "alt_aliases")} {
		if v.Exists() && v.Type != gjson.String && v.Type != gjson.Null && !v.IsArray() {
			return mautrix.MInvalidParam.WithMessage("An alias is not a string")
		}
	}
	for _, v := range gjson.GetBytes(content, "alt_aliases").Array() {
		if v.Type != gjson.String {
			return mautrix.MInvalidParam.WithMessage("An alternative alias is not a string")
		}
	}
	for _, alias := range canonicalAliases(gjson.ParseBytes(content)) {
		if slices.Contains(known, alias) {
			continue
		}
		if !validAlias(id.RoomAlias(alias)) {
			return mautrix.MInvalidParam.WithMessage("%q is not a room alias", alias)
		}
		leads, _, err := h.resolve(ctx, id.RoomAlias(alias))
		if err != nil || leads != roomID {
			return mautrix.RespError{ErrCode: "M_BAD_ALIAS", Err: alias + " does not lead to this room", StatusCode: 400}
		}
	}
	return nil
}

// canonicalAliases are the aliases that the content of m.room.canonical_alias names.
func canonicalAliases(content gjson.Result) []string {
	var aliases []string
	if main := content.Get("alias").Str; main != "" {
		aliases = append(aliases, main)
	}
	for _, alt := range content.Get("alt_aliases").Array() {
		aliases = append(aliases, alt.Str)
	}
	return aliases
}

// StateEvent handles GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}, and the form without a key.
// Spec: client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey
func (h *Handlers) StateEvent(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	a, err := h.read(r.Context(), r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	e, err := h.store.State.Event(r.Context(), a.state, pdu.Key{Type: r.Path("eventType"), StateKey: r.Path("stateKey")})
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, mautrix.MNotFound.WithMessage("The room has no such state")
	}
	rendered, err := h.view.Client(r.Context(), viewer(r), []*storage.Event{e})
	if err != nil {
		return nil, err
	}
	if r.Query("format") == "event" {
		return rendered[0], nil
	}
	return json.RawMessage(gjson.GetBytes(rendered[0], "content").Raw), nil
}

// State handles GET /_matrix/client/v3/rooms/{roomId}/state.
// Spec: client-server-api/#get_matrixclientv3roomsroomidstate
func (h *Handlers) State(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	a, err := h.read(r.Context(), r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	events, err := h.stateAt(r.Context(), a.state)
	if err != nil {
		return nil, err
	}
	rendered, err := h.view.Client(r.Context(), viewer(r), events)
	if err != nil {
		return nil, err
	}
	return emptied(rendered), nil
}

// stateAt gives the events of a state, in the order of their numbers.
func (h *Handlers) stateAt(ctx context.Context, at storage.Snapshot) ([]*storage.Event, error) {
	state, err := h.store.State.At(ctx, at)
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, 0, len(state))
	for _, number := range state {
		numbers = append(numbers, number)
	}
	return h.numbered(ctx, numbers)
}

// numbered gives the events with these numbers, in their order.
func (h *Handlers) numbered(ctx context.Context, numbers []int64) ([]*storage.Event, error) {
	events, err := h.store.Events.ByNumbers(ctx, numbers)
	slices.SortFunc(events, func(a, b *storage.Event) int { return int(a.Number - b.Number) })
	return events, err
}

// emptied makes an empty list of none, so that JSON has [] and not null.
func emptied[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
