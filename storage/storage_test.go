package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
	"chancery/storage/testdb"
)

// eachDatabase runs the test on SQLite and on PostgreSQL.
func eachDatabase(t *testing.T, test func(t *testing.T, cfg Config)) {
	testdb.Each(t, func(t *testing.T, database string) { test(t, Config{Database: database}) })
}

func openStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); b.Close() })
	return s
}

var anEvent = func() func(s *Store, t *testing.T, room id.RoomID) *Event {
	var mu sync.Mutex
	n := 0
	return func(s *Store, t *testing.T, room id.RoomID) *Event {
		number, err := s.Numbers(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		n++
		defer mu.Unlock()
		return &Event{Number: number, ID: id.EventID(fmt.Sprintf("$%d", n)), RoomID: room, Standing: Accepted, Type: "m.room.message",
			Sender: "@alice:interior", Depth: int64(n), JSON: []byte(`{}`)}
	}
}()

func TestPositionsFollowCommitOrder(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		const rooms, each = 20, 25
		var wg sync.WaitGroup
		for r := range rooms {
			wg.Add(1)
			go func() {
				defer wg.Done()
				room, line := id.RoomID(fmt.Sprintf("!%d:interior", r)), &Line{}
				for range each {
					err := w.WriteAndWait(&RoomRows{Line: line, Room: room, Events: []*Event{anEvent(s, t, room)}, News: []bool{true}})
					if err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		seen := make(chan Position, rooms*each)
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		go s.Follow(ctx, Follower{Name: "test", Kinds: []Kind{EventNews}, Handle: func(_ context.Context, news []Change, _ Position) error {
			for _, c := range news {
				seen <- c.Position
			}
			return nil
		}})
		wg.Wait()
		last := Position(0)
		want := s.Head()
		for last < want {
			select {
			case p := <-seen:
				if p <= last {
					t.Fatalf("position %d came after %d", p, last)
				}
				last = p
			case <-ctx.Done():
				t.Fatalf("follower saw up to %d, want %d", last, want)
			}
		}
		events, err := s.Events.Backwards(t.Context(), "!3:interior", Position(1<<40).End(), 100)
		if err != nil || len(events) != each {
			t.Fatalf("room 3 holds %d events (%v), want %d", len(events), err, each)
		}
		for _, e := range events {
			if e.Place != e.Position.Place() {
				t.Errorf("event at position %d has place %d, want %d", e.Position, e.Place, e.Position.Place())
			}
		}
	})
}

// TestTheTailKeepsUp writes state events, whose entries share the event's position: the tail must not wait for the positions
// that were set aside in vain.
func TestTheTailKeepsUp(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		room, line := id.RoomID("!r:interior"), &Line{}
		chain, err := s.Numbers(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 5 {
			e := anEvent(s, t, room)
			rows := &RoomRows{Line: line, Room: room, Events: []*Event{e}, News: []bool{true},
				Entries: []Entry{{Chain: chain, Sequence: int64(n + 1), Key: Key{Type: "m.room.topic"}, Event: e.Number, News: true}}}
			if n == 0 {
				rows.Chains = []Chain{{Chain: chain, RoomID: room}}
			}
			if err := w.WriteAndWait(rows); err != nil {
				t.Fatal(err)
			}
			if s.Head() < e.Position {
				t.Fatalf("head is %d after an event at %d was written", s.Head(), e.Position)
			}
		}
	})
}

func TestAFailedWriteUndoesItselfAlone(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		errBroken := errors.New("broken")
		var wg sync.WaitGroup
		results := make([]error, 50)
		for i := range results {
			wg.Add(1)
			go func() {
				defer wg.Done()
				results[i] = s.Do(t.Context(), func(ctx context.Context) error {
					s.Next(ctx, 1)
					if _, err := s.exec(ctx, "INSERT INTO cursors (name, position) VALUES ($1, 1)", fmt.Sprint(i)); err != nil {
						return err
					}
					if i%10 == 3 {
						return errBroken
					}
					return nil
				})
			}()
		}
		wg.Wait()
		for i, err := range results {
			if want := i%10 == 3; errors.Is(err, errBroken) != want {
				t.Errorf("write %d: got %v, want it broken: %v", i, err, want)
			}
		}
		n, err := one(t.Context(), s, column[int], "SELECT COUNT(*) FROM cursors")
		if err != nil || n != 45 {
			t.Errorf("%d rows are there (%v), want 45", n, err)
		}
		if head := s.Head(); head != 45 {
			t.Errorf("head is %d, want 45: failed writes take no positions", head)
		}
	})
}

