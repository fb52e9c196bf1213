package roomserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

func TestEveryVersionIsCreatedAndWritten(t *testing.T) {
	eachDatabase(t, func(h *house) {
		for _, version := range pdu.Versions() {
			room := h.create(version)
			h.must(room, membership(bob, bob, "join"))
			said := h.must(room, message(bob, "hello"))
			h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"x"}`))
			h.refused("topic by bob in version "+string(version), room, stateEvent(bob, "m.room.topic", "", `{"topic":"y"}`), 403, "M_FORBIDDEN", "")
			events := h.timeline(room)
			if len(events) != 8 {
				h.Fatalf("version %s: %d events, want 8", version, len(events))
			}
			for i, e := range events {
				ev, err := pdu.Parse(version, e.JSON)
				if err != nil || ev.EventID() != string(e.ID) || ev.Redacted() {
					h.Errorf("version %s: %s is stored as %v, %v", version, e.Type, ev, err)
					continue
				}
				if i > 0 && (len(ev.PrevEventIDs()) != 1 || ev.PrevEventIDs()[0] != string(events[i-1].ID)) {
					h.Errorf("version %s: parents of %s are %v, want %s", version, e.Type, ev.PrevEventIDs(), events[i-1].ID)
				}
				if ev.Depth() != int64(i+1) {
					h.Errorf("version %s: depth of %s is %d, want %d", version, e.Type, ev.Depth(), i+1)
				}
			}
			if events[6].ID != said {
				h.Errorf("version %s: seventh event is %s, want %s", version, events[6].ID, said)
			}
			create := events[0]
			if got := gjson.GetBytes(create.JSON, "content.room_version").Str; got != string(version) {
				h.Errorf("version %s: create event says %q", version, got)
			}
			if hasCreator := gjson.GetBytes(create.JSON, "content.creator").Exists(); hasCreator != (version != "11" && version != "12") {
				h.Errorf("version %s: create event names a creator: %v", version, hasCreator)
			}
			if version == "12" && (string(room) != "!"+string(create.ID[1:]) || gjson.GetBytes(create.JSON, "room_id").Exists()) {
				h.Errorf("version 12: room %s of create event %s", room, create.ID)
			}
		}
	})
}

func TestManyWriteAtOnce(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		const users, each = 8, 25
		var all sync.WaitGroup
		for u := range users {
			user := id.UserID(fmt.Sprintf("@u%d:interior.example", u))
			all.Add(1)
			go func() {
				defer all.Done()
				if _, err := h.propose(room, membership(user, user, "join")); err != nil {
					h.Errorf("%s joins: %v", user, err)
					return
				}
				for n := range each {
					if _, err := h.propose(room, message(user, fmt.Sprint(n))); err != nil {
						h.Errorf("%s sends: %v", user, err)
					}
				}
			}()
		}
		all.Wait()
		events := h.timeline(room)
		if want := 5 + users*(1+each); len(events) != want {
			h.Fatalf("%d events, want %d", len(events), want)
		}
		next := map[id.UserID]int{}
		for i, e := range events {
			if i > 0 {
				before := events[i-1]
				prev := gjson.GetBytes(e.JSON, "prev_events.#").Int()
				if first := gjson.GetBytes(e.JSON, "prev_events.0").Str; prev != 1 || first != string(before.ID) {
					h.Fatalf("event %d has %d parents, the first %s, want only %s", i, prev, first, before.ID)
				}
				if e.Position <= before.Position || e.Place != e.Position.Place() {
					h.Errorf("event %d: position %d after %d, place %d", i, e.Position, before.Position, e.Place)
				}
			}
			if e.Type == "m.room.message" {
				if body := gjson.GetBytes(e.JSON, "content.body").Str; body != fmt.Sprint(next[e.Sender]) {
					h.Errorf("%s said %s, want %d next", e.Sender, body, next[e.Sender])
				}
				next[e.Sender]++
			}
		}
		if tips := h.room(room).Extremities; len(tips) != 1 || tips[0] != events[len(events)-1].ID {
			h.Errorf("extremities are %v, want the last event alone", tips)
		}
	})
}

func TestTransactionsAreIdempotent(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		p := message(alice, "once")
		p.Device, p.Path, p.TransactionID = "DEVICE", "PUT m.room.message", "txn1"
		var mu sync.Mutex
		ids := map[id.EventID]int{}
		var all sync.WaitGroup
		for range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				outcome, err := h.propose(room, p)
				if err != nil {
					h.Error(err)
				}
				mu.Lock()
				ids[outcome.EventID]++
				mu.Unlock()
			}()
		}
		all.Wait()
		if len(ids) != 1 {
			h.Fatalf("eight at once made %v, want one event", ids)
		}
		first := h.must(room, p)
		h.restart()
		if again := h.must(room, p); again != first {
			h.Errorf("after a restart the transaction made %s, want %s", again, first)
		}
		for name, change := range map[string]func(*bus.Proposal){
			"another path":        func(p *bus.Proposal) { p.Path = "PUT m.sticker" },
			"another device":      func(p *bus.Proposal) { p.Device = "OTHER" },
			"another transaction": func(p *bus.Proposal) { p.TransactionID = "txn2" },
			"none":                func(p *bus.Proposal) { p.TransactionID = "" },
		} {
			other := p
			change(&other)
			if got := h.must(room, other); got == first {
				h.Errorf("%s gave the same event", name)
			}
		}
		if got := len(h.timeline(room)); got != 5+5 {
			h.Errorf("%d events, want 10", got)
		}
	})
}

func TestRefusedTransactionsAreNotRemembered(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	p := message(bob, "x")
	p.Device, p.Path, p.TransactionID = "D", "PUT m.room.message", "t"
	h.refused("before joining", room, p, 403, "M_FORBIDDEN", "")
	h.must(room, membership(bob, bob, "join"))
	h.must(room, p)
}

func TestStateThatIsAlreadySo(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11", stateEvent(alice, "m.room.power_levels", "", `{"users":{"@alice:interior.example":100,"@bob:interior.example":100}}`))
	h.must(room, membership(bob, bob, "join"))
	topic := stateEvent(alice, "m.room.topic", "", `{"topic":"x"}`)
	first := h.must(room, topic)
	spaced := stateEvent(alice, "m.room.topic", "", `{ "topic" : "\u0078" }`)
	if again, err := h.propose(room, spaced); err != nil || again.EventID != first || !again.Already {
		h.Errorf("the same topic again: %+v, %v, want %s", again, err, first)
	}
	always := topic
	always.Always = true
	if got := h.must(room, always); got == first {
		h.Error("Always did not make a new event")
	}
	if got := h.must(room, stateEvent(bob, "m.room.topic", "", `{"topic":"x"}`)); got == first {
		h.Error("bob's topic is alice's event")
	}
	if got := h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"y"}`)); got == first {
		h.Error("another topic is the same event")
	}
}

