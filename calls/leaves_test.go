package calls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
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
	f := &Focus{rooms: map[string]*Room{}, ctx: t.Context()}
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

// insideOf has exactly these sessions of Ann's device be in the call.
func (l *leaves) insideOf(device id.DeviceID, identities ...string) {
	l.inside(identities...)
	for _, p := range *l.focus.rooms["c"].everyone.Load() {
		p.user, p.device = "@ann:interior.test", device
	}
}

// ofDevice is a leave that a session of Ann's device has handed over.
func ofDevice(device id.DeviceID, identity string) *storage.CallLeave {
	row := aLeave("@ann:interior.test", time.Hour)
	row.Identity, row.DeviceID, row.DelayID = identity, device, "d-"+identity
	return row
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
		l.jobs[[2]string{row.Call, row.Identity}] = &leaveJob{CallLeave: row, here: true}
		l.put(t, row)
	}
	row := aLeave("@ann:interior.test", time.Hour)
	l.jobs[[2]string{row.Call, row.Identity}] = &leaveJob{CallLeave: row, here: true}
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

// TestAFarewellMayBeABeginning: a client that begins anew takes its leave as one does that hangs up, and is back at once.
func TestAFarewellMayBeABeginning(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    ending
		within time.Duration // that it may come back
	}{
		{"its own leave", ending{signal.DisconnectReason_CLIENT_INITIATED, signal.Leave_DISCONNECT, true}, beginsAnew},
		{"removed", ending{signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT, false}, 0},
		{"lost", ending{signal.DisconnectReason_CONNECTION_TIMEOUT, signal.Leave_DISCONNECT, false}, 0},
		{"sent elsewhere", ending{signal.DisconnectReason_SERVER_SHUTDOWN, signal.Leave_RECONNECT, false}, comeBack},
		{"came twice", ending{signal.DisconnectReason_DUPLICATE_IDENTITY, signal.Leave_DISCONNECT, false}, comeBack},
	} {
		l := newTestLeaves(t)
		row := aLeave("@ann:interior.test", time.Hour)
		now := time.Now()
		l.take(row, now)
		job := l.jobs[[2]string{row.Call, row.Identity}]
		job.Restart = now.Add(time.Hour).UnixMilli()
		l.leftCall(&Participant{room: l.focus.rooms["c"], identity: row.Identity, user: row.UserID, because: c.end})
		d := <-l.left
		job.here, job.grace, job.away = true, d.grace, now
		if c.within > 0 {
			if got := l.due(job, now.Add(c.within-time.Millisecond)); got != "" {
				t.Errorf("%s, after %v: got %q, want nothing", c.name, c.within-time.Millisecond, got)
			}
		}
		if got := l.due(job, now.Add(c.within)); got != bus.DelayedSend {
			t.Errorf("%s, after %v: got %q, want %q", c.name, c.within, got, bus.DelayedSend)
		}
	}
}

// TestLeavesThatAreShort: what a caller says of the delay has nobody asked without end.
func TestLeavesThatAreShort(t *testing.T) {
	l := newTestLeaves(t)
	row := aLeave("@eve:hostile.test", time.Millisecond)
	l.put(t, row)
	now := time.Now()
	l.reload(t.Context(), now)
	l.inside(row.Identity)
	l.witness(t.Context(), now)
	job := l.jobs[[2]string{row.Call, row.Identity}]
	l.settle(t.Context(), leaveOutcome{job, bus.DelayedRestart, nil}, now)
	for after, want := range map[time.Duration]bus.DelayedAction{restartLeast - time.Millisecond: "", restartLeast: bus.DelayedRestart} {
		if got := l.due(job, now.Add(after)); got != want {
			t.Errorf("after %v: got %q, want %q", after, got, want)
		}
	}
}

// TestWhatIsGone: a server that knows no such event ends it, one that knows no such route does not.
func TestWhatIsGone(t *testing.T) {
	for code, want := range map[string]int{"M_NOT_FOUND": 0, "M_UNKNOWN": 0, "M_UNRECOGNIZED": 1} {
		l := newTestLeaves(t)
		row := aLeave("@ann:finance.test", time.Hour)
		l.put(t, row)
		now := time.Now()
		l.reload(t.Context(), now)
		l.settle(t.Context(), leaveOutcome{l.jobs[[2]string{row.Call, row.Identity}], bus.DelayedRestart, bus.Refuse(http.StatusNotFound, code, "no")}, now)
		if len(l.jobs) != want {
			t.Errorf("404 %s: %d leaves wait on, want %d", code, len(l.jobs), want)
		}
	}
}

