package clientapi

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestAccountPages walks the links of MSC4191, in both spellings, and what people do behind them.
func TestAccountPages(t *testing.T) {
	s := start(t, oauthConfig())
	alice, bob := s.register("alice"), s.register("bob")
	browser := s.visitor()
	link := "/account?action=org.matrix.device_view&device_id=" + alice.Device
	login := browser.get(link).leads()
	next := browser.submit(browser.get(login).is(200), url.Values{"username": {"alice"}, "password": {"password of alice"}}).leads()
	if next != link {
		t.Errorf("after the sign-in: got %q, want %q", next, link)
	}
	for action, want := range map[string]string{
		"": "Your profile", "org.matrix.profile": "Your profile", "profile": "Your profile", "nothing": "Your profile",
		"org.matrix.devices_list": "Your sessions", "devices_list": "Your sessions", "org.matrix.sessions_list": "Your sessions",
		"org.matrix.device_view&device_id=" + alice.Device: "Last active", "session_view&device_id=" + alice.Device: "Last active",
		"org.matrix.device_delete&device_id=" + alice.Device: "End this session?", "org.matrix.session_end&device_id=" + alice.Device: "End this session?",
		"org.matrix.account_deactivate": "Close the account", "account_deactivate": "Close the account",
		"org.matrix.cross_signing_reset": "Reset your digital identity", "cross_signing_reset": "Reset your digital identity",
		"password": "Present password",
	} {
		browser.get("/account?action=" + action).is(200).contains(want)
	}
	browser.get("/account?action=org.matrix.device_view&device_id=" + bob.Device).is(404).contains("no such session")
	page := browser.get("/account?action=org.matrix.cross_signing_reset&ui_locales=fr-CA%20en").is(200).contains("Réinitialiser votre identité numérique")
	browser.get("/account").is(200).contains("Votre profil") // the choice lasts
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
		"X-Frame-Options":         "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Access-Control-Allow-Origin": "",
	} {
		if got := page.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}

	// Ending somebody else's session does nothing, and one's own ends at once.
	browser = s.visitor()
	browser.signIn("alice")
	end := browser.get("/account?action=org.matrix.device_delete&device_id=" + alice.Device).is(200)
	browser.submit(end, url.Values{"device_id": {bob.Device}}).leads()
	bob.do("GET", v3+"/account/whoami", nil).ok()
	browser.get(browser.submit(end, nil).leads()).is(200).contains("The session is ended.")
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")

	// Another password: the old one is asked for; other browsers are signed out, this one is not.
	other := s.visitor()
	other.signIn("alice")
	page = browser.get("/account?action=password").is(200)
	change := func(old, new, again string) *seen {
		return browser.submit(page, url.Values{"old": {old}, "password": {new}, "again": {again}, "logout": {"yes"}})
	}
	change("wrong", "another password", "another password").is(403).contains("The password is wrong.")
	change("password of alice", "another password", "another").is(400).contains("differ")
	change("password of alice", "short", "short").is(400).contains("too short")
	browser.get(change("password of alice", "another password", "another password").leads()).is(200).contains("Your password is changed.")
	other.get("/account").leads()

	// Closing the account.
	page = browser.get("/account?action=org.matrix.account_deactivate").is(200)
	browser.submit(page, url.Values{"password": {"wrong"}}).is(403)
	browser.submit(page, url.Values{"password": {"another password"}}).is(200).contains("Your account is closed")
	browser.get("/account").leads()
	s.do("", "POST", v3+"/login", loginBody("alice", "another password")).fails(403, "M_FORBIDDEN")
}

