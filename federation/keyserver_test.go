package federation_test

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"chancery/federation/remote"
)

// TestNotary: we tell others what a server said of its keys, signed by both; also when it is away, after a restart, and of keys
// that it has replaced since.
func TestNotary(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example", "gone.example")
	interior, asker, subject := w.open("interior.example"), w.stranger("evil.example"), w.stranger("gone.example")
	first, _ := subject.keys.Current()
	var away atomic.Bool
	var asked atomic.Int32
	subject.keyAnswer = func() (json.RawMessage, int) {
		asked.Add(1)
		if away.Load() {
			return nil, http.StatusInternalServerError
		}
		raw, _ := subject.keys.Publish(time.Now())
		return raw, http.StatusOK
	}
	query := func(keyID string, until int64) []gjson.Result {
		t.Helper()
		var answer json.RawMessage
		err := asker.client.Ask(t.Context(), remote.Request{
			Server: interior.name, Method: http.MethodPost, Path: []string{"v2", "query"}, Key: true, Unsigned: true,
			Body: map[string]any{"server_keys": map[string]any{subject.name: map[string]any{keyID: map[string]any{"minimum_valid_until_ts": until}}}},
		}, &answer)
		if err != nil {
			t.Fatal(err)
		}
		return gjson.GetBytes(answer, "server_keys").Array()
	}
	holds := func(name string, answers []gjson.Result, keyID, where string) {
		t.Helper()
		if len(answers) != 1 || answers[0].Get(where+"."+gjson.Escape(keyID)+".key").Str == "" {
			t.Errorf("%s: got %v, want one answer with %s in %s", name, answers, keyID, where)
			return
		}
		if !answers[0].Get(`signatures.interior\.example`).Exists() || !answers[0].Get(`signatures.gone\.example`).Exists() {
			t.Errorf("%s: a signature is missing in %s", name, answers[0])
		}
		if _, err := remote.CheckServerKeys(subject.name, []byte(answers[0].Raw), time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	now := time.Now().UnixMilli()
	holds("asked", query(first, now), first, "verify_keys")
	holds("known", query(first, now), first, "verify_keys")
	if got := asked.Load(); got != 1 {
		t.Errorf("the server was asked %d times, want once", got)
	}
	away.Store(true)
	interior.restart()
	holds("away, after a restart", query(first, now), first, "verify_keys")
	if got := asked.Load(); got != 1 {
		t.Errorf("the server was asked %d times, want once", got)
	}
	holds("away, and good for longer than it said", query(first, now+30*24*3600_000), first, "verify_keys")
	if got := asked.Load(); got != 2 {
		t.Errorf("the server was asked %d times, want twice", got)
	}
	// A new key, which the old one is still told beside.
	subject.keys = subject.keys.Rotate(time.Now())
	second, _ := subject.keys.Current()
	away.Store(false)
	interior.restart()
	holds("the new key", query(second, now), second, "verify_keys")
	holds("the old key", query(first, now), first, "old_verify_keys")
	// A server that nobody knows is left out.
	subject.name = "nowhere.invalid"
	if got := query("ed25519:a", now); len(got) != 0 {
		t.Errorf("unknown server: got %v, want nothing", got)
	}
}
