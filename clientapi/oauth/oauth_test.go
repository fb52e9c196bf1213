package oauth

import (
	"bytes"
	"encoding/json"
	"html/template"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// TestClientsAreJudged holds what the specification says of client metadata, with its own examples.
// Spec: client-server-api/#redirect-uri-validation
func TestClientsAreJudged(t *testing.T) {
	type change map[string]any
	for _, c := range []struct {
		what   string
		change change
		want   string // the error, or empty
	}{
		{"the example", change{}, ""},
		{"subdomain", change{"redirect_uris": []string{"https://app.example.com/callback"}}, ""},
		{"port and query", change{"redirect_uris": []string{"https://example.com:5173/?query=value"}}, ""},
		{"fragment", change{"redirect_uris": []string{"https://example.com/callback#fragment"}}, invalidRedirect},
		{"empty fragment", change{"redirect_uris": []string{"https://example.com/callback#"}}, invalidRedirect},
		{"http", change{"redirect_uris": []string{"http://example.com/callback"}}, invalidRedirect},
		{"web client on the own machine", change{"redirect_uris": []string{"http://localhost/"}}, invalidRedirect},
		{"another host", change{"redirect_uris": []string{"https://evil.com/callback"}}, invalidRedirect},
		{"a host that ends like it", change{"redirect_uris": []string{"https://notexample.com/callback"}}, invalidRedirect},
		{"user in the address", change{"redirect_uris": []string{"https://u:p@example.com/callback"}}, invalidRedirect},
		{"web client with a scheme of its own", change{"redirect_uris": []string{"com.example.app:/callback"}}, invalidRedirect},
		{"script", change{"redirect_uris": []string{"javascript:alert(1)"}, "application_type": "native"}, invalidRedirect},
		{"one of two", change{"redirect_uris": []string{"https://example.com/callback", "https://evil.com/"}}, invalidRedirect},
		{"none", change{"redirect_uris": []string{}}, invalidRedirect},
		{"none, for devices alone", change{"redirect_uris": nil, "grant_types": []string{grantDevice, grantRefresh}}, ""},

		{"native: scheme with a slash", change{"redirect_uris": []string{"com.example.app:/callback"}, "application_type": "native"}, ""},
		{"native: scheme alone", change{"redirect_uris": []string{"com.example:/"}, "application_type": "native"}, ""},
		{"native: no slash", change{"redirect_uris": []string{"com.example:callback"}, "application_type": "native"}, ""},
		{"native: localhost", change{"redirect_uris": []string{"http://localhost/callback"}, "application_type": "native"}, ""},
		{"native: 127.0.0.1", change{"redirect_uris": []string{"http://127.0.0.1/callback"}, "application_type": "native"}, ""},
		{"native: [::1]", change{"redirect_uris": []string{"http://[::1]/callback"}, "application_type": "native"}, ""},
		{"native: claimed https", change{"redirect_uris": []string{"https://example.com/callback"}, "application_type": "native"}, ""},
		{"native: another scheme", change{"redirect_uris": []string{"example:/callback"}, "application_type": "native"}, invalidRedirect},
		{"native: scheme that begins like it", change{"redirect_uris": []string{"com.examples:/callback"}, "application_type": "native"}, invalidRedirect},
		{"native: authority", change{"redirect_uris": []string{"com.example.app://callback"}, "application_type": "native"}, invalidRedirect},
		{"native: https on the own machine", change{"redirect_uris": []string{"https://localhost/callback"}, "application_type": "native"}, invalidRedirect},
		{"native: port", change{"redirect_uris": []string{"http://localhost:1234/callback"}, "application_type": "native"}, invalidRedirect},
		{"native: http elsewhere", change{"redirect_uris": []string{"http://example.com/callback"}, "application_type": "native"}, invalidRedirect},

		{"no client_uri", change{"client_uri": nil}, invalidMetadata},
		{"client_uri by http", change{"client_uri": "http://example.com/"}, invalidMetadata},
		{"client_uri with a user", change{"client_uri": "https://u@example.com/"}, invalidMetadata},
		{"logo elsewhere", change{"logo_uri": "https://evil.com/logo.png"}, invalidMetadata},
		{"terms by http", change{"tos_uri": "http://example.com/tos"}, invalidMetadata},
		{"policy on a subdomain", change{"policy_uri": "https://www.example.com/policy"}, ""},
		{"a secret", change{"token_endpoint_auth_method": "client_secret_basic"}, invalidMetadata},
		{"no auth method", change{"token_endpoint_auth_method": nil}, ""},
		{"another type", change{"application_type": "toaster"}, invalidMetadata},
		{"only answers that we do not know", change{"response_types": []string{"token"}}, invalidMetadata},
		{"only grants that we do not know", change{"grant_types": []string{"password"}}, invalidMetadata},
		{"grants that we do not know too", change{"grant_types": []string{grantCode, grantRefresh, "urn:ietf:params:oauth:grant-type:token-exchange"}}, ""},
		{"long name", change{"client_name": strings.Repeat("x", 201)}, invalidMetadata},
	} {
		metadata := change{
			"client_name": "My App", "client_uri": "https://example.com/", "logo_uri": "https://example.com/logo.png", "redirect_uris": []string{"https://example.com/callback"},
			"token_endpoint_auth_method": "none", "response_types": []string{"code"}, "grant_types": []string{grantCode, grantRefresh}, "application_type": "web",
		}
		for name, value := range c.change {
			if metadata[name] = value; value == nil {
				delete(metadata, name)
			}
		}
		raw, err := json.Marshal(metadata)
		if err != nil {
			t.Fatal(err)
		}
		var given client
		if err := json.Unmarshal(raw, &given); err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := (&Handlers{}).checkClient(&given); err != nil {
			got = err.(*failure).Code
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
		if got == "" && given.may("urn:ietf:params:oauth:grant-type:token-exchange") {
			t.Errorf("%s: a grant was registered that there is not", c.what)
		}
	}
}

func TestTypedCodes(t *testing.T) {
	for typed, want := range map[string]string{
		"BCDF-GHJK": "BCDFGHJK", "bcdfghjk": "BCDFGHJK", " bcdf ghjk ": "BCDFGHJK", "BCDF–GHJK": "BCDFGHJK",
		"": "", "BCDFGHJ": "", "BCDFGHJKL": "", "ABCDEFGH": "", "BCDF-GHJ1": "", strings.Repeat("-", 1000): "",
	} {
		if got := typedCode(typed); got != want {
			t.Errorf("%q: got %q, want %q", typed, got, want)
		}
	}
	for range 1000 {
		if code := newUserCode(); typedCode(shownCode(code)) != code {
			t.Fatalf("the code %q cannot be typed", code)
		}
	}
}

func TestAfterSignInNobodyLeavesTheHouse(t *testing.T) {
	for next, want := range map[string]string{
		"/account?action=x": "/account?action=x", "/oauth2/authorize?a=b": "/oauth2/authorize?a=b", "/account/link?user_code=X": "/account/link?user_code=X",
		"": "/account", "https://evil.example/": "/account", "//evil.example/account": "/account", `/\evil.example`: "/account", "/account/logout": "/account",
		"javascript:alert(1)": "/account", "/_matrix/client/v3/logout": "/account", "/account#x": "/account", "http:/account": "/account",
	} {
		if got := local(next); got != want {
			t.Errorf("%q: got %q, want %q", next, got, want)
		}
	}
}

// TestTextsAreWhole holds that each language has each text with the same blanks, and that the pages use no other.
func TestTextsAreWhole(t *testing.T) {
	all := texts()
	for _, lang := range languages {
		for name, text := range all["en"] {
			other := all[lang][name]
			if other == "" || strings.Count(other, "%s") != strings.Count(text, "%s") {
				t.Errorf("%s: %s is %q, want words for %q", lang, name, other, text)
			}
		}
		if len(all[lang]) != len(all["en"]) {
			t.Errorf("%s has %d texts, want %d", lang, len(all[lang]), len(all["en"]))
		}
	}
	files, err := pageFiles.ReadDir("pages")
	if err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`\.T "([^"]+)"`)
	for _, f := range files {
		raw, err := pageFiles.ReadFile("pages/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range used.FindAllStringSubmatch(string(raw), -1) {
			if all["en"][m[1]] == "" {
				t.Errorf("%s says %q, for which there are no words", f.Name(), m[1])
			}
		}
	}
	for _, name := range []string{"error.form", "error.client", "error.redirect", "error.request", "error.provider", "link.allowed", "link.denied", "deactivate.done", "signout"} {
		if all["en"][name+".title"] == "" || all["en"][name+".text"] == "" {
			t.Errorf("%s has no title or no text", name)
		}
	}
}

// TestNamesCannotBreakPages puts what strangers say of themselves into a page.
func TestNamesCannotBreakPages(t *testing.T) {
	p := &page{
		name: "consent", texts: texts()["en"], Server: "x", User: "@alice:x", Name: `<script>alert("x")</script>`,
		Client: &client{Name: `"><img src=x onerror=alert(1)>`, URI: "javascript:alert(1)", PolicyURI: "javascript:alert(2)"},
	}
	var out bytes.Buffer
	if err := pageTemplates["consent"].ExecuteTemplate(&out, "frame", p); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<img", `href="javascript`, `="javascript:`} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("the page holds %q:\n%s", bad, out.String())
		}
	}
	if !strings.Contains(out.String(), template.HTMLEscapeString("<script>")) {
		t.Error("the page does not show the name")
	}
}

