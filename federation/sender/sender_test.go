package sender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/bus"
)

// newSender makes a sender over an empty store; hosts say where servers are.
func newSender(t *testing.T, cfg Config, hosts map[string]string) *Sender {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	remoteConfig := remote.DefaultConfig()
	remoteConfig.Hosts, remoteConfig.AllowedNetworks = hosts, []string{"127.0.0.0/8"}
	client, err := remote.New(remoteConfig, remote.GenerateKeys("us.example"))
	if err != nil {
		t.Fatal(err)
	}
	return New(cfg, client, store, b)
}

// nowhere is an address at which nobody listens.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func dead(n int, address string) map[string]string {
	hosts := make(map[string]string, n)
	for i := range n {
		hosts[fmt.Sprintf("dead%d.example", i)] = address
	}
	return hosts
}

func message(at storage.Position) *storage.Event {
	return &storage.Event{Position: at, RoomID: "!r:us.example", ID: id.EventID(fmt.Sprintf("$%d", at)), JSON: []byte(`{}`)}
}

// TestDeadDestinationsSleep: a thousand servers that cannot be reached are tried once; what happens afterwards neither wakes them
// nor fills memory, until their time has come or they speak.
func TestDeadDestinationsSleep(t *testing.T) {
	const n = 1000
	hosts := dead(n, nowhere(t))
	cfg := DefaultConfig()
	cfg.FirstRetry, cfg.LastRetry = time.Hour, time.Hour
	s := newSender(t, cfg, hosts)
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); s.wait.Wait() }()
	send := func(at storage.Position) {
		t.Helper()
		fell := make(map[string]*destination)
		for server := range hosts {
			d := s.to(server)
			if d.addEvent(message(at)) {
				fell[server] = d
			}
			d.start(ctx)
		}
		if err := s.writeLags(ctx, fell); err != nil {
			t.Fatal(err)
		}
	}
	send(1)
	asleep := func() bool {
		for server := range hosts {
			if d := s.to(server); d.pause() <= 0 || len(d.unwritten()) > 0 {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(time.Minute); !asleep(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not all have failed after a minute")
		}
	}
	settled := s.turns.Load()
	const more = 200
	for at := range storage.Position(more) {
		send(at + 2)
	}
	// Those who were on their way to sleep may have woken once more.
	if got := s.turns.Load() - settled; got > n {
		t.Errorf("%d messages to %d dead servers woke them %d times", more, n, got)
	}
	settled = s.turns.Load()
	for at := range storage.Position(more) {
		send(at + 1000)
	}
	if got := s.turns.Load() - settled; got != 0 {
		t.Errorf("%d more messages woke dead servers %d times, want never", more, got)
	}
	for server := range hosts {
		if d := s.to(server); len(d.waiting)+len(d.flight) != 0 || len(d.lags) != 1 {
			t.Fatalf("%s: %d events in memory and %d lags, want none and one", server, len(d.waiting)+len(d.flight), len(d.lags))
		}
	}
	lags, err := s.store.Destinations.Lags(ctx)
	if err != nil || len(lags) != n {
		t.Errorf("got %d rows and error %v, want %d", len(lags), err, n)
	}
	// One speaks: it alone is tried, once.
	s.to("dead7.example").alive()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		d := s.to("dead7.example")
		d.mu.Lock()
		failures := d.failures
		d.mu.Unlock()
		if failures == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the one that spoke: got %d failures, want 2", failures)
		}
	}
	if got := s.turns.Load() - settled; got > 5 {
		t.Errorf("one server that spoke made for %d wake-ups, want at most 5", got)
	}
}

// TestFewAreDialledAtOnce: servers that take connections and say nothing have a few places, however many they are.
func TestFewAreDialledAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var now, most atomic.Int32
	open := make(chan net.Conn, 1000)
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			open <- conn
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	cfg := DefaultConfig()
	cfg.Dialing, cfg.FirstRetry, cfg.LastRetry = 5, time.Hour, time.Hour
	const n = 60
	hosts := dead(n, l.Addr().String())
	s := newSender(t, cfg, hosts)
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); l.Close(); s.wait.Wait() }()
	for server := range hosts {
		d := s.to(server)
		d.addEvent(message(1))
		d.start(ctx)
	}
	for i := range n {
		select {
		case conn := <-open:
			now.Add(-1)
			conn.Close() // the attempt fails, and the next has its place
		case <-time.After(20 * time.Second):
			t.Fatalf("only %d of %d were dialled", i, n)
		}
	}
	if got := most.Load(); got > 2*5 {
		t.Errorf("%d were dialled at once, want at most %d", got, 2*5)
	}
}
