package clientapi

import (
	"bufio"
	"context"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/clientapi/upstream"
	"chancery/storage"
)

const providerFolder = "upstream/provider"

// elsewhere is a server whose people sign in with a real identity provider.
type elsewhere struct {
	*testServer
	issuer string
	// heard are the logout tokens that the provider posted; each went on to the server.
	heard chan string
}

// people are whom the provider knows, by what they type.
func people() map[string]map[string]any {
	return map[string]map[string]any{
		"anna":   {"email": "Anna.Blanc@example.com", "email_verified": true, "name": "Anna", "preferred_username": "anna"},
		"ben":    {"email": "ben@old.example", "email_verified": true},
		"claire": {"email": "claire@example.com", "email_verified": false},
		"dora":   {"name": "Dora"},
		"emil":   {"email": "emil@example.com", "email_verified": true, "groups": []string{"staff"}},
	}
}

// signInElsewhere starts a provider and a server that knows it; change may alter the configuration of both.
func signInElsewhere(t *testing.T, change func(cfg *Config, one *upstream.ProviderConfig, provider map[string]any)) *elsewhere {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not here; `make prepare` installs it")
	}
	if _, err := os.Stat(providerFolder + "/node_modules/oidc-provider"); err != nil {
		t.Skip(providerFolder + " has no node_modules; `make prepare` installs them")
	}
	web := httptest.NewUnstartedServer(nil)
	e := &elsewhere{heard: make(chan string, 16)}
	own := "http://" + web.Listener.Addr().String()
	ear := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.FormValue("logout_token")
		answer, err := http.PostForm(own+"/_chancery/upstream/staff/backchannel", url.Values{"logout_token": {token}})
		if err != nil {
			t.Errorf("pass on a logout token: %v", err)
			return
		}
		answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		e.heard <- token
	}))
	t.Cleanup(ear.Close)
	cfg := testConfig()
	cfg.PublicURL = own
	cfg.Account.OpenRegistration = false
	cfg.Upstream.AllowedNetworks = []string{"127.0.0.0/8"}
	one := upstream.ProviderConfig{ID: "staff", Name: "Staff Directory", ClientID: "chancery", ClientSecret: "secret of chancery", Registration: true}
	provider := map[string]any{
		"people": people(),
		"clients": []map[string]any{{
			"client_id": "chancery", "client_secret": "secret of chancery", "redirect_uris": []string{own + upstream.CallbackPath("staff")},
			"post_logout_redirect_uris": []string{own + upstream.LeftPath},
			"backchannel_logout_uri":    ear.URL, "backchannel_logout_session_required": true,
		}},
	}
	if change != nil {
		change(&cfg, &one, provider)
	}
	if one.Issuer == "" {
		one.Issuer = startProvider(t, provider)
	}
	e.issuer = one.Issuer
	cfg.Upstream.Providers = append(cfg.Upstream.Providers, one)
	e.testServer = startBehind(t, cfg, web)
	return e
}

// startProvider runs upstream/provider/provider.mjs until the test ends, and gives its issuer.
func startProvider(t *testing.T, wish map[string]any) string {
	t.Helper()
	text, err := json.Marshal(wish)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", providerFolder+"/provider.mjs", string(text))
	var complaints strings.Builder
	cmd.Stderr = &complaints
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the provider ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the provider said:\n%s", complaints.String())
		}
	})
	issuer, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatalf("the provider said no issuer: %v", err)
	}
	return strings.TrimSpace(issuer)
}

// surfer is a browser without scripts.
type surfer struct {
	t      *testing.T
	client *http.Client
}

