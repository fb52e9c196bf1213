package syncing

import (
	"fmt"
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
