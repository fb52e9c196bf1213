package clientapi

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/clientapi/rest"
	"chancery/storage"
)

const (
	expiredAccount = "ORG_MATRIX_EXPIRED_ACCOUNT"
	longPeriod     = 6 * 7 * 24 * time.Hour
)

// withValidity is a server whose accounts expire, and that sends mails.
func withValidity(t *testing.T, set func(*account.ValidityConfig)) (*testServer, *postbox) {
	return withMail(t, func(cfg *Config) {
		cfg.Account.Validity.Period = longPeriod
		if set != nil {
			set(&cfg.Account.Validity)
		}
	})
}

// page asks for a page, as a browser does.
func (s *testServer) page(method, path, token string) (code int, text string) {
	s.t.Helper()
	code, raw := s.exchange(method, path, token, nil)
	return code, string(raw)
}

// until is until when the account is good, as administrators see it.
func (u *user) validUntil(of id.UserID) time.Time {
	u.t.Helper()
	shown := u.do("GET", adminAPI+"/v2/users/"+string(of), nil).ok()
	if !shown.body.Get("expiration_ts").Exists() {
		return time.Time{}
	}
	return time.UnixMilli(shown.body.Get("expiration_ts").Int())
}

// end has an administrator say that the account has expired.
func (u *user) end(of id.UserID) {
	u.t.Helper()
	u.do("POST", account.SetValidityPath, map[string]any{"user_id": of, "expiration_ts": time.Now().Add(-time.Second).UnixMilli()}).ok()
}

func about(t *testing.T, what string, got, want time.Time, slack time.Duration) {
	t.Helper()
	if d := got.Sub(want); d < -slack || d > slack {
		t.Errorf("%s: got %v, want about %v", what, got, want)
	}
}

func TestExpiredAccounts(t *testing.T) {
	s, box := withValidity(t, nil)
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	alice.addAddress(box, "alice@example.org")
	room := alice.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id")
	bob.do("POST", v3+"/rooms/"+room+"/join", "{}").ok()
	found := func() int {
		t.Helper()
		return len(bob.do("POST", v3+"/user_directory/search", `{"search_term":"alice"}`).ok().body.Get("results").Array())
	}
	about(t, "a new account", root.validUntil(alice.ID), time.Now().Add(longPeriod), time.Minute)
	if found() != 1 {
		t.Error("alice is not in the directory")
	}
	since := alice.do("GET", v3+"/sync", nil).ok().str("next_batch")
	waiting, begun := make(chan *answer, 2), time.Now()
	go func() { waiting <- alice.do("GET", v3+"/sync?timeout=30000&since="+since, nil) }()
	go func() {
		first := alice.do("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", `{"conn_id":"1","lists":{}}`)
		waiting <- alice.do("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=30000", map[string]any{"conn_id": "1", "pos": first.str("pos")})
	}()
	until(t, "two syncs wait", func() bool {
		return waitingSyncs(t) == 2
	})
	root.end(alice.ID)
	for range 2 {
		(<-waiting).fails(403, expiredAccount)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the syncs ended after %v", took)
	}

	// Nothing is left to her but to renew; and her session is not logged out.
	refused := 0
	for _, route := range s.api.routes() {
		if route.Auth != rest.User && route.Auth != rest.Admin && route.Auth != rest.Glimpsed || route.Expired {
			continue
		}
		path := strings.ReplaceAll(regexp.MustCompile(`\{[^}$]*\}`).ReplaceAllString(route.Path, "x"), "{$}", "")
		if a := alice.do(route.Method, path, nil); a.code != 403 || a.str("errcode") != expiredAccount {
			t.Errorf("%s %s: got %d %s, want 403 %s", route.Method, path, a.code, a.str("errcode"), expiredAccount)
		}
		refused++
	}
	if refused < 100 {
		t.Errorf("only %d routes were tried", refused)
	}
	alice.do("GET", "/_matrix/client/versions", nil).ok()
	s.do("", "GET", v3+"/profile/@alice:interior", nil).ok()
	s.do("nobody's", "GET", v3+"/profile/@alice:interior", nil).ok()
	alice.do("GET", v3+"/profile/@alice:interior", nil).fails(403, expiredAccount)
	if found() != 0 {
		t.Error("who has expired is in the directory")
	}
	again := s.login("alice") // she may, and is no further
	again.do("GET", v3+"/sync", nil).fails(403, expiredAccount)

	// By mail.
	alice.do("POST", account.SendRenewalPath, "{}").ok()
	old := box.next()
	if old.to != "alice@example.org" || !strings.Contains(old.subject, "has expired") || !strings.Contains(old.text, "@alice:interior") {
		t.Errorf("mail: got %+v", old)
	}
	again.do("POST", account.OldSendRenewalPath, "{}").ok()
	link := box.next().link(t)
	token := link.Query().Get("token")
	if !regexp.MustCompile(`^[A-Za-z]{32}$`).MatchString(token) || link.Path != account.RenewPath {
		t.Errorf("link: got %s", link)
	}
	for _, c := range []struct {
		what, method, token string
		code                int
		text                string
	}{
		{"no token", "GET", "", 400, "This renews no account"},
		{"a wrong token", "GET", strings.Repeat("x", 32), 400, "This renews no account"},
		{"an older mail's", "GET", old.link(t).Query().Get("token"), 400, "This renews no account"},
		{"a program that looks at links", "HEAD", token, 400, ""},
		{"the newest mail's", "GET", token, 200, "Your account is renewed"},
		{"the same again", "GET", token, 200, "Your account had been renewed already"},
	} {
		if code, text := s.page(c.method, account.RenewPath+"?"+url.Values{"token": {c.token}}.Encode(), ""); code != c.code || !strings.Contains(text, c.text) {
			t.Errorf("%s: got %d %s, want %d and %q", c.what, code, text, c.code, c.text)
		}
	}
	about(t, "renewed", root.validUntil(alice.ID), time.Now().Add(longPeriod), time.Minute)
	for _, u := range []*user{alice, again} {
		u.do("GET", v3+"/account/whoami", nil).ok()
		u.do("GET", v3+"/profile/@alice:interior", nil).ok()
	}
	if found() != 1 {
		t.Error("alice is not in the directory again")
	}
	alice.do("GET", v3+"/sync?since="+since, nil).ok()
	box.empty()
}

