package rooms_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestStrangersLearnNothing(t *testing.T) {
	s := start(t)
	alice, eve := s.register("alice"), s.register("eve")
	room := alice.create(m{"name": "Secret"})
	event := alice.send(room, "psst")
	encoded := url.PathEscape(event)
	for _, path := range []string{
		"state", "state/m.room.name", "members", "joined_members", "messages?dir=b", "aliases", "context/" + encoded,
	} {
		eve.in(room, path).fails(403, "M_FORBIDDEN")
	}
	for _, path := range []string{"relations/" + encoded, "threads", "hierarchy", "timestamp_to_event?ts=1&dir=f"} {
		eve.get("/v1/rooms/"+room+"/"+path).fails(403, "M_FORBIDDEN")
	}
	eve.get(eve.event(room, event, "event")).fails(404, "M_NOT_FOUND")
	eve.get("/v1/room_summary/"+room).fails(404, "M_NOT_FOUND")
	eve.to(room, "receipt/m.read/"+encoded, m{}).fails(403, "M_FORBIDDEN")
	eve.to(room, "read_markers", m{"m.read": event}).fails(403, "M_FORBIDDEN")
	eve.set(room, "typing/"+eve.id, m{"typing": true}).fails(403, "M_FORBIDDEN")
	eve.to(room, "report/"+encoded, m{"reason": "x"}).fails(404, "M_NOT_FOUND")
	eve.put(eve.event(room, event, "redact")+"/x", m{}).fails(403, "M_FORBIDDEN")
	// V4: an event under another room's path.
	own := eve.create(m{})
	eve.get(eve.event(own, event, "event")).fails(404, "M_NOT_FOUND")
	eve.in(own, "context/"+encoded).fails(404, "M_NOT_FOUND")
	eve.get("/v1/rooms/"+own+"/relations/"+encoded).fails(404, "M_NOT_FOUND")
	eve.to(own, "receipt/m.read/"+encoded, m{}).fails(404, "M_NOT_FOUND")
}

// V2: who left sees the room as it was then.
func TestAfterLeaving(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat", "name": "before"})
	bob.join(room).ok()
	alice.send(room, "seen")
	bob.to(room, "leave", m{}).ok()
	alice.set(room, "state/m.room.name", m{"name": "after"}).ok()
	later := alice.send(room, "unseen")
	carol := s.register("carol")
	carol.join(room).ok()

	bob.in(room, "state/m.room.name").ok().has("name", "before")
	if got := bob.in(room, "members").ok(); strings.Contains(got.body.Raw, carol.id) {
		t.Errorf("members after leaving: got %s", got.body.Raw)
	}
	if got := bob.in(room, "messages?dir=b").ok().bodies("chunk"); got != "seen" {
		t.Errorf("messages backwards: got %q, want %q", got, "seen")
	}
	if got := bob.in(room, "messages?dir=f&limit=100").ok().bodies("chunk"); got != "seen" {
		t.Errorf("messages forwards: got %q, want %q", got, "seen")
	}
	bob.get(bob.event(room, later, "event")).fails(404, "M_NOT_FOUND")
	bob.in(room, "context/"+url.PathEscape(later)).fails(404, "M_NOT_FOUND")
	bob.in(room, "joined_members").fails(403, "M_FORBIDDEN")
	for _, e := range bob.in(room, "state").ok().body.Array() {
		if e.Get("content.name").Str == "after" {
			t.Errorf("state after leaving holds %s", e.Raw)
		}
	}
}

