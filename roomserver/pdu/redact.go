package pdu

import (
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"
)

// Redact strips an event to what the redaction algorithm of its room version keeps, as canonical JSON.
// Signatures stay. It is safe on foreign bytes.
// Spec: rooms/v11/#redactions
func Redact(version id.RoomVersion, raw []byte) ([]byte, error) {
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	all, err := parseMembers(raw, f.strictNumbers)
	if err != nil {
		return nil, err
	}
	kept, err := f.redact(all)
	if err != nil {
		return nil, err
	}
	return appendObject(make([]byte, 0, len(raw)), kept), nil
}

// parseMembers makes raw canonical and lists its members.
func parseMembers(raw []byte, integers bool) ([]member, error) {
	clean, err := canonical(make([]byte, 0, len(raw)), raw, integers)
	if err != nil {
		return nil, err
	}
	return members(make([]member, 0, 16), clean)
}

// keepTable lists the content keys that survive redaction in room version n.
func keepTable(n int) map[string][]string {
	member := []string{"membership"}
	if n >= 9 {
		member = append(member, "join_authorised_via_users_server")
	}
	joinRules := []string{"join_rule"}
	if n >= 8 {
		joinRules = append(joinRules, "allow")
	}
	levels := []string{"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}
	if n >= 11 {
		levels = append(levels, "invite")
	}
	keep := map[string][]string{
		"m.room.member":             member,
		"m.room.create":             {"creator"},
		"m.room.join_rules":         joinRules,
		"m.room.power_levels":       levels,
		"m.room.history_visibility": {"history_visibility"},
	}
	if n <= 5 {
		keep["m.room.aliases"] = []string{"aliases"}
	}
	if n >= 11 {
		keep["m.room.redaction"] = []string{"redacts"}
	}
	return keep
}

// keepsTop says whether a top-level key survives redaction.
func (f *format) keepsTop(key []byte) bool {
	switch string(key) {
	case "auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts",
		"prev_events", "room_id", "sender", "signatures", "state_key", "type":
		return true
	case "origin", "membership", "prev_state":
		return f.keepOrigin
	}
	return false
}

// redact gives the members that survive. Their values are slices of the old ones, but for the content.
func (f *format) redact(all []member) ([]member, error) {
	kind, ok := text(field(all, "type"))
	if !ok {
		return nil, fmt.Errorf("%w: type is no string", ErrMalformed)
	}
	kept := make([]member, 0, 16)
	for _, m := range all {
		if !f.keepsTop(m.key) {
			continue
		}
		if string(m.key) == "content" {
			content, err := f.redactContent(kind, m.value)
			if err != nil {
				return nil, err
			}
			m.value = content
		}
		kept = append(kept, m)
	}
	return kept, nil
}

func (f *format) redactContent(kind string, content []byte) ([]byte, error) {
	if kind == "m.room.create" && f.keepCreate {
		return content, nil
	}
	keys, thirdParty := f.keep[kind], kind == "m.room.member" && f.keepThirdParty
	if keys == nil {
		if len(content) == 0 || content[0] != '{' {
			return nil, fmt.Errorf("%w: content is no object", ErrMalformed)
		}
		return []byte("{}"), nil
	}
	all, err := members(make([]member, 0, 16), content)
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, m := range all {
		switch {
		case slices.Contains(keys, string(m.key)):
			kept = append(kept, m)
		case thirdParty && string(m.key) == "third_party_invite" && m.value[0] == '{':
			invite, err := members(nil, m.value)
			if err != nil {
				return nil, err
			}
			invite = slices.DeleteFunc(invite, func(m member) bool { return string(m.key) != "signed" })
			kept = append(kept, member{m.key, appendObject(nil, invite)})
		}
	}
	return appendObject(make([]byte, 0, len(content)), kept), nil
}
