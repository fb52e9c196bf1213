package storage

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func TestCodesAndDeviceGrants(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		now := time.UnixMilli(time.Now().UnixMilli())
		account(t, s, "@alice:x")
		do(t, s, func(ctx context.Context) error {
			if err := s.OAuth.PutClient(ctx, "C", json.RawMessage(`{"a":1}`)); err != nil {
				return err
			}
			return s.OAuth.PutClient(ctx, "C", json.RawMessage(`{"a":1}`))
		})
		if raw, err := s.OAuth.Client(t.Context(), "C"); string(raw) != `{"a":1}` || err != nil {
			t.Errorf("client: got %s, %v", raw, err)
		}
		if raw, err := s.OAuth.Client(t.Context(), "D"); raw != nil || err != nil {
			t.Errorf("unknown client: got %s, %v", raw, err)
		}
		code := Code{ClientID: "C", UserID: "@alice:x", DeviceID: "D", RedirectURI: "r:", Scope: "s", Challenge: "c", Upstream: "u", Expires: now}
		do(t, s, func(ctx context.Context) error { return s.OAuth.PutCode(ctx, "code", code) })
		do(t, s, func(ctx context.Context) error { return s.OAuth.UseCode(ctx, "code") })
		code.Used = true
		if got, err := s.OAuth.Code(t.Context(), "code"); err != nil || got == nil || *got != code {
			t.Errorf("code: got %+v, %v, want %+v", got, err, code)
		}

		grant := DeviceGrant{ClientID: "C", Scope: "s", DeviceID: "D", Address: "a", Agent: "g", Polled: now, Expires: now.Add(time.Hour)}
		put := func(deviceCode, userCode string) (made bool) {
			do(t, s, func(ctx context.Context) (err error) {
				made, err = s.OAuth.PutDeviceGrant(ctx, deviceCode, userCode, grant)
				return err
			})
			return made
		}
		if !put("one", "USER") || put("two", "USER") {
			t.Error("two devices have the same user code")
		}
		decide := func(state GrantState) (done bool) {
			do(t, s, func(ctx context.Context) (err error) {
				done, err = s.OAuth.DecideDeviceGrant(ctx, "USER", state, "@alice:x", "u")
				return err
			})
			return done
		}
		if !decide(GrantAllowed) || decide(GrantDenied) {
			t.Error("what was decided can be decided anew")
		}
		grant.State, grant.UserID, grant.Upstream = GrantAllowed, "@alice:x", "u"
		if got, err := s.OAuth.DeviceGrant(t.Context(), "one"); err != nil || got == nil || *got != grant {
			t.Errorf("grant: got %+v, %v, want %+v", got, err, grant)
		}
		// Swept is what is over, and clients through which nobody comes.
		do(t, s, func(ctx context.Context) error { return s.OAuth.Sweep(ctx, now.Add(time.Minute), now.Add(time.Minute)) })
		if got, err := s.OAuth.Code(t.Context(), "code"); got != nil || err != nil {
			t.Errorf("an old code: got %+v, %v", got, err)
		}
		if raw, err := s.OAuth.Client(t.Context(), "C"); raw == nil || err != nil {
			t.Errorf("a client for which a device waits: got %s, %v", raw, err)
		}
		do(t, s, func(ctx context.Context) error { return s.OAuth.DeleteDeviceGrant(ctx, "one") })
		do(t, s, func(ctx context.Context) error { return s.OAuth.Sweep(ctx, now, now.Add(time.Minute)) })
		if raw, err := s.OAuth.Client(t.Context(), "C"); raw != nil || err != nil {
			t.Errorf("a client without anybody: got %s, %v", raw, err)
		}
	})
}

func TestBrowsersAndApprovals(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		account(t, s, "@alice:x")
		put := func(cookie string) {
			do(t, s, func(ctx context.Context) error {
				return s.Browsers.Put(ctx, cookie, Browser{UserID: "@alice:x", Upstream: "u", Address: "a", Agent: "g"})
			})
		}
		signed := func(cookie string) bool {
			t.Helper()
			b, err := s.Browsers.ByCookie(t.Context(), cookie)
			if err != nil {
				t.Fatal(err)
			}
			return b != nil && b.UserID == "@alice:x" && b.Upstream == "u"
		}
		for what, end := range map[string]func(context.Context) error{
			"signing out":          func(ctx context.Context) error { return s.Browsers.End(ctx, "one") },
			"another password":     func(ctx context.Context) error { return s.Accounts.SetPassword(ctx, "@alice:x", "hash") },
			"the provider's word":  func(ctx context.Context) error { return s.Browsers.endUpstream(ctx, "u") },
			"long without a visit": func(ctx context.Context) error { return s.Browsers.Sweep(ctx, time.Now().Add(time.Minute)) },
		} {
			if put("one"); !signed("one") || signed("two") {
				t.Errorf("%s: not signed in", what)
			}
			if do(t, s, end); signed("one") {
				t.Errorf("%s: signed in still", what)
			}
		}
		put("one")
		if list, err := s.Browsers.Of(t.Context(), "@alice:x"); err != nil || len(list) != 1 || list[0].Address != "a" || list[0].Agent != "g" {
			t.Errorf("alice's browsers: got %+v, %v", list, err)
		}
		take := func() (good bool) {
			do(t, s, func(ctx context.Context) (err error) {
				good, err = s.Browsers.TakeApproval(ctx, "@alice:x", "reset")
				return err
			})
			return good
		}
		approve := func(until time.Time) {
			do(t, s, func(ctx context.Context) error { return s.Browsers.Approve(ctx, "@alice:x", "reset", until) })
		}
		if take() {
			t.Error("approved without anybody")
		}
		if approve(time.Now().Add(time.Minute)); !take() || take() {
			t.Error("an approval is not good just once")
		}
		if approve(time.Now().Add(-time.Second)); take() {
			t.Error("an approval is good after its end")
		}
		put("one")
		do(t, s, func(ctx context.Context) error { return s.Accounts.Deactivate(ctx, "@alice:x", false) })
		if signed("one") {
			t.Error("closed, and signed in still")
		}
	})
}

