package federation_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// TestKeysOfAServerBeingRestarted: who was there a moment ago is asked again, until it is there once more. One that refuses is not.
func TestKeysOfAServerBeingRestarted(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	bob := finance.account("bob")
	finance.do(func(ctx context.Context) error {
		return finance.store.Keys.PutOneTime(ctx, bob, "DEVICE", []storage.OneTimeKey{{Algorithm: "signed_curve25519", KeyID: "1", JSON: json.RawMessage(`{"key":"k"}`)}})
	})
	query := bus.FederationQuestion{QueryKeys: &bus.QueryKeys{Server: finance.name, Users: map[id.UserID][]id.DeviceID{bob: {}}}}
	if _, err := interior.federate(query); err != nil {
		t.Fatalf("while it is there: %v", err)
	}
	door := finance.door.Handler
	// away closes the door, and opens it again for requests that fail until so many have come.
	away := func(status int, times int64) *atomic.Int64 {
		t.Helper()
		var came atomic.Int64
		if err := finance.door.Close(); err != nil {
			t.Fatal(err)
		}
		finance.openDoor(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/user/keys/") && came.Add(1) <= times {
				w.WriteHeader(status)
				return
			}
			door.ServeHTTP(w, r)
		}))
		return &came
	}
	claim := bus.FederationQuestion{ClaimKeys: &bus.ClaimKeys{Server: finance.name, Claims: map[id.UserID]map[id.DeviceID]string{bob: {"DEVICE": "signed_curve25519"}}}}
	away(http.StatusBadGateway, 2)
	answer, err := interior.federate(claim)
	if err != nil || !strings.Contains(string(answer.Body), "signed_curve25519:1") {
		t.Errorf("claim: got %s, %v, want the key", answer.Body, err)
	}
	away(http.StatusServiceUnavailable, 1)
	if answer, err := interior.federate(query); err != nil || !strings.Contains(string(answer.Body), string(bob)) {
		t.Errorf("query: got %s, %v, want bob's keys", answer.Body, err)
	}
	came := away(http.StatusForbidden, 1)
	if _, err := interior.federate(claim); err == nil || came.Load() != 1 {
		t.Errorf("claim that is refused: got %v after %d requests, want the refusal after one", err, came.Load())
	}
}
