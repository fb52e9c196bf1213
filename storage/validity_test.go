package storage

import (
	"context"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func TestValidity(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx, now := t.Context(), time.Now().Truncate(time.Millisecond)
		enrol(t, s, alice, "A", Pair{Access: "a"})
		enrol(t, s, bob, "B", Pair{Access: "b"})
		do(t, s, func(ctx context.Context) error {
			_, err := s.Accounts.Create(ctx, &Account{UserID: "@bridged:interior", ServiceID: "bridge"})
			return err
		})
		until := func(user id.UserID) time.Time {
			t.Helper()
			v, err := s.Validity.Of(ctx, user)
			if err != nil {
				t.Fatal(err)
			}
			if v == nil {
				return time.Time{}
			}
			return v.Until
		}
		put := func(user id.UserID, at time.Time) {
			t.Helper()
			do(t, s, func(ctx context.Context) error {
				return s.Validity.Put(ctx, Validity{UserID: user, Until: at, Reminders: true})
			})
		}
		expired := func() []id.UserID {
			t.Helper()
			found, err := s.Validity.Expired(ctx, []id.UserID{alice, bob, "@nobody:interior"})
			if err != nil {
				t.Fatal(err)
			}
			var list []id.UserID
			for _, user := range []id.UserID{alice, bob} {
				if found[user] {
					list = append(list, user)
				}
			}
			return list
		}

		if endless, err := s.Validity.Endless(ctx, "", 10); err != nil || !slices.Equal(endless, []id.UserID{alice, bob}) {
			t.Errorf("without a date: got %v (%v), want alice and bob, not the bridge's user", endless, err)
		}
		if session, err := s.Tokens.Session(ctx, "a"); err != nil || session.Expired(now) || !session.Until.IsZero() {
			t.Errorf("session without an end: got %+v (%v)", session, err)
		}
		do(t, s, func(ctx context.Context) error {
			return s.Validity.Begin(ctx, map[id.UserID]time.Time{alice: now.Add(time.Hour), bob: now.Add(2 * time.Hour)})
		})
		do(t, s, func(ctx context.Context) error {
			return s.Validity.Begin(ctx, map[id.UserID]time.Time{alice: now.Add(9 * time.Hour)})
		})
		if got := until(alice); !got.Equal(now.Add(time.Hour)) {
			t.Errorf("a second beginning: got %v, want the first one's %v", got, now.Add(time.Hour))
		}
		if session, _ := s.Tokens.Session(ctx, "a"); !session.Until.Equal(now.Add(time.Hour)) {
			t.Errorf("session: got until %v, want an hour from now", session.Until)
		}
		if got := expired(); got != nil {
			t.Errorf("expired: got %v, want nobody yet", got)
		}

		// Who is told so is told at once, from memory and from the tables.
		from := s.Head()
		put(bob, now.Add(-time.Minute))
		if got := expired(); !slices.Equal(got, []id.UserID{bob}) {
			t.Errorf("expired: got %v, want bob", got)
		}
		if barred, err := s.Accounts.Barred(ctx, []id.UserID{alice, bob}); err != nil || !slices.Equal(barred, []id.UserID{bob}) {
			t.Errorf("barred: got %v (%v), want bob", barred, err)
		}
		if session, _ := s.Tokens.Session(ctx, "b"); !session.Expired(now) {
			t.Errorf("session of who has expired: got until %v", session.Until)
		}
		news, err := s.Changes(ctx, from, s.Head())
		if err != nil || len(news) != 1 || news[0].Kind != ValidityNews || news[0].UserID != bob || !news[0].Row.(*Validity).Expired(now) {
			t.Errorf("news: got %+v (%v), want bob's end", news, err)
		}
		if over, err := s.Validity.Over(ctx, now, 10); err != nil || !slices.Equal(over, []id.UserID{bob}) {
			t.Errorf("over: got %v (%v), want bob", over, err)
		}

		// Reminders: each once, until the account is renewed.
		due := func(within time.Duration) (list []id.UserID) {
			t.Helper()
			found, err := s.Validity.Due(ctx, now, within, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range found {
				list = append(list, v.UserID)
			}
			return list
		}
		put(bob, now.Add(3*time.Hour))
		if got := due(90 * time.Minute); !slices.Equal(got, []id.UserID{alice}) {
			t.Errorf("due within 90 minutes: got %v, want alice", got)
		}
		do(t, s, func(ctx context.Context) error { return s.Validity.Remind(ctx, alice, 90*time.Minute) })
		if got := due(90 * time.Minute); got != nil {
			t.Errorf("due again: got %v, want nobody", got)
		}
		if got := due(4 * time.Hour); !slices.Equal(got, []id.UserID{bob}) {
			t.Errorf("due within four hours: got %v, want bob, for alice has had a later one", got)
		}
		put(alice, now.Add(time.Hour))
		if got := due(90 * time.Minute); !slices.Equal(got, []id.UserID{alice}) {
			t.Errorf("due after a renewal: got %v, want alice", got)
		}
		do(t, s, func(ctx context.Context) error {
			return s.Validity.Put(ctx, Validity{UserID: alice, Until: now.Add(time.Hour), Reminders: false})
		})
		if got := due(90 * time.Minute); got != nil {
			t.Errorf("due without reminders: got %v, want nobody", got)
		}

		// What does not count is as if it were not there.
		do(t, s, func(ctx context.Context) error { return s.Validity.Enforce(ctx, []id.UserID{alice, bob}, false) })
		if dated, err := s.Validity.Dates(ctx, "", 10); err != nil || !slices.Equal(dated, []Dated{{alice, false}, {bob, false}}) {
			t.Errorf("dates: got %v (%v)", dated, err)
		}
		put(bob, now.Add(-time.Minute))
		do(t, s, func(ctx context.Context) error { return s.Validity.Enforce(ctx, []id.UserID{bob}, false) })
		if session, _ := s.Tokens.Session(ctx, "b"); session.Expired(now) || len(expired()) > 0 || !until(bob).IsZero() {
			t.Error("a date that does not count was heeded")
		}
		if endless, _ := s.Validity.Endless(ctx, "", 10); len(endless) > 0 {
			t.Errorf("without a date: got %v, want nobody: theirs is kept", endless)
		}
		do(t, s, func(ctx context.Context) error { return s.Validity.Enforce(ctx, []id.UserID{bob}, true) })
		if got := expired(); !slices.Equal(got, []id.UserID{bob}) {
			t.Errorf("counting again: got %v, want bob", got)
		}
		do(t, s, func(ctx context.Context) error { return s.Accounts.Deactivate(ctx, bob, false) })
		if dated, _ := s.Validity.Dates(ctx, "", 10); !slices.Equal(dated, []Dated{{alice, false}}) {
			t.Errorf("dates after a closure: got %v, want alice's", dated)
		}
	})
}

