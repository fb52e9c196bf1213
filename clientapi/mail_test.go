package clientapi

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// postbox is a real mail server, and what it took.
type postbox struct {
	t       *testing.T
	address string
	got     chan letter
}

type letter struct{ to, subject, text, unsubscribe string }

func newPostbox(t *testing.T) *postbox {
	t.Helper()
	p := &postbox{t: t, got: make(chan letter, 100)}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &postman{box: p}, nil }))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().String()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-ended })
	return p
}

type postman struct {
	box *postbox
	to  string
}

func (s *postman) Reset()                                    { s.to = "" }
func (s *postman) Logout() error                             { return nil }
func (s *postman) Mail(string, *smtp.MailOptions) error      { return nil }
func (s *postman) Rcpt(to string, _ *smtp.RcptOptions) error { s.to = to; return nil }
func (s *postman) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	msg, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil {
		return err
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	part, err := multipart.NewReader(msg.Body, params["boundary"]).NextRawPart()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(quotedprintable.NewReader(part))
	if err != nil {
		return err
	}
	s.box.got <- letter{s.to, subject, strings.ReplaceAll(string(text), "\r\n", "\n"), strings.Trim(msg.Header.Get("List-Unsubscribe"), "<>")}
	return nil
}

func (p *postbox) next() letter {
	p.t.Helper()
	select {
	case l := <-p.got:
		return l
	case <-time.After(20 * time.Second):
		p.t.Fatal("no mail came")
		return letter{}
	}
}

// empty says that nothing has come; after something else has, that was queued later.
func (p *postbox) empty() {
	p.t.Helper()
	select {
	case l := <-p.got:
		p.t.Fatalf("a mail too many: %+v", l)
	default:
	}
}

var links = regexp.MustCompile(`https?://\S+`)

// link is the first link of a mail.
func (l letter) link(t *testing.T) *url.URL {
	t.Helper()
	u, err := url.Parse(links.FindString(l.text))
	if err != nil || u.Host == "" {
		t.Fatalf("no link in %q", l.text)
	}
	return u
}

// withMail is a server that sends its mails to a postbox.
func withMail(t *testing.T, set func(*Config)) (*testServer, *postbox) {
	t.Helper()
	box := newPostbox(t)
	cfg := testConfig()
	cfg.Mail.Server, cfg.Mail.TLS, cfg.Mail.From = box.address, "none", "Interior <noreply@interior>"
	if set != nil {
		set(&cfg)
	}
	return start(t, cfg), box
}

// press does what the reader of a mail does: opens the link, and presses the button on the page.
func (s *testServer) press(link *url.URL) (code int, page string) {
	s.t.Helper()
	resp, err := http.Get(s.url + link.Path + "?" + link.RawQuery)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp.StatusCode, string(raw)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(string(raw), `<form method="post">`) {
		s.t.Errorf("page: got policy %q and %s", csp, raw)
	}
	form := url.Values{"sid": {link.Query().Get("sid")}, "token": {link.Query().Get("token")}}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if resp, err = client.PostForm(s.url+link.Path, form); err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Location") + string(raw)
}

func tokenBody(address, secret string, attempt int) map[string]any {
	return map[string]any{"email": address, "client_secret": secret, "send_attempt": attempt}
}

func proofOf(sid, secret, session string) map[string]any {
	return map[string]any{"type": "m.login.email.identity", "session": session, "threepid_creds": map[string]string{"sid": sid, "client_secret": secret}}
}

// addAddress gives the user an address, the whole way.
func (u *user) addAddress(box *postbox, address string) {
	u.t.Helper()
	sid := u.do("POST", v3+"/account/3pid/email/requestToken", tokenBody(address, "secret", 1)).ok().str("sid")
	if code, page := u.press(box.next().link(u.t)); code != 200 {
		u.t.Fatalf("confirm: got %d %s", code, page)
	}
	u.do("POST", v3+"/account/3pid/add", u.confirm(map[string]any{"sid": sid, "client_secret": "secret"}, "")).ok()
}

