package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestInitialThenIncremental(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.say(room, alice, "one")
	first := h.answerTo(alice, "")
	joined := in(first, "join", room)
	same(t, "first timeline", bodies(joined), []string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "one"})
	same(t, "limited", joined.Get("timeline.limited").Bool(), false)
	same(t, "state beside a whole timeline", len(joined.Get("state.events").Array()), 0)
	same(t, "joined members", joined.Get(`summary.m\.joined_member_count`).Int(), int64(1))
	same(t, "keys counted", first.Get("device_one_time_keys_count.signed_curve25519").Raw, "0")
	same(t, "fallback keys", first.Get("device_unused_fallback_key_types").Raw, "[]")
	if !first.Get(`account_data.events.#(type=="m.push_rules").content.global.override`).Exists() {
		t.Errorf("no push rules in %s", first.Get("account_data").Raw)
	}
	h.say(room, alice, "two")
	second := h.answerTo(alice, next(first))
	same(t, "second timeline", bodies(in(second, "join", room)), []string{"two"})
	event := in(second, "join", room).Get("timeline.events.0")
	same(t, "transaction for the sending device", event.Get("unsigned.transaction_id").Str, "t2")
	same(t, "membership", event.Get("unsigned.membership").Str, "join")
	same(t, "room_id", event.Get("room_id").Exists(), false)
	third := h.answerTo(alice, next(second))
	same(t, "nothing new", third.Get("rooms").Raw, "")
	if next(third) == "" {
		t.Errorf("no next_batch in %s", third.Raw)
	}
}

func TestLimitedTimelineAndGap(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			h := newHouse(t)
			room := h.create(alice, "public")
			since := next(h.answerTo(alice, ""))
			h.state(room, alice, "m.room.topic", "", content(`{"topic":"a"}`))
			for i := range 5 {
				h.say(room, alice, fmt.Sprint(i))
			}
			h.state(room, alice, "m.room.name", "", content(`{"name":"b"}`))
			if restarted {
				h.again()
			}
			const filter = `{"room":{"timeline":{"limit":3}}}`
			gap := in(h.answerTo(alice, since, "filter", filter), "join", room)
			same(t, "timeline", bodies(gap), []string{"3", "4", "m.room.name"})
			same(t, "limited", gap.Get("timeline.limited").Bool(), true)
			same(t, "state before the timeline", types(gap.Get("state.events")), []string{"m.room.topic"})
			after := in(h.answerTo(alice, since, "filter", filter, "use_state_after", "true"), "join", room)
			same(t, "state after the timeline", types(after.Get("state_after.events")), []string{"m.room.topic", "m.room.name"})
			same(t, "state with state_after", after.Get("state").Exists(), false)
			unstable := in(h.answerTo(alice, since, "filter", filter, "org.matrix.msc4222.use_state_after", "true"), "join", room)
			same(t, "the older name", types(unstable.Get(`org\.matrix\.msc4222\.state_after.events`)), []string{"m.room.topic", "m.room.name"})
			page, err := storage.ParsePage(gap.Get("timeline.prev_batch").Str)
			if err != nil {
				t.Fatal(err)
			}
			events, err := h.store.Events.Backwards(t.Context(), room, page, 1)
			if err != nil || len(events) != 1 || gjson.GetBytes(events[0].JSON, "content.body").Str != "2" {
				t.Errorf("before prev_batch: got %v (%v), want the message 2", events, err)
			}
		})
	}
}

