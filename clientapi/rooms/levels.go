package rooms

import (
	"encoding/json"
	"maps"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// callMembers are the events by which a device says that it is in a call, by their names of today and of tomorrow; clients of ordinary members send them.
var callMembers = []string{"org.matrix.msc3401.call.member", "m.call.member", "org.matrix.msc4143.rtc.member", "m.rtc.member"}

// privilegedCreators says whether the creators of rooms of this version stand above all levels (from 12 on).
func privilegedCreators(version id.RoomVersion) bool { return version == id.RoomV12 }

// powerLevels are the power levels of a new room: our defaults, the preset's, and what the creator puts over them.
func (h *Handlers) powerLevels(version id.RoomVersion, creator id.UserID, create json.RawMessage, req *createRequest) (json.RawMessage, error) {
	users := map[string]any{string(creator): 100}
	if req.Preset == presetTrusted {
		for _, user := range req.Invite {
			users[string(user)] = 100
		}
	}
	tombstone := 100
	if privilegedCreators(version) {
		// Creators have no level, and they alone upgrade.
		tombstone = 150
		delete(users, string(creator))
		for _, v := range gjson.GetBytes(create, "additional_creators").Array() {
			delete(users, v.Str)
		}
	}
	invite := 0
	if req.Preset == presetPublic {
		invite = 50
	}
	events := map[string]any{
		event.StateRoomName.Type:          50,
		event.StateRoomAvatar.Type:        50,
		event.StateCanonicalAlias.Type:    50,
		event.StatePowerLevels.Type:       100,
		event.StateHistoryVisibility.Type: 100,
		event.StateServerACL.Type:         100,
		event.StateEncryption.Type:        100,
		event.StateTombstone.Type:         tombstone,
	}
	for _, name := range callMembers {
		events[name] = 0
	}
	levels := map[string]any{
		"users":          users,
		"users_default":  0,
		"events_default": 0,
		"state_default":  50,
		"ban":            50,
		"kick":           50,
		"redact":         50,
		"invite":         invite,
		"historical":     100,
		"events":         events,
	}
	if len(req.LevelsOverride) > 0 {
		var override map[string]any
		if err := json.Unmarshal(req.LevelsOverride, &override); err != nil {
			return nil, mautrix.MBadJSON.WithMessage("power_level_content_override is an object")
		}
		maps.Copy(levels, override)
	}
	return json.Marshal(levels)
}
