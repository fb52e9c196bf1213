package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// house is a running room server of "interior".
type house struct {
	t     testing.TB
	store *storage.Store
	bus   *bus.Bus
	stop  func()
}

func openHouse(t testing.TB, database string) *house {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Database: database}, b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := New(DefaultConfig(), store, b, pdu.Signer{ServerName: "interior", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	h := &house{t: t, store: store, bus: b}
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("room server ended with %v", err)
			}
			store.Close()
			b.Close()
		})
	}
	t.Cleanup(h.stop)
	return h
}

func (h *house) ask(room id.RoomID, q bus.RoomQuestion) ([]bus.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(room), q)
	return answer.Outcomes, err
}

func (h *house) propose(room id.RoomID, p bus.Proposal) (bus.Outcome, error) {
	outcomes, err := h.ask(room, bus.RoomQuestion{Propose: &p})
	if err != nil {
		return bus.Outcome{}, err
	}
	return outcomes[0], nil
}

func stateOf(sender id.UserID, typ, key, content string) bus.Proposal {
	return bus.Proposal{Sender: sender, Type: typ, StateKey: &key, Content: json.RawMessage(content)}
}

func (h *house) create(version id.RoomVersion, sender id.UserID) id.RoomID {
	h.t.Helper()
	levels := fmt.Sprintf(`{"users":{%q:100}}`, sender)
	if version == id.RoomV12 {
		levels = `{}`
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	created, err := bus.Ask[bus.Create, bus.Created](ctx, h.bus, bus.CreateRoom, bus.Create{
		Version: version, Sender: sender, Content: json.RawMessage(`{}`),
		Events: []bus.Proposal{
			stateOf(sender, "m.room.member", string(sender), `{"membership":"join"}`),
			stateOf(sender, "m.room.power_levels", "", levels),
			stateOf(sender, "m.room.join_rules", "", `{"join_rule":"public"}`),
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return created.RoomID
}

func TestARoomIsCreatedAndWritten(t *testing.T) {
	for _, version := range pdu.Versions() {
		t.Run(string(version), func(t *testing.T) {
			h := openHouse(t, filepath.Join(t.TempDir(), "test.db"))
			room := h.create(version, "@alice:interior")
			o, err := h.propose(room, bus.Proposal{Sender: "@alice:interior", Type: "m.room.message", Content: json.RawMessage(`{"body":"hello"}`), Device: "D", Path: "PUT", TransactionID: "1"})
			if err != nil || o.Verdict != bus.Accepted {
				t.Fatalf("send: %+v (%v)", o, err)
			}
			again, err := h.propose(room, bus.Proposal{Sender: "@alice:interior", Type: "m.room.message", Content: json.RawMessage(`{"body":"hello"}`), Device: "D", Path: "PUT", TransactionID: "1"})
			if err != nil || again.EventID != o.EventID || !again.Already {
				t.Errorf("the transaction again: %+v (%v), want %s", again, err, o.EventID)
			}
			if _, err := h.propose(room, bus.Proposal{Sender: "@bob:interior", Type: "m.room.message", Content: json.RawMessage(`{}`)}); err == nil {
				t.Error("bob wrote without being in the room")
			}
			events, err := h.store.Events.Backwards(t.Context(), room, storage.Position(1<<40).End(), 100)
			if err != nil || len(events) != 5 {
				t.Fatalf("room holds %d events (%v), want 5", len(events), err)
			}
			for i, e := range events {
				if want := int64(5 - i); e.Depth != want {
					t.Errorf("event %d has depth %d, want %d", i, e.Depth, want)
				}
			}
		})
	}
}

func BenchmarkSend(b *testing.B) {
	h := openHouse(b, filepath.Join(b.TempDir(), "test.db"))
	room := h.create("11", "@alice:interior")
	b.ResetTimer()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := h.propose(room, bus.Proposal{Sender: "@alice:interior", Type: "m.room.message", Content: json.RawMessage(`{"body":"hello"}`)}); err != nil {
				b.Error(err)
			}
		}
	})
}
