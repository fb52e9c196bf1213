package calls

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// openStore opens a bus and an empty database.
func openStore(t *testing.T, at bus.Config) (*bus.Bus, *storage.Store) {
	t.Helper()
	messages, err := bus.Open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(messages.Close)
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return messages, store
}

// newTestLeaves makes a house's leaves with a call "c" in which nobody is; its loop does not run.
func newTestLeaves(t *testing.T) *leaves {
	t.Helper()
	messages, store := openStore(t, bus.Config{})
	f := &Focus{rooms: map[string]*Room{}}
	f.house = &house{name: "interior.test", store: store, bus: messages}
	f.rooms["c"] = newRoom(f, "c")
	return newLeaves(f, f.house)
}

// inside has exactly these identities be in the call.
func (l *leaves) inside(identities ...string) {
	var all []*Participant
	for _, identity := range identities {
		all = append(all, &Participant{identity: identity, done: make(chan struct{})})
	}
	l.focus.rooms["c"].everyone.Store(&all)
}

func aLeave(user id.UserID, timeout time.Duration) *storage.CallLeave {
	return &storage.CallLeave{
		Call: "c", Identity: string(user) + ":D", RoomID: "!a:interior.test", UserID: user, DelayID: "d-" + string(user),
		Timeout: timeout.Milliseconds(), Since: time.Now().UnixMilli(),
	}
}

