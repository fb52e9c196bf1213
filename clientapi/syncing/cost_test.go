package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// An incremental answer that the memory covers reads nothing, whatever the news; neither does one without news.
func TestCoveredAnswersReadNothing(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	h.member(room, carol, carol, "join")
	const lazy = `{"room":{"state":{"lazy_load_members":true},"timeline":{"unread_thread_notifications":true}}}`
	since := next(h.answerTo(bob, "", "filter", lazy))
	root := h.say(room, alice, "root")
	since = next(h.answerTo(bob, since, "filter", lazy))
	put := func(d storage.AccountData) {
		err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.AccountData.Put(ctx, d) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"a message", func() { h.say(room, alice, "hello") }},
		{"a message in a thread", func() { h.inThread(room, alice, root, "in thread") }},
		{"a mention", func() { h.say(room, alice, "@bob:interior: hello") }},
		{"many messages", func() {
			for i := range 30 {
				h.say(room, alice, fmt.Sprint(i))
			}
		}},
		{"the user's own message", func() { h.say(room, bob, "mine") }},
		{"another's receipt", func() { h.read(room, carol, root, "") }},
		{"the user's own receipt", func() { h.read(room, bob, h.say(room, alice, "read"), "main") }},
		{"a change of state", func() { h.state(room, alice, "m.room.topic", "", content(`{"topic":"a"}`)) }},
		{"global account data", func() { put(storage.AccountData{UserID: bob, Type: "x", Content: json.RawMessage(`{"a":1}`)}) }},
		{"account data of a room", func() {
			put(storage.AccountData{UserID: bob, RoomID: room, Type: "x", Content: json.RawMessage(`{"a":1}`)})
		}},
		{"typing", func() {
			err := bus.Tell(h.bus, bus.TypingIn(room), bus.Typing{RoomID: room, UserID: alice, Typing: true, Until: time.Now().Add(time.Minute).UnixMilli()})
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { h.sync.mu.RLock(); defer h.sync.mu.RUnlock(); return h.sync.typing[room].busy() })
		}},
		{"a device list", func() {
			err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.DeviceLists.Change(ctx, carol, "LAPTOP") })
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		c.do()
		if err := h.sync.reach(t.Context(), h.store.Head()); err != nil {
			t.Fatal(err)
		}
		h.answerTo(alice, "") // what an event looks like is made once for all: this one asks what a piece of state replaced
		before, writesBefore := h.store.Statements()
		r := h.answerTo(bob, since, "filter", lazy)
		after, writesAfter := h.store.Statements()
		if after != before || writesAfter != writesBefore {
			t.Errorf("%s: the answer made %d reads and %d writes, want none", c.name, after-before, writesAfter-writesBefore)
		}
		if news := r.Get("rooms").Exists() || r.Get("account_data").Exists() || r.Get("device_lists").Exists(); news == (c.name == "nothing") {
			t.Errorf("%s: got %s", c.name, r.Raw)
		}
		since = next(r)
	}
}

// Any number of people who are told the same of a room make it be read once.
func TestStateIsSharedByAllWhoAsk(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	var people []id.UserID
	for i := range 30 {
		user := id.UserID(fmt.Sprintf("@p%d:interior", i))
		h.member(room, user, user, "join")
		people = append(people, user)
	}
	h.again()
	cost := func(user id.UserID) int64 {
		t.Helper()
		before, _ := h.store.Statements()
		h.answerTo(user, "")
		after, _ := h.store.Statements()
		return after - before
	}
	first := cost(people[0])
	for _, user := range people[1:] {
		if n := cost(user); n > first {
			t.Errorf("%s's first sync made %d reads, want no more than the %d of who came first", user, n, first)
		}
	}
}