func TestRefusals(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	h.must(room, membership(bob, bob, "join"))
	h.must(room, membership(carol, carol, "join"))
	h.must(room, membership(alice, carol, "ban"))
	stranger := id.UserID("@stranger:interior.example")
	text := func(content string) bus.Proposal {
		return bus.Proposal{Sender: bob, Type: "m.room.message", Content: json.RawMessage(content)}
	}
	for _, c := range []struct {
		name   string
		p      bus.Proposal
		status int
		code   string
		rule   string
	}{
		{"message of a stranger", message(stranger, "x"), 403, "M_FORBIDDEN", ""},
		{"message of the banned", message(carol, "x"), 403, "M_FORBIDDEN", ""},
		{"join of the banned", membership(carol, carol, "join"), 403, "M_FORBIDDEN", ""},
		{"topic without level", stateEvent(bob, "m.room.topic", "", `{}`), 403, "M_FORBIDDEN", "7"},
		{"kick without level", membership(bob, alice, "leave"), 403, "M_FORBIDDEN", "4.5.5"},
		{"ban without level", membership(bob, alice, "ban"), 403, "M_FORBIDDEN", "4.6.3"},
		{"invite of a member", membership(bob, alice, "invite"), 403, "M_FORBIDDEN", "4.4.3"},
		{"another's state key", stateEvent(alice, "x", string(bob), `{}`), 403, "M_FORBIDDEN", "8"},
		{"raise oneself", stateEvent(bob, "m.room.power_levels", "", `{"users":{"@bob:interior.example":100}}`), 403, "M_FORBIDDEN", "7"},
		{"second create event", stateEvent(alice, "m.room.create", "", `{}`), 403, "M_FORBIDDEN", ""},
		{"float", text(`{"n":1.5}`), 400, "M_BAD_JSON", ""},
		{"great integer", text(`{"n":9007199254740992}`), 400, "M_BAD_JSON", ""},
		{"list", text(`[]`), 400, "M_BAD_JSON", ""},
		{"too large", text(`{"body":"` + strings.Repeat("x", 65536) + `"}`), 413, "M_TOO_LARGE", ""},
		{"type too long", bus.Proposal{Sender: bob, Type: strings.Repeat("x", 256), Content: json.RawMessage(`{}`)}, 413, "M_TOO_LARGE", ""},
	} {
		h.refused(c.name, room, c.p, c.status, c.code, c.rule)
	}
	h.refused("unknown room", "!nowhere:interior.example", message(alice, "x"), 403, "M_FORBIDDEN", "")
	if got := len(h.timeline(room)); got != 5+3 {
		h.Errorf("%d events, want 8: refusals leave nothing", got)
	}
	if _, err := bus.Ask[bus.Create, bus.Created](h.context(), h.bus, bus.CreateRoom, bus.Create{Version: "99", Sender: alice, Content: json.RawMessage(`{}`)}); err == nil {
		h.Error("a room of version 99 was made")
	}
}

