package storage

import (
	"context"
	"testing"
	"time"
)

func TestAnAddressIsOneAccounts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		put := func(p ThreePID) (mine bool) {
			do(t, s, func(ctx context.Context) (err error) { mine, err = s.ThreePIDs.Put(ctx, p); return err })
			return mine
		}
		now := time.UnixMilli(1700000000000)
		alice := ThreePID{UserID: "@alice:x", Medium: "email", Address: "a@x", Validated: now}
		if !put(alice) || !put(alice) {
			t.Error("alice did not get her address")
		}
		if put(ThreePID{UserID: "@bob:x", Medium: "email", Address: "a@x", Validated: now}) {
			t.Error("bob got alice's address")
		}
		got, err := s.ThreePIDs.ByAddress(t.Context(), "email", "a@x")
		if err != nil || got == nil || got.UserID != "@alice:x" || !got.Validated.Equal(now) {
			t.Errorf("by address: got %+v, %v", got, err)
		}
		do(t, s, func(ctx context.Context) error {
			if gone, err := s.ThreePIDs.Delete(ctx, "@bob:x", "email", "a@x"); gone || err != nil {
				t.Errorf("bob takes alice's address away: got %v, %v", gone, err)
			}
			if gone, err := s.ThreePIDs.Delete(ctx, "@alice:x", "email", "a@x"); !gone || err != nil {
				t.Errorf("alice takes her address away: got %v, %v", gone, err)
			}
			return nil
		})
		if list, err := s.ThreePIDs.Of(t.Context(), "@alice:x"); len(list) != 0 || err != nil {
			t.Errorf("left: %v, %v", list, err)
		}
	})
}

func TestValidationsNeedSecretAndToken(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		v := Validation{Purpose: "add", Medium: "email", Address: "a@x", UserID: "@alice:x"}
		begin := func(v Validation, secret, token string, attempt int64) (sid string, send bool) {
			do(t, s, func(ctx context.Context) (err error) {
				sid, send, err = s.Validations.Begin(ctx, v, secret, token, attempt)
				return err
			})
			return sid, send
		}
		sid, send := begin(v, "secret", "T1", 1)
		if !send {
			t.Error("the first attempt sends nothing")
		}
		if again, send := begin(v, "secret", "T2", 1); again != sid || send {
			t.Errorf("the same attempt: got %s, %v, want %s without sending", again, send, sid)
		}
		if other, _ := begin(v, "other", "T9", 1); other == sid {
			t.Error("another secret got the same session")
		}
		if again, send := begin(v, "secret", "T3", 2); again != sid || !send {
			t.Errorf("the next attempt: got %s, %v, want %s, sent", again, send, sid)
		}
		for _, bad := range [][2]string{{sid, "T1"}, {sid, "T2"}, {"S", "T3"}, {sid, ""}} {
			if got, err := s.Validations.ByToken(t.Context(), bad[0], bad[1]); got != nil || err != nil {
				t.Errorf("%v: got %+v, %v, want nothing", bad, got, err)
			}
		}
		if got, _ := s.Validations.BySID(t.Context(), sid, "secret"); got == nil || !got.Validated.IsZero() {
			t.Errorf("before: got %+v", got)
		}
		if got, err := s.Validations.ByToken(t.Context(), sid, "T3"); err != nil || got == nil || got.Address != "a@x" || got.UserID != "@alice:x" {
			t.Errorf("by token: got %+v, %v", got, err)
		}
		do(t, s, func(ctx context.Context) error { return s.Validations.Done(ctx, sid) })
		if got, _ := s.Validations.BySID(t.Context(), sid, "secret"); got == nil || got.Validated.IsZero() {
			t.Errorf("after: got %+v", got)
		}
		if got, _ := s.Validations.BySID(t.Context(), sid, "guess"); got != nil {
			t.Error("a wrong secret found the proof")
		}
		do(t, s, func(ctx context.Context) error {
			if first, err := s.Validations.End(ctx, sid); !first || err != nil {
				t.Errorf("end: got %v, %v", first, err)
			}
			if first, err := s.Validations.End(ctx, sid); first || err != nil {
				t.Errorf("end again: got %v, %v", first, err)
			}
			return s.Validations.Sweep(ctx, time.Now().Add(time.Hour))
		})
	})
}