func TestMessages(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()
	var want []string
	ids := map[int]string{}
	for i := range 25 {
		want = append(want, fmt.Sprint(i))
		sender := alice
		if i%5 == 0 {
			sender = bob
		}
		ids[i] = sender.send(room, fmt.Sprint(i))
	}
	// Both ways in pages: each event once.
	for _, dir := range []string{"f", "b"} {
		var got []string
		from := ""
		for range 20 {
			a := alice.in(room, "messages?limit=7&dir="+dir+from).ok()
			if texts := a.bodies("chunk"); texts != "" {
				got = append(got, strings.Fields(texts)...)
			}
			if a.str("end") == "" {
				break
			}
			from = "&from=" + a.str("end")
		}
		expected := strings.Join(want, " ")
		if dir == "b" {
			for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
				got[i], got[j] = got[j], got[i]
			}
		}
		if strings.Join(got, " ") != expected {
			t.Errorf("dir=%s: got %q, want %q", dir, got, expected)
		}
	}
	filter := func(f string) string { return "messages?dir=b&limit=100&filter=" + url.QueryEscape(f) }
	for f, want := range map[string]string{
		`{"senders":["@bob:interior"]}`:                                 "20 15 10 5 0",
		`{"senders":["@bob:interior"],"not_types":["m.room.*"]}`:        "",
		`{"types":["m.room.mess*"],"not_senders":["` + alice.id + `"]}`: "20 15 10 5 0",
		`{"types":[]}`:               "",
		`{"contains_url":true}`:      "",
		`{"rooms":["!x:interior"]}`:  "",
		`{"rel_types":["m.thread"]}`: "",
	} {
		if got := alice.in(room, filter(f)).ok().bodies("chunk"); got != want {
			t.Errorf("filter %s: got %q, want %q", f, got, want)
		}
	}
	alice.in(room, "messages?dir=b&limit=2&filter="+url.QueryEscape(`{"lazy_load_members":true}`)).ok().has("state.#", "1").has("state.0.state_key", alice.id)
	alice.in(room, "messages?dir=b&filter=nonsense").fails(400, "M_NOT_JSON")
	alice.in(room, "messages").fails(400, "M_MISSING_PARAM")
	alice.in(room, "messages?dir=x").fails(400, "M_INVALID_PARAM")
	alice.in(room, "messages?dir=b&from=nonsense").fails(400, "M_INVALID_PARAM")
	alice.in(room, "messages?dir=b&limit=x").fails(400, "M_INVALID_PARAM")

	around := alice.in(room, "context/"+url.PathEscape(ids[10])+"?limit=4").ok().has("event.content.body", "10")
	if got := around.bodies("events_before") + "|" + around.bodies("events_after"); got != "9 8|11 12" {
		t.Errorf("context: got %q, want 9 8|11 12", got)
	}
	if got := alice.in(room, "messages?dir=b&limit=2&from="+around.str("start")).ok().bodies("chunk"); got != "7 6" {
		t.Errorf("before the context: got %q, want 7 6", got)
	}
	if got := alice.in(room, "messages?dir=f&limit=2&from="+around.str("end")).ok().bodies("chunk"); got != "13 14" {
		t.Errorf("after the context: got %q, want 13 14", got)
	}
	bare := alice.in(room, "context/"+url.PathEscape(ids[10])+"?limit=0").ok()
	if got := alice.in(room, "messages?dir=b&limit=2&from="+bare.str("end")).ok().bodies("chunk"); got != "10 9" {
		t.Errorf("backwards from the context's end: got %q, want 10 9", got)
	}
	if got := alice.in(room, "messages?dir=b&limit=100&from="+around.str("end")+"&to="+around.str("start")).ok().bodies("chunk"); got != "12 11 10 9 8" {
		t.Errorf("between: got %q, want 12 11 10 9 8", got)
	}

	alice.in(room, "members?membership=join").ok().has("chunk.#", "2")
	alice.in(room, "members?not_membership=join").ok().has("chunk.#", "0")
	at := alice.in(room, "messages?dir=b&limit=1").ok().str("end")
	bob.to(room, "leave", m{}).ok()
	alice.in(room, "members?membership=join&at="+at).ok().has("chunk.#", "2")
	alice.in(room, "members?membership=join").ok().has("chunk.#", "1")

	early := alice.get("/v1/rooms/" + room + "/timestamp_to_event?ts=0&dir=f").ok()
	if early.str("event_id") == "" {
		t.Errorf("timestamp_to_event: got %s", early.body.Raw)
	}
	alice.get("/v1/rooms/"+room+"/timestamp_to_event?ts=0&dir=b").fails(404, "M_NOT_FOUND")
	alice.get("/v1/rooms/"+room+"/timestamp_to_event?ts=0").fails(400, "M_INVALID_PARAM")
}

