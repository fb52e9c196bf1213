package roomserver

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// foreign makes a room of dora's on finance.example, which the house does not know.
func (h *house) foreign(version id.RoomVersion, more ...bus.Proposal) *stranger {
	h.Helper()
	s := &stranger{house: h, signer: signerFor("finance.example"), version: version, room: id.RoomID(fmt.Sprintf("!%d:finance.example", h.store.Head())), state: map[pdu.Key]gomatrixserverlib.PDU{}}
	if version == "12" {
		s.room = ""
	}
	create := s.make(stateEvent(dora, "m.room.create", "", fmt.Sprintf(`{"creator":%q,"room_version":%q}`, dora, version)))
	s.room = pdu.RoomIDOf(create)
	for _, p := range append([]bus.Proposal{
		membership(dora, dora, "join"),
		joinRules(dora, "public"),
	}, more...) {
		s.make(p)
	}
	return s
}

// offer stores the room's state as federation does after send_join, and gives the question with our user's join.
func (s *stranger) offer(user id.UserID) bus.Adopt {
	s.Helper()
	chain := s.snapshot()
	ours := *s
	ours.signer = s.house.signer
	join := ours.build(s.draft(membership(user, user, "join")))
	s.take(join)
	return bus.Adopt{Version: s.version, Event: join.JSON(), Snapshot: chain, Resident: "finance.example"}
}

// snapshot stores the state as outliers and an unattached snapshot, and gives its number.
func (s *stranger) snapshot() int64 {
	s.Helper()
	var events []gomatrixserverlib.PDU
	for _, ev := range s.state {
		events = append(events, ev)
	}
	s.outliers(events...)
	numbers := map[pdu.Key]int64{}
	for key, ev := range s.state {
		numbers[key] = s.event(id.EventID(ev.EventID())).Number
	}
	chain, err := s.store.State.WriteUnattached(s.context(), s.room, numbers)
	if err != nil {
		s.Fatal(err)
	}
	return chain
}

func (s *stranger) adopt(a bus.Adopt) (bus.Outcome, error) {
	outcomes, err := s.ask(s.room, bus.RoomQuestion{Adopt: &a})
	if err != nil {
		return bus.Outcome{}, err
	}
	if len(outcomes) != 1 {
		return bus.Outcome{}, fmt.Errorf("%d outcomes, want one", len(outcomes))
	}
	return outcomes[0], nil
}

// wants is the state as the stranger sees it.
func (s *stranger) wants() map[pdu.Key]id.EventID {
	state := map[pdu.Key]id.EventID{}
	for key, ev := range s.state {
		state[key] = id.EventID(ev.EventID())
	}
	return state
}

func TestAdopt(t *testing.T) {
	eachDatabase(t, func(h *house) {
		for _, version := range pdu.Versions() {
			s := h.foreign(version, message(dora, "before you came"))
			a := s.offer(alice)
			outcome, err := s.adopt(a)
			if err != nil || outcome.Verdict != bus.Accepted {
				h.Fatalf("version %s: got %+v, %v, want it adopted", version, outcome, err)
			}
			row := h.room(s.room)
			if !row.Joined || row.Version != version || len(row.Extremities) != 1 || row.Extremities[0] != outcome.EventID {
				h.Errorf("version %s: room %+v, want us joined and the join its end", version, row)
			}
			h.same("state in version "+string(version), h.state(s.room), s.wants())
			events := h.timeline(s.room)
			if len(events) != 1 || events[0].ID != outcome.EventID || events[0].Position == 0 {
				h.Errorf("version %s: shown are %v, want our join alone", version, events)
			}
			if m, err := h.store.Memberships.Of(h.context(), s.room, dora); err != nil || m == nil || m.Membership != event.MembershipJoin || m.Position != 0 {
				h.Errorf("version %s: dora stands as %+v, %v, want joined and no news", version, m, err)
			}
			edges, err := h.store.Rooms.Edges(h.context(), s.room, 10)
			if err != nil || len(edges) != 1 {
				h.Errorf("version %s: edges %v, %v, want one", version, edges, err)
			}
			h.must(s.room, message(alice, "here I am"))
			s.want(bus.Accepted, s.make(message(dora, "welcome")))
			if again, err := s.adopt(a); err != nil || again.EventID != outcome.EventID {
				h.Errorf("version %s: adopted again: %+v, %v", version, again, err)
			}
			h.restart()
			h.must(s.room, message(alice, "still here"))
		}
	})
}

