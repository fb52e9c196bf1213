package clientapi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"

	"chancery/clientapi/rest"
)

const adminAPI = "/_synapse/admin"

// tool is mautrix' administration client of this user.
func (u *user) tool() *synapseadmin.Client {
	u.t.Helper()
	client, err := mautrix.NewClient(u.url, u.ID, u.Token)
	if err != nil {
		u.t.Fatal(err)
	}
	client.DefaultHTTPRetries = 0
	return &synapseadmin.Client{Client: client}
}

// TestAdminDoors asks of every route of the administrators that nobody else comes in.
func TestAdminDoors(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	seen := 0
	for _, route := range s.api.routes() {
		if route.Auth != rest.Admin {
			continue
		}
		seen++
		path := route.Path
		for _, part := range []string{"{userId}", "{roomId}", "{eventId}"} {
			path = strings.ReplaceAll(path, part, map[string]string{"{userId}": "@alice:interior", "{roomId}": "!x:interior", "{eventId}": "$x"}[part])
		}
		path = strings.NewReplacer("{", "", "}", "").Replace(path)
		alice.do(route.Method, path, "{}").fails(403, "M_FORBIDDEN")
		s.do("", route.Method, path, "{}").fails(401, "M_MISSING_TOKEN")
		s.do("nobody's", route.Method, path, "{}").fails(401, "M_UNKNOWN_TOKEN")
	}
	if seen < 60 {
		t.Errorf("only %d routes of administrators were asked", seen)
	}
}

func TestAdminListsUsers(t *testing.T) {
	s := start(t, testConfig())
	root := s.administrator("root")
	for _, name := range []string{"anna", "ben", "carl", "dora"} {
		s.register(name)
	}
	root.do("PUT", adminAPI+"/v2/users/@anna:interior", `{"displayname":"Zoë ÉCLAIR","user_type":"bot","avatar_url":"mxc://interior/x"}`).ok()
	root.do("PUT", adminAPI+"/v2/users/@ben:interior", `{"locked":true}`).ok()
	root.do("POST", adminAPI+"/v1/deactivate/@carl:interior", `{"erase":true}`).ok()
	root.do("PUT", adminAPI+"/v1/suspend/@dora:interior", `{"suspend":true}`).ok()
	for _, c := range []struct{ query, names string }{
		{"v2/users", "anna dora root"},
		{"v2/users?locked=true", "anna ben dora root"},
		{"v2/users?deactivated=true", "anna carl dora root"},
		{"v2/users?deactivated=false", "anna dora root"},
		{"v3/users?locked=true", "anna ben carl dora root"},
		{"v3/users?deactivated=true", "carl"},
		{"v3/users?deactivated=false", "anna dora root"},
		{"v2/users?admins=true", "root"},
		{"v2/users?admins=false", "anna dora"},
		{"v2/users?suspended=true", "dora"},
		{"v2/users?name=o", "anna dora root"}, // in Zoë too
		{"v2/users?name=zo%C3%AB", "anna"},
		{"v2/users?name=%25", ""},
		{"v2/users?name=interior", ""},
		{"v2/users?user_id=:INTERIOR", "anna dora root"},
		{"v2/users?not_user_type=bot", "dora root"},
		{"v2/users?not_user_type=", "anna"},
		{"v2/users?guests=false", "anna dora root"},
		{"v2/users?dir=b", "root dora anna"},
		{"v2/users?order_by=admin&dir=b", "root anna dora"},
		{"v2/users?order_by=creation_ts", "root anna dora"},
		{"v2/users?order_by=user_type&dir=b", "anna dora root"},
		{"v2/users?order_by=displayname", "anna dora root"}, // Zoë before dora, by their letters
		{"v2/users?order_by=last_seen_ts&limit=0", ""},
		{"v2/users?order_by=shadow_banned&from=1", "dora root"},
		{"v2/users?limit=1&from=1", "dora"},
		{"v2/users?from=99", ""},
	} {
		var names []string
		for _, n := range root.do("GET", adminAPI+"/"+c.query, nil).ok().body.Get("users.#.name").Array() {
			names = append(names, id.UserID(n.Str).Localpart())
		}
		if got := strings.Join(names, " "); got != c.names {
			t.Errorf("%s: got %q, want %q", c.query, got, c.names)
		}
	}
	for _, bad := range []string{"order_by=password", "dir=x", "from=-1", "limit=-1", "limit=x", "admins=2", "deactivated=maybe", "guests=x"} {
		root.do("GET", adminAPI+"/v2/users?"+bad, nil).fails(400, "M_INVALID_PARAM")
	}
	page := root.do("GET", adminAPI+"/v2/users?limit=2", nil).ok()
	if page.str("next_token") != "2" || page.body.Get("total").Int() != 3 {
		t.Errorf("the first page: got %s", page.body.Raw)
	}
	if last := root.do("GET", adminAPI+"/v2/users?limit=2&from=2", nil).ok(); last.body.Get("next_token").Exists() {
		t.Errorf("the last page: got %s", last.body.Raw)
	}
	anna := page.body.Get("users.0")
	if anna.Get("displayname").Str != "Zoë ÉCLAIR" || anna.Get("user_type").Str != "bot" || anna.Get("creation_ts").Int() < 1e12 || anna.Get("last_seen_ts").Int() < 1e12 {
		t.Errorf("a user of the list: got %s", anna.Raw)
	}
	for _, field := range []string{"is_guest", "admin", "deactivated", "erased", "shadow_banned", "locked", "suspended"} {
		if v := anna.Get(field); !v.IsBool() {
			t.Errorf("%s of a user of the list: got %s, want a flag", field, v.Raw)
		}
	}
}

