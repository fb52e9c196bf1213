package roomserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

func TestReceive(t *testing.T) {
	eachDatabase(t, func(h *house) {
		for _, version := range []id.RoomVersion{"1", "6", "10", "11", "12"} {
			room := h.create(version)
			s := h.admits(room)
			servers, err := h.store.Rooms.ServersNow(h.context(), room)
			if err != nil || strings.Join(servers, " ") != "interior.example finance.example" {
				h.Errorf("version %s: servers %v, %v", version, servers, err)
			}
			said := s.make(message(dora, "hello"))
			s.want(bus.Accepted, said)
			if again := s.want(bus.Accepted, said)[0]; !again.Already {
				h.Errorf("version %s: received twice: %+v", version, again)
			}
			mine := h.must(room, message(alice, "hello too"))
			if prev := h.parsed(version, mine).PrevEventIDs(); len(prev) != 1 || prev[0] != said.EventID() {
				h.Errorf("version %s: alice answered upon %v, want %s", version, prev, said.EventID())
			}
			e := h.event(id.EventID(said.EventID()))
			if e.Standing != storage.Accepted || e.Position == 0 || e.Place != e.Position.Place() {
				h.Errorf("version %s: stored as %+v", version, e)
			}
		}
	})
}

func TestForkOfMessages(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		mine := h.must(room, message(alice, "here"))
		theirs := s.make(message(dora, "there")) // upon dora's join, as alice's is
		s.want(bus.Accepted, theirs)
		if tips := h.room(room).Extremities; len(tips) != 2 {
			h.Fatalf("extremities %v, want both", tips)
		}
		joining := h.must(room, message(alice, "both"))
		prev := strings.Join(h.parsed("11", joining).PrevEventIDs(), " ")
		if !strings.Contains(prev, string(mine)) || !strings.Contains(prev, theirs.EventID()) {
			h.Errorf("alice went on upon %s, want %s and %s", prev, mine, theirs.EventID())
		}
		if tips := h.room(room).Extremities; len(tips) != 1 || tips[0] != joining {
			h.Errorf("extremities %v, want %s", tips, joining)
		}
	})
}

// TestForkOfState lets two servers set the topic at once: both sides must end with the same one, whichever came first.
func TestForkOfState(t *testing.T) {
	eachDatabase(t, func(h *house) {
		for _, version := range []id.RoomVersion{"6", "11", "12"} {
			for _, theirsIsLater := range []bool{false, true} {
				room := h.create(version)
				h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn(version, `"@dora:finance.example":50`)))
				s := h.admits(room)
				topic := stateEvent(alice, "m.room.topic", "", `{"topic":"here"}`)
				topic.Timestamp = 2_000_000_000_000
				mine := h.must(room, topic)
				p := stateEvent(dora, "m.room.topic", "", `{"topic":"there"}`)
				p.Timestamp = 1_000_000_000_000
				if theirsIsLater {
					p.Timestamp = 3_000_000_000_000
				}
				theirs := s.make(p)
				s.want(bus.Accepted, theirs)
				want := mine
				if theirsIsLater { // the later one is applied last
					want = id.EventID(theirs.EventID())
				}
				key := pdu.Key{Type: "m.room.topic"}
				if got := h.state(room)[key]; got != want {
					h.Errorf("version %s, theirs later %v: topic is %s, want %s", version, theirsIsLater, got, want)
				}
				before := h.state(room)
				h.must(room, message(alice, "joins both"))
				h.same("after the join of both", h.state(room), before)
				h.restart()
				h.must(room, message(alice, "still here"))
				h.same("after a restart", h.state(room), before)
				if got := h.stateAt(h.event(id.EventID(theirs.EventID())).After)[key]; got != id.EventID(theirs.EventID()) {
					h.Errorf("version %s: state after their event has topic %s", version, got)
				}
				if got := h.stateAt(h.event(mine).After)[key]; got != mine {
					h.Errorf("version %s: state after ours has topic %s", version, got)
				}
			}
		}
	})
}