func TestAdoptWithBadEventsInTheState(t *testing.T) {
	eachDatabase(t, func(h *house) {
		s := h.foreign("11", membership(eve, eve, "join"))
		good := s.wants()
		s.make(stateEvent(eve, "m.room.topic", "", `{"topic":"eve may not"}`))
		s.tips = []gomatrixserverlib.PDU{s.state[memberKey(eve)]}
		bad := s.state[pdu.Key{Type: "m.room.topic"}]
		a := s.offer(alice)
		outcome, err := s.adopt(a)
		if err != nil || outcome.Verdict != bus.Accepted {
			h.Fatalf("got %+v, %v, want it adopted", outcome, err)
		}
		good[memberKey(alice)] = outcome.EventID
		h.same("state without eve's topic", h.state(s.room), good)
		if e := h.event(id.EventID(bad.EventID())); e.Standing == storage.Accepted || e.Place != 0 {
			h.Errorf("eve's topic is stored as %+v", e)
		}
		h.must(s.room, message(alice, "x"))
	})
}

// TestAdoptWithHolesInTheAuthChain joins a room in which an event's auth chain cannot be had whole.
func TestAdoptWithHolesInTheAuthChain(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11", membership(eve, eve, "join"))
	s.make(stateEvent(eve, "m.room.member", string(eve), `{"membership":"join","displayname":"E"}`)) // stands on her first join, which is not offered
	a := s.offer(alice)
	want := s.wants()
	delete(want, memberKey(eve))
	outcome, err := s.adopt(a)
	if err != nil || outcome.Verdict != bus.Accepted {
		t.Fatalf("got %+v, %v, want it adopted", outcome, err)
	}
	h.same("state without eve", h.state(s.room), want)
	h.must(s.room, message(alice, "x"))
}

func TestAdoptNeedsWhatTheJoinStandsOn(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11")
	s.make(joinRules(dora, "invite"))
	s.make(joinRules(dora, "public"))
	s.make(stateEvent(dora, "m.room.member", string(dora), `{"membership":"join","displayname":"D"}`)) // stands on rules and membership that are not offered
	s.make(joinRules(dora, "public"))
	outcome, err := s.adopt(s.offer(alice))
	if err != nil || outcome.Verdict != bus.Missing || len(outcome.Missing) == 0 {
		t.Errorf("got %+v, %v, want what is missing", outcome, err)
	}
	if row, err := h.store.Rooms.ByID(h.context(), s.room); row != nil || err != nil {
		t.Errorf("the room is stored as %+v, %v", row, err)
	}
}

func TestAdoptRefusesARoomThatDoesNotAdmitUs(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11", membership(dora, alice, "ban"))
	outcome, err := s.adopt(s.offer(alice))
	if err == nil && outcome.Verdict == bus.Accepted {
		t.Errorf("a join of the banned was adopted: %+v", outcome)
	}
	if row, err := h.store.Rooms.ByID(h.context(), s.room); err != nil || row != nil && row.Joined {
		t.Errorf("room is stored as %+v, %v", row, err)
	}
}

// TestAdoptARoomThatLives lets a second user of ours join through the other server while we are in the room.
func TestAdoptARoomThatLives(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11")
	if _, err := s.adopt(s.offer(alice)); err != nil {
		t.Fatal(err)
	}
	mine := h.must(s.room, stateEvent(alice, "m.room.member", string(alice), `{"membership":"join","displayname":"A"}`))
	unseen := s.make(stateEvent(dora, "m.room.topic", "", `{"topic":"x"}`)) // upon alice's join
	outcome, err := s.adopt(s.offer(bob))
	if err != nil || outcome.Verdict != bus.Accepted {
		t.Fatalf("got %+v, %v, want it adopted", outcome, err)
	}
	state := h.state(s.room)
	for key, want := range map[pdu.Key]id.EventID{
		memberKey(alice): mine, memberKey(bob): outcome.EventID, {Type: "m.room.topic"}: id.EventID(unseen.EventID()),
	} {
		if state[key] != want {
			t.Errorf("%s is %s, want %s", key, state[key], want)
		}
	}
	h.must(s.room, message(bob, "x"))
	h.must(s.room, message(alice, "y"))
}

