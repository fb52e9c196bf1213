package federation_test

import (
	"testing"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestRejoinAfterAllOfOursLeft has the last user of a server leave a room, and come back after it went on without them.
func TestRejoinAfterAllOfOursLeft(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV10, id.RoomV12} {
		t.Run(string(version), func(t *testing.T) {
			w := newTown(t, "interior.example", "finance.example", "health.example")
			interior, finance, health := w.open("interior.example"), w.open("finance.example"), w.open("health.example")
			alice, bob, carl := interior.account("alice"), finance.account("bob"), health.account("carl")
			room := interior.room(version, alice, "public")
			finance.join(room, bob, interior)
			health.join(room, carl, interior)
			finance.waitFor(health.say(room, carl, "three of us"))
			left := finance.set(room, bob, "m.room.member", string(bob), `{"membership":"leave"}`)
			interior.waitFor(left)
			health.waitFor(left)
			interior.set(room, alice, "m.room.topic", "", `{"topic":"without them"}`)
			missed := interior.say(room, alice, "missed")
			health.waitFor(missed)
			if finance.has(missed) {
				t.Error("finance was told of what it was not in")
			}
			finance.join(room, bob, health) // through one that let it in never before
			for _, h := range []*house{interior, health} {
				h.wait("bob's return", func() bool { return h.membership(room, bob) == event.MembershipJoin })
				h.waitFor(finance.say(room, bob, "back"))
				finance.waitFor(h.say(room, map[*house]id.UserID{interior: alice, health: carl}[h], "welcome"))
			}
			topic := func(h *house) id.EventID {
				e, err := h.store.State.Current(t.Context(), room, struct{ Type, StateKey string }{Type: "m.room.topic"})
				if err != nil || e == nil {
					t.Fatalf("%s has topic %v, %v", h.name, e, err)
				}
				return e.ID
			}
			if got, want := topic(finance), topic(interior); got != want {
				t.Errorf("finance has topic %s, want %s", got, want)
			}
		})
	}
}

// TestJoinThroughSeveral joins through the last of several servers: the first is not in the room, the second does not answer.
func TestJoinThroughSeveral(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example", "health.example", "away.example")
	interior, finance, health := w.open("interior.example"), w.open("finance.example"), w.open("health.example")
	w.listeners["away.example"].Close()
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "public")
	away := &house{town: w, name: "away.example"}
	finance.join(room, bob, health, away, finance, interior)
	finance.waitFor(interior.say(room, alice, "hello"))
	interior.waitFor(finance.say(room, bob, "hello yourself"))
}
