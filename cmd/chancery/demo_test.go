package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestDemo opens the demo as a newcomer does: the page of each ministry, its people, and the bot that answers.
func TestDemo(t *testing.T) {
	houses := openDemo(t)
	for _, house := range houses {
		page, kind := fetch(t, house.URL+"/")
		if !strings.Contains(page, "<title>Chancery</title>") || !strings.HasPrefix(kind, "text/html") {
			t.Errorf("%s: the page is %s, and begins %.80q", house.Name, kind, page)
		}
		text, _ := fetch(t, house.URL+"/demo/demo.json")
		var facts struct {
			Server   string
			Room     string
			Accounts []resident
		}
		if err := json.Unmarshal([]byte(text), &facts); err != nil {
			t.Fatal(err)
		}
		if facts.Server != house.Server || facts.Room == "" || len(facts.Accounts) != 2 || facts.Accounts[0].Password == "" {
			t.Errorf("%s: the page is told %s", house.Name, text)
		}
	}
	anna, clerk := houses[0].clients["anna"], houses[1].clients["clerk"]
	atAnna := listen(t, anna)
	room := demoRoom(t, houses)
	must(anna.SendText(t.Context(), room, "Clerk, ping"))(t, "ask the clerk")
	atAnna.until("the clerk's answer", func(ev *event.Event) bool {
		return ev.Sender == clerk.UserID && ev.Type == event.EventMessage && strings.Contains(ev.Content.AsMessage().Body, " ms ")
	})
}

// TestDemoCleansUp leaves nothing behind when it made its folder itself.
func TestDemoCleansUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := demo(ctx, io.Discard, "", "warn", func([]*ministry) { cancel() }); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "*")); err != nil || len(left) > 0 {
		t.Errorf("the demo left %v behind, error %v", left, err)
	}
}

// TestClerk holds what the bot says, and that it keeps silent when nobody speaks to it.
func TestClerk(t *testing.T) {
	c := &clerk{now: func() time.Time { return time.Date(2026, 1, 2, 13, 14, 15, 0, time.UTC) }}
	for said, want := range map[string]string{
		"good morning":        "",
		"clerk, help":         "Ask me",
		"Clerk: what time?":   "13:14:15",
		"how fast, clerk":     "7 ms",
		"thank you, clerk":    "At your service",
		"the clerk is asleep": "Noted",
	} {
		got := c.answer("@anna:interior.example", said, 7*time.Millisecond)
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want it to hold %q", said, got, want)
		}
	}
}

// openDemo starts the demo's ministries; the test's end stops them.
func openDemo(t *testing.T) []*ministry {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	up, ended := make(chan []*ministry, 1), make(chan error, 1)
	folder := t.TempDir()
	go func() {
		ended <- demo(ctx, io.Discard, folder, "warn", func(houses []*ministry) { up <- houses })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("demo: %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(folder, "demo.log"))
			t.Logf("the ministries logged:\n%s", log)
		}
	})
	select {
	case houses := <-up:
		return houses
	case err := <-ended:
		ended <- nil
		t.Fatalf("demo: %v", err)
	case <-time.After(2 * patience):
		t.Fatal("the demo did not come up")
	}
	return nil
}

// demoRoom is the room that both ministries share.
func demoRoom(t *testing.T, houses []*ministry) id.RoomID {
	t.Helper()
	joined := must(houses[1].clients["clerk"].JoinedRooms(t.Context()))(t, "rooms of the clerk")
	if len(joined.JoinedRooms) != 1 {
		t.Fatalf("the clerk is in %d rooms, want 1", len(joined.JoinedRooms))
	}
	return joined.JoinedRooms[0]
}

func fetch(t *testing.T, url string) (body, kind string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, answer.Status, err)
	}
	return string(raw), answer.Header.Get("Content-Type")
}