// stepped is a moment as it is read once the host's clock was set by so much.
func stepped(t *testing.T, at time.Time, by time.Duration) time.Time {
	t.Helper()
	wall := at.Round(0)
	*(*uint64)(unsafe.Pointer(&at)) += uint64(by/time.Second) << 30 // its seconds; what it says of the even clock stays
	if got := at.Round(0).Sub(wall); got != by {
		t.Fatalf("the clock was set by %v, want %v", got, by)
	}
	return at
}

// TestLeavesWhenTheClockIsSet: threat D8. Neither are leaves left waiting for an hour, nor sent while who made them is in the call.
func TestLeavesWhenTheClockIsSet(t *testing.T) {
	const timeout = time.Hour
	for _, by := range []time.Duration{-time.Hour, 0, 24 * time.Hour} {
		l := newTestLeaves(t)
		now := time.Now()
		here, never := aLeave("@ann:interior.test", timeout), aLeave("@bob:interior.test", timeout)
		l.put(t, here, never)
		l.reload(t.Context(), now)
		l.inside(here.Identity)
		l.witness(t.Context(), now)
		is := func(when string, row *storage.CallLeave, now time.Time, want bus.DelayedAction) {
			t.Helper()
			if got := l.due(l.jobs[[2]string{row.Call, row.Identity}], now); got != want {
				t.Errorf("set by %v, %s: got %q, want %q", by, when, got, want)
			}
		}
		is("one who is here", here, stepped(t, now, by), bus.DelayedRestart)
		l.settle(t.Context(), leaveOutcome{l.jobs[[2]string{here.Call, here.Identity}], bus.DelayedRestart, nil}, now)
		is("just restarted", here, stepped(t, now.Add(time.Second), by), "")
		is("and again in time", here, stepped(t, now.Add(timeout*9/10), by), bus.DelayedRestart)
		is("one who did not come yet", never, stepped(t, now.Add(timeout-time.Minute), by), "")
		is("one who never came", never, stepped(t, now.Add(timeout+time.Minute), by), bus.DelayedSend)
	}
}

// TestADeviceStandsForOneSession: a page that is loaded again is another participant of the same device, and keeps none alive that was before.
func TestADeviceStandsForOneSession(t *testing.T) {
	const restart, send = bus.DelayedRestart, bus.DelayedSend
	newer := ofDevice("D", "one")
	newer.DelayID = "newer"
	for _, c := range []struct {
		name  string
		steps [][]string // who is in the call
		then  *storage.CallLeave
		last  []string
		at    id.DeviceID                  // of those last; its own if empty
		want  map[string]bus.DelayedAction // once who went has been away for comeBack
	}{
		{"loaded again", [][]string{{"one"}}, ofDevice("D", "two"), []string{"two"}, "", map[string]bus.DelayedAction{"one": send, "two": restart}},
		{"both for a while", [][]string{{"one"}, {"one", "two"}}, ofDevice("D", "two"), []string{"two"}, "", map[string]bus.DelayedAction{"one": send, "two": restart}},
		{"loaded again, nothing handed over", [][]string{{"one"}}, nil, []string{"two"}, "", map[string]bus.DelayedAction{"one": send}},
		{"loaded again after a newer leave", [][]string{{"one"}}, newer, []string{"two"}, "", map[string]bus.DelayedAction{"one": ""}},
		{"loaded again before it came", nil, ofDevice("D", "two"), []string{"two"}, "", map[string]bus.DelayedAction{"one": "", "two": restart}},
		{"by another name", nil, nil, []string{"two"}, "", map[string]bus.DelayedAction{"one": restart}},
		{"by another name, and gone", [][]string{{"two"}}, nil, nil, "", map[string]bus.DelayedAction{"one": send}},
		{"by another name, beside one that has its own", nil, ofDevice("D", "two"), []string{"two", "three"}, "", map[string]bus.DelayedAction{"one": restart, "two": restart}},
		{"another device", nil, nil, []string{"two"}, "E", map[string]bus.DelayedAction{"one": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTestLeaves(t)
			now := time.Now()
			l.take(ofDevice("D", "one"), now)
			for _, inside := range c.steps {
				l.insideOf("D", inside...)
				l.witness(t.Context(), now)
			}
			if c.then != nil {
				l.take(c.then, now)
			}
			l.insideOf(cmp.Or(c.at, "D"), c.last...)
			l.witness(t.Context(), now)
			now = now.Add(comeBack)
			l.witness(t.Context(), now)
			for identity, want := range c.want {
				if got := l.due(l.jobs[[2]string{"c", identity}], now); got != want {
					t.Errorf("%s: got %q, want %q", identity, got, want)
				}
			}
		})
	}
}