func TestRejoin(t *testing.T) {
	h := onSQLite(t)
	s := h.foreign("11")
	if _, err := s.adopt(s.offer(alice)); err != nil {
		t.Fatal(err)
	}
	left := h.must(s.room, membership(alice, alice, "leave"))
	s.take(h.parsed("11", left))
	s.make(stateEvent(dora, "m.room.topic", "", `{"topic":"while you were away"}`))
	outcome, err := s.adopt(s.offer(alice))
	if err != nil || outcome.Verdict != bus.Accepted {
		t.Fatalf("got %+v, %v, want it adopted", outcome, err)
	}
	h.same("state after coming back", h.state(s.room), s.wants())
	h.must(s.room, message(alice, "back"))
}

func TestBackfill(t *testing.T) {
	eachDatabase(t, func(h *house) {
		s := h.foreign("11")
		history := []gomatrixserverlib.PDU{}
		for n := range 30 {
			history = append(history, s.make(message(dora, fmt.Sprint(n))))
		}
		outcome, err := s.adopt(s.offer(alice))
		if err != nil {
			h.Fatal(err)
		}
		h.must(s.room, message(alice, "after"))
		for _, part := range [][]gomatrixserverlib.PDU{history[20:], history[:20]} {
			for _, o := range s.receiveAs(bus.Received{Backfill: true, Snapshot: s.snapshot()}, part...) {
				if o.Verdict != bus.Accepted {
					h.Fatalf("got %+v, want it accepted", o)
				}
			}
		}
		events := h.timeline(s.room)
		want := []id.EventID{}
		for _, ev := range history {
			want = append(want, id.EventID(ev.EventID()))
		}
		want = append(want, outcome.EventID)
		if len(events) != len(want)+1 {
			h.Fatalf("%d events are shown, want %d", len(events), len(want)+1)
		}
		for i, e := range events {
			if i < len(want) && e.ID != want[i] {
				h.Errorf("event %d is %s, want %s", i, e.ID, want[i])
			}
			if i < len(history) && e.Position != 0 {
				h.Errorf("history is news at %d", e.Position)
			}
		}
	})
}

// TestBackfillToTheBeginning takes in a whole room from its create event on: each event is judged by the state before it, not by
// the present one, in which those who were invited then have long joined.
func TestBackfillToTheBeginning(t *testing.T) {
	eachDatabase(t, func(h *house) {
		erin := id.UserID("@erin:finance.example")
		s := h.foreign("11")
		var history []gomatrixserverlib.PDU
		for _, ev := range s.state {
			history = append(history, ev)
		}
		history = append(history, s.make(membership(dora, erin, "invite")), s.make(membership(erin, erin, "join")), s.make(message(erin, "hello")))
		s.outliers(history[:5]...) // the auth chain comes with the state
		if _, err := s.adopt(s.offer(alice)); err != nil {
			h.Fatal(err)
		}
		for _, o := range s.receiveAs(bus.Received{Backfill: true}, history...) {
			if o.Verdict != bus.Accepted {
				h.Errorf("got %+v, want it accepted", o)
			}
		}
		s.want(bus.Accepted, s.make(message(erin, "still here")))
	})
}

// TestInviteFromAfar receives an invite to a room that we are not in, and its withdrawal.
func TestInviteFromAfar(t *testing.T) {
	eachDatabase(t, func(h *house) {
		s := h.foreign("11", joinRules(dora, "invite"))
		invite := s.make(membership(dora, alice, "invite"))
		outcomes := s.receiveAs(bus.Received{Stripped: []json.RawMessage{json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@dora:finance.example","content":{"name":"F"}}`)}}, invite)
		if outcomes[0].Verdict != bus.Accepted {
			h.Fatalf("got %+v, want the invite accepted", outcomes[0])
		}
		m, err := h.store.Memberships.Of(h.context(), s.room, alice)
		if err != nil || m == nil || m.Membership != event.MembershipInvite || len(m.Stripped) != 1 || m.Position == 0 {
			h.Fatalf("alice stands as %+v, %v, want invited, with the room's name, as news", m, err)
		}
		if outcome, err := s.adopt(s.offer(alice)); err != nil || outcome.Verdict != bus.Accepted {
			h.Fatalf("got %+v, %v, want it adopted", outcome, err)
		}
		if m, err := h.store.Memberships.Of(h.context(), s.room, alice); err != nil || m.Membership != event.MembershipJoin {
			h.Errorf("alice stands as %+v, %v", m, err)
		}
	})
}
