package federation_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// TestPolicyServerJudgesWhatComesIn: an event that came without the policy server's signature is shown to it; what it does not sign
// is soft-failed, and the room goes on.
func TestPolicyServerJudgesWhatComesIn(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example", "judge.example")
	interior, evil, judge := w.open("interior.example"), w.stranger("evil.example"), w.stranger("judge.example")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	judge.joinBy(interior, id.RoomV11, room, "@judge:judge.example")
	signs := remote.GenerateKeys(judge.name)
	_, private := signs.Current()
	signer := pdu.Signer{ServerName: judge.name, KeyID: policy.PolicyServerKey, Key: private}
	var asked atomic.Int32
	judge.mux.HandleFunc("POST /_matrix/policy/v1/sign", func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		raw, _ := io.ReadAll(r.Body)
		if strings.Contains(string(raw), "spam") {
			rw.WriteHeader(400)
			_, _ = rw.Write([]byte(`{"errcode":"M_FORBIDDEN","error":"spam"}`))
			return
		}
		signed, err := pdu.Sign("11", raw, signer)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(rw).Encode(map[string]any{judge.name: map[string]any{policy.PolicyServerKey: gjson.GetBytes(signed,
			"signatures."+gjson.Escape(judge.name)+"."+gjson.Escape(policy.PolicyServerKey)).Str}})
	})
	public := base64.RawStdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	interior.set(room, alice, "m.room.policy", "", `{"via":"judge.example","public_keys":{"ed25519":"`+public+`"}}`)

	good, spam := m.message("good", nil), m.message("spam", nil)
	m.put(good, spam)
	if got := m.standing(good); got != storage.Accepted {
		t.Errorf("what the policy server signs: got standing %v, want accepted", got)
	}
	if got := m.standing(spam); got != storage.SoftFailed {
		t.Errorf("what it does not sign: got standing %v, want soft-failed", got)
	}
	e, err := interior.store.Events.ByID(t.Context(), eventIDOf(t, m.version, good))
	if err != nil || !gjson.GetBytes(e.JSON, "signatures."+gjson.Escape(judge.name)+"."+gjson.Escape(policy.PolicyServerKey)).Exists() {
		t.Errorf("its signature was not kept: %s, %v", e.JSON, err)
	}
	before := asked.Load()
	raw, err := pdu.Sign("11", m.message("signed already", nil), signer)
	if err != nil {
		t.Fatal(err)
	}
	m.put(raw)
	if got := m.standing(raw); got != storage.Accepted || asked.Load() != before {
		t.Errorf("signed already: got standing %v and %d more questions, want accepted and none", got, asked.Load()-before)
	}
	interior.say(room, alice, "ours are signed too")
	if got := asked.Load(); got != before+1 {
		t.Errorf("our own message made for %d questions, want one", got-before)
	}
}
