package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// inherit gives somebody who joins the successor of a room the tags that the room had, and calls it direct where the room was.
// (Push rules are carried over by push.) It is a courtesy: what fails is logged.
// Spec: client-server-api/#room-upgrades
func (h *Handlers) inherit(ctx context.Context, user id.UserID, room id.RoomID) {
	create, err := h.store.State.Current(ctx, room, pdu.Key{Type: event.StateCreate.Type})
	old := id.RoomID(contentText(create, "predecessor.room_id"))
	if err != nil || old == "" {
		return
	}
	err = h.store.Do(ctx, func(ctx context.Context) error {
		if err := h.inheritTags(ctx, user, old, room); err != nil {
			return err
		}
		return h.inheritDirect(ctx, user, old, room)
	})
	if err != nil {
		zerolog.Ctx(ctx).Info().Err(err).Stringer("room_id", room).Msg("Tags of the room before are not carried over")
	}
}

func (h *Handlers) inheritTags(ctx context.Context, user id.UserID, old, room id.RoomID) error {
	typ := event.AccountDataRoomTags.Type
	has, err := h.store.AccountData.ByType(ctx, user, room, typ)
	if err != nil || has != nil {
		return err
	}
	tags, err := h.store.AccountData.ByType(ctx, user, old, typ)
	if err != nil || tags == nil || tags.Deleted {
		return err
	}
	return h.store.AccountData.Put(ctx, storage.AccountData{UserID: user, RoomID: room, Type: typ, Content: tags.Content})
}

func (h *Handlers) inheritDirect(ctx context.Context, user id.UserID, old, room id.RoomID) error {
	typ := event.AccountDataDirectChats.Type
	direct, err := h.store.AccountData.ByType(ctx, user, "", typ)
	if err != nil || direct == nil || direct.Deleted {
		return err
	}
	content, changed := slices.Clone(direct.Content), false
	gjson.ParseBytes(direct.Content).ForEach(func(with, rooms gjson.Result) bool {
		names := func(wanted id.RoomID) bool {
			return slices.ContainsFunc(rooms.Array(), func(v gjson.Result) bool { return v.Str == string(wanted) })
		}
		if rooms.IsArray() && names(old) && !names(room) {
			content, err = sjson.SetBytes(content, gjson.Escape(with.Str)+".-1", room)
			changed = true
		}
		return err == nil
	})
	if err != nil || !changed {
		return err
	}
	return h.store.AccountData.Put(ctx, storage.AccountData{UserID: user, Type: typ, Content: json.RawMessage(content)})
}
