package policy

import (
	"encoding/json"
	"strings"

	"maunium.net/go/mautrix/id"
)

// CallSettingsType is the state event, with an empty state key, by which a room's moderators keep order in its calls.
const CallSettingsType = "chancery.call.settings"

// CallCommandType is the event by which they do something once: mute or remove somebody, or end the call.
const CallCommandType = "chancery.call.command"

// CallSettings are what holds for the calls of a room: what its moderators say in a state event, and what the administrators
// of a server order for its own focus. The zero value leaves everything as it is.
type CallSettings struct {
	// Locked: nobody comes in but moderators; who is in stays.
	Locked bool `json:"locked,omitempty"`
	// ViewOnly: nobody but moderators publishes.
	ViewOnly bool `json:"view_only,omitempty"`
	// MaxParticipants bounds who is in the call at once; 0 leaves it to the focus.
	MaxParticipants int `json:"max_participants,omitempty"`
	// MaxBitrate bounds what all together publish, in bits a second; 0 leaves it to the focus.
	MaxBitrate int64 `json:"max_bitrate,omitempty"`
	// PublishLevel is the power level that publishing needs, beside that of the membership event.
	PublishLevel *int64 `json:"publish_level,omitempty"`
	// Muted are users, or globs of users, whose voices are dropped; NoVideo are those whose pictures are; Removed are those
	// who are kept out of the call, though they are in the room.
	Muted   []string `json:"muted,omitempty"`
	NoVideo []string `json:"no_video,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// maxNamed bounds each list of users; what is beyond is not looked at.
const maxNamed = 1024

// ParseCallSettings reads the content of the state event. What does not have its form is as if it were not there.
func ParseCallSettings(content []byte) CallSettings {
	var raw map[string]json.RawMessage
	var s CallSettings
	if json.Unmarshal(content, &raw) != nil {
		return s
	}
	read := func(key string, into any) { _ = json.Unmarshal(raw[key], into) } // a wrong type is as nothing, member by member
	read("locked", &s.Locked)
	read("view_only", &s.ViewOnly)
	read("max_participants", &s.MaxParticipants)
	read("max_bitrate", &s.MaxBitrate)
	s.MaxParticipants, s.MaxBitrate = max(0, s.MaxParticipants), max(0, s.MaxBitrate)
	var level *int64
	if read("publish_level", &level); level != nil {
		s.PublishLevel = level
	}
	s.Muted, s.NoVideo, s.Removed = named(raw["muted"]), named(raw["no_video"]), named(raw["removed"])
	return s
}

func named(raw json.RawMessage) []string {
	var list []any
	if raw == nil || json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var out []string
	for _, item := range list {
		if user, ok := item.(string); ok && strings.HasPrefix(user, "@") && len(user) <= maxPatternLength && len(out) < maxNamed {
			out = append(out, user)
		}
	}
	return out
}

// With is what holds where both hold: the stricter of the two in everything.
func (s CallSettings) With(o CallSettings) CallSettings {
	s.Locked = s.Locked || o.Locked
	s.ViewOnly = s.ViewOnly || o.ViewOnly
	s.MaxParticipants = least(s.MaxParticipants, o.MaxParticipants)
	s.MaxBitrate = least(s.MaxBitrate, o.MaxBitrate)
	if o.PublishLevel != nil && (s.PublishLevel == nil || *s.PublishLevel < *o.PublishLevel) {
		s.PublishLevel = o.PublishLevel
	}
	s.Muted = append(s.Muted[:len(s.Muted):len(s.Muted)], o.Muted...)
	s.NoVideo = append(s.NoVideo[:len(s.NoVideo):len(s.NoVideo)], o.NoVideo...)
	s.Removed = append(s.Removed[:len(s.Removed):len(s.Removed)], o.Removed...)
	return s
}

// least is the smaller of two bounds, where 0 is none.
func least[T int | int64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Mutes says whether the user's voice is dropped.
func (s CallSettings) Mutes(user id.UserID) bool { return names(s.Muted, user) }

// Blinds says whether the user's pictures are dropped.
func (s CallSettings) Blinds(user id.UserID) bool { return names(s.NoVideo, user) }

// Removes says whether the user is kept out.
func (s CallSettings) Removes(user id.UserID) bool { return names(s.Removed, user) }

func names(list []string, user id.UserID) bool {
	for _, pattern := range list {
		if pattern == string(user) || strings.ContainsAny(pattern, "*?") && Glob(pattern, string(user)) {
			return true
		}
	}
	return false
}

// AnyServer says whether one of the globs names the server, without regard to case and port.
func AnyServer(globs []string, server string) bool {
	host := hostOf(strings.ToLower(server))
	for _, g := range globs {
		if Glob(strings.ToLower(g), host) {
			return true
		}
	}
	return false
}

// CallCommand is something done once in a call.
type CallCommand struct {
	// Do is mute, remove or end.
	Do string `json:"command"`
	// UserID is who is muted or removed; DeviceID narrows it down to one of theirs.
	UserID   id.UserID   `json:"user_id,omitempty"`
	DeviceID id.DeviceID `json:"device_id,omitempty"`
	// TrackSID narrows a mute down to one track; otherwise all are muted.
	TrackSID string `json:"track_sid,omitempty"`
}

// The commands.
const (
	CallMute   = "mute"
	CallRemove = "remove"
	CallEnd    = "end"
)

// ParseCallCommand reads the content of the event; false if it is no command.
func ParseCallCommand(content []byte) (CallCommand, bool) {
	var c CallCommand
	if json.Unmarshal(content, &c) != nil {
		return c, false
	}
	switch c.Do {
	case CallMute, CallRemove:
		return c, c.UserID != ""
	case CallEnd:
		return c, true
	}
	return c, false
}
