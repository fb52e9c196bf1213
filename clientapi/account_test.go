package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

func TestRegister(t *testing.T) {
	s := start(t, testConfig())
	dummy := map[string]string{"type": "m.login.dummy"}
	body := func(name, password string) map[string]any {
		return map[string]any{"username": name, "password": password, "auth": dummy}
	}
	flows := s.do("", "POST", v3+"/register", `{}`)
	if flows.code != 401 || !flows.body.Get("flows.0.stages").IsArray() || flows.str("session") == "" || flows.body.Get("errcode").Exists() {
		t.Fatalf("flows: got %d %s", flows.code, flows.body.Raw)
	}
	// Element asks for the flows first, and sends the rest with the session.
	with := body("alice", "long enough")
	with["auth"] = map[string]string{"type": "m.login.dummy", "session": flows.str("session")}
	if got := s.do("", "POST", v3+"/register", with).ok().str("user_id"); got != "@alice:interior" {
		t.Errorf("user: got %s", got)
	}
	s.do("", "POST", v3+"/register", with).fails(400, "M_USER_IN_USE")
	with["username"] = "mallory"
	s.do("", "POST", v3+"/register", with).fails(403, "M_FORBIDDEN") // the session is over

	if got := s.do("", "POST", v3+"/register", body("BOB+1", "long enough")).ok().str("user_id"); got != "@bob+1:interior" {
		t.Errorf("capitals: got %s, want them lowered", got)
	}
	for _, name := range []string{"a b", "a:b", "ä", "a\u202e", "a\n", "a%2f", strings.Repeat("x", 250)} {
		s.do("", "POST", v3+"/register", body(name, "long enough")).fails(400, "M_INVALID_USERNAME")
	}
	s.do("", "POST", v3+"/register", body("alice", "long enough")).fails(400, "M_USER_IN_USE")
	s.do("", "POST", v3+"/register", body("Alice", "long enough")).fails(400, "M_USER_IN_USE")
	s.do("", "POST", v3+"/register", body("carol", "short")).fails(400, "M_PASSWORD_TOO_SHORT")
	s.do("", "POST", v3+"/register", body("carol", strings.Repeat("x", 513))).fails(400, "M_INVALID_PARAM")
	s.do("", "POST", v3+"/register?kind=guest", `{}`).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/register", `{"username":7}`).fails(400, "M_BAD_JSON")

	s.do("", "GET", v3+"/register/available?username=carol", nil).ok()
	s.do("", "GET", v3+"/register/available?username=alice", nil).fails(400, "M_USER_IN_USE")
	s.do("", "GET", v3+"/register/available?username=a,b", nil).fails(400, "M_INVALID_USERNAME")

	quiet := body("dave", "long enough")
	quiet["inhibit_login"] = true
	if a := s.do("", "POST", v3+"/register", quiet).ok(); a.str("access_token") != "" || a.str("user_id") != "@dave:interior" {
		t.Errorf("inhibit_login: got %s", a.body.Raw)
	}
	named := body("erin", "long enough")
	named["device_id"] = "PHONE"
	if a := s.do("", "POST", v3+"/register", named).ok(); a.str("device_id") != "PHONE" {
		t.Errorf("device: got %s", a.str("device_id"))
	}
	if got := s.do("", "GET", v3+"/profile/@erin:interior", nil).ok().str("displayname"); got != "erin" {
		t.Errorf("display name at first: got %q, want the localpart", got)
	}
}

func TestOneNameOneAccount(t *testing.T) {
	s := start(t, testConfig())
	var wg sync.WaitGroup
	made := make(chan int, 8)
	for range 8 {
		wg.Go(func() {
			made <- s.do("", "POST", v3+"/register", map[string]any{
				"username": "alice", "password": "long enough", "auth": map[string]string{"type": "m.login.dummy"},
			}).code
		})
	}
	wg.Wait()
	close(made)
	won := 0
	for code := range made {
		switch code {
		case 200:
			won++
		case 400:
		default:
			t.Errorf("got status %d", code)
		}
	}
	if won != 1 {
		t.Errorf("%d of 8 got the name, want one", won)
	}
}

