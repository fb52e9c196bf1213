package oauth

import (
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"
)

// The two spellings of scopes: that of Matrix 1.15, and that of clients from before (the Rust SDK of August 2026 uses it still).
const (
	stableScope   = "urn:matrix:client:"
	unstableScope = "urn:matrix:org.matrix.msc2967.client:"
)

const maxScope = 2048

// scope is what a client asks for: all of the client API, for one device.
type scope struct {
	text   string // what is granted of it, in the client's spelling
	device id.DeviceID
}

// parseScope reads what a client asks for. Tokens that mean nothing here are left out of what is granted.
// Spec: client-server-api/#scope
func parseScope(text string) (scope, error) {
	var s scope
	if len(text) > maxScope {
		return s, fail(invalidScope, "The scope is too long")
	}
	api, granted := false, []string{}
	for token := range strings.SplitSeq(text, " ") {
		if token == "" || slices.Contains(granted, token) {
			continue
		}
		if !scopeToken(token) {
			return s, fail(invalidScope, "The scope has characters that no scope has")
		}
		name, ok := strings.CutPrefix(token, stableScope)
		if !ok {
			name, ok = strings.CutPrefix(token, unstableScope)
		}
		if !ok {
			continue
		}
		if name == "api:*" {
			api, granted = true, append(granted, token)
			continue
		}
		device, ok := strings.CutPrefix(name, "device:")
		if !ok {
			continue
		}
		// Both spellings of the same device are one.
		if s.device != "" && s.device != id.DeviceID(device) {
			return s, fail(invalidScope, "The scope names more than one device")
		}
		if device == "" || len(device) > 255 {
			return s, fail(invalidScope, "A device ID has 1 to 255 characters")
		}
		s.device, granted = id.DeviceID(device), append(granted, token)
	}
	if !api || s.device == "" {
		return s, fail(invalidScope, "The scope has to hold "+stableScope+"api:* and one "+stableScope+"device:…")
	}
	s.text = strings.Join(granted, " ")
	return s, nil
}

// scopeToken says whether it has only the characters of RFC 6749, section 3.3.
func scopeToken(token string) bool {
	for _, c := range []byte(token) {
		if c != 0x21 && !(c >= 0x23 && c <= 0x5b) && !(c >= 0x5d && c <= 0x7e) {
			return false
		}
	}
	return true
}