func (e *elsewhere) surfer() *surfer {
	jar, err := cookiejar.New(nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return &surfer{e.t, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// page is what a browser shows, or the address that it is sent to.
type shown struct {
	t        *testing.T
	at       string
	code     int
	body     string
	location string
	header   http.Header
}

func (s *surfer) send(req *http.Request, err error) *shown {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	answer, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &shown{t: s.t, at: req.URL.String(), code: answer.StatusCode, body: string(body), header: answer.Header}
	if location := answer.Header.Get("Location"); location != "" {
		to, err := req.URL.Parse(location)
		if err != nil {
			s.t.Fatalf("%s sends to %q: %v", p.at, location, err)
		}
		p.location = to.String()
	}
	return p
}

func (s *surfer) get(at string) *shown {
	s.t.Helper()
	return s.send(http.NewRequest("GET", at, nil))
}

// follow goes where it is sent, until a page is shown, or until it would come to an address that begins so.
func (s *surfer) follow(p *shown, until string) *shown {
	s.t.Helper()
	for range 20 {
		if p.location == "" || until != "" && strings.HasPrefix(p.location, until) {
			return p
		}
		p = s.get(p.location)
	}
	s.t.Fatalf("%s: sent around in a circle", p.at)
	return nil
}

var (
	formAction = regexp.MustCompile(`<form[^>]* action="([^"]*)"`)
	formField  = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*name="([^"]*)"[^>]*value="([^"]*)"`)
)

// submit presses the button of a page's form, with more fields.
func (s *surfer) submit(p *shown, more url.Values) *shown {
	s.t.Helper()
	action := formAction.FindStringSubmatch(p.body)
	if action == nil {
		s.t.Fatalf("%s has no form: %d %s", p.at, p.code, p.body)
	}
	from, err := url.Parse(p.at)
	if err != nil {
		s.t.Fatal(err)
	}
	to, err := from.Parse(html.UnescapeString(action[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	values := url.Values{}
	for _, field := range formField.FindAllStringSubmatch(p.body, -1) {
		values.Set(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	for name, value := range more {
		values[name] = value
	}
	req, err := http.NewRequest("POST", to.String(), strings.NewReader(values.Encode()))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return s.send(req, err)
}

// has says that the page has to have this status and these words.
func (p *shown) has(code int, words ...string) *shown {
	p.t.Helper()
	for _, word := range words {
		if p.code != code || !strings.Contains(html.UnescapeString(p.body), word) {
			p.t.Fatalf("%s: got %d %s, want %d with %q", p.at, p.code, p.body, code, word)
		}
	}
	return p
}

const atClient = "https://app.example/?x=1&loginToken=old#/login"

// begin sends a browser to the provider, and has it sign in there: what comes is the way back, not yet gone.
func (e *elsewhere) begin(s *surfer, who string) *shown {
	e.t.Helper()
	return e.enter(s, s.get(e.url+v3+"/login/sso/redirect/staff?redirectUrl="+url.QueryEscape(atClient)), who)
}

// enter signs somebody in at the provider, to which a page sends.
func (e *elsewhere) enter(s *surfer, p *shown, who string) *shown {
	e.t.Helper()
	back := e.url + upstream.CallbackPath("staff")
	if p.location == "" {
		e.t.Fatalf("%s: got %d %s, want to be sent to the provider", p.at, p.code, p.body)
	}
	if p = s.follow(p, back); p.location != "" {
		return p // the provider still knows who it is
	}
	p = s.follow(s.submit(p, url.Values{"login": {who}, "password": {"any"}}), back)
	if !strings.HasPrefix(p.location, back) {
		e.t.Fatalf("%s: got %d %s, want the way back", p.at, p.code, p.body)
	}
	return p
}

// signIn goes the whole way, and gives the session that the client opens.
func (e *elsewhere) signIn(s *surfer, who string) *user {
	e.t.Helper()
	return e.open(s.submit(s.follow(e.begin(s, who), "").has(200, "app.example"), nil))
}

// open is the client that takes the login token from the address to which the browser is sent.
func (e *elsewhere) open(p *shown) *user {
	e.t.Helper()
	to, err := url.Parse(p.location)
	if err != nil || !strings.HasPrefix(p.location, "https://app.example/?") {
		e.t.Fatalf("%s: got %d to %q, want the client", p.at, p.code, p.location)
	}
	a := e.do("", "POST", v3+"/login", map[string]any{"type": "m.login.token", "token": to.Query().Get("loginToken")}).ok()
	return &user{testServer: e.testServer, ID: id.UserID(a.str("user_id")), Token: a.str("access_token"), Device: a.str("device_id")}
}

func TestSSOSignsIn(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, _ map[string]any) {
		one.Brand, one.Icon = "github", "mxc://interior/icon"
	})
	flows := e.do("", "GET", v3+"/login", nil).ok()
	if got := flows.str(`flows.#(type=="m.login.sso").identity_providers`); got != `[{"id":"staff","name":"Staff Directory","icon":"mxc://interior/icon","brand":"github"}]` {
		t.Errorf("providers: got %s", got)
	}
	s := e.surfer()
	start := s.get(e.url + v3 + "/login/sso/redirect?redirectUrl=" + url.QueryEscape(atClient) + "&login_hint=anna@example.com")
	to, err := url.Parse(start.location)
	if err != nil {
		t.Fatal(err)
	}
	asked := to.Query()
	if asked.Get("response_type") != "code" || asked.Get("code_challenge_method") != "S256" || asked.Get("nonce") == "" || len(asked.Get("state")) < 20 || asked.Get("login_hint") != "anna@example.com" {
		t.Errorf("request: got %v", asked)
	}
	if cookie := start.header.Get("Set-Cookie"); !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Lax") {
		t.Errorf("cookie: got %q", cookie)
	}
	question := s.follow(e.enter(s, start, "anna"), "").has(200, "app.example", "@anna.blanc-example.com:interior")
	for header, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"} {
		if got := question.header.Get(header); got != want {
			t.Errorf("%s: got %q, want %q", header, got, want)
		}
	}
	over := s.submit(question, nil)
	if !strings.HasPrefix(over.location, "https://app.example/?x=1&loginToken=chl_") || !strings.HasSuffix(over.location, "#/login") || strings.Count(over.location, "loginToken") != 1 {
		t.Errorf("back at the client: got %s", over.location)
	}
	anna := e.open(over)
	token := mustQuery(t, over.location).Get("loginToken")
	e.do("", "POST", v3+"/login", map[string]any{"type": "m.login.token", "token": token}).fails(403, "M_FORBIDDEN")
	s.submit(question, nil).has(400, "already used")

	if got := e.do("", "GET", v3+"/profile/"+string(anna.ID), nil).ok().str("displayname"); got != "Anna Blanc [Example]" {
		t.Errorf("display name: got %q", got)
	}
	if got := anna.do("GET", v3+"/account/3pid", nil).ok().str("threepids.0.address"); got != "anna.blanc@example.com" {
		t.Errorf("address: got %q", got)
	}
	if again := e.signIn(e.surfer(), "anna"); again.ID != anna.ID || again.Device == anna.Device {
		t.Errorf("a second sign-in: got %s %s, want %s on another device", again.ID, again.Device, anna.ID)
	}
}