func (l *leaves) put(t *testing.T, rows ...*storage.CallLeave) {
	t.Helper()
	err := l.house.store.Do(t.Context(), func(ctx context.Context) error {
		for _, row := range rows {
			if err := l.house.store.CallLeaves.Put(ctx, row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLeavesAreGivenUp: a homeserver that takes no leave is asked for as long as it would wait itself, and no longer.
func TestLeavesAreGivenUp(t *testing.T) {
	for _, c := range []struct {
		name    string
		action  bus.DelayedAction
		timeout time.Duration
		given   time.Duration
	}{
		{"sent", bus.DelayedSend, 20 * time.Minute, 20 * time.Minute},
		{"sent, a long one", bus.DelayedSend, 24 * time.Hour, time.Hour},
		{"restarted", bus.DelayedRestart, 20 * time.Minute, 20 * time.Minute},
		{"restarted, a long one", bus.DelayedRestart, 24 * time.Hour, 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTestLeaves(t)
			row := aLeave("@eve:finance.test", c.timeout)
			l.put(t, row)
			begun := time.Now()
			l.reload(t.Context(), begun)
			job := l.jobs[[2]string{row.Call, row.Identity}]
			other := map[bus.DelayedAction]bus.DelayedAction{bus.DelayedSend: bus.DelayedRestart, bus.DelayedRestart: bus.DelayedSend}[c.action]
			refused := bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "no")
			for _, step := range []struct {
				after  time.Duration
				action bus.DelayedAction
				left   int
			}{{-time.Hour, other, 1}, {0, c.action, 1}, {c.given - time.Second, c.action, 1}, {c.given, c.action, 0}} {
				l.settle(t.Context(), leaveOutcome{job, step.action, refused}, begun.Add(step.after))
				rows, err := l.house.store.CallLeaves.All(t.Context(), 10)
				if err != nil || len(rows) != step.left || len(l.jobs) != step.left {
					t.Fatalf("after %v: got %d rows and %d jobs (%v), want %d", step.after, len(rows), len(l.jobs), err, step.left)
				}
				if pause := job.retry.Sub(begun.Add(step.after)); step.left > 0 && (pause <= 0 || pause > longestRetry) {
					t.Errorf("after %v: it is tried again after %v, want within %v", step.after, pause, longestRetry)
				}
			}
		})
	}
}

// TestLeavesAreBounded: neither a user nor another server fills the places of the others.
func TestLeavesAreBounded(t *testing.T) {
	l := newTestLeaves(t)
	var rows []*storage.CallLeave
	fill := func(n int, user func(i int) id.UserID) {
		for i := range n {
			row := aLeave(user(i), time.Hour)
			row.Identity = fmt.Sprint(user(i), i)
			rows = append(rows, row)
		}
	}
	fill(leavesPerUser, func(int) id.UserID { return "@eve:interior.test" })
	fill(leavesPerServer, func(i int) id.UserID { return id.UserID(fmt.Sprintf("@eve%d:hostile.test", i)) })
	again := aLeave("@eve:interior.test", time.Hour)
	again.Identity = rows[0].Identity
	l.put(t, rows...)
	hand := func(name string, row *storage.CallLeave, want error) {
		t.Helper()
		if err := l.hand(t.Context(), row); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	hand("one more of a user", aLeave("@eve:interior.test", time.Hour), errTooManyLeaves)
	hand("a newer one", again, nil)
	hand("another user's", aLeave("@ann:interior.test", time.Hour), nil)
	hand("one more of a server", aLeave("@ann:hostile.test", time.Hour), errTooManyLeaves)
	hand("another server's", aLeave("@ann:finance.test", time.Hour), nil)
	rows = nil
	fill(leavesOfOthers-leavesPerServer, func(i int) id.UserID { return id.UserID(fmt.Sprintf("@eve:hostile%d.test", i)) })
	l.put(t, rows...)
	hand("one more of all the others", aLeave("@bob:finance.test", time.Hour), errTooManyLeaves)
	hand("our own nevertheless", aLeave("@bob:interior.test", time.Hour), nil)
}

// TestServersAreAskedInTurn: a server that does not answer is asked a few things at once, and delays no other's leaves.
func TestServersAreAskedInTurn(t *testing.T) {
	l := newTestLeaves(t)
	var asking, most atomic.Int32
	held, asked, own := make(chan struct{}), make(chan string, 100), make(chan string, 1)
	var release sync.Once
	defer release.Do(func() { close(held) })
	stop, err := bus.Answer(t.Context(), l.house.bus, bus.FederationDo, func(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
		n := asking.Add(1)
		defer asking.Add(-1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		asked <- q.DelayedLeave.DelayID
		<-held
		return bus.FederationAnswer{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	stopOwn, err := bus.Answer(t.Context(), l.house.bus, bus.DelayedDo, func(_ context.Context, _ string, q bus.DelayedQuestion) (bus.DelayedAnswer, error) {
		own <- q.ID
		return bus.DelayedAnswer{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stopOwn()
	const crowd = 5 * othersAtOnce
	for i := range crowd {
		row := aLeave(id.UserID(fmt.Sprintf("@eve%d:hostile.test", i)), time.Millisecond)
		l.jobs[[2]string{row.Call, row.Identity}] = &leaveJob{CallLeave: row, here: true, soon: true}
		l.put(t, row)
	}
	row := aLeave("@ann:interior.test", time.Hour)
	l.jobs[[2]string{row.Call, row.Identity}] = &leaveJob{CallLeave: row, here: true, soon: true}
	l.put(t, row)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.run(ctx) }()
	defer func() { cancel(); <-ended; l.focus.live.Wait() }()
	next := func(from chan string, what string) string {
		t.Helper()
		select {
		case delay := <-from:
			return delay
		case <-time.After(patience):
			t.Fatalf("%s was not asked for within %v", what, patience)
			return ""
		}
	}
	next(own, "our own")
	seen := map[string]bool{}
	for range othersAtOnce {
		seen[next(asked, "the other server's")] = true
	}
	release.Do(func() { close(held) })
	for len(seen) < crowd {
		seen[next(asked, "the other server's")] = true
	}
	if got := most.Load(); got != othersAtOnce {
		t.Errorf("got %d questions at once, want %d", got, othersAtOnce)
	}
}

// TestAnothersClockIsNotAsked: whether another process has a participant is seen by its word changing, whatever its clock says.
func TestAnothersClockIsNotAsked(t *testing.T) {
	for _, skew := range []time.Duration{-24 * time.Hour, -20 * time.Second, 0, 20 * time.Second, 24 * time.Hour} {
		l := newTestLeaves(t)
		now := time.Now()
		word := func(seen time.Time) *leaveJob {
			row := aLeave("@ann:interior.test", time.Hour)
			if !seen.IsZero() {
				row.Seen = seen.UnixMilli()
			}
			l.take(row, now)
			return l.jobs[[2]string{row.Call, row.Identity}]
		}
		job := word(time.Time{})
		for range 24 { // two minutes
			now = now.Add(sawEvery)
			job = word(now.Add(skew))
			if due := l.due(job, now); due != "" {
				t.Fatalf("skew %v: got %q though the other process has the participant", skew, due)
			}
		}
		last := now.Add(skew)
		now = now.Add(orphaned - time.Millisecond)
		if due := l.due(word(last), now); due != "" {
			t.Errorf("skew %v: got %q before the other process is taken for dead", skew, due)
		}
		now = now.Add(time.Millisecond)
		if due := l.due(word(last), now); due != bus.DelayedSend {
			t.Errorf("skew %v: got %q of a process that is no more, want %q", skew, due, bus.DelayedSend)
		}
		blind, cancel := context.WithCancel(t.Context())
		cancel()
		l.loaded = time.Time{}
		l.reload(blind, now)
		if due := l.due(job, now.Add(orphaned-time.Millisecond)); due != "" {
			t.Errorf("skew %v: got %q though the rows could not be read", skew, due)
		}
	}
}

// TestLeaveOfOneWhoMovedOn: who was here and is now at another process is that one's to look after.
func TestLeaveOfOneWhoMovedOn(t *testing.T) {
	l := newTestLeaves(t)
	row := aLeave("@ann:interior.test", time.Hour)
	l.put(t, row)
	inRow := func() *storage.CallLeave {
		t.Helper()
		stored, err := l.house.store.CallLeaves.Of(t.Context(), row.Call, row.Identity)
		if err != nil || stored == nil {
			t.Fatalf("got %v (%v), want the row", stored, err)
		}
		return stored
	}
	now := time.Now()
	l.reload(t.Context(), now)
	job := l.jobs[[2]string{row.Call, row.Identity}]
	l.saw = now
	l.inside(row.Identity)
	l.witness(t.Context(), now)
	if got := inRow().Seen; got != now.UnixMilli() {
		t.Errorf("of one who has just come: got %d in the row, want %d", got, now.UnixMilli())
	}
	l.inside()
	now = now.Add(time.Second)
	l.witness(t.Context(), now)
	now = now.Add(comeBack)
	l.take(inRow(), now) // our own word
	if due := l.due(job, now); due != bus.DelayedSend {
		t.Errorf("of one who did not come back: got %q, want %q", due, bus.DelayedSend)
	}
	if err := l.house.store.CallLeaves.Saw(t.Context(), 12345, [][2]string{{row.Call, row.Identity}}); err != nil {
		t.Fatal(err)
	}
	l.take(inRow(), now)
	if due := l.due(job, now); due != "" {
		t.Errorf("of one who is elsewhere: got %q, want nothing", due)
	}
	if due := l.due(job, now.Add(orphaned)); due != bus.DelayedSend {
		t.Errorf("of one who was elsewhere: got %q, want %q", due, bus.DelayedSend)
	}
}
