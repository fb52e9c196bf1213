package roomserver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// TestForkInAGreatRoom has two servers change the same hundred pieces of state in a room of ten thousand, apart from each other:
// each event that comes over is resolved with what we have done meanwhile, the last with a hundred keys in conflict.
func TestForkInAGreatRoom(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand joins")
	}
	eachDatabase(t, func(h *house) {
		room := h.create("11")
		h.must(room, stateEvent(alice, "m.room.power_levels", "", levelsIn("11", `"@dora:finance.example":50`)))
		h.crowd(room, 10_000)
		s := h.admits(room)
		side := s.fork()
		const keys = 100
		var theirs []gomatrixserverlib.PDU
		ours := map[pdu.Key]id.EventID{}
		for i := range keys {
			name := fmt.Sprint(i)
			ours[pdu.Key{Type: "test.key", StateKey: name}] = h.must(room, stateEvent(alice, "test.key", name, `{"by":"alice"}`))
			theirs = append(theirs, side.make(stateEvent(dora, "test.key", name, `{"by":"dora"}`)))
		}
		var took []time.Duration
		for _, ev := range theirs {
			begun := time.Now()
			side.want(bus.Accepted, ev)
			took = append(took, time.Since(begun))
		}
		// The first one reads the auth chains of all members; what other work takes from us meanwhile is not ours: the quickest of ten.
		last := slices.Min(took[keys-10:])
		t.Logf("an event on one side of a fork, with its commit: %v at first, %v with %d keys in conflict", took[0], last, keys)
		if limit := 50 * time.Millisecond * slow; last > limit {
			t.Errorf("a fork of %d keys took %v, want less than %v", keys, last, limit)
		}
		before := h.room(room).State
		side.tips = append(side.tips, h.parsed("11", ours[pdu.Key{Type: "test.key", StateKey: "99"}]))
		side.want(bus.Accepted, side.make(message(dora, "both")))
		if after := h.room(room).State; after != before {
			t.Errorf("joining both sides moved the state from %v to %v", before, after)
		}
		if head := h.room(room).State; head.Sequence > 10_000+3*keys {
			t.Errorf("the head's chain holds %d entries: what did not change was written again", head.Sequence)
		}
		state := h.state(room)
		for i, ev := range theirs {
			key := pdu.Key{Type: "test.key", StateKey: fmt.Sprint(i)}
			if got := state[key]; got != ours[key] && string(got) != ev.EventID() {
				t.Fatalf("%v is %s, want %s or %s", key, got, ours[key], ev.EventID())
			}
		}
	})
}