// waitingSyncs is how many syncs wait for news.
func waitingSyncs(t *testing.T) int {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "chancery_sync_waiting" {
			return int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	t.Fatal("there is no gauge of waiting syncs")
	return 0
}

func TestNoPushWhileExpired(t *testing.T) {
	told := make(chan string, 10)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		told <- gjson.GetBytes(raw, "notification.content.body").Str
		_, _ = io.WriteString(w, `{"rejected":[]}`)
	}))
	defer gateway.Close()
	cfg := testConfig()
	cfg.Account.Validity.Period = longPeriod
	cfg.Outbound.AllowedNetworks = []string{"127.0.0.0/8"}
	s := start(t, cfg)
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	bob.do("POST", v3+"/pushers/set", map[string]any{
		"kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
		"data": map[string]string{"url": gateway.URL + "/_matrix/push/v1/notify"},
	}).ok()
	room := alice.room(`{"preset":"trusted_private_chat","is_direct":true,"invite":["@bob:interior"]}`)
	bob.do("POST", v3+"/rooms/"+room+"/join", "{}").ok()
	say := func(text string) {
		alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/"+text, map[string]string{"msgtype": "m.text", "body": text}).ok()
	}
	hears := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-told:
				if got == want {
					return
				}
				if got != "" { // an invite, or a badge
					t.Fatalf("the phone was told %q, want %q", got, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("the phone was not told %q", want)
			}
		}
	}
	say("one")
	hears("one")
	root.end(bob.ID)
	say("two")
	root.do("POST", account.SetValidityPath, map[string]any{"user_id": bob.ID}).ok()
	say("three")
	hears("three")
}

