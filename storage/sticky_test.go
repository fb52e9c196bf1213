package storage

import (
	"context"
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestThreadSubscriptionsAreNews(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		put := func(room id.RoomID, root id.EventID, subscribed bool) {
			t.Helper()
			sub := ThreadSubscription{UserID: "@alice:interior", RoomID: room, Root: root, Subscribed: subscribed}
			if err := s.Do(t.Context(), func(ctx context.Context) error { return s.ThreadSubscriptions.Put(ctx, sub) }); err != nil {
				t.Fatal(err)
			}
		}
		start := s.Head()
		put("!a", "$1", true)
		put("!a", "$2", true)
		put("!a", "$1", false)
		got, err := s.ThreadSubscriptions.Of(t.Context(), "@alice:interior", "!a", "$1")
		if err != nil || got == nil || got.Subscribed || got.Position != s.Head() {
			t.Fatalf("got %+v %v, want one that was left at %d", got, err, s.Head())
		}
		if got, err := s.ThreadSubscriptions.Of(t.Context(), "@bob:interior", "!a", "$1"); err != nil || got != nil {
			t.Fatalf("another user's: got %+v %v, want none", got, err)
		}
		list, err := s.ThreadSubscriptions.Between(t.Context(), "@alice:interior", start, s.Head(), 10)
		if err != nil || len(list) != 2 || list[0].Root != "$1" || list[1].Root != "$2" {
			t.Fatalf("between: got %+v %v, want $1 and $2", list, err)
		}
		changes, err := s.Changes(t.Context(), start, s.Head())
		if err != nil || len(changes) != 2 || changes[1].Kind != ThreadNews || changes[1].Row.(*ThreadSubscription).Root != "$1" {
			t.Fatalf("changes: got %+v %v, want those of $2 and $1", changes, err)
		}
		tail, _, ok := s.Since(start)
		if !ok || len(tail) != 3 || tail[0].RoomID != "!a" || tail[0].UserID != "@alice:interior" {
			t.Fatalf("tail: got %+v %t, want three changes", tail, ok)
		}
	})
}

func TestStickyEventsUntilTheyEnd(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		w := s.RoomWriter(nil)
		write := func(until int64, standing Standing) *Event {
			t.Helper()
			e := anEvent(s, t, "!a")
			e.StickyUntil, e.Standing = until, standing
			if err := w.WriteAndWait(&RoomRows{Line: &Line{}, Room: "!a", Events: []*Event{e}, News: []bool{standing == Accepted}}); err != nil {
				t.Fatal(err)
			}
			return e
		}
		ended, alive := write(100, Accepted), write(300, Accepted)
		write(0, Accepted)
		failed, later := write(300, SoftFailed), write(200, Accepted)
		list, err := s.Events.Sticky(t.Context(), "!a", 0, s.Head(), 150, 10)
		if err != nil || len(list) != 2 || list[0].ID != alive.ID || list[1].ID != later.ID || list[0].StickyUntil != 300 {
			t.Fatalf("got %v %v, want %s and %s", list, err, alive.ID, later.ID)
		}
		if list, err = s.Events.Sticky(t.Context(), "!a", alive.Position, s.Head(), 50, 10); err != nil || len(list) != 1 || list[0].ID != later.ID {
			t.Fatalf("after %d: got %v %v, want %s", alive.Position, list, err, later.ID)
		}
		if list, err = s.Events.Sticky(t.Context(), "!a", 0, ended.Position, 50, 10); err != nil || len(list) != 1 || list[0].ID != ended.ID {
			t.Fatalf("up to %d: got %v %v, want %s", ended.Position, list, err, ended.ID)
		}
		if list, err = s.Events.StickySoftFailed(t.Context(), "!a", 150, 10); err != nil || len(list) != 1 || list[0].ID != failed.ID {
			t.Fatalf("soft-failed: got %v %v, want %s", list, err, failed.ID)
		}
		rooms, err := s.Events.StickyRooms(t.Context(), []id.RoomID{"!a", "!b"}, 0, s.Head(), 150)
		if err != nil || len(rooms) != 1 || rooms[0] != "!a" {
			t.Fatalf("rooms: got %v %v, want !a", rooms, err)
		}
		failed.Standing, failed.StickyUntil = Accepted, 250
		if err := w.WriteAndWait(&RoomRows{Line: &Line{}, Room: "!a", Risen: []*Event{failed}, RisenNews: []bool{true}}); err != nil {
			t.Fatal(err)
		}
		list, err = s.Events.Sticky(t.Context(), "!a", later.Position, s.Head(), 150, 10)
		if err != nil || len(list) != 1 || list[0].ID != failed.ID || list[0].StickyUntil != 250 {
			t.Fatalf("risen: got %v %v, want %s", list, err, failed.ID)
		}
	})
}
