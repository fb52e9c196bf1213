package storage

import (
	"context"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func TestUpstreamPassesAreGoodOnceInOneBrowser(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		now := time.Now()
		do(t, s, func(ctx context.Context) error {
			for secret, until := range map[string]time.Time{"good": now.Add(time.Minute), "old": now.Add(-time.Second)} {
				if first, err := s.Upstream.PutPass(ctx, UpstreamPass{Kind: UpstreamBegun, Secret: secret, Browser: "mine", Content: []byte("x"), Expires: until}); err != nil || !first {
					t.Errorf("put %s: got %v %v", secret, first, err)
				}
			}
			if first, err := s.Upstream.PutPass(ctx, UpstreamPass{Kind: UpstreamBegun, Secret: "good", Expires: now.Add(time.Hour)}); err != nil || first {
				t.Errorf("put again: got %v %v, want that it is known", first, err)
			}
			return nil
		})
		for _, c := range []struct {
			name, secret, browser string
			kind                  UpstreamKind
			want                  string
		}{
			{"another browser", "good", "other", UpstreamBegun, ""}, {"no browser", "good", "", UpstreamBegun, ""}, {"another kind", "good", "mine", UpstreamDone, ""},
			{"expired", "old", "mine", UpstreamBegun, ""}, {"unknown", "none", "mine", UpstreamBegun, ""}, {"good", "good", "mine", UpstreamBegun, "x"}, {"twice", "good", "mine", UpstreamBegun, ""},
		} {
			do(t, s, func(ctx context.Context) error {
				if got, err := s.Upstream.TakePass(ctx, c.kind, c.secret, c.browser); err != nil || string(got) != c.want {
					t.Errorf("%s: got %q %v, want %q", c.name, got, err, c.want)
				}
				return nil
			})
		}
	})
}

func TestUpstreamSessionsEndTheirDevices(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		attach := func(session string, user id.UserID, device id.DeviceID) (lasts bool) {
			do(t, s, func(ctx context.Context) (err error) {
				if err := s.Devices.Put(ctx, &Device{UserID: user, DeviceID: device}); err != nil {
					return err
				}
				lasts, err = s.Upstream.Attach(ctx, session, user, device)
				return err
			})
			return lasts
		}
		do(t, s, func(ctx context.Context) error {
			return s.Upstream.Put(ctx, UpstreamSession{Session: "one", Provider: "p", Subject: "sub\x00ject", SID: "sid", UserID: "@alice:x"}, "browser")
		})
		for device, want := range map[id.DeviceID]bool{"A": true, "B": true} {
			if got := attach("one", "@alice:x", device); got != want {
				t.Errorf("attach %s: got %v", device, got)
			}
		}
		if attach("one", "@bob:x", "C") || attach("none", "@alice:x", "D") {
			t.Error("attached to a session of another, or of nobody")
		}
		do(t, s, func(ctx context.Context) error { return s.Upstream.Sweep(ctx, time.Now().Add(time.Hour)) })
		of, err := s.Upstream.OfSubject(t.Context(), "p", "sub\x00ject")
		if err != nil || len(of) != 1 || of[0].Subject != "sub\x00ject" {
			t.Fatalf("of the subject: got %v %v", of, err)
		}
		if newest, err := s.Upstream.Newest(t.Context(), "browser"); err != nil || newest == nil || newest.Session != "one" {
			t.Errorf("in the browser: got %v %v", newest, err)
		}
		do(t, s, func(ctx context.Context) error {
			if n, err := s.Upstream.End(ctx, of[0]); err != nil || n != 2 {
				t.Errorf("end: got %d %v, want two devices", n, err)
			}
			return nil
		})
		if left, err := s.Devices.All(t.Context(), "@alice:x"); err != nil || len(left) != 1 || left[0].DeviceID != "D" {
			t.Errorf("left: got %v %v, want D alone", left, err)
		}
		if attach("one", "@alice:x", "E") {
			t.Error("attached to a session that has ended")
		}
	})
}
