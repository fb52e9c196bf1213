package calls

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"chancery/calls/signal"
	"chancery/storage/bus"
)

// logLines is a log that a test reads while it is written.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// openNATS starts a NATS server, and gives its address.
func openNATS(t *testing.T) string {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	return ns.ClientURL()
}

// newTestFoci starts two focus processes' worth of foci on one database and one NATS; tokens alone let people in.
func newTestFoci(t *testing.T) (foci [2]*Focus, bases [2]string) {
	t.Helper()
	return newTestFociWith(t.Context(), t, func(int, *Config) {})
}

// newTestFociWith starts them with a log of the test's own in ctx, and each with its configuration changed.
func newTestFociWith(ctx context.Context, t *testing.T, change func(n int, config *Config)) (foci [2]*Focus, bases [2]string) {
	t.Helper()
	messages, store := openStore(t, bus.Config{URL: openNATS(t)})
	for n := range foci {
		var handler http.Handler
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
		config := testConfig()
		config.Standalone, config.Path, config.RelayAddress = false, "/calls", srv.URL
		change(n, &config)
		f, err := New(ctx, config, "interior.test", store, messages)
		if err != nil {
			t.Fatal(err)
		}
		f.admit = openHouse{}
		handler = f.Handler()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := f.Run(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "focus:", err)
			}
		}()
		t.Cleanup(func() {
			srv.Close()
			select {
			case <-done:
			case <-time.After(patience):
				t.Error("the focus did not end")
			}
		})
		foci[n], bases[n] = f, "ws"+strings.TrimPrefix(srv.URL, "http")+"/calls"
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // until they know each other
		foci[0].homes.mu.Lock()
		known := len(foci[0].homes.neighbours)
		foci[0].homes.mu.Unlock()
		if known == 1 {
			return foci, bases
		}
		if time.Now().After(end) {
			t.Fatal("the foci do not know each other")
		}
	}
}

// TestMediaGoToTheHome: the signalling comes to one focus, the call lives on another, and the media meet there.
func TestMediaGoToTheHome(t *testing.T) {
	log := &logLines{}
	foci, bases := newTestFociWith(zerolog.New(log).WithContext(t.Context()), t, func(int, *Config) {})
	if err := foci[0].Drain(time.Hour, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "No new calls are taken") {
		t.Errorf("the log does not tell of the drain: %s", log)
	}
	ann, bob := join(t, bases[0], "room", "ann"), join(t, bases[1], "room", "bob")
	if len(foci[0].liveRooms()) != 0 || len(foci[1].liveRooms()) != 1 {
		t.Errorf("%d and %d calls, want them on the one that is not drained", len(foci[0].liveRooms()), len(foci[1].liveRooms()))
	}
	ann.publish("ann")
	bob.hears("ann")
	cat := join(t, bases[0], "room", "cat")
	cat.hears("ann")
}

// TestFociOfTwoSecrets: neither takes the other's tokens, and the log says why calls fail; of those with one secret it says nothing.
func TestFociOfTwoSecrets(t *testing.T) {
	for _, secrets := range [][2]string{{testSecret, testSecret}, {testSecret, "another " + testSecret}} {
		log := &logLines{}
		foci, _ := newTestFociWith(zerolog.New(log).WithContext(t.Context()), t, func(n int, config *Config) { config.Secret = secrets[n] })
		said := func() bool { return strings.Contains(log.String(), "another calls.key or calls.secret") }
		if secrets[0] == secrets[1] {
			if foci[1].homes.tell(false); said() {
				t.Errorf("foci of one secret: got %s", log)
			}
			continue
		}
		for end := time.Now().Add(patience); !said(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("foci of two secrets: got %s, want a line that says so", log)
			}
		}
		if strings.Contains(log.String(), testSecret) {
			t.Errorf("the log holds a secret: %s", log)
		}
	}
}

// TestAFocusTakenForDeadGivesUp: it learns of its burial, sends everybody away to join anew, and goes on under a new name.
func TestAFocusTakenForDeadGivesUp(t *testing.T) {
	foci, bases := newTestFoci(t)
	ann := join(t, bases[0], "room", "ann")
	if len(foci[0].liveRooms()) != 1 {
		t.Fatal("the call is not on the focus that was reached, though both carry nothing")
	}
	old := foci[0].homes.name()
	if buried, err := foci[1].homes.rows.Bury(t.Context(), old, -1); !buried || err != nil {
		t.Fatalf("bury: got %v, %v", buried, err)
	}
	leave := ann.wait("leave", func(res *signal.Response) bool { return res.GetLeave() != nil }).GetLeave()
	if leave.Action != signal.Leave_RECONNECT {
		t.Errorf("got %v, want to be told to reconnect", leave)
	}
	if now := foci[0].homes.name(); now == old {
		t.Errorf("the focus still calls itself %s", now)
	}
	again := join(t, bases[1], "room", "ann")
	if again.joined.Room.Sid == ann.joined.Room.Sid {
		t.Error("the call is the old one")
	}
}

