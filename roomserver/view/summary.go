package view

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
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
	state, err := r.pieces(ctx, room.State, slices.Concat(strippedKeys, []pdu.Key{keyVisibility, {Type: event.StateGuestAccess.Type}}))
	if err != nil {
		return nil, fmt.Errorf("summary of %s: %w", roomID, err)
	}
	for _, e := range state {
		content := gjson.Parse(contentOf(e.JSON))
		switch e.Type {
		case event.StateRoomName.Type:
			s.Name = content.Get("name").Str
		case event.StateTopic.Type:
			s.Topic = content.Get("topic").Str
		case event.StateCanonicalAlias.Type:
			s.CanonicalAlias = id.RoomAlias(content.Get("alias").Str)
		case event.StateRoomAvatar.Type:
			s.AvatarURL = content.Get("url").Str
		case typeVisibility:
			s.WorldReadable = content.Get("history_visibility").Str == "world_readable"
		case event.StateGuestAccess.Type:
			s.GuestCanJoin = content.Get("guest_access").Str == "can_join"
		case event.StateEncryption.Type:
			s.Encryption = content.Get("algorithm").Str
		case event.StateCreate.Type:
			s.RoomType = content.Get("type").Str
		case event.StateJoinRules.Type:
			s.JoinRule = content.Get("join_rule").Str
			s.AllowedRooms = allowedRooms(content.Get("allow"))
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
	events, err := r.StrippedState(ctx, room.State)
	if err != nil {
		return nil, err
	}
	stripped := make([]json.RawMessage, len(events))
	for i, e := range events {
		if stripped[i], err = Stripped(e); err != nil {
			return nil, err
		}
	}
	return stripped, nil
}
