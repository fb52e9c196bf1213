package view

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// Summary is a room as directories, hierarchies and previews show it to those who are not in it. Whether it may be shown to the
// asker is the caller's question: see Public and Knockable.
type Summary struct {
	RoomID         id.RoomID      `json:"room_id"`
	Name           string         `json:"name,omitempty"`
	Topic          string         `json:"topic,omitempty"`
	CanonicalAlias id.RoomAlias   `json:"canonical_alias,omitempty"`
	AvatarURL      string         `json:"avatar_url,omitempty"`
	JoinedMembers  int            `json:"num_joined_members"`
	WorldReadable  bool           `json:"world_readable"`
	GuestCanJoin   bool           `json:"guest_can_join"`
	JoinRule       string         `json:"join_rule,omitempty"`
	RoomType       string         `json:"room_type,omitempty"`
	Encryption     string         `json:"encryption,omitempty"`
	RoomVersion    id.RoomVersion `json:"room_version,omitempty"`
	// AllowedRooms are those whose members may join, where the join rule is restricted.
	AllowedRooms []id.RoomID `json:"allowed_room_ids,omitempty"`
}

// Public says whether anybody may join.
func (s *Summary) Public() bool { return s.JoinRule == "public" }

// Knockable says whether anybody may knock.
func (s *Summary) Knockable() bool { return s.JoinRule == "knock" || s.JoinRule == "knock_restricted" }

// Restricted says whether members of AllowedRooms may join.
func (s *Summary) Restricted() bool {
	return s.JoinRule == "restricted" || s.JoinRule == "knock_restricted"
}

// Summary gives the room's summary from its current state, nil if we have no state of it.
func (r *Reader) Summary(ctx context.Context, roomID id.RoomID) (*Summary, error) {
	room, err := r.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return nil, err
	}
	s := &Summary{RoomID: roomID, RoomVersion: room.Version}
	if s.JoinedMembers, _, err = r.store.Memberships.Counts(ctx, roomID); err != nil {
		return nil, err
	}
	for _, piece := range []struct {
		key   pdu.Key
		field string
		take  func(gjson.Result)
	}{
		{pdu.Key{Type: "m.room.name"}, "name", func(v gjson.Result) { s.Name = v.Str }},
		{pdu.Key{Type: "m.room.topic"}, "topic", func(v gjson.Result) { s.Topic = v.Str }},
		{pdu.Key{Type: "m.room.canonical_alias"}, "alias", func(v gjson.Result) { s.CanonicalAlias = id.RoomAlias(v.Str) }},
		{pdu.Key{Type: "m.room.avatar"}, "url", func(v gjson.Result) { s.AvatarURL = v.Str }},
		{pdu.Key{Type: "m.room.history_visibility"}, "history_visibility", func(v gjson.Result) { s.WorldReadable = v.Str == "world_readable" }},
		{pdu.Key{Type: "m.room.guest_access"}, "guest_access", func(v gjson.Result) { s.GuestCanJoin = v.Str == "can_join" }},
		{pdu.Key{Type: "m.room.encryption"}, "algorithm", func(v gjson.Result) { s.Encryption = v.Str }},
		{pdu.Key{Type: "m.room.create"}, "type", func(v gjson.Result) { s.RoomType = v.Str }},
		{pdu.Key{Type: "m.room.join_rules"}, "join_rule", func(v gjson.Result) { s.JoinRule = v.Str }},
		{pdu.Key{Type: "m.room.join_rules"}, "allow", func(v gjson.Result) { s.AllowedRooms = allowedRooms(v) }},
	} {
		e, err := r.store.State.Event(ctx, room.State, piece.key)
		if err != nil {
			return nil, fmt.Errorf("summary of %s: %w", roomID, err)
		}
		if e != nil {
			piece.take(gjson.GetBytes(e.JSON, "content."+piece.field))
		}
	}
	if !s.Restricted() {
		s.AllowedRooms = nil
	}
	return s, nil
}

func allowedRooms(allow gjson.Result) []id.RoomID {
	var rooms []id.RoomID
	for _, item := range allow.Array() {
		if item.Get("type").Str == "m.room_membership" && pdu.ValidRoomID(item.Get("room_id").Str) {
			rooms = append(rooms, id.RoomID(item.Get("room_id").Str))
		}
	}
	return rooms
}

// InviteState gives the stripped state that goes along with an invite, or a knock: what tells a person which room it is.
// Spec: client-server-api/#stripped-state
func (r *Reader) InviteState(ctx context.Context, roomID id.RoomID) ([]json.RawMessage, error) {
	room, err := r.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return nil, err
	}
	var stripped []json.RawMessage
	for _, typ := range []string{
		"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption",
	} {
		e, err := r.store.State.Event(ctx, room.State, pdu.Key{Type: typ})
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		raw, err := Stripped(e)
		if err != nil {
			return nil, err
		}
		stripped = append(stripped, raw)
	}
	return stripped, nil
}