func TestAdministratorsSetValidity(t *testing.T) {
	s, _ := withValidity(t, func(c *account.ValidityConfig) { c.Never = []string{"@bot-"} })
	root, alice := s.administrator("root"), s.register("alice")
	bot := s.register("bot-news")
	if at := root.validUntil(bot.ID); !at.IsZero() {
		t.Errorf("the bot: got %v, want for ever", at)
	}
	at := time.Now().Add(1000 * time.Hour).Truncate(time.Millisecond)
	for _, path := range []string{account.SetValidityPath, account.OldSetValidityPath} {
		alice.do("POST", path, map[string]any{"user_id": alice.ID}).fails(403, "M_FORBIDDEN")
		root.do("POST", path, map[string]any{"user_id": "@nobody:interior"}).fails(404, "M_NOT_FOUND")
		root.do("POST", path, "{}").fails(400, "M_MISSING_PARAM")
		root.do("POST", path, map[string]any{"user_id": alice.ID, "expiration_ts": -1}).fails(400, "M_INVALID_PARAM")
		if got := root.do("POST", path, map[string]any{"user_id": alice.ID, "expiration_ts": at.UnixMilli(), "enable_renewal_emails": false}).ok(); got.body.Get("expiration_ts").Int() != at.UnixMilli() {
			t.Errorf("%s: got %s, want %d", path, got.body.Raw, at.UnixMilli())
		}
		about(t, path, root.validUntil(alice.ID), at, 0)
		got := root.do("POST", path, map[string]any{"user_id": alice.ID}).ok().body.Get("expiration_ts").Int()
		about(t, "without a time", time.UnixMilli(got), time.Now().Add(longPeriod), time.Minute)
	}
	root.end(alice.ID)
	if shown := root.do("GET", adminAPI+"/v2/users/@alice:interior", nil).ok(); !shown.body.Get("expired").Bool() {
		t.Errorf("shown: got %s, want expired", shown.body.Raw)
	}
	alice.do("GET", v3+"/account/whoami", nil).fails(403, expiredAccount)
	root.do("POST", account.SetValidityPath, map[string]any{"user_id": alice.ID}).ok()
	alice.do("GET", v3+"/account/whoami", nil).ok()

	// Whoever sits at the machine can do the same.
	ctx := t.Context()
	if said, err := s.api.Admin().RenewAccount(ctx, "alice", at); err != nil || said != "@alice:interior until "+at.UTC().Format(time.RFC3339) {
		t.Errorf("renew: got %q (%v)", said, err)
	}
	about(t, "renewed at the machine", root.validUntil(alice.ID), at, 0)
	root.end(alice.ID)
	if list, err := s.api.Admin().ListAccounts(ctx, "alice"); err != nil || list != "@alice:interior expired" {
		t.Errorf("list: got %q (%v)", list, err)
	}
}

func TestRenewalByCode(t *testing.T) {
	s, box := withMail(t, func(cfg *Config) {
		cfg.Account.Validity.Period, cfg.Account.Validity.Links = longPeriod, false
		cfg.HTTP.Limits.Enabled = true
	})
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	alice.addAddress(box, "alice@example.org")
	root.end(alice.ID)
	root.end(bob.ID)
	alice.do("POST", account.SendRenewalPath, "{}").ok()
	code := regexp.MustCompile(`\b[0-9]{8}\b`).FindString(box.next().text)
	if code == "" {
		t.Fatal("the mail brings no code")
	}
	path := account.OldRenewPath + "?token="
	s.do("", "GET", path+code, nil).fails(401, "M_MISSING_TOKEN")
	if got, text := s.page("GET", path+code, bob.Token); got != 400 {
		t.Errorf("another's code: got %d %s, want 400", got, text)
	}
	if got, text := s.page("GET", path+code, alice.Token); got != 200 || !strings.Contains(text, "is renewed") {
		t.Errorf("her code: got %d %s, want 200", got, text)
	}
	alice.do("GET", v3+"/account/whoami", nil).ok()
	if got, text := s.page("GET", path+code, alice.Token); got != 200 || !strings.Contains(text, "already") {
		t.Errorf("her code again: got %d %s, want 200", got, text)
	}
	bob.do("GET", v3+"/account/whoami", nil).fails(403, expiredAccount)
	// Codes cannot be guessed through, nor mails be sent without end.
	until(t, "guesses are limited", func() bool {
		got, _ := s.page("GET", path+"00000000", bob.Token)
		return got == http.StatusTooManyRequests
	})
	until(t, "mails are limited", func() bool { return alice.do("POST", account.SendRenewalPath, "{}").code == http.StatusTooManyRequests })
}