func TestLongPollWakes(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	since := next(h.answerTo(bob, ""))
	cases := []struct {
		name string
		do   func()
		want func(gjson.Result) bool
	}{
		{"a message", func() { h.say(room, alice, "hello") }, func(r gjson.Result) bool {
			return slices.Equal(bodies(in(r, "join", room)), []string{"hello"})
		}},
		{"typing", func() {
			if err := bus.Tell(h.bus, bus.TypingIn(room), bus.Typing{RoomID: room, UserID: alice, Typing: true, Until: time.Now().Add(time.Minute).UnixMilli()}); err != nil {
				t.Fatal(err)
			}
		}, func(r gjson.Result) bool {
			return in(r, "join", room).Get(`ephemeral.events.#(type=="m.typing").content.user_ids.0`).Str == string(alice)
		}},
		{"account data", func() {
			err := h.store.Do(t.Context(), func(ctx context.Context) error {
				return h.store.AccountData.Put(ctx, storage.AccountData{UserID: bob, Type: "x", Content: json.RawMessage(`{"a":1}`)})
			})
			if err != nil {
				t.Fatal(err)
			}
		}, func(r gjson.Result) bool { return r.Get(`account_data.events.#(type=="x").content.a`).Int() == 1 }},
		{"to-device", func() {
			err := h.store.Do(t.Context(), func(ctx context.Context) error {
				return h.store.ToDevice.Put(ctx, []storage.ToDeviceMessage{{UserID: bob, DeviceID: "PHONE", JSON: json.RawMessage(`{"type":"m.x","sender":"@alice:interior","content":{}}`)}})
			})
			if err != nil {
				t.Fatal(err)
			}
		}, func(r gjson.Result) bool { return r.Get("to_device.events.0.type").Str == "m.x" }},
		{"a device list", func() {
			err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.DeviceLists.Change(ctx, alice, "LAPTOP") })
			if err != nil {
				t.Fatal(err)
			}
		}, func(r gjson.Result) bool { return r.Get("device_lists.changed.0").Str == string(alice) }},
		{"an invite", func() {
			other := h.create(alice, "invite")
			h.member(other, alice, bob, "invite")
		}, func(r gjson.Result) bool { return len(r.Get("rooms.invite").Map()) == 1 }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			done := make(chan gjson.Result, 1)
			go func() { done <- h.answerTo(bob, since, "timeout", "20000") }()
			waitFor(t, func() bool {
				h.sync.mu.RLock()
				defer h.sync.mu.RUnlock()
				return len(h.sync.users[bob].waiters) > 0
			})
			start := time.Now()
			c.do()
			select {
			case r := <-done:
				if !c.want(r) {
					t.Errorf("woken by %s with %s", c.name, r.Raw)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("answer took %s", took)
				}
				since = next(r)
			case <-time.After(15 * time.Second):
				t.Fatal("not woken")
			}
		})
	}
}

// waitFor waits for a condition that another goroutine brings about.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("did not come about in time")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestToDeviceIsDeletedWhenAcknowledged(t *testing.T) {
	h := newHouse(t)
	since := next(h.answerTo(bob, ""))
	var messages []storage.ToDeviceMessage
	for i := range maxToDevice + 20 {
		messages = append(messages, storage.ToDeviceMessage{UserID: bob, DeviceID: "PHONE", JSON: json.RawMessage(fmt.Sprintf(`{"type":"m.x","content":{"n":%d}}`, i))})
	}
	if err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.ToDevice.Put(ctx, messages) }); err != nil {
		t.Fatal(err)
	}
	first := h.answerTo(bob, since)
	same(t, "first answer", len(first.Get("to_device.events").Array()), maxToDevice)
	same(t, "the same token again", len(h.answerTo(bob, since).Get("to_device.events").Array()), maxToDevice)
	second := h.answerTo(bob, next(first))
	same(t, "second answer", len(second.Get("to_device.events").Array()), 20)
	same(t, "first of the second answer", second.Get("to_device.events.0.content.n").Int(), int64(maxToDevice))
	h.answerTo(bob, next(second))
	left, err := h.store.ToDevice.After(t.Context(), bob, "PHONE", 0, h.store.Head(), 1)
	if err != nil || len(left) != 0 {
		t.Errorf("after the last token: %v (%v), want nothing left", left, err)
	}
}