func TestAddresses(t *testing.T) {
	s, box := withMail(t, nil)
	alice, bob := s.register("alice"), s.register("bob")
	ask := func(u *user, body map[string]any) *answer {
		return u.do("POST", v3+"/account/3pid/email/requestToken", body)
	}
	add := func(u *user, sid, secret string) *answer {
		return u.do("POST", v3+"/account/3pid/add", u.confirm(map[string]any{"sid": sid, "client_secret": secret}, ""))
	}
	if !alice.do("GET", v3+"/capabilities", nil).ok().body.Get(`capabilities.m\.3pid_changes.enabled`).Bool() {
		t.Error("m.3pid_changes is off")
	}
	sid := ask(alice, tokenBody("Alice@Example.org", "s1", 1)).ok().str("sid")
	mail := box.next()
	if mail.to != "alice@example.org" || !strings.Contains(mail.text, "@alice:interior") {
		t.Errorf("mail: got %+v", mail)
	}
	if again := ask(alice, tokenBody("alice@example.org", "s1", 1)).ok().str("sid"); again != sid {
		t.Errorf("the same attempt: got session %s, want %s", again, sid)
	}
	box.empty()
	if ask(alice, tokenBody("alice@example.org", "s1", 2)).ok().str("sid") != sid {
		t.Error("the next attempt got another session")
	}
	second := box.next()

	add(alice, sid, "s1").fails(403, "M_THREEPID_AUTH_FAILED") // not yet confirmed
	if code, _ := s.press(mail.link(t)); code != 400 {
		t.Errorf("the link of the first mail: got %d, want 400 after the second", code)
	}
	if code, page := s.press(second.link(t)); code != 200 || !strings.Contains(page, "go back") {
		t.Errorf("the link: got %d %s", code, page)
	}
	alice.do("POST", v3+"/account/3pid/add", map[string]any{"sid": sid, "client_secret": "s1"}).fails(401, "")
	add(alice, sid, "other").fails(403, "M_THREEPID_AUTH_FAILED")
	add(bob, sid, "s1").fails(403, "M_THREEPID_AUTH_FAILED") // proved for alice
	add(alice, sid, "s1").ok()
	add(alice, sid, "s1").fails(403, "M_THREEPID_AUTH_FAILED") // used
	list := alice.do("GET", v3+"/account/3pid", nil).ok()
	if list.str("threepids.#") != "1" || list.str("threepids.0.address") != "alice@example.org" || list.str("threepids.0.medium") != "email" ||
		list.body.Get("threepids.0.validated_at").Int() == 0 || list.body.Get("threepids.0.added_at").Int() == 0 {
		t.Errorf("list: got %s", list.body.Raw)
	}

	// Bob does not learn that the address is somebody's; its reader does.
	ask(bob, tokenBody("alice@example.org", "s2", 1)).ok()
	if mail := box.next(); !strings.Contains(mail.subject, "already") || links.MatchString(mail.text) {
		t.Errorf("address in use: got %+v", mail)
	}
	ask(alice, tokenBody("alice@example.org", "s3", 1)).fails(400, "M_THREEPID_IN_USE")

	login := map[string]any{"type": "m.login.password", "password": "password of alice", "identifier": map[string]string{"type": "m.id.thirdparty", "medium": "email", "address": "ALICE@example.org"}}
	if got := s.do("", "POST", v3+"/login", login).ok().str("user_id"); got != "@alice:interior" {
		t.Errorf("login by address: got %s", got)
	}
	login["identifier"].(map[string]string)["address"] = "nobody@example.org"
	s.do("", "POST", v3+"/login", login).fails(403, "M_FORBIDDEN")

	bob.do("POST", v3+"/account/3pid/delete", map[string]any{"medium": "email", "address": "alice@example.org"}).ok()
	if alice.do("GET", v3+"/account/3pid", nil).ok().str("threepids.#") != "1" {
		t.Error("bob took alice's address away")
	}
	gone := alice.do("POST", v3+"/account/3pid/delete", map[string]any{"medium": "email", "address": "Alice@example.org"}).ok()
	if gone.str("id_server_unbind_result") != "no-support" || alice.do("GET", v3+"/account/3pid", nil).ok().str("threepids.#") != "0" {
		t.Errorf("delete: got %s", gone.body.Raw)
	}

	for _, bad := range []map[string]any{
		tokenBody("no address", "s", 1), tokenBody("a@b\r\nBcc: c@d", "s", 1), tokenBody("a@b.c", "bad secret", 1), tokenBody("a@b.c", strings.Repeat("x", 256), 1),
	} {
		ask(alice, bad).fails(400, "M_INVALID_PARAM")
	}
	ask(alice, map[string]any{"email": "a@b.c"}).fails(400, "M_MISSING_PARAM")
	alice.do("POST", v3+"/account/3pid/msisdn/requestToken", "{}").fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	s.do("", "POST", v3+"/register/msisdn/requestToken", "{}").fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	alice.do("POST", v3+"/account/3pid/bind", map[string]any{"sid": "s", "client_secret": "c", "id_server": "x", "id_access_token": "y"}).fails(400, "M_SERVER_NOT_TRUSTED")
	alice.do("POST", v3+"/account/3pid/unbind", map[string]any{"medium": "email", "address": "x"}).ok()
	box.empty()
}

