package roomserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// TestExtremitiesAreTiedTogether receives a fan of forks: what we must resolve at each event stays bounded.
func TestExtremitiesAreTiedTogether(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	shown := len(h.timeline(room))
	for n := range 40 {
		s.want(bus.Accepted, s.fork().make(message(dora, fmt.Sprint(n))))
		if tips := h.room(room).Extremities; len(tips) > maxTips {
			t.Fatalf("%d extremities after %d forks, want at most %d", len(tips), n+1, maxTips)
		}
	}
	if got := len(h.timeline(room)) - shown; got != 40 {
		t.Errorf("%d events are shown of the forks, want 40: the knots are nobody's business", got)
	}
	said := h.parsed("11", h.must(room, message(alice, "upon all")))
	knotted := false
	for _, prev := range said.PrevEventIDs() {
		e := h.event(id.EventID(prev))
		knotted = knotted || e.Type == knitType && e.Position == 0 && e.Standing == storage.Accepted
	}
	if !knotted {
		t.Error("alice's message stands upon no knot")
	}
	// Others meet the knot as a parent, and may build upon it.
	next := h.stranger(room)
	next.want(bus.Accepted, next.make(message(dora, "goes on")))
}

// TestAnEventThatFillsAGapIsNoEnd receives an event that is named by a later one, which came with its state before.
func TestAnEventThatFillsAGapIsNoEnd(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	renamed := s.make(stateEvent(dora, "m.room.member", string(dora), `{"membership":"join","displayname":"D"}`))
	snapshot := s.snapshot()
	again := s.make(stateEvent(dora, "m.room.member", string(dora), `{"membership":"join","displayname":"E"}`))
	late := s.make(message(dora, "after the gap"))
	if o := s.receiveAs(bus.Received{Snapshot: snapshot}, again, late); o[0].Verdict != bus.Accepted || o[1].Verdict != bus.Accepted {
		t.Fatalf("got %+v, want both accepted", o)
	}
	before := h.state(room)
	s.want(bus.Accepted, renamed)
	tips := h.room(room).Extremities
	for _, tip := range tips {
		if string(tip) == renamed.EventID() {
			t.Errorf("extremities %v, want none that fills a gap", tips)
		}
	}
	h.same("state after the gap was filled", h.state(room), before)
	if edges, err := h.store.Rooms.Edges(h.context(), room, 10); err != nil || len(edges) != 0 {
		t.Errorf("edges %v, %v, want none", edges, err)
	}
}

func TestGreatestDepth(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	d := s.draft(message(dora, "deep"))
	d.Depth = pdu.MaxDepth
	s.want(bus.Accepted, s.build(d))
	said := h.must(room, message(alice, "upon it"))
	if depth := h.event(said).Depth; depth != pdu.MaxDepth {
		t.Errorf("depth %d, want %d", depth, int64(pdu.MaxDepth))
	}
	h.restart()
	h.must(room, message(alice, "and on"))
}

// TestARejectedEventIsNeverState offers a rejected event again, as part of a fetched state.
func TestARejectedEventIsNeverState(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	bad := s.fork().make(stateEvent(dora, "m.room.topic", "", `{"topic":"no"}`))
	s.want(bus.Rejected, bad)
	s.make(message(dora, "never seen"))
	s.state[pdu.Key{Type: "m.room.topic"}] = bad
	snapshot := s.snapshot()
	delete(s.state, pdu.Key{Type: "m.room.topic"})
	late := s.make(message(dora, "after the gap"))
	if o := s.receiveAs(bus.Received{Snapshot: snapshot}, late); o[0].Verdict != bus.Accepted {
		t.Fatalf("got %+v, want it accepted", o[0])
	}
	for name, state := range map[string]map[pdu.Key]id.EventID{"now": h.state(room), "before": h.stateAt(h.event(id.EventID(late.EventID())).Before)} {
		if got := state[pdu.Key{Type: "m.room.topic"}]; got != "" {
			t.Errorf("the topic %s is %s, which was rejected", name, got)
		}
	}
	h.must(room, message(alice, "goes on"))
}

