package roomserver

import (
	"fmt"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// TestRowsOfTenThousandJoins counts what a great room costs.
func TestRowsOfTenThousandJoins(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand joins")
	}
	h := onSQLite(t)
	room := h.create("11")
	before := h.rows()
	const users = 10000
	h.crowd(room, users)
	joined := h.rows()
	if joined-before >= 40000 {
		t.Errorf("10,000 joins wrote %d rows, want fewer than 40,000", joined-before)
	}
	h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"x"}`))
	if n := h.rows() - joined; n > 5 {
		t.Errorf("a state event among 10,000 wrote %d rows, want a handful", n)
	}
	h.restart()
	after := h.rows()
	h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"y"}`))
	if n := h.rows() - after; n > 5 {
		t.Errorf("a state event after a restart wrote %d rows, want a handful", n)
	}
	if n, _, err := h.store.Memberships.Counts(h.context(), room); err != nil || n != users+1 {
		t.Errorf("%d are joined (%v), want %d", n, err, users+1)
	}
}

// crowd lets users of ours into the room.
func (h *house) crowd(room id.RoomID, users int) {
	h.Helper()
	work := make(chan id.UserID)
	var all sync.WaitGroup
	for range 32 {
		all.Add(1)
		go func() {
			defer all.Done()
			for user := range work {
				if _, err := h.propose(room, membership(user, user, "join")); err != nil {
					h.Errorf("%s: %v", user, err)
				}
			}
		}()
	}
	for n := range users {
		work <- id.UserID(fmt.Sprintf("@user%d:interior.example", n))
	}
	close(work)
	all.Wait()
}

// TestALongChainIsRewritten changes the same state again and again.
func TestALongChainIsRewritten(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn("11", `"@dora:finance.example":50`)))
		s := h.admits(room)
		side := s.fork()
		var all sync.WaitGroup
		for w := range 16 {
			all.Add(1)
			go func() {
				defer all.Done()
				for n := range 80 {
					if _, err := h.propose(room, stateEvent(alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d %d"}`, w, n))); err != nil {
						h.Error(err)
					}
				}
			}()
		}
		all.Wait()
		old, before := h.room(room).State, h.state(room)
		if old.Sequence < spare {
			h.Fatalf("the chain holds %d entries, want more than %d", old.Sequence, spare)
		}
		h.restart()
		h.must(room, message(alice, "after a restart"))
		now := h.room(room).State
		if now.Chain == old.Chain || now.Sequence != int64(len(before)) {
			h.Errorf("the state is %+v after %+v, want a base of %d entries", now, old, len(before))
		}
		h.same("state after the rewriting", h.state(room), before)
		h.same("state before it", h.stateAt(old), before)
		// An event from before still forks off the old chain.
		side.house = h
		side.want(bus.Accepted, side.make(stateEvent(dora, "x", "", `{}`)))
		after := h.state(room)
		if before[pdu.Key{Type: "x"}] = after[pdu.Key{Type: "x"}]; before[pdu.Key{Type: "x"}] == "" {
			h.Error("the event from the side is not part of the state")
		}
		h.same("state after a fork across both chains", after, before)
		h.restart()
		h.must(room, message(alice, "goes on"))
		h.same("state after another restart", h.state(room), before)
	})
}

// breaks makes the database refuse events of the type test.break.
func (h *house) breaks() {
	h.Helper()
	statements := []string{`CREATE TRIGGER broken BEFORE INSERT ON events WHEN NEW.type = 'test.break' BEGIN SELECT RAISE(ABORT, 'broken on purpose'); END`}
	if h.store.Postgres() {
		statements = []string{
			`CREATE FUNCTION broken() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'broken on purpose'; END $$ LANGUAGE plpgsql`,
			`CREATE TRIGGER broken BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.type = 'test.break') EXECUTE FUNCTION broken()`,
		}
	}
	db := h.raw()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			h.Fatal(err)
		}
	}
}