func mustQuery(t *testing.T, at string) url.Values {
	t.Helper()
	to, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return to.Query()
}

// give makes an account that has this address.
func (e *elsewhere) give(name, address string) id.UserID {
	e.t.Helper()
	user, err := e.api.Accounts().Create(e.t.Context(), account.NewAccount{Username: name, Password: "password of " + name})
	if err != nil {
		e.t.Fatal(err)
	}
	if address == "" {
		return user
	}
	err = e.store.Do(e.t.Context(), func(ctx context.Context) error {
		_, err := e.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: user, Medium: "email", Address: address})
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return user
}

func TestSSOFindsAccounts(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, _ map[string]any) {
		one.Rewrite = []upstream.RewriteRule{{Match: "@old.example", Search: "@new.example"}}
	})
	anna, ben := e.give("annablanc", "anna.blanc@example.com"), e.give("benny", "ben@new.example")
	if got := e.signIn(e.surfer(), "anna").ID; got != anna {
		t.Errorf("by the address: got %s, want %s", got, anna)
	}
	if got := e.signIn(e.surfer(), "ben").ID; got != ben {
		t.Errorf("by a rewritten address: got %s, want %s", got, ben)
	}
	known, err := e.store.ExternalIDs.Of(t.Context(), anna)
	if want := []storage.ExternalID{{Provider: "staff", ExternalID: "anna"}}; err != nil || !slices.Equal(known, want) {
		t.Errorf("who anna is elsewhere: got %v %v, want %v", known, err, want)
	}
	// Who is known by the subject is found by it, whatever becomes of the address.
	if err := e.store.Do(t.Context(), func(ctx context.Context) error {
		_, err := e.store.ThreePIDs.Delete(ctx, anna, "email", "anna.blanc@example.com")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := e.signIn(e.surfer(), "anna").ID; got != anna {
		t.Errorf("by the subject: got %s, want %s", got, anna)
	}
	// Never by the username.
	e.give("emil-example.com", "")
	s := e.surfer()
	s.follow(e.begin(s, "emil"), "").has(403, "another e-mail address")
}

func TestA13SSOLetsInNobodyWhoIsOut(t *testing.T) {
	e := signInElsewhere(t, nil)
	anna, emil := e.signIn(e.surfer(), "anna"), e.signIn(e.surfer(), "emil")
	if err := e.api.Accounts().Close(t.Context(), anna.ID, false); err != nil {
		t.Fatal(err)
	}
	s := e.surfer()
	s.follow(e.begin(s, "anna"), "").has(403, "was closed")
	err := e.store.Do(t.Context(), func(ctx context.Context) error {
		a, err := e.store.Accounts.ByID(ctx, emil.ID)
		if err != nil {
			return err
		}
		a.Locked = true
		return e.store.Accounts.SetStanding(ctx, a)
	})
	if err != nil {
		t.Fatal(err)
	}
	s = e.surfer()
	s.follow(e.begin(s, "emil"), "").has(403, "is locked")
}

func TestSSORefuses(t *testing.T) {
	e := signInElsewhere(t, nil)
	t.Run("a state that was never begun", func(t *testing.T) {
		s := e.surfer()
		back := e.begin(s, "anna").location
		s.get(strings.Replace(back, "state=", "state=X", 1)).has(400, "Start again")
		// The true one is still good.
		s.follow(s.get(back), "").has(200, "app.example")
	})
	t.Run("a state twice", func(t *testing.T) {
		s := e.surfer()
		back := e.begin(s, "anna").location
		s.follow(s.get(back), "").has(200, "app.example")
		s.get(back).has(400, "Start again")
	})
	t.Run("another browser", func(t *testing.T) {
		s, other := e.surfer(), e.surfer()
		back := e.begin(s, "anna").location
		other.get(back).has(400, "Start again")
		e.begin(other, "emil") // it has a cookie now, and another one
		other.get(back).has(400, "Start again")
		// Nor may it take the pass that the sign-in brought.
		question := s.follow(s.get(back), "").has(200, "app.example")
		other.get(question.at).has(400, "Start again")
	})
	t.Run("a code twice", func(t *testing.T) {
		s := e.surfer()
		first := e.begin(s, "anna").location
		s.follow(s.get(first), "").has(200, "app.example")
		second := mustQuery(t, e.begin(s, "anna").location)
		second.Set("code", mustQuery(t, first).Get("code"))
		s.get(e.url+upstream.CallbackPath("staff")+"?"+second.Encode()).has(502, "cannot be reached")
	})
	t.Run("another nonce", func(t *testing.T) {
		s := e.surfer()
		start := s.get(e.url + v3 + "/login/sso/redirect/staff?redirectUrl=" + url.QueryEscape(atClient))
		start.location = regexp.MustCompile(`nonce=[^&]*`).ReplaceAllString(start.location, "nonce=another")
		s.get(e.enter(s, start, "anna").location).has(502, "its answer is not right")
	})
	t.Run("another issuer", func(t *testing.T) {
		s := e.surfer()
		back := mustQuery(t, e.begin(s, "anna").location)
		back.Set("iss", "https://evil.example")
		s.get(e.url+upstream.CallbackPath("staff")+"?"+back.Encode()).has(502, "its answer is not right")
	})
	t.Run("the provider says no", func(t *testing.T) {
		s := e.surfer()
		back := mustQuery(t, e.begin(s, "anna").location)
		back.Del("code")
		back.Set("error", "access_denied")
		s.get(e.url+upstream.CallbackPath("staff")+"?"+back.Encode()).has(403, "did not let you in")
	})
	t.Run("an address that is not proved", func(t *testing.T) {
		s := e.surfer()
		s.follow(e.begin(s, "claire"), "").has(403, "confirmed e-mail address")
	})
	t.Run("no address", func(t *testing.T) {
		s := e.surfer()
		s.follow(e.begin(s, "dora"), "").has(403, "confirmed e-mail address")
	})
	t.Run("a provider that is none", func(t *testing.T) {
		s := e.surfer()
		s.get(e.url+v3+"/login/sso/redirect/nobody?redirectUrl="+url.QueryEscape(atClient)).has(404, "does not know")
	})
	t.Run("redirects that are none", func(t *testing.T) {
		e.do("", "GET", v3+"/login/sso/redirect", nil).fails(400, "M_MISSING_PARAM")
		for _, to := range []string{"javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "//evil.example", "/path", "https:///x", "https://a\nb", "file:///etc/passwd", "vbscript:x", strings.Repeat("a:", 3000)} {
			e.do("", "GET", v3+"/login/sso/redirect/staff?redirectUrl="+url.QueryEscape(to), nil).fails(400, "M_INVALID_PARAM")
		}
	})
}

func TestSSORegistersNobodyUnasked(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, _ map[string]any) { one.Registration = false })
	s := e.surfer()
	s.follow(e.begin(s, "anna"), "").has(403, "no account")
	e.give("anna", "anna.blanc@example.com")
	if got := e.signIn(e.surfer(), "anna").ID; got != "@anna:interior" {
		t.Errorf("who has an account: got %s", got)
	}
}