// TestAGoodbyeIsOfOneSession: who says farewell does so for itself, and by its device only for one that goes by another name.
func TestAGoodbyeIsOfOneSession(t *testing.T) {
	const grace = time.Minute // as nothing else gives
	for _, c := range []struct {
		name   string
		device id.DeviceID
		was    string // has been in the call before
		rows   []string
		left   string
		want   string // who is taken to have left
	}{
		{"its own", "D", "", []string{"one", "two"}, "one", "one"},
		{"by another name", "D", "", []string{"two"}, "one", "two"},
		{"one that has been here by its own", "D", "two", []string{"two"}, "one", ""},
		{"one without a device", "", "", []string{"two"}, "one", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTestLeaves(t)
			for _, identity := range c.rows {
				l.put(t, ofDevice(c.device, identity))
			}
			l.reload(t.Context(), time.Now())
			if c.was != "" {
				l.insideOf(c.device, c.was)
				l.witness(t.Context(), time.Now())
				l.inside()
			}
			l.departed(t.Context(), goodbye{call: "c", identity: c.left, user: "@ann:interior.test", device: c.device, grace: grace})
			for _, identity := range c.rows {
				if got := l.jobs[[2]string{"c", identity}].grace == grace; got != (identity == c.want) {
					t.Errorf("%s: taken to have left: %v, want %v", identity, got, identity == c.want)
				}
			}
		})
	}
}

// TestALeaveWaitsForItsSession: the end of a session sends no leave that was handed over for the next one, which has yet to come.
func TestALeaveWaitsForItsSession(t *testing.T) {
	const lost, farewell, twice = signal.DisconnectReason_CONNECTION_TIMEOUT, signal.DisconnectReason_CLIENT_INITIATED, signal.DisconnectReason_DUPLICATE_IDENTITY
	for _, c := range []struct {
		name           string
		identity, left string
		came, known    time.Duration // before the session's end
		reason         signal.DisconnectReason
		within         time.Duration // that the leave waits
	}{
		{"the next one's, just handed over", "two", "one", time.Minute, time.Second, lost, comeBack - time.Second},
		{"of one that is named alike", "one", "one", time.Minute, time.Second, lost, comeBack - time.Second},
		{"after a farewell", "two", "one", time.Minute, time.Second, farewell, comeBack - time.Second},
		{"that may come back itself", "two", "one", time.Minute, time.Second, twice, comeBack},
		{"its own, handed over before", "one", "one", time.Second, 2 * time.Second, lost, 0},
		{"its own, and a farewell", "one", "one", time.Second, 2 * time.Second, farewell, beginsAnew},
		{"handed over long ago", "one", "one", time.Hour, comeBack, lost, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTestLeaves(t)
			row := ofDevice("D", c.identity)
			l.put(t, row)
			begun := time.Now()
			l.reload(t.Context(), begun)
			job := l.jobs[[2]string{"c", c.identity}]
			job.known = begun.Add(-c.known)
			job.busy = true // nobody is asked
			l.leftCall(&Participant{
				room: l.focus.rooms["c"], identity: c.left, user: row.UserID, device: row.DeviceID, came: begun.Add(-c.came), because: ending{reason: c.reason},
			})
			l.departed(t.Context(), <-l.left)
			if c.within > 0 {
				if got := l.due(job, begun.Add(c.within-time.Millisecond)); got != "" {
					t.Errorf("before %v: got %q, want nothing", c.within, got)
				}
			}
			if got := l.due(job, job.away.Add(c.within)); got != bus.DelayedSend {
				t.Errorf("after %v: got %q, want %q", c.within, got, bus.DelayedSend)
			}
		})
	}
}
