package account

import (
	"context"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

func TestIdleSessionsEnd(t *testing.T) {
	store, b := openStore(t)
	cfg := DefaultConfig()
	cfg.ServerName, cfg.IdleTime = "interior", time.Hour
	h := New(cfg, Deps{Store: store, Bus: b, Passwords: NewPasswords(cfg, store), UIA: rest.NewUIA(store, nil, "")})
	err := store.Do(t.Context(), func(ctx context.Context) error {
		for user, service := range map[id.UserID]string{"@alice:interior": "", "@bridge:interior": "irc"} {
			if _, err := store.Accounts.Create(ctx, &storage.Account{UserID: user, ServiceID: service}); err != nil {
				return err
			}
			if err := store.Devices.Put(ctx, &storage.Device{UserID: user, DeviceID: "D"}); err != nil {
				return err
			}
			if err := store.Tokens.Put(ctx, user, "D", storage.Pair{Access: "token of " + string(user)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for _, c := range []struct {
		later         time.Duration
		alice, bridge bool
	}{{30 * time.Minute, true, true}, {2 * time.Hour, false, true}} {
		h.now = func() time.Time { return begun.Add(c.later) }
		if err := h.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for user, want := range map[id.UserID]bool{"@alice:interior": c.alice, "@bridge:interior": c.bridge} {
			session, err := store.Tokens.Session(t.Context(), "token of "+string(user))
			if (session != nil) != want || err != nil {
				t.Errorf("%s after %s: got %+v, %v, want a session: %v", user, c.later, session, err, want)
			}
		}
	}
}
