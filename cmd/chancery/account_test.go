package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"maunium.net/go/mautrix"
)

// TestAccountCommand makes an account, replaces its password, and makes a registration token: at the admin listener of a
// running server, and in the database of one that is down.
func TestAccountCommand(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Listen.Admin = loopback("tcp", 0)
	config.Client.HTTP.Limits.Enabled = false
	config.Client.Account.Validity.Period = 1000 * time.Hour
	house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	t.Cleanup(house.close)

	asks := map[string]func(accountWish) (string, error){
		"running": func(w accountWish) (string, error) { return askAdmin(t.Context(), config.Listen.Admin, w) },
		"alone": func(w accountWish) (string, error) {
			house.close()
			defer house.open()
			return keepAlone(t.Context(), config, w)
		},
	}
	house.open()
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			user := must(ask(accountWish{Do: "create", Name: name, Password: "the first password"}))(t, "create")
			if want := "@" + name + ":interior.test"; user != want {
				t.Fatalf("created %s, want %s", user, want)
			}
			before := logIn(t, house.url, name, "the first password")
			if before == nil {
				t.Fatal("the first password is refused")
			}
			must(ask(accountWish{Do: "password", Name: name, Password: "the second password"}))(t, "new password")
			if _, err := before.Whoami(t.Context()); err == nil {
				t.Error("the session goes on after the new password, want it ended")
			}
			if logIn(t, house.url, name, "the first password") != nil {
				t.Error("the first password is still good")
			}
			if logIn(t, house.url, user, "the second password") == nil {
				t.Error("the second password is refused")
			}
			token := must(ask(accountWish{Do: "token", Uses: 1, Lifetime: time.Hour}))(t, "token")
			if got := register(t, house.url, name+"-guest", token); got != nil {
				t.Errorf("register with the token: %v", got)
			}
			if got := register(t, house.url, name+"-second", token); got == nil {
				t.Error("the token is good for a second one, want one only")
			}
			tend(t, house.url, name, ask)
			moveIn(t, house.url, name, ask)
			for wish, want := range map[accountWish]string{
				{Do: "create", Name: name, Password: "long enough"}:       "M_USER_IN_USE",
				{Do: "password", Name: "nobody", Password: "long enough"}: "M_NOT_FOUND",
				{Do: "password", Name: name, Password: "short"}:           "M_PASSWORD_TOO_SHORT",
				{Do: "token", Uses: -1}:                                   "M_INVALID_PARAM",
				{Do: "forget", Name: name}:                                "no verb \"forget\"",
			} {
				if said, err := ask(wish); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%+v: got %q, %v; want an error with %s", wish, said, err, want)
				}
			}
		})
	}
}

// moveIn imports somebody from another server, who logs in with the password of there.
func moveIn(t *testing.T, url, name string, ask func(accountWish) (string, error)) {
	t.Helper()
	lines := fmt.Sprintf(`{"name":"%[1]s-moved","password_hash":"%[2]s","display_name":"Moved","emails":["%[1]s@example.org"]}
{"name":"%[1]s"}
{"name":"%[1]s-slow","password_hash":"$2b$31$%[3]s"}
{"name":"%[1]s-second","emails":["%[1]s@example.org"]}
{"nmae":"x"}`, name, bcryptOf(t, "correct horse battery staple"), strings.Repeat("a", 53))
	var said string
	err := importFrom(strings.NewReader(lines), func(batch string) (err error) {
		said, err = ask(accountWish{Do: "import", Lines: batch})
		return err
	})
	if err != nil || !strings.HasSuffix(said, "1 accounts made, 1 there already, 3 failed") {
		t.Errorf("import: got %q %v", said, err)
	}
	for range 2 { // the second time it is our own hash
		if logIn(t, url, name+"-moved", "correct horse battery staple") == nil {
			t.Error("who moved in cannot log in with the password of before")
		}
	}
	if logIn(t, url, name+"-moved", "correct horse battery stapler") != nil {
		t.Error("who moved in logs in with another password")
	}
}

