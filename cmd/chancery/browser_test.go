package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// kickWithin is how long, in milliseconds, a removed member's media may still be seen by the others' browsers, which
// encode and decode on a busy processor here. That the focus ends the session within a second is held by
// TestCallsEndWithMembership.
const kickWithin = 5000

// TestBrowserCall puts three people of the demo's two ministries into one call in real browsers: each sees moving frames of
// the two others, and one who is removed from the room is gone.
func TestBrowserCall(t *testing.T) {
	needBrowser(t, true)
	houses := openDemo(t)
	interior, finance := houses[0], houses[1]
	anna, claire := interior.clients["anna"], finance.clients["claire"]
	runBrowser(t, "call", map[string]any{
		"interior": interior.URL, "finance": finance.URL,
		"anna": "anna", "jonas": "jonas", "claire": "claire",
		"room": demoRoom(t, houses), "kicker": anna.AccessToken, "claireId": claire.UserID, "kickWithin": kickWithin,
	})
}

// TestBrowserEncrypted lets matrix-js-sdk speak across the federation, encrypted.
func TestBrowserEncrypted(t *testing.T) { speakInBrowsers(t, "encrypted") }

// TestBrowserSliding lets it do so with its sliding sync, and look at what windows and subscriptions bring.
func TestBrowserSliding(t *testing.T) { speakInBrowsers(t, "sliding") }

func speakInBrowsers(t *testing.T, scenario string) {
	t.Helper()
	needBrowser(t, false)
	houses := openDemo(t)
	password := func(house *ministry) string { return house.accounts[0].Password }
	runBrowser(t, scenario, map[string]any{
		"interior": houses[0].URL, "finance": houses[1].URL,
		"anna": houses[0].accounts[0].User, "annaPassword": password(houses[0]),
		"claire": houses[1].accounts[0].User, "clairePassword": password(houses[1]),
	})
}

// TestBrowserPicture makes docs/demo.png anew when CHANCERY_PICTURE names the file to write.
func TestBrowserPicture(t *testing.T) {
	out := os.Getenv("CHANCERY_PICTURE")
	if out == "" {
		t.Skip("CHANCERY_PICTURE names no file")
	}
	needBrowser(t, true)
	houses := openDemo(t)
	runBrowser(t, "picture", map[string]any{"interior": houses[0].URL, "finance": houses[1].URL, "anna": "anna", "claire": "claire", "out": out})
}

// needBrowser skips where there is no browser to drive, and says what is missing; page asks for the demo's bundle too.
func needBrowser(t *testing.T, page bool) {
	t.Helper()
	if testing.Short() {
		t.Skip("drives browsers")
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not here; `make prepare` installs it")
	}
	if _, err := exec.LookPath("chromium"); err != nil && os.Getenv("CHROMIUM") == "" {
		t.Skip("chromium is not here; `make prepare` installs it")
	}
	if _, err := os.Stat("browser/node_modules/playwright-core"); err != nil {
		t.Skip("cmd/chancery/browser has no node_modules; `make prepare` installs them")
	}
	if page {
		if _, err := demoFiles.Open("demo/dist/app.js"); err != nil {
			t.Skip("the demo's page is not bundled; `make page` does it")
		}
	}
}

// runBrowser runs one scenario of browser/run.mjs.
func runBrowser(t *testing.T, scenario string, facts map[string]any) {
	t.Helper()
	out, err := browse(t.Context(), 4*time.Minute, scenario, facts)
	t.Logf("browser %s:\n%s", scenario, out)
	if err != nil {
		t.Fatalf("browser %s: %v", scenario, err)
	}
}

// browse runs one scenario for so long at most, and gives what it printed.
func browse(ctx context.Context, patience time.Duration, scenario string, facts map[string]any) (string, error) {
	text, err := json.Marshal(facts)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "browser/run.mjs", scenario, string(text))
	// Chromium ends when node closes it; after a kill, waiting for its output must have an end too.
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
