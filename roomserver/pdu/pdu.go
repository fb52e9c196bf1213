// Package pdu makes events: it parses, builds, hashes, signs and redacts one PDU,
// and it is the only place in the house where a gomatrixserverlib.PDU comes into being.
//
// Two doors lead in. Parse takes bytes from a stranger and believes nothing: strict JSON,
// size limits, form of every field, content hash. Trusted takes bytes that this package
// wrote earlier and only looks up the fields.
//
// What a reader must not break:
//   - The JSON of an event is canonical from the moment it is made; hashes, signatures and
//     event IDs are computed over slices of it, never over a round trip through maps.
//   - The redaction table (redact.go) decides event IDs and signatures. One wrong key
//     there and our rooms split from everybody else's.
//   - An event never changes after it was made, but for the methods of the PDU interface
//     that say so (Redact, Sign, SetUnsignedField). Slices returned are not to be written.
//   - Nothing here panics on foreign input.
package pdu

import (
	"errors"

	"maunium.net/go/mautrix/id"
)

// What Parse and Build find wrong. Ask with errors.Is.
var (
	// ErrBadJSON: not JSON, or not the JSON that events of this version may be (M_BAD_JSON).
	ErrBadJSON = errors.New("pdu: bad JSON")
	// ErrTooLarge: the event, or one of its identifiers, exceeds the limits (M_TOO_LARGE).
	ErrTooLarge = errors.New("pdu: event too large")
	// ErrMalformed: sound JSON that is no event: a field is missing or has the wrong form.
	ErrMalformed = errors.New("pdu: malformed event")
	// ErrUnknownVersion: the room version is not one of Versions.
	ErrUnknownVersion = errors.New("pdu: unknown room version")
)

// Limits of the specification, and two of our own.
const (
	// MaxSize is the most bytes an event may have as canonical JSON with its signatures.
	MaxSize = 65536
	// MaxIDLength bounds type, state key and each identifier.
	MaxIDLength = 255
	// MaxPrevEvents and MaxAuthEvents bound the references of one event.
	MaxPrevEvents = 20
	MaxAuthEvents = 10
	// MaxDepth is the greatest depth that Build writes.
	MaxDepth = 1<<53 - 1

	maxRaw     = 4 * MaxSize // bytes of a stranger's event before unsigned and blanks are gone
	maxNesting = 512         // objects and arrays within one another
)

// An AuthError is a refusal by the authorisation rules. Rule is the number that the
// specification of the room's version gives the rule, "5.3.1"; empty for what has no number.
type AuthError struct {
	Rule   string
	Reason string
}

func (e *AuthError) Error() string {
	if e.Rule == "" {
		return "not authorised: " + e.Reason
	}
	return "not authorised by rule " + e.Rule + ": " + e.Reason
}

// format is what this package must know of a room version.
type format struct {
	version id.RoomVersion
	// references: prev_events and auth_events are pairs of ID and hash, and the event
	// carries its own ID (v1, v2).
	references bool
	// plainBase64: event IDs in the standard alphabet (v3 alone).
	plainBase64 bool
	// keyValidity: signing keys must have been valid at origin_server_ts (v5).
	keyValidity bool
	// strictNumbers: integers within ±(2^53-1) and nothing else (v6).
	strictNumbers bool
	// restrictedJoins: the authorising user's server must have signed (v8).
	restrictedJoins bool
	// byteLimits: MaxIDLength counts bytes, before that code points (v11).
	byteLimits bool
	// redactsInContent: redactions name their target in content (v11).
	redactsInContent bool
	// hashedRoomID: the room ID is the create event's hash (v12).
	hashedRoomID bool
	// keepOrigin: origin, membership and prev_state survive redaction (v1 to v10).
	keepOrigin bool
	// keep: content keys that survive redaction, by event type.
	keep map[string][]string
	// keepCreate, keepThirdParty: create keeps all content, members keep
	// third_party_invite.signed (v11).
	keepCreate, keepThirdParty bool
}

var versions = []id.RoomVersion{
	id.RoomV1, id.RoomV2, id.RoomV3, id.RoomV4, id.RoomV5, id.RoomV6,
	id.RoomV7, id.RoomV8, id.RoomV9, id.RoomV10, id.RoomV11, id.RoomV12,
}

var formats = func() map[id.RoomVersion]*format {
	all := make(map[id.RoomVersion]*format, len(versions))
	for i, v := range versions {
		n := i + 1
		all[v] = &format{
			version:          v,
			references:       n <= 2,
			plainBase64:      n == 3,
			keyValidity:      n >= 5,
			strictNumbers:    n >= 6,
			restrictedJoins:  n >= 8,
			byteLimits:       n >= 11,
			redactsInContent: n >= 11,
			hashedRoomID:     n >= 12,
			keepOrigin:       n <= 10,
			keep:             keepTable(n),
			keepCreate:       n >= 11,
			keepThirdParty:   n >= 11,
		}
	}
	return all
}()

func formatOf(version id.RoomVersion) (*format, error) {
	f, ok := formats[version]
	if !ok {
		return nil, ErrUnknownVersion
	}
	return f, nil
}

// Known says whether events of that room version can be handled.
func Known(version id.RoomVersion) bool {
	_, ok := formats[version]
	return ok
}

// Versions lists the room versions that can be handled, oldest first. The slice is the caller's.
func Versions() []id.RoomVersion {
	return append([]id.RoomVersion(nil), versions...)
}