func TestRegisterWithToken(t *testing.T) {
	cfg := testConfig()
	cfg.Account.OpenRegistration = false
	s := start(t, cfg)
	if err := s.store.Do(t.Context(), func(ctx context.Context) error {
		return s.store.RegistrationTokens.Put(ctx, storage.RegistrationToken{Token: "once", Allowed: 1})
	}); err != nil {
		t.Fatal(err)
	}
	valid := func() bool {
		return s.do("", "GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=once", nil).ok().body.Get("valid").Bool()
	}
	if !valid() {
		t.Error("the token is not valid before its use")
	}
	body := map[string]any{"username": "alice", "password": "long enough"}
	session := s.do("", "POST", v3+"/register", body).str("session")
	try := func(token string) *answer {
		body["auth"] = map[string]string{"type": "m.login.registration_token", "token": token, "session": session}
		return s.do("", "POST", v3+"/register", body)
	}
	body["auth"] = map[string]string{"type": "m.login.dummy", "session": session}
	s.do("", "POST", v3+"/register", body).fails(401, "M_FORBIDDEN")
	try("wrong").fails(401, "M_FORBIDDEN")
	try("once").ok()
	if valid() {
		t.Error("the token is valid after its use")
	}
	body["username"] = "bob"
	session = ""
	body["auth"] = map[string]string{"type": "m.login.registration_token", "token": "once"}
	s.do("", "POST", v3+"/register", body).fails(401, "M_FORBIDDEN")
}