// TestMessagesByTheirRelations: filters that ask what relates to an event, in pages and in contexts.
func TestMessagesByTheirRelations(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()
	ids := map[string]string{}
	for _, text := range []string{"liked", "answered", "plain"} {
		ids[text] = alice.send(room, text)
	}
	relate := func(u *user, typ string, relation m, body string) {
		t.Helper()
		u.put("/v3/rooms/"+url.PathEscape(room)+"/send/"+typ+"/"+body, m{"body": body, "msgtype": "m.text", "m.relates_to": relation}).ok()
	}
	relate(bob, "m.reaction", m{"rel_type": "m.annotation", "event_id": ids["liked"], "key": "+1"}, "x")
	relate(alice, "m.room.message", m{"rel_type": "m.thread", "event_id": ids["answered"]}, "answer")
	for filter, want := range map[string]string{
		`{"related_by_rel_types":["m.annotation"]}`:                                    "liked",
		`{"related_by_rel_types":["m.thread"]}`:                                        "answered",
		`{"related_by_rel_types":["m.annotation","m.thread"]}`:                         "answered liked",
		`{"related_by_senders":["@bob:interior"]}`:                                     "liked",
		`{"related_by_senders":["@bob:interior"],"related_by_rel_types":["m.thread"]}`: "",
		`{"rel_types":["m.thread"]}`:                                                   "answer",
		`{"not_rel_types":["m.thread"],"types":["m.room.message"]}`:                    "plain answered liked",
		`{"org.matrix.msc3874.rel_types":["m.thread"]}`:                                "answer",
		`{"org.matrix.msc3874.not_rel_types":["m.thread"],"types":["m.room.message"]}`: "plain answered liked",
	} {
		query := "&filter=" + url.QueryEscape(filter)
		if got := alice.in(room, "messages?dir=b&limit=100"+query).ok().bodies("chunk"); got != want {
			t.Errorf("messages with %s: got %q, want %q", filter, got, want)
		}
	}
	around := alice.in(room, "context/"+url.PathEscape(ids["plain"])+"?limit=100&filter="+url.QueryEscape(`{"related_by_rel_types":["m.annotation"]}`)).ok()
	if got := around.bodies("events_before") + "|" + around.bodies("events_after"); got != "liked|" {
		t.Errorf("context: got %q, want liked|", got)
	}
	long := `{"related_by_senders":["@x:y"` + strings.Repeat(`,"@x:y"`, 500) + `]}`
	alice.in(room, "messages?dir=b&filter="+url.QueryEscape(long)).fails(400, "M_INVALID_PARAM")
}

// V7: whom somebody ignores is not heard.
func TestIgnored(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()
	alice.send(room, "fine")
	bob.send(room, "rude")
	last := alice.send(room, "end")
	alice.put("/v3/user/"+alice.id+"/account_data/m.ignored_user_list", m{"ignored_users": m{bob.id: m{}}}).ok()
	if got := alice.in(room, "messages?dir=b").ok().bodies("chunk"); got != "end fine" {
		t.Errorf("messages: got %q, want %q", got, "end fine")
	}
	if got := alice.in(room, "context/"+url.PathEscape(last)).ok().bodies("events_before"); got != "fine" {
		t.Errorf("context: got %q, want %q", got, "fine")
	}
	if got := bob.in(room, "messages?dir=b").ok().bodies("chunk"); got != "end rude fine" {
		t.Errorf("messages of the other: got %q, want %q", got, "end rude fine")
	}
}

