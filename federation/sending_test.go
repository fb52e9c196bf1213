package federation_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// sent is a transaction that a stranger got.
type sent struct {
	id   string
	body string
}

// bodies gives the texts of the messages in it.
func (s sent) bodies() (texts []string) {
	for _, p := range gjson.Get(s.body, "pdus").Array() {
		if body := p.Get("content.body"); body.Exists() {
			texts = append(texts, body.Str)
		}
	}
	return texts
}

// takeTransactions lets the stranger take transactions in; status says how each is answered.
func (s *stranger) takeTransactions(status func(n int, t sent) int) <-chan sent {
	got := make(chan sent, 1000)
	n := 0
	s.mux.HandleFunc("PUT /_matrix/federation/v1/send/{txn}", func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		t := sent{path.Base(r.URL.Path), string(body)}
		n++
		code := status(n, t)
		rw.WriteHeader(code)
		_, _ = rw.Write([]byte(`{"pdus":{}}`))
		got <- t
	})
	return got
}

func next(t *testing.T, got <-chan sent) sent {
	t.Helper()
	select {
	case s := <-got:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain for a transaction")
		return sent{}
	}
}

// TestTransactionIsRepeatedUnchanged: until it is answered the same transaction comes, under the same name, also after a restart;
// what happened meanwhile comes after it, once and in order.
func TestTransactionIsRepeatedUnchanged(t *testing.T) {
	w := newTown(t, "interior.example", "other.example")
	interior, other := w.open("interior.example"), w.stranger("other.example")
	alice, carol := interior.account("alice"), id.UserID("@carol:other.example")
	room := interior.room(id.RoomV11, alice, "public")
	up := make(chan struct{})
	got := other.takeTransactions(func(int, sent) int {
		select {
		case <-up:
			return 200
		default:
			return 500
		}
	})
	other.joinBy(interior, id.RoomV11, room, carol)
	interior.say(room, alice, "first")
	first := next(t, got)
	for range 2 {
		interior.say(room, alice, "meanwhile")
		if again := next(t, got); again != first {
			t.Errorf("before the restart: got %s %s, want %s %s", again.id, again.body, first.id, first.body)
		}
	}
	interior.restart()
	for drained := false; !drained; {
		select {
		case <-got:
		default:
			drained = true
		}
	}
	interior.say(room, alice, "after the restart")
	if again := next(t, got); again != first {
		t.Errorf("after the restart: got %s %s, want %s %s", again.id, again.body, first.id, first.body)
	}
	close(up)
	var texts []string
	names := map[string]string{}
	for len(texts) == 0 || texts[len(texts)-1] != "after the restart" {
		s := next(t, got)
		if body, ok := names[s.id]; ok && body != s.body {
			t.Errorf("transaction %s came with two bodies", s.id)
		} else if !ok && s.id != first.id {
			texts = append(texts, s.bodies()...)
		}
		names[s.id] = s.body
	}
	if want := []string{"meanwhile", "meanwhile", "after the restart"}; !slices.Equal(texts, want) {
		t.Errorf("got %q after the first, want %q", texts, want)
	}
}

// TestPoisonDoesNotBlock: a transaction that the other server refuses as malformed is given up after a few attempts; what comes
// behind it arrives.
func TestPoisonDoesNotBlock(t *testing.T) {
	w := newTown(t, "interior.example", "other.example")
	interior, other := w.open("interior.example"), w.stranger("other.example")
	alice, carol := interior.account("alice"), id.UserID("@carol:other.example")
	room := interior.room(id.RoomV11, alice, "public")
	got := other.takeTransactions(func(_ int, s sent) int {
		if slices.Contains(s.bodies(), "poison") {
			return 400
		}
		return 200
	})
	other.joinBy(interior, id.RoomV11, room, carol)
	interior.say(room, alice, "poison")
	poisoned := 0
	for slices.Contains(next(t, got).bodies(), "poison") {
		if poisoned++; poisoned == 1 {
			interior.say(room, alice, "wholesome")
		}
	}
	if poisoned < 2 || poisoned > 5 {
		t.Errorf("the refused transaction came %d times, want a few", poisoned)
	}
}

// TestSilentServerHoldsUpNobody: a server that takes a transaction and never answers keeps no other waiting.
func TestSilentServerHoldsUpNobody(t *testing.T) {
	w := newTown(t, "interior.example", "silent.example", "finance.example")
	interior, silent, finance := w.open("interior.example"), w.stranger("silent.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "public")
	release := make(chan struct{})
	w.Cleanup(func() { close(release) })
	silent.mux.HandleFunc("PUT /_matrix/federation/v1/send/{txn}", func(http.ResponseWriter, *http.Request) { <-release })
	silent.joinBy(interior, id.RoomV11, room, "@carol:silent.example")
	finance.join(room, bob, interior)
	for range 5 {
		began := time.Now()
		finance.waitFor(interior.say(room, alice, "hello"))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a message took %v past a silent server", took)
		}
	}
}

// TestOversizedInviteState: what strangers put into invites is bounded before it goes out again, so that it cannot jam a queue.
func TestOversizedInviteState(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	huge := make([]json.RawMessage, 0, 300)
	for i := range 300 {
		content, _ := json.Marshal(map[string]string{"name": numbered(i) + strings.Repeat("x", 1000)})
		entry, _ := json.Marshal(map[string]any{"type": numbered(i), "state_key": "", "sender": "@mallory:evil.example", "content": json.RawMessage(content)})
		huge = append(huge, entry)
	}
	raw := evil.build(id.RoomV11, inviteOf(alice, "!there:evil.example"))
	status, code, _ := evil.ask(interior, "PUT", []string{"v2", "invite", "!there:evil.example", string(eventIDOf(t, id.RoomV11, raw))},
		map[string]any{"room_version": "11", "event": raw, "invite_room_state": huge})
	if status != 200 {
		t.Fatalf("got %d %s", status, code)
	}
	m, err := interior.store.Memberships.Of(t.Context(), "!there:evil.example", alice)
	if err != nil || m == nil {
		t.Fatalf("got %v and error %v", m, err)
	}
	size := 0
	for _, s := range m.Stripped {
		size += len(s)
	}
	if size > 64<<10 {
		t.Errorf("%d bytes of stripped state were kept, want at most 64 KiB", size)
	}
}
