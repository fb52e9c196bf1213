package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/bus"
)

// newReceiver makes a receiver over an empty store, which nobody else uses.
func newReceiver(t testing.TB) *Receiver {
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
	client, err := remote.New(remote.DefaultConfig(), remote.GenerateKeys("us.example"))
	if err != nil {
		t.Fatal(err)
	}
	return New(client, remote.NewRing(client, store.ServerKeys, nil), store, b, func(context.Context, id.RoomID) {})
}

// TestForeignEDUs: none of these says anything that its origin may say.
func TestForeignEDUs(t *testing.T) {
	r := newReceiver(t)
	for _, c := range []struct{ name, typ, content string }{
		{"typing of another's user", "m.typing", `{"room_id":"!r:a.example","user_id":"@u:victim.example","typing":true}`},
		{"typing in a room that it is not in", "m.typing", `{"room_id":"!r:a.example","user_id":"@u:a.example","typing":true}`},
		{"typing that is a list", "m.typing", `[]`},
		{"a message of another's user", "m.direct_to_device", `{"sender":"@u:victim.example","type":"t","message_id":"1","messages":{}}`},
		{"a message without ID", "m.direct_to_device", `{"sender":"@u:a.example","type":"t","messages":{}}`},
		{"a message without type", "m.direct_to_device", `{"sender":"@u:a.example","message_id":"1","messages":{}}`},
		{"devices of another's user", "m.device_list_update", `{"user_id":"@u:victim.example","keys":{}}`},
		{"devices of somebody who is in no room of ours", "m.device_list_update", `{"user_id":"@u:a.example","keys":{}}`},
		{"keys of another's user", "m.signing_key_update", `{"user_id":"@u:victim.example"}`},
		{"a malformed user", "m.device_list_update", `{"user_id":"u:a.example"}`},
	} {
		if err := edus[c.typ](r, t.Context(), "a.example", json.RawMessage(c.content)); err == nil {
			t.Errorf("%s: taken, want it dropped", c.name)
		}
	}
}

func FuzzEDU(f *testing.F) {
	f.Add([]byte(`{"!r:a.example":{"m.read":{"@u:a.example":{"data":{"ts":1},"event_ids":["$e"]}}}}`))
	f.Add([]byte(`{"push":[{"user_id":"@u:a.example","presence":"online","last_active_ago":-5}]}`))
	f.Add([]byte(`{"sender":"@u:a.example","type":"t","message_id":"1","messages":{"@x:us.example":{"*":{}}}}`))
	r := newReceiver(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, take := range edus {
			_ = take(r, t.Context(), "a.example", content) // whatever it is, it must not panic
		}
	})
}

// FuzzTransaction: whatever a transaction holds, the answer is one, or a refusal; nothing panics, and nothing is our fault.
func FuzzTransaction(f *testing.F) {
	f.Add([]byte(`{"origin":"a.example","origin_server_ts":1,"pdus":[{"room_id":"!r:a.example","type":"m.room.message"},5,null,"x",[]],"edus":[{"edu_type":"m.typing","content":{}},{}]}`))
	f.Add([]byte(`{"pdus":[{"room_id":5,"auth_events":{},"prev_events":[[]],"hashes":[],"signatures":{"a.example":5}}]}`))
	f.Add([]byte(`{"pdus":{},"edus":null}`))
	r := newReceiver(f)
	n := 0
	f.Fuzz(func(t *testing.T, body []byte) {
		n++
		answer, err := r.Transaction(t.Context(), "a.example", strconv.Itoa(n), body)
		var refusal mautrix.RespError
		if err != nil && !errors.As(err, &refusal) {
			t.Errorf("%q: got %v, want an answer or a refusal", body, err)
		}
		if err == nil && !json.Valid(answer) {
			t.Errorf("%q: got %q, which is no JSON", body, answer)
		}
	})
}
