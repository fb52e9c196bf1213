package syncing

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// memberAndCreate is the state that most cases ask for.
const memberAndCreate = `["m.room.create",""],["m.room.member","$ME"]`

// TestSlideBehaviours holds, each by one case, what shipping clients rely on.
func TestSlideBehaviours(t *testing.T) {
	cases := []struct {
		name string
		run  func(t *testing.T, h *house)
	}{
		{"the same pos gives the data again", slideRepeats},
		{"a pos that is not ours is unknown", slideUnknown},
		{"a pos survives a restart", slideRestarts},
		{"two processes answer by turns", slideByTurns},
		{"ten connections a device, apart by name", slideConnections},
		{"a newer request ends the older", slideSupersedes},
		{"only what is said bumps a room", slideBumps},
		{"limited, prev_batch, num_live", slideLimited},
		{"lazy members are those who speak", slideLazy},
		{"state wildcards", slideWildcards},
		{"more of required_state is sent at once", slideMoreState},
		{"a higher timeline_limit sends older events at once", slideExpands},
		{"a subscription and a wider range are answered at once", slideAtOnce},
		{"heroes name rooms without a name", slideHeroes},
		{"name and picture come and go", slideNames},
		{"direct rooms", slideDirect},
		{"counts", slideCounts},
		{"invites and knocks", slideInvites},
		{"leaves, kicks and bans are told once more", slideLeaves},
		{"kicked while away", slideKickedAway},
		{"filters", slideFilters},
		{"lists are sorted by bump stamp", slideOrder},
		{"e2ee", slideE2EE},
		{"to-device", slideToDevice},
		{"account data", slideAccountData},
		{"receipts", slideReceipts},
		{"typing", slideTyping},
		{"extensions keep to their lists and rooms", slideScopes},
		{"thread subscriptions", slideThreads},
		{"sticky events", slideSticky},
		{"bounds", slideBounds},
		{"the merged shape", slideMerged},
		{"state changed by resolution, without an event", slideResolution},
		{"rejoining begins anew", slideRejoins},
		{"ignored users", slideIgnores},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, newHouse(t)) })
	}
}

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

func slideBumps(t *testing.T, h *house) {
	room := h.create(alice, "public")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 1, memberAndCreate, "")
	stamp := func() int64 { return slid(c.slide(ask), room).Get("bump_stamp").Int() }
	last := stamp()
	for _, p := range []struct {
		typ   string
		bumps bool
	}{{"m.room.message", true}, {"m.reaction", false}, {"m.room.encrypted", true}, {"m.sticker", true}, {"x.y", false}, {"m.call.invite", true},
		{"m.poll.start", true}, {"m.beacon_info", true}, {"m.poll.response", false}} {
		h.propose(room, bus.Proposal{Sender: alice, Type: p.typ, Content: content(`{"x":1}`)})
		now := stamp()
		same(t, p.typ+" bumps", now > last, p.bumps)
		last = now
	}
	h.state(room, alice, "m.room.topic", "", content(`{"topic":"x"}`))
	same(t, "a topic bumps", stamp() > last, false)
	h.member(room, bob, bob, "join")
	same(t, "another's coming bumps", stamp() > last, false)
	// As from the tables.
	fresh := &slider{house: h, user: alice}
	h.again()
	same(t, "read from the tables", slid(fresh.slide(ask), room).Get("bump_stamp").Int(), last)
}

func slideLimited(t *testing.T, h *house) {
	for _, restarted := range []bool{false, true} {
		room := h.create(alice, "public")
		c := &slider{house: h, user: alice}
		ask := list(0, 0, 3, memberAndCreate, "")
		c.slide(ask)
		for i := range 5 {
			h.say(room, alice, fmt.Sprint(i))
		}
		if restarted {
			if err := h.sync.saveSlides(t.Context(), 100); err != nil {
				t.Fatal(err)
			}
			h.again()
		}
		r := slid(c.slide(ask), room)
		same(t, "timeline", texts(r), []string{"2", "3", "4"})
		same(t, "limited", r.Get("limited").Bool(), true)
		same(t, "live", r.Get("num_live").Int(), int64(3))
		page, err := storage.ParsePage(r.Get("prev_batch").Str)
		if err != nil {
			t.Fatal(err)
		}
		events, err := h.store.Events.Backwards(t.Context(), room, page, 1)
		if err != nil || len(events) != 1 || gjson.GetBytes(events[0].JSON, "content.body").Str != "1" {
			t.Errorf("before prev_batch: got %v (%v), want the message 1", events, err)
		}
		if page, err = storage.ParsePage(c.pos); err != nil {
			t.Fatal(err)
		}
		events, err = h.store.Events.Backwards(t.Context(), room, page, 1)
		if err != nil || len(events) != 1 || gjson.GetBytes(events[0].JSON, "content.body").Str != "4" {
			t.Errorf("before pos: got %v (%v), want the message 4", events, err)
		}
		h.say(room, alice, "5")
		r = slid(c.slide(ask), room)
		same(t, "without a gap", fmt.Sprint(texts(r), r.Get("limited").Bool(), r.Get("num_live").Int()), "[5] false 1")
	}
}

func slideLazy(t *testing.T, h *house) {
	room := h.create(alice, "public")
	for _, user := range []id.UserID{bob, carol} {
		h.member(room, user, user, "join")
	}
	for range 5 {
		h.say(room, alice, "x")
	}
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 2, `["m.room.member","$LAZY"],["m.room.member","$ME"]`, "")
	state := func() []string { return types(slid(c.slide(ask), room).Get("required_state")) }
	same(t, "who speaks, and oneself", state(), []string{"m.room.member " + string(alice), "m.room.member " + string(bob)})
	h.say(room, carol, "hi")
	same(t, "who speaks first", state(), []string{"m.room.member " + string(carol)})
	h.say(room, carol, "hi again")
	same(t, "who spoke before", state(), []string(nil))
	h.propose(room, profile(alice, 7))
	same(t, "who changes their name", state(), []string{"m.room.member " + string(alice)})
	before := c.pos
	h.say(room, alice, "I have a name")
	state()
	c.pos = before
	same(t, "what was not sent is not held to be", state(), []string(nil))
	for range 5 {
		h.say(room, alice, "y")
	}
	same(t, "after a gap those who speak are sent again", state(), []string{"m.room.member " + string(alice)})
}