func TestMembershipSections(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			h := newHouse(t)
			room := h.create(alice, "invite", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"cabinet"}`)})
			since := next(h.answerTo(bob, ""))
			step := func() gjson.Result {
				t.Helper()
				if restarted {
					h.again()
				}
				r := h.answerTo(bob, since)
				since = next(r)
				return r
			}
			h.member(room, alice, bob, "invite")
			invited := in(step(), "invite", room).Get("invite_state.events")
			for _, want := range []string{"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member @alice:interior", "m.room.member @bob:interior"} {
				if !slices.Contains(types(invited), want) {
					t.Errorf("invite_state %v lacks %s", types(invited), want)
				}
			}
			same(t, "the invite again", step().Get("rooms").Raw, "")
			h.member(room, bob, bob, "join")
			h.say(room, alice, "welcome")
			joined := in(step(), "join", room)
			if got := bodies(joined); len(got) < 2 || got[len(got)-1] != "welcome" || got[len(got)-2] != "m.room.member" {
				t.Errorf("timeline after joining: %v, want it to end with the join and the welcome", got)
			}
			all := append(types(joined.Get("timeline.events")), types(joined.Get("state.events"))...)
			if !slices.Contains(all, "m.room.name") {
				t.Errorf("after joining the name is missing: %v", all)
			}
			h.say(room, alice, "before")
			h.member(room, alice, bob, "leave")
			h.say(room, alice, "after")
			h.state(room, alice, "m.room.topic", "", content(`{"topic":"secret"}`))
			r := step()
			left := in(r, "leave", room)
			same(t, "timeline of the room left", bodies(left), []string{"before", "m.room.member"})
			same(t, "state of the room left", types(left.Get("state.events")), []string(nil))
			same(t, "no longer joined", in(r, "join", room).Exists(), false)
			same(t, "left again", step().Get("rooms").Raw, "")
			same(t, "initial without include_leave, after a kick", in(h.answerTo(bob, ""), "leave", room).Exists(), true)
			archived := in(h.answerTo(bob, "", "filter", `{"room":{"include_leave":true,"timeline":{"limit":2}}}`), "leave", room)
			same(t, "archived timeline", bodies(archived), []string{"before", "m.room.member"})
			if state := types(archived.Get("state.events")); !slices.Contains(state, "m.room.name") || slices.Contains(state, "m.room.topic") {
				t.Errorf("archived state %v, want it as of the leave", state)
			}
		})
	}
}

func TestRejectedInviteIsLeft(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "invite", bus.Proposal{Sender: alice, Type: "m.room.history_visibility", StateKey: key(""), Content: content(`{"history_visibility":"joined"}`)})
	since := next(h.answerTo(bob, ""))
	h.member(room, alice, bob, "invite")
	since = next(h.answerTo(bob, since))
	h.member(room, bob, bob, "leave")
	left := in(h.answerTo(bob, since), "leave", room)
	same(t, "timeline", types(left.Get("timeline.events")), []string{"m.room.member @bob:interior"})
	same(t, "state", types(left.Get("state.events")), []string(nil))
	same(t, "initial without include_leave, after leaving", in(h.answerTo(bob, ""), "leave", room).Exists(), false)
}

func TestLazyMembers(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	h.member(room, carol, carol, "join")
	for i := range 4 {
		h.say(room, bob, fmt.Sprint(i))
	}
	const filter = `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`
	first := h.answerTo(alice, "", "filter", filter)
	members := func(r gjson.Result) (list []string) {
		for _, e := range in(r, "join", room).Get("state.events").Array() {
			if e.Get("type").Str == "m.room.member" {
				list = append(list, id.UserID(e.Get("state_key").Str).Localpart())
			}
		}
		slices.Sort(list)
		return list
	}
	// Alice herself, Bob who speaks, and Carol, by whom the nameless room is called.
	same(t, "members of the first answer", members(first), []string{"alice", "bob", "carol"})
	h.say(room, bob, "again")
	second := h.answerTo(alice, next(first), "filter", filter)
	same(t, "members already sent", members(second), []string(nil))
	const redundant = `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`
	same(t, "redundant members", members(h.answerTo(alice, next(first), "filter", redundant)), []string{"bob"})
}

func TestFilterChooses(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	since := next(h.answerTo(alice, ""))
	h.say(room, alice, "hers")
	h.say(room, bob, "his")
	h.propose(room, bus.Proposal{Sender: bob, Type: "m.image.x", Content: content(`{"url":"mxc://a/b","body":"picture"}`)})
	for filter, want := range map[string][]string{
		`{}`: {"hers", "his", "picture"},
		`{"room":{"timeline":{"types":["m.room.*"]}}}`:                                  {"hers", "his"},
		`{"room":{"timeline":{"not_types":["m.room.message"]}}}`:                        {"picture"},
		`{"room":{"timeline":{"senders":["@bob:interior"]}}}`:                           {"his", "picture"},
		`{"room":{"timeline":{"not_senders":["@bob:interior"]}}}`:                       {"hers"},
		`{"room":{"timeline":{"contains_url":true}}}`:                                   {"picture"},
		`{"room":{"timeline":{"contains_url":false}}}`:                                  {"hers", "his"},
		`{"room":{"timeline":{"limit":1}}}`:                                             {"picture"},
		`{"room":{"timeline":{"types":[]}}}`:                                            nil,
		`{"room":{"not_rooms":["` + string(room) + `"]}}`:                               nil,
		`{"room":{"rooms":["` + string(room) + `"]}}`:                                   {"hers", "his", "picture"},
		`{"room":{"timeline":{"types":["m.room.message"],"limit":1}}}`:                  {"his"},
		`{"event_fields":["content.body"],"room":{"timeline":{"types":["m.image.*"]}}}`: {"picture"},
	} {
		same(t, filter, bodies(in(h.answerTo(alice, since, "filter", filter), "join", room)), want)
	}
	few := in(h.answerTo(alice, since, "filter", `{"event_fields":["content.body"]}`), "join", room).Get("timeline.events.2")
	same(t, "event_fields", few.Raw, `{"content":{"body":"picture"}}`)
}

func TestStoredFilters(t *testing.T) {
	h := newHouse(t)
	path := "/_matrix/client/v3/user/" + string(alice) + "/filter"
	code, made := h.ask("POST", path, alice, nil, `{"room":{"timeline":{"limit":10}}}`)
	same(t, "made", code, 200)
	code, got := h.ask("GET", path+"/"+made.Get("filter_id").Str, alice, nil, "")
	same(t, "read", []any{code, got.Get("room.timeline.limit").Int()}, []any{200, int64(10)})
	h.answerTo(alice, "", "filter", made.Get("filter_id").Str)
	for body, want := range map[string]string{
		`[]`: "M_BAD_JSON", `{"room":{"timeline":{"limit":-1}}}`: "M_BAD_JSON", `{"room":{"rooms":["x"]}}`: "M_BAD_JSON",
		`{"event_format":"x"}`: "M_BAD_JSON", `{"room":{"timeline":{"senders":["bob"]}}}`: "M_BAD_JSON", `{`: "M_NOT_JSON",
	} {
		code, refusal := h.ask("POST", path, alice, nil, body)
		same(t, body, []any{code, refusal.Get("errcode").Str}, []any{400, want})
	}
	code, refusal := h.ask("GET", path+"/none", alice, nil, "")
	same(t, "unknown filter", []any{code, refusal.Get("errcode").Str}, []any{404, "M_NOT_FOUND"})
	code, _ = h.ask("GET", path+"/x", bob, nil, "")
	same(t, "another's filter", code, 403)
}

func TestReceiptsAndCounts(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			h := newHouse(t)
			room := h.create(alice, "public")
			h.member(room, bob, bob, "join")
			h.member(room, carol, carol, "join")
			since := next(h.answerTo(bob, ""))
			step := func() gjson.Result {
				t.Helper()
				if restarted {
					h.again()
				}
				r := h.answerTo(bob, since, "filter", `{"room":{"timeline":{"unread_thread_notifications":true}}}`)
				since = next(r)
				return in(r, "join", room)
			}
			counts := func(r gjson.Result) []int64 {
				return []int64{r.Get("unread_notifications.notification_count").Int(), r.Get("unread_notifications.highlight_count").Int()}
			}
			root := h.say(room, alice, "root")
			h.say(room, alice, "hello @bob:interior!")
			same(t, "two, one of them a mention", counts(step()), []int64{2, 1})
			h.propose(room, bus.Proposal{Sender: alice, Type: "m.room.message", Content: content(`{"msgtype":"m.text","body":"in thread","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, root)})
			r := step()
			same(t, "main", counts(r), []int64{2, 1})
			same(t, "thread", r.Get("unread_thread_notifications").Get(gjson.Escape(string(root))).Get("notification_count").Int(), int64(1))
			h.read(room, bob, root, "main")
			r = step()
			same(t, "after reading the first", counts(r), []int64{1, 1})
			same(t, "receipt", r.Get("ephemeral.events.0.content").Get(string(root)).Get(`m\.read`).Get(gjson.Escape(string(bob))).Get("thread_id").Str, "main")
			last := h.say(room, alice, "last")
			same(t, "one more", counts(step()), []int64{2, 1})
			h.read(room, bob, last, "")
			r = step()
			same(t, "after reading all", counts(r), []int64{0, 0})
			same(t, "thread after reading all", r.Get("unread_thread_notifications").Raw, "")
			h.say(room, alice, "x")
			same(t, "a new one", counts(step()), []int64{1, 0})
			h.say(room, bob, "mine")
			same(t, "who speaks has read", counts(step()), []int64{0, 0})
		})
	}
}