// A stranger learns from no answer whether an address has an account.
func TestResetTellsNobodyWhoseAddressItIs(t *testing.T) {
	s, box := withMail(t, nil)
	alice := s.register("alice")
	alice.addAddress(box, "alice@example.org")
	known := s.do("", "POST", v3+"/account/password/email/requestToken", tokenBody("alice@example.org", "s1", 1)).ok()
	unknown := s.do("", "POST", v3+"/account/password/email/requestToken", tokenBody("nobody@example.org", "s1", 1)).ok()
	if known.str("@keys") != unknown.str("@keys") || len(known.str("sid")) != len(unknown.str("sid")) {
		t.Errorf("known: %s, unknown: %s: want answers alike", known.body.Raw, unknown.body.Raw)
	}
	registering := s.do("", "POST", v3+"/register/email/requestToken", tokenBody("alice@example.org", "s2", 1)).ok()
	if registering.str("@keys") != known.str("@keys") {
		t.Errorf("registering: %s", registering.body.Raw)
	}
	if mail := box.next(); mail.to != "alice@example.org" {
		t.Errorf("first mail: got %+v", mail)
	}
	if mail := box.next(); mail.to != "alice@example.org" || !strings.Contains(mail.subject+mail.text, "already") && !strings.Contains(mail.text, "forgotten") {
		t.Errorf("second mail: got %+v", mail)
	}
	box.empty()
}