func TestRelations(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()
	root, other := alice.send(room, "root"), alice.send(room, "other")
	relate := func(u *user, to, rel, typ string) string {
		return u.sends(room, typ, m{"body": rel, "m.relates_to": m{"rel_type": rel, "event_id": to}}).ok().str("event_id")
	}
	reply := relate(alice, root, "m.thread", "m.room.message")
	dummy := relate(alice, root, "m.thread", "m.dummy")
	edit := relate(alice, root, "m.replace", "m.room.message")
	reaction := relate(bob, reply, "m.annotation", "m.reaction")
	path := "/v1/rooms/" + room + "/relations/" + url.PathEscape(root)
	for _, c := range []struct{ query, want string }{
		{"", edit + " " + dummy + " " + reply},
		{"?dir=f", reply + " " + dummy + " " + edit},
		{"/m.thread", dummy + " " + reply},
		{"/m.thread/m.room.message", reply},
		{"?recurse=true", reaction + " " + edit + " " + dummy + " " + reply},
	} {
		if got := alice.get(path + c.query).ok().ids("chunk"); got != c.want {
			t.Errorf("relations%s: got %q, want %q", c.query, got, c.want)
		}
	}
	page := alice.get(path + "?limit=2").ok()
	next := alice.get(path + "?limit=2&from=" + page.str("next_batch")).ok()
	if got := next.ids("chunk"); got != reply || next.str("next_batch") != "" {
		t.Errorf("second page: got %q then %q, want %q and no more", got, next.str("next_batch"), reply)
	}
	relate(bob, other, "m.thread", "m.room.message")
	threads := func(query, want string) {
		t.Helper()
		if got := bob.get("/v1/rooms/" + room + "/threads" + query).ok().ids("chunk"); got != want {
			t.Errorf("threads%s: got %q, want %q", query, got, want)
		}
	}
	threads("", other+" "+root)
	threads("?include=participated", other)
	relate(alice, root, "m.thread", "m.room.message")
	threads("", root+" "+other)
	first := bob.get("/v1/rooms/" + room + "/threads?limit=1").ok()
	threads("?limit=1&from="+first.str("next_batch"), other)
	bob.get("/v1/rooms/"+room+"/threads?include=some").fails(400, "M_INVALID_PARAM")
}

func TestReceipts(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	room := alice.create(m{})
	first, second := alice.send(room, "1"), alice.send(room, "2")
	alice.to(room, "receipt/m.read/"+url.PathEscape(second), m{}).ok()
	alice.to(room, "receipt/m.read/"+url.PathEscape(first), m{}).ok() // goes not back
	alice.to(room, "receipt/m.read.private/"+url.PathEscape(first), m{"thread_id": "main"}).ok()
	alice.to(room, "receipt/m.red/"+url.PathEscape(first), m{}).fails(400, "M_INVALID_PARAM")
	alice.to(room, "receipt/m.read/"+url.PathEscape(first), m{"thread_id": ""}).fails(400, "M_INVALID_PARAM")
	alice.to(room, "receipt/m.read/"+url.PathEscape(first), m{"thread_id": 5}).fails(400, "M_INVALID_PARAM")
	alice.to(room, "read_markers", m{"m.fully_read": first, "m.read.private": second}).ok()
	got := map[string]string{}
	list, err := s.store.Receipts.AllOf(t.Context(), "@alice:interior")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		got[r.Type+" "+r.Thread] = string(r.EventID)
	}
	want := map[string]string{"m.read ": second, "m.read.private main": first, "m.read.private ": second}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("receipts: got %v, want %v", got, want)
	}
	alice.get("/v3/user/"+alice.id+"/rooms/"+room+"/account_data/m.fully_read").ok().has("event_id", first)
}