func slideWildcards(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.state(room, alice, "x.y", "a", content(`{"n":1}`))
	h.state(room, alice, "x.y", "b", content(`{"n":1}`))
	h.state(room, alice, "x.z", "a", content(`{"n":1}`))
	for wanted, want := range map[string][]string{
		`["x.y","*"]`: {"x.y a", "x.y b"}, `["*","a"]`: {"x.y a", "x.z a"}, `["x.y","a"],["x.z","*"]`: {"x.y a", "x.z a"},
		`["*","*"]`:                            {"m.room.create", "m.room.member @alice:interior", "m.room.power_levels", "m.room.join_rules", "x.y a", "x.y b", "x.z a"},
		`["*","*"],["m.room.member","$LAZY"]`:  {"m.room.create", "m.room.power_levels", "m.room.join_rules", "x.y a", "x.y b", "x.z a"},
		`["m.room.member","$ME"],["none","*"]`: {"m.room.member @alice:interior"},
	} {
		c := &slider{house: h, user: alice}
		same(t, wanted, types(slid(c.slide(list(0, 9, 0, wanted, "")), room).Get("required_state")), want)
	}
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 1, `["x.y","*"]`, "")
	c.slide(ask)
	h.state(room, alice, "x.y", "c", content(`{"n":1}`))
	h.state(room, alice, "x.z", "c", content(`{"n":1}`))
	same(t, "only what is wanted", types(slid(c.slide(ask), room).Get("required_state")), []string{"x.y c"})
}

func slideMoreState(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.state(room, alice, "m.room.topic", "", content(`{"topic":"x"}`))
	c := &slider{house: h, user: alice}
	c.slide(list(0, 9, 1, `["m.room.create",""]`, ""))
	r := slid(c.slide(list(0, 9, 1, `["m.room.create",""],["m.room.topic",""]`, ""), "timeout", "20000"), room)
	same(t, "what is wanted now", types(r.Get("required_state")), []string{"m.room.topic"})
	same(t, "is no new room", r.Get("initial").Bool(), false)
	same(t, "and no event", texts(r), []string{})
}

func slideExpands(t *testing.T, h *house) {
	room := h.create(alice, "public")
	for i := range 6 {
		h.say(room, alice, fmt.Sprint(i))
	}
	c := &slider{house: h, user: alice}
	limit := func(n int) gjson.Result {
		return slid(c.slide(list(0, 9, n, memberAndCreate, ""), "timeout", "200"), room)
	}
	same(t, "one", texts(limit(1)), []string{"5"})
	h.say(room, alice, "6")
	same(t, "and one more", texts(limit(1)), []string{"6"})
	same(t, "two are there", limit(2).Exists(), false)
	r := limit(4)
	same(t, "four", fmt.Sprint(texts(r), r.Get("unstable_expanded_timeline").Bool(), r.Get("limited").Bool(), r.Get("num_live").Int()), "[3 4 5 6] true true 0")
	same(t, "is not initial", r.Get("initial").Bool(), false)
	same(t, "with prev_batch", r.Get("prev_batch").Exists(), true)
	h.say(room, alice, "7")
	r = limit(4)
	same(t, "then on", fmt.Sprint(texts(r), r.Get("unstable_expanded_timeline").Bool()), "[7] false")
	r = limit(100)
	same(t, "all", fmt.Sprint(len(texts(r)), r.Get("limited").Bool()), "12 true")
	same(t, "there is no more", limit(150).Exists(), false)
	// A subscription raises it too.
	d := &slider{house: h, user: alice}
	d.slide(list(0, 9, 1, memberAndCreate, ""))
	sub := strings.TrimSuffix(list(0, 9, 1, memberAndCreate, ""), "}") + fmt.Sprintf(`,"room_subscriptions":{%q:{"timeline_limit":3,"required_state":[]}}}`, room)
	same(t, "subscribed", texts(slid(d.slide(sub, "timeout", "20000"), room)), []string{"5", "6", "7"})
}

func slideAtOnce(t *testing.T, h *house) {
	older := h.create(alice, "public")
	h.create(alice, "public")
	start := time.Now()
	c := &slider{house: h, user: alice}
	c.slide(list(0, 0, 1, memberAndCreate, ""))
	same(t, "a wider range", roomIDs(c.slide(list(0, 1, 1, memberAndCreate, ""), "timeout", "20000")), sorted(older))
	same(t, "a wider range with nothing in it", roomIDs(c.slide(list(0, 100, 1, memberAndCreate, ""), "timeout", "20000")), []string{})
	d := &slider{house: h, user: alice}
	d.slide(`{}`)
	sub := fmt.Sprintf(`{"room_subscriptions":{%q:{"timeline_limit":1,"required_state":[]}}}`, older)
	same(t, "a subscription", roomIDs(d.slide(sub, "timeout", "20000")), sorted(older))
	d.slide(`{"room_subscriptions":{"!nowhere:interior":{"timeline_limit":1,"required_state":[]}}}`, "timeout", "20000")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	d.slide(sub, "timeout", "20000")
	r := d.later(sub, func() { h.say(older, alice, "now") })
	same(t, "and else it waits", texts(slid(r, older)), []string{"now"})
}

