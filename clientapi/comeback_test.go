package clientapi

import (
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/upstream"
)

// signUp registers with an e-mail address, the whole way.
func (s *testServer) signUp(box *postbox, name, address, secret string) *answer {
	s.t.Helper()
	body := map[string]any{"username": name, "password": "password of " + name}
	session := s.do("", "POST", v3+"/register", body).str("session")
	sid := s.do("", "POST", v3+"/register/email/requestToken", tokenBody(address, secret, 1)).ok().str("sid")
	if code, page := s.press(box.next().link(s.t)); code != 200 {
		s.t.Fatalf("confirm: got %d %s", code, page)
	}
	body["auth"] = proofOf(sid, secret, session)
	return s.do("", "POST", v3+"/register", body)
}

func TestClosedAccountsComeBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		on    bool
		close func(root, alice *user)
		want  id.UserID
	}{
		{"closed", true, func(_, alice *user) { alice.do("POST", v3+"/account/deactivate", alice.confirm(nil, "")).ok() }, "@alice:interior"},
		{"closed by an administrator", true, func(root, alice *user) {
			root.do("PUT", adminAPI+"/v1/users/"+string(alice.ID)+"/admin", `{"admin":true}`).ok()
			root.do("POST", adminAPI+"/v1/deactivate/"+string(alice.ID), "{}").ok()
		}, "@alice:interior"},
		{"erased", true, func(_, alice *user) {
			alice.do("POST", v3+"/account/deactivate", alice.confirm(map[string]any{"erase": true}, "")).ok()
		}, "@alicia:interior"},
		{"locked before", true, func(root, alice *user) {
			root.do("PUT", "/_matrix/client/v1/admin/lock/"+string(alice.ID), `{"locked":true}`).ok()
			root.do("POST", adminAPI+"/v1/deactivate/"+string(alice.ID), "{}").ok()
		}, "@alicia:interior"},
		{"switched off", false, func(_, alice *user) { alice.do("POST", v3+"/account/deactivate", alice.confirm(nil, "")).ok() }, "@alicia:interior"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, box := withMail(t, func(cfg *Config) {
				cfg.Account.EmailRegistration, cfg.Account.Reactivation = true, c.on
				cfg.Account.Validity.Period = longPeriod
			})
			root := s.administrator("root")
			a := s.signUp(box, "alice", "alice@example.org", "s1").ok()
			alice := &user{testServer: s, ID: id.UserID(a.str("user_id")), Token: a.str("access_token")}
			c.close(root, alice)
			s.do("", "POST", v3+"/login", loginBody("alice", "password of alice")).fails(403, "M_FORBIDDEN")
			back := s.signUp(box, "alicia", "alice@example.org", "s2").ok()
			if got := id.UserID(back.str("user_id")); got != c.want {
				t.Fatalf("who registers with the address: got %s, want %s", got, c.want)
			}
			again := &user{testServer: s, ID: c.want, Token: back.str("access_token")}
			if got := again.do("GET", v3+"/account/whoami", nil).ok().str("user_id"); got != string(c.want) {
				t.Errorf("the session is %s's, want %s's", got, c.want)
			}
			if got := again.do("GET", v3+"/account/3pid", nil).ok().str("threepids.0.address"); got != "alice@example.org" {
				t.Errorf("address: got %q", got)
			}
			if shown := root.do("GET", adminAPI+"/v2/users/"+string(c.want), nil).ok(); shown.body.Get("admin").Bool() || shown.body.Get("displayname").String() != "alicia" {
				t.Errorf("shown: got %s, want alicia, who is no administrator", shown.body.Raw)
			}
			if root.validUntil(c.want).IsZero() {
				t.Error("the account has no end")
			}
			s.do("", "POST", v3+"/login", loginBody(c.want.Localpart(), "password of alicia")).ok()
			alice.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
		})
	}
}

// TestOpenAccountsWin closes an account whose address has become another's.
func TestOpenAccountsWin(t *testing.T) {
	s, box := withMail(t, func(cfg *Config) {
		cfg.Account.EmailRegistration, cfg.Account.Reactivation = true, true
	})
	root := s.administrator("root")
	s.signUp(box, "alice", "alice@example.org", "s1").ok()
	root.do("POST", adminAPI+"/v1/deactivate/@alice:interior", "{}").ok()
	root.do("PUT", adminAPI+"/v2/users/@bob:interior", `{"threepids":[{"medium":"email","address":"alice@example.org"}]}`)
	s.do("", "POST", v3+"/register/email/requestToken", tokenBody("alice@example.org", "s2", 1)).ok()
	if mail := box.next(); mail.subject != "You have an account on interior already" {
		t.Errorf("mail: got %q, want that the address is taken", mail.subject)
	}
	if shown := root.do("GET", adminAPI+"/v2/users/@alice:interior", nil).ok(); !shown.body.Get("deactivated").Bool() {
		t.Error("the closed account was opened")
	}
}

func TestSSOBringsClosedAccountsBack(t *testing.T) {
	e := signInElsewhere(t, func(cfg *Config, _ *upstream.ProviderConfig, _ map[string]any) { cfg.Account.Reactivation = true })
	given := e.give("somebody", "anna.blanc@example.com") // with an address, and nothing at the provider yet
	for range 2 {                                         // by the address, and then by who she is at the provider
		if err := e.api.Accounts().Close(t.Context(), given, false); err != nil {
			t.Fatal(err)
		}
		if anna := e.signIn(e.surfer(), "anna"); anna.ID != given {
			t.Errorf("got %s, want %s", anna.ID, given)
		}
	}
}
