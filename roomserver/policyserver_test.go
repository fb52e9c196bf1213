package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage/bus"
)

// judges is a policy server that the test plays: finance.example, behind a federation that the test plays too.
type judges struct {
	mu     sync.Mutex
	signer pdu.Signer
	asked  []string // types
	refuse bool
	hold   chan struct{}
}

func (j *judges) answer(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
	if q.PolicySign == nil || q.PolicySign.Server != "finance.example" {
		return bus.FederationAnswer{}, bus.Refuse(404, "M_UNRECOGNIZED", "not asked for a signature")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, gjson.GetBytes(q.PolicySign.Event, "type").Str)
	if j.hold != nil {
		<-j.hold
	}
	if j.refuse {
		return bus.FederationAnswer{}, bus.Refuse(400, "M_FORBIDDEN", "This looks like spam")
	}
	raw, err := pdu.Sign("11", q.PolicySign.Event, j.signer)
	if err != nil {
		return bus.FederationAnswer{}, err
	}
	signature := gjson.GetBytes(raw, "signatures."+gjson.Escape("finance.example")+"."+gjson.Escape(policy.PolicyServerKey)).Str
	body, err := json.Marshal(map[string]map[string]string{"finance.example": {policy.PolicyServerKey: signature}})
	return bus.FederationAnswer{Body: body}, err
}

func TestPolicyServer(t *testing.T) {
	h := onSQLite(t)
	keys := signerFor("finance.example")
	keys.KeyID = policy.PolicyServerKey
	j := &judges{signer: keys}
	stop, err := bus.Answer(t.Context(), h.bus, bus.FederationDo, j.answer)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	choose := func(room id.RoomID, key string) {
		h.must(room, stateEvent(alice, "m.room.policy", "", fmt.Sprintf(`{"via":"finance.example","public_keys":{"ed25519":%q}}`, key)))
	}
	room := h.create("11")
	choose(room, publicText(keys))
	h.must(room, message(alice, "nobody of the policy server is here"))
	if len(j.asked) != 0 {
		t.Errorf("a server without users in the room was asked for %v", j.asked)
	}
	h.admits(room)
	said := h.must(room, message(alice, "hello"))
	if ev := h.parsed("11", said); !pdu.SignedWith(ev, "finance.example", policy.PolicyServerKey, pdu.PublicKey(publicText(keys))) {
		t.Errorf("the message bears no signature of the policy server: %s", ev.JSON())
	}
	if raw, _ := pdu.EventID("11", h.event(said).JSON); raw != said {
		t.Errorf("the signature changed the event ID: %s, want %s", raw, said)
	}
	h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"signed too"}`))
	if got := fmt.Sprint(j.asked); got != "[m.room.message m.room.topic]" {
		t.Errorf("asked for %s", got)
	}
	j.refuse = true
	h.refused("what the policy server refuses", room, message(alice, "spam"), 400, "M_FORBIDDEN", "")
	if shown := h.timeline(room); shown[len(shown)-1].Type != "m.room.topic" {
		t.Errorf("what was refused is shown: %s", shown[len(shown)-1].JSON)
	}
	j.refuse = false
	choose(room, publicText(signerFor("somebody.else")))
	h.refused("a signature with another key", room, message(alice, "hm"), 403, "M_FORBIDDEN", "")
	choose(room, publicText(keys))

	// The room waits, others do not.
	other := h.create("11")
	j.mu.Lock()
	j.hold, j.asked = make(chan struct{}), nil
	j.mu.Unlock()
	waiting := make(chan error, 1)
	go func() {
		_, err := h.propose(room, message(alice, "in a moment"))
		waiting <- err
	}()
	h.must(other, message(alice, "nothing holds me"))
	select {
	case err := <-waiting:
		t.Fatalf("the room did not wait: %v", err)
	default:
	}
	close(j.hold)
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	h.must(room, stateEvent(alice, "m.room.policy", "", `{}`))
	h.must(room, message(alice, "nobody is asked any more"))
}

func publicText(s pdu.Signer) string {
	return base64.RawStdEncoding.EncodeToString(s.Key.Public().(ed25519.PublicKey))
}
