package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startNATS starts a NATS server that listens on a port; -1 is a free one.
func startNATS(t *testing.T, port int) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS did not start")
	}
	return ns
}

// external opens buses at one NATS server that listens, as processes do.
func external(t *testing.T, n int) []*Bus {
	t.Helper()
	return at(t, startNATS(t, -1), n)
}

// at opens buses at a NATS server.
func at(t *testing.T, ns *server.Server, n int) []*Bus {
	t.Helper()
	var buses []*Bus
	for range n {
		cfg := DefaultConfig()
		cfg.URL = ns.ClientURL()
		b, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		buses = append(buses, b)
	}
	return buses
}

// TestAnswererDies kills an answerer over a question: the next one gets it at once, not after the asker's whole patience.
func TestAnswererDies(t *testing.T) {
	buses := external(t, 3)
	asker, first, second := buses[0], buses[1], buses[2]
	taken := make(chan struct{}, 1)
	if _, err := Serve(first, "slow", func(*Question[int, int]) { taken <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-taken
		time.AfterFunc(3*deskAfter/2, func() { // the question lies on the desk by now
			first.Close()
			if _, err := Serve(second, "slow", func(q *Question[int, int]) { q.Respond(q.Body+1, nil) }); err != nil {
				t.Error(err)
			}
		})
	}()
	begun := time.Now()
	got, err := Ask[int, int](t.Context(), asker, "slow", 41)
	if err != nil || got != 42 {
		t.Errorf("got %d, %v, want 42", got, err)
	}
	if took := time.Since(begun); took > silence {
		t.Errorf("the answer took %v, want less than %v", took, silence)
	}
}

// TestSlowAnswer waits for an answer that takes longer than a moment, and asks once only.
func TestSlowAnswer(t *testing.T) {
	buses := external(t, 2)
	asked := make(chan struct{}, 10)
	_, err := Answer(t.Context(), buses[1], "slow", func(ctx context.Context, _ string, n int) (int, error) {
		asked <- struct{}{}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(5 * deskAfter / 2):
			return n + 1, nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Ask[int, int](t.Context(), buses[0], "slow", 41); err != nil || got != 42 {
		t.Errorf("got %d, %v, want 42", got, err)
	}
	if n := len(asked); n != 1 {
		t.Errorf("the answerer was asked %d times, want once", n)
	}
}

// TestFaultsAndPatience tells a broken answerer from one that is not there.
func TestFaultsAndPatience(t *testing.T) {
	buses := external(t, 2)
	if _, err := Answer(t.Context(), buses[1], "broken", func(context.Context, string, int) (int, error) { return 0, errors.New("no disk") }); err != nil {
		t.Fatal(err)
	}
	if _, err := Ask[int, int](t.Context(), buses[0], "broken", 1); !errors.Is(err, ErrFault) {
		t.Errorf("a fault: got %v, want ErrFault", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Ask[int, int](ctx, buses[0], "nobody", 1); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrFault) {
		t.Errorf("nobody there: got %v, want the deadline", err)
	}
}
