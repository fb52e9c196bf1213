package policy

import "encoding/json"

// AccessRulesType is the state event, with an empty state key, by which a room says whether externals may be in it.
const AccessRulesType = "im.vector.room.access_rules"

// Access is a room's rule about externals.
type Access string

// The rules.
const (
	AccessRestricted   Access = "restricted"   // no externals
	AccessUnrestricted Access = "unrestricted" // externals who were invited
	AccessDirect       Access = "direct"       // two people, whoever they are
)

// ParseAccess reads the content of the event. No event, or none of the rules, is restricted.
func ParseAccess(content []byte) Access {
	var c struct {
		Rule Access `json:"rule"`
	}
	if json.Unmarshal(content, &c) == nil && (c.Rule == AccessUnrestricted || c.Rule == AccessDirect) {
		return c.Rule
	}
	return AccessRestricted
}

// Externals are the servers, with * for any characters, whose users are in a room only if its rule lets them be.
type Externals []string

// Name says whether the server's users are externals.
func (e Externals) Name(server string) bool { return AnyServer(e, server) }

// Admit says whether users of this server may be where this rule holds.
func (e Externals) Admit(rule Access, server string) bool {
	return rule != AccessRestricted || !e.Name(server)
}
