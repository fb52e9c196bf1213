package policy

import "strings"

// Servers is the list of servers that this one federates with. The zero value is an open federation.
type Servers struct {
	closed   bool
	names    map[string]bool
	suffixes []string
}

// NewServers makes a closed federation of the named servers; an entry "*.example.org" admits all names below it. An empty list
// leaves the federation open. The server's own name need not be listed.
func NewServers(allowed []string) Servers {
	s := Servers{closed: len(allowed) > 0, names: make(map[string]bool)}
	for _, name := range allowed {
		name = strings.ToLower(name)
		if suffix, ok := strings.CutPrefix(name, "*"); ok {
			s.suffixes = append(s.suffixes, suffix)
		} else {
			s.names[name] = true
		}
	}
	return s
}

// Allows says whether we speak with that server at all, in either direction.
func (s Servers) Allows(server string) bool {
	if !s.closed {
		return true
	}
	server = strings.ToLower(server)
	if s.names[server] {
		return true
	}
	for _, suffix := range s.suffixes {
		if strings.HasSuffix(server, suffix) && len(server) > len(suffix) {
			return true
		}
	}
	return false
}
