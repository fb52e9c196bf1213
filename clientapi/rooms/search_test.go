package rooms_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

const found = "search_categories.room_events."

func (u *user) search(events m, next string) *answer {
	u.t.Helper()
	if next != "" {
		next = "?next_batch=" + next
	}
	return u.post("/v3/search"+next, m{"search_categories": m{"room_events": events}})
}

// results are the texts of what was found.
func (a *answer) results() string {
	var texts []string
	for _, r := range a.body.Get(found + "results").Array() {
		texts = append(texts, r.Get("result.content.body").Str)
	}
	return strings.Join(texts, ",")
}

// searching starts a server whose build has an index, and says so where it has none.
func searching(t *testing.T) *server {
	t.Helper()
	s := start(t)
	if !s.store.Search.Available() {
		s.register("nobody").search(m{"search_term": "hello"}, "").fails(400, "M_UNKNOWN")
		t.Skip("this build has no FTS5; build with -tags sqlite_fts5")
	}
	return s
}

func TestSearch(t *testing.T) {
	s := searching(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat", "topic": "Budget of the year"})
	hello := alice.send(room, "Hello, budget!")
	gone := alice.send(room, "hello secret")
	alice.search(m{"search_term": "secret"}, "").ok().has(found+"count", "1")
	alice.put(alice.event(room, gone, "redact")+"/r", m{}).ok()
	alice.search(m{"search_term": "secret"}, "").ok().has(found+"count", "0")
	alice.send(room, "something else: la Réunion")
	alice.search(m{"search_term": "hello"}, "").ok().has(found+"count", "1").has(found+"results.0.result.event_id", hello)
	alice.search(m{"search_term": "BUDGET"}, "").ok().has(found+"count", "2")
	alice.search(m{"search_term": "reunion"}, "").ok().has(found+"count", "1").has(found+"highlights", `["reunion","réunion"]`)
	alice.search(m{"search_term": "budget", "keys": []string{"content.topic"}}, "").ok().has(found+"count", "1")
	alice.search(m{"search_term": "budget hello", "event_context": m{"before_limit": 1, "after_limit": 1, "include_profile": true}}, "").ok().
		has(found+"results.0.context.events_after.0.event_id", gone).has(found+"results.0.context.events_before.#", "1").
		has(found+"results.0.context.profile_info.@alice:interior.displayname", "alice")
	alice.search(m{"search_term": "hello", "filter": m{"rooms": []string{"!other:interior"}}}, "").ok().has(found+"count", "0")
	alice.search(m{"search_term": "hello", "groupings": m{"group_by": []m{{"key": "sender"}}}, "include_state": true}, "").ok().
		has(found+"groups.sender.@alice:interior.results.0", hello).has(found+"state."+strings.ReplaceAll(room, ".", "\\.")+".#(type==\"m.room.topic\").type", "m.room.topic")
	bob.search(m{"search_term": "hello"}, "").ok().has(found+"count", "0") // V6
	for _, bad := range []m{
		{"search_term": " "}, {}, {"search_term": "x", "order_by": "chance"}, {"search_term": "x", "keys": []string{"content.secret"}},
		{"search_term": "x", "groupings": m{"group_by": []m{{"key": "type"}}}}, {"search_term": strings.Repeat("x", 600)},
	} {
		alice.search(bad, "").fails(400, "M_INVALID_PARAM")
	}
	alice.search(m{"search_term": "x"}, "y").fails(400, "M_INVALID_PARAM")
	alice.search(m{"search_term": "x"}, "eyJzIjotMX0").fails(400, "M_INVALID_PARAM")
	alice.post("/v3/search", m{"search_categories": m{}}).ok()
}

func TestSearchPages(t *testing.T) {
	s := searching(t)
	alice, bob := s.register("alice"), s.register("bob")
	one, two := alice.create(m{"preset": "public_chat"}), alice.create(m{"preset": "public_chat"})
	bob.join(one).ok()
	for i := range 7 {
		who, room := alice, one
		if i%2 == 1 {
			who = bob
		}
		if i > 4 {
			who, room = alice, two
		}
		who.send(room, fmt.Sprintf("word %d", i))
	}
	for _, order := range []string{"recent", "rank"} {
		q := m{"search_term": "word", "order_by": order, "filter": m{"limit": 3}}
		var all []string
		next := ""
		for range 10 {
			a := alice.search(q, next).ok().has(found+"count", "7")
			if text := a.results(); text != "" {
				all = append(all, text)
			}
			if next = a.str(found + "next_batch"); next == "" {
				break
			}
		}
		got := strings.Join(all, ",")
		if order == "recent" && got != "word 6,word 5,word 4,word 3,word 2,word 1,word 0" {
			t.Errorf("newest first: got %s", got)
		}
		if n := strings.Count(got, "word"); n != 7 {
			t.Errorf("%s: got %d results (%s), want 7", order, n, got)
		}
	}
	q := m{"search_term": "word", "order_by": "recent", "filter": m{"limit": 3}, "groupings": m{"group_by": []m{{"key": "sender"}}}}
	a := alice.search(q, "").ok().has(found+"groups.sender.@bob:interior", "")
	a = alice.search(q, a.str(found+"groups.sender.@alice:interior.next_batch")).ok()
	if got := a.results(); got != "word 2,word 0" {
		t.Errorf("the rest of Alice's group: got %s, want word 2,word 0", got)
	}
	alice.search(m{"search_term": "word", "filter": m{"senders": []string{bob.id}}}, "").ok().has(found+"count", "2")
	alice.search(m{"search_term": "word", "filter": m{"not_rooms": []string{one}}}, "").ok().has(found+"count", "2")
}

// TestSearchShowsNothingHidden: neither results nor counts tell of what the searcher may not see.
func TestSearchShowsNothingHidden(t *testing.T) {
	s := searching(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat", "initial_state": []m{{"type": "m.room.history_visibility", "state_key": "", "content": m{"history_visibility": "joined"}}}})
	alice.send(room, "word before")
	bob.join(room).ok()
	alice.send(room, "word between")
	bob.to(room, "leave", m{}).ok()
	alice.send(room, "word after")
	a := bob.search(m{"search_term": "word"}, "").ok().has(found+"count", "1")
	if got := a.results(); got != "word between" {
		t.Errorf("Bob: got %s, want what was said while he was there", got)
	}
	bob.search(m{"search_term": "word", "include_state": true}, "").ok()
	bob.to(room, "forget", m{}).ok()
	bob.search(m{"search_term": "word"}, "").ok().has(found+"count", "0")
	alice.search(m{"search_term": "word"}, "").ok().has(found+"count", "3")
}

func TestSearchAfterARestart(t *testing.T) {
	database := filepath.Join(t.TempDir(), "test.db")
	s := startAt(t, database)
	if !s.store.Search.Available() {
		t.Skip("this build has no FTS5; build with -tags sqlite_fts5")
	}
	alice := s.register("alice")
	room := alice.create(m{})
	for i := range 20 {
		alice.send(room, fmt.Sprintf("word %d", i))
	}
	s.stop() // most of it is not in the index yet
	s = startAt(t, database)
	again := &user{s, alice.id, alice.token}
	again.search(m{"search_term": "word"}, "").ok().has(found+"count", "20")
}