// TestChangesOfState compares the stream of changes with the state itself, through forks and resolutions.
func TestChangesOfState(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn("11", `"@dora:finance.example":50`)))
	s := h.admits(room)
	start, from := h.state(room), h.store.Head()
	for n := range 5 {
		side := s.fork()
		h.must(room, stateEvent(alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, n)))
		h.must(room, stateEvent(alice, "x", fmt.Sprint(n), `{}`))
		s.want(bus.Accepted, side.make(stateEvent(dora, "m.room.topic", "", fmt.Sprintf(`{"topic":"there %d"}`, n))),
			side.make(stateEvent(dora, "y", fmt.Sprint(n), `{}`)))
		h.must(room, message(alice, "joins"))
		s = h.stranger(room)
	}
	changes, err := h.store.State.Changed(h.context(), room, from, h.store.Head())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		ids, err := h.store.Events.IDs(h.context(), []int64{c.Event})
		if err != nil {
			t.Fatal(err)
		}
		if start[c.Key] = ids[c.Event]; c.Event == 0 {
			delete(start, c.Key)
		}
	}
	h.same("changes applied", start, h.state(room))
}

func TestSoftFailure(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		before := s.fork()
		banned := h.must(room, membership(alice, dora, "ban"))
		late := before.make(message(dora, "I did not know"))
		before.want(bus.SoftFailed, late)
		e := h.event(id.EventID(late.EventID()))
		if e.Standing != storage.SoftFailed || e.Position != 0 {
			h.Errorf("stored as %+v, want it soft-failed and no news", e)
		}
		if tips := h.room(room).Extremities; len(tips) != 1 || tips[0] != banned {
			h.Errorf("extremities %v, want the ban alone", tips)
		}
		for _, shown := range h.timeline(room) {
			if shown.ID == e.ID && shown.Standing == storage.Accepted {
				h.Error("a soft-failed event is shown")
			}
		}
		after := h.must(room, message(alice, "gone"))
		if prev := h.parsed("11", after).PrevEventIDs(); len(prev) != 1 || prev[0] != string(banned) {
			h.Errorf("alice went on upon %v, want the ban", prev)
		}
		// What another server builds upon both is taken: it knew of the ban.
		h.must(room, membership(alice, dora, "leave"))
		s = h.stranger(room)
		s.tips = append(s.tips, late)
		s.want(bus.Accepted, s.make(membership(dora, dora, "join")))
	})
}

func TestRejection(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		weak := s.fork().make(stateEvent(dora, "m.room.topic", "", `{"topic":"no"}`))
		if o := s.want(bus.Rejected, weak)[0]; o.Rule != "7" {
			h.Errorf("rejected by rule %q, want 7", o.Rule)
		}
		surplus := s.draft(message(dora, "x"))
		surplus.AuthEvents = append(surplus.AuthEvents, id.EventID(s.state[joinRulesKey].EventID()))
		if o := s.want(bus.Rejected, s.build(surplus))[0]; o.Rule != "2.2" {
			h.Errorf("rejected by rule %q, want 2.2", o.Rule)
		}
		e := h.event(id.EventID(weak.EventID()))
		if e.Standing != storage.Rejected || e.Position != 0 || e.Place != 0 || !strings.Contains(e.Rule, "rule 7") {
			h.Errorf("stored with standing %d, position %d, place %d, rule %q, want it rejected by rule 7, no news and without a place", e.Standing, e.Position, e.Place, e.Rule)
		}
		if got := h.state(room)[pdu.Key{Type: "m.room.topic"}]; got != "" {
			h.Errorf("the topic is %s", got)
		}
		if again := s.want(bus.Rejected, weak)[0]; !again.Already {
			h.Errorf("received twice: %+v", again)
		}
		// Upon a rejected event the state is as before it.
		child := s.fork()
		child.tips = []gomatrixserverlib.PDU{weak}
		said := child.make(message(dora, "upon the rejected"))
		s.want(bus.Accepted, said)
		if got := h.stateAt(h.event(id.EventID(said.EventID())).Before)[pdu.Key{Type: "m.room.topic"}]; got != "" {
			h.Errorf("the state before the child has topic %s", got)
		}
		// A rejected auth event rejects.
		upon := s.draft(stateEvent(dora, "m.room.member", string(dora), `{"membership":"join","displayname":"D"}`))
		bad := s.fork().make(stateEvent(dora, "m.room.power_levels", "", `{"users":{"@dora:finance.example":100}}`))
		s.want(bus.Rejected, bad)
		for i, a := range upon.AuthEvents {
			if string(a) == s.state[levelsKey].EventID() {
				upon.AuthEvents[i] = id.EventID(bad.EventID())
			}
		}
		if o := s.want(bus.Rejected, s.build(upon))[0]; o.Rule != "2.3" {
			h.Errorf("rejected by rule %q, want 2.3", o.Rule)
		}
	})
}