func TestPasswordIsResetByMail(t *testing.T) {
	s, box := withMail(t, nil)
	alice, bob := s.register("alice"), s.register("bob")
	alice.addAddress(box, "alice@example.org")
	bob.addAddress(box, "bob@example.org")

	body := map[string]any{"new_password": "a better password"}
	flows := s.do("", "POST", v3+"/account/password", body)
	if flows.code != 401 || flows.str("flows.#.stages") != `[["m.login.email.identity"]]` {
		t.Fatalf("flows: got %d %s", flows.code, flows.body.Raw)
	}
	sid := s.do("", "POST", v3+"/account/password/email/requestToken", tokenBody("alice@example.org", "s1", 1)).ok().str("sid")
	mail := box.next()
	body["auth"] = proofOf(sid, "s1", flows.str("session"))
	s.do("", "POST", v3+"/account/password", body).fails(401, "M_UNAUTHORIZED") // not yet pressed

	// A program that looks at the link does not press the button.
	resp, err := http.Get(s.url + mail.link(t).Path + "?" + mail.link(t).RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.do("", "POST", v3+"/account/password", body).fails(401, "M_UNAUTHORIZED")

	if code, page := s.press(mail.link(t)); code != 200 {
		t.Fatalf("the link: got %d %s", code, page)
	}
	// Bob, who is logged in, cannot use alice's proof, nor anybody without her secret.
	bob.do("POST", v3+"/account/password", map[string]any{"new_password": "a better password", "auth": proofOf(sid, "s1", "")}).fails(401, "M_UNAUTHORIZED")
	s.do("", "POST", v3+"/account/password", map[string]any{"new_password": "a better password", "auth": proofOf(sid, "s2", "")}).fails(401, "M_UNAUTHORIZED")
	s.do("", "POST", v3+"/account/password", body).ok()
	if mail := box.next(); mail.to != "alice@example.org" || !strings.Contains(mail.subject, "changed") {
		t.Errorf("the mail afterwards: got %+v", mail)
	}
	s.do("", "POST", v3+"/login", loginBody("alice", "a better password")).ok()
	s.do("", "POST", v3+"/login", loginBody("alice", "password of alice")).fails(403, "M_FORBIDDEN")
	alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")

	// Neither the session nor the proof works twice.
	s.do("", "POST", v3+"/account/password", body).fails(403, "M_FORBIDDEN")
	body["auth"] = proofOf(sid, "s1", "")
	s.do("", "POST", v3+"/account/password", body).fails(401, "M_UNAUTHORIZED")
}

func TestRegisterByMail(t *testing.T) {
	s, box := withMail(t, func(cfg *Config) {
		cfg.Account.OpenRegistration, cfg.Account.EmailRegistration = false, true
		cfg.Account.EmailDomains = []string{"*.gouv.fr"}
		cfg.Account.NextLinkHosts = []string{"app.example.org"}
	})
	body := map[string]any{"username": "alice", "password": "password of alice"}
	flows := s.do("", "POST", v3+"/register", body)
	if flows.code != 401 || flows.str("flows.#.stages") != `[["m.login.email.identity"]]` {
		t.Fatalf("flows: got %d %s", flows.code, flows.body.Raw)
	}
	s.do("", "POST", v3+"/register/email/requestToken", tokenBody("alice@example.org", "s1", 1)).fails(403, "M_THREEPID_DENIED")
	ask := tokenBody("alice@interieur.gouv.fr", "s1", 1)
	ask["next_link"] = "https://app.example.org/#/done"
	sid := s.do("", "POST", v3+"/register/email/requestToken", ask).ok().str("sid")
	body["auth"] = proofOf(sid, "s1", flows.str("session"))
	s.do("", "POST", v3+"/register", body).fails(401, "M_UNAUTHORIZED")
	if code, to := s.press(box.next().link(t)); code != 302 || !strings.HasPrefix(to, "https://app.example.org/#/done") {
		t.Errorf("next_link: got %d %s", code, to)
	}
	a := s.do("", "POST", v3+"/register", body).ok()
	alice := &user{testServer: s, ID: "@alice:interior", Token: a.str("access_token")}
	if got := alice.do("GET", v3+"/account/3pid", nil).ok().str("threepids.0.address"); got != "alice@interieur.gouv.fr" {
		t.Errorf("address: got %q", got)
	}
	// The same proof makes no second account, and neither does a proof for something else.
	second := s.do("", "POST", v3+"/register", map[string]any{"username": "eve", "password": "password of eve"})
	s.do("", "POST", v3+"/register", map[string]any{"username": "eve", "password": "password of eve", "auth": proofOf(sid, "s1", second.str("session"))}).fails(401, "M_UNAUTHORIZED")
	reset := s.do("", "POST", v3+"/account/password/email/requestToken", tokenBody("alice@interieur.gouv.fr", "s9", 1)).ok().str("sid")
	s.press(box.next().link(t))
	s.do("", "POST", v3+"/register", map[string]any{"username": "eve", "password": "password of eve", "auth": proofOf(reset, "s9", second.str("session"))}).fails(401, "M_UNAUTHORIZED")
	// A link to a host that nobody named leads nowhere.
	ask = tokenBody("bob@interieur.gouv.fr", "s1", 1)
	ask["next_link"] = "https://evil.example/"
	s.do("", "POST", v3+"/register/email/requestToken", ask).ok()
	if code, page := s.press(box.next().link(t)); code != 200 || strings.Contains(page, "evil") {
		t.Errorf("next_link to a stranger: got %d %s", code, page)
	}
}

func TestMailsToAnAddressAreLimited(t *testing.T) {
	s, box := withMail(t, func(cfg *Config) { cfg.HTTP.Limits.Enabled = true })
	for i := range 6 {
		a := s.do("", "POST", v3+"/account/password/email/requestToken", tokenBody("nobody@example.org", "s", i+1))
		if want := i < 5; (a.code == 200) != want {
			t.Errorf("attempt %d: got %d %s", i+1, a.code, a.body.Raw)
		}
	}
	box.empty()
}

func TestWithoutAMailServer(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	alice.do("POST", v3+"/account/3pid/email/requestToken", tokenBody("a@b.c", "s", 1)).fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	s.do("", "POST", v3+"/account/password/email/requestToken", tokenBody("a@b.c", "s", 1)).fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	s.do("", "POST", v3+"/register/email/requestToken", tokenBody("a@b.c", "s", 1)).fails(403, "M_THREEPID_DENIED")
	s.do("", "POST", v3+"/account/password", map[string]any{"new_password": "long enough"}).fails(401, "M_MISSING_TOKEN")
	if alice.do("GET", v3+"/capabilities", nil).ok().body.Get(`capabilities.m\.3pid_changes.enabled`).Bool() {
		t.Error("m.3pid_changes is on")
	}
}