func TestRegisterBySharedSecret(t *testing.T) {
	s := start(t, testConfig())
	const path = "/_synapse/admin/v1/register"
	request := func(name string, admin bool, role, secret string) map[string]any {
		nonce := s.do("", "GET", path, nil).ok().str("nonce")
		mac := hmac.New(sha1.New, []byte(secret))
		mac.Write([]byte(strings.Join([]string{nonce, name, "long enough", role}, "\x00")))
		return map[string]any{"nonce": nonce, "username": name, "password": "long enough", "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil))}
	}
	root := request("Root", true, "admin", "secret")
	if got := s.do("", "POST", path, root).ok().str("user_id"); got != "@root:interior" {
		t.Errorf("user: got %s", got)
	}
	if a, err := s.store.Accounts.ByID(t.Context(), "@root:interior"); err != nil || !a.Admin {
		t.Errorf("root is no administrator: %+v, %v", a, err)
	}
	s.do("", "POST", path, root).fails(403, "M_FORBIDDEN")                                       // replayed nonce
	s.do("", "POST", path, request("bob", true, "notadmin", "secret")).fails(403, "M_FORBIDDEN") // flipped flag
	s.do("", "POST", path, request("bob", false, "notadmin", "other")).fails(403, "M_FORBIDDEN") // wrong secret
	s.do("", "POST", path, request("a,b", false, "notadmin", "secret")).fails(400, "M_INVALID_USERNAME")

	cfg := testConfig()
	cfg.Account.SharedSecret = ""
	start(t, cfg).do("", "GET", path, nil).fails(404, "M_UNRECOGNIZED")
}

func TestLogin(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	flows := s.do("", "GET", v3+"/login", nil).ok()
	if !strings.Contains(flows.body.Raw, "m.login.password") {
		t.Errorf("flows: got %s", flows.body.Raw)
	}
	for _, name := range []string{"alice", "@alice:interior", "@ALICE:interior", "Alice"} {
		if a := s.do("", "POST", v3+"/login", loginBody(name, "password of alice")).ok(); a.str("user_id") != "@alice:interior" {
			t.Errorf("login as %s: got %s", name, a.str("user_id"))
		}
	}
	wrong := s.do("", "POST", v3+"/login", loginBody("alice", "wrong")).fails(403, "M_FORBIDDEN")
	unknown := s.do("", "POST", v3+"/login", loginBody("nobody", "wrong")).fails(403, "M_FORBIDDEN")
	if wrong.body.Raw != unknown.body.Raw {
		t.Errorf("A3: a wrong password (%s) looks unlike an unknown user (%s)", wrong.body.Raw, unknown.body.Raw)
	}
	s.do("", "POST", v3+"/login", loginBody("@alice:finance", "password of alice")).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/login", `{"type":"m.login.magic"}`).fails(400, "M_UNKNOWN")
	s.do("", "POST", v3+"/login", `{"type":"m.login.application_service","identifier":{"type":"m.id.user","user":"alice"}}`).fails(401, "M_MISSING_TOKEN")

	// A known device: its old token dies.
	again := loginBody("alice", "password of alice")
	again["device_id"] = alice.Device
	token := s.do("", "POST", v3+"/login", again).ok().str("access_token")
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	who := s.do(token, "GET", v3+"/account/whoami", nil).ok()
	if who.str("user_id") != "@alice:interior" || who.str("device_id") != alice.Device {
		t.Errorf("whoami: got %s", who.body.Raw)
	}
	again["device_id"] = strings.Repeat("D", 256)
	s.do("", "POST", v3+"/login", again).fails(400, "M_INVALID_PARAM")
}

func TestLoginToken(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	const path = "/_matrix/client/v1/login/get_token"
	session := alice.do("POST", path, `{}`).str("session")
	token := alice.do("POST", path, alice.confirm(nil, session)).ok().str("login_token")
	body := map[string]string{"type": "m.login.token", "token": token}
	if a := s.do("", "POST", v3+"/login", body).ok(); a.str("user_id") != string(alice.ID) {
		t.Errorf("got %s", a.body.Raw)
	}
	s.do("", "POST", v3+"/login", body).fails(403, "M_FORBIDDEN")
	s.do(token, "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestFailedLoginsAreCounted(t *testing.T) {
	cfg := testConfig()
	cfg.HTTP.Limits.Enabled = true
	cfg.HTTP.Limits.Rates[rest.LimitFailed] = rest.Rate{PerSecond: 0.001, Burst: 3}
	cfg.HTTP.Limits.Rates[rest.LimitLogin] = rest.Rate{PerSecond: 1000, Burst: 1000}
	s := start(t, cfg)
	alice := s.register("alice")
	for range 5 {
		s.login("alice") // success costs nothing
	}
	var wg sync.WaitGroup
	codes := make(chan int, 20)
	for range 20 {
		wg.Go(func() { codes <- s.do("", "POST", v3+"/login", loginBody("alice", "guess")).code })
	}
	wg.Wait()
	close(codes)
	tried := 0
	for code := range codes {
		if code == 403 {
			tried++
		} else if code != 429 {
			t.Errorf("got status %d", code)
		}
	}
	if tried > 3 {
		t.Errorf("A1: %d parallel guesses were checked, want at most 3", tried)
	}
	// A2: the same bucket guards the password stage. A1: live sessions go on.
	alice.do("POST", v3+"/delete_devices", alice.confirm(map[string]any{"devices": []string{}}, "")).fails(429, "M_LIMIT_EXCEEDED")
	alice.do("GET", v3+"/account/whoami", nil).ok()
}

func TestRefreshTokens(t *testing.T) {
	s := start(t, testConfig())
	s.register("alice")
	body := loginBody("alice", "password of alice")
	body["refresh_token"] = true
	first := s.do("", "POST", v3+"/login", body).ok()
	if first.body.Get("expires_in_ms").Int() <= 0 || first.str("refresh_token") == "" {
		t.Fatalf("login: got %s", first.body.Raw)
	}
	refresh := func(token string) *answer {
		return s.do("", "POST", v3+"/refresh", map[string]string{"refresh_token": token})
	}
	second := refresh(first.str("refresh_token")).ok()
	s.do(first.str("access_token"), "GET", v3+"/account/whoami", nil).ok()
	s.do(second.str("access_token"), "GET", v3+"/account/whoami", nil).ok()
	s.do(first.str("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	refresh("nonsense").fails(401, "M_UNKNOWN_TOKEN")
	refresh(first.str("refresh_token")).fails(401, "M_UNKNOWN_TOKEN")
	s.do(second.str("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestLogout(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	phone, tablet := s.login("alice"), s.login("alice")
	phone.do("POST", v3+"/logout", `{}`).ok()
	phone.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	if n := len(alice.do("GET", v3+"/devices", nil).ok().body.Get("devices").Array()); n != 2 {
		t.Errorf("devices after a logout: got %d, want 2", n)
	}
	alice.do("POST", v3+"/logout/all", nil).ok()
	for _, u := range []*user{alice, tablet} {
		u.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	}
}

func TestDevices(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	phone, tablet := s.login("alice"), s.login("alice")
	path := v3 + "/devices/" + phone.Device
	alice.do("PUT", path, map[string]string{"display_name": "Phone"}).ok()
	if got := alice.do("GET", path, nil).ok().str("display_name"); got != "Phone" {
		t.Errorf("name: got %q", got)
	}
	bob.do("GET", path, nil).fails(404, "M_NOT_FOUND")
	bob.do("PUT", path, map[string]string{"display_name": "Mine"}).fails(404, "M_NOT_FOUND")
	alice.do("PUT", path, map[string]string{"display_name": strings.Repeat("x", 101)}).fails(400, "M_TOO_LARGE")

	ask := alice.do("DELETE", path, nil)
	if ask.code != 401 || ask.str("session") == "" || !ask.body.Get("flows").IsArray() || !ask.body.Get("params").IsObject() {
		t.Fatalf("without auth: got %d %s", ask.code, ask.body.Raw)
	}
	wrong := alice.confirm(nil, "")
	wrong["auth"].(map[string]any)["password"] = "wrong"
	if a := alice.do("DELETE", path, wrong).fails(401, "M_FORBIDDEN"); a.str("session") == "" {
		t.Errorf("wrong password: no session to try again in: %s", a.body.Raw)
	}
	alice.do("DELETE", path, bob.confirm(nil, "")).fails(403, "M_FORBIDDEN")
	// A12: a session is good for one operation, and for who opened it.
	session := ask.str("session")
	alice.do("DELETE", v3+"/devices/"+tablet.Device, alice.confirm(nil, session)).fails(403, "M_FORBIDDEN")
	tablet.do("DELETE", path, alice.confirm(nil, session)).fails(403, "M_FORBIDDEN")
	alice.do("DELETE", path, alice.confirm(nil, session)).ok()
	alice.do("DELETE", path, alice.confirm(nil, session)).fails(403, "M_FORBIDDEN")
	phone.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	alice.do("GET", path, nil).fails(404, "M_NOT_FOUND")

	both := map[string]any{"devices": []string{tablet.Device}}
	session = alice.do("POST", v3+"/delete_devices", both).str("session")
	alice.do("POST", v3+"/delete_devices", alice.confirm(map[string]any{"devices": []string{alice.Device}}, session)).fails(403, "M_FORBIDDEN")
	alice.do("POST", v3+"/delete_devices", alice.confirm(both, session)).ok()
	tablet.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestPassword(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	phone := s.login("alice")
	alice.do("POST", v3+"/account/password", alice.confirm(map[string]any{"new_password": "short"}, "")).fails(400, "M_PASSWORD_TOO_SHORT")
	alice.do("POST", v3+"/account/password", alice.confirm(map[string]any{"new_password": "another one"}, "")).ok()
	s.do("", "POST", v3+"/login", loginBody("alice", "password of alice")).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/login", loginBody("alice", "another one")).ok()
	alice.do("GET", v3+"/account/whoami", nil).ok()
	phone.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestDeactivate(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	session := alice.do("POST", v3+"/account/deactivate", `{}`).str("session")
	// Element Web's user ticks "erase" after the flows were asked for.
	alice.do("POST", v3+"/account/deactivate", alice.confirm(map[string]any{"erase": true}, session)).ok()
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	s.do("", "POST", v3+"/login", loginBody("alice", "password of alice")).fails(403, "M_FORBIDDEN")
	s.do("", "GET", v3+"/register/available?username=alice", nil).fails(400, "M_USER_IN_USE")
	bob.do("GET", v3+"/profile/"+string(alice.ID), nil).fails(404, "M_NOT_FOUND")
}

func TestProfile(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	own := v3 + "/profile/" + string(alice.ID)
	alice.do("PUT", own+"/displayname", map[string]any{"displayname": "Alice A."}).ok()
	alice.do("PUT", own+"/avatar_url", map[string]any{"avatar_url": "mxc://interior/a"}).ok()
	alice.do("PUT", own+"/m.tz", map[string]any{"m.tz": "Europe/Paris"}).ok()
	all := s.do("", "GET", own, nil).ok()
	if all.str("displayname") != "Alice A." || all.str("avatar_url") != "mxc://interior/a" || all.str(`m\.tz`) != "Europe/Paris" {
		t.Errorf("profile: got %s", all.body.Raw)
	}
	if got := bob.do("GET", own+"/displayname", nil).ok().body.Raw; got != `{"displayname":"Alice A."}` {
		t.Errorf("field: got %s", got)
	}
	alice.do("DELETE", own+"/m.tz", nil).ok()
	alice.do("GET", own+"/m.tz", nil).fails(404, "M_NOT_FOUND")
	alice.do("PUT", own+"/avatar_url", map[string]any{"avatar_url": nil}).ok()
	alice.do("GET", own+"/avatar_url", nil).fails(404, "M_NOT_FOUND")
	bob.do("PUT", own+"/displayname", map[string]any{"displayname": "Mallory"}).fails(403, "M_FORBIDDEN")
	alice.do("PUT", own+"/displayname", map[string]any{"displayname": 7}).fails(400, "M_BAD_JSON")
	alice.do("PUT", own+"/displayname", map[string]any{}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", own+"/displayname", `{"displayname":"a\u0000"}`).fails(400, "M_BAD_JSON")
	alice.do("PUT", own+"/displayname", map[string]any{"displayname": strings.Repeat("x", 257)}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", own+"/Bad%20Name", map[string]any{"Bad Name": 1}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", own+"/big", map[string]any{"big": strings.Repeat("x", 70_000)}).fails(400, "M_PROFILE_TOO_LARGE")
	s.do("", "GET", v3+"/profile/@nobody:interior", nil).fails(404, "M_NOT_FOUND")
	s.do("", "GET", v3+"/profile/nobody", nil).fails(400, "M_INVALID_PARAM")
}

func TestRoomsShowTheProfile(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	var rooms []string
	for range 3 {
		rooms = append(rooms, alice.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id"))
	}
	alice.do("PUT", v3+"/profile/"+string(alice.ID)+"/displayname", `{"displayname":"Alice A."}`).ok()
	alice.do("PUT", v3+"/profile/"+string(alice.ID)+"/avatar_url", `{"avatar_url":"mxc://interior/a"}`).ok()
	for _, room := range rooms {
		member := alice.do("GET", v3+"/rooms/"+url.PathEscape(room)+"/state/m.room.member/"+string(alice.ID), nil).ok()
		if got, want := member.body.Raw, `{"avatar_url":"mxc://interior/a","displayname":"Alice A.","membership":"join"}`; got != want {
			t.Errorf("%s: got %s, want %s", room, got, want)
		}
	}
}

func TestWhoClosesTheAccountLeaves(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	room := id.RoomID(alice.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id"))
	bob.do("POST", v3+"/join/"+url.PathEscape(string(room)), `{}`).ok()
	bob.do("POST", v3+"/account/deactivate", bob.confirm(nil, "")).ok()
	deadline := time.After(10 * time.Second)
	for {
		_, moved := s.store.Moved()
		joined, err := s.store.Memberships.Joined(t.Context(), room, bob.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !joined {
			return
		}
		select {
		case <-moved:
		case <-deadline:
			t.Fatal("bob is still in the room")
		}
	}
}

func TestProfileOfAnotherServer(t *testing.T) {
	s := start(t, testConfig())
	stop, err := bus.Answer(t.Context(), s.bus, bus.FederationDo, func(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
		if q.QueryProfile.UserID != "@carol:finance" {
			return bus.FederationAnswer{}, bus.Refuse(404, "M_NOT_FOUND", "Nobody")
		}
		return bus.FederationAnswer{Body: json.RawMessage(`{"displayname":"Carol"}`)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if got := s.do("", "GET", v3+"/profile/@carol:finance", nil).ok().str("displayname"); got != "Carol" {
		t.Errorf("got %q", got)
	}
	s.do("", "GET", v3+"/profile/@dave:finance", nil).fails(404, "M_NOT_FOUND")
}

func TestAccountData(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	base := v3 + "/user/" + string(alice.ID)
	room := base + "/rooms/" + url.PathEscape("!r:interior")
	alice.do("GET", base+"/account_data/a.type", nil).fails(404, "M_NOT_FOUND")
	alice.do("PUT", base+"/account_data/a.type", `{"n":1}`).ok()
	alice.do("PUT", room+"/account_data/a.type", `{"n":2}`).ok()
	if got := alice.do("GET", base+"/account_data/a.type", nil).ok().body.Raw; got != `{"n":1}` {
		t.Errorf("global: got %s", got)
	}
	if got := alice.do("GET", room+"/account_data/a.type", nil).ok().body.Raw; got != `{"n":2}` {
		t.Errorf("of the room: got %s", got)
	}
	bob.do("GET", base+"/account_data/a.type", nil).fails(403, "M_FORBIDDEN")
	bob.do("PUT", base+"/account_data/a.type", `{}`).fails(403, "M_FORBIDDEN")
	alice.do("PUT", base+"/account_data/m.push_rules", `{}`).fails(405, "M_BAD_JSON")
	alice.do("PUT", room+"/account_data/m.fully_read", `{}`).fails(405, "M_BAD_JSON")
	alice.do("PUT", base+"/account_data/a.type", `[]`).fails(400, "M_BAD_JSON")
	alice.do("PUT", v3+"/user/"+string(alice.ID)+"/rooms/nonsense/account_data/a.type", `{}`).fails(400, "M_INVALID_PARAM")
	alice.do("DELETE", "/_matrix/client/unstable/org.matrix.msc3391/user/"+string(alice.ID)+"/account_data/a.type", nil).ok()
	alice.do("GET", base+"/account_data/a.type", nil).fails(404, "M_NOT_FOUND")
	alice.do("PUT", room+"/account_data/a.type", ` { } `).ok() // deletes too
	alice.do("GET", room+"/account_data/a.type", nil).fails(404, "M_NOT_FOUND")

	alice.do("PUT", room+"/tags/u.work", `{"order":0.5}`).ok()
	alice.do("PUT", room+"/tags/m.favourite", `{}`).ok()
	alice.do("PUT", room+"/tags/u.bad", `{"order":"first"}`).fails(400, "M_BAD_JSON")
	alice.do("DELETE", room+"/tags/m.favourite", nil).ok()
	if got := alice.do("GET", room+"/tags", nil).ok().body.Raw; got != `{"tags":{"u.work":{"order":0.5}}}` {
		t.Errorf("tags: got %s", got)
	}
	bob.do("GET", room+"/tags", nil).fails(403, "M_FORBIDDEN")
}

func TestOpenID(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	path := v3 + "/user/" + string(alice.ID) + "/openid/request_token"
	a := alice.do("POST", path, `{}`).ok()
	if a.str("matrix_server_name") != "interior" || a.str("token_type") != "Bearer" || a.body.Get("expires_in").Int() <= 0 {
		t.Errorf("got %s", a.body.Raw)
	}
	if user, device, err := s.store.Tokens.PassUser(t.Context(), storage.OpenIDPass, a.str("access_token")); user != alice.ID || string(device) != alice.Device || err != nil {
		t.Errorf("the token is %q's, of device %q, %v", user, device, err)
	}
	s.do(a.str("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	bob.do("POST", path, `{}`).fails(403, "M_FORBIDDEN")
}

func TestDiscovery(t *testing.T) {
	cfg := testConfig()
	cfg.PublicURL, cfg.FederationAddress = "https://matrix.interior", "fed.interior:443"
	cfg.Foci = []string{"https://call.interior"}
	cfg.Support.Page = "https://help.interior"
	s := start(t, cfg)
	well := s.do("", "GET", "/.well-known/matrix/client", nil).ok()
	if well.str(`m\.homeserver.base_url`) != "https://matrix.interior" || well.str(`org\.matrix\.msc4143\.rtc_foci.0.livekit_service_url`) != "https://call.interior" {
		t.Errorf("client: got %s", well.body.Raw)
	}
	if got := s.do("", "GET", "/.well-known/matrix/server", nil).ok().str(`m\.server`); got != "fed.interior:443" {
		t.Errorf("server: got %s", got)
	}
	if got := s.do("", "GET", "/.well-known/matrix/support", nil).ok().str("support_page"); got != "https://help.interior" {
		t.Errorf("support: got %s", got)
	}
	versions := s.do("", "GET", "/_matrix/client/versions", nil).ok()
	if !strings.Contains(versions.body.Raw, `"v1.11"`) || !versions.body.Get(`unstable_features.org\.matrix\.msc4140`).Bool() {
		t.Errorf("versions: got %s", versions.body.Raw)
	}
	s.do("", "GET", v3+"/capabilities", nil).fails(401, "M_MISSING_TOKEN")
	alice := s.register("alice")
	capable := alice.do("GET", v3+"/capabilities", nil).ok()
	if capable.str(`capabilities.m\.room_versions.default`) != "11" || capable.str(`capabilities.m\.room_versions.available.12`) != "stable" {
		t.Errorf("capabilities: got %s", capable.body.Raw)
	}
	const transports = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
	if got := alice.do("GET", transports, nil).ok().str("rtc_transports.0.type"); got != "livekit" {
		t.Errorf("transports: got %s", got)
	}
	s.do("", "GET", "/_matrix/client/v1/auth_metadata", nil).fails(404, "M_UNRECOGNIZED")
	none := start(t, testConfig())
	none.register("alice").do("GET", transports, nil).fails(404, "M_UNRECOGNIZED")
	none.do("", "GET", "/.well-known/matrix/server", nil).fails(404, "M_NOT_FOUND")
}

// TestDefaultRoomVersion makes a room whose creator names no version.
func TestDefaultRoomVersion(t *testing.T) {
	cfg := testConfig()
	cfg.DefaultRoomVersion = "12"
	s := start(t, cfg)
	alice := s.register("alice")
	room := alice.do("POST", v3+"/createRoom", map[string]any{}).ok().str("room_id")
	stored, err := s.store.Rooms.ByID(t.Context(), id.RoomID(room))
	if err != nil || stored == nil || stored.Version != "12" {
		t.Errorf("the room is stored as %+v (%v), want version 12", stored, err)
	}
	cfg.DefaultRoomVersion = "99"
	if _, err := New(cfg, nil, nil, nil, zerolog.Nop()); err == nil {
		t.Error("a room version that does not exist was taken as the default")
	}
}