func slideHeroes(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 1, memberAndCreate, "")
	r := slid(c.slide(ask), room)
	same(t, "hero", r.Get("heroes").Raw, `[{"user_id":"@bob:interior","displayname":"bob"}]`)
	same(t, "no name", r.Get("name").Exists(), false)
	h.say(room, bob, "x")
	same(t, "unchanged", slid(c.slide(ask), room).Get("heroes").Exists(), false)
	h.propose(room, bus.Proposal{Sender: bob, Type: "m.room.member", StateKey: key(string(bob)), Content: content(`{"membership":"join","displayname":"Bobby","avatar_url":"mxc://interior/b"}`)})
	same(t, "another name", slid(c.slide(ask), room).Get("heroes").Raw, `[{"user_id":"@bob:interior","displayname":"Bobby","avatar_url":"mxc://interior/b"}]`)
	h.state(room, alice, "m.room.name", "", content(`{"name":"Room"}`))
	r = slid(c.slide(ask), room)
	same(t, "with a name none", fmt.Sprint(r.Get("name").Str, r.Get("heroes").Exists()), "Roomfalse")
	same(t, "nor at first", slid((&slider{house: h, user: alice}).slide(ask), room).Get("heroes").Exists(), false)
}

func slideNames(t *testing.T, h *house) {
	room := h.create(alice, "public")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 1, "", "")
	r := slid(c.slide(ask), room)
	same(t, "none", fmt.Sprint(r.Get("name").Exists(), r.Get("avatar").Exists()), "false false")
	h.state(room, alice, "m.room.name", "", content(`{"name":"N"}`))
	h.state(room, alice, "m.room.avatar", "", content(`{"url":"mxc://interior/a"}`))
	r = slid(c.slide(ask), room)
	same(t, "both", r.Get("name").Str+" "+r.Get("avatar").Str, "N mxc://interior/a")
	h.say(room, alice, "x")
	r = slid(c.slide(ask), room)
	same(t, "unchanged", fmt.Sprint(r.Get("name").Exists(), r.Get("avatar").Exists()), "false false")
	h.state(room, alice, "m.room.name", "", content(`{}`))
	h.state(room, alice, "m.room.avatar", "", content(`{}`))
	r = slid(c.slide(ask), room)
	same(t, "gone", r.Get("name").Raw+" "+r.Get("avatar").Raw, "null null")
}

func slideDirect(t *testing.T, h *house) {
	room := h.create(alice, "public")
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 1, "", "")
	same(t, "not direct", slid(c.slide(ask), room).Get("is_dm").Bool(), false)
	r := c.later(ask, func() { h.note(alice, "", "m.direct", fmt.Sprintf(`{"@bob:interior":[%q]}`, room)) })
	same(t, "direct now", slid(r, room).Get("is_dm").Raw, "true")
	same(t, "and at first", slid((&slider{house: h, user: alice}).slide(`{"conn_id":"b",`+ask[1:]), room).Get("is_dm").Raw, "true")
	h.note(alice, "", "m.direct", `{}`)
	same(t, "no more", slid(c.slide(ask), room).Get("is_dm").Raw, "false")
}

func slideCounts(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 1, "", "")
	counts := func(r gjson.Result) string {
		return fmt.Sprint(r.Get("notification_count").Raw, r.Get("highlight_count").Raw)
	}
	same(t, "at first", counts(slid(c.slide(ask), room)), "00")
	event := h.say(room, alice, "hello")
	same(t, "a message", counts(slid(c.slide(ask), room)), "10")
	h.propose(room, bus.Proposal{Sender: alice, Type: "m.room.message", Content: content(`{"msgtype":"m.text","body":"@bob","m.mentions":{"user_ids":["@bob:interior"]}}`)})
	same(t, "a mention", counts(slid(c.slide(ask), room)), "21")
	r := slid(c.later(ask, func() { h.read(room, bob, event, "") }), room)
	same(t, "read on another device", counts(r), "11")
	r = slid(c.slide(ask), room)
	same(t, "nothing more", r.Exists(), false)
	h.member(room, carol, carol, "join")
	r = slid(c.slide(ask), room)
	same(t, "members", fmt.Sprint(r.Get("joined_count").Int(), r.Get("invited_count").Raw), "30")
	h.member(room, alice, "@dave:interior", "invite")
	r = slid(c.slide(ask), room)
	same(t, "invited", fmt.Sprint(r.Get("joined_count").Int(), r.Get("invited_count").Raw), "31")
	h.say(room, alice, "x")
	same(t, "unchanged", slid(c.slide(ask), room).Get("joined_count").Exists(), false)
}

func slideInvites(t *testing.T, h *house) {
	room := h.create(alice, "invite", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"Secret"}`)})
	knocking := h.create(alice, "knock")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 5, `["*","*"]`, "")
	same(t, "at first", c.slide(ask).Get("lists.all.count").Int(), int64(0))
	r := c.later(ask, func() { h.member(room, alice, bob, "invite") })
	same(t, "counted", r.Get("lists.all.count").Int(), int64(1))
	invite := slid(r, room)
	state := strings.Join(types(invite.Get("invite_state")), " ")
	for _, want := range []string{"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member @alice:interior", "m.room.member @bob:interior"} {
		if !strings.Contains(state, want) {
			t.Errorf("invite_state has no %s: %s", want, state)
		}
	}
	same(t, "no more is shown", fmt.Sprint(invite.Get("timeline").Exists(), invite.Get("required_state").Exists(), invite.Get("joined_count").Exists()), "false false false")
	same(t, "initial", invite.Get("initial").Bool(), true)
	same(t, "once", slid(c.slide(ask), room).Exists(), false)
	h.say(room, alice, "not for bob")
	same(t, "what is said inside is not told", slid(c.slide(ask), room).Exists(), false)
	h.member(room, bob, bob, "join")
	joined := slid(c.slide(ask), room)
	same(t, "joined", fmt.Sprint(joined.Get("initial").Bool(), joined.Get("invite_state").Exists(), joined.Get("name").Str), "true falseSecret")
	h.member(knocking, bob, bob, "knock")
	knock := slid(c.slide(ask), knocking)
	same(t, "knock", strings.Contains(strings.Join(types(knock.Get("invite_state")), " "), "m.room.member @bob:interior"), true)
	h.member(knocking, alice, bob, "leave")
	gone := slid(c.slide(ask), knocking)
	same(t, "knock refused", gone.Get(`required_state.#(type=="m.room.member").content.membership`).Str, "leave")
	same(t, "no history", len(texts(gone)), 1)
}

