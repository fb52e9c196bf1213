package clientapi

import (
	"context"
	"testing"

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
