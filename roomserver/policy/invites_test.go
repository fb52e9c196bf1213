package policy_test

import (
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/policy"
)

func TestInvites(t *testing.T) {
	const allowed, ignored, blocked = policy.InviteAllowed, policy.InviteIgnored, policy.InviteBlocked
	for _, c := range []struct {
		name, permission, filter string
		sender                   id.UserID
		want                     policy.InviteVerdict
	}{
		{"nothing said", ``, ``, "@a:x.example", allowed},
		{"empty", `{}`, `{}`, "@a:x.example", allowed},
		{"block all", `{"default_action":"block"}`, ``, "@a:x.example", blocked},
		{"another action", `{"default_action":"allow"}`, ``, "@a:x.example", allowed},
		{"an action that is no text", `{"default_action":["block"]}`, ``, "@a:x.example", allowed},
		{"block all, whom the filter allows too", `{"default_action":"block"}`, `{"allowed_users":["*"]}`, "@a:x.example", blocked},
		{"ignored user", ``, `{"ignored_users":["@a:x.example"]}`, "@a:x.example", ignored},
		{"blocked user", ``, `{"blocked_users":["@a:x.example"]}`, "@a:x.example", blocked},
		{"another user", ``, `{"blocked_users":["@a:x.example"]}`, "@b:x.example", allowed},
		{"users by a glob", ``, `{"blocked_users":["@spam-?*:*"]}`, "@spam-1:x.example", blocked},
		{"a glob that does not fit", ``, `{"blocked_users":["@spam-?*:*"]}`, "@spam-:x.example", allowed},
		{"ignored server", ``, `{"ignored_servers":["x.example"]}`, "@a:x.example", ignored},
		{"blocked server", ``, `{"blocked_servers":["*.example"]}`, "@a:x.example", blocked},
		{"another server", ``, `{"blocked_servers":["y.example"]}`, "@a:x.example", allowed},
		{"port is ignored", ``, `{"blocked_servers":["x.example"]}`, "@a:x.example:8448", blocked},
		{"case is ignored", ``, `{"blocked_servers":["X.example"]}`, "@a:x.EXAMPLE", blocked},
		{"allowed user of a blocked server", ``, `{"allowed_users":["@a:x.example"],"blocked_servers":["*"]}`, "@a:x.example", allowed},
		{"blocked user of an allowed server", ``, `{"blocked_users":["@a:x.example"],"allowed_servers":["*"]}`, "@a:x.example", blocked},
		{"allowed before ignored", ``, `{"allowed_users":["@a:*"],"ignored_users":["@a:*"]}`, "@a:x.example", allowed},
		{"ignored before blocked", ``, `{"ignored_users":["@a:*"],"blocked_users":["@a:*"]}`, "@a:x.example", ignored},
		{"allowed server before blocked", ``, `{"allowed_servers":["x.example"],"blocked_servers":["*"]}`, "@a:x.example", allowed},
		{"ignored server before blocked", ``, `{"ignored_servers":["x.example"],"blocked_servers":["*"]}`, "@a:x.example", ignored},
		{"switched off", ``, `{"enabled":false,"blocked_users":["*"]}`, "@a:x.example", allowed},
		{"switched on", ``, `{"enabled":true,"blocked_users":["*"]}`, "@a:x.example", blocked},
		{"a switch that is none", ``, `{"enabled":null,"blocked_users":["*"]}`, "@a:x.example", blocked},
		{"nulls", ``, `{"allowed_users":null,"blocked_users":null,"blocked_servers":null}`, "@a:x.example", allowed},
		{"one list that is none", ``, `{"allowed_users":5,"blocked_users":[1,"@a:*"]}`, "@a:x.example", blocked},
		{"no object", `[]`, `[]`, "@a:x.example", allowed},
	} {
		if got := policy.ParseInvites([]byte(c.permission), []byte(c.filter)).Judge(c.sender); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	var nothing *policy.Invites
	if got := nothing.Judge("@a:x.example"); got != allowed {
		t.Errorf("nil: got %v, want %v", got, allowed)
	}
}

func FuzzInvites(f *testing.F) {
	f.Add([]byte(`{"default_action":"block"}`), []byte(`{"enabled":true,"blocked_users":["@a*"],"ignored_servers":["b?"]}`), "@a:b.example:1")
	f.Fuzz(func(t *testing.T, permission, filter []byte, sender string) {
		policy.ParseInvites(permission, filter).Judge(id.UserID(sender))
	})
}
