package policy

import (
	"encoding/json"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"
)

// The account data in which users say who may invite them.
const (
	InvitesType = "m.invite_permission_config"                  // Spec: client-server-api/#minvite_permission_config
	FilterType  = "org.matrix.msc4155.invite_permission_config" // Spec: MSC4155
)

// InviteVerdict is what becomes of an invite.
type InviteVerdict int

const (
	InviteAllowed InviteVerdict = iota
	// InviteIgnored: it is taken in, and the invited user's clients do not hear of it.
	InviteIgnored
	// InviteBlocked: it is refused, and whoever invites learns so.
	InviteBlocked
)

// Invites are a user's wishes about invites. A nil *Invites allows all.
type Invites struct {
	none  bool
	rules []inviteRule // in the order in which they are asked
}

type inviteRule struct {
	verdict  InviteVerdict
	ofServer bool
	globs    []string
}

// ParseInvites reads the contents of m.invite_permission_config and of MSC4155's filter; either may be nil. What is not of the
// type that it should be counts as absent.
func ParseInvites(permission, filter []byte) *Invites {
	var p struct {
		Default json.RawMessage `json:"default_action"`
	}
	var f struct {
		Enabled        json.RawMessage `json:"enabled"`
		AllowedUsers   json.RawMessage `json:"allowed_users"`
		IgnoredUsers   json.RawMessage `json:"ignored_users"`
		BlockedUsers   json.RawMessage `json:"blocked_users"`
		AllowedServers json.RawMessage `json:"allowed_servers"`
		IgnoredServers json.RawMessage `json:"ignored_servers"`
		BlockedServers json.RawMessage `json:"blocked_servers"`
	}
	i := &Invites{}
	if json.Unmarshal(permission, &p) == nil {
		var action string
		i.none = json.Unmarshal(p.Default, &action) == nil && action == "block"
	}
	if json.Unmarshal(filter, &f) != nil || string(f.Enabled) == "false" {
		return i
	}
	for _, r := range []inviteRule{
		{InviteAllowed, false, patterns(f.AllowedUsers)},
		{InviteIgnored, false, patterns(f.IgnoredUsers)},
		{InviteBlocked, false, patterns(f.BlockedUsers)},
		{InviteAllowed, true, patterns(f.AllowedServers)},
		{InviteIgnored, true, patterns(f.IgnoredServers)},
		{InviteBlocked, true, patterns(f.BlockedServers)},
	} {
		if len(r.globs) > 0 {
			i.rules = append(i.rules, r)
		}
	}
	return i
}

// Judge says what becomes of an invite from sender. The first rule that fits decides, users' before servers'; case does not
// count, nor do servers' ports. Who wants no invites at all gets none, whatever the filter says.
func (i *Invites) Judge(sender id.UserID) InviteVerdict {
	if i == nil {
		return InviteAllowed
	}
	if i.none {
		return InviteBlocked
	}
	user := strings.ToLower(string(sender))
	server := hostOf(strings.ToLower(sender.Homeserver()))
	for _, r := range i.rules {
		text := user
		if r.ofServer {
			text = server
		}
		if slices.ContainsFunc(r.globs, func(glob string) bool { return Glob(glob, text) }) {
			return r.verdict
		}
	}
	return InviteAllowed
}
