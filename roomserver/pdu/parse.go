package pdu

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"crypto/sha256"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"
)

// Parse reads an event from a stranger. The error is ErrBadJSON, ErrTooLarge, ErrMalformed or
// ErrUnknownVersion. What no signature covers (unsigned, and event_id from version 3 on) is dropped. If the content hash
// is wrong, the event comes back redacted, as the specification wants it, and Redacted() says so.
// Signatures are not checked: see Verify.
// Spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
func Parse(version id.RoomVersion, raw []byte) (gomatrixserverlib.PDU, error) {
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxRaw {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(raw))
	}
	clean, err := canonical(make([]byte, 0, len(raw)), raw, f.strictNumbers)
	if err != nil {
		return nil, err
	}
	clean, all, err := f.strip(clean)
	if err != nil {
		return nil, err
	}
	e, err := f.read(clean, all)
	if err != nil {
		return nil, err
	}
	if err := e.check(all); err != nil {
		return nil, err
	}
	if !hashMatches(all) {
		return f.reparseRedacted(all)
	}
	if err := e.identify(all); err != nil {
		return nil, err
	}
	return e, nil
}

// reparseRedacted makes the event of what redaction leaves of all.
func (f *format) reparseRedacted(all []member) (gomatrixserverlib.PDU, error) {
	kept, err := f.redact(all)
	if err != nil {
		return nil, err
	}
	raw := appendObject(nil, kept)
	if kept, err = members(kept[:0], raw); err != nil {
		return nil, err
	}
	e, err := f.read(raw, kept)
	if err != nil {
		return nil, err
	}
	e.redacted = true
	if err := e.identify(kept); err != nil {
		return nil, err
	}
	return e, nil
}