func TestForeignTokens(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	for name, token := range map[string]storage.Token{
		"foreign incarnation": {Incarnation: "zzzzzz", Position: 1},
		"from the future":     {Incarnation: h.store.Incarnation(), Position: 1 << 40},
	} {
		r := h.answerTo(alice, token.String(), "timeout", "1000")
		if !in(r, "join", room).Get("summary").Exists() {
			t.Errorf("%s: got %s, want an initial sync", name, r.Raw)
		}
	}
	for _, token := range []string{"x", "s_", "s1_2_3", "sabc_-1_0__0"} {
		code, refusal := h.ask("GET", "/_matrix/client/v3/sync", alice, map[string][]string{"since": {token}}, "")
		same(t, token, []any{code, refusal.Get("errcode").Str}, []any{400, "M_INVALID_PARAM"})
	}
}

func TestIgnoredUsers(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	err := h.store.Do(t.Context(), func(ctx context.Context) error {
		return h.store.AccountData.Put(ctx, storage.AccountData{UserID: alice, Type: "m.ignored_user_list", Content: json.RawMessage(`{"ignored_users":{"@bob:interior":{}}}`)})
	})
	if err != nil {
		t.Fatal(err)
	}
	since := next(h.answerTo(alice, ""))
	h.say(room, bob, "psst")
	h.state(room, alice, "m.room.name", "", content(`{"name":"n"}`))
	same(t, "timeline", bodies(in(h.answerTo(alice, since), "join", room)), []string{"m.room.name"})
	private := h.create(bob, "invite")
	h.member(private, bob, alice, "invite")
	same(t, "invite by an ignored user", in(h.answerTo(alice, since), "invite", private).Exists(), false)
}

