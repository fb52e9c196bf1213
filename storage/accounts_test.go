package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

const alice, bob = id.UserID("@alice:interior"), id.UserID("@bob:interior")

// do runs fn in a transaction that has to succeed.
func do(t *testing.T, s *Store, fn func(ctx context.Context) error) {
	t.Helper()
	if err := s.Do(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// enrol makes an account with one device and its token.
func enrol(t *testing.T, s *Store, user id.UserID, device id.DeviceID, pair Pair) {
	t.Helper()
	do(t, s, func(ctx context.Context) error {
		if _, err := s.Accounts.Create(ctx, &Account{UserID: user, Password: "hash"}); err != nil {
			return err
		}
		if err := s.Devices.Put(ctx, &Device{UserID: user, DeviceID: device}); err != nil {
			return err
		}
		return s.Tokens.Put(ctx, user, device, pair)
	})
}

func holder(t *testing.T, s *Store, access string) id.UserID {
	t.Helper()
	session, err := s.Tokens.Session(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	if session == nil {
		return ""
	}
	return session.UserID
}

func TestANameIsTakenForEver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		enrol(t, s, alice, "A", Pair{Access: "a1"})
		do(t, s, func(ctx context.Context) error {
			made, err := s.Accounts.Create(ctx, &Account{UserID: alice})
			if made {
				t.Error("a taken name was given again")
			}
			return err
		})
		do(t, s, func(ctx context.Context) error { return s.Accounts.Deactivate(ctx, alice, true) })
		do(t, s, func(ctx context.Context) error {
			made, err := s.Accounts.Create(ctx, &Account{UserID: alice})
			if made {
				t.Error("a deactivated user's name was given again")
			}
			return err
		})
		account, err := s.Accounts.ByID(t.Context(), alice)
		if err != nil || account == nil || !account.Deactivated || !account.Erased || account.Password != "" {
			t.Errorf("deactivated account: got %+v, %v", account, err)
		}
		if got := holder(t, s, "a1"); got != "" {
			t.Errorf("token of a deactivated account: got %q, want nobody", got)
		}
	})
}

func TestRefresh(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		enrol(t, s, alice, "A", Pair{Access: "a1", Refresh: "r1"})
		refresh := func(old string, pair Pair, want bool) {
			t.Helper()
			do(t, s, func(ctx context.Context) error {
				got, err := s.Tokens.Refresh(ctx, old, pair)
				if got != want {
					t.Errorf("refresh with %s: got %v, want %v", old, got, want)
				}
				return err
			})
		}
		refresh("r0", Pair{Access: "a9", Refresh: "r9"}, false)
		refresh("r1", Pair{Access: "a2", Refresh: "r2"}, true)
		if holder(t, s, "a1") != alice {
			t.Error("the old token died before the new one was used")
		}
		// The answer got lost: the same refresh again takes back the pair that nobody received.
		refresh("r1", Pair{Access: "a3", Refresh: "r3"}, true)
		if holder(t, s, "a2") != "" {
			t.Error("a pair that was replaced before its use still lives")
		}
		do(t, s, func(ctx context.Context) error { return s.Tokens.Confirm(ctx, "a3") })
		if holder(t, s, "a1") != "" || holder(t, s, "a3") != alice {
			t.Error("use of the new token did not end the old one")
		}
		refresh("r3", Pair{Access: "a4", Refresh: "r4"}, true)
		refresh("r4", Pair{Access: "a5", Refresh: "r5"}, true)
		if holder(t, s, "a3") != "" {
			t.Error("use of the new refresh token did not end the pair before")
		}
		// Reuse of a dead one: the whole chain of the device dies.
		refresh("r1", Pair{Access: "a6", Refresh: "r6"}, false)
		for _, access := range []string{"a1", "a2", "a3", "a4", "a5", "a6"} {
			if holder(t, s, access) != "" {
				t.Errorf("after reuse of a dead refresh token %s still lives", access)
			}
		}
	})
}

