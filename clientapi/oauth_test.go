package clientapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// publicOAuth is where the server of these tests believes to be; its browsers and programs are led to where it is.
const publicOAuth = "http://matrix.interior.test"

func oauthConfig() Config {
	cfg := testConfig()
	cfg.OAuth.Enabled = true
	cfg.OAuth.IntrospectionSecret = "a secret of the house"
	cfg.PublicURL = publicOAuth
	return cfg
}

// visitor is a browser, or a program, that follows no redirect by itself.
type visitor struct {
	t      *testing.T
	client *http.Client
}

func (s *testServer) visitor() *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	here := strings.TrimPrefix(s.url, "http://")
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, here)
	}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &visitor{s.t, &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// seen is what came back.
type seen struct {
	t      *testing.T
	what   string
	code   int
	header http.Header
	text   string
}

func (v *visitor) ask(method, to, contentType, body string) *seen {
	v.t.Helper()
	if strings.HasPrefix(to, "/") {
		to = publicOAuth + to
	}
	req, err := http.NewRequest(method, to, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return v.send(req)
}

func (v *visitor) send(req *http.Request) *seen {
	v.t.Helper()
	resp, err := v.client.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, resp.Body); err != nil {
		v.t.Fatal(err)
	}
	return &seen{v.t, req.Method + " " + req.URL.Path, resp.StatusCode, resp.Header, text.String()}
}

func (v *visitor) get(to string) *seen { v.t.Helper(); return v.ask("GET", to, "", "") }

const formType = "application/x-www-form-urlencoded"

func (v *visitor) post(to string, values url.Values) *seen {
	v.t.Helper()
	return v.ask("POST", to, formType, values.Encode())
}

func (a *seen) is(code int) *seen {
	a.t.Helper()
	if a.code != code {
		a.t.Fatalf("%s: got %d %s, want %d", a.what, a.code, a.text, code)
	}
	return a
}

// leads says that the answer leads on, and where.
func (a *seen) leads() string {
	a.t.Helper()
	a.is(http.StatusSeeOther)
	return a.header.Get("Location")
}

func (a *seen) json(path string) string { return gjson.Get(a.text, path).String() }

// oauthError says which status and OAuth error the answer has to have.
func (a *seen) oauthError(code int, name string) {
	a.t.Helper()
	if a.code != code || a.json("error") != name {
		a.t.Fatalf("%s: got %d %s, want %d %s", a.what, a.code, a.text, code, name)
	}
}

func (a *seen) contains(text string) *seen {
	a.t.Helper()
	if !strings.Contains(html.UnescapeString(a.text), text) {
		a.t.Fatalf("%s: the page does not say %q:\n%s", a.what, text, a.text)
	}
	return a
}

var (
	hiddenInput = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
	formStart   = regexp.MustCompile(`<form[^>]* action="([^"]*)"`)
)

// submit fills the page's last form in, with what it holds hidden, and sends it.
func (v *visitor) submit(page *seen, values url.Values) *seen {
	v.t.Helper()
	forms := formStart.FindAllStringSubmatchIndex(page.text, -1)
	if forms == nil {
		v.t.Fatalf("%s: no form on the page:\n%s", page.what, page.text)
	}
	last := forms[len(forms)-1]
	all := url.Values{}
	for _, m := range hiddenInput.FindAllStringSubmatch(page.text[last[0]:], -1) {
		all.Set(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	for name, value := range values {
		all[name] = value
	}
	return v.post(html.UnescapeString(page.text[last[2]:last[3]]), all)
}

// signIn signs a user in, in this browser.
func (v *visitor) signIn(name string) {
	v.t.Helper()
	to := v.submit(v.get("/account/login").is(200), url.Values{"username": {name}, "password": {"password of " + name}}).leads()
	if to != "/account" {
		v.t.Fatalf("after the sign-in: got %q, want /account", to)
	}
}

// program is a client that registered itself.
type program struct {
	*visitor
	id       string
	redirect string
	verifier string
}

const goodRedirect = "com.example.app:/callback"

func (s *testServer) program(change map[string]any) *program {
	s.t.Helper()
	v := s.visitor()
	metadata := map[string]any{
		"client_name": "Example", "client_uri": "https://example.com/", "redirect_uris": []string{goodRedirect, "http://127.0.0.1/back"},
		"application_type": "native", "token_endpoint_auth_method": "none", "response_types": []string{"code"},
		"grant_types": []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
	}
	for name, value := range change {
		metadata[name] = value
	}
	raw, err := json.Marshal(metadata)
	if err != nil {
		s.t.Fatal(err)
	}
	a := v.ask("POST", "/oauth2/register", "application/json", string(raw)).is(201)
	return &program{v, a.json("client_id"), goodRedirect, strings.Repeat("verifier-", 6)}
}

const goodScope = "urn:matrix:client:api:* urn:matrix:client:device:ABCDEFGHIJ"

// request is the query of an authorization request; empty values of change take a parameter away.
func (p *program) request(change map[string]string) string {
	sum := sha256.Sum256([]byte(p.verifier))
	all := map[string]string{
		"client_id": p.id, "response_type": "code", "redirect_uri": p.redirect, "scope": goodScope, "state": "the state", "response_mode": "fragment",
		"code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method": "S256",
	}
	for name, value := range change {
		all[name] = value
	}
	q := url.Values{}
	for name, value := range all {
		if value != "" {
			q.Set(name, value)
		}
	}
	return "/oauth2/authorize?" + q.Encode()
}

// answered is what the browser brings back to the program.
func (p *program) answered(to string) url.Values {
	p.t.Helper()
	rest, ok := strings.CutPrefix(to, p.redirect)
	if !ok || rest == "" {
		p.t.Fatalf("the browser is led to %q, want %s…", to, p.redirect)
	}
	values, err := url.ParseQuery(rest[1:])
	if err != nil {
		p.t.Fatal(err)
	}
	return values
}

// allowed is a code that somebody's browser, signed in, was given.
func (p *program) allowed(browser *visitor, change map[string]string) string {
	p.t.Helper()
	page := browser.get(p.request(change)).is(200)
	back := p.answered(browser.submit(page, url.Values{"decision": {"allow"}}).leads())
	if back.Get("state") != "the state" || back.Get("iss") != publicOAuth+"/" || back.Get("code") == "" {
		p.t.Fatalf("the program gets %v, want state, iss and a code", back)
	}
	return back.Get("code")
}

func (p *program) trade(change map[string]string) *seen {
	p.t.Helper()
	q := url.Values{"grant_type": {"authorization_code"}, "client_id": {p.id}, "redirect_uri": {p.redirect}, "code_verifier": {p.verifier}}
	for name, value := range change {
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
	}
	return p.post("/oauth2/token", q)
}

func (p *program) refresh(token string) *seen {
	p.t.Helper()
	return p.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {p.id}, "refresh_token": {token}})
}

func TestOAuthIsOffByDefault(t *testing.T) {
	s := start(t, testConfig())
	for _, path := range []string{
		"/_matrix/client/v1/auth_metadata", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", "/oauth2/authorize", "/account", "/account/login",
		"/_matrix/client/unstable/io.element.msc4388/rendezvous", "/.well-known/openid-configuration",
	} {
		s.do("", "GET", path, nil).fails(404, "M_UNRECOGNIZED")
	}
	if s.do("", "GET", "/_matrix/client/versions", nil).body.Get(`unstable_features.org\.matrix\.msc4108`).Bool() {
		t.Error("/versions names the meeting places though they are off")
	}
}

func TestOAuthMetadata(t *testing.T) {
	s := start(t, oauthConfig())
	a := s.do("", "GET", "/_matrix/client/v1/auth_metadata", nil).ok()
	for path, want := range map[string]string{
		"issuer":                                     publicOAuth + "/",
		"authorization_endpoint":                     publicOAuth + "/oauth2/authorize",
		"token_endpoint":                             publicOAuth + "/oauth2/token",
		"revocation_endpoint":                        publicOAuth + "/oauth2/revoke",
		"registration_endpoint":                      publicOAuth + "/oauth2/register",
		"device_authorization_endpoint":              publicOAuth + "/oauth2/device",
		"account_management_uri":                     publicOAuth + "/account",
		"response_types_supported":                   `["code"]`,
		"response_modes_supported":                   `["query","fragment"]`,
		"grant_types_supported":                      `["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:device_code"]`,
		"code_challenge_methods_supported":           `["S256"]`,
		"prompt_values_supported":                    `["create"]`,
		"account_management_actions_supported.#":     "9",
		"account_management_actions_supported.5":     "org.matrix.cross_signing_reset",
		"token_endpoint_auth_methods_supported.0":    "none",
		"introspection_endpoint":                     publicOAuth + "/oauth2/introspect",
		"revocation_endpoint_auth_methods_supported": `["none"]`,
	} {
		if got := a.str(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if old := s.do("", "GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", nil).ok(); old.body.Raw != a.body.Raw {
		t.Errorf("the old path says %s, want %s", old.body.Raw, a.body.Raw)
	}
}

func TestOAuthCodeFlow(t *testing.T) {
	s := start(t, oauthConfig())
	alice := s.register("alice")
	p, browser := s.program(nil), s.visitor()
	// Who is not signed in is asked to; and comes back.
	login := browser.get(p.request(nil)).leads()
	page := browser.get(login).is(200).contains("to continue to Example")
	browser.submit(page, url.Values{"username": {"alice"}, "password": {"wrong"}}).is(403).contains("The username or the password is wrong.")
	next := browser.submit(page, url.Values{"username": {"@alice:interior"}, "password": {"password of alice"}}).leads()
	browser.get(next).is(200).contains("Continue to Example?").contains("@alice:interior")

	a := p.trade(map[string]string{"code": p.allowed(browser, nil)}).is(200)
	if a.json("token_type") != "Bearer" || a.json("expires_in") != "300" || a.json("scope") != goodScope || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("tokens: got %s %v", a.text, a.header)
	}
	who := s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	if who.str("user_id") != string(alice.ID) || who.str("device_id") != "ABCDEFGHIJ" {
		t.Errorf("whoami: got %s", who.body.Raw)
	}
	if name := alice.do("GET", v3+"/devices/ABCDEFGHIJ", nil).ok().str("display_name"); name != "Example" {
		t.Errorf("the device's name: got %q, want Example", name)
	}

	// Refreshing: the old pair lives until the new one is used, and only the client that was given it may.
	other := s.program(map[string]any{"client_name": "Other"})
	other.refresh(a.json("refresh_token")).oauthError(400, "invalid_grant")
	s.do("", "POST", v3+"/refresh", map[string]string{"refresh_token": a.json("refresh_token")}).fails(401, "M_UNKNOWN_TOKEN")
	b := p.refresh(a.json("refresh_token")).is(200)
	b = p.refresh(a.json("refresh_token")).is(200) // the answer was lost
	s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	s.do(b.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	c := p.refresh(b.json("refresh_token")).is(200)
	s.do(c.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	// A refresh token that comes again after that was stolen: all of it ends.
	p.refresh(a.json("refresh_token")).oauthError(400, "invalid_grant")
	s.do(c.json("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	p.refresh(c.json("refresh_token")).oauthError(400, "invalid_grant")
	alice.do("GET", v3+"/devices/ABCDEFGHIJ", nil).fails(404, "M_NOT_FOUND")

	// A session of the legacy API cannot be refreshed here.
	legacy := s.do("", "POST", v3+"/login", map[string]any{"type": "m.login.password", "user": "alice", "password": "password of alice", "refresh_token": true}).ok()
	p.refresh(legacy.str("refresh_token")).oauthError(400, "invalid_grant")
	s.do(legacy.str("access_token"), "GET", v3+"/account/whoami", nil).ok()
}

func TestOAuthCodeIsGoodOnce(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	code := p.allowed(browser, nil)
	for what, change := range map[string]map[string]string{
		"foreign redirect": {"redirect_uri": "http://127.0.0.1/back"},
		"wrong verifier":   {"code_verifier": strings.Repeat("x", 43)},
		"short verifier":   {"code_verifier": "x"},
		"another code":     {"code": "chc_AAAA"},
	} {
		with := map[string]string{"code": code}
		for name, value := range change {
			with[name] = value
		}
		if a := p.trade(with); a.code != 400 || a.json("error") != "invalid_grant" {
			t.Errorf("%s: got %d %s, want invalid_grant", what, a.code, a.text)
		}
	}
	p.trade(map[string]string{"code": code, "code_verifier": ""}).oauthError(400, "invalid_request")
	p.trade(map[string]string{"code": code, "client_id": "nobody"}).oauthError(401, "invalid_client")
	p.trade(map[string]string{"code": code, "client_id": ""}).oauthError(401, "invalid_client")
	p.trade(map[string]string{"code": code, "grant_type": "password"}).oauthError(400, "unsupported_grant_type")
	s.program(map[string]any{"client_name": "Other"}).trade(map[string]string{"code": code}).oauthError(400, "invalid_grant")

	a := p.trade(map[string]string{"code": code}).is(200)
	s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	p.trade(map[string]string{"code": code}).oauthError(400, "invalid_grant")
	s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestOAuthRequestsRefused(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	// What cannot be trusted is said on a page.
	browser.get(p.request(map[string]string{"client_id": "nobody"})).is(400).contains("invalid_client")
	for _, foreign := range []string{"https://evil.example/", "com.example.app:/other", "http://127.0.0.1:1/other", "com.example.app:/callback#x", ""} {
		browser.get(p.request(map[string]string{"redirect_uri": foreign})).is(400).contains("invalid_redirect_uri")
	}
	browser.get(p.request(nil) + "&scope=twice").is(400).contains("invalid_request")
	// The rest is said to the client.
	for _, c := range []struct {
		what   string
		change map[string]string
		want   string
	}{
		{"no PKCE", map[string]string{"code_challenge": ""}, "invalid_request"},
		{"plain PKCE", map[string]string{"code_challenge_method": "plain"}, "invalid_request"},
		{"PKCE without a method", map[string]string{"code_challenge_method": ""}, "invalid_request"},
		{"short PKCE", map[string]string{"code_challenge": "abc"}, "invalid_request"},
		{"token", map[string]string{"response_type": "token"}, "unsupported_response_type"},
		{"no response type", map[string]string{"response_type": ""}, "invalid_request"},
		{"no scope", map[string]string{"scope": ""}, "invalid_scope"},
		{"no device", map[string]string{"scope": "urn:matrix:client:api:*"}, "invalid_scope"},
		{"no API", map[string]string{"scope": "urn:matrix:client:device:ABCDEFGHIJ"}, "invalid_scope"},
		{"two devices", map[string]string{"scope": goodScope + " urn:matrix:client:device:OTHER"}, "invalid_scope"},
		{"two devices in two spellings", map[string]string{"scope": goodScope + " urn:matrix:org.matrix.msc2967.client:device:OTHER"}, "invalid_scope"},
		{"empty device", map[string]string{"scope": "urn:matrix:client:api:* urn:matrix:client:device:"}, "invalid_scope"},
		{"odd characters", map[string]string{"scope": "urn:matrix:client:api:* urn:matrix:client:device:A\"B"}, "invalid_scope"},
		{"form_post", map[string]string{"response_mode": "form_post"}, "invalid_request"},
		{"request object", map[string]string{"request": "x"}, "request_not_supported"},
	} {
		back := p.answered(browser.get(p.request(c.change)).leads())
		if back.Get("error") != c.want || back.Get("state") != "the state" || back.Get("code") != "" {
			t.Errorf("%s: the client gets %v, want %s", c.what, back, c.want)
		}
	}
	page := browser.get(p.request(nil)).is(200)
	if back := p.answered(browser.submit(page, url.Values{"decision": {"deny"}}).leads()); back.Get("error") != "access_denied" {
		t.Errorf("denied: the client gets %v", back)
	}
	if back := p.answered(s.visitor().get(p.request(map[string]string{"prompt": "none"})).leads()); back.Get("error") != "login_required" {
		t.Errorf("prompt=none: the client gets %v", back)
	}
	// A form of another browser, or of none, is not believed.
	thief := s.visitor()
	thief.signIn("alice")
	thief.submit(page, url.Values{"decision": {"allow"}}).is(403)
	browser.submit(page, url.Values{"decision": {"allow"}, "csrf": {""}}).is(403)
	// Any port of the own machine; and the answer in the query.
	p.redirect = "http://127.0.0.1:5173/back"
	if code := p.allowed(browser, map[string]string{"response_mode": ""}); p.trade(map[string]string{"code": code}).code != 200 {
		t.Error("a client on the own machine was not let in")
	}
}

func TestOAuthOldScopes(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	const old = "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:OLDSPELLED"
	a := p.trade(map[string]string{"code": p.allowed(browser, map[string]string{"scope": "openid " + old})}).is(200)
	if a.json("scope") != old {
		t.Errorf("scope: got %q, want %q", a.json("scope"), old)
	}
	if who := s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).ok(); who.str("device_id") != "OLDSPELLED" {
		t.Errorf("device: got %s", who.body.Raw)
	}
}

func TestOAuthRevocationAndIntrospection(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	p, browser := s.program(nil), s.visitor()
	browser.signIn("alice")
	introspect := func(token, secret string) *seen {
		t.Helper()
		req, err := http.NewRequest("POST", publicOAuth+"/oauth2/introspect", strings.NewReader(url.Values{"token": {token}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", formType)
		if secret != "" {
			req.Header.Set("Authorization", "Bearer "+secret)
		}
		return p.send(req)
	}
	for _, kind := range []string{"access_token", "refresh_token"} {
		a := p.trade(map[string]string{"code": p.allowed(browser, nil)}).is(200)
		introspect(a.json("access_token"), "").oauthError(401, "invalid_client")
		introspect(a.json("access_token"), "a wrong secret").oauthError(401, "invalid_client")
		about := introspect(a.json("access_token"), "a secret of the house").is(200)
		if about.json("active") != "true" || about.json("sub") != "@alice:interior" || about.json("scope") != goodScope || about.json("client_id") != p.id {
			t.Errorf("introspection: got %s", about.text)
		}
		if got := introspect(a.json("refresh_token"), "a secret of the house").is(200).text; got != `{"active":false}` {
			t.Errorf("introspection of a refresh token: got %s", got)
		}
		p.post("/oauth2/revoke", url.Values{"token": {a.json(kind)}, "token_type_hint": {kind}, "client_id": {p.id}}).is(200)
		s.do(a.json("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
		p.refresh(a.json("refresh_token")).oauthError(400, "invalid_grant")
		if got := introspect(a.json("access_token"), "a secret of the house").is(200).text; got != `{"active":false}` {
			t.Errorf("introspection of a revoked token: got %s", got)
		}
		p.post("/oauth2/revoke", url.Values{"token": {a.json(kind)}}).is(200) // it is so already
	}
	p.post("/oauth2/revoke", url.Values{}).oauthError(400, "invalid_request")
}

func TestOAuthDeviceGrant(t *testing.T) {
	s := start(t, oauthConfig())
	s.register("alice")
	p, browser := s.program(nil), s.visitor()
	s.program(map[string]any{"grant_types": []string{"authorization_code"}}).post("/oauth2/device", url.Values{"client_id": {"nobody"}, "scope": {goodScope}}).oauthError(401, "invalid_client")
	p.post("/oauth2/device", url.Values{"client_id": {p.id}, "scope": {"urn:matrix:client:api:*"}}).oauthError(400, "invalid_scope")
	begin := func() *seen {
		return p.post("/oauth2/device", url.Values{"client_id": {p.id}, "scope": {goodScope}}).is(200)
	}
	poll := func(a *seen) *seen {
		return p.post("/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {p.id}, "device_code": {a.json("device_code")}})
	}
	a := begin()
	if a.json("verification_uri") != publicOAuth+"/account/link" || a.json("interval") != "5" || len(a.json("user_code")) != 9 {
		t.Errorf("got %s", a.text)
	}
	poll(a).oauthError(400, "authorization_pending")
	poll(a).oauthError(400, "slow_down")
	poll(&seen{t: t, text: `{"device_code":"chd_none"}`}).oauthError(400, "invalid_grant")
	// The link leads through the sign-in to the question.
	login := browser.get(a.json("verification_uri_complete")).leads()
	next := browser.submit(browser.get(login).is(200), url.Values{"username": {"alice"}, "password": {"password of alice"}}).leads()
	browser.submit(browser.get(next).is(200).contains(a.json("user_code")), url.Values{"decision": {"allow"}}).is(200).contains("The device is let in")
	tokens := poll(a).is(200)
	s.do(tokens.json("access_token"), "GET", v3+"/account/whoami", nil).ok()
	poll(a).oauthError(400, "invalid_grant")
	browser.get(a.json("verification_uri_complete")).is(404)

	// Refused, and typed in small letters.
	b := begin()
	page := browser.get("/account/link?user_code=" + strings.ToLower(strings.ReplaceAll(b.json("user_code"), "-", ""))).is(200)
	browser.submit(page, url.Values{"decision": {"deny"}}).is(200).contains("The device stays out")
	poll(b).oauthError(400, "access_denied")
	browser.get("/account/link?user_code=BBBB-BBBB").is(404).contains("no device with this code")
}

func TestOAuthRegistration(t *testing.T) {
	s := start(t, oauthConfig())
	p, browser := s.program(nil), s.visitor()
	to := browser.get(p.request(map[string]string{"prompt": "create"})).leads()
	page := browser.get(to).is(200).contains("Create your account")
	browser.submit(page, url.Values{"username": {"bob"}, "password": {"a long password"}, "again": {"another"}}).is(400).contains("differ")
	browser.submit(page, url.Values{"username": {"postmaster"}, "password": {"a long password"}, "again": {"a long password"}}).is(400).contains("is taken")
	browser.submit(page, url.Values{"username": {"bob"}, "password": {"short"}, "again": {"short"}}).is(400).contains("too short")
	next := browser.submit(page, url.Values{"username": {"bob"}, "password": {"a long password"}, "again": {"a long password"}}).leads()
	browser.get(next).is(200).contains("@bob:interior")
	s.do("", "POST", v3+"/login", loginBody("bob", "a long password")).ok()
	s.visitor().submit(page, url.Values{"username": {"bob"}, "password": {"a long password"}, "again": {"a long password"}}).is(403)

	// Closed, and with a token.
	cfg := oauthConfig()
	cfg.Account.OpenRegistration = false
	s = start(t, cfg)
	s.visitor().get("/account/register").is(200).contains("Registration is closed")
	if got := s.do("", "GET", "/_matrix/client/v1/auth_metadata", nil).ok().body.Get("prompt_values_supported").Raw; got != "" {
		t.Errorf("prompt values of a closed server: got %s, want none", got)
	}
	token, err := s.api.Accounts().NewRegistrationToken(t.Context(), 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	browser = s.visitor()
	page = browser.get("/account/register").is(200).contains("Registration token")
	with := func(name, token string) *seen {
		return browser.submit(page, url.Values{"username": {name}, "token": {token}, "password": {"a long password"}, "again": {"a long password"}})
	}
	with("carol", "wrong").is(403).contains("token is not valid")
	with("carol", token).leads()
	page = s.visitor().get("/account/register").is(200)
	browser = s.visitor()
	page = browser.get("/account/register").is(200)
	with("dora", token).is(403)
}