// TestResetOnThePage replaces cross-signing keys from a client that came in by OAuth 2.0: it is confirmed on the page, once.
func TestResetOnThePage(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	a := p.trade(map[string]string{"code": p.allowed(browser, nil)}).is(200)
	alice := &user{testServer: s, ID: "@alice:interior", Token: a.json("access_token"), Device: "ABCDEFGHIJ"}
	const path = v3 + "/keys/device_signing/upload"
	keys := func(auth any) map[string]any {
		master, self, users := newSigner(t, ""), newSigner(t, ""), newSigner(t, "")
		return map[string]any{
			"master_key": crossSigning(alice, master, "master"), "self_signing_key": master.sign(t, alice, crossSigning(alice, self, "self_signing")),
			"user_signing_key": master.sign(t, alice, crossSigning(alice, users, "user_signing")), "auth": auth,
		}
	}
	alice.do("POST", path, keys(nil)).ok() // the first need nothing
	next := keys(nil)
	refused := alice.do("POST", path, next)
	page := publicOAuth + "/account?action=org.matrix.cross_signing_reset"
	for path, want := range map[string]string{
		"flows.0.stages.0": "m.oauth", "params.m\\.oauth.url": page, "flows.1.stages.0": "org.matrix.cross_signing_reset", "params.org\\.matrix\\.cross_signing_reset.url": page,
	} {
		if got := refused.str(path); got != want || refused.code != 401 {
			t.Errorf("%s: got %d %q, want %q", path, refused.code, got, want)
		}
	}
	next["auth"] = map[string]string{"session": refused.str("session")}
	alice.do("POST", path, next).fails(401, "M_FORBIDDEN")
	// A password confirms nothing for such a session.
	next["auth"] = map[string]any{"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": "alice"}, "password": "password of alice", "session": refused.str("session")}
	if got := alice.do("POST", path, next); got.code != 401 {
		t.Errorf("with a password: got %d %s, want 401", got.code, got.body.Raw)
	}
	browser.get(browser.submit(browser.get("/account?action=org.matrix.cross_signing_reset").is(200), nil).leads()).is(200).contains("Allowed for the next ten minutes")
	next["auth"] = map[string]string{"session": refused.str("session")}
	alice.do("POST", path, next).ok()
	if again := alice.do("POST", path, keys(map[string]string{"session": refused.str("session")})); again.code != 401 {
		t.Errorf("approved once, done twice: got %d", again.code)
	}
	// What else wants a confirmation is done on the pages altogether.
	alice.do("DELETE", v3+"/devices/ABCDEFGHIJ", map[string]any{}).fails(404, "M_UNRECOGNIZED")
	alice.do("POST", v3+"/account/deactivate", map[string]any{}).fails(404, "M_UNRECOGNIZED")
	if can := alice.do("GET", v3+"/capabilities", nil).ok(); can.body.Get(`capabilities.m\.change_password.enabled`).Bool() {
		t.Error("the client is told that it may change the password")
	}
	// The client may still sign out by the legacy API's name for it, and others live on.
	legacy := s.login("alice")
	alice.do("POST", v3+"/logout", nil).ok()
	p.refresh(a.json("refresh_token")).oauthError(400, "invalid_grant")
	legacy.do("GET", v3+"/account/whoami", nil).ok()
}

// TestLockedOutOfThePages: who is locked or closed comes in by no door.
func TestLockedOutOfThePages(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	admin := s.administrator("root")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	code := p.allowed(browser, nil)
	admin.do("PUT", "/_matrix/client/v1/admin/lock/@alice:interior", map[string]bool{"locked": true}).ok()
	p.trade(map[string]string{"code": code}).oauthError(400, "invalid_grant")
	browser.get("/account").leads()
	fresh := s.visitor()
	fresh.submit(fresh.get("/account/login").is(200), url.Values{"username": {"alice"}, "password": {"password of alice"}}).is(403).contains("This account is locked")
	fresh.submit(fresh.get("/account/login").is(200), url.Values{"username": {"nobody"}, "password": {"x"}}).is(403).contains("The username or the password is wrong.")
}

// TestSignInIsLimited holds the pages to the limits of failed passwords.
func TestSignInIsLimited(t *testing.T) {
	cfg := oauthConfig()
	cfg.HTTP.Limits.Enabled = true
	s := start(t, cfg)
	s.register("alice")
	browser := s.visitor()
	page := browser.get("/account/login").is(200)
	last := 0
	for range 5 {
		a := browser.submit(page, url.Values{"username": {"alice"}, "password": {"wrong"}})
		if last = a.code; last == http.StatusTooManyRequests {
			if a.contains("Too many attempts"); a.header.Get("Retry-After") == "" {
				t.Error("the browser is not told when to try again")
			}
			break
		}
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("five wrong passwords: got %d at last, want 429", last)
	}
}

// TestRegisterByMailOnThePages: first the address is proved, then the account is made with it.
func TestRegisterByMailOnThePages(t *testing.T) {
	s, box := withMail(t, func(cfg *Config) {
		public := oauthConfig()
		cfg.OAuth, cfg.PublicURL = public.OAuth, public.PublicURL
		cfg.Account.OpenRegistration, cfg.Account.EmailRegistration = false, true
	})
	browser := s.visitor()
	page := browser.get("/account/register").is(200).contains("We will send you a link")
	page = browser.submit(page, url.Values{"email": {"jean.martin@interior.example"}}).is(200).contains("Open the link")
	browser.submit(page, nil).is(403).contains("not confirmed yet")
	if code, text := s.press(box.next().link(t)); code != 200 {
		t.Fatalf("the link in the mail: got %d %s", code, text)
	}
	page = browser.submit(page, nil).is(200).contains("jean.martin@interior.example is confirmed.")
	browser.submit(page, url.Values{"username": {"jean"}, "password": {"a long password"}, "again": {"a long password"}}).leads()
	browser.get("/account").is(200).contains("jean.martin@interior.example")
	again := s.visitor()
	again.submit(again.get("/account/login").is(200), url.Values{"username": {"jean.martin@interior.example"}, "password": {"a long password"}}).leads()
	// The proof is spent.
	again.submit(page, url.Values{"username": {"paul"}, "password": {"a long password"}, "again": {"a long password"}}).is(403)
}