// TestRejectedByTheStateBefore passes its own auth events, but not the state in which it was sent.
func TestRejectedByTheStateBefore(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	member := s.state[memberKey(dora)]
	left := s.make(membership(dora, dora, "leave"))
	s.want(bus.Accepted, left)
	d := s.draft(message(dora, "after leaving"))
	for i, a := range d.AuthEvents {
		if string(a) == left.EventID() {
			d.AuthEvents[i] = id.EventID(member.EventID())
		}
	}
	if o := s.want(bus.Rejected, s.build(d))[0]; o.Rule != "5" {
		t.Errorf("rejected by rule %q, want 5", o.Rule)
	}
}

func TestMissingParents(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		first := s.make(message(dora, "first"))
		second := s.make(stateEvent(dora, "m.room.member", string(dora), `{"membership":"join","displayname":"D"}`))
		third := s.make(message(dora, "third"))
		o := s.want(bus.Missing, third)[0]
		if len(o.Missing) == 0 {
			h.Fatal("nothing is said to be missing")
		}
		for _, missing := range o.Missing {
			if string(missing) != second.EventID() {
				h.Errorf("%s is said to be missing, want %s", missing, second.EventID())
			}
		}
		if e, err := h.store.Events.ByID(h.context(), id.EventID(third.EventID())); err != nil || e != nil && e.Standing != storage.Outlier {
			h.Errorf("an event without its parents is stored as %+v, %v", e, err)
		}
		s.want(bus.Accepted, first, second, third)
		if tips := h.room(room).Extremities; len(tips) != 1 || string(tips[0]) != third.EventID() {
			h.Errorf("extremities %v, want the third", tips)
		}
	})
}

// TestOutlierRises receives an event that was stored as an outlier before.
func TestOutlierRises(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		said := s.make(message(dora, "first an outlier"))
		h.outliers(said)
		s.want(bus.Accepted, said)
		e := h.event(id.EventID(said.EventID()))
		if e.Standing != storage.Accepted || e.Position == 0 || e.Place == 0 {
			h.Errorf("stored as %+v, want it accepted and news", e)
		}
		h.must(room, message(alice, "upon it"))
	})
}

// outliers stores events that belong to nobody yet, as federation does.
func (h *house) outliers(events ...gomatrixserverlib.PDU) {
	h.Helper()
	rows := make([]*storage.Event, len(events))
	for i, ev := range events {
		rows[i] = Row(ev, 0)
	}
	if err := h.store.Events.AddOutliers(h.context(), rows); err != nil {
		h.Fatal(err)
	}
}

func TestStateAtAGapIsHandedOver(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		// Ten events that we never see, the last of which changes the state.
		for n := range 9 {
			s.make(message(dora, fmt.Sprint(n)))
		}
		renamed := s.make(stateEvent(dora, "m.room.member", string(dora), `{"membership":"join","displayname":"D"}`))
		last := s.make(message(dora, "after the gap"))
		s.want(bus.Missing, last)
		outcomes := s.receiveAs(bus.Received{Snapshot: s.snapshot()}, last)
		if outcomes[0].Verdict != bus.Accepted {
			h.Fatalf("got %+v, want it accepted", outcomes[0])
		}
		if got := h.state(room)[memberKey(dora)]; string(got) != renamed.EventID() {
			h.Errorf("dora's member event is %s, want %s", got, renamed.EventID())
		}
		edges, err := h.store.Rooms.Edges(h.context(), room, 10)
		if err != nil || len(edges) != 1 || string(edges[0].Missing) != renamed.EventID() {
			h.Errorf("edges %+v, %v, want one at %s", edges, err, renamed.EventID())
		}
		h.must(room, message(alice, "goes on"))
	})
}

