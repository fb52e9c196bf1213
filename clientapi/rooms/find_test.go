package rooms_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

func TestDirectory(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	listed := alice.create(m{"visibility": "public", "name": "Open House", "room_alias_name": "open"})
	alice.create(m{"name": "Hidden House"})
	space := alice.create(m{"visibility": "public", "name": "House of Spaces", "creation_content": m{"type": "m.space"}})
	bob.join(listed).ok()

	bob.get("/v3/publicRooms").ok().has("chunk.#", "2").has("chunk.0.room_id", listed).has("chunk.0.num_joined_members", "2").
		has("chunk.0.canonical_alias", "#open:interior").has("total_room_count_estimate", "2")
	first := (&user{server: s}).get("/v3/publicRooms?limit=1").ok().has("chunk.#", "1")
	bob.get("/v3/publicRooms?limit=1&since="+first.str("next_batch")).ok().has("chunk.0.room_id", space).has("next_batch", "")
	bob.get("/v3/publicRooms?since=nonsense").fails(400, "M_INVALID_PARAM")
	bob.post("/v3/publicRooms", m{"filter": m{"generic_search_term": "open"}}).ok().has("chunk.#", "1")
	bob.post("/v3/publicRooms", m{"filter": m{"room_types": []any{"m.space"}}}).ok().has("chunk.#", "1").has("chunk.0.room_id", space)
	bob.post("/v3/publicRooms", m{"filter": m{"room_types": []any{nil}}}).ok().has("chunk.#", "1").has("chunk.0.room_id", listed)
	bob.put("/v3/directory/list/room/"+listed, m{"visibility": "private"}).fails(403, "M_FORBIDDEN")
	alice.put("/v3/directory/list/room/"+listed, m{"visibility": "private"}).ok()
	alice.get("/v3/directory/list/room/"+listed).ok().has("visibility", "private")
	alice.put("/v3/directory/list/room/"+listed, m{"visibility": "loud"}).fails(400, "M_INVALID_PARAM")
	alice.get("/v3/directory/list/room/!unknown:interior").fails(404, "M_NOT_FOUND")
}

func TestUsers(t *testing.T) {
	s := start(t)
	alice, bob, eve := s.register("alice"), s.register("bob"), s.register("eve")
	alice.put("/v3/profile/"+alice.id+"/displayname", m{"displayname": "Alice Cooper"}).ok()
	found := func(u *user, term string) *answer {
		return u.post("/v3/user_directory/search", m{"search_term": term}).ok()
	}
	found(eve, "cooper").has("results.#", "0")
	public := alice.create(m{"visibility": "public"})
	private := alice.create(m{"invite": []string{bob.id}})
	bob.join(private).ok()
	alice.set(private, "state/m.room.member/"+alice.id, m{"membership": "join", "displayname": "Freddy"}).ok()
	for _, u := range []*user{bob, eve} {
		found(u, "Cooper").has("results.#", "1").has("results.0.user_id", alice.id).has("results.0.display_name", "Alice Cooper")
		found(u, "@alice").has("results.#", "1")
		found(u, "Freddy").has("results.#", "0")
	}
	found(alice, "bob").has("results.#", "1")
	found(eve, "bob").has("results.#", "0")

	alice.get("/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id="+bob.id).ok().has("joined", `["`+private+`"]`).has("count", "1")
	alice.get("/v1/mutual_rooms?user_id="+eve.id).ok().has("joined", "[]")
	eve.join(public).ok()
	alice.get("/v1/mutual_rooms?user_id="+eve.id).ok().has("joined.0", public)
	alice.get("/v1/mutual_rooms?user_id="+alice.id).fails(400, "M_INVALID_PARAM")
	alice.get("/v1/mutual_rooms").fails(400, "M_INVALID_PARAM")
}

