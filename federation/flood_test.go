package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
)

// TestFloodHurtsNobody: while one server floods us with transactions, another's messages arrive nearly as fast as without: half of
// them at most 20 per cent or 5 ms later.
func TestFloodHurtsNobody(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example", "evil.example")
	interior, finance, evil := w.open("interior.example"), w.open("finance.example"), w.stranger("evil.example")
	alice, bob, mallory := interior.account("alice"), finance.account("bob"), id.UserID("@mallory:evil.example")
	room, pit := interior.room(id.RoomV11, alice, "public"), interior.room(id.RoomV11, alice, "public")
	finance.join(room, bob, interior)
	flood := evil.flood(interior, pit, evil.joinBy(interior, id.RoomV11, pit, mallory), mallory)

	const n = 40
	deliver := func() []time.Duration {
		took := make([]time.Duration, n)
		for i := range took {
			began := time.Now()
			eventID := finance.say(room, bob, numbered(i))
			for _, moved := interior.store.Moved(); !interior.has(eventID); _, moved = interior.store.Moved() {
				select {
				case <-moved:
				case <-time.After(10 * time.Second):
					t.Fatal("a message did not arrive")
				}
			}
			took[i] = time.Since(began)
		}
		return took
	}
	deliver() // connections, caches
	median := func(list []time.Duration) time.Duration { slices.Sort(list); return list[len(list)/2] }
	var said []string
	for range 3 {
		var quiet, loud []time.Duration
		var sent flooded
		for range 3 {
			quiet = append(quiet, deliver()...)
			stop := flood(&sent)
			loud = append(loud, deliver()...)
			stop()
		}
		p50, under := median(quiet), median(loud)
		most := p50 + max(p50/5, 5*time.Millisecond)
		said = append(said, fmt.Sprintf("delivery p50 %v alone, %v under %d transactions (%d of them turned away)",
			p50.Round(10*time.Microsecond), under.Round(10*time.Microsecond), sent.all.Load(), sent.limited.Load()))
		if under <= most {
			t.Log(said[len(said)-1])
			return
		}
	}
	t.Errorf("in each of three runs the flood cost too much: %s", strings.Join(said, "; "))
}

// flooded counts what a flood sent.
type flooded struct{ all, limited atomic.Int64 }

// flood prepares a flood: valid transactions full of events, and malformed ones, over a few connections, as fast as they are taken.
func (s *stranger) flood(to *house, room id.RoomID, join id.EventID, user id.UserID) func(*flooded) (stop func()) {
	s.Helper()
	create, levels := s.stateIDs(to, room, join)
	var bodies []json.RawMessage
	parent, depth := join, int64(100)
	for range 60 {
		var pdus []json.RawMessage
		for range 50 {
			depth++
			raw := s.build(id.RoomV11, pdu.Draft{
				Type: "m.room.message", Sender: user, RoomID: room, Content: json.RawMessage(`{"msgtype":"m.text","body":"flood"}`),
				PrevEvents: []id.EventID{parent}, AuthEvents: []id.EventID{create, levels, join}, Depth: depth,
			})
			pdus, parent = append(pdus, raw), eventIDOf(s.T, id.RoomV11, raw)
		}
		body, _ := json.Marshal(map[string]any{"pdus": pdus})
		bodies = append(bodies, body)
	}
	junk := json.RawMessage(`{"pdus":[` + strings.Repeat(`{"room_id":"`+string(room)+`","type":5,"x":"`+strings.Repeat("x", 2000)+`"},`, 49) + `{}],"edus":[` +
		strings.Repeat(`{"edu_type":"m.receipt","content":{"`+string(room)+`":{"m.read":{"@nobody:evil.example":{"event_ids":["$x"],"data":{}}}}}},`, 99) + `{}]}`)
	var named, valid atomic.Int64
	return func(sent *flooded) func() {
		ctx, cancel := context.WithCancel(s.Context())
		var wait sync.WaitGroup
		for loop := range 6 {
			wait.Go(func() {
				for ctx.Err() == nil {
					body := junk
					if loop%2 == 0 {
						if i := int(valid.Add(1)) - 1; i < len(bodies) {
							body = bodies[i]
						}
					}
					err := s.client.Ask(ctx, remote.Request{
						Server: to.name, Method: "PUT", Path: []string{"v1", "send", fmt.Sprint("flood", named.Add(1))}, Body: body,
					}, nil)
					sent.all.Add(1)
					if said, ok := remote.Refused(err); ok && said.StatusCode == http.StatusTooManyRequests {
						sent.limited.Add(1)
					}
				}
			})
		}
		return func() { cancel(); wait.Wait() }
	}
}

// TestTooManyRequests: who asks more than the configuration lets it is told to come again later, and when; others are served.
func TestTooManyRequests(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example", "good.example")
	w.change = func(cfg *config) { cfg.Rate.PerSecond, cfg.Rate.Burst = 1, 5 }
	interior, evil, good := w.open("interior.example"), w.stranger("evil.example"), w.stranger("good.example")
	profile := func(s *stranger) int {
		status, _, _ := s.ask(interior, "GET", []string{"v1", "query", "nothing"}, nil)
		return status
	}
	served := 0
	for profile(evil) == 404 {
		if served++; served > 20 {
			t.Fatal("nothing was turned away")
		}
	}
	if served < 5 || served > 8 {
		t.Errorf("%d requests were served before one was turned away, want about 5", served)
	}
	var answer json.RawMessage
	err := evil.client.Ask(t.Context(), remote.Request{Server: interior.name, Method: "GET", Path: []string{"v1", "query", "nothing"}}, &answer)
	said, ok := remote.Refused(err)
	if ms, _ := said.ExtraData["retry_after_ms"].(float64); !ok || said.StatusCode != 429 || said.ErrCode != "M_LIMIT_EXCEEDED" || ms <= 0 || ms > 1000 {
		t.Errorf("got %v, want 429, M_LIMIT_EXCEEDED and when to come again", err)
	}
	if got := profile(good); got != 404 {
		t.Errorf("another server: got %d, want 404", got)
	}
}

// TestUnknownKeysAreNotRead: the body of a request whose signer's keys cannot be had is not read.
func TestUnknownKeysAreNotRead(t *testing.T) {
	w := newTown(t, "interior.example", "good.example")
	interior := w.open("interior.example")
	w.listeners["good.example"].Close()
	body := []byte(`{"pdus":["` + strings.Repeat("x", 8<<20) + `"]}`)
	for range 5 {
		began := time.Now()
		status, code := interior.raw("PUT", "/_matrix/federation/v1/send/1", `X-Matrix origin="good.example",key="ed25519:a",sig="x"`, body)
		if status != 401 || code != "M_UNAUTHORIZED" {
			t.Errorf("got %d %s, want 401", status, code)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}