// TestAFailedCommit lets commits fail while others write: nobody is told of an event that is not stored,
// and the room goes on from what is.
func TestAFailedCommit(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		other := h.create("11")
		h.breaks()
		var mu sync.Mutex
		told := map[id.EventID]bool{}
		var all sync.WaitGroup
		for w := range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				for n := range 20 {
					p := message(alice, fmt.Sprint(w, n))
					p.Device, p.Path, p.TransactionID = "D", "PUT m.room.message", fmt.Sprint(w, "-", n)
					in := room
					if w == 7 {
						in = other
					}
					if w == 0 && n%5 == 4 {
						if outcome, err := h.propose(room, bus.Proposal{Sender: alice, Type: "test.break", Content: []byte(`{}`)}); err == nil {
							h.Errorf("a write that fails was answered with %+v", outcome)
						}
						continue
					}
					for range 50 { // a client repeats, with the same transaction
						outcome, err := h.propose(in, p)
						if err == nil {
							mu.Lock()
							told[outcome.EventID] = true
							mu.Unlock()
							break
						}
						if w == 7 {
							h.Errorf("another room suffers: %v", err)
						}
					}
				}
			}()
		}
		all.Wait()
		if want := 7*20 + 20 - 4; len(told) != want {
			h.Errorf("%d messages were accepted, want %d", len(told), want)
		}
		for eventID := range told {
			if e, err := h.store.Events.ByID(h.context(), eventID); err != nil || e == nil {
				h.Errorf("%s was accepted but is not stored (%v)", eventID, err)
			}
		}
		if got, want := len(h.timeline(room))+len(h.timeline(other)), 10+7*20+20-4; got != want {
			h.Errorf("%d events are stored, want %d", got, want)
		}
		h.must(room, message(alice, "the room lives"))
		if tips := h.room(room).Extremities; len(tips) != 1 {
			h.Errorf("extremities %v, want one", tips)
		}
	})
}

// TestAnOldTransactionAgain repeats a transaction that the room does not remember, while others write: it is answered with the event
// that it made, and nobody else suffers.
func TestAnOldTransactionAgain(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		old := message(alice, "old")
		old.Device, old.Path, old.TransactionID = "D", "PUT m.room.message", "old"
		first := h.must(room, old)
		var all sync.WaitGroup
		say := func(n int) {
			p := message(alice, fmt.Sprint(n))
			p.Device, p.Path, p.TransactionID = "D", "PUT m.room.message", fmt.Sprint(n)
			if outcome, err := h.propose(room, p); err != nil || outcome.Already {
				h.Errorf("message %d: %+v, %v", n, outcome, err)
			}
		}
		for w := range 16 {
			all.Go(func() {
				for n := range (sentRead + 100) / 16 {
					say(w*1000 + n)
				}
			})
		}
		all.Wait()
		h.restart()
		for w := range 8 {
			all.Go(func() {
				for n := range 20 {
					say(100_000 + w*1000 + n)
					if outcome, err := h.propose(room, old); err != nil || outcome.EventID != first || !outcome.Already {
						h.Errorf("the old one again: %+v, %v, want %s", outcome, err, first)
					}
				}
			})
		}
		all.Wait()
		if got, want := len(h.timeline(room)), 5+1+16*((sentRead+100)/16)+8*20; got != want {
			h.Errorf("%d events are stored, want %d", got, want)
		}
	})
}

func BenchmarkPropose(b *testing.B) {
	h := onSQLite(b)
	room := h.create("11")
	for i := 0; b.Loop(); i++ {
		h.must(room, message(alice, fmt.Sprint(i)))
	}
}

// BenchmarkSend has sixteen who write at once, as a busy room has.
func BenchmarkSend(b *testing.B) {
	h := onSQLite(b)
	room := h.create("11")
	b.ResetTimer()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := h.propose(room, message(alice, "hello")); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkFork has two servers change the state of a room of ten thousand at once: two state events, one resolution
// and the message that joins both sides.
func BenchmarkFork(b *testing.B) {
	h := onSQLite(b)
	room := h.create("11")
	h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn("11", `"@dora:finance.example":50`)))
	h.crowd(room, 10000)
	s := h.admits(room)
	for i := 0; b.Loop(); i++ {
		side := s.fork()
		mine := h.must(room, stateEvent(alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i)))
		theirs := side.make(stateEvent(dora, "m.room.topic", "", fmt.Sprintf(`{"topic":"there %d"}`, i)))
		s.want(bus.Accepted, theirs)
		both := h.must(room, message(alice, "joins"))
		topic, err := h.store.State.Current(h.context(), room, pdu.Key{Type: "m.room.topic"})
		if err != nil || topic == nil || topic.ID != mine && string(topic.ID) != theirs.EventID() {
			b.Fatalf("topic is %v, %v, want one of the two", topic, err)
		}
		s.take(h.parsed("11", topic.ID))
		s.take(h.parsed("11", both))
	}
}