// TestTheBannedCannotActOnOldState lets a banned moderator act where the ban was not known yet.
func TestTheBannedCannotActOnOldState(t *testing.T) {
	for _, version := range []id.RoomVersion{"6", "11", "12"} {
		h := onSQLite(t)
		room := h.create(version)
		h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn(version, `"@dora:finance.example":50`)))
		s := h.admits(room)
		h.must(room, membership(bob, bob, "join"))
		old := h.stranger(room)
		ban := h.must(room, membership(alice, dora, "ban"))
		before := h.state(room)
		for _, p := range []bus.Proposal{
			stateEvent(dora, "m.room.topic", "", `{"topic":"I was here"}`),
			membership(dora, bob, "ban"),
			membership(dora, dora, "leave"),
		} {
			ev := old.fork().make(p)
			if o := s.receive(ev)[0]; o.Verdict != bus.SoftFailed && o.Verdict != bus.Rejected {
				t.Errorf("version %s, %s: got %+v, want it soft-failed", version, p.Type, o)
			}
		}
		h.same("state after the banned one's events", h.state(room), before)
		if tips := h.room(room).Extremities; len(tips) != 1 || tips[0] != ban {
			t.Errorf("version %s: extremities %v, want the ban", version, tips)
		}
	}
}

func TestRedactionAndTargetTogether(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	side := s.fork()
	target := side.make(message(dora, "target"))
	redaction := s.make(bus.Proposal{Sender: dora, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: id.EventID(target.EventID())})
	s.want(bus.Accepted, redaction, target)
	if got := h.event(id.EventID(target.EventID())).RedactedBy; string(got) != redaction.EventID() {
		t.Errorf("redacted by %q, want %s", got, redaction.EventID())
	}
	if p := h.event(id.EventID(redaction.EventID())).Position; p == 0 {
		t.Error("the redaction is no news")
	}
}

func TestRedactionInHistory(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11")
	target := s.make(message(dora, "target"))
	redaction := s.make(bus.Proposal{Sender: dora, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: id.EventID(target.EventID())})
	if _, err := s.adopt(s.offer(alice)); err != nil {
		t.Fatal(err)
	}
	for _, ev := range []gomatrixserverlib.PDU{redaction, target} {
		if o := s.receiveAs(bus.Received{Backfill: true, Snapshot: s.snapshot()}, ev)[0]; o.Verdict != bus.Accepted {
			t.Fatalf("got %+v, want it accepted", o)
		}
	}
	if got := h.event(id.EventID(target.EventID())).RedactedBy; string(got) != redaction.EventID() {
		t.Errorf("redacted by %q, want %s", got, redaction.EventID())
	}
}

func TestAdoptUnderAFalseVersion(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("10")
	a := s.offer(alice)
	a.Version = "9" // both write events alike
	if outcome, err := s.adopt(a); err == nil && outcome.Verdict == bus.Accepted {
		t.Errorf("a room of version 10 was adopted as 9: %+v", outcome)
	}
	if row, err := h.store.Rooms.ByID(h.context(), s.room); row != nil || err != nil {
		t.Errorf("the room is stored as %+v, %v", row, err)
	}
}

func TestWithdrawnInvite(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11", joinRules(dora, "invite"))
	invite := s.make(membership(dora, alice, "invite"))
	s.want(bus.Accepted, invite)
	stands := func(want event.Membership) {
		t.Helper()
		m, err := h.store.Memberships.Of(h.context(), s.room, alice)
		if err != nil || m == nil || m.Membership != want {
			t.Errorf("alice stands as %+v, %v, want %s", m, err, want)
		}
	}
	blind := s.fork()
	delete(blind.state, memberKey(alice))
	blind.want(bus.Rejected, blind.make(membership(dora, alice, "leave")))
	stands(event.MembershipInvite)
	s.want(bus.Accepted, s.make(membership(dora, alice, "leave")))
	stands(event.MembershipLeave)
	s.want(bus.Rejected, s.make(message(dora, "we are not in this room")))
}