func slideLeaves(t *testing.T, h *house) {
	room, banned, rejected := h.create(alice, "public"), h.create(alice, "public"), h.create(alice, "invite")
	h.member(room, bob, bob, "join")
	h.member(banned, bob, bob, "join")
	h.member(rejected, alice, bob, "invite")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 5, `["m.room.topic",""]`, "")
	c.slide(ask)
	h.say(room, alice, "before")
	h.member(room, bob, bob, "leave")
	h.state(room, alice, "m.room.topic", "", content(`{"topic":"behind his back"}`))
	h.say(room, alice, "after")
	h.member(banned, alice, bob, "ban")
	h.say(banned, alice, "after")
	h.member(rejected, bob, bob, "leave")
	r := c.slide(ask)
	same(t, "told once more", roomIDs(r), sorted(room, banned, rejected))
	own := func(room id.RoomID) string {
		return slid(r, room).Get(`required_state.#(state_key=="@bob:interior").content.membership`).Str
	}
	same(t, "left", own(room), "leave")
	same(t, "banned", own(banned), "ban")
	same(t, "rejected", own(rejected), "leave")
	same(t, "up to the leave", texts(slid(r, room)), []string{"before", "m.room.member"})
	same(t, "up to the ban", texts(slid(r, banned)), []string{"m.room.member"})
	same(t, "of an invite only its end", texts(slid(r, rejected)), []string{"m.room.member"})
	same(t, "no later state", types(slid(r, room).Get("required_state")), []string{"m.room.member @bob:interior"})
	same(t, "and never again", roomIDs(c.slide(ask)), []string{})
	same(t, "who left has it in no list, who was banned does", c.slide(ask).Get("lists.all.count").Int(), int64(1))
	h.say(banned, alice, "later")
	same(t, "and hears nothing", roomIDs(c.slide(ask)), []string{})
	fresh := &slider{house: h, user: bob}
	r = fresh.slide(ask)
	same(t, "a new connection", roomIDs(r), sorted(banned))
}

func slideKickedAway(t *testing.T, h *house) {
	room := h.create(alice, "public", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"Then"}`)})
	h.member(room, bob, bob, "join")
	h.say(room, alice, "before")
	h.member(room, alice, bob, "leave")
	h.state(room, alice, "m.room.name", "", content(`{"name":"Now"}`))
	h.say(room, alice, "after")
	revoked := h.create(alice, "invite")
	h.member(revoked, alice, bob, "invite")
	h.member(revoked, alice, bob, "leave")
	c := &slider{house: h, user: bob}
	r := c.slide(list(0, 9, 2, `["m.room.name",""]`, ""))
	same(t, "rooms", roomIDs(r), sorted(room))
	kicked := slid(r, room)
	same(t, "as it was", kicked.Get("name").Str, "Then")
	same(t, "timeline", texts(kicked), []string{"before", "m.room.member"})
	same(t, "state", kicked.Get(`required_state.#(type=="m.room.name").content.name`).Str, "Then")
}

func slideFilters(t *testing.T, h *house) {
	event := func(typ, body string) bus.Proposal {
		return bus.Proposal{Sender: alice, Type: typ, StateKey: key(""), Content: content("%s", body)}
	}
	plain := h.create(alice, "public", event("m.room.name", `{"name":"Plain room"}`))
	secret := h.create(alice, "public", event("m.room.encryption", `{"algorithm":"m.megolm.v1.aes-sha2"}`))
	tagged := h.create(alice, "public")
	direct := h.create(alice, "public")
	space := h.createOf(alice, "m.space")
	h.state(space, alice, "m.space.child", string(plain), content(`{"via":["interior"]}`))
	h.state(space, alice, "m.space.child", string(tagged), content(`{}`))
	h.note(alice, tagged, "m.tag", `{"tags":{"m.favourite":{},"u.x":{}}}`)
	h.note(alice, "", "m.direct", fmt.Sprintf(`{"@bob:interior":[%q]}`, direct))
	other := h.create(bob, "invite")
	h.member(other, bob, alice, "invite")
	for filter, want := range map[string][]string{
		`{}`:                             sorted(plain, secret, tagged, direct, space, other),
		`{"is_dm":true}`:                 sorted(direct),
		`{"is_dm":false}`:                sorted(plain, secret, tagged, space, other),
		`{"is_encrypted":true}`:          sorted(secret),
		`{"is_encrypted":false}`:         sorted(plain, tagged, direct, space, other),
		`{"is_invite":true}`:             sorted(other),
		`{"is_invite":false}`:            sorted(plain, secret, tagged, direct, space),
		`{"room_types":["m.space"]}`:     sorted(space),
		`{"room_types":[null]}`:          sorted(plain, secret, tagged, direct, other),
		`{"not_room_types":["m.space"]}`: sorted(plain, secret, tagged, direct, other),
		`{"room_types":["m.space",null],"not_room_types":["m.space"]}`:                        sorted(plain, secret, tagged, direct, other),
		`{"room_name_like":"LAIN"}`:                                                           sorted(plain),
		`{"tags":["m.favourite"]}`:                                                            sorted(tagged),
		`{"tags":["m.favourite"],"not_tags":["u.x"]}`:                                         sorted(),
		`{"not_tags":["m.favourite"]}`:                                                        sorted(plain, secret, direct, space, other),
		fmt.Sprintf(`{"spaces":[%q]}`, space):                                                 sorted(plain),
		`{"spaces":["!none:interior"]}`:                                                       sorted(),
		`{"is_invite":false,"is_dm":false,"not_room_types":["m.space"],"is_encrypted":false}`: sorted(plain, tagged),
	} {
		c := &slider{house: h, user: alice}
		r := c.slide(list(0, 20, 1, "", `,"filters":`+filter))
		same(t, filter, roomIDs(r), want)
		same(t, filter+" counts", int(r.Get("lists.all.count").Int()), len(want))
	}
	// A filter sees what changes.
	c := &slider{house: h, user: alice}
	ask := list(0, 20, 1, "", `,"filters":{"is_encrypted":true}`)
	c.slide(ask)
	h.state(plain, alice, "m.room.encryption", "", content(`{"algorithm":"m.megolm.v1.aes-sha2"}`))
	same(t, "encrypted now", roomIDs(c.slide(ask)), sorted(plain))
	ask = list(0, 20, 1, "", `,"filters":{"tags":["u.new"]}`)
	d := &slider{house: h, user: alice}
	d.slide(ask)
	r := d.later(ask, func() { h.note(alice, plain, "m.tag", `{"tags":{"u.new":{}}}`) })
	same(t, "tagged now", fmt.Sprint(r.Get("lists.all.count").Int(), roomIDs(r)), fmt.Sprint(1, sorted(plain)))
}