// Sticky events come beside a timeline that does not show them, once, and whole to those who come in.
func TestStickyEvents(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			h := newHouse(t)
			room := h.create(alice, "public", bus.Proposal{Sender: alice, Type: "m.room.history_visibility", StateKey: key(""), Content: content(`{"history_visibility":"joined"}`)})
			since := next(h.answerTo(alice, ""))
			stick := func(text string) {
				h.propose(room, bus.Proposal{Sender: alice, Type: "x.sticky", Content: content(`{"body":%q}`, text), Sticky: 600_000})
			}
			stick("a")
			stick("b")
			h.say(room, alice, "c")
			if restarted {
				h.again()
			}
			sticky := func(r gjson.Result) (list []string) {
				for _, e := range in(r, "join", room).Get("msc4354_sticky.events").Array() {
					list = append(list, e.Get("content.body").Str)
					if ttl := e.Get("unsigned.msc4354_sticky_duration_ttl_ms").Int(); ttl <= 0 || ttl > 600_000 {
						t.Errorf("%s sticks for another %d ms", e.Get("content.body").Str, ttl)
					}
				}
				return list
			}
			r := h.answerTo(alice, since)
			same(t, "all in the timeline", sticky(r), []string(nil))
			same(t, "beside a short timeline", sticky(h.answerTo(alice, since, "filter", `{"room":{"timeline":{"limit":2}}}`)), []string{"a"})
			same(t, "beside a timeline without", sticky(h.answerTo(alice, since, "filter", `{"room":{"timeline":{"not_types":["x.*"]}}}`)), []string{"a", "b"})
			same(t, "at first", sticky(h.answerTo(alice, "", "filter", `{"room":{"timeline":{"limit":1}}}`)), []string{"a", "b"})
			same(t, "no more", sticky(h.answerTo(alice, next(r))), []string(nil))
			since = next(h.answerTo(bob, ""))
			h.member(room, bob, bob, "join")
			r = h.answerTo(bob, since)
			seen := append(sticky(r), bodies(in(r, "join", room))...)
			if !slices.Contains(seen, "a") || !slices.Contains(seen, "b") || slices.Contains(seen, "c") {
				t.Errorf("who comes in sees %v, want what sticks and no other history", seen)
			}
		})
	}
}