// TestAQuestionThatFails leaves the room as it was.
func TestAQuestionThatFails(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	before, rows := h.state(room), h.rows()
	_, err := h.ask(room, bus.RoomQuestion{Receive: &bus.Received{Origin: "finance.example", Version: "11", Snapshot: 1 << 40,
		PDUs: []json.RawMessage{s.make(message(dora, "x")).JSON()}}})
	if err == nil {
		t.Error("a snapshot that does not exist was taken")
	}
	if refusal := (*bus.Refusal)(nil); errors.As(err, &refusal) {
		t.Errorf("got the refusal %v, want a fault", err)
	}
	h.same("state after the fault", h.state(room), before)
	if got := h.rows(); got != rows {
		t.Errorf("%d rows are left of it", got-rows)
	}
	h.must(room, message(alice, "the room lives"))
}

func TestOthersCannotPropose(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	h.admits(room)
	h.refused("dora through our door", room, message(dora, "x"), 403, "M_FORBIDDEN", "")
}

// TestMangledPDUs hands over what the receiver should have kept out: nothing of it may stop the room.
func TestMangledPDUs(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	good := s.make(message(dora, "x"))
	var raws []json.RawMessage
	for _, raw := range []string{`null`, `5`, `"x"`, `[]`, `{}`, `{"type":"m.room.message"}`, `{"type":5,"content":{}}`, `{"type":"x","content":{},"sender":"@a:b"}`,
		`{"auth_events":[],"content":{},"depth":1,"origin_server_ts":1,"prev_events":[],"room_id":"!elsewhere:x","sender":"@a:b","type":"x"}`,
		fmt.Sprintf(`{"auth_events":[],"content":{},"depth":1,"origin_server_ts":1,"prev_events":[],"room_id":%q,"sender":"@a:b","type":"x"}`, room)} {
		raws = append(raws, json.RawMessage(raw))
	}
	raws = append(raws, good.JSON())
	outcomes, err := h.ask(room, bus.RoomQuestion{Receive: &bus.Received{Origin: "finance.example", Version: "11", PDUs: raws}})
	if err != nil || len(outcomes) != len(raws) {
		t.Fatalf("got %+v, %v", outcomes, err)
	}
	for i, o := range outcomes {
		if want := i == len(raws)-1; (o.Verdict == bus.Accepted) != want {
			t.Errorf("%s: got %+v, want accepted %v", raws[i], o, want)
		}
	}
	h.must(room, message(alice, "the room lives"))
}

// TestStoredAsItIsHashed receives an event with characters that JSON encoders like to escape on the way.
func TestStoredAsItIsHashed(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	said := s.make(message(dora, "<b>&\u2028é\u007f"))
	s.want(bus.Accepted, said)
	if got := h.event(id.EventID(said.EventID())).JSON; string(got) != string(said.JSON()) {
		t.Errorf("stored as %s, want %s", got, said.JSON())
	}
}

// TestAnIDOfAnotherRoom repeats an event ID of another room, which is possible in the first two versions.
func TestAnIDOfAnotherRoom(t *testing.T) {
	h := onSQLite(t)
	first := h.must(h.create("1"), message(alice, "x"))
	room := h.create("1")
	s := h.admits(room)
	template, err := pdu.Template("1", s.draft(message(dora, "the same ID")))
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Sprintf(`%s,"event_id":%q}`, template[:len(template)-1], first)
	outcomes, err := h.ask(room, bus.RoomQuestion{Receive: &bus.Received{Origin: "finance.example", Version: "1", PDUs: []json.RawMessage{json.RawMessage(raw)}}})
	if err != nil || outcomes[0].Verdict != bus.Rejected {
		t.Errorf("got %+v, %v, want it rejected", outcomes, err)
	}
	h.must(room, message(alice, "the room lives"))
}
