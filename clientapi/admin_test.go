package clientapi

import (
	"context"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"

	"chancery/storage"
)

// administrator registers somebody who is one.
func (s *testServer) administrator(name string) *user {
	s.t.Helper()
	u := s.register(name)
	err := s.store.Do(s.t.Context(), func(ctx context.Context) error {
		return s.store.Accounts.SetStanding(ctx, &storage.Account{UserID: u.ID, Admin: true})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

func TestAdministrators(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	for _, c := range []struct{ method, path string }{
		{"GET", "/_synapse/admin/v2/users"}, {"PUT", "/_synapse/admin/v2/users/@x:interior"}, {"POST", "/_synapse/admin/v1/send_server_notice"},
		{"POST", "/_synapse/admin/v1/deactivate/@root:interior"}, {"POST", "/_synapse/admin/v1/reset_password/@root:interior"},
		{"PUT", "/_matrix/client/v1/admin/lock/@root:interior"}, {"GET", "/_matrix/client/v3/admin/whois/@root:interior"},
	} {
		alice.do(c.method, c.path, "{}").fails(403, "M_FORBIDDEN")
		s.do("", c.method, c.path, "{}").fails(401, "M_MISSING_TOKEN")
	}
	alice.do("GET", v3+"/admin/whois/"+string(alice.ID), nil).ok()

	client, err := mautrix.NewClient(s.url, root.ID, root.Token)
	if err != nil {
		t.Fatal(err)
	}
	tool := &synapseadmin.Client{Client: client}
	yes := true
	if err := tool.CreateOrModifyAccount(t.Context(), "@bob:interior", synapseadmin.ReqCreateOrModifyAccount{Password: "password of bob", Displayname: "Bob"}); err != nil {
		t.Fatalf("make an account: %v", err)
	}
	bob := s.login("bob")
	info, err := tool.GetUserInfo(t.Context(), "@bob:interior")
	if err != nil || info.DisplayName != "Bob" || info.Admin || info.Deactivated {
		t.Errorf("the account: got %+v, %v", info, err)
	}
	devices, err := tool.ListDevices(t.Context(), "@bob:interior")
	if err != nil || devices.Total != 1 || devices.Devices[0].DeviceID != id.DeviceID(bob.Device) {
		t.Errorf("the devices: got %+v, %v", devices, err)
	}
	if err := tool.ResetPassword(t.Context(), synapseadmin.ReqResetPassword{UserID: "@bob:interior", NewPassword: "password of bobby", LogoutDevices: true}); err != nil {
		t.Errorf("reset the password: %v", err)
	}
	bob.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	s.do("", "POST", v3+"/login", loginBody("bob", "password of bob")).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/login", loginBody("bob", "password of bobby")).ok()
	list := root.do("GET", "/_synapse/admin/v2/users?limit=2", nil).ok()
	if list.body.Get("users.#").Int() != 2 || list.body.Get("total").Int() != 3 {
		t.Errorf("the first page: got %s", list.body.Raw)
	}
	if next := root.do("GET", "/_synapse/admin/v2/users?limit=2&from="+list.str("next_token"), nil).ok(); next.str("users.0.name") != "@root:interior" {
		t.Errorf("the second page: got %s", next.body.Raw)
	}
	if found := root.do("GET", "/_synapse/admin/v2/users?name=OB", nil).ok(); found.str("users.#.name") != `["@bob:interior"]` {
		t.Errorf("by a part of the name: got %s", found.body.Raw)
	}

	lock := "/_matrix/client/v1/admin/lock/"
	if a := root.do("PUT", lock+"@alice:interior", `{"locked":true}`).ok(); !a.body.Get("locked").Bool() {
		t.Errorf("lock: got %s", a.body.Raw)
	}
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_USER_LOCKED")
	root.do("PUT", lock+"@alice:interior", `{"locked":false}`).ok()
	alice.do("GET", v3+"/account/whoami", nil).ok()
	if a := root.do("GET", lock+"@alice:interior", nil).ok(); a.body.Get("locked").Bool() {
		t.Errorf("unlocked: got %s", a.body.Raw)
	}
	root.do("PUT", lock+"@root:interior", `{"locked":true}`).fails(403, "M_FORBIDDEN")
	root.do("PUT", lock+"@nobody:interior", `{"locked":true}`).fails(404, "M_NOT_FOUND")
	root.do("PUT", lock+"@alice:elsewhere", `{"locked":true}`).fails(400, "M_INVALID_PARAM")
	root.do("PUT", lock+"@alice:interior", `{}`).fails(400, "M_MISSING_PARAM")

	if err := tool.CreateOrModifyAccount(t.Context(), "@bob:interior", synapseadmin.ReqCreateOrModifyAccount{Deactivated: &yes}); err != nil {
		t.Errorf("close the account: %v", err)
	}
	if info, err := tool.GetUserInfo(t.Context(), "@bob:interior"); err != nil || !info.Deactivated {
		t.Errorf("the closed account: got %+v, %v", info, err)
	}
	root.do("PUT", "/_synapse/admin/v2/users/@root:interior", `{"admin":false}`).fails(403, "M_FORBIDDEN")
}

func TestServerNotices(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	const path = "/_synapse/admin/v1/send_server_notice"
	s.do("", "POST", v3+"/register", map[string]any{"username": "_server", "password": "password", "auth": map[string]string{"type": "m.login.dummy"}}).fails(400, "M_EXCLUSIVE")
	notice := map[string]any{"user_id": alice.ID, "content": map[string]any{"msgtype": "m.text", "body": "Mind the gap"}}
	event := root.do("POST", path, notice).ok().str("event_id")
	room := ""
	alice.do("GET", v3+"/sync", nil).ok().body.Get("rooms.invite").ForEach(func(key, _ gjson.Result) bool { room = key.Str; return true })
	if room == "" {
		t.Fatal("Alice is not invited")
	}
	in := v3 + "/rooms/" + room
	alice.do("POST", in+"/leave", "{}").fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	alice.do("POST", in+"/join", "{}").ok()
	if a := alice.do("GET", in+"/event/"+event, nil).ok(); a.str("content.body") != "Mind the gap" || a.str("sender") != "@_server:interior" {
		t.Errorf("the notice: got %s", a.body.Raw)
	}
	alice.do("PUT", in+"/send/m.room.message/1", `{"msgtype":"m.text","body":"No"}`).fails(403, "M_FORBIDDEN")
	if a := alice.do("GET", v3+"/user/"+string(alice.ID)+"/rooms/"+room+"/tags", nil).ok(); !a.body.Get(`tags.m\.server_notice`).Exists() {
		t.Errorf("the tag: got %s", a.body.Raw)
	}
	alice.do("POST", in+"/leave", "{}").ok()
	root.do("POST", path, notice).ok()
	if a := alice.do("GET", v3+"/sync", nil).ok(); !a.body.Get("rooms.invite." + gjson.Escape(room)).Exists() {
		t.Errorf("Alice is not invited again: %s", a.body.Get("rooms").Raw)
	}
	first, second := root.do("PUT", path+"/1", notice).ok().str("event_id"), root.do("PUT", path+"/1", notice).ok().str("event_id")
	if first != second {
		t.Errorf("the same transaction: got %s and %s", first, second)
	}
	root.do("POST", path, `{"user_id":"@nobody:interior","content":{}}`).fails(404, "M_NOT_FOUND")
	root.do("POST", path, `{"user_id":"@alice:elsewhere","content":{}}`).fails(400, "M_INVALID_PARAM")
	root.do("POST", path, `{"user_id":"@alice:interior"}`).fails(400, "M_MISSING_PARAM")
}