func TestRedactions(t *testing.T) {
	eachDatabase(t, func(h *house) {
		for _, version := range []id.RoomVersion{"1", "6", "11", "12"} {
			room := h.create(version)
			h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn(version, `"@dora:finance.example":50`)))
			h.must(room, membership(bob, bob, "join"))
			s := h.admits(room)
			redaction := func(by id.UserID, target id.EventID) bus.Proposal {
				return bus.Proposal{Sender: by, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: target}
			}
			check := func(name string, target, want id.EventID) {
				h.Helper()
				if got := h.event(target).RedactedBy; got != want {
					h.Errorf("version %s, %s: redacted by %q, want %q", version, name, got, want)
				}
			}
			own := h.must(room, message(bob, "oops"))
			check("own", own, h.must(room, redaction(bob, own)))
			alices := h.must(room, message(alice, "keep"))
			_, _ = h.propose(room, redaction(bob, alices)) // refused or without effect: either will do
			check("without level", alices, "")
			bobs := h.must(room, message(bob, "remove"))
			check("by level", bobs, h.must(room, redaction(alice, bobs)))

			s = h.stranger(room)
			another := h.must(room, message(bob, "removed from afar"))
			s = h.stranger(room)
			from := s.make(redaction(dora, another))
			s.want(bus.Accepted, from)
			check("from afar by level", another, id.EventID(from.EventID()))

			// The redaction comes before its target.
			side := s.fork()
			target := side.make(message(dora, "target"))
			s.tips = append(s.tips[:0:0], s.tips...)
			early := s.make(redaction(dora, id.EventID(target.EventID())))
			s.want(bus.Accepted, early)
			if p := h.event(id.EventID(early.EventID())).Position; p != 0 && version != "1" {
				h.Errorf("version %s: a redaction whose target is unknown is news at %d", version, p)
			}
			side.want(bus.Accepted, target)
			check("before its target", id.EventID(target.EventID()), id.EventID(early.EventID()))
			if p := h.event(id.EventID(early.EventID())).Position; p == 0 {
				h.Errorf("version %s: the redaction is no news after its target came", version)
			}
		}
	})
}

func TestRedactionOfAnotherServersEventNeedsTheLevel(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	s := h.admits(room)
	said := h.must(room, message(alice, "mine"))
	s = h.stranger(room)
	redaction := s.make(bus.Proposal{Sender: dora, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: said})
	s.receive(redaction)
	if got := h.event(said).RedactedBy; got != "" {
		t.Errorf("alice's message is redacted by %s of a user without the level", got)
	}
	if p := h.event(id.EventID(redaction.EventID())).Position; p != 0 {
		t.Errorf("the redaction is news at %d, want it kept from clients", p)
	}
}

func TestKickedServerIsOut(t *testing.T) {
	h := onSQLite(t)
	room := h.create("11")
	h.admits(room)
	in, err := h.store.Rooms.HasServer(h.context(), room, "finance.example")
	if err != nil || !in {
		t.Fatalf("finance.example is in: %v, %v", in, err)
	}
	kicked := h.must(room, membership(alice, dora, "leave"))
	spans, err := h.store.Rooms.ServerSpans(h.context(), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range spans {
		if span.Server == "finance.example" && span.Until != h.event(kicked).Position {
			t.Errorf("finance.example was in until %d, want %d", span.Until, h.event(kicked).Position)
		}
	}
	if m, err := h.store.Memberships.Of(h.context(), room, dora); err != nil || m.Membership != event.MembershipLeave {
		t.Errorf("dora stands as %+v, %v", m, err)
	}
}

// TestSentOn receives a join that the joiner's server cannot send to the others itself: it waits for them in the same commit.
func TestSentOn(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		third := id.UserID("@frank:health.example")
		join := s.make(membership(third, third, "join")) // signed by whomever: the room does not look
		other := s.make(message(dora, "not sent on"))
		for range 2 { // the second time it is known
			if o := s.receiveAs(bus.Received{Onward: true}, join); o[0].Verdict != bus.Accepted {
				h.Fatalf("got %+v, want it accepted", o[0])
			}
		}
		s.want(bus.Accepted, other)
		s.signer.ServerName = "health.example"
		last := s.make(membership(third, third, "leave"))
		if o := s.receiveAs(bus.Received{Onward: true}, last); o[0].Verdict != bus.Accepted {
			h.Fatalf("got %+v, want it accepted", o[0])
		}
		for server, want := range map[string]int{"finance.example": 1, "health.example": 0, "interior.example": 0} {
			waiting, err := h.store.Outbound.For(h.context(), server, 10)
			if err != nil || len(waiting) != want {
				h.Errorf("%d events wait for %s (%v), want %d", len(waiting), server, err, want)
			}
			if want == 1 && string(waiting[0].Content) != string(last.JSON()) {
				h.Errorf("what waits is %s, want the leave", waiting[0].Content)
			}
		}
	})
}
