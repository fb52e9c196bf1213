package rooms_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestHistoryVisibility plays one story under each setting of history_visibility, changed to each other in the middle, and
// asks on every road that leads to an event who sees it. What should be seen is reckoned here, from the rules' own words.
// Spec: client-server-api/#server-behaviour-5
func TestHistoryVisibility(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	people := map[string]*user{}
	for _, name := range []string{"stays", "joins", "invited", "accepts", "leaves", "banned", "returns", "never"} {
		people[name] = s.register(name)
	}
	settings := []string{"world_readable", "shared", "invited", "joined"}
	for _, first := range settings {
		for _, then := range settings {
			t.Run(first+" to "+then, func(t *testing.T) {
				on := *alice
				on.server = &server{t: t, url: s.url, store: s.store, bus: s.bus}
				tell(&on, people, first, then)
			})
		}
	}
}

// story is what happened in a room, in moments.
type story struct {
	*user // who tells it, and is always there
	room  string
	// settings and memberships at each moment.
	settings []string
	stands   map[string][]string
	said     []saying
	word     string
}

// saying is what was said at a moment: a message that begins a thread, the reply to it, and a piece of state.
type saying struct{ root, reply, state string }

func tell(alice *user, people map[string]*user, first, then string) {
	t := alice.t
	word := fmt.Sprintf("word%s%s", strings.ReplaceAll(first, "_", ""), strings.ReplaceAll(then, "_", ""))
	st := &story{user: alice, stands: map[string][]string{}, word: word}
	st.room = alice.create(m{"preset": "public_chat", "initial_state": []any{
		m{"type": "m.room.history_visibility", "content": m{"history_visibility": first}},
	}})
	now := map[string]string{}
	join := func(name string) { people[name].join(st.room).ok(); now[name] = "join" }
	setting := first
	say := func() {
		st.txn++
		root := st.send(st.room, word)
		reply := st.reply(st.room, root, word+" again")
		state := st.set(st.room, "state/org.test.moment", m{"n": st.txn}).ok().str("event_id")
		st.said = append(st.said, saying{root, reply, state})
		st.settings = append(st.settings, setting)
		for name := range people {
			st.stands[name] = append(st.stands[name], now[name])
		}
	}
	for _, name := range []string{"stays", "leaves", "banned", "returns"} {
		join(name)
	}
	say()
	for _, name := range []string{"invited", "accepts"} {
		alice.to(st.room, "invite", m{"user_id": people[name].id}).ok()
		now[name] = "invite"
	}
	say()
	for _, name := range []string{"leaves", "returns"} {
		people[name].to(st.room, "leave", m{}).ok()
		now[name] = "leave"
	}
	alice.to(st.room, "ban", m{"user_id": people["banned"].id}).ok()
	now["banned"] = "ban"
	say()
	change := alice.set(st.room, "state/m.room.history_visibility", m{"history_visibility": then}).ok().str("event_id")
	setting = then
	say()
	for _, name := range []string{"joins", "accepts", "returns"} {
		join(name)
	}
	say()
	for name, u := range people {
		on := *u
		on.server = alice.server
		t.Run(name, func(t *testing.T) {
			on.server = &server{t: t, url: alice.url, store: alice.store, bus: alice.bus}
			st.look(&on, name)
			if first == then {
				return // no change, no event
			}
			// Either setting may show the event that changes the one to the other.
			want := 404
			if st.sees(name, 3) || st.would(name, 3, first) {
				want = 200
			}
			if got := on.get(on.event(st.room, change, "event")).code; got != want {
				t.Errorf("the setting's own event: got %d, want %d", got, want)
			}
		})
	}
}

// sees reckons whether somebody may see what was said at a moment.
func (st *story) sees(name string, at int) bool { return st.would(name, at, st.settings[at]) }

// would reckons it for another setting than there was.
func (st *story) would(name string, at int, setting string) bool {
	stands := st.stands[name]
	switch {
	case setting == "world_readable" || stands[at] == "join":
		return true
	case setting == "shared":
		return slices.Contains(stands[at:], "join")
	case setting == "invited":
		return stands[at] == "invite"
	}
	return false
}