func TestPassesAreForOnePurpose(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		do(t, s, func(ctx context.Context) error {
			if err := s.Tokens.PutPass(ctx, OpenIDPass, "o", alice, "A", time.Now().Add(time.Hour)); err != nil {
				return err
			}
			if err := s.Tokens.PutPass(ctx, LoginPass, "old", alice, "", time.Now().Add(-time.Hour)); err != nil {
				return err
			}
			return s.Tokens.PutPass(ctx, LoginPass, "l", bob, "", time.Now().Add(time.Hour))
		})
		if holder(t, s, "o") != "" {
			t.Error("an OpenID token passed as an access token")
		}
		for _, c := range []struct {
			purpose Purpose
			token   string
			want    id.UserID
		}{{OpenIDPass, "o", alice}, {LoginPass, "o", ""}, {LoginPass, "l", bob}, {LoginPass, "old", ""}} {
			if got, _, err := s.Tokens.PassUser(t.Context(), c.purpose, c.token); got != c.want || err != nil {
				t.Errorf("%s as %s: got %q, %v, want %q", c.token, c.purpose, got, err, c.want)
			}
		}
		for i, want := range []id.UserID{bob, ""} {
			do(t, s, func(ctx context.Context) error {
				got, err := s.Tokens.TakePass(ctx, LoginPass, "l")
				if got != want {
					t.Errorf("taken %d times: got %q, want %q", i+1, got, want)
				}
				return err
			})
		}
	})
}

func TestAnEndedDeviceLeavesNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		enrol(t, s, alice, "A", Pair{Access: "a1", Refresh: "r1"})
		do(t, s, func(ctx context.Context) error {
			if err := s.Keys.PutDevice(ctx, DeviceKeys{UserID: alice, DeviceID: "A", JSON: json.RawMessage(`{}`)}); err != nil {
				return err
			}
			if err := s.Keys.PutOneTime(ctx, alice, "A", []OneTimeKey{{"signed_curve25519", "1", json.RawMessage(`{}`)}}); err != nil {
				return err
			}
			for pass, device := range map[string]id.DeviceID{"its": "A", "another's": "B", "nobody's": ""} {
				if err := s.Tokens.PutPass(ctx, OpenIDPass, pass, alice, device, time.Now().Add(time.Hour)); err != nil {
					return err
				}
			}
			if err := s.Keys.PutFallback(ctx, alice, "A", OneTimeKey{"signed_curve25519", "f", json.RawMessage(`{}`)}); err != nil {
				return err
			}
			return s.ToDevice.Put(ctx, []ToDeviceMessage{{UserID: alice, DeviceID: "A", JSON: json.RawMessage(`{}`)}})
		})
		before := s.Head()
		do(t, s, func(ctx context.Context) error { return s.Devices.End(ctx, alice, "A") })
		if holder(t, s, "a1") != "" {
			t.Error("its token still lives")
		}
		for pass, want := range map[string]id.UserID{"its": "", "another's": alice, "nobody's": alice} {
			if user, _, err := s.Tokens.PassUser(t.Context(), OpenIDPass, pass); user != want || err != nil {
				t.Errorf("%s OpenID token: got %q, %v, want %q", pass, user, err, want)
			}
		}
		if keys, err := s.Keys.Devices(t.Context(), alice); len(keys) != 0 || err != nil {
			t.Errorf("its keys: got %d, %v, want none", len(keys), err)
		}
		given, err := s.Keys.Claim(t.Context(), []Claim{{alice, "A", "signed_curve25519"}})
		if len(given) != 0 || err != nil {
			t.Errorf("its one-time keys: got %v, %v, want none", given, err)
		}
		var kinds []Kind
		for _, read := range []func() ([]Change, error){
			func() ([]Change, error) { c, _, _ := s.Since(before); return c, nil },
			func() ([]Change, error) { return s.Changes(t.Context(), before, s.Head()) },
		} {
			changes, err := read()
			if err != nil {
				t.Fatal(err)
			}
			kinds = kinds[:0]
			for _, c := range changes {
				if c.UserID != alice || c.DeviceID != "A" {
					t.Errorf("news of %s/%s, want alice's device", c.UserID, c.DeviceID)
				}
				kinds = append(kinds, c.Kind)
			}
			if want := []Kind{DeviceEndedNews, DeviceListNews}; !slices.Equal(kinds, want) {
				t.Errorf("news: got %v, want %v", kinds, want)
			}
		}
	})
}

func TestAccountDataIsNews(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		before := s.Head()
		for i := range 3 {
			do(t, s, func(ctx context.Context) error {
				return s.AccountData.Put(ctx, AccountData{UserID: alice, Type: "a", Content: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))})
			})
		}
		do(t, s, func(ctx context.Context) error {
			return s.AccountData.Put(ctx, AccountData{UserID: alice, RoomID: "!r", Type: "m.tag", Deleted: true})
		})
		list, err := s.AccountData.Between(t.Context(), alice, before, s.Head())
		if err != nil || len(list) != 2 || string(list[0].Content) != `{"n":2}` || !list[1].Deleted || list[1].RoomID != "!r" {
			t.Errorf("got %+v, %v", list, err)
		}
		if none, err := s.AccountData.Between(t.Context(), bob, before, s.Head()); len(none) != 0 || err != nil {
			t.Errorf("bob reads alice's notes: %v, %v", none, err)
		}
		changes, _, _ := s.Since(before)
		if len(changes) != 4 || changes[3].Row.(*AccountData).RoomID != "!r" {
			t.Errorf("news: got %d of them, want 4", len(changes))
		}
	})
}