func slideOrder(t *testing.T, h *house) {
	one, two, three := h.create(alice, "public"), h.create(alice, "public"), h.create(alice, "public")
	top := func(merged bool) []string {
		c := &slider{house: h, user: alice, merged: merged}
		if merged {
			return roomIDs(c.slide(`{"lists":{"all":{"range":[0,0],"timeline_limit":1,"required_state":{}}}}`))
		}
		return roomIDs(c.slide(list(0, 0, 1, "", "")))
	}
	same(t, "the newest", top(false), sorted(three))
	h.say(one, alice, "x")
	same(t, "who spoke last", top(false), sorted(one))
	h.state(two, alice, "m.room.topic", "", content(`{"topic":"x"}`))
	same(t, "a topic moves nothing", top(false), sorted(one))
	same(t, "but in the merged shape", top(true), sorted(two))
	c := &slider{house: h, user: alice}
	c.slide(list(0, 0, 1, "", ""))
	r := c.later(list(0, 0, 1, "", ""), func() { h.say(three, alice, "up") })
	same(t, "a room that comes into the window", roomIDs(r), sorted(three))
	same(t, "with its news", fmt.Sprint(texts(slid(r, three)), slid(r, three).Get("initial").Bool(), slid(r, three).Get("num_live").Int()), "[up] true 1")
	h.say(one, alice, "back")
	r = c.slide(list(0, 0, 1, "", ""))
	same(t, "and one that comes back is told what it missed", fmt.Sprint(texts(slid(r, one)), slid(r, one).Get("initial").Bool()), "[back] false")
	same(t, "several ranges", len(roomIDs((&slider{house: h, user: alice}).slide(`{"lists":{"all":{"ranges":[[0,0],[2,2]],"timeline_limit":1,"required_state":[]}}}`))), 2)
}

func slideE2EE(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: bob}
	const ask = `{"conn_id":"encryption","extensions":{"e2ee":{"enabled":true}}}`
	e := c.slide(ask).Get("extensions.e2ee")
	same(t, "at first no lists", e.Get("device_lists").Raw, `{"changed":[],"left":[]}`)
	same(t, "keys", e.Get("device_one_time_keys_count").Raw+e.Get("device_unused_fallback_key_types").Raw, `{"signed_curve25519":0}[]`)
	r := c.later(ask, func() {
		err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.DeviceLists.Change(ctx, alice, "LAPTOP") })
		if err != nil {
			t.Fatal(err)
		}
	})
	same(t, "changed", r.Get("extensions.e2ee.device_lists.changed").Raw, `["@alice:interior"]`)
	h.member(room, carol, carol, "join")
	same(t, "who comes", c.slide(ask).Get("extensions.e2ee.device_lists.changed").Raw, `["@carol:interior"]`)
	h.member(room, carol, carol, "leave")
	e = c.slide(ask).Get("extensions.e2ee")
	same(t, "who goes", e.Get("device_lists.left").Raw, `["@carol:interior"]`)
	same(t, "always there", e.Get("device_unused_fallback_key_types").Raw, `[]`)
}