// TestValidityRunsOut lets time pass: reminders, the end, and the closure.
func TestValidityRunsOut(t *testing.T) {
	const period = 6 * time.Second
	s, box := withMail(t, nil)
	alice := s.register("alice")
	alice.addAddress(box, "alice@example.org")
	s.restart(func(cfg *Config) {
		v := &cfg.Account.Validity
		v.Period, v.Reminders, v.CloseAfter = period, []time.Duration{5 * time.Second, 4 * time.Second}, 3*time.Second
	})
	begun := time.Now()
	if mail := box.next(); mail.to != "alice@example.org" || !strings.Contains(mail.subject, "expires within a day") {
		t.Errorf("first reminder: got %+v", mail)
	}
	last := box.next()
	since := alice.do("GET", v3+"/sync", nil).ok().str("next_batch")
	alice.do("GET", v3+"/sync?timeout=30000&since="+since, nil).fails(403, expiredAccount)
	if took := time.Since(begun); took > period+2*time.Second {
		t.Errorf("the waiting sync ended after %v, want when the account does, %v", took, period)
	}
	if code, text := s.page("GET", last.link(t).RequestURI(), ""); code != 200 {
		t.Errorf("renewal: got %d %s", code, text)
	}
	alice.do("GET", v3+"/account/whoami", nil).ok()
	box.next() // all begins anew
	until(t, "it expires again", func() bool { return alice.do("GET", v3+"/account/whoami", nil).code == 403 })
	until(t, "it is closed", func() bool {
		a, err := s.store.Accounts.ByID(t.Context(), alice.ID)
		return err == nil && a.Deactivated && !a.Erased
	})
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

// TestValidityIsSwitchedOn gives those a date who were there before, and takes it back when it is switched off.
func TestValidityIsSwitchedOn(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	s.register("bot-news")
	err := s.store.Do(t.Context(), func(ctx context.Context) error {
		_, err := s.store.Accounts.Create(ctx, &storage.Account{UserID: "@bridged:interior", ServiceID: "bridge"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	alice.do("POST", account.SetValidityPath, map[string]any{"user_id": alice.ID}).fails(404, "M_UNRECOGNIZED")
	if _, err := s.api.Admin().RenewAccount(t.Context(), "alice", time.Time{}); err == nil {
		t.Error("an account was renewed where none expires")
	}
	on := func(cfg *Config) {
		cfg.Account.Validity.Period, cfg.Account.Validity.Never = longPeriod, []string{"@bot-"}
	}
	s.restart(on)
	until(t, "alice has a date", func() bool { return !root.validUntil(alice.ID).IsZero() })
	about(t, "in the last tenth", root.validUntil(alice.ID), time.Now().Add(longPeriod*95/100), longPeriod*5/100+time.Minute)
	for _, user := range []id.UserID{"@bot-news:interior", "@bridged:interior"} {
		if at := root.validUntil(user); !at.IsZero() {
			t.Errorf("%s: got %v, want for ever", user, at)
		}
	}
	root.end(alice.ID)
	alice.do("GET", v3+"/account/whoami", nil).fails(403, expiredAccount)
	s.restart(func(*Config) {})
	until(t, "it does not count any more", func() bool { return alice.do("GET", v3+"/account/whoami", nil).code == 200 })
	s.restart(on)
	until(t, "it counts again", func() bool { return alice.do("GET", v3+"/account/whoami", nil).code == 403 })
}

func TestExpiredOAuthSession(t *testing.T) {
	cfg := oauthConfig()
	cfg.Account.Validity.Period = longPeriod
	s := start(t, cfg)
	root, alice := s.administrator("root"), s.register("alice")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	token := p.trade(map[string]string{"code": p.allowed(browser, nil)}).is(200)
	s.do(token.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	root.end(alice.ID)
	s.do(token.json("access_token"), "GET", v3+"/account/whoami", nil).fails(403, expiredAccount)
	fresh := p.refresh(token.json("refresh_token")).is(200) // the session is not over
	s.do(fresh.json("access_token"), "GET", v3+"/account/whoami", nil).fails(403, expiredAccount)
	root.do("POST", account.SetValidityPath, map[string]any{"user_id": alice.ID}).ok()
	s.do(fresh.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
}