func TestSSORegistersWhomTheOperatorWants(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, provider map[string]any) {
		one.Require = map[string]string{"groups": "staff"}
		one.UserInfo, one.Localpart, one.DisplayName = "always", "{{.sub}}", "{{.email}}"
		cfg.Account.EmailDomains = []string{"example.com"}
		provider["conform"] = false
	})
	if got := e.signIn(e.surfer(), "emil").ID; got != "@emil:interior" {
		t.Errorf("one of the staff: got %s", got)
	}
	s := e.surfer()
	s.follow(e.begin(s, "anna"), "").has(403, "needs to know")
}

func TestSSOKeepsToPublicAddresses(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, _ map[string]any) { cfg.Upstream.AllowedNetworks = nil })
	s := e.surfer()
	s.get(e.url+v3+"/login/sso/redirect/staff?redirectUrl="+url.QueryEscape(atClient)).has(502, "cannot be reached")
}

func TestSSOTermsComeFirst(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, _ map[string]any) {
		cfg.Account.Terms = []account.Terms{{Name: "privacy", Version: "1", Languages: map[string]account.TermsText{
			"en": {Title: "Privacy notice", URL: "https://interior/privacy"}, "fr": {Title: "Confidentialité", URL: "https://interior/confidentialite"},
		}}}
	})
	s := e.surfer()
	page := s.follow(e.begin(s, "anna"), "").has(200, "Privacy notice", "https://interior/privacy", "@anna.blanc-example.com:interior")
	if known, err := e.store.Accounts.ByID(t.Context(), "@anna.blanc-example.com:interior"); err != nil || known != nil {
		t.Fatalf("before the terms: got %v %v, want no account", known, err)
	}
	accepted := s.submit(page, nil)
	anna := e.open(s.submit(s.follow(accepted, "").has(200, "app.example"), nil))
	if anna.ID != "@anna.blanc-example.com:interior" {
		t.Errorf("after the terms: got %s", anna.ID)
	}
	s.submit(page, nil).has(400, "already used")
	// Whoever has an account is not asked again.
	if again := e.signIn(e.surfer(), "anna"); again.ID != anna.ID {
		t.Errorf("again: got %s", again.ID)
	}
}