func TestRendezvous(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		open := func(name string, expires time.Time) {
			do(t, s, func(ctx context.Context) error {
				return s.Rendezvous.Create(ctx, Rendezvous{ID: name, Content: []byte(name), Sequence: 1, Expires: expires}, 2)
			})
		}
		there := func(name string) *Rendezvous {
			t.Helper()
			v, err := s.Rendezvous.ByID(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		replace := func(sequence int64, text string) (done bool) {
			do(t, s, func(ctx context.Context) (err error) {
				done, err = s.Rendezvous.Replace(ctx, "a", sequence, []byte(text))
				return err
			})
			return done
		}
		later := time.Now().Add(time.Minute)
		open("old", time.Now().Add(-time.Second))
		if there("old") != nil {
			t.Error("a meeting place is there after its end")
		}
		open("a", later)
		if !replace(1, "second") || replace(1, "third") {
			t.Error("a message that nobody saw was replaced")
		}
		if v := there("a"); v == nil || string(v.Content) != "second" || v.Sequence != 2 {
			t.Errorf("got %+v", v)
		}
		for _, name := range []string{"b", "c", "d"} { // another millisecond each, or the order is that of the names
			open(name, later)
		}
		if there("a") != nil {
			t.Error("the oldest did not give way")
		}
		do(t, s, func(ctx context.Context) error {
			if gone, err := s.Rendezvous.Delete(ctx, "nowhere"); gone || err != nil {
				t.Errorf("closing what is not there: got %v, %v", gone, err)
			}
			return nil
		})
	})
}

func TestTokensOfClients(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		account(t, s, "@alice:x")
		do(t, s, func(ctx context.Context) error {
			if err := s.Devices.Put(ctx, &Device{UserID: "@alice:x", DeviceID: "D"}); err != nil {
				return err
			}
			return s.Tokens.Put(ctx, "@alice:x", "D", Pair{Access: "a1", Refresh: "r1", ClientID: "C", Scope: "s"})
		})
		refresh := func(token string, pair Pair) (good bool) {
			do(t, s, func(ctx context.Context) (err error) { good, err = s.Tokens.Refresh(ctx, token, pair); return err })
			return good
		}
		if refresh("r1", Pair{Access: "x", Refresh: "y"}) || refresh("r1", Pair{Access: "x", Refresh: "y", ClientID: "D"}) {
			t.Error("somebody else refreshed a client's tokens")
		}
		if !refresh("r1", Pair{Access: "a2", Refresh: "r2", ClientID: "C", Scope: "s"}) {
			t.Error("the client could not refresh its tokens")
		}
		session, err := s.Tokens.Session(t.Context(), "a2")
		if err != nil || session == nil || !session.OAuth || !session.Fresh {
			t.Errorf("session: got %+v, %v", session, err)
		}
		for _, token := range []string{"a2", "r2"} {
			g, err := s.Tokens.Given(t.Context(), token)
			if err != nil || g == nil || g.ClientID != "C" || g.Scope != "s" || g.DeviceID != "D" || g.Spent {
				t.Errorf("%s: got %+v, %v", token, g, err)
			}
		}
		do(t, s, func(ctx context.Context) error { return s.Tokens.Confirm(ctx, "a2") })
		if g, err := s.Tokens.GivenToRefresh(t.Context(), "r1"); err != nil || g == nil || !g.Spent {
			t.Errorf("the old refresh token: got %+v, %v, want it spent", g, err)
		}
		if g, err := s.Tokens.Given(t.Context(), "nobody's"); g != nil || err != nil {
			t.Errorf("nobody's token: got %+v, %v", g, err)
		}
	})
}

// account makes an account.
func account(t *testing.T, s *Store, user id.UserID) {
	t.Helper()
	do(t, s, func(ctx context.Context) error {
		_, err := s.Accounts.Create(ctx, &Account{UserID: user})
		return err
	})
}
