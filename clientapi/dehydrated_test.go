package clientapi

import (
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestDehydratedDevice(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	get := func() *answer { return alice.do("GET", dehydrated, nil) }
	put := func(device string, set func(map[string]any)) *answer {
		as := *alice
		as.Device = device
		keys := deviceKeys(&as)
		body := map[string]any{
			"device_id": device, "initial_device_display_name": "asleep", "device_keys": keys,
			"device_data":   map[string]any{"algorithm": "org.matrix.msc3814.v2", "device_pickle": "secret", "nonce": "n"},
			"one_time_keys": oneTimeKeys(1), "fallback_keys": map[string]any{"signed_curve25519:fb": map[string]any{"key": "f", "fallback": true, "signatures": map[string]any{}}},
		}
		if set != nil {
			set(body)
		}
		return alice.do("PUT", dehydrated, body)
	}
	get().fails(404, "M_NOT_FOUND")
	alice.do("DELETE", dehydrated, nil).fails(404, "M_NOT_FOUND")
	for _, field := range []string{"device_id", "device_data", "device_keys"} {
		put("ASLEEP", func(body map[string]any) { delete(body, field) }).fails(400, "M_MISSING_PARAM")
	}
	put("ASLEEP", func(body map[string]any) { body["device_data"] = map[string]any{} }).fails(400, "M_BAD_JSON")
	put(alice.Device, nil).fails(400, "M_INVALID_PARAM") // a living device
	alice.do("GET", v3+"/account/whoami", nil).ok()

	if got := put("ASLEEP", nil).ok().str("device_id"); got != "ASLEEP" {
		t.Errorf("put: got %q", got)
	}
	if got := get().ok(); got.str("device_id") != "ASLEEP" || got.str("device_data.device_pickle") != "secret" {
		t.Errorf("get: got %s", got.body.Raw)
	}
	// Others find its keys as those of any device, and send to it.
	query := bob.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[id.UserID][]string{alice.ID: {}}}).ok()
	if !query.body.Get("device_keys." + escape(string(alice.ID)) + ".ASLEEP").Exists() {
		t.Errorf("query: got %s", query.body.Raw)
	}
	claim := map[string]any{"one_time_keys": map[id.UserID]map[string]string{alice.ID: {"ASLEEP": "signed_curve25519"}}}
	for _, want := range []string{"signed_curve25519:000", "signed_curve25519:fb", "signed_curve25519:fb"} {
		got := bob.do("POST", v3+"/keys/claim", claim).ok().body.Get("one_time_keys." + escape(string(alice.ID)) + ".ASLEEP")
		if !got.Get(escape(want)).Exists() {
			t.Errorf("claim: got %s, want %s", got.Raw, want)
		}
	}
	for i := range 150 {
		bob.do("PUT", fmt.Sprintf("%s/sendToDevice/m.room.encrypted/%d", v3, i), map[string]any{
			"messages": map[id.UserID]map[string]any{alice.ID: {"ASLEEP": map[string]int{"n": i}}},
		}).ok()
	}
	// The messages come in order and in pages, and again for who begins again.
	events := dehydrated + "/ASLEEP/events"
	for range 2 {
		next, n := "", 0
		for {
			a := alice.do("POST", events, map[string]string{"next_batch": next}).ok()
			list := a.body.Get("events").Array()
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				if got := e.Get("content.n").Int(); int(got) != n || e.Get("sender").Str != string(bob.ID) {
					t.Fatalf("message: got %s, want number %d", e.Raw, n)
				}
				n++
			}
			next = a.str("next_batch")
		}
		if n != 150 {
			t.Errorf("got %d messages, want 150", n)
		}
	}
	alice.do("POST", events, `{"next_batch":"x"}`).fails(400, "M_INVALID_PARAM")
	bob.do("POST", events, `{}`).fails(404, "M_NOT_FOUND")
	alice.do("POST", dehydrated+"/"+alice.Device+"/events", `{}`).fails(404, "M_NOT_FOUND")

	// It stays when all sessions end, and goes when another takes its place.
	alice.do("POST", v3+"/logout/all", "{}").ok()
	alice = s.login("alice")
	if get().ok().str("device_id") != "ASLEEP" {
		t.Error("the dehydrated device went with the sessions")
	}
	put("OTHER", nil).ok()
	alice.do("POST", events, `{}`).fails(404, "M_NOT_FOUND")
	if list := alice.do("GET", v3+"/devices", nil).ok().str("devices.#.device_id"); len(list) > 60 {
		t.Errorf("devices: got %s", list)
	}
	alice.do("GET", v3+"/devices/ASLEEP", nil).fails(404, "M_NOT_FOUND")
	if got := alice.do("DELETE", dehydrated, nil).ok().str("device_id"); got != "OTHER" {
		t.Errorf("delete: got %q", got)
	}
	get().fails(404, "M_NOT_FOUND")
}