func TestRedactionAndRelationsInTheRing(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	since := next(h.answerTo(alice, ""))
	root := h.say(room, alice, "secret")
	same(t, "before", bodies(in(h.answerTo(alice, since), "join", room)), []string{"secret"})
	h.propose(room, bus.Proposal{Sender: alice, Type: "m.room.message", Content: content(`{"body":"in thread","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, root)})
	related := in(h.answerTo(alice, since), "join", room).Get("timeline.events.0")
	same(t, "thread bundled", related.Get(`unsigned.m\.relations.m\.thread.count`).Int(), int64(1))
	h.propose(room, bus.Proposal{Sender: alice, Type: "m.room.redaction", Content: content(`{}`), Redacts: root})
	redacted := in(h.answerTo(alice, since), "join", room).Get("timeline.events.0")
	same(t, "content after redaction", redacted.Get("content").Raw, "{}")
	same(t, "redacted_because", redacted.Get("unsigned.redacted_because.type").Str, "m.room.redaction")
}

func TestDeviceListsOfWhoComesAndGoes(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			h := newHouse(t)
			room := h.create(alice, "public")
			since := next(h.answerTo(alice, ""))
			lists := func() (changed, left string) {
				t.Helper()
				if restarted {
					h.again()
				}
				r := h.answerTo(alice, since)
				since = next(r)
				return r.Get("device_lists.changed").Raw, r.Get("device_lists.left").Raw
			}
			h.member(room, bob, bob, "join")
			changed, left := lists()
			same(t, "Bob came", changed+left, `["@bob:interior"][]`)
			if !restarted {
				h.propose(room, bus.Proposal{Sender: bob, Type: "m.room.member", StateKey: key(string(bob)), Content: content(`{"membership":"join","displayname":"Robert"}`)})
				changed, left = lists()
				same(t, "Bob has another name", changed+left, "")
			}
			h.member(room, bob, bob, "leave")
			changed, left = lists()
			same(t, "Bob left", changed+left, `[]["@bob:interior"]`)
		})
	}
}

func TestPresence(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	h.answerTo(carol, "")
	since := next(h.answerTo(alice, ""))
	path := "/_matrix/client/v3/presence/" + string(bob) + "/status"
	code, _ := h.ask("PUT", path, bob, nil, `{"presence":"unavailable","status_msg":"lunch"}`)
	same(t, "set", code, 200)
	r := h.answerTo(alice, since)
	same(t, "told", r.Get("presence.events.#(sender==\"@bob:interior\").content.status_msg").Str, "lunch")
	same(t, "told again", h.answerTo(alice, next(r)).Get("presence").Raw, "")
	_, got := h.ask("GET", path, alice, nil, "")
	same(t, "asked", got.Get("presence").Str, "unavailable")
	code, _ = h.ask("GET", path, carol, nil, "")
	same(t, "asked by a stranger", code, 403)
	code, refusal := h.ask("PUT", path, bob, nil, `{"presence":"dancing"}`)
	same(t, "no such state", []any{code, refusal.Get("errcode").Str}, []any{400, "M_INVALID_PARAM"})
	h.member(room, carol, carol, "join")
	dora := id.UserID("@dora:interior")
	h.ask("PUT", "/_matrix/client/v3/presence/"+string(dora)+"/status", dora, nil, `{"presence":"online"}`)
	h.member(room, dora, dora, "join")
	same(t, "of who came and never synced", h.answerTo(carol, "").Get("presence.events.#(sender==\"@dora:interior\").content.presence").Str, "online")
	r = h.answerTo(alice, next(r))
	same(t, "of who came", r.Get("presence.events.0.sender").Str, string(carol))
	same(t, "of whom they met", len(h.answerTo(carol, "").Get("presence.events").Array()), 4)
}

func FuzzParseFilter(f *testing.F) {
	f.Add([]byte(`{"room":{"timeline":{"limit":1,"types":["m.*"],"contains_url":true}},"event_fields":["content.body","a\\.b"]}`))
	f.Add([]byte(`{"event_fields":["a","a.b","a.b.c"]}`))
	event := []byte(`{"content":{"body":"x","a.b":1},"a":{"b":{"c":1}},"type":"m.room.message"}`)
	f.Fuzz(func(t *testing.T, raw []byte) {
		filter, err := ParseFilter(raw)
		if err != nil {
			return
		}
		e := &storage.Event{Type: "m.room.message", Sender: alice, RoomID: "!r", JSON: event}
		filter.Room.Timeline.event(e)
		if kept := filter.fields(event); !gjson.ValidBytes(kept) {
			t.Errorf("fields %v gave %s", filter.EventFields, kept)
		}
	})
}

func TestRingIsBounded(t *testing.T) {
	r := newRoom("!r", 0)
	for i := range 1000 {
		e := &storage.Event{Number: int64(i + 1), Position: storage.Position(i + 1), JSON: make([]byte, 20<<10)}
		r.addEvent(newEntry(e), 128)
		if r.bytes > maxRingBytes+64<<10 || len(r.events) > 256 {
			t.Fatalf("ring holds %d bytes in %d events", r.bytes, len(r.events))
		}
		if first := r.events[0].position; first != r.eventsFrom+1 {
			t.Fatalf("ring begins at %d and says it holds everything after %d", first, r.eventsFrom)
		}
	}
}

func TestEndedDeviceStopsWaiting(t *testing.T) {
	h := newHouse(t)
	err := h.store.Do(t.Context(), func(ctx context.Context) error {
		return h.store.Devices.Put(ctx, &storage.Device{UserID: bob, DeviceID: "PHONE"})
	})
	if err != nil {
		t.Fatal(err)
	}
	since := next(h.answerTo(bob, ""))
	done := make(chan int, 1)
	go func() {
		code, _ := h.ask("GET", "/_matrix/client/v3/sync", bob, map[string][]string{"since": {since}, "timeout": {"30000"}}, "")
		done <- code
	}()
	waitFor(t, func() bool {
		h.sync.mu.RLock()
		defer h.sync.mu.RUnlock()
		return len(h.sync.users[bob].waiters) > 0
	})
	if err := h.store.Do(t.Context(), func(ctx context.Context) error { return h.store.Devices.End(ctx, bob, "PHONE") }); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-done:
		same(t, "status", code, 401)
	case <-time.After(15 * time.Second):
		t.Fatal("still waiting")
	}
}

func TestKnockAndForgottenRooms(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "knock")
	since := next(h.answerTo(bob, ""))
	h.member(room, bob, bob, "knock")
	r := h.answerTo(bob, since)
	state := types(in(r, "knock", room).Get("knock_state.events"))
	if !slices.Contains(state, "m.room.join_rules") || !slices.Contains(state, "m.room.member @bob:interior") {
		t.Errorf("knock_state %v", state)
	}
	h.member(room, bob, bob, "leave")
	const archived = `{"room":{"include_leave":true}}`
	same(t, "left", in(h.answerTo(bob, next(r), "filter", archived), "leave", room).Exists(), true)
	h.do(room, bus.RoomQuestion{Forget: &bus.Forget{User: bob}})
	same(t, "forgotten", in(h.answerTo(bob, "", "filter", archived), "leave", room).Exists(), false)
}