// Trusted reads an event that this package made and the storage kept. It checks nothing
// but that the fields are there. An empty eventID is computed.
func Trusted(version id.RoomVersion, eventID id.EventID, raw []byte) (gomatrixserverlib.PDU, error) {
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	e, err := trusted(f, string(eventID), raw)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func trusted(f *format, eventID string, raw []byte) (*event, error) {
	all, err := members(make([]member, 0, 20), raw)
	if err != nil {
		return nil, err
	}
	e, err := f.read(raw, all)
	if err != nil {
		return nil, err
	}
	if eventID != "" {
		e.id = eventID
	}
	return e, e.identify(all)
}

// strip drops what must not be kept of a stranger's event: keys that no hash covers and
// that other servers' software leaves behind.
func (f *format) strip(clean []byte) ([]byte, []member, error) {
	all, err := members(make([]member, 0, 20), clean)
	if err != nil {
		return nil, nil, err
	}
	before := len(all)
	all = without(all, "unsigned", "age_ts", "outlier", "destinations")
	if !f.references {
		all = without(all, "event_id")
	}
	if len(all) == before {
		return clean, all, nil
	}
	clean = appendObject(make([]byte, 0, len(clean)), all)
	all, err = members(all[:0], clean)
	return clean, all, err
}

// read looks up the fields and their types. It leaves out id and, in version 12's create event, the room.
func (f *format) read(raw []byte, all []member) (*event, error) {
	e := &event{fields: fields{format: f, raw: raw}}
	var ok bool
	for _, m := range all {
		ok = true
		switch string(m.key) {
		case "type":
			e.kind, ok = text(m.value)
		case "sender":
			e.sender, ok = text(m.value)
		case "room_id":
			e.room, ok = text(m.value)
		case "state_key":
			var sk string
			sk, ok = text(m.value)
			e.stateKey = &sk
		case "content":
			e.content, ok = m.value, m.value[0] == '{'
		case "unsigned":
			e.unsigned = m.value
		case "depth":
			e.depth, ok = integer(m.value)
		case "origin_server_ts":
			e.ts, ok = integer(m.value)
		case "prev_events":
			e.prev, ok = f.readReferences(m.value)
		case "auth_events":
			e.auth, ok = f.readReferences(m.value)
		case "redacts":
			if !f.redactsInContent {
				e.redacts, _ = text(m.value)
			}
		case "event_id":
			if f.references {
				e.id, ok = text(m.value)
			}
		}
		if !ok {
			return nil, fmt.Errorf("%w: %s has the wrong type", ErrMalformed, m.key)
		}
	}
	if e.kind == "" && field(all, "type") == nil || e.sender == "" || e.content == nil {
		return nil, fmt.Errorf("%w: type, sender or content is missing", ErrMalformed)
	}
	if f.redactsInContent && e.kind == "m.room.redaction" {
		e.redacts = e.contentText("redacts")
	}
	return e, nil
}

// readReferences reads prev_events or auth_events: IDs, or in versions 1 and 2 pairs of ID and hashes.
func (f *format) readReferences(value []byte) ([]string, bool) {
	all, err := items(nil, value)
	if err != nil {
		return nil, false
	}
	ids := make([]string, 0, len(all))
	for _, item := range all {
		if f.references {
			pair, err := items(nil, item)
			if err != nil || len(pair) != 2 || pair[1][0] != '{' {
				return nil, false
			}
			item = pair[0]
		}
		s, ok := text(item)
		if !ok {
			return nil, false
		}
		ids = append(ids, s)
	}
	return ids, true
}

// identify sets the event ID where the version derives it, and version 12's room ID.
func (e *event) identify(all []member) error {
	if e.id == "" {
		hash, err := e.referenceHash(all)
		if err != nil {
			return err
		}
		e.id = e.eventID(hash)
	}
	if e.hashedRoomID && e.isCreate() {
		e.room = "!" + e.id[1:]
	}
	return nil
}

// check is what Parse demands beyond the types: presence, limits, form of identifiers.
func (e *event) check(all []member) error {
	if len(e.raw) > MaxSize {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(e.raw))
	}
	if e.prev == nil || e.auth == nil || field(all, "depth") == nil || field(all, "origin_server_ts") == nil {
		return fmt.Errorf("%w: prev_events, auth_events, depth or origin_server_ts is missing", ErrMalformed)
	}
	if e.depth < 0 || e.ts < 0 {
		return fmt.Errorf("%w: negative depth or origin_server_ts", ErrMalformed)
	}
	if len(e.prev) > MaxPrevEvents || len(e.auth) > MaxAuthEvents {
		return fmt.Errorf("%w: %d prev_events, %d auth_events", ErrMalformed, len(e.prev), len(e.auth))
	}
	for _, key := range []string{"hashes", "signatures"} {
		if value := field(all, key); value != nil && value[0] != '{' {
			return fmt.Errorf("%w: %s is no object", ErrMalformed, key)
		}
	}
	return e.checkIDs()
}

func (e *event) checkIDs() error {
	stateKey := ""
	if e.stateKey != nil {
		stateKey = *e.stateKey
	}
	limited := [...]struct{ name, value string }{
		{"type", e.kind}, {"state_key", stateKey}, {"sender", e.sender}, {"room_id", e.room}, {"event_id", e.id},
	}
	for _, x := range limited {
		if n := e.length(x.value); n > MaxIDLength {
			return fmt.Errorf("%w: %s is %d long", ErrTooLarge, x.name, n)
		}
		// PostgreSQL stores no text with NUL, so no other server keeps such an event either.
		if strings.IndexByte(x.value, 0) >= 0 {
			return fmt.Errorf("%w: NUL in %s", ErrMalformed, x.name)
		}
	}
	if !ValidUserID(e.sender) {
		return fmt.Errorf("%w: sender is no user ID", ErrMalformed)
	}
	if !(e.hashedRoomID && e.isCreate()) && !e.validRoomID(e.room) {
		return fmt.Errorf("%w: room_id is no room ID", ErrMalformed)
	}
	if e.references && !validEventID(e.id, true) {
		return fmt.Errorf("%w: event_id is no event ID", ErrMalformed)
	}
	for _, ids := range [][]string{e.prev, e.auth} {
		for _, s := range ids {
			if !validEventID(s, e.references) {
				return fmt.Errorf("%w: a reference is no event ID", ErrMalformed)
			}
		}
	}
	return nil
}

