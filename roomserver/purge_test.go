package roomserver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// purge asks until nothing more is to be done, or as often as said.
func (h *house) purge(room id.RoomID, p bus.Purge, times int) (removed int, more bool) {
	h.Helper()
	for range times {
		outcomes, err := h.ask(room, bus.RoomQuestion{Purge: &p})
		if err != nil {
			h.Fatalf("purge %+v: %v", p, err)
		}
		removed += outcomes[0].Removed
		if more = outcomes[0].More; !more {
			break
		}
	}
	return removed, more
}

// leavings counts what is left of a room, by table: in all tables that name rooms, but those that outlive them: what
// administrators said and were told, and users' own backups.
func (h *house) leavings(room id.RoomID) map[string]int {
	h.Helper()
	db := h.raw()
	query := "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE p.name = 'room_id' AND m.type = 'table'"
	if h.store.Postgres() {
		query = "SELECT table_name FROM information_schema.columns WHERE column_name = 'room_id' AND table_schema = 'public'"
	}
	rows, err := db.Query(query)
	if err != nil {
		h.Fatal(err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			h.Fatal(err)
		}
		if name != "blocked_rooms" && name != "reports" && name != "backup_keys" {
			tables = append(tables, name)
		}
	}
	left := map[string]int{}
	for _, table := range tables {
		var n int
		if err := db.QueryRow("SELECT COUNT(*) FROM "+table+" WHERE room_id = $1", room).Scan(&n); err != nil {
			h.Fatal(err)
		}
		if n > 0 {
			left[table] = n
		}
	}
	return left
}

func TestRemoveARoom(t *testing.T) {
	eachDatabase(t, func(h *house) {
		t := h.TB
		room, other := h.create("11"), h.create("11")
		for i := range 2500 {
			h.must(room, message(alice, fmt.Sprint(i)))
		}
		h.must(room, membership(bob, bob, "join"))
		if err := h.store.Do(h.context(), func(ctx context.Context) error {
			_, err := h.store.Receipts.Put(ctx, &storage.Receipt{RoomID: room, UserID: bob, Type: "m.read", EventID: h.timeline(room)[3].ID})
			if err == nil {
				err = h.store.AccountData.Put(ctx, storage.AccountData{UserID: bob, RoomID: room, Type: "m.tag", Content: []byte("{}")})
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.ask(room, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: "#hall:interior.example", By: alice}}); err != nil {
			t.Fatal(err)
		}
		var refusal *bus.Refusal
		if _, err := h.ask(room, bus.RoomQuestion{Purge: &bus.Purge{All: true}}); !errors.As(err, &refusal) || refusal.Status != 400 {
			t.Errorf("with users in it: got %v, want a refusal", err)
		}
		for _, user := range []id.UserID{bob, alice} {
			h.must(room, membership(user, user, "leave"))
		}

		if left := h.leavings(room); len(left) < 7 {
			t.Errorf("before: only %v", left)
		}

		// Half-way everything stops.
		removed, more := h.purge(room, bus.Purge{All: true}, 3)
		if removed == 0 || !more {
			t.Errorf("after three slices: %d removed, more: %v", removed, more)
		}
		h.restart()
		if _, err := h.ask(room, bus.RoomQuestion{Propose: &bus.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(`{}`)}}); !errors.As(err, &refusal) || refusal.Status != 404 {
			t.Errorf("send to a room half removed: got %v, want 404", err)
		}
		if _, more := h.purge(room, bus.Purge{All: true}, 100); more {
			t.Error("after a hundred slices there is more")
		}
		if left := h.leavings(room); len(left) != 0 {
			t.Errorf("rows are left: %v", left)
		}
		var entries int
		if err := h.raw().QueryRow("SELECT COUNT(*) FROM state_entries WHERE chain NOT IN (SELECT chain FROM state_chains)").Scan(&entries); err != nil || entries != 0 {
			t.Errorf("%d entries of no chain are left, %v", entries, err)
		}
		if row, err := h.store.Rooms.ByID(h.context(), room); row != nil || err != nil {
			t.Errorf("the room: got %v, %v", row, err)
		}
		h.must(other, message(alice, "still here"))
	})
}

