package syncing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

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