// FuzzRedirect: whatever a native client registers, a browser is led to its own addresses alone.
func FuzzRedirect(f *testing.F) {
	for _, seed := range []string{"com.example.app:/callback", "http://127.0.0.1/x", "https://example.com/", "com.example.app://x", "http://[::1]/", "https://example.com@evil.com/", "https://example.com:443#"} {
		f.Add(seed, seed)
	}
	h := &Handlers{}
	base := &url.URL{Scheme: "https", Host: "example.com"}
	f.Fuzz(func(t *testing.T, registered, asked string) {
		if !h.mayRedirect(base, nativeClient, registered) || !comesBackTo(registered, asked) {
			return
		}
		u, err := url.Parse(asked)
		if err != nil {
			t.Fatalf("%q leads to %q, which is no address", registered, asked)
		}
		switch {
		case u.Scheme == "https" && (strings.EqualFold(u.Hostname(), "example.com") || strings.HasSuffix(strings.ToLower(u.Hostname()), ".example.com")) && u.User == nil:
		case u.Scheme == "http" && (u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1" || u.Hostname() == "::1") && u.User == nil:
		case strings.HasPrefix(strings.ToLower(asked), "com.example") && u.Host == "":
		default:
			t.Fatalf("%q leads to %q", registered, asked)
		}
	})
}

// FuzzScope: what is granted is part of what was asked for, and names one device.
func FuzzScope(f *testing.F) {
	for _, seed := range []string{"urn:matrix:client:api:* urn:matrix:client:device:ABC", "openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:X", "urn:matrix:client:device:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseScope(text)
		if err != nil {
			return
		}
		if !within(s.text, text) || s.device == "" || len(s.device) > 255 || !strings.Contains(s.text, string(s.device)) {
			t.Fatalf("%q: granted %q for %q", text, s.text, s.device)
		}
		again, err := parseScope(s.text)
		if err != nil || again != s {
			t.Fatalf("%q: granted %+v, and then %+v, %v", text, s, again, err)
		}
	})
}
