package syncing

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/storage"
)

func slideRepeats(t *testing.T, h *house) {
	room := h.create(alice, "public")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 5, memberAndCreate, "")
	c.slide(ask)
	h.say(room, alice, "one")
	before := c.pos
	first := c.slide(ask)
	after := c.pos
	c.pos = before
	second := c.slide(ask)
	same(t, "the answer again", texts(slid(second, room)), texts(slid(first, room)))
	same(t, "with the same pos", c.pos, after)
	h.say(room, alice, "two")
	c.pos = before
	third := c.slide(ask)
	same(t, "and what came since", texts(slid(third, room)), []string{"one", "two"})
	same(t, "nothing is told twice", roomIDs(c.slide(ask)), []string{})
	c.pos = before
	code, answer := c.ask(ask)
	same(t, "a pos that was left behind", fmt.Sprint(code, answer.Get("errcode").Str), "400M_UNKNOWN_POS")
}

func slideUnknown(t *testing.T, h *house) {
	h.create(alice, "public")
	c := &slider{house: h, user: alice}
	c.slide(list(0, 9, 1, memberAndCreate, ""))
	ours := c.pos
	restored, err := storage.ParseSlidingPos(ours)
	if err != nil {
		t.Fatal(err)
	}
	restored.Position += 1000
	for name, c := range map[string]*slider{
		"garbage": {house: h, user: alice, pos: "garbage"}, "a sync token": {house: h, user: alice, pos: restored.Token.String()},
		"another user's": {house: h, user: bob, pos: ours}, "of a database that forgot": {house: h, user: alice, pos: restored.String()},
		"another database's": {house: h, user: alice, pos: strings.Replace(ours, "~s"+restored.Incarnation, "~szzzzzz", 1)},
		"merged":             {house: h, user: alice, pos: "garbage", merged: true},
	} {
		code, answer := c.ask(`{}`)
		same(t, name, fmt.Sprint(code, answer.Get("errcode").Str), "400M_UNKNOWN_POS")
	}
	other := &slider{house: h, user: alice, pos: ours}
	code, _ := other.ask(`{"conn_id":"other"}`)
	same(t, "of another connection", code, 400)
	again := &slider{house: h, user: alice}
	again.slide(list(0, 9, 1, memberAndCreate, ""))
	code, _ = c.ask(list(0, 9, 1, memberAndCreate, ""))
	same(t, "of a connection that began anew", code, 400)
}

func slideRestarts(t *testing.T, h *house) {
	quiet, loud, unsaved := h.create(alice, "public"), h.create(alice, "public"), h.create(alice, "public")
	ask := list(0, 1, 5, memberAndCreate, "")
	c := &slider{house: h, user: alice}
	c.slide(ask)
	c.slide(ask)
	if err := h.sync.saveSlides(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	wider := list(0, 9, 5, memberAndCreate, "")
	same(t, "after the row was written", roomIDs(c.slide(wider)), sorted(quiet))
	h.say(loud, alice, "while away")
	h.again()
	r := c.slide(wider)
	same(t, "after the restart", roomIDs(r), sorted(loud, quiet))
	same(t, "what changed since the row comes anew", slid(r, loud).Get("initial").Bool(), true)
	same(t, "what the row did not know comes anew", slid(r, quiet).Get("initial").Bool(), true)
	same(t, "what it knew goes on silently", slid(r, unsaved).Exists(), false)
	h.say(unsaved, alice, "on")
	same(t, "and on", texts(slid(c.slide(wider), unsaved)), []string{"on"})
	// One that ended before its row was written knows nothing, and is no error.
	young := &slider{house: h, user: bob}
	h.member(loud, bob, bob, "join")
	young.slide(wider)
	h.again()
	same(t, "without a row all comes anew", slid(young.slide(wider), loud).Get("initial").Bool(), true)
}

func slideByTurns(t *testing.T, h *house) {
	room := h.create(alice, "public")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 5, memberAndCreate, "")
	c.slide(ask)
	first := h.http
	h.again()
	second := h.http
	for i := range 4 {
		h.say(room, alice, fmt.Sprint(i))
		h.http = []http.Handler{second, first}[i%2]
		said := texts(slid(c.slide(ask), room))
		if len(said) == 0 || said[len(said)-1] != fmt.Sprint(i) {
			t.Errorf("turn %d: got %v, want it to end with %d", i, said, i)
		}
	}
}

func slideConnections(t *testing.T, h *house) {
	room := h.create(alice, "public")
	var all []*slider
	ask := func(i int) string {
		return fmt.Sprintf(`{"conn_id":"c%d",`, i) + list(0, 9, 1, memberAndCreate, "")[1:]
	}
	for i := range storage.MaxSliding {
		c := &slider{house: h, user: alice}
		same(t, "each begins for itself", slid(c.slide(ask(i)), room).Get("initial").Bool(), true)
		all = append(all, c)
	}
	h.say(room, alice, "x")
	for i, c := range all {
		same(t, "each goes on for itself", texts(slid(c.slide(ask(i)), room)), []string{"x"})
	}
	(&slider{house: h, user: alice}).slide(ask(storage.MaxSliding))
	code, _ := all[0].ask(ask(0))
	same(t, "the oldest goes", code, 400)
	code, _ = all[1].ask(ask(1))
	same(t, "the others stay", code, 200)
	code, _ = (&slider{house: h, user: alice}).ask(`{"conn_id":"a name longer than sixteen characters"}`)
	same(t, "a long name", code, 400)
}

func slideSupersedes(t *testing.T, h *house) {
	room := h.create(alice, "public")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 1, memberAndCreate, "")
	c.slide(ask)
	older := *c
	done := make(chan int, 1)
	go func() {
		code, _ := older.ask(ask, "timeout", "20000")
		done <- code
	}()
	waitFor(t, func() bool {
		h.sync.mu.RLock()
		defer h.sync.mu.RUnlock()
		return len(h.sync.users[alice].waiters) > 0
	})
	c.slide(ask)
	select {
	case code := <-done:
		same(t, "the older", code, 409)
	case <-time.After(10 * time.Second):
		t.Fatal("the older request goes on")
	}
	h.say(room, alice, "x")
	same(t, "the newer goes on", texts(slid(c.slide(ask), room)), []string{"x"})
}