func TestALineRefusesWhatFollowsAFailure(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		line := &Line{}
		room := id.RoomID("!r:interior")
		good, twin := anEvent(s, t, room), anEvent(s, t, room)
		twin.ID = good.ID
		write := func(l *Line, e *Event) error {
			return w.WriteAndWait(&RoomRows{Line: l, Room: room, Events: []*Event{e}, News: []bool{true}})
		}
		if err := write(line, good); err != nil {
			t.Fatal(err)
		}
		if err := write(line, twin); err == nil {
			t.Fatal("a second event with the same ID was written")
		}
		if err := write(line, anEvent(s, t, room)); err == nil {
			t.Error("a line went on after its failure")
		}
		if err := write(&Line{}, anEvent(s, t, room)); err != nil {
			t.Errorf("a new line was refused: %v", err)
		}
	})
}

func TestStateIsTheLastEntriesUpToThere(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		room := id.RoomID("!r:interior")
		topic, name := Key{Type: "m.room.topic"}, Key{Type: "m.room.name"}
		odd := Key{Type: "nul\x00", StateKey: "\ue000\x00"}
		first, err := s.Numbers(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		base, fork := first, first+1
		err = w.WriteAndWait(&RoomRows{Line: &Line{}, Room: room,
			Chains: []Chain{{Chain: base, RoomID: room}, {Chain: fork, RoomID: room, Parent: Snapshot{base, 2}, Height: 1}},
			Entries: []Entry{
				{Chain: base, Sequence: 1, Key: topic, Event: 101, News: true},
				{Chain: base, Sequence: 2, Key: name, Event: 102, News: true},
				{Chain: base, Sequence: 3, Key: topic, Event: 103, Old: 101, News: true},
				{Chain: fork, Sequence: 1, Key: name, Event: 0},
				{Chain: fork, Sequence: 2, Key: odd, Event: 104},
			}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			at   Snapshot
			want map[Key]int64
		}{
			{Snapshot{}, map[Key]int64{}},
			{Snapshot{base, 1}, map[Key]int64{topic: 101}},
			{Snapshot{base, 2}, map[Key]int64{topic: 101, name: 102}},
			{Snapshot{base, 3}, map[Key]int64{topic: 103, name: 102}},
			{Snapshot{fork, 1}, map[Key]int64{topic: 101}},
			{Snapshot{fork, 2}, map[Key]int64{topic: 101, odd: 104}},
		} {
			got, err := s.State.At(t.Context(), c.at)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("state at %v is %v (%v), want %v", c.at, got, err, c.want)
			}
			for _, key := range []Key{topic, name, odd} {
				if got, err := s.State.Key(t.Context(), c.at, key); err != nil || got != c.want[key] {
					t.Errorf("%s at %v is %d (%v), want %d", key, c.at, got, err, c.want[key])
				}
				asked := []Lookup{{c.at, key}, {Snapshot{base, 1}, topic}}
				if got, err := s.State.Lookups(t.Context(), asked); err != nil || got[0] != c.want[key] || got[1] != 101 {
					t.Errorf("look-ups of %v are %v (%v), want %d and 101", asked, got, err, c.want[key])
				}
			}
		}
		changed, err := s.State.Changed(t.Context(), room, 0, s.Head())
		if err != nil || len(changed) != 2 || changed[0].Event != 103 || changed[0].Old != 0 {
			t.Errorf("changed: %+v (%v), want topic to 103 from nothing, and name", changed, err)
		}
	})
}

