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