func TestPurgeHistory(t *testing.T) {
	eachDatabase(t, func(h *house) {
		t := h.TB
		room := h.create("11")
		h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"old"}`))
		var sent []id.EventID
		for i := range 1200 {
			sent = append(sent, h.must(room, message(alice, fmt.Sprint(i))))
			if i == 600 {
				h.must(room, membership(bob, bob, "join"))
				h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"new"}`))
			}
		}
		before := h.state(room)
		at := func(e id.EventID) *storage.Event {
			t.Helper()
			found, err := h.store.Events.ByID(h.context(), e)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		edge := at(sent[1000]).Place
		if removed, more := h.purge(room, bus.Purge{Before: int64(edge)}, 10); removed != 0 || more {
			t.Errorf("without our own: %d removed, more: %v", removed, more)
		}
		if e := at(sent[0]); e == nil || e.Place != 0 {
			t.Errorf("our own message: got %+v, want it kept, unseen", e)
		}
		if left := h.timeline(room); left[0].ID != sent[1000] || len(left) != 200 {
			t.Errorf("the timeline begins at %s and has %d events, want %s and 200", left[0].ID, len(left), sent[1000])
		}
		if removed, more := h.purge(room, bus.Purge{Before: int64(at(sent[1100]).Place), Local: true}, 1); removed != 100 || more {
			t.Errorf("ours too: %d removed, more: %v", removed, more)
		}
		if e := at(sent[1000]); e != nil {
			t.Errorf("an old message: got %+v, want none", e)
		}
		after := h.state(room)
		if len(before) != len(after) {
			t.Errorf("the state had %d keys, and has %d", len(before), len(after))
		}
		for key, e := range before {
			if after[key] != e || at(e) == nil {
				t.Errorf("state %v: got %s, want %s, and stored", key, after[key], e)
			}
		}
		if row := h.room(room); row.Purged != at(sent[1100]).Place {
			t.Errorf("purged up to %d, want %d", row.Purged, at(sent[1100]).Place)
		}
		// All of it: the newest event stays, for the next one stands on it.
		h.purge(room, bus.Purge{Before: 1 << 62, Local: true}, 10)
		if left := h.timeline(room); len(left) != 1 || left[0].ID != sent[1199] {
			t.Errorf("after purging all: got %d events", len(left))
		}
		h.restart()
		h.must(room, message(bob, "and on it goes"))
		h.must(room, stateEvent(alice, "m.room.name", "", `{"name":"Hall"}`))
		if topic := at(h.state(room)[storage.Key{Type: "m.room.topic"}]); gjson.GetBytes(topic.JSON, "content.topic").Str != "new" {
			t.Errorf("the topic: got %s", topic.JSON)
		}
	})
}

func TestBlockedRooms(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	block := func(on bool) {
		t.Helper()
		if err := h.store.Do(h.context(), func(ctx context.Context) error {
			if on {
				return h.store.Rooms.Block(ctx, room, alice)
			}
			return h.store.Rooms.Unblock(ctx, room)
		}); err != nil {
			t.Fatal(err)
		}
	}
	block(true)
	h.refused("join", room, membership(bob, bob, "join"), 403, "M_FORBIDDEN", "")
	h.refused("invite", room, membership(alice, bob, "invite"), 403, "M_FORBIDDEN", "")
	h.must(room, stateEvent(alice, "m.room.member", string(alice), `{"membership":"join","displayname":"A"}`))
	block(false)
	h.must(room, membership(bob, bob, "join"))
}

func TestForgetExtremities(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	h.must(room, message(alice, "here"))
	mine := h.must(room, message(alice, "and here"))
	s.want(bus.Accepted, s.make(message(dora, "there")))
	if removed, _ := h.purge(room, bus.Purge{Extremities: true}, 1); removed != 1 {
		t.Errorf("of two extremities %d were removed, want 1", removed)
	}
	if x := h.room(room).Extremities; len(x) != 1 || x[0] != mine {
		t.Errorf("extremities: got %v, want the deepest, %s", x, mine)
	}
	if removed, _ := h.purge(room, bus.Purge{Extremities: true}, 1); removed != 0 {
		t.Errorf("of one extremity %d were removed", removed)
	}
}

// TestPurgeForks purges a history with side branches of the state: those that nothing names any more go.
func TestPurgeForks(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn("11", `"@dora:finance.example":50`)))
		s := h.admits(room)
		for i := range 5 {
			fork := s.fork()
			h.must(room, stateEvent(alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"here %d"}`, i)))
			theirs := fork.make(stateEvent(dora, "m.room.name", "", fmt.Sprintf(`{"name":"there %d"}`, i)))
			more := fork.make(message(dora, "there"))
			s.want(bus.Accepted, theirs, more)
			h.must(room, message(alice, "both"))
			s = h.stranger(room)
		}
		chains := func() (n int) {
			if err := h.raw().QueryRow("SELECT COUNT(*) FROM state_chains WHERE room_id = $1", room).Scan(&n); err != nil {
				h.Fatal(err)
			}
			return n
		}
		before, state := chains(), h.state(room)
		h.purge(room, bus.Purge{Before: 1 << 62, Local: true}, 10)
		h.same("after the purge", h.state(room), state)
		h.restart()
		h.same("after a restart", h.state(room), state)
		s = h.stranger(room)
		s.want(bus.Accepted, s.make(message(dora, "on it goes")))
		h.must(room, message(alice, "so it does"))
		if after := chains(); after > before {
			h.Errorf("there were %d chains, and are %d", before, after)
		}
	})
}
