package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// TestOneTimeKeysAreGivenOnce lets two hundred claim keys of one device at once, half of them over federation, with a restart of the
// device's server between two waves (threat K1): each key is given once, and the fallback key only after the last of them.
func TestOneTimeKeysAreGivenOnce(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		const keys, claimers = 150, 200
		houses := openHouses(t, database, "interior.test", "finance.test")
		owner, near, far := houses[0].person("owner"), houses[0].person("near"), houses[1].person("far")
		upload := map[string]any{}
		for n := range keys {
			upload[fmt.Sprintf("signed_curve25519:%03d", n)] = map[string]any{"key": fmt.Sprintf("one-time %d", n)}
		}
		ask(t, owner, "keys/upload", map[string]any{
			"one_time_keys": upload, "fallback_keys": map[string]any{"signed_curve25519:fall": map[string]any{"key": "fallback", "fallback": true}},
		}, nil)

		given := map[string]int{}
		for wave := range 2 {
			if wave == 1 {
				houses[0].close()
				houses[0].open()
			}
			var mu sync.Mutex
			var claiming sync.WaitGroup
			for n := range claimers / 2 {
				claiming.Go(func() {
					names := claimOne(t, []*mautrix.Client{near, far}[n%2], owner)
					mu.Lock()
					defer mu.Unlock()
					for _, name := range names {
						given[name]++
					}
				})
			}
			claiming.Wait()
		}
		for n := range keys {
			if name := fmt.Sprintf("signed_curve25519:%03d", n); given[name] != 1 {
				t.Errorf("%s was given %d times, want once", name, given[name])
			}
		}
		if got, want := given["signed_curve25519:fall"], claimers-keys; got != want {
			t.Errorf("the fallback key was given %d times, want %d", got, want)
		}
	})
}

// claimOne claims a key of the owner's device, and names what came.
func claimOne(t *testing.T, who, owner *mautrix.Client) (names []string) {
	t.Helper()
	var got struct {
		Keys     map[id.UserID]map[id.DeviceID]map[string]any `json:"one_time_keys"`
		Failures map[string]any                               `json:"failures"`
	}
	ask(t, who, "keys/claim", map[string]any{"one_time_keys": map[id.UserID]map[id.DeviceID]string{owner.UserID: {owner.DeviceID: "signed_curve25519"}}}, &got)
	if len(got.Failures) > 0 {
		t.Errorf("claim by %s: failures %v, want none", who.UserID, got.Failures)
	}
	for name := range got.Keys[owner.UserID][owner.DeviceID] {
		names = append(names, name)
	}
	if len(names) != 1 {
		t.Errorf("claim by %s: got %v, want one key", who.UserID, names)
	}
	return names
}

// ask posts to an endpoint of the client API.
func ask(t *testing.T, who *mautrix.Client, path string, body, answer any) {
	t.Helper()
	where := mautrix.ClientURLPath{"v3"}
	for part := range strings.SplitSeq(path, "/") {
		where = append(where, part)
	}
	if _, err := who.MakeRequest(t.Context(), http.MethodPost, who.BuildURL(where), body, answer); err != nil {
		t.Errorf("%s by %s: %v", path, who.UserID, err)
	}
}
