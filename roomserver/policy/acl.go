package policy

import (
	"encoding/json"
	"net"
	"strings"
)

// ACL is a room's server access control list, as m.room.server_acl gives it. A nil *ACL allows every server.
// Spec: client-server-api/#server-access-control-lists-acls-for-rooms
type ACL struct {
	allow, deny []string
	literals    bool
}

// The bounds of one list; what is beyond is not looked at. A PDU has 64 KiB, so an honest list never reaches them.
const (
	maxPatterns      = 8192
	maxPatternLength = 512
)

// ParseACL reads the content of an m.room.server_acl event. Content that is no object, or lists that are no lists, count as
// empty: such an ACL admits nobody, as the spec asks for an empty allow list.
func ParseACL(content []byte) *ACL {
	var c struct {
		Allow    json.RawMessage `json:"allow"`
		Deny     json.RawMessage `json:"deny"`
		Literals json.RawMessage `json:"allow_ip_literals"`
	}
	if json.Unmarshal(content, &c) != nil {
		return &ACL{}
	}
	acl := &ACL{allow: patterns(c.Allow), deny: patterns(c.Deny), literals: true}
	var literals bool
	if json.Unmarshal(c.Literals, &literals) == nil && c.Literals != nil {
		acl.literals = literals
	}
	return acl
}

func patterns(raw json.RawMessage) []string {
	var list []any
	if raw == nil || json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var out []string
	for _, item := range list {
		if s, ok := item.(string); ok && len(s) <= maxPatternLength && len(out) < maxPatterns {
			out = append(out, strings.ToLower(s))
		}
	}
	return out
}

// Allows says whether the server may take part in the room. Ports are ignored and case does not count.
func (a *ACL) Allows(server string) bool {
	if a == nil {
		return true
	}
	host := hostOf(strings.ToLower(server))
	// Rule 2: IP literals.
	if !a.literals && net.ParseIP(strings.Trim(host, "[]")) != nil {
		return false
	}
	// Rule 3: the deny list.
	for _, p := range a.deny {
		if Glob(p, host) {
			return false
		}
	}
	// Rule 4: the allow list.
	for _, p := range a.allow {
		if Glob(p, host) {
			return true
		}
	}
	// Rule 5: otherwise deny.
	return false
}

// hostOf cuts the port off a server name.
func hostOf(server string) string {
	if i := strings.LastIndexByte(server, ':'); i >= 0 && !strings.HasSuffix(server, "]") && digits(server[i+1:]) {
		if host := server[:i]; strings.HasPrefix(host, "[") || !strings.Contains(host, ":") {
			return host
		}
	}
	return server
}

func digits(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Glob matches text against a pattern in which * stands for any run of characters and ? for exactly one. It takes at most
// length × length steps: it never goes back further than the last star.
func Glob(pattern, text string) bool {
	p, t := 0, 0
	star, mark := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			p = star + 1
			mark++
			t = mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
