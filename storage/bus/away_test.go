package bus

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestNATSAway takes NATS away: who asks everybody is told so, it is logged, and what was asked meanwhile is not done when NATS is back.
func TestNATSAway(t *testing.T) {
	ns := startNATS(t, -1)
	log := &lines{}
	cfg := DefaultConfig()
	cfg.URL = ns.ClientURL()
	asker, err := Open(zerolog.New(log).WithContext(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(asker.Close)
	answerer := at(t, ns, 1)[0]
	asked := make(chan string, 100)
	if _, err := AnswerAll(t.Context(), answerer, "all", func(_ context.Context, what string) string {
		asked <- what
		return what
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Answer(t.Context(), answerer, "one", func(_ context.Context, _, what string) (string, error) {
		asked <- what
		return what, nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(answerer, "told", func(_, what string) { asked <- what }); err != nil {
		t.Fatal(err)
	}
	if err := asker.Away(); err != nil {
		t.Errorf("while NATS is there: %v", err)
	}
	away := []chan nats.Status{asker.conn.StatusChanged(nats.RECONNECTING), answerer.conn.StatusChanged(nats.RECONNECTING)}
	back := []chan nats.Status{asker.conn.StatusChanged(nats.CONNECTED), answerer.conn.StatusChanged(nats.CONNECTED)}
	until := func(what string, changed []chan nats.Status) {
		t.Helper()
		for _, c := range changed {
			select {
			case <-c:
			case <-time.After(10 * time.Second):
				t.Fatal(what, "is not seen")
			}
		}
	}

	port := ns.Addr().(*net.TCPAddr).Port
	ns.Shutdown()
	ns.WaitForShutdown()
	until("that NATS is away", away)
	if got, err := AskAll[string, string](t.Context(), asker, "all", "remove him", 100*time.Millisecond); !errors.Is(err, ErrAway) {
		t.Errorf("asked while NATS is away: got %q and %v, want ErrAway", got, err)
	}
	hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err := Ask[string, string](hasty, asker, "one", "send this"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("asked one while NATS is away: got %q and %v, want the deadline", got, err)
	}
	if err := Tell(asker, "told", "he types"); err != nil {
		t.Errorf("told while NATS is away: %v", err)
	}
	if err := asker.Away(); !errors.Is(err, ErrAway) {
		t.Errorf("while NATS is away: %v, want ErrAway", err)
	}
	startNATS(t, port)
	until("that NATS is back", back)
	for deadline := time.Now().Add(10 * time.Second); len(asked) == 0; { // what the answerer serves may be known a little later
		if _, err := AskAll[string, string](t.Context(), asker, "all", "later", 100*time.Millisecond); time.Now().After(deadline) {
			t.Fatalf("asked when NATS is back: nobody is asked (%v)", err)
		}
	}
	if first := <-asked; first != "later" {
		t.Errorf("what was asked while NATS was away is done later: %q", first)
	}
	for _, want := range []string{"NATS is away", "NATS is back"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q: %s", want, log)
		}
	}
}

// TestPatience bears an asker's patience as a span: the clock of the answerer's host may be another.
func TestPatience(t *testing.T) {
	buses := external(t, 2)
	sent, err := buses[1].conn.SubscribeSync(buses[1].prefix + "raw")
	if err != nil {
		t.Fatal(err)
	}
	if err := buses[1].conn.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { _, _ = Ask[int, int](ctx, buses[0], "raw", 1) }()
	m, err := sent.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := patienceOf(m); got <= 0 || got > 5*time.Second {
		t.Errorf("a question says that its asker waits %v, want at most 5 s", got)
	}
	_ = m.Respond([]byte(`{"ok":1}`))

	left := make(chan time.Duration, 1)
	if _, err := Serve(buses[1], "span", func(q *Question[int, int]) {
		ctx, cancel := q.Context(t.Context())
		defer cancel()
		until, _ := ctx.Deadline()
		left <- time.Until(until)
		q.Respond(1, nil)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Ask[int, int](ctx, buses[0], "span", 1); err != nil {
		t.Fatal(err)
	}
	if got := <-left; got <= 0 || got > 5*time.Second {
		t.Errorf("the answerer has %v, want at most 5 s", got)
	}
}