func slideToDevice(t *testing.T, h *house) {
	c := &slider{house: h, user: bob}
	send := func(n int) {
		t.Helper()
		err := h.store.Do(t.Context(), func(ctx context.Context) error {
			return h.store.ToDevice.Put(ctx, []storage.ToDeviceMessage{{UserID: bob, DeviceID: "PHONE", JSON: content(`{"type":"m.x","sender":"@alice:interior","content":{"n":%d}}`, n)}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(since string) string {
		return fmt.Sprintf(`{"extensions":{"to_device":{"enabled":true,"limit":2,"since":%q}}}`, since)
	}
	got := func(r gjson.Result) (string, string) {
		return r.Get("extensions.to_device.events.#.content.n").Raw, r.Get("extensions.to_device.next_batch").Str
	}
	none, start := got(c.slide(ask("")))
	same(t, "at first", fmt.Sprint(none, start != ""), "[]true")
	for n := range 3 {
		send(n)
	}
	some, next := got(c.slide(ask(start)))
	same(t, "two at once", some, "[0,1]")
	again, _ := got(c.slide(ask(start)))
	same(t, "until they are acknowledged", again, "[0,1]")
	fresh := &slider{house: h, user: bob}
	again, _ = got(fresh.slide(`{"conn_id":"b",` + ask("")[1:]))
	same(t, "whichever connection asks", again, "[0,1]")
	more, _ := got(c.slide(ask(next)))
	same(t, "then the rest", more, "[2]")
	again, _ = got(fresh.slide(`{"conn_id":"b",` + ask(start)[1:]))
	same(t, "what was acknowledged is gone", again, "[2]")
	_, last := got(c.slide(ask(next)))
	none, _ = got(c.slide(ask(last)))
	same(t, "at the end", none, "[]")
	some, _ = got(c.later(ask(last), func() { send(3) }))
	same(t, "one that comes", some, "[3]")
}

func slideAccountData(t *testing.T, h *house) {
	room, other := h.create(alice, "public"), h.create(alice, "public")
	h.note(alice, room, "m.tag", `{"tags":{}}`)
	h.note(alice, "", "x.y", `{"n":1}`)
	h.say(room, alice, "top")
	c := &slider{house: h, user: alice}
	ask := func(high int) string {
		return fmt.Sprintf(`{"lists":{"all":{"ranges":[[0,%d]],"timeline_limit":1,"required_state":[]}},"extensions":{"account_data":{"enabled":true}}}`, high)
	}
	e := c.slide(ask(0)).Get("extensions.account_data")
	same(t, "global", e.Get(`global.#(type=="x.y").content.n`).Int(), int64(1))
	same(t, "push rules", e.Get(`global.#(type=="m.push_rules").content.global`).Exists(), true)
	same(t, "of the room", e.Get("rooms").Get(gjson.Escape(string(room))+".0.type").Str, "m.tag")
	same(t, "nothing new", c.slide(ask(0)).Get("extensions.account_data").Exists(), false)
	h.note(alice, other, "m.marked_unread", `{"unread":true}`)
	same(t, "of a room that the client does not know", c.slide(ask(0)).Get("extensions.account_data").Exists(), false)
	e = c.slide(ask(9)).Get("extensions.account_data")
	same(t, "of one that it comes to know", e.Get("rooms").Get(gjson.Escape(string(other))+".0.type").Str, "m.marked_unread")
	e = c.later(ask(9), func() { h.note(alice, room, "m.fully_read", `{"event_id":"$x"}`) }).Get("extensions.account_data")
	same(t, "changed", e.Get("rooms").Get(gjson.Escape(string(room))).Raw, `[{"type":"m.fully_read","content":{"event_id":"$x"}}]`)
	h.note(alice, "", "x.y", "")
	same(t, "deleted", c.slide(ask(9)).Get(`extensions.account_data.global.#(type=="x.y").content`).Raw, "{}")
}

func slideReceipts(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	h.member(room, carol, carol, "join")
	early := h.say(room, alice, "early")
	event := h.say(room, alice, "x")
	h.read(room, carol, early, "")
	h.read(room, bob, early, "")
	ask := strings.TrimSuffix(list(0, 9, 1, "", ""), "}") + `,"extensions":{"receipts":{"enabled":true,"rooms":["*"]}}}`
	c := &slider{house: h, user: bob}
	at := func(r gjson.Result, event id.EventID) string {
		return r.Get("extensions.receipts.rooms").Get(gjson.Escape(string(room))).Get("content").Get(gjson.Escape(string(event))).Raw
	}
	r := c.slide(ask)
	same(t, "at first one's own, and at what is shown", at(r, early), `{"m.read":{"@bob:interior":{"ts":1}}}`)
	r = c.later(ask, func() { h.read(room, carol, event, "main") })
	same(t, "in a thread", at(r, event), `{"m.read":{"@carol:interior":{"ts":1,"thread_id":"main"}}}`)
	same(t, "is an m.receipt", r.Get("extensions.receipts.rooms").Get(gjson.Escape(string(room))).Get("type").Str, "m.receipt")
	same(t, "and no room of its own", roomIDs(r), []string{})
	err := h.store.Do(t.Context(), func(ctx context.Context) error {
		_, err := h.store.Receipts.Put(ctx, &storage.Receipt{RoomID: room, UserID: bob, Type: storage.ReceiptReadPrivate, EventID: event, Timestamp: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "one's own private one", at(c.slide(ask), event), `{"m.read.private":{"@bob:interior":{"ts":1}}}`)
	others := &slider{house: h, user: carol}
	same(t, "is nobody else's", strings.Contains(others.slide(ask).Raw, "m.read.private"), false)
}

func slideTyping(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: bob}
	ask := strings.TrimSuffix(list(0, 9, 1, "", ""), "}") + `,"extensions":{"typing":{"enabled":true}}}`
	users := func(r gjson.Result) string {
		return r.Get("extensions.typing.rooms").Get(gjson.Escape(string(room))).Get("content.user_ids").Raw
	}
	same(t, "nobody", c.slide(ask).Get("extensions.typing").Exists(), false)
	same(t, "alice", users(c.later(ask, func() { h.writes(room, alice, true) })), `["@alice:interior"]`)
	same(t, "told once", c.slide(ask).Get("extensions.typing").Exists(), false)
	same(t, "at first", users((&slider{house: h, user: bob}).slide(`{"conn_id":"b",`+ask[1:])), `["@alice:interior"]`)
	same(t, "no more", users(c.later(ask, func() { h.writes(room, alice, false) })), `[]`)
}

func slideScopes(t *testing.T, h *house) {
	listed, subscribed, outside := h.create(alice, "public"), h.create(alice, "public"), h.create(alice, "public")
	h.say(listed, alice, "top")
	for _, room := range []id.RoomID{listed, subscribed, outside} {
		h.note(alice, room, "m.tag", `{"tags":{}}`)
	}
	for scope, want := range map[string][]string{
		`{"enabled":true}`:                                                              sorted(listed, subscribed),
		`{"enabled":true,"lists":["a"]}`:                                                sorted(listed, subscribed),
		`{"enabled":true,"lists":[],"rooms":["*"]}`:                                     sorted(subscribed),
		`{"enabled":true,"lists":["*"],"rooms":[]}`:                                     sorted(listed),
		`{"enabled":true,"lists":["b"],"rooms":[]}`:                                     sorted(),
		fmt.Sprintf(`{"enabled":true,"lists":[],"rooms":[%q,%q]}`, subscribed, outside): sorted(subscribed),
		`{"enabled":false}`:                                                             sorted(),
	} {
		c := &slider{house: h, user: alice}
		r := c.slide(fmt.Sprintf(`{"lists":{"a":{"ranges":[[0,0]],"timeline_limit":1,"required_state":[]}},
			"room_subscriptions":{%q:{"timeline_limit":1,"required_state":[]}},"extensions":{"account_data":%s}}`, subscribed, scope))
		got := []string{}
		for room := range r.Get("extensions.account_data.rooms").Map() {
			got = append(got, room)
		}
		slices.Sort(got)
		same(t, scope, got, want)
	}
}

func slideThreads(t *testing.T, h *house) {
	c := &slider{house: h, user: alice}
	const ask = `{"extensions":{"io.element.msc4308.thread_subscriptions":{"enabled":true,"limit":2}}}`
	told := func(r gjson.Result) gjson.Result {
		return r.Get(`extensions.io\.element\.msc4308\.thread_subscriptions`)
	}
	put := func(root string, subscribed bool) {
		t.Helper()
		sub := storage.ThreadSubscription{UserID: alice, RoomID: "!r:interior", Root: id.EventID(root), Subscribed: subscribed, Automatic: true}
		if err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.ThreadSubscriptions.Put(ctx, sub) }); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "none", told(c.slide(ask)).Exists(), false)
	r := told(c.later(ask, func() { put("$1", true) }))
	same(t, "subscribed", r.Get(`subscribed.!r:interior.$1.automatic`).Raw, "true")
	put("$1", false)
	r = told(c.slide(ask))
	same(t, "left", fmt.Sprint(r.Get(`unsubscribed.!r:interior.$1.bump_stamp`).Int() > 0, r.Get("subscribed").Exists()), "true false")
	for _, root := range []string{"$2", "$3", "$4"} {
		put(root, true)
	}
	r = told(c.slide(ask))
	same(t, "the latest", fmt.Sprint(len(r.Get(`subscribed.!r:interior`).Map()), r.Get(`subscribed.!r:interior.$4`).Exists()), "2 true")
	if _, err := storage.ParseThreadToken(r.Get("prev_batch").Str); err != nil {
		t.Errorf("prev_batch %q: %v", r.Get("prev_batch").Str, err)
	}
	same(t, "nothing new", told(c.slide(ask)).Exists(), false)
}

func slideSticky(t *testing.T, h *house) {
	room, other := h.create(alice, "public"), h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: bob}
	ask := func(high int, since string) string {
		return strings.TrimSuffix(list(0, high, 1, "", ""), "}") + fmt.Sprintf(`,"extensions":{"org.matrix.msc4354.sticky_events":{"enabled":true,"since":%q}}}`, since)
	}
	told := func(r gjson.Result) gjson.Result {
		return r.Get(`extensions.org\.matrix\.msc4354\.sticky_events`)
	}
	stick := func(room id.RoomID, n int) {
		h.propose(room, bus.Proposal{Sender: alice, Type: "m.rtc.member", Content: content(`{"n":%d}`, n), Sticky: 60_000})
	}
	events := func(r gjson.Result, room id.RoomID) string {
		return told(r).Get("rooms").Get(gjson.Escape(string(room))).Get("events.#.content.n").Raw
	}
	same(t, "none", told(c.slide(ask(0, ""))).Exists(), false)
	stick(room, 1)
	stick(room, 2)
	r := c.slide(ask(0, ""))
	same(t, "what the timeline does not show", events(r, room), "[1]")
	since := told(r).Get("next_batch").Str
	same(t, "told once", told(c.slide(ask(0, since))).Exists(), false)
	stick(other, 3)
	h.member(other, bob, bob, "join")
	h.say(other, alice, "top")
	r = c.slide(ask(0, since))
	same(t, "all of a room that was joined", events(r, other), "[3]")
	same(t, "a new client hears of all", events((&slider{house: h, user: bob}).slide(ask(0, "")), room), "[1,2]")
}

func slideBounds(t *testing.T, h *house) {
	h.create(alice, "public")
	many := func(n int, form string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, form, i)
		}
		return b.String()
	}
	for body, want := range map[string]int{
		`[]`: 400, `{"lists":[]}`: 400, `{"lists":{"a":null}}`: 400, `{"lists":{"a":{"ranges":[[1]]}}}`: 400, `{"lists":{"a":{"ranges":[[5,1]]}}}`: 400,
		`{"lists":{"a":{"ranges":[[-1,1]]}}}`: 400, `{"lists":{"a":{"ranges":[[0,1]],"timeline_limit":-1}}}`: 400,
		`{"lists":{"a":{"ranges":[[0,1]],"required_state":[["a"]]}}}`: 400, `{"lists":{"a":{"ranges":[[0,1]],"required_state":{"include":[]}}}}`: 400,
		`{"room_subscriptions":{"nowhere":{}}}`: 400, `{"extensions":{"e2ee":{"enabled":"yes"}}}`: 400,
		`{"lists":{` + many(101, `"l%d":{"ranges":[[0,1]]}`) + `}}`:                                                                              400,
		`{"room_subscriptions":{` + many(501, `"!r%d":{"timeline_limit":1}`) + `}}`:                                                              400,
		`{"lists":{"a":{"required_state":[` + many(501, `["a","%d"]`) + `]}}}`:                                                                   400,
		`{"lists":{"a":{"ranges":[[0,1]],"timeline_limit":1000000,"filters":{"unknown":1},"bump_event_types":["x"]}},"txn_id":"x","unknown":{}}`: 200,
	} {
		c := &slider{house: h, user: alice}
		code, answer := c.ask(body)
		if code != want {
			t.Errorf("%.80s: got %d %s, want %d", body, code, answer.Raw, want)
		}
	}
	// Too much for one answer follows with the next.
	for range 120 {
		h.create(alice, "public")
	}
	all := &slider{house: h, user: alice}
	ask := list(0, 1000, 200, "", "")
	first := roomIDs(all.slide(ask))
	second := roomIDs(all.slide(ask, "timeout", "20000"))
	same(t, "in two answers", fmt.Sprint(len(first) < 121, len(first)+len(second)), "true 121")
	c := &slider{house: h, user: alice, merged: true}
	code, answer := c.ask(`{"room_subscriptions":{` + many(101, `"!r%d":{"timeline_limit":1}`) + `}}`)
	same(t, "merged: subscriptions", fmt.Sprint(code, answer.Get("errcode").Str), "400M_INVALID_PARAM")
	code, answer = c.ask(`{"set_presence":"sleepy"}`)
	same(t, "merged: presence", fmt.Sprint(code, answer.Get("errcode").Str), "400M_INVALID_PARAM")
}

func slideMerged(t *testing.T, h *house) {
	room := h.create(alice, "public", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"N"}`)})
	for i := range 4 {
		h.say(room, alice, fmt.Sprint(i))
	}
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: alice, merged: true}
	ask := func(limit int, state string) string {
		return fmt.Sprintf(`{"conn_id":"main","timeout":0,"lists":{"all":{"range":[0,9],"timeline_limit":%d,"required_state":%s,"filters":{"is_invited":false}}}}`, limit, state)
	}
	r := slid(c.slide(ask(1, `{"include":[{"type":"m.room.create","state_key":""}]}`)), room)
	same(t, "membership and lists", r.Get("membership").Str+r.Get("lists").Raw, `join["all"]`)
	same(t, "no counts", fmt.Sprint(r.Get("notification_count").Exists(), r.Get("highlight_count").Exists()), "false false")
	same(t, "state", types(r.Get("required_state")), []string{"m.room.create"})
	r = slid(c.slide(ask(3, `{"include":[{}],"lazy_members":true,"exclude":[{"type":"m.room.power_levels"}]}`)), room)
	same(t, "expanded", fmt.Sprint(r.Get("expanded_timeline").Bool(), r.Get("unstable_expanded_timeline").Exists(), len(texts(r))), "true false 3")
	same(t, "more state, lazily", types(r.Get("required_state")), []string{"m.room.member @alice:interior", "m.room.join_rules", "m.room.name", "m.room.member @bob:interior"})
	r = slid(c.slide(ask(3, `{"include":[{"state_key":"@bob:interior"}]}`)), room)
	same(t, "a key of whatever type", r.Get("required_state").Exists(), true)
	h.state(room, alice, "m.room.name", "", content(`{}`))
	same(t, "no name", slid(c.slide(ask(3, `{"include":[{}]}`)), room).Get("name").Raw, "null")
	invited := h.create(bob, "invite")
	h.member(invited, bob, alice, "invite")
	all := &slider{house: h, user: alice, merged: true}
	r = all.slide(`{"lists":{"a":{"timeline_limit":1,"required_state":{}}}}`)
	same(t, "without a range all", roomIDs(r), sorted(room, invited))
	same(t, "stripped", fmt.Sprint(slid(r, invited).Get("stripped_state").IsArray(), slid(r, invited).Get("invite_state").Exists(), slid(r, invited).Get("membership").Str), "true falseinvite")
	// The clock of the long poll is in the body.
	done := make(chan gjson.Result, 1)
	go func() { done <- all.slide(`{"timeout":20000,"lists":{"a":{"timeline_limit":1,"required_state":{}}}}`) }()
	waitFor(t, func() bool {
		h.sync.mu.RLock()
		defer h.sync.mu.RUnlock()
		return len(h.sync.users[alice].waiters) > 0
	})
	h.say(room, alice, "now")
	same(t, "woken", texts(slid(<-done, room)), []string{"now"})
}

func slideResolution(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.state(room, alice, "x.y", "", content(`{"n":1}`))
	h.state(room, alice, "x.y", "", content(`{"n":2}`))
	h.state(room, alice, "m.room.name", "", content(`{"name":"N"}`))
	c := &slider{house: h, user: alice}
	d := &slider{house: h, user: alice, merged: true}
	ask := list(0, 9, 1, `["x.y",""]`, "")
	const merged = `{"conn_id":"m","lists":{"all":{"range":[0,9],"timeline_limit":1,"required_state":{"include":[{"type":"x.y"},{"type":"m.room.name"}]}}}}`
	same(t, "before", slid(c.slide(ask), room).Get("required_state.0.content.n").Int(), int64(2))
	d.slide(merged)
	// resolve makes the state hold the older event again, and no name: what a room server writes when it resolves a fork.
	resolve := func() {
		stored, err := h.store.Rooms.ByID(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		events, err := h.store.Events.Backwards(t.Context(), room, h.store.Head().End(), 3)
		if err != nil || len(events) != 3 {
			t.Fatalf("events: %v %v", events, err)
		}
		at := stored.State
		entries := []storage.Entry{
			{Chain: at.Chain, Sequence: at.Sequence + 1, Key: storage.Key{Type: "x.y"}, Event: events[2].Number, Old: events[1].Number, News: true},
			{Chain: at.Chain, Sequence: at.Sequence + 2, Key: storage.Key{Type: "m.room.name"}, Old: events[0].Number, News: true},
		}
		stored.State.Sequence += 2
		if err := h.store.RoomWriter(nil).WriteAndWait(&storage.RoomRows{Line: &storage.Line{}, Room: room, Entries: entries, Head: stored}); err != nil {
			t.Fatal(err)
		}
	}
	r := slid(c.later(ask, resolve), room)
	same(t, "what holds now", fmt.Sprint(r.Get("required_state.#.content.n").Raw, texts(r), r.Get("name").Raw), "[1][]null")
	r = slid(d.slide(merged), room)
	same(t, "with a stub for what is gone", fmt.Sprint(r.Get("required_state.0.content.n").Raw, r.Get("required_state.1").Raw), `1{"type":"m.room.name","state_key":""}`)
}

func slideRejoins(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 3, memberAndCreate, "")
	c.slide(ask)
	h.member(room, bob, bob, "leave")
	h.say(room, alice, "unseen")
	h.member(room, bob, bob, "join")
	r := slid(c.slide(ask), room)
	same(t, "between two answers", r.Get("initial").Bool(), true)
	h.member(room, bob, bob, "leave")
	c.slide(ask)
	h.member(room, bob, bob, "join")
	same(t, "after it was told", slid(c.slide(ask), room).Get("initial").Bool(), true)
	h.propose(room, profile(bob, 3))
	same(t, "a profile is no joining", slid(c.slide(ask), room).Get("initial").Bool(), false)
}

func slideIgnores(t *testing.T, h *house) {
	room, other := h.create(alice, "public"), h.create(bob, "invite")
	h.member(room, bob, bob, "join")
	h.note(alice, "", "m.ignored_user_list", `{"ignored_users":{"@bob:interior":{}}}`)
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 2, "", "")
	c.slide(ask)
	h.say(room, bob, "unheard")
	h.say(room, alice, "heard")
	h.member(other, bob, alice, "invite")
	r := c.slide(ask)
	same(t, "rooms", roomIDs(r), sorted(room))
	same(t, "timeline", texts(slid(r, room)), []string{"heard"})
}