func TestPlainMeetingPlaces(t *testing.T) {
	s := start(t, oauthConfig())
	v := s.visitor()
	const path = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
	with := func(method, to, text string, header map[string]string) *seen {
		t.Helper()
		req, err := http.NewRequest(method, to, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range header {
			req.Header.Set(name, value)
		}
		return v.send(req)
	}
	text := map[string]string{"Content-Type": "text/plain"}
	a := with("POST", publicOAuth+path, "first", text).is(201)
	place, first := a.json("url"), a.header.Get("ETag")
	if !strings.HasPrefix(place, publicOAuth+path+"/") || first == "" || a.header.Get("Expires") == "" || a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("got %s %v", a.text, a.header)
	}
	if a = v.get(place).is(200); a.text != "first" || a.header.Get("Content-Type") != "text/plain" || a.header.Get("ETag") != first {
		t.Errorf("got %q %v", a.text, a.header)
	}
	with("GET", place, "", map[string]string{"If-None-Match": first}).is(304)
	with("PUT", place, "second", text).is(400)
	with("PUT", place, "second", map[string]string{"If-Match": first}).is(400)
	with("PUT", place, "second", map[string]string{"If-Match": first, "Content-Type": "application/json"}).is(400)
	a = with("PUT", place, "second", map[string]string{"If-Match": first, "Content-Type": "text/plain"}).is(202)
	second := a.header.Get("ETag")
	a = with("PUT", place, "third", map[string]string{"If-Match": first, "Content-Type": "text/plain"}).is(412)
	if a.json("errcode") != "M_UNKNOWN" || a.json("org\\.matrix\\.msc4108\\.errcode") != "M_CONCURRENT_WRITE" || a.header.Get("ETag") != second {
		t.Errorf("concurrent write: got %s %v", a.text, a.header)
	}
	if a = with("GET", place, "", map[string]string{"If-None-Match": first}).is(200); a.text != "second" {
		t.Errorf("got %q, want the second", a.text)
	}
	with("PUT", place, strings.Repeat("x", 4097), map[string]string{"If-Match": second, "Content-Type": "text/plain"}).is(413)
	with("POST", publicOAuth+path, "x", map[string]string{"Content-Type": "text/html"}).is(400)
	with("DELETE", place, "", nil).is(204)
	v.get(place).is(404)
	with("DELETE", place, "", nil).is(404)
	with("PUT", place, "x", map[string]string{"If-Match": second, "Content-Type": "text/plain"}).is(404)
}

func TestMeetingPlaces(t *testing.T) {
	s := start(t, oauthConfig())
	const path = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
	if !s.do("", "GET", path, nil).ok().body.Get("create_available").Bool() {
		t.Error("nobody may open a meeting place")
	}
	if !s.do("", "GET", "/_matrix/client/versions", nil).ok().body.Get(`unstable_features.io\.element\.msc4388`).Bool() {
		t.Error("/versions does not name the meeting places")
	}
	for _, bad := range []string{`{}`, `{"data":1}`, `{"data":null}`, `{"data":["x"]}`} {
		s.do("", "POST", path, bad).fails(400, "M_INVALID_PARAM")
	}
	s.do("", "POST", path, map[string]string{"data": strings.Repeat("x", 4097)}).fails(413, "M_TOO_LARGE")
	a := s.do("", "POST", path, map[string]string{"data": "first"}).ok()
	place, first := path+"/"+a.str("id"), a.str("sequence_token")
	if ms := a.body.Get("expires_in_ms").Int(); ms <= 0 || ms > 600_000 {
		t.Errorf("expires in %d ms", ms)
	}
	if a = s.do("", "GET", place, nil).ok(); a.str("data") != "first" || a.str("sequence_token") != first {
		t.Errorf("got %s", a.body.Raw)
	}
	put := func(token, data string) *answer {
		return s.do("", "PUT", place, map[string]string{"sequence_token": token, "data": data})
	}
	second := put(first, "second").ok().str("sequence_token")
	if again := put(first, "second").ok().str("sequence_token"); again != second {
		t.Errorf("said once more: got %q, want %q", again, second)
	}
	put(first, "third").fails(409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE")
	put("", "third").fails(400, "M_MISSING_PARAM")
	s.do("", "PUT", place+"/txn1", map[string]string{"sequence_token": second, "data": "third"}).ok()
	if a = s.do("", "GET", place, nil).ok(); a.str("data") != "third" {
		t.Errorf("got %s", a.body.Raw)
	}
	v := s.visitor()
	for name, value := range map[string]string{"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-User": "?1", "Sec-Fetch-Site": "none"} {
		req, err := http.NewRequest("GET", publicOAuth+place, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(name, value)
		if got := v.send(req); got.code != 403 || got.json("errcode") != "M_FORBIDDEN" {
			t.Errorf("%s: %s: got %d %s, want M_FORBIDDEN", name, value, got.code, got.text)
		}
	}
	s.do("", "DELETE", place, nil).ok()
	s.do("", "GET", place, nil).fails(404, "M_NOT_FOUND")
	s.do("", "DELETE", place, nil).fails(404, "M_NOT_FOUND")
}