func TestATurnWritesTheRoom(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		room := id.RoomID("!r:interior")
		join := anEvent(s, t, room)
		join.Type, join.Sender = "m.room.member", "@bob:finance"
		key := "@bob:finance"
		join.StateKey = &key
		chain, _ := s.Numbers(t.Context(), 1)
		join.After = Snapshot{chain, 1}
		err := w.WriteAndWait(&RoomRows{Line: &Line{}, Room: room,
			Events: []*Event{join}, News: []bool{true},
			Chains:      []Chain{{Chain: chain, RoomID: room}},
			Entries:     []Entry{{Chain: chain, Sequence: 1, Key: Key{Type: "m.room.member", StateKey: key}, Event: join.Number, News: true}},
			Memberships: []*Membership{{RoomID: room, UserID: "@bob:finance", Membership: event.MembershipJoin, EventID: join.ID, Event: join.Number, Sender: "@bob:finance", News: true}},
			Servers:     []ServerMove{{Server: "finance", In: true}},
			Head:        &Room{ID: room, Version: "11", State: Snapshot{chain, 1}, Extremities: []id.EventID{join.ID}, Depth: 1, Joined: true},
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Events.ByID(t.Context(), join.ID)
		if err != nil || got == nil || got.Position != 1 || got.After != join.After || got.Before != (Snapshot{}) || *got.StateKey != key {
			t.Errorf("stored event is %+v (%v)", got, err)
		}
		r, err := s.Rooms.ByID(t.Context(), room)
		if err != nil || r == nil || r.State != join.After || len(r.Extremities) != 1 || !r.Joined {
			t.Errorf("stored room is %+v (%v)", r, err)
		}
		if ok, err := s.Memberships.Joined(t.Context(), room, "@bob:finance"); !ok || err != nil {
			t.Errorf("bob is not joined (%v)", err)
		}
		spans, err := s.Rooms.ServerSpans(t.Context(), room)
		if err != nil || len(spans) != 1 || spans[0].Since != 1 {
			t.Errorf("servers are %+v (%v), want finance since 1", spans, err)
		}
		kinds := map[Kind]int{}
		news, _, _ := s.Since(0)
		for _, c := range news {
			kinds[c.Kind]++
			if c.Position != 1 {
				t.Errorf("news %+v has position %d, want 1 with its event", c, c.Position)
			}
		}
		if kinds[EventNews] != 1 || kinds[StateNews] != 1 || kinds[MembershipNews] != 1 {
			t.Errorf("news are %v, want one of each", kinds)
		}
		again, err := s.Changes(t.Context(), 0, s.Head())
		if err != nil || len(again) != len(news) {
			t.Errorf("the tables tell %d changes (%v), the tail %d", len(again), err, len(news))
		}
	})
}

// TestAFollowersPatience: however often it failed, a follower that must not wait tries again as soon as it says.
func TestAFollowersPatience(t *testing.T) {
	s := openStore(t, Config{Database: filepath.Join(t.TempDir(), "test.db")})
	const failures = 50
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	tried := 0
	room := id.RoomID("!r:interior")
	err := s.Follow(ctx, Follower{Patience: 10 * time.Millisecond,
		Started: func(Position) {
			if err := s.RoomWriter(nil).WriteAndWait(&RoomRows{Line: &Line{}, Room: room, Events: []*Event{anEvent(s, t, room)}, News: []bool{true}}); err != nil {
				t.Error(err)
			}
		},
		Handle: func(context.Context, []Change, Position) error {
			if tried++; tried <= failures {
				return errors.New("the database is away")
			}
			stop()
			return nil
		}})
	if err != nil || tried != failures+1 {
		t.Errorf("tried %d times within five seconds (%v), want %d", tried, err, failures+1)
	}
}