func TestRegistrationTokensAreCounted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		do(t, s, func(ctx context.Context) error {
			return s.RegistrationTokens.Put(ctx, RegistrationToken{Token: "one", Allowed: 1})
		})
		reserve := func(token string, want bool) {
			t.Helper()
			do(t, s, func(ctx context.Context) error {
				got, err := s.RegistrationTokens.Reserve(ctx, token)
				if got != want {
					t.Errorf("reserve %s: got %v, want %v", token, got, want)
				}
				return err
			})
		}
		reserve("none", false)
		reserve("one", true)
		reserve("one", false)
		// A session that was never finished gives its place back.
		do(t, s, func(ctx context.Context) error {
			return s.Confirmations.Put(ctx, &Confirmation{Session: "s", Operation: "register", Token: "one", Created: time.Now().Add(-time.Hour)})
		})
		do(t, s, func(ctx context.Context) error { return s.Confirmations.Sweep(ctx, time.Now()) })
		reserve("one", true)
		do(t, s, func(ctx context.Context) error { return s.RegistrationTokens.Use(ctx, "one") })
		reserve("one", false)

		if err := s.RegistrationTokens.PutNonce(t.Context(), "n", time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for i, want := range []bool{true, false} {
			if got, err := s.RegistrationTokens.TakeNonce(t.Context(), "n"); got != want || err != nil {
				t.Errorf("nonce taken %d times: got %v, %v, want %v", i+1, got, err, want)
			}
		}
	})
}

func TestSessionsAreForgottenInTime(t *testing.T) {
	s := openStore(t, Config{Database: t.TempDir() + "/test.db"})
	enrol(t, s, alice, "A", Pair{Access: "a1"})
	enrol(t, s, bob, "B", Pair{Access: "b1"})
	for name, end := range map[string]func(ctx context.Context) error{
		"lock": func(ctx context.Context) error {
			return s.Accounts.SetStanding(ctx, &Account{UserID: bob, Locked: true})
		},
		"new tokens": func(ctx context.Context) error { return s.Tokens.Put(ctx, alice, "A", Pair{Access: "a2"}) },
	} {
		if holder(t, s, "a1") != alice || holder(t, s, "b1") != bob {
			t.Fatalf("before %s: a token is not known", name)
		}
		do(t, s, end)
		switch session, err := s.Tokens.Session(t.Context(), "b1"); {
		case err != nil:
			t.Fatal(err)
		case name == "lock" && !session.Locked:
			t.Error("the lock is not seen")
		}
		if name == "new tokens" && holder(t, s, "a1") != "" {
			t.Error("a replaced token still lives")
		}
		do(t, s, func(ctx context.Context) error { return s.Tokens.Put(ctx, alice, "A", Pair{Access: "a1"}) })
	}

	// What was read before a change is not kept after it.
	var c sessionCache
	hash := tokenHash{1}
	_, mark := c.find(hash)
	c.drop(alice, "A")
	c.keep(hash, &Session{UserID: alice, DeviceID: "A"}, mark)
	if found, _ := c.find(hash); found != nil {
		t.Error("a reading from before the change was kept")
	}
}

// A8: who reads the database has no token in hand.
func TestA8TokensAreStoredAsHashes(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		enrol(t, s, alice, "A", Pair{Access: "the access token", Refresh: "the refresh token"})
		do(t, s, func(ctx context.Context) error {
			return s.Tokens.PutPass(ctx, LoginPass, "the login token", alice, "", time.Now().Add(time.Minute))
		})
		for _, table := range []string{"tokens", "passes"} {
			rows, err := s.reader.Query(t.Context(), "SELECT * FROM "+table)
			if err != nil {
				t.Fatal(err)
			}
			columns, err := rows.Columns()
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				row := make([]any, len(columns))
				into := make([]any, len(columns))
				for i := range row {
					into[i] = &row[i]
				}
				if err := rows.Scan(into...); err != nil {
					t.Fatal(err)
				}
				for i, v := range row {
					if text, ok := v.([]byte); ok {
						v = string(text)
					}
					if strings.Contains(fmt.Sprint(v), " token") {
						t.Errorf("%s.%s holds %v", table, columns[i], v)
					}
				}
			}
			rows.Close()
		}
	})
}