// length counts as the version counts: bytes, or code points before version 11.
func (f *format) length(s string) int {
	if f.byteLimits {
		return len(s)
	}
	return utf8.RuneCountInString(s)
}

func (f *format) validRoomID(s string) bool {
	if len(s) < 2 || s[0] != '!' {
		return false
	}
	if f.hashedRoomID {
		return isHash(s[1:])
	}
	local, server, ok := strings.Cut(s[1:], ":")
	return ok && local != "" && ValidServerName(server)
}

// ValidRoomID says whether s has the form of a room ID of any version: with a domain, or a hash.
func ValidRoomID(s string) bool {
	if len(s) > MaxIDLength || strings.IndexByte(s, 0) >= 0 {
		return false
	}
	return formats[id.RoomV1].validRoomID(s) || formats[id.RoomV12].validRoomID(s)
}

// ValidEventID says whether s has the form of an event ID of that room version.
func ValidEventID(version id.RoomVersion, s string) bool {
	f, ok := formats[version]
	return ok && validEventID(s, f.references)
}

// isHash says whether s is a SHA-256 in URL-safe base64 without padding.
func isHash(s string) bool {
	if len(s) != 43 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func validEventID(s string, withDomain bool) bool {
	if len(s) < 2 || s[0] != '$' || utf8.RuneCountInString(s) > MaxIDLength || strings.IndexByte(s, 0) >= 0 {
		return false
	}
	if !withDomain {
		return true
	}
	_, server, ok := strings.Cut(s, ":")
	return ok && ValidServerName(server)
}

// ValidUserID says whether s may be a sender: @, anything, a colon and a server name,
// within the length limit. Old localparts with odd characters are valid.
// Spec: appendices/#historical-user-ids
func ValidUserID(s string) bool {
	if len(s) < 3 || len(s) > MaxIDLength || s[0] != '@' || strings.IndexByte(s, 0) >= 0 {
		return false
	}
	_, server, ok := strings.Cut(s[1:], ":")
	return ok && ValidServerName(server)
}

// ValidServerName says whether s is a host name, an IPv4 address or an IPv6 address in
// brackets, with or without a port.
// Spec: appendices/#server-name
func ValidServerName(s string) bool {
	host := s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		host = s[1:end]
		if host == "" || strings.Trim(host, "0123456789abcdefABCDEF:.") != "" {
			return false
		}
		s = s[end+1:]
		return s == "" || s[0] == ':' && validPort(s[1:])
	}
	if colon := strings.IndexByte(s, ':'); colon >= 0 {
		if !validPort(s[colon+1:]) {
			return false
		}
		host = s[:colon]
	}
	if host == "" || len(host) > MaxIDLength {
		return false
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// hashMatches checks the content hash.
// Spec: server-server-api/#calculating-the-content-hash-for-an-event
func hashMatches(all []member) bool {
	hashes, err := members(nil, field(all, "hashes"))
	if err != nil {
		return false
	}
	s, ok := text(field(hashes, "sha256"))
	if !ok {
		return false
	}
	want, ok := decodeBase64(s)
	if !ok {
		return false
	}
	got := contentHash(all)
	return bytes.Equal(got[:], want)
}

// decodeBase64 takes both alphabets, with or without padding.
func decodeBase64(s string) ([]byte, bool) {
	s = strings.TrimRight(s, "=")
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	b, err := encoding.DecodeString(s)
	return b, err == nil
}

func contentHash(all []member) [sha256.Size]byte {
	return hashOf(all, "hashes", "signatures", "unsigned")
}

// hashOf is the SHA-256 of the object of these members without some of them.
func hashOf(all []member, except ...string) [sha256.Size]byte {
	buf := buffers.Get().(*[]byte)
	*buf = appendObject((*buf)[:0], all, except...)
	sum := sha256.Sum256(*buf)
	buffers.Put(buf)
	return sum
}