func TestAFollowerGoesOnWhereItStopped(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		b, err := bus.Open(t.Context(), bus.DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		room := id.RoomID("!r:interior")
		write := func(s *Store, n int) {
			w := s.RoomWriter(nil)
			for range n {
				if err := w.WriteAndWait(&RoomRows{Line: &Line{}, Room: room, Events: []*Event{anEvent(s, t, room)}, News: []bool{true}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		follow := func(s *Store, want int) (seen []Position) {
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
			defer stop()
			err := s.Follow(ctx, Follower{Name: "f", Handle: func(_ context.Context, news []Change, _ Position) error {
				for _, c := range news {
					seen = append(seen, c.Position)
				}
				if len(seen) >= want {
					stop()
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			return seen
		}
		open := func() *Store {
			s, err := Open(t.Context(), cfg, b)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := open()
		if err := s.saveCursor(t.Context(), "f", 0); err != nil {
			t.Fatal(err)
		}
		write(s, 5)
		if got := follow(s, 5); len(got) != 5 {
			t.Fatalf("first run saw %v", got)
		}
		write(s, 3)
		incarnation := s.Incarnation()
		s.Close()
		s = open()
		defer s.Close()
		if s.Incarnation() != incarnation {
			t.Errorf("incarnation changed over a restart")
		}
		if got := follow(s, 3); fmt.Sprint(got) != "[6 7 8]" {
			t.Errorf("after a restart the follower saw %v, want [6 7 8]", got)
		}
	})
}

func TestALeaseHasOneHolder(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx := t.Context()
		a, err := s.Leases.Take(ctx, "rooms", "a", time.Minute)
		if err != nil || a == nil || a.Epoch != 1 {
			t.Fatalf("a got %+v (%v)", a, err)
		}
		if b, err := s.Leases.Take(ctx, "rooms", "b", time.Minute); b != nil || err != nil {
			t.Fatalf("b got %+v (%v) while a holds it", b, err)
		}
		if again, err := s.Leases.Take(ctx, "rooms", "a", time.Minute); err != nil || again == nil || again.Epoch != 1 {
			t.Fatalf("a renewed to %+v (%v)", again, err)
		}
		if err := s.Leases.Release(ctx, a); err != nil {
			t.Fatal(err)
		}
		b, err := s.Leases.Take(ctx, "rooms", "b", time.Minute)
		if err != nil || b == nil || b.Epoch != 2 {
			t.Fatalf("b got %+v (%v) after a's release", b, err)
		}
		w := s.RoomWriter(func() *Lease { return a })
		room := id.RoomID("!r:interior")
		err = w.WriteAndWait(&RoomRows{Line: &Line{}, Room: room, Events: []*Event{anEvent(s, t, room)}, News: []bool{true}})
		if !errors.Is(err, ErrLease) {
			t.Errorf("who lost the lease wrote: %v", err)
		}
	})
}

// TestManyOpenAnEmptyDatabaseAtOnce opens one new PostgreSQL database as processes do that start together.
func TestManyOpenAnEmptyDatabaseAtOnce(t *testing.T) {
	cfg := Config{Database: testdb.Postgres(t), Readers: 4}
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	opened := make(chan error, 6)
	for range cap(opened) {
		go func() {
			s, err := Open(t.Context(), cfg, b)
			if err == nil {
				err = errors.Join(s.Healthy(t.Context()), s.Close())
			}
			opened <- err
		}()
	}
	for range cap(opened) {
		if err := <-opened; err != nil {
			t.Errorf("open: %v", err)
		}
	}
}

func TestTokens(t *testing.T) {
	token := Token{Incarnation: "abc123", Position: 7, ToDevice: 5, Ephemeral: 9, Process: "p1"}
	got, err := ParseToken(token.String())
	if err != nil || got != token {
		t.Errorf("%s read as %+v (%v)", token, got, err)
	}
	for _, bad := range []string{"", "s", "s1_2", "sabc_x_1_p_1", "sabc_-1_1_p_1", "p1_2", strings.Repeat("s", 500)} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q was read as a token", bad)
		}
	}
	page := Page{Place: -655360, Number: 12}
	if got, err := ParsePage(page.String()); err != nil || got != page {
		t.Errorf("%s read as %+v (%v)", page, got, err)
	}
	if got, err := ParsePage(token.String()); err != nil || got != Position(7).End() {
		t.Errorf("a token read as page %+v (%v)", got, err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("sabc_1_2_p_3")
	f.Add("p-1_2")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := ParseToken(text); err == nil {
			if again, err := ParseToken(token.String()); err != nil || again != token {
				t.Errorf("%q does not survive its own text", text)
			}
		}
		_, _ = ParsePage(text)
	})
}

func TestReceiptsGoForward(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		const room = id.RoomID("!r:interior")
		first, second := anEvent(s, t, room), anEvent(s, t, room)
		if err := w.WriteAndWait(&RoomRows{Line: &Line{}, Room: room, Events: []*Event{first, second}, News: []bool{true, true}}); err != nil {
			t.Fatal(err)
		}
		put := func(e *Event) (moved bool) {
			err := s.Do(t.Context(), func(ctx context.Context) (err error) {
				moved, err = s.Receipts.Put(ctx, &Receipt{RoomID: room, UserID: "@bob:interior", Type: ReceiptRead, EventID: e.ID, Timestamp: 1})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return moved
		}
		before := s.Head()
		if got := []bool{put(second), put(first), put(second)}; !got[0] || got[1] || got[2] {
			t.Errorf("receipt at the second event, then the first, then the second again moved: %v, want only the first to", got)
		}
		news, _, ok := s.Since(before)
		if !ok || len(news) != 1 || news[0].Row.(*Receipt).EventID != second.ID {
			t.Errorf("news %v, want the one receipt", news)
		}
		rows, err := s.Receipts.In(t.Context(), room, "@eve:interior", 0, s.Head(), 10)
		if err != nil || len(rows) != 1 || rows[0].Place != second.Place {
			t.Errorf("receipts in the room: %v (%v), want one at place %d", rows, err, second.Place)
		}
	})
}
