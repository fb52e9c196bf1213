package storage

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestDelayedEventsAreSweptAndCounted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx := t.Context()
		for n := range int64(6) {
			d := &DelayedEvent{ID: fmt.Sprint("d", n), UserID: "@alice:interior", RoomID: "!r", Type: "org.test", Content: []byte(`{}`), Delay: 10, Since: n, Due: 100 + n, Sticky: n}
			if added, err := s.DelayedEvents.Add(ctx, d, 10); err != nil || !added {
				t.Fatalf("added %v (%v), want it to be", added, err)
			}
			if n == 0 {
				continue // it waits
			}
			d.Outcome, d.Finished = DelayedSent, 1000+n
			if err := s.DelayedEvents.Finish(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
		if next, err := s.DelayedEvents.Next(ctx, "@alice:interior"); err != nil || next != 100 {
			t.Errorf("the next is due at %d (%v), want 100", next, err)
		}
		if next, err := s.DelayedEvents.Next(ctx, "@bob:interior"); err != nil || next != 0 {
			t.Errorf("of somebody without any the next is due at %d (%v), want 0", next, err)
		}
		// One is too old, and of the others the two that ended last stay.
		if err := s.DelayedEvents.Sweep(ctx, 1002, 2); err != nil {
			t.Fatal(err)
		}
		ended, err := s.DelayedEvents.ByUser(ctx, "@alice:interior", true, 10)
		if err != nil || len(ended) != 2 || ended[0].ID != "d5" || ended[1].ID != "d4" || ended[0].Sticky != 5 {
			t.Errorf("left are %+v (%v), want d5 and d4", ended, err)
		}
		if waits, err := s.DelayedEvents.Count(ctx, "@alice:interior"); err != nil || waits != 1 {
			t.Errorf("%d wait (%v), want one", waits, err)
		}
		for delay, want := range map[string]struct {
			outcome string
			found   bool
		}{"d0": {"", true}, "d5": {DelayedSent, true}, "d1": {"", false}, "none": {"", false}} {
			if outcome, found, err := s.DelayedEvents.Outcome(ctx, delay); err != nil || outcome != want.outcome || found != want.found {
				t.Errorf("%s: got %q, %v, %v, want %+v", delay, outcome, found, err, want)
			}
		}
	})
}

// TestDelayedEventsAreAddedOnce: of what comes at once one is written for each request, and of one user's no more than may wait.
func TestDelayedEventsAreAddedOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		for _, c := range []struct {
			name        string
			transaction func(n int) string
			most, want  int
		}{
			{"the same", func(int) string { return "t" }, 100, 1},
			{"the same that is the last", func(int) string { return "t" }, 1, 1},
			{"others", func(n int) string { return fmt.Sprint("t", n) }, 100, 20},
			{"state", func(int) string { return "" }, 100, 20},
			{"more than may wait", func(n int) string { return fmt.Sprint("t", n) }, 7, 7},
			{"more state than may wait", func(int) string { return "" }, 7, 7},
		} {
			user := id.UserID("@" + c.name)
			var adding sync.WaitGroup
			var added atomic.Int32
			for n := range 20 {
				adding.Go(func() {
					d := &DelayedEvent{ID: fmt.Sprint(c.name, n), UserID: user, DeviceID: "D", RoomID: "!r", Type: "org.test", Content: []byte(`{}`), Path: "p", TransactionID: c.transaction(n)}
					yes, err := s.DelayedEvents.Add(t.Context(), d, c.most)
					if err != nil {
						t.Errorf("%s: %v", c.name, err)
					}
					if yes {
						added.Add(1)
					}
				})
			}
			adding.Wait()
			waiting, err := s.DelayedEvents.Count(t.Context(), user)
			if err != nil || waiting != c.want || int(added.Load()) != c.want {
				t.Errorf("%s: %d wait and %d were added (%v), want %d", c.name, waiting, added.Load(), err, c.want)
			}
		}
	})
}

func TestUpgradesAreKeptUntilTheyEnd(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		write := func() error {
			return w.WriteAndWait(&RoomRows{Line: &Line{}, Room: "!new", Upgrade: &Upgrade{Old: "!old", New: "!new", By: "@alice:interior"}})
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
		if err := write(); err == nil {
			t.Error("a room is being replaced twice at once")
		}
		if u, err := s.Upgrades.Of(t.Context(), "!old"); err != nil || u == nil || u.New != "!new" || u.By != "@alice:interior" {
			t.Errorf("got %+v (%v), want the replacement", u, err)
		}
		if list, err := s.Upgrades.Unfinished(t.Context(), 10); err != nil || len(list) != 1 {
			t.Errorf("unfinished: %d (%v), want one", len(list), err)
		}
		if err := s.Upgrades.End(t.Context(), "!old"); err != nil {
			t.Fatal(err)
		}
		if u, err := s.Upgrades.Of(t.Context(), "!old"); err != nil || u != nil {
			t.Errorf("once it has ended: %+v (%v), want none", u, err)
		}
	})
}
