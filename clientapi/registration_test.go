package clientapi

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/storage"
)

func TestRegistrationIsClosedUntilSomebodyMakesAToken(t *testing.T) {
	cfg := testConfig()
	cfg.Account.OpenRegistration = false
	s := start(t, cfg)
	s.do("", "POST", v3+"/register", `{}`).fails(403, "M_FORBIDDEN")
	s.do("", "GET", v3+"/register/available?username=alice", nil).fails(403, "M_FORBIDDEN")
	if err := s.store.Do(t.Context(), func(ctx context.Context) error {
		return s.store.RegistrationTokens.Put(ctx, storage.RegistrationToken{Token: "T", Allowed: 1})
	}); err != nil {
		t.Fatal(err)
	}
	if a := s.do("", "POST", v3+"/register", `{}`); a.code != 401 || a.str("flows.#.stages") != `[["m.login.registration_token"]]` {
		t.Errorf("with a token: got %d %s", a.code, a.body.Raw)
	}
}

func TestTermsAreAcceptedAtRegistration(t *testing.T) {
	cfg := testConfig()
	cfg.Account.Terms = []account.Terms{{Name: "privacy_policy", Version: "1.2", Languages: map[string]account.TermsText{
		"en": {Title: "Privacy", URL: "https://interior/privacy"}, "fr": {Title: "Confidentialité", URL: "https://interior/confidentialite"},
	}}}
	s := start(t, cfg)
	body := map[string]any{"username": "alice", "password": "password of alice"}
	first := s.do("", "POST", v3+"/register", body)
	policy := first.body.Get(`params.m\.login\.terms.policies.privacy_policy`)
	if first.code != 401 || first.str("flows.0.stages") != `["m.login.terms"]` || policy.Get("version").Str != "1.2" ||
		policy.Get("fr.name").Str != "Confidentialité" || policy.Get("en.url").Str != "https://interior/privacy" {
		t.Fatalf("got %d %s", first.code, first.body.Raw)
	}
	body["auth"] = map[string]string{"type": "m.login.dummy", "session": first.str("session")}
	s.do("", "POST", v3+"/register", body).fails(401, "M_FORBIDDEN")
	body["auth"] = map[string]string{"type": "m.login.terms", "session": first.str("session")}
	s.do("", "POST", v3+"/register", body).ok()
}

func TestNamesThatNobodyChooses(t *testing.T) {
	cfg := testConfig()
	cfg.Account.ReservedNames = []string{"postmaster", "gouv-*"}
	s := start(t, cfg)
	for name, errcode := range map[string]string{
		"12345": "M_INVALID_USERNAME", "postmaster": "M_USER_IN_USE", "Postmaster": "M_USER_IN_USE", "gouv-fr": "M_USER_IN_USE", "_server": "M_EXCLUSIVE",
	} {
		s.do("", "POST", v3+"/register", map[string]any{"username": name, "password": "long enough", "auth": map[string]string{"type": "m.login.dummy"}}).fails(400, errcode)
		s.do("", "GET", v3+"/register/available?username="+name, nil).fails(400, errcode)
	}
	s.register("gouv")
}