func TestAdminChangesUsers(t *testing.T) {
	s := start(t, testConfig())
	root := s.administrator("root")
	one := func(name string) string { return adminAPI + "/v2/users/@" + name + ":interior" }
	made := root.do("PUT", one("anna"), `{"password":"correct horse","threepids":[{"medium":"email","address":"Anna@Example.org"}],
		"external_ids":[{"auth_provider":"oidc-proconnect","external_id":"sub/1"}],"admin":false}`)
	if made.code != 201 {
		t.Fatalf("make: got %d %s", made.code, made.body.Raw)
	}
	got := root.do("GET", one("anna"), nil).ok()
	if got.str("threepids.0.address") != "anna@example.org" || got.str("external_ids.0.external_id") != "sub/1" || got.body.Get("creation_ts").Int() > 1e11 {
		t.Errorf("the account: got %s", got.body.Raw)
	}
	if a := root.do("GET", adminAPI+"/v1/auth_providers/oidc-proconnect/users/sub%2F1", nil).ok(); a.str("user_id") != "@anna:interior" {
		t.Errorf("by provider: got %s", a.body.Raw)
	}
	if a := root.do("GET", adminAPI+"/v1/threepid/email/users/anna@example.org", nil).ok(); a.str("user_id") != "@anna:interior" {
		t.Errorf("by address: got %s", a.body.Raw)
	}
	root.do("GET", adminAPI+"/v1/auth_providers/oidc-proconnect/users/other", nil).fails(404, "M_NOT_FOUND")
	root.do("GET", adminAPI+"/v1/threepid/email/users/ben@example.org", nil).fails(404, "M_NOT_FOUND")
	root.do("GET", adminAPI+"/v1/threepid/fax/users/1", nil).fails(400, "M_INVALID_PARAM")

	s.register("ben")
	root.do("PUT", one("ben"), `{"threepids":[{"medium":"email","address":"anna@example.org"}]}`).fails(400, "M_THREEPID_IN_USE")
	root.do("PUT", one("ben"), `{"external_ids":[{"auth_provider":"oidc-proconnect","external_id":"sub/1"}]}`).fails(409, "M_UNKNOWN")
	root.do("PUT", one("anna"), `{"threepids":[],"external_ids":[]}`).ok()
	if got := root.do("GET", one("anna"), nil).ok(); len(got.body.Get("threepids").Array())+len(got.body.Get("external_ids").Array()) != 0 {
		t.Errorf("after taking all away: got %s", got.body.Raw)
	}
	for _, bad := range []string{
		`{"user_type":"wizard"}`, `{"avatar_url":"https://example.org"}`, `{"threepids":[{"medium":"email","address":"no"}]}`, `{"threepids":[{"medium":"fax","address":"1"}]}`,
	} {
		root.do("PUT", one("ben"), bad).fails(400, "M_INVALID_PARAM")
	}
	root.do("PUT", one("ben"), `{"external_ids":[{}]}`).fails(400, "M_MISSING_PARAM")
	root.do("PUT", one("ben"), `{"admin":"yes"}`).fails(400, "M_BAD_JSON")
	root.do("PUT", adminAPI+"/v2/users/@ben:elsewhere", `{}`).fails(400, "M_INVALID_PARAM")
	root.do("GET", one("nobody"), nil).fails(404, "M_NOT_FOUND")

	root.do("PUT", one("ben"), `{"user_type":"support","displayname":"Ben","avatar_url":"mxc://interior/b"}`).ok()
	root.do("PUT", one("ben"), `{"user_type":null,"avatar_url":""}`).ok()
	if got := root.do("GET", one("ben"), nil).ok(); got.body.Get("user_type").Raw != "null" || got.body.Get("avatar_url").Raw != "null" || got.str("displayname") != "Ben" {
		t.Errorf("after changes: got %s", got.body.Raw)
	}

	root.do("PUT", one("ben"), `{"deactivated":true}`).ok()
	root.do("PUT", one("ben"), `{"password":"correct horse"}`).fails(400, "M_INVALID_PARAM")
	root.do("PUT", one("ben"), `{"deactivated":false,"password":"password of ben"}`).ok()
	s.login("ben").do("GET", v3+"/account/whoami", nil).ok()

	if a := root.do("GET", adminAPI+"/v1/users/@ben:interior/admin", nil).ok(); a.body.Get("admin").Bool() {
		t.Errorf("ben as administrator: got %s", a.body.Raw)
	}
	root.do("PUT", adminAPI+"/v1/users/@ben:interior/admin", `{"admin":true}`).ok()
	s.login("ben").do("GET", adminAPI+"/v1/users/@ben:interior/admin", nil).ok()
	root.do("PUT", adminAPI+"/v1/users/@root:interior/admin", `{"admin":false}`).fails(403, "M_FORBIDDEN")
	root.do("PUT", adminAPI+"/v1/users/@ben:interior/admin", `{}`).fails(400, "M_MISSING_PARAM")
}