func TestMembership(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11", joinRules(alice, "invite"))
		stands := func(user id.UserID, want event.Membership) {
			h.Helper()
			m, err := h.store.Memberships.Of(h.context(), room, user)
			got := event.Membership("none")
			if m != nil {
				got = m.Membership
				if m.EventID != h.state(room)[memberKey(user)] {
					h.Errorf("%s's row names %s, the state %s", user, m.EventID, h.state(room)[memberKey(user)])
				}
			}
			if err != nil || got != want {
				h.Errorf("%s stands as %s (%v), want %s", user, got, err, want)
			}
		}
		h.refused("join uninvited", room, membership(bob, bob, "join"), 403, "M_FORBIDDEN", "4.3.7")
		stands(bob, "none")
		h.must(room, membership(alice, bob, "invite"))
		stands(bob, event.MembershipInvite)
		h.must(room, membership(bob, bob, "join"))
		stands(bob, event.MembershipJoin)
		h.must(room, membership(alice, bob, "leave"))
		stands(bob, event.MembershipLeave)
		h.must(room, membership(alice, bob, "ban"))
		stands(bob, event.MembershipBan)
		h.refused("invite of the banned", room, membership(alice, bob, "invite"), 403, "M_FORBIDDEN", "4.4.3")
		h.must(room, membership(alice, bob, "leave"))
		stands(bob, event.MembershipLeave)
		h.must(room, joinRules(alice, "knock"))
		h.must(room, membership(bob, bob, "knock"))
		stands(bob, event.MembershipKnock)
		h.must(room, membership(alice, bob, "invite"))
		h.must(room, membership(bob, bob, "join"))
		h.must(room, membership(alice, alice, "leave"))
		h.must(room, membership(bob, bob, "leave"))
		if h.room(room).Joined {
			h.Error("nobody of ours is in the room, but the row says so")
		}
		h.refused("write in an empty room", room, message(bob, "x"), 403, "M_FORBIDDEN", "")
		h.restart()
		stands(bob, event.MembershipLeave)
	})
}