func TestPasswordPolicyIsTold(t *testing.T) {
	cfg := testConfig()
	cfg.Account.PasswordLength, cfg.Account.PasswordNeeds = 12, []string{"digit", "uppercase"}
	s := start(t, cfg)
	for _, path := range []string{v3 + "/password_policy", "/_matrix/client/r0/password_policy", "/_matrix/client/unstable/org.matrix.msc2000/password_policy"} {
		got := s.do("", "GET", path, nil).ok().body.Raw
		if want := `{"m.minimum_length":12,"m.require_digit":true,"m.require_uppercase":true}`; got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

// TestNamesComeFromAddresses registers people who do not choose: the second of a name gets a number.
func TestNamesComeFromAddresses(t *testing.T) {
	s, box := withMail(t, func(cfg *Config) {
		cfg.Account.OpenRegistration, cfg.Account.EmailRegistration = false, true
		cfg.Account.NamesFromEmail, cfg.Account.NameSuffixes = true, []string{"gouv.fr"}
	})
	for address, want := range map[string]string{"Anna.Blanc+1@culture.gouv.fr": "Anna Blanc+1 [Culture]", "anna.blanc1@culture.gouv.fr": "Anna Blanc1 [Culture]"} {
		// Whose name is taken is told to nobody who has not proved an address.
		s.do("", "GET", v3+"/register/available?username=anna.blanc1-culture.gouv.fr", nil).ok()
		body := map[string]any{"username": "minister", "password": "password of anna"}
		flows := s.do("", "POST", v3+"/register", body)
		sid := s.do("", "POST", v3+"/register/email/requestToken", tokenBody(address, "s", 1)).ok().str("sid")
		s.press(box.next().link(t))
		body["auth"] = proofOf(sid, "s", flows.str("session"))
		user := s.do("", "POST", v3+"/register", body).ok().str("user_id")
		if user != "@anna.blanc1-culture.gouv.fr:interior" && user != "@anna.blanc1-culture.gouv.fr1:interior" {
			t.Errorf("%s: got %s", address, user)
		}
		if got := strings.ToLower(s.do("", "GET", v3+"/profile/"+user, nil).ok().str("displayname")); got != strings.ToLower(want) {
			t.Errorf("%s: got the name %q, want %q", address, got, want)
		}
	}
	for _, user := range []id.UserID{"@anna.blanc1-culture.gouv.fr:interior", "@anna.blanc1-culture.gouv.fr1:interior"} {
		if a, err := s.store.Accounts.ByID(t.Context(), user); err != nil || a == nil {
			t.Errorf("%s: got %v %v, want both of them", user, a, err)
		}
	}
}

// TestTermsHaveAPage accepts them as a client does that does not know the stage itself.
func TestTermsHaveAPage(t *testing.T) {
	cfg := testConfig()
	cfg.Account.Terms = []account.Terms{
		{Name: "privacy_policy", Version: "1.2", Languages: map[string]account.TermsText{
			"en": {Title: "Privacy", URL: "https://interior/privacy"}, "fr": {Title: "Confidentialité", URL: "https://interior/confidentialite"},
		}},
		{Name: "conditions", Version: "3", Languages: map[string]account.TermsText{"nl": {Title: "Voorwaarden", URL: "https://interior/voorwaarden"}}},
	}
	s := start(t, cfg)
	body := map[string]any{"username": "alice", "password": "password of alice"}
	session := s.do("", "POST", v3+"/register", body).str("session")
	at := s.url + v3 + "/auth/m.login.terms/fallback/web"
	for lang, want := range map[string][]string{"fr-FR,en;q=0.5": {"Confidentialité", "Voorwaarden", "Accepter", `lang="fr"`}, "de": {"Privacy", "Voorwaarden", "Annehmen"}} {
		req, err := http.NewRequest("GET", at+"?session="+session, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Language", lang)
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range want {
			if !strings.Contains(string(page), word) {
				t.Errorf("%s: got %s, want %q in it", lang, page, word)
			}
		}
	}
	body["auth"] = map[string]string{"session": session}
	if a := s.do("", "POST", v3+"/register", body); a.code != 401 {
		t.Fatalf("before the terms: got %d %s", a.code, a.body.Raw)
	}
	answer, err := http.PostForm(at, url.Values{"session": {session}})
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != 200 || !strings.Contains(string(page), "authDone") {
		t.Fatalf("accepted: got %d %s %v", answer.StatusCode, page, err)
	}
	s.do("", "POST", v3+"/register", body).ok()
	s.do("", "GET", v3+"/auth/m.login.recaptcha/fallback/web?session="+s.do("", "POST", v3+"/register", map[string]any{}).str("session"), nil).fails(404, "M_UNRECOGNIZED")
}