func TestAdminDevices(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	at := adminAPI + "/v2/users/@alice:interior/devices"
	if a := root.do("POST", at, `{"device_id":"PHONE"}`); a.code != 201 {
		t.Errorf("make a device: got %d %s", a.code, a.body.Raw)
	}
	root.do("POST", at, `{}`).fails(400, "M_MISSING_PARAM")
	root.do("PUT", at+"/PHONE", `{"display_name":"My phone"}`).ok()
	root.do("PUT", at+"/NONE", `{"display_name":"My phone"}`).fails(404, "M_NOT_FOUND")
	if a := root.do("GET", at+"/PHONE", nil).ok(); a.str("display_name") != "My phone" || a.str("user_id") != "@alice:interior" {
		t.Errorf("the device: got %s", a.body.Raw)
	}
	if a := root.do("GET", at, nil).ok(); a.body.Get("total").Int() != 2 {
		t.Errorf("the devices: got %s", a.body.Raw)
	}
	root.do("GET", at+"/NONE", nil).fails(404, "M_NOT_FOUND")
	root.do("DELETE", at+"/PHONE", nil).ok()
	root.do("DELETE", at+"/PHONE", nil).ok() // gone already
	root.do("POST", adminAPI+"/v2/users/@alice:interior/delete_devices", `{}`).fails(400, "M_MISSING_PARAM")
	root.do("POST", adminAPI+"/v2/users/@alice:interior/delete_devices", map[string]any{"devices": []string{alice.Device}}).ok()
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestAdminSeesBelongings(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	in, left := alice.do("POST", v3+"/createRoom", "{}").ok().str("room_id"), alice.do("POST", v3+"/createRoom", "{}").ok().str("room_id")
	alice.do("POST", v3+"/rooms/"+left+"/leave", "{}").ok()
	alice.do("PUT", v3+"/user/@alice:interior/account_data/org.example", `{"a":1}`).ok()
	alice.do("PUT", v3+"/user/@alice:interior/rooms/"+in+"/account_data/org.example", `{"b":2}`).ok()
	alice.do("POST", v3+"/pushers/set", `{"app_id":"app","pushkey":"key","kind":"http","app_display_name":"App","device_display_name":"Phone","lang":"en","data":{"url":"https://example.org/_matrix/push/v1/notify"}}`).ok()
	one := adminAPI + "/v1/users/@alice:interior/"
	if a := root.do("GET", one+"joined_rooms", nil).ok(); a.str("joined_rooms.0") != in || a.body.Get("total").Int() != 1 {
		t.Errorf("joined rooms: got %s", a.body.Raw)
	}
	members := root.do("GET", one+"memberships", nil).ok().body.Get("memberships").Map()
	if members[in].Str != "join" || members[left].Str != "leave" {
		t.Errorf("memberships: got %v", members)
	}
	data := root.do("GET", one+"accountdata", nil).ok().body.Get("account_data")
	if data.Get(`global.org\.example.a`).Int() != 1 || len(data.Get("rooms").Map()) != 1 {
		t.Errorf("account data: got %s", data.Raw)
	}
	if a := root.do("GET", one+"pushers", nil).ok(); a.str("pushers.0.pushkey") != "key" || a.body.Get("total").Int() != 1 {
		t.Errorf("pushers: got %s", a.body.Raw)
	}
	for _, what := range []string{"joined_rooms", "memberships", "accountdata", "pushers", "media", "override_ratelimit", "admin"} {
		root.do("GET", adminAPI+"/v1/users/@nobody:interior/"+what, nil).fails(404, "M_NOT_FOUND")
		root.do("GET", adminAPI+"/v1/users/nobody/"+what, nil).fails(400, "M_INVALID_PARAM")
	}
	if a := root.do("GET", adminAPI+"/v1/users/@eve:elsewhere/joined_rooms", nil).ok(); a.body.Get("total").Int() != 0 {
		t.Errorf("a stranger's rooms: got %s", a.body.Raw)
	}
}

func TestSuspension(t *testing.T) {
	s := start(t, testConfig())
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	room := alice.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id")
	in := v3 + "/rooms/" + room
	bob.do("POST", in+"/join", "{}").ok()
	mine := bob.do("PUT", in+"/send/m.room.message/1", `{"msgtype":"m.text","body":"1"}`).ok().str("event_id")
	hers := alice.do("PUT", in+"/send/m.room.message/1", `{"msgtype":"m.text","body":"2"}`).ok().str("event_id")
	invited := alice.do("POST", v3+"/createRoom", `{"invite":["@bob:interior"]}`).ok().str("room_id")
	alice.do("PUT", in+"/state/m.room.power_levels", `{"users":{"@alice:interior":100,"@bob:interior":100}}`).ok()

	const path = "/_matrix/client/v1/admin/suspend/"
	if a := root.do("PUT", path+"@bob:interior", `{"suspended":true}`).ok(); !a.body.Get("suspended").Bool() {
		t.Errorf("suspend: got %s", a.body.Raw)
	}
	if a := root.do("GET", path+"@bob:interior", nil).ok(); !a.body.Get("suspended").Bool() {
		t.Errorf("how bob stands: got %s", a.body.Raw)
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/createRoom", `{}`}, {"POST", "/rooms/" + invited + "/join", `{}`}, {"POST", "/join/" + invited, `{}`}, {"POST", "/knock/" + invited, `{}`},
		{"POST", "/rooms/" + room + "/invite", `{"user_id":"@root:interior"}`}, {"POST", "/rooms/" + room + "/kick", `{"user_id":"@alice:interior"}`},
		{"POST", "/rooms/" + room + "/ban", `{"user_id":"@alice:interior"}`},
		{"PUT", "/rooms/" + room + "/send/m.room.message/2", `{"msgtype":"m.text","body":"2"}`},
		{"PUT", "/rooms/" + room + "/state/m.room.topic", `{"topic":"x"}`},
		{"PUT", "/rooms/" + room + "/state/m.room.member/@bob:interior", `{"membership":"join","displayname":"x"}`},
		{"PUT", "/rooms/" + room + "/redact/" + hers + "/1", `{}`},
		{"PUT", "/rooms/" + room + "/send/m.room.redaction/3", `{"redacts":"` + hers + `"}`},
		{"PUT", "/profile/@bob:interior/displayname", `{"displayname":"Robert"}`}, {"DELETE", "/profile/@bob:interior/displayname", ``},
		{"PUT", "/profile/@bob:interior/avatar_url", `{"avatar_url":"mxc://a/b"}`},
	} {
		bob.do(c.method, v3+c.path, c.body).fails(403, "M_USER_SUSPENDED")
	}
	bob.do("GET", v3+"/sync", nil).ok()
	bob.do("GET", in+"/messages?dir=b", nil).ok()
	for _, c := range []struct{ typ, body string }{
		{"message", `"content":{"msgtype":"m.text","body":"x"}`},
		{"redaction", `"content":{"redacts":"` + hers + `"}`},
		{"redaction", `"content":{"redacts":"` + mine + `"},"Content":{"redacts":"` + hers + `"}`},
		{"redaction", `"state_key":"","content":{"redacts":"` + mine + `"}`},
		{"member", `"state_key":"@bob:interior","content":{"membership":"join"}`},
		{"member", `"state_key":"@alice:interior","content":{"membership":"leave"}`},
	} {
		if a := bob.do("PUT", later(room)+"m.room."+c.typ+"/1", `{"delay":60000,`+c.body+`}`); a.code != 403 || a.str("errcode") != "M_USER_SUSPENDED" {
			t.Errorf("%s, later, with %s: got %d %s, want 403 M_USER_SUSPENDED", c.typ, c.body, a.code, a.body.Raw)
		}
	}
	bob.do("PUT", later(room)+"m.room.redaction/2", `{"delay":60000,"content":{"redacts":"`+mine+`"}}`).ok()
	bob.do("PUT", later(room)+"m.room.member/2", `{"delay":60000,"state_key":"@bob:interior","content":{"membership":"leave"}}`).ok()
	bob.do("PUT", in+"/state/m.room.redaction", `{"redacts":"`+mine+`"}`).fails(403, "M_USER_SUSPENDED")
	bob.do("PUT", in+"/redact/"+mine+"/1", `{}`).ok()
	bob.do("PUT", v3+"/user/@bob:interior/account_data/org.example", `{}`).ok()
	bob.do("POST", v3+"/keys/upload", `{}`).ok()
	other := s.login("bob")
	other.do("POST", in+"/join", "{}").fails(403, "M_USER_SUSPENDED")
	other.do("POST", v3+"/logout", "{}").ok()
	bob.do("POST", v3+"/rooms/"+invited+"/leave", `{}`).ok()
	bob.do("PUT", in+"/state/m.room.member/@bob:interior", `{"membership":"leave"}`).ok()

	root.do("PUT", path+"@bob:interior", `{"suspended":false}`).ok()
	bob.do("POST", in+"/join", "{}").ok()
	root.do("PUT", path+"@root:interior", `{"suspended":true}`).fails(403, "M_FORBIDDEN")
	root.do("PUT", path+"@nobody:interior", `{"suspended":true}`).fails(404, "M_NOT_FOUND")
	root.do("PUT", path+"@bob:elsewhere", `{"suspended":true}`).fails(400, "M_INVALID_PARAM")
	root.do("PUT", path+"@bob:interior", `{}`).fails(400, "M_MISSING_PARAM")
	root.do("PUT", path+"@bob:interior", `{"suspended":"x"}`).fails(400, "M_BAD_JSON")
	if err := root.tool().SuspendAccount(t.Context(), bob.ID, synapseadmin.ReqSuspendUser{Suspend: true}); err != nil {
		t.Error(err)
	}
	bob.do("POST", v3+"/createRoom", `{}`).fails(403, "M_USER_SUSPENDED")

	for _, c := range []struct {
		who *user
		can bool
	}{{root, true}, {alice, false}} {
		a := c.who.do("GET", v3+"/capabilities", nil).ok()
		if got := a.body.Get(`capabilities.m\.account_moderation.suspend`).Bool(); got != c.can {
			t.Errorf("%s can suspend: got %v, want %v", c.who.ID, got, c.can)
		}
	}
}

// later is where events of the room are put that are to be sent later, before their type.
func later(room string) string {
	return "/_matrix/client/unstable/org.matrix.msc4140/rooms/" + room + "/delayed_event/"
}

func TestLockedOut(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	root.do("PUT", "/_matrix/client/v1/admin/lock/@alice:interior", `{"locked":true}`).ok()
	if a := alice.do("GET", v3+"/sync", nil).fails(401, "M_USER_LOCKED"); !a.body.Get("soft_logout").Bool() {
		t.Errorf("locked: got %s, want soft_logout", a.body.Raw)
	}
	alice.do("POST", v3+"/logout", "{}").ok()
	alice.do("GET", v3+"/sync", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestShadowBan(t *testing.T) {
	s := start(t, testConfig())
	root, alice, eve := s.administrator("root"), s.register("alice"), s.register("eve")
	room := alice.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id")
	in := v3 + "/rooms/" + room
	eve.do("POST", in+"/join", "{}").ok()
	root.do("POST", adminAPI+"/v1/users/@eve:interior/shadow_ban", nil).ok()
	told := eve.do("PUT", in+"/send/m.room.message/1", `{"msgtype":"m.text","body":"spam"}`).ok().str("event_id")
	if !strings.HasPrefix(told, "$") {
		t.Errorf("eve is told %q", told)
	}
	alice.do("GET", in+"/event/"+told, nil).fails(404, "M_NOT_FOUND")
	for _, path := range []string{in + "/send/m.room.message/2?org.matrix.msc4140.delay=60000", later(room) + "m.room.message/3"} {
		delayed := eve.do("PUT", path, `{"delay":60000,"content":{"msgtype":"m.text","body":"spam"}}`).ok().str("delay_id")
		if len(delayed) != 27 || delayed[0] != 'd' {
			t.Errorf("%s: eve is told %q", path, delayed)
		}
		s.do("", "POST", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"+delayed+"/send", nil).fails(404, "M_NOT_FOUND")
	}
	if heard := alice.do("GET", v3+"/sync", nil).ok().body.Raw; strings.Contains(heard, "spam") {
		t.Errorf("alice hears of it: %s", heard)
	}
	eve.do("POST", in+"/invite", `{"user_id":"@root:interior"}`).ok()
	alice.do("GET", in+"/state/m.room.member/@root:interior", nil).fails(404, "M_NOT_FOUND")
	own := eve.do("POST", v3+"/createRoom", `{"invite":["@alice:interior"]}`).ok().str("room_id")
	if a := alice.do("GET", v3+"/sync", nil).ok(); len(a.body.Get("rooms.invite").Map()) != 0 {
		t.Errorf("alice is invited to %s: %s", own, a.body.Get("rooms.invite").Raw)
	}
	root.do("DELETE", adminAPI+"/v1/users/@eve:interior/shadow_ban", nil).ok()
	said := eve.do("PUT", in+"/send/m.room.message/2", `{"msgtype":"m.text","body":"sorry"}`).ok().str("event_id")
	alice.do("GET", in+"/event/"+said, nil).ok()
	root.do("POST", adminAPI+"/v1/users/@root:interior/shadow_ban", nil).fails(403, "M_FORBIDDEN")
}

func TestRateOverride(t *testing.T) {
	cfg := testConfig()
	cfg.HTTP.Limits.Enabled = true
	cfg.HTTP.Limits.Rates = map[rest.Kind]rest.Rate{rest.LimitMessage: {PerSecond: 0.001, Burst: 2}}
	s := start(t, cfg)
	root, bot := s.administrator("root"), s.register("bot")
	room := bot.do("POST", v3+"/createRoom", `{}`).ok().str("room_id")
	n := 0
	send := func() *answer {
		n++
		return bot.do("PUT", fmt.Sprintf("%s/rooms/%s/send/m.room.message/%d", v3, room, n), `{"msgtype":"m.text","body":"x"}`)
	}
	send().ok()
	send().ok()
	send().fails(429, "M_LIMIT_EXCEEDED")
	tool := root.tool()
	if rate, err := tool.GetUserRatelimit(t.Context(), bot.ID); err != nil || rate != (synapseadmin.RatelimitOverride{}) {
		t.Errorf("without an override: got %+v, %v", rate, err)
	}
	if err := tool.SetUserRatelimit(t.Context(), bot.ID, synapseadmin.RatelimitOverride{}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		send().ok()
	}
	if err := tool.SetUserRatelimit(t.Context(), bot.ID, synapseadmin.RatelimitOverride{MessagesPerSecond: 1, BurstCount: 1}); err != nil {
		t.Fatal(err)
	}
	if rate, err := tool.GetUserRatelimit(t.Context(), bot.ID); err != nil || rate.MessagesPerSecond != 1 || rate.BurstCount != 1 {
		t.Errorf("the override: got %+v, %v", rate, err)
	}
	refused := 0
	for range 10 {
		if send().code == 429 {
			refused++
		}
	}
	if refused < 5 {
		t.Errorf("with one a second: %d of 10 were refused", refused)
	}
	if err := tool.DeleteUserRatelimit(t.Context(), bot.ID); err != nil {
		t.Fatal(err)
	}
	send().fails(429, "M_LIMIT_EXCEEDED")
	root.do("POST", adminAPI+"/v1/users/@bot:interior/override_ratelimit", `{"burst_count":-1}`).fails(400, "M_INVALID_PARAM")
}

func TestLoginAs(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	const path = adminAPI + "/v1/users/@alice:interior/login"
	token := root.do("POST", path, `{}`).ok().str("access_token")
	if a := s.do(token, "GET", v3+"/account/whoami", nil).ok(); a.str("user_id") != "@alice:interior" {
		t.Errorf("as whom: got %s", a.body.Raw)
	}
	if a := alice.do("GET", v3+"/devices", nil).ok(); !strings.Contains(a.body.Raw, "Administrator @root:interior") {
		t.Errorf("alice's devices: got %s", a.body.Raw)
	}
	s.do(token, "POST", v3+"/logout", "{}").ok()
	alice.do("GET", v3+"/account/whoami", nil).ok()
	short := root.do("POST", path, map[string]any{"valid_until_ms": time.Now().Add(time.Hour).UnixMilli()}).ok().str("access_token")
	s.do(short, "GET", v3+"/account/whoami", nil).ok()
	root.do("POST", path, map[string]any{"valid_until_ms": 1}).fails(400, "M_INVALID_PARAM")
	root.do("POST", adminAPI+"/v1/users/@root:interior/login", `{}`).fails(400, "M_INVALID_PARAM")
	root.do("POST", adminAPI+"/v1/users/@nobody:interior/login", `{}`).fails(404, "M_NOT_FOUND")
}