// TestADrainedFocusKeepsNothing: what it took and nobody has joined yet begins elsewhere, whichever process is reached, and so does
// what it is asked to take by one who has not heard of the drain.
func TestADrainedFocusKeepsNothing(t *testing.T) {
	foci, bases := newTestFoci(t)
	for _, call := range []string{"one", "two"} {
		if home, err := foci[0].homes.claim(t.Context(), call); err != nil || home == nil || home.Process != foci[0].homes.name() {
			t.Fatalf("claim: got %v, %v", home, err)
		}
	}
	if err := foci[0].Drain(time.Hour, false); err != nil {
		t.Fatal(err)
	}
	join(t, bases[1], "one", "ann") // asks the row, which names the drained one
	join(t, bases[0], "two", "ann")
	if answer, err := foci[0].homes.answer(t.Context(), bus.FocusQuestion{Take: "three"}); err == nil {
		t.Errorf("the drained focus took a call: %+v", answer)
	}
	join(t, bases[0], "three", "ann")
	if here, there := len(foci[0].liveRooms()), len(foci[1].liveRooms()); here != 0 || there != 3 {
		t.Errorf("%d and %d calls, want all three on the one that is not drained", here, there)
	}
	if err := foci[0].Drain(0, true); err != nil {
		t.Fatal(err)
	}
	join(t, bases[0], "four", "ann")
	if len(foci[0].liveRooms("four")) != 1 {
		t.Error("taken back, the drain goes on: a new call is not on the one that carries less")
	}
}

// TestACallThatBeginsKeepsItsHome: while a focus gives up the row of a call that has ended, another begins for which it has one.
func TestACallThatBeginsKeepsItsHome(t *testing.T) {
	messages, store := openStore(t, bus.Config{URL: openNATS(t)})
	config := testConfig()
	config.Standalone, config.Path, config.RelayAddress = false, "/calls", "http://127.0.0.1:1"
	f, err := New(t.Context(), config, "interior.test", store, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.shut() })
	const ended, begun = "a", "b" // rows are gone through in their order
	for _, call := range []string{ended, begun} {
		if _, err := f.homes.claim(t.Context(), call); err != nil {
			t.Fatal(err)
		}
	}
	f.homes.mu.Lock()
	f.homes.claimed[ended] = time.Now().Add(-2 * claimLife)
	f.homes.mu.Unlock()
	reconciled := make(chan error, 1)
	err = store.Do(t.Context(), func(context.Context) error { // nobody else writes meanwhile
		go func() { reconciled <- f.homes.reconcile(t.Context()) }()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // until it has asked about the first, and is to write
			f.homes.mu.Lock()
			_, expected := f.homes.claimed[ended]
			f.homes.mu.Unlock()
			if !expected {
				break
			}
			if time.Now().After(end) {
				return errors.New("the call that has ended is not given up")
			}
		}
		_, err := f.room(begun, true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-reconciled; err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]bool{ended: false, begun: true} {
		if home, err := f.homes.rows.Home(t.Context(), call); err != nil || (home != nil) != want {
			t.Errorf("call %s: got home %v, %v, want one: %v", call, home, err, want)
		}
	}
}

// TestAFocusStartedAnew: at the address of a call's home answers another process, since it was killed and started again. Whoever
// joins is not told so, but comes to where the call is next.
func TestAFocusStartedAnew(t *testing.T) {
	foci, bases := newTestFoci(t)
	const dead = "FO_DEAD"
	if err := foci[0].homes.rows.Begin(t.Context(), dead, "http"+strings.TrimSuffix(strings.TrimPrefix(bases[1], "ws"), "/calls")); err != nil {
		t.Fatal(err)
	}
	if _, err := foci[0].homes.rows.Claim(t.Context(), "room", dead); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	ann := join(t, bases[0], "room", "ann")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v, want less than five seconds", took)
	}
	if node := ann.joined.ServerInfo.NodeId; node != foci[0].homes.name() && node != foci[1].homes.name() {
		t.Errorf("the call is on %s, want it on a process that lives", node)
	}
}

// TestRequestsDoNotGoRound: what is relayed to another focus than this one is refused, and no wish of a client makes it relay.
func TestRequestsDoNotGoRound(t *testing.T) {
	foci, bases := newTestFoci(t)
	join(t, bases[1], "room", "ann")
	address := "http" + strings.TrimPrefix(bases[0], "ws") + "/rtc/validate?access_token=" + testTokenOf(t, foci[0], "room", "bob")
	for _, c := range []struct {
		name, header string
		status       int
	}{
		{"to nobody", "", http.StatusOK},
		{"to another", foci[1].homes.name(), http.StatusMisdirectedRequest},
		{"to this one, which is not the call's home", foci[0].homes.name(), http.StatusMisdirectedRequest},
		{"to somebody unknown", "FO_X", http.StatusMisdirectedRequest},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set(relayedTo, c.header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: got %d, want %d", c.name, resp.StatusCode, c.status)
		}
	}
}

func testTokenOf(t *testing.T, f *Focus, room, identity string) string {
	t.Helper()
	token, err := f.tokens.sign(Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: identity}, Video: Grant{Room: room, RoomJoin: true}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestTURNReachesTheOtherFoci: whoever comes to one process's TURN reaches the media of a call on another.
func TestTURNReachesTheOtherFoci(t *testing.T) {
	foci, _ := newTestFoci(t)
	for n, f := range foci {
		other := foci[1-n].engine.UDP()[0]
		for end := time.Now().Add(patience); !f.reach.Load().Reaches(other); time.Sleep(10 * time.Millisecond) { // until the news are there
			if time.Now().After(end) {
				t.Fatalf("focus %d does not reach %v", n, other)
			}
		}
	}
}