func TestSSOTrustsWhomTheOperatorNames(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, one *upstream.ProviderConfig, _ map[string]any) {
		cfg.Upstream.TrustedClients = []string{"https://app.example/"}
		cfg.Upstream.Providers = []upstream.ProviderConfig{{ID: "other", Name: "Another", Issuer: "https://other.example", ClientID: "x"}}
		cfg.Account.PasswordLogin = false
	})
	s := e.surfer()
	if over := s.follow(e.begin(s, "anna"), "https://app.example/"); e.open(over).ID == "" {
		t.Errorf("a trusted client: got %s", over.location)
	}
	s.get(e.url+v3+"/login/sso/redirect?redirectUrl="+url.QueryEscape(atClient)).has(200, "Staff Directory", "Another", "/login/sso/redirect/other?redirectUrl=")
	if got := e.do("", "GET", v3+"/login", nil).ok().str(`flows.#(type=="m.login.password")`); got != "" {
		t.Errorf("without passwords: got %s", got)
	}
	e.give("gerd", "")
	e.do("", "POST", v3+"/login", loginBody("gerd", "password of gerd")).fails(403, "M_FORBIDDEN")
}

func TestSSOConfirms(t *testing.T) {
	e := signInElsewhere(t, nil)
	s := e.surfer()
	anna, emil := e.signIn(s, "anna"), e.surfer()
	other := e.signIn(s, "anna")
	ask := anna.do("DELETE", v3+"/devices/"+other.Device, nil)
	if ask.code != 401 || ask.str("flows") != `[{"stages":["m.login.sso"]}]` {
		t.Fatalf("flows: got %d %s", ask.code, ask.body.Raw)
	}
	session := ask.str("session")
	only := map[string]any{"auth": map[string]string{"session": session}}
	anna.do("DELETE", v3+"/devices/"+other.Device, map[string]any{"auth": map[string]string{"type": "m.login.sso", "session": session}}).fails(401, "M_FORBIDDEN")
	page := e.url + v3 + "/auth/m.login.sso/fallback/web?session=" + session
	emil.get(strings.Replace(page, session, "X", 1)).has(400, "Start again")

	// Another user confirms nothing.
	wrong := emil.submit(emil.get(page).has(200, "sign out a device of @anna.blanc-example.com:interior", "Staff Directory"), nil)
	emil.follow(e.enter(emil, wrong, "emil"), "").has(403, "somebody else")
	if a := anna.do("DELETE", v3+"/devices/"+other.Device, only); a.code != 401 {
		t.Fatalf("after another's sign-in: got %d %s, want 401", a.code, a.body.Raw)
	}

	// The provider still knows anna, and is made to ask again.
	start := s.submit(s.get(page), nil)
	if asked := mustQuery(t, start.location); asked.Get("prompt") != "login" {
		t.Errorf("request: got %v, want prompt=login", asked)
	}
	done := s.follow(e.enter(s, start, "anna"), "").has(200, "authDone", "Confirmed")
	if policy := done.header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'sha256-") {
		t.Errorf("policy of the page: got %q", policy)
	}
	anna.do("DELETE", v3+"/devices/"+other.Device, only).ok()
	other.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	anna.do("DELETE", v3+"/devices/"+anna.Device, only).fails(403, "M_FORBIDDEN") // the session is over
}
