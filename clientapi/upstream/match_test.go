package upstream

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestRewritten(t *testing.T) {
	rules := []RewriteRule{{Match: "@old.example", Search: "@new.example"}, {Match: "@NEW.example", Search: "@newest.example"}, {Match: "@broken.example", Search: ""}}
	for email, want := range map[string][]string{
		"anna@old.example":    {"anna@old.example", "anna@new.example"},
		"anna@new.example":    {"anna@new.example", "anna@newest.example"},
		"anna@other.example":  {"anna@other.example"},
		"anna@broken.example": {"anna@broken.example"},
	} {
		if got := rewritten(email, rules); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", email, got, want)
		}
	}
}

func TestPerson(t *testing.T) {
	base := ProviderConfig{ID: "p", Name: "P", Issuer: "https://p", ClientID: "c"}
	cases := []struct {
		name   string
		change func(*ProviderConfig)
		claims string
		want   person
		reason Reason
	}{
		{"names of the address", nil, `{"email":"Anna.Blanc@Example.com","email_verified":true}`, person{"s", "anna.blanc@example.com", "anna.blanc-example.com", "Anna Blanc [Example]"}, ""},
		{"verified as text", nil, `{"email":"a@b.c","email_verified":"true"}`, person{"s", "a@b.c", "a-b.c", "A [B]"}, ""},
		{"unverified", nil, `{"email":"a@b.c","email_verified":false}`, person{}, ReasonEmail},
		{"verified not said", nil, `{"email":"a@b.c"}`, person{}, ReasonEmail},
		{"trusted", func(c *ProviderConfig) { c.TrustEmail = true }, `{"email":"a@b.c"}`, person{"s", "a@b.c", "a-b.c", "A [B]"}, ""},
		{"no address", nil, `{"email_verified":true}`, person{}, ReasonEmail},
		{"two addresses", nil, `{"email":"a@b.c,d@e.f","email_verified":true}`, person{}, ReasonEmail},
		{"optional", func(c *ProviderConfig) {
			c.EmailOptional, c.Localpart, c.DisplayName = true, "{{.preferred_username}}", "{{.given_name}} {{.family_name}}"
		},
			`{"email":"a@b.c","preferred_username":"Anna","given_name":"Anna"}`, person{"s", "", "anna", "Anna"}, ""},
		{"nested and other claims", func(c *ProviderConfig) {
			c.TrustEmail, c.Email, c.DisplayName = true, "{{.mail}}", `{{index . "org.name"}}`
		},
			`{"mail":"x@y.z","org":{"name":"Finance"}}`, person{"s", "x@y.z", "x-y.z", "Finance"}, ""},
		{"required and there", func(c *ProviderConfig) { c.Require = map[string]string{"groups": "staff"} }, `{"email":"a@b.c","email_verified":true,"groups":["x","staff"]}`, person{"s", "a@b.c", "a-b.c", "A [B]"}, ""},
		{"required and not there", func(c *ProviderConfig) { c.Require = map[string]string{"groups": "staff"} }, `{"email":"a@b.c","email_verified":true,"groups":["staffers"]}`, person{}, ReasonClaims},
	}
	for _, c := range cases {
		cfg := base
		if c.change != nil {
			c.change(&cfg)
		}
		cfg = cfg.settled()
		names, err := newMapping(cfg, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		who := &identity{subject: "s", claims: claims{}}
		if err := who.claims.add([]byte(c.claims)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got, err := (&provider{cfg: cfg, names: names}).person(who)
		refusal, _ := err.(*Refusal)
		switch {
		case c.reason != "" && (refusal == nil || refusal.Reason != c.reason):
			t.Errorf("%s: got %v, want %s", c.name, err, c.reason)
		case c.reason == "" && (err != nil || *got != c.want):
			t.Errorf("%s: got %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestTrusted(t *testing.T) {
	p, err := New(Config{TrustedClients: []string{"https://app.example/element", "io.element.desktop:"}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"https://app.example/element":             true,
		"https://APP.example/element/?x=1#/":      true,
		"https://app.example/elements":            false,
		"https://app.example/element/../evil":     false,
		"https://app.example/element/%2e%2e/evil": false,
		"https://app.example.evil/element":        false,
		"https://app.example@evil/element":        false,
		"https://user@app.example/element":        false,
		"http://app.example/element":              false,
		"https://app.example:444/element":         false,
		"io.element.desktop://sso":                true,
		"io.element.desktop:/vector/webapp/":      true,
		"io.element.desktops:/":                   false,
	} {
		to, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Trusted(to); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

func TestConfigRefusesWhatCannotWork(t *testing.T) {
	good := ProviderConfig{ID: "p", Name: "P", Issuer: "https://p.example/realms/x", ClientID: "c"}
	if _, err := New(Config{Providers: []ProviderConfig{good}}, Deps{}); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	for name, change := range map[string]func(*ProviderConfig){
		"no id":                 func(c *ProviderConfig) { c.ID = "" },
		"a path for an id":      func(c *ProviderConfig) { c.ID = "a/b" },
		"no name":               func(c *ProviderConfig) { c.Name = " " },
		"no issuer":             func(c *ProviderConfig) { c.Issuer = "" },
		"an issuer of no kind":  func(c *ProviderConfig) { c.Issuer = "ftp://p.example" },
		"no client":             func(c *ProviderConfig) { c.ClientID = "" },
		"scopes without openid": func(c *ProviderConfig) { c.Scopes = []string{"email"} },
		"a template":            func(c *ProviderConfig) { c.Localpart = "{{.sub" },
		"a word of none":        func(c *ProviderConfig) { c.OnConflict = "steal" },
		"our own parameter":     func(c *ProviderConfig) { c.Parameters = map[string]string{"state": "x"} },
	} {
		bad := good
		change(&bad)
		if _, err := New(Config{Providers: []ProviderConfig{bad}}, Deps{}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, err := New(Config{Providers: []ProviderConfig{good, good}}, Deps{}); err == nil {
		t.Error("two of one name: got no error")
	}
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"email":"a@b.c","groups":["x",["y"]],"o":{"i":{"j":1}},"n":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := claims{}
		if c.add(raw) == nil && len(raw) > maxClaims {
			t.Errorf("%d bytes of claims were taken", len(raw))
		}
	})
}

func TestOnlyOurOwnCookieIsBelieved(t *testing.T) {
	for _, c := range []struct {
		public, name string
		want         bool
	}{
		{"https://matrix.example", "__Host-chancery_browser", true},
		{"https://matrix.example", "chancery_browser", false},
		{"http://127.0.0.1:8008", "chancery_browser", true},
	} {
		p, err := New(Config{PublicURL: c.public}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: c.name, Value: rand.Text()})
		if got := p.cookieOf(r) != ""; got != c.want {
			t.Errorf("%s at %s: got %v, want %v", c.name, c.public, got, c.want)
		}
		header := http.Header{}
		p.browser(httptest.NewRequest("GET", "/", nil), header)
		if got := header.Get("Set-Cookie"); strings.Contains(got, "; Secure") != strings.HasPrefix(c.public, "https:") || !strings.Contains(got, "; HttpOnly") {
			t.Errorf("%s sets %q", c.public, got)
		}
	}
}
