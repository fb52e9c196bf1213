package syncing

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

// manyRooms puts a user into rooms with some messages each.
func manyRooms(h *house, user id.UserID, rooms, messages int) []id.RoomID {
	h.Helper()
	var all []id.RoomID
	for i := range rooms {
		room := h.create(alice, "public", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"%d"}`, i)})
		if user != alice {
			h.member(room, user, user, "join")
		}
		for n := range messages {
			h.say(room, alice, fmt.Sprint(n))
		}
		all = append(all, room)
	}
	return all
}

const firstWindow = `["m.room.create",""],["m.room.name",""],["m.room.encryption",""],["m.room.member","$ME"],["m.room.member","$LAZY"]`

// BenchmarkSlideFirstWindow is the first answer of a new connection: twenty rooms of two hundred.
func BenchmarkSlideFirstWindow(b *testing.B) {
	for _, limit := range []int{1, 20} {
		b.Run(fmt.Sprint("timeline ", limit), func(b *testing.B) {
			h := newHouse(b)
			manyRooms(h, bob, 200, 25)
			var took []time.Duration
			for b.Loop() {
				c := &slider{house: h, user: bob}
				start := time.Now()
				c.slide(list(0, 19, limit, firstWindow, ""))
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		})
	}
}

// BenchmarkSlideNothingNew is the answer where nothing happened, with a window on two hundred rooms.
func BenchmarkSlideNothingNew(b *testing.B) {
	h := newHouse(b)
	manyRooms(h, alice, 200, 1)
	c := &slider{house: h, user: alice}
	ask := list(0, 199, 1, firstWindow, "")
	c.slide(ask)
	for b.Loop() {
		c.slide(ask)
	}
}

// Covered news, and no news, are told without a query.
func TestSlideReadsNothing(t *testing.T) {
	h := newHouse(t)
	rooms := manyRooms(h, bob, 8, 3)
	here := rooms[3]
	h.member(here, carol, carol, "join")
	c := &slider{house: h, user: bob}
	const ask = `{"lists":{"all":{"ranges":[[0,20]],"timeline_limit":5,"required_state":[["*","*"],["m.room.member","$LAZY"]]}},
		"extensions":{"e2ee":{"enabled":true},"to_device":{"enabled":true},"account_data":{"enabled":true},"receipts":{"enabled":true},
		"typing":{"enabled":true},"io.element.msc4308.thread_subscriptions":{"enabled":true},"org.matrix.msc4354.sticky_events":{"enabled":true}}}`
	c.slide(ask)
	event := h.say(here, alice, "warm")
	h.say(here, carol, "warm")
	c.slide(ask)
	for _, n := range []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"a message", func() { h.say(here, alice, "hello") }},
		{"a change of state", func() { h.state(here, alice, "m.room.topic", "", content(`{"topic":"a"}`)) }},
		{"another's receipt", func() { h.read(here, carol, event, "") }},
		{"the user's own receipt", func() { h.read(here, bob, h.say(here, alice, "read"), "main") }},
		{"global account data", func() { h.note(bob, "", "x", `{"a":1}`) }},
		{"account data of a room", func() { h.note(bob, here, "x", `{"a":1}`) }},
		{"nothing again", func() {}},
	} {
		n.do()
		if err := h.sync.reach(t.Context(), h.store.Head()); err != nil {
			t.Fatal(err)
		}
		h.answerTo(alice, "") // what an event looks like is made once for all
		before, writesBefore := h.store.Statements()
		r := c.slide(ask)
		after, writesAfter := h.store.Statements()
		if after != before || writesAfter != writesBefore {
			t.Errorf("%s: the answer made %d reads and %d writes, want none", n.name, after-before, writesAfter-writesBefore)
		}
		if news := len(roomIDs(r)) > 0 || r.Get("extensions.receipts").Exists() || r.Get("extensions.account_data").Exists(); news != !strings.HasPrefix(n.name, "nothing") {
			t.Errorf("%s: got %s", n.name, r.Raw)
		}
	}
}

// BenchmarkSlideAfterRestart is the first answer of a process that knows nothing yet.
func BenchmarkSlideAfterRestart(b *testing.B) {
	h := newHouse(b)
	manyRooms(h, bob, 200, 25)
	for b.Loop() {
		b.StopTimer()
		h.again()
		b.StartTimer()
		(&slider{house: h, user: bob}).slide(list(0, 19, 1, firstWindow, ""))
	}
}