// look goes down every road.
func (st *story) look(u *user, name string) {
	u.t.Helper()
	stands, last := st.stands[name], len(st.said)-1
	joined, was, open := stands[last] == "join", slices.Contains(stands, "join"), st.settings[last] == "world_readable"
	// until is the last moment that a list reaches for somebody who has left.
	until := last
	if !joined && !open {
		until = -1
		for at, stand := range stands {
			if stand == "join" {
				until = at
			}
		}
	}
	var roots, all, seen []string
	for at, said := range st.said {
		want := 404
		if st.sees(name, at) {
			want = 200
			roots, seen = append(roots, said.root), append(seen, said.root, said.reply, said.state)
			if at <= until {
				all = append(all, said.root, said.reply, said.state)
			}
		}
		for what, event := range map[string]string{"message": said.root, "reply": said.reply, "state": said.state} {
			if got := u.get(u.event(st.room, event, "event")).code; got != want {
				u.t.Errorf("/event: %s %d: got %d, want %d", what, at, got, want)
			}
		}
		if !joined && !open && !was {
			continue
		}
		if got := u.get(u.event(st.room, said.root, "context")).code; got != want {
			u.t.Errorf("/context of %d: got %d, want %d", at, got, want)
		}
		relations := u.get("/v1/rooms/" + url.PathEscape(st.room) + "/relations/" + url.PathEscape(said.root) + "/m.thread")
		if relations.code != want || want == 200 && relations.ids("chunk") != said.reply {
			u.t.Errorf("/relations of %d: got %d %q, want %d", at, relations.code, relations.ids("chunk"), want)
		}
	}
	st.lists(u, joined || open || was, roots, all)
	st.finds(u, joined, seen)
	st.syncs(u, joined, was, all)
}

// ours are those of the events in a list that the story tells of, in no order.
func (st *story) ours(events string) []string {
	var ours []string
	for _, event := range strings.Fields(events) {
		if slices.ContainsFunc(st.said, func(s saying) bool { return event == s.root || event == s.reply || event == s.state }) {
			ours = append(ours, event)
		}
	}
	slices.Sort(ours)
	return ours
}

func (st *story) same(u *user, road string, got, want []string) {
	u.t.Helper()
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		u.t.Errorf("%s: got %d events %v, want %d %v", road, len(got), got, len(want), want)
	}
}

// lists walks the room's history, which for somebody who has left ends there, and its threads.
func (st *story) lists(u *user, may bool, roots, all []string) {
	u.t.Helper()
	for _, dir := range []string{"b", "f"} {
		messages := u.in(st.room, "messages?limit=100&dir="+dir)
		if !may {
			messages.fails(403, "M_FORBIDDEN")
			continue
		}
		st.same(u, "/messages "+dir, st.ours(messages.ok().ids("chunk")), all)
	}
	threads := u.get("/v1/rooms/" + url.PathEscape(st.room) + "/threads?limit=100")
	if !may {
		threads.fails(403, "M_FORBIDDEN")
		return
	}
	st.same(u, "/threads", st.ours(threads.ok().ids("chunk")), roots)
}

// finds searches for what was said. Rooms that somebody has left may be left out.
func (st *story) finds(u *user, joined bool, seen []string) {
	u.t.Helper()
	var want []string
	for _, said := range st.said {
		if slices.Contains(seen, said.root) {
			want = append(want, said.root, said.reply)
		}
	}
	var got []string
	until(u.t, "the index is fed", func() bool {
		a := u.post("/v3/search", m{"search_categories": m{"room_events": m{"search_term": st.word, "filter": m{"limit": 50, "rooms": []string{st.room}}}}}).ok()
		got = nil
		for _, r := range a.body.Get("search_categories.room_events.results").Array() {
			got = append(got, r.Get("result.event_id").Str)
		}
		slices.Sort(got)
		return !joined || len(got) >= len(want)
	})
	if joined {
		st.same(u, "/search", got, want)
		return
	}
	for _, event := range got {
		if !slices.Contains(seen, event) {
			u.t.Errorf("/search finds %s, which may not be seen", event)
		}
	}
}

// syncs looks at an initial sync, rooms that were left included.
func (st *story) syncs(u *user, joined, was bool, all []string) {
	u.t.Helper()
	filter := url.QueryEscape(`{"room":{"rooms":["` + st.room + `"],"include_leave":true,"timeline":{"limit":100}}}`)
	rooms := u.get("/v3/sync?filter=" + filter).ok().body.Get("rooms")
	in := strings.ReplaceAll(st.room, ".", `\.`) + ".timeline.events"
	var got []string
	for _, part := range []string{"join.", "leave."} {
		for _, e := range rooms.Get(part + in).Array() {
			got = append(got, e.Get("event_id").Str)
		}
	}
	got = st.ours(strings.Join(got, " "))
	switch {
	case joined:
		st.same(u, "/sync", got, all)
	case was:
		for _, event := range got {
			if !slices.Contains(all, event) {
				u.t.Errorf("/sync shows %s, which may not be seen", event)
			}
		}
	case len(got) > 0:
		u.t.Errorf("/sync shows %v to somebody who was never there", got)
	}
}