func bcryptOf(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// tend tries the verbs that list and end things.
func tend(t *testing.T, url, name string, ask func(accountWish) (string, error)) {
	t.Helper()
	user := "@" + name + ":interior.test"
	said := func(wish accountWish) string { t.Helper(); return must(ask(wish))(t, wish.Do) }
	said(accountWish{Do: "admin", Name: name, Admin: true})
	if got := said(accountWish{Do: "list", Name: name}); !strings.Contains(got, user+" administrator") {
		t.Errorf("the accounts: got %q", got)
	}
	said(accountWish{Do: "admin", Name: name})
	if got := said(accountWish{Do: "list", Name: name}); strings.Contains(got, "administrator") {
		t.Errorf("no administrator any more: got %q", got)
	}
	token := said(accountWish{Do: "token", Uses: 3, Lifetime: time.Hour})
	if got := said(accountWish{Do: "tokens"}); !strings.Contains(got, token+" 3 of 3 uses left") {
		t.Errorf("the tokens: got %q", got)
	}
	said(accountWish{Do: "revoke", Name: token})
	if got := said(accountWish{Do: "tokens"}); strings.Contains(got, token) {
		t.Errorf("after revoking: got %q", got)
	}
	client := logIn(t, url, user, "the second password")
	room := must(client.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Name: "Hall of " + name, RoomAliasName: name}))(t, "room").RoomID.String()
	if got := said(accountWish{Do: "rooms", Name: name}); !strings.HasPrefix(got, room+" 1 of 1 members are ours, Hall of "+name+" #"+name+":interior.test") {
		t.Errorf("the rooms: got %q", got)
	}
	if got := said(accountWish{Do: "delete-room", Name: "#" + name + ":interior.test"}); !strings.HasPrefix(got, room+" is removed") {
		t.Errorf("deleted: got %q", got)
	}
	if got := said(accountWish{Do: "rooms", Name: name}); got != "" {
		t.Errorf("after that: got %q", got)
	}
	guest := "@" + name + "-guest:interior.test"
	if got := said(accountWish{Do: "renew", Name: guest, Until: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC).UnixMilli()}); got != guest+" until 2026-01-31T00:00:00Z" {
		t.Errorf("renewed until a day that is over: got %q", got)
	}
	if got := said(accountWish{Do: "list", Name: name + "-guest"}); got != guest+" expired" {
		t.Errorf("the expired account: got %q", got)
	}
	said(accountWish{Do: "renew", Name: name + "-guest"})
	if got := said(accountWish{Do: "list", Name: name + "-guest"}); got != guest {
		t.Errorf("the renewed account: got %q", got)
	}
	if got := said(accountWish{Do: "deactivate", Name: guest}); got != guest {
		t.Errorf("deactivated: got %q", got)
	}
	if got := said(accountWish{Do: "list", Name: name + "-guest"}); got != guest+" deactivated" {
		t.Errorf("the closed account: got %q", got)
	}
}

func TestReadRenewal(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int64
		good bool
	}{
		{[]string{"renew", "ben"}, 0, true},
		{[]string{"-until", "2027-01-31", "renew", "ben"}, 1801353600000, true},
		{[]string{"-until", "31.1.2027", "renew", "ben"}, 0, false},
		{[]string{"renew"}, 0, false},
	} {
		wish, _, err := readWish(c.args)
		if (err == nil) != c.good || c.good && (wish.Do != "renew" || wish.Name != "ben" || wish.Until != c.want) {
			t.Errorf("%v: got %+v (%v)", c.args, wish, err)
		}
	}
}

// logIn is a session of this user, or nil if the password is wrong.
func logIn(t *testing.T, url, user, password string) *mautrix.Client {
	t.Helper()
	client := must(mautrix.NewClient(url, "", ""))(t, "client")
	if _, err := client.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: password, StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: user},
	}); err != nil {
		if !strings.Contains(err.Error(), "M_FORBIDDEN") {
			t.Fatalf("log in %s: %v", user, err)
		}
		return nil
	}
	return client
}

// register has somebody register with a token, as a client does.
func register(t *testing.T, url, name, token string) error {
	t.Helper()
	client := must(mautrix.NewClient(url, "", ""))(t, "client")
	ask := &mautrix.ReqRegister[any]{Username: name, Password: "long enough"}
	_, uia, err := client.Register(t.Context(), ask)
	if uia == nil {
		return err
	}
	ask.Auth = map[string]string{"type": "m.login.registration_token", "token": token, "session": uia.Session}
	_, uia, err = client.Register(t.Context(), ask)
	return err
}