func TestHierarchy(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	space := func(name string) string {
		return alice.create(m{"preset": "public_chat", "name": name, "creation_content": m{"type": "m.space"}})
	}
	root, sub := space("root"), space("sub")
	open, hidden := alice.create(m{"preset": "public_chat", "name": "open"}), alice.create(m{"name": "hidden"})
	link := func(parent, child, order string, suggested bool) {
		alice.set(parent, "state/m.space.child/"+child, m{"via": []string{"interior"}, "order": order, "suggested": suggested}).ok()
	}
	link(root, open, "b", false)
	link(root, sub, "a", true)
	link(root, "!far:finance", "c", false)
	link(sub, hidden, "", false)
	link(sub, root, "", false) // a circle
	s.federation(func(q bus.FederationQuestion) (bus.FederationAnswer, error) {
		if q.Hierarchy == nil || q.Hierarchy.RoomID != "!far:finance" {
			return bus.FederationAnswer{}, bus.Refuse(404, "M_NOT_FOUND", "no")
		}
		return bus.FederationAnswer{Body: json.RawMessage(`{"room":{"room_id":"!far:finance","name":"far","join_rule":"public","room_type":"m.space","children_state":[
			{"type":"m.space.child","state_key":"!near:finance","content":{"via":["finance"]},"sender":"@a:finance","origin_server_ts":1},
			{"type":"m.space.child","state_key":"!dark:finance","content":{"via":["finance"]},"sender":"@a:finance","origin_server_ts":1}]},
			"children":[{"room_id":"!near:finance","name":"near","join_rule":"public"},{"room_id":"!dark:finance","name":"dark","join_rule":"invite"}]}`)}, nil
	})
	for _, c := range []struct {
		who         *user
		query, want string
	}{
		{alice, "", `["root","sub","hidden","open","far","near"]`},
		{bob, "", `["root","sub","open","far","near"]`},
		{bob, "?max_depth=1", `["root","sub","open","far"]`},
		{bob, "?suggested_only=true", `["root","sub"]`},
		{bob, "?limit=2", `["root","sub"]`},
	} {
		c.who.get("/v1/rooms/"+root+"/hierarchy"+c.query).ok().has("rooms.#.name", c.want)
	}
	next := bob.get("/v1/rooms/" + root + "/hierarchy?limit=2").ok().str("next_batch")
	bob.get("/v1/rooms/"+root+"/hierarchy?limit=2&from="+next).ok().has("rooms.#.name", `["open","far"]`)
	bob.get("/v1/rooms/"+root+"/hierarchy").ok().has("rooms.0.children_state.#", "3").has("rooms.2.children_state", "[]")
	bob.get("/v1/rooms/"+hidden+"/hierarchy").fails(403, "M_FORBIDDEN")
	bob.get("/v1/room_summary/"+open).ok().has("name", "open").has("membership", "leave").has("room_version", "11")
	bob.get("/v1/room_summary/!far:finance?via=finance").ok().has("name", "far")
	bob.get("/v1/room_summary/"+hidden).fails(404, "M_NOT_FOUND")
	(&user{server: s}).get("/unstable/im.nheko.summary/summary/"+open).ok().has("name", "open")
}

func TestUpgrade(t *testing.T) {
	s := start(t)
	alice, bob, carol := s.register("alice"), s.register("bob"), s.register("carol")
	old := alice.create(m{"preset": "public_chat", "visibility": "public", "name": "Cabinet", "room_alias_name": "cabinet", "room_version": "10",
		"creation_content": m{"type": "m.space"}})
	bob.join(old).ok()
	alice.to(old, "ban", m{"user_id": carol.id}).ok()
	bob.to(old, "upgrade", m{"new_version": "11"}).fails(403, "M_FORBIDDEN")
	alice.to(old, "upgrade", m{"new_version": "nonsense"}).fails(400, "M_UNSUPPORTED_ROOM_VERSION")
	alice.to(old, "upgrade", m{}).fails(400, "M_UNSUPPORTED_ROOM_VERSION")

	room := alice.to(old, "upgrade", m{"new_version": "11"}).ok().str("replacement_room")
	alice.in(old, "state/m.room.tombstone").ok().has("replacement_room", room)
	alice.in(room, "state/m.room.create").ok().has("predecessor.room_id", old).has("room_version", "11").has("type", "m.space")
	alice.in(room, "state/m.room.name").ok().has("name", "Cabinet")
	alice.in(room, "state/m.room.join_rules").ok().has("join_rule", "public")
	alice.in(room, "state/m.room.member/"+carol.id).ok().has("membership", "ban")
	alice.in(room, "state/m.room.canonical_alias").ok().has("alias", "#cabinet:interior")
	alice.get("/v3/directory/room/%23cabinet:interior").ok().has("room_id", room)
	alice.get("/v3/directory/list/room/"+room).ok().has("visibility", "public")
	alice.get("/v3/directory/list/room/"+old).ok().has("visibility", "private")
	bob.sends(old, "m.room.message", m{"body": "too late"}).fails(403, "M_FORBIDDEN")

	if again := alice.to(old, "upgrade", m{"new_version": "11"}).ok().str("replacement_room"); again != room {
		t.Errorf("asked again: got %s, want %s", again, room)
	}

	t.Run("tags and direct chats", func(t *testing.T) {
		old := alice.create(m{"preset": "public_chat"})
		bob.join(old).ok()
		bob.put("/v3/user/"+bob.id+"/rooms/"+old+"/tags/m.favourite", m{"order": 0.5}).ok()
		bob.put("/v3/user/"+bob.id+"/account_data/m.direct", m{alice.id: []any{old}}).ok()
		room := alice.to(old, "upgrade", m{"new_version": "11"}).ok().str("replacement_room")
		bob.join(room).ok()
		bob.get("/v3/user/"+bob.id+"/rooms/"+room+"/tags").ok().has(`tags.m\.favourite.order`, "0.5")
		bob.get("/v3/user/"+bob.id+"/account_data/m.direct").ok().has(alice.id+".1", room)
	})
	t.Run("version 12 by one who is no creator", func(t *testing.T) {
		for _, from := range []string{"11", "12"} {
			old := alice.create(m{"preset": "public_chat", "room_version": from})
			bob.join(old).ok()
			alice.set(old, "state/m.room.power_levels", m{"users": m{bob.id: 100, carol.id: 50}, "events": m{"m.room.tombstone": 100}}).ok()
			room := bob.to(old, "upgrade", m{"new_version": "12", "additional_creators": []string{carol.id}}).ok().str("replacement_room")
			bob.in(room, "state/m.room.create").ok().has("additional_creators", `["`+carol.id+`"]`)
			bob.in(room, "state/m.room.power_levels").ok().has("users", "{}")
		}
	})
	t.Run("back to version 11 by a creator", func(t *testing.T) {
		old := alice.create(m{"room_version": "12"})
		room := alice.to(old, "upgrade", m{"new_version": "11"}).ok().str("replacement_room")
		alice.in(room, "state/m.room.power_levels").ok().has("users.@alice:interior", "150")
	})
}