func TestRestrictedJoin(t *testing.T) {
	for _, version := range []id.RoomVersion{"8", "10", "12"} {
		h := onSQLite(t)
		space := h.create(version)
		rule := fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, space)
		room := h.create(version, stateEvent(alice, "m.room.join_rules", "", rule))
		h.refused("not in the space", room, membership(bob, bob, "join"), 403, "M_FORBIDDEN", "")
		h.must(space, membership(bob, bob, "join"))
		joined := h.must(room, membership(bob, bob, "join"))
		if via := gjson.GetBytes(h.event(joined).JSON, "content.join_authorised_via_users_server").Str; via != string(alice) {
			h.Errorf("version %s: authorised via %q, want alice", version, via)
		}
		// A change of the display name needs no authoriser, and a client cannot put one there.
		renamed := h.must(room, stateEvent(bob, "m.room.member", string(bob), `{"membership":"join","displayname":"B","join_authorised_via_users_server":"@x:y"}`))
		if gjson.GetBytes(h.event(renamed).JSON, "content.join_authorised_via_users_server").Exists() {
			h.Errorf("version %s: an authoriser where none is needed", version)
		}
		h.must(room, membership(alice, carol, "invite"))
		h.must(room, membership(carol, carol, "join"))
	}
}

func TestCreateIsAllOrNothing(t *testing.T) {
	eachDatabase(t, func(h *house) {
		before := h.rows()
		_, err := bus.Ask[bus.Create, bus.Created](h.context(), h.bus, bus.CreateRoom, bus.Create{
			Version: "11", Sender: alice, Content: json.RawMessage(`{}`), Events: []bus.Proposal{
				membership(alice, alice, "join"), stateEvent(bob, "m.room.topic", "", `{}`),
			},
		})
		if err == nil {
			h.Fatal("a room was made with an event that its rules refuse")
		}
		if got := h.rows(); got != before {
			h.Errorf("%d rows are left of it", got-before)
		}
	})
}

func TestAliases(t *testing.T) {
	h := onSQLite(t)
	create := func(alias id.RoomAlias) (bus.Created, error) {
		return bus.Ask[bus.Create, bus.Created](h.context(), h.bus, bus.CreateRoom, bus.Create{
			Version: "11", Sender: alice, Content: json.RawMessage(`{}`), Alias: alias, Events: []bus.Proposal{membership(alice, alice, "join")},
		})
	}
	first, err := create("#a:interior.example")
	if err != nil {
		t.Fatal(err)
	}
	if room, err := h.store.Rooms.ByAlias(h.context(), "#a:interior.example"); room != first.RoomID || err != nil {
		t.Errorf("alias leads to %s, %v, want %s", room, err, first.RoomID)
	}
	if second, err := create("#a:interior.example"); err == nil {
		t.Errorf("the alias was given to %s too", second.RoomID)
	}
	other := h.create("11")
	if _, err := h.ask(other, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: "#a:interior.example", By: alice}}); err == nil {
		t.Error("the alias was taken from the first room")
	}
	if _, err := h.ask(first.RoomID, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: "#a:interior.example", By: bob, Remove: true}}); err == nil {
		t.Error("a stranger removed the alias")
	}
	if _, err := h.ask(first.RoomID, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: "#a:interior.example", By: alice, Remove: true}}); err != nil {
		t.Error(err)
	}
	if _, err := h.ask(other, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: "#a:interior.example", By: alice}}); err != nil {
		t.Error(err)
	}
}

func memberKey(user id.UserID) pdu.Key {
	return pdu.Key{Type: event.StateMember.Type, StateKey: string(user)}
}
