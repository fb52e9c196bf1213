package roomserver

import (
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

func TestStickyUntil(t *testing.T) {
	now := time.UnixMilli(10_000_000)
	for _, c := range []struct {
		name   string
		sticky int64
		made   int64
		want   int64
	}{
		{"not sticky", 0, 10_000_000, 0},
		{"made now", 1000, 10_000_000, 10_001_000},
		{"made before", 60_000, 9_990_000, 10_050_000},
		{"made in the future", 1000, 99_000_000, 10_001_000},
		{"ended when it came", 1000, 9_990_000, 0},
		{"too long", 99_000_000, 10_000_000, 13_600_000},
	} {
		draft := pdu.Draft{Type: "org.test", Sender: dora, RoomID: "!r:finance.example", Content: []byte(`{}`), Timestamp: time.UnixMilli(c.made), Sticky: c.sticky}
		ev, err := pdu.Build("11", draft, signerFor("finance.example"))
		if err != nil {
			t.Fatal(err)
		}
		if got := stickyUntil(ev, now); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestSoftFailedStickyEventsAreJudgedAgain(t *testing.T) {
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		s := h.admits(room)
		before := s.fork()
		closed := `"@alice:interior.example":100},"events":{"org.test":50`
		h.must(room, stateEvent(alice, "m.room.power_levels", "", `{"users":{`+closed+`}}`))
		late := func(sticky int64) gomatrixserverlib.PDU {
			draft := before.draft(bus.Proposal{Sender: dora, Type: "org.test", Content: []byte(`{}`)})
			draft.Sticky = sticky
			return before.build(draft)
		}
		passing, sticky := late(0), late(600_000)
		before.want(bus.SoftFailed, passing)
		before.want(bus.SoftFailed, sticky)
		stuck := func() *storage.Event { return h.event(id.EventID(sticky.EventID())) }
		h.must(room, stateEvent(alice, "m.room.topic", "", `{"topic":"another"}`))
		if e := stuck(); e.Standing != storage.SoftFailed || e.Position != 0 {
			h.Fatalf("after a change that matters not: standing %d, position %d, want it soft-failed still", e.Standing, e.Position)
		}
		h.restart()
		h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn("11", "")))
		e := stuck()
		if e.Standing != storage.Accepted || e.Position == 0 || e.Place == 0 || e.StickyUntil == 0 {
			h.Errorf("once allowed: standing %d, position %d, place %d, sticky until %d, want it accepted and news", e.Standing, e.Position, e.Place, e.StickyUntil)
		}
		if e := h.event(id.EventID(passing.EventID())); e.Standing != storage.SoftFailed {
			h.Errorf("one that is not sticky: standing %d, want it soft-failed for ever", e.Standing)
		}
		list, err := h.store.Events.Sticky(h.context(), room, 0, h.store.Head(), time.Now().UnixMilli(), 10)
		if err != nil || len(list) != 1 || list[0].ID != e.ID {
			h.Errorf("sticky events: got %v, %v, want %s", list, err, e.ID)
		}
		if again := before.want(bus.Accepted, sticky)[0]; !again.Already {
			h.Errorf("received once more: %+v", again)
		}
	})
}
