package view

import (
	"context"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// notifyRoomLevel is the power that notifying a whole room takes where the room does not say.
const notifyRoomLevel = 50

// MayNotifyRoom tells whether the user's power is enough to notify the whole room now; false where that cannot be found out.
// Spec: client-server-api/#mroompower_levels (notifications)
func (r *Reader) MayNotifyRoom(ctx context.Context, roomID id.RoomID, user id.UserID) bool {
	room, err := r.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return false
	}
	events, err := r.pieces(ctx, room.State, []pdu.Key{{Type: "m.room.power_levels"}, {Type: "m.room.create"}})
	if err != nil {
		return false
	}
	var levels gjson.Result
	for _, e := range events {
		switch e.Type {
		case "m.room.create":
			if creates(e, room.Version, user) {
				return true
			}
		case "m.room.power_levels":
			levels = gjson.GetBytes(e.JSON, "content")
		}
	}
	if !levels.Exists() {
		return false
	}
	need, have := int64(notifyRoomLevel), levels.Get("users_default").Int()
	if v := levels.Get("notifications.room"); v.Exists() {
		need = v.Int()
	}
	levels.Get("users").ForEach(func(name, level gjson.Result) bool {
		if name.Str == string(user) {
			have = level.Int()
			return false
		}
		return true
	})
	return have >= need
}

// creates tells whether the user is a creator in a room version whose creators are above all levels.
func creates(create *storage.Event, version id.RoomVersion, user id.UserID) bool {
	if !version.PrivilegedRoomCreators() {
		return false
	}
	if create.Sender == user {
		return true
	}
	for _, other := range gjson.GetBytes(create.JSON, "content.additional_creators").Array() {
		if other.Str == string(user) {
			return true
		}
	}
	return false
}