func TestRenewalTokens(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		for _, user := range []id.UserID{alice, bob} {
			enrol(t, s, user, "D", Pair{Access: string(user)})
		}
		do(t, s, func(ctx context.Context) error {
			return s.Validity.Begin(ctx, map[id.UserID]time.Time{alice: time.Now(), bob: time.Now()})
		})
		give := func(user id.UserID, token string, bound bool) (given bool) {
			do(t, s, func(ctx context.Context) (err error) {
				given, err = s.Validity.PutToken(ctx, user, token, bound)
				return err
			})
			return given
		}
		give(alice, "first", false)
		give(alice, "second", false)
		give(bob, "12345678", true)
		if give("@nobody:interior", "x", false) {
			t.Error("a token was given to who has no end")
		}
		for _, c := range []struct {
			whose id.UserID
			token string
			user  id.UserID
			used  bool
		}{
			{"", "first", "", false},
			{"", "second", alice, false},
			{"", "second", alice, true},
			{"", "12345678", "", false},
			{alice, "12345678", "", false},
			{alice, "second", "", false},
			{bob, "12345678", bob, false},
			{bob, "12345678", bob, true},
		} {
			do(t, s, func(ctx context.Context) error {
				user, used, err := s.Validity.TakeToken(ctx, c.whose, c.token)
				if user != c.user || used != c.used {
					t.Errorf("%q of %q: got %q, used %v; want %q, %v", c.token, c.whose, user, used, c.user, c.used)
				}
				return err
			})
		}
	})
}