func TestReports(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()
	event := alice.send(room, "rude")
	bob.to(room, "report/"+event, m{"reason": "rude", "score": -100}).ok()
	bob.to(room, "report", m{"reason": "rude room"}).ok()
	bob.post("/v3/users/"+alice.id+"/report", m{"reason": "rude person"}).ok()
	bob.to(room, "report/$nothing", m{}).fails(404, "M_NOT_FOUND")
	got, err := s.store.Reports.Before(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[2].Reason != "rude" || got[2].UserID != "@alice:interior" || got[2].Score == nil || *got[2].Score != -100 {
		t.Errorf("reports: got %d, the first %+v", len(got), got[len(got)-1])
	}
}

// TestUpgradeGoesOn cuts an upgrade off after the commit that makes the new room.
func TestUpgradeGoesOn(t *testing.T) {
	database := filepath.Join(t.TempDir(), "test.db")
	s := startAt(t, database)
	alice := s.register("alice")
	begin := func(old string) string {
		t.Helper()
		key := ""
		state := func(typ, key, content string) bus.Proposal {
			return bus.Proposal{Sender: id.UserID(alice.id), Type: typ, StateKey: &key, Content: json.RawMessage(content)}
		}
		created, err := bus.Ask[bus.Create, bus.Created](t.Context(), s.bus, bus.CreateRoom, bus.Create{
			Version: "11", Content: json.RawMessage(`{"predecessor":{"room_id":"` + old + `"}}`), Sender: id.UserID(alice.id), Replaces: id.RoomID(old),
			Events: []bus.Proposal{state("m.room.member", alice.id, `{"membership":"join"}`),
				state("m.room.power_levels", key, `{"users":{"`+alice.id+`":100}}`)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(created.RoomID)
	}
	// By the client, who asks again.
	first := alice.create(m{"preset": "public_chat", "room_alias_name": "first", "room_version": "10"})
	room := begin(first)
	if again := alice.to(first, "upgrade", m{"new_version": "11"}).ok().str("replacement_room"); again != room {
		t.Errorf("asked again: got %s, want %s, which was made before", again, room)
	}
	alice.in(first, "state/m.room.tombstone").ok().has("replacement_room", room)
	alice.get("/v3/directory/room/%23first:interior").ok().has("room_id", room)
	// By itself, at the next start.
	second := alice.create(m{"preset": "public_chat", "room_alias_name": "second", "room_version": "10"})
	room = begin(second)
	s.stop()
	alice.server = startAt(t, database)
	until(t, "the upgrade goes on after a restart", func() bool {
		left, err := alice.store.Upgrades.Unfinished(t.Context(), 10)
		return err == nil && len(left) == 0
	})
	alice.in(second, "state/m.room.tombstone").ok().has("replacement_room", room)
	alice.in(room, "state/m.room.canonical_alias").ok().has("alias", "#second:interior")
	alice.get("/v3/directory/room/%23second:interior").ok().has("room_id", room)
}

// TestDirectoryPagesKeep: what goes away between two pages makes the next neither repeat nor leave out another.
func TestDirectoryPagesKeep(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	rooms := map[string]bool{}
	first := ""
	for n := range 9 {
		room := alice.create(m{"visibility": "public", "preset": "public_chat", "name": fmt.Sprint("room ", n)})
		if rooms[room] = true; n < 2 {
			bob.join(room).ok() // the most members: they stand in front
			first = room
		}
	}
	page := alice.get("/v3/publicRooms?limit=3").ok().has("total_room_count_estimate", "9").has("prev_batch", "")
	seen := map[string]int{}
	take := func() {
		for _, r := range page.body.Get("chunk").Array() {
			seen[r.Get("room_id").Str]++
		}
	}
	take()
	alice.put("/v3/directory/list/room/"+first, m{"visibility": "private"}).ok()
	for page.str("next_batch") != "" {
		page = alice.post("/v3/publicRooms", m{"limit": 3, "since": page.str("next_batch")}).ok()
		take()
	}
	for room := range rooms {
		if seen[room] != 1 {
			t.Errorf("%s comes %d times, want once", room, seen[room])
		}
	}
	back := alice.get("/v3/publicRooms?limit=3&since=" + page.str("prev_batch")).ok()
	for _, r := range back.body.Get("chunk").Array() {
		for _, l := range page.body.Get("chunk").Array() {
			if l.Get("room_id").Str == r.Get("room_id").Str {
				t.Errorf("the page before the last repeats %s", l.Get("room_id").Str)
			}
		}
	}
	for _, token := range []string{"3", "n", "nx.AA", "x1.AA", "n1.!"} {
		alice.get("/v3/publicRooms?since="+token).fails(400, "M_INVALID_PARAM")
	}
	alice.post("/v3/publicRooms", m{"filter": m{"generic_search_term": "ROOM 7"}}).ok().has("chunk.#", "1").has("chunk.0.name", "room 7")
}

func TestUsersAreRanked(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	room := alice.create(m{"preset": "public_chat"})
	for name, shown := range map[string]string{
		"ann": "Somebody", "annika": "Zoe", "u1": "Ann", "u2": "Jo Annabel", "u3": "Hannah", "susannah": "Someone else", "u4": "Bob",
	} {
		u := s.register(name)
		u.put("/v3/profile/"+u.id+"/displayname", m{"displayname": shown}).ok()
		u.join(room).ok()
	}
	hidden := s.register("annunseen")
	hidden.create(m{})
	search := func(term string, limit int) (ids string, limited bool) {
		a := alice.post("/v3/user_directory/search", m{"search_term": term, "limit": limit}).ok()
		for _, u := range a.body.Get("results").Array() {
			ids += " " + id.UserID(u.Get("user_id").Str).Localpart()
		}
		return strings.TrimSpace(ids), a.body.Get("limited").Bool()
	}
	for _, c := range []struct {
		term string
		want string
	}{
		{"ann", "ann u1 annika u2 u3 susannah"},
		{"ANN", "ann u1 annika u2 u3 susannah"},
		{"annabel jo", "u2"},
		{"@u4:interior", "u4"},
		{"annunseen", ""},
	} {
		if got, limited := search(c.term, 10); got != c.want || limited {
			t.Errorf("%q: got %q limited %t, want %q", c.term, got, limited, c.want)
		}
	}
	if got, limited := search("ann", 2); got != "ann u1" || !limited {
		t.Errorf("two of them: got %q limited %t, want %q and true", got, limited, "ann u1")
	}
}

func TestSpacesArePaged(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	space := alice.create(m{"preset": "public_chat", "creation_content": m{"type": "m.space"}})
	rooms := map[string]int{space: 0}
	var order []string
	add := func(n int) string {
		room := alice.create(m{"preset": "public_chat"})
		alice.set(space, "state/m.space.child/"+room, m{"via": []string{"interior"}, "order": fmt.Sprintf("%03d", n)}).ok()
		return room
	}
	for n := range 7 {
		room := add(10 * (n + 1))
		rooms[room], order = 0, append(order, room)
	}
	path := "/v1/rooms/" + space + "/hierarchy?limit=3&max_depth=2"
	page := alice.get(path).ok()
	token := page.str("next_batch")
	alice.get("/v1/rooms/"+space+"/hierarchy?limit=3&max_depth=1&from="+token).fails(400, "M_INVALID_PARAM")
	alice.get("/v1/rooms/"+space+"/hierarchy?limit=3&max_depth=2&suggested_only=true&from="+token).fails(400, "M_INVALID_PARAM")
	alice.get(path+"&from=nonsense!").fails(400, "M_INVALID_PARAM")
	add(5) // before what has been shown: it moves nothing
	for {
		for _, r := range page.body.Get("rooms").Array() {
			rooms[r.Get("room_id").Str]++
		}
		if token = page.str("next_batch"); token == "" {
			break
		}
		page = alice.get(path + "&from=" + token).ok()
	}
	for _, room := range append(order, space) {
		if rooms[room] != 1 {
			t.Errorf("%s comes %d times, want once", room, rooms[room])
		}
	}
}
