package federation_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

func TestJoinAndTalk(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV6, id.RoomV10, id.RoomV11, id.RoomV12} {
		t.Run(string(version), func(t *testing.T) {
			w := newTown(t, "interior.example", "finance.example")
			interior, finance := w.open("interior.example"), w.open("finance.example")
			alice, bob := interior.account("alice"), finance.account("bob")
			room := interior.room(version, alice, "public")
			before := interior.say(room, alice, "before")
			finance.join(room, bob, interior)
			if finance.has(before) {
				t.Error("finance has an event from before its join as history already")
			}
			interior.wait("bob's join", func() bool { return interior.membership(room, bob) == event.MembershipJoin })
			finance.waitFor(interior.say(room, alice, "hello"))
			interior.waitFor(finance.say(room, bob, "hello yourself"))
			finance.waitFor(interior.set(room, alice, "m.room.topic", "", `{"topic":"money"}`))
			for _, h := range []*house{interior, finance} {
				if got, want := h.texts(room), []string{"hello", "hello yourself"}; !slices.Equal(got[len(got)-2:], want) {
					t.Errorf("%s: got %v, want %v at the end", h.name, got, want)
				}
			}
		})
	}
}

func TestManyMessagesBothWays(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "public")
	finance.join(room, bob, interior)
	const n = 150
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			finance.say(room, bob, "b "+numbered(i))
		}
	}()
	for i := range n {
		interior.say(room, alice, "a "+numbered(i))
	}
	<-done
	for _, h := range []*house{interior, finance} {
		h.wait("all messages", func() bool { return len(h.texts(room)) == 2*n })
		// Each sender's messages are in the sender's order, each once.
		last := map[byte]string{}
		for _, text := range h.texts(room) {
			if text <= last[text[0]] {
				t.Errorf("%s: %q came after %q", h.name, text, last[text[0]])
			}
			last[text[0]] = text
		}
	}
}

func TestCatchUpAfterTheOtherServerWasAway(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "public")
	finance.join(room, bob, interior)
	finance.waitFor(interior.say(room, alice, "first"))
	finance.stop()
	const n = 1200 // more than are sent in order after a long silence: this one is short
	for i := range n {
		interior.say(room, alice, numbered(i))
	}
	interior.wait("a row for what finance lacks", func() bool {
		lags, err := interior.store.Destinations.Lags(t.Context())
		return err == nil && len(lags) == 1
	})
	interior.restart() // what is unsent outlives us, too
	last := interior.say(room, alice, "last")
	finance.start()
	finance.waitFor(last)
	finance.wait("all messages", func() bool { return len(finance.texts(room)) == n+2 })
	interior.wait("the end of the lag", func() bool {
		lags, err := interior.store.Destinations.Lags(t.Context())
		return err == nil && len(lags) == 0
	})
	texts := finance.texts(room)
	if want := append(append([]string{"first"}, func() (list []string) {
		for i := range n {
			list = append(list, numbered(i))
		}
		return list
	}()...), "last"); !slices.Equal(texts, want) {
		t.Errorf("got %s", join(texts))
	}
}

func TestInviteJoinLeaveAcrossServers(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob, carl := interior.account("alice"), finance.account("bob"), finance.account("carl")
	room := interior.room(id.RoomV11, alice, "invite")
	if err := finance.tryJoin(room, bob, interior); err == nil {
		t.Error("bob joined without an invite")
	}
	interior.invite(room, alice, bob)
	interior.invite(room, alice, carl)
	for _, user := range []id.UserID{bob, carl} {
		if got := finance.membership(room, user); got != event.MembershipInvite {
			t.Errorf("%s: got membership %q, want invite", user, got)
		}
	}
	finance.join(room, bob, interior)
	// Carl says no; the room is known to his server by now, but he is only invited.
	key := string(carl)
	if _, err := finance.propose(room, bus.Proposal{Sender: carl, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"leave"}`)}); err != nil {
		t.Fatal(err)
	}
	interior.wait("carl's refusal", func() bool { return interior.membership(room, carl) == event.MembershipLeave })
	// Bob is kicked; his server learns of it.
	kicked := interior.set(room, alice, "m.room.member", string(bob), `{"membership":"leave"}`)
	finance.waitFor(kicked)
	if got := finance.membership(room, bob); got != event.MembershipLeave {
		t.Errorf("after the kick: got %q, want leave", got)
	}
}

func TestRejectInviteToAnUnknownRoom(t *testing.T) {
	for _, reachable := range []bool{true, false} {
		w := newTown(t, "interior.example", "finance.example")
		interior, finance := w.open("interior.example"), w.open("finance.example")
		alice, bob := interior.account("alice"), finance.account("bob")
		room := interior.room(id.RoomV11, alice, "invite")
		interior.invite(room, alice, bob)
		if !reachable {
			interior.door.Close()
		}
		_, err := finance.federate(bus.FederationQuestion{Leave: &bus.LeaveRemote{RoomID: room, UserID: bob, Servers: []string{interior.name}}})
		if err != nil {
			t.Fatalf("reachable %v: %v", reachable, err)
		}
		if got := finance.membership(room, bob); got != event.MembershipLeave {
			t.Errorf("reachable %v: got %q, want leave", reachable, got)
		}
		if reachable {
			interior.wait("bob's refusal", func() bool { return interior.membership(room, bob) == event.MembershipLeave })
		}
	}
}

// invite invites a user of another server, whole: draft, co-signature, reception.
func (h *house) invite(room id.RoomID, from, to id.UserID) {
	h.Helper()
	key := string(to)
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](h.Context(), h.bus, bus.RoomDo(room), bus.RoomQuestion{Draft: &bus.Proposal{
		Sender: from, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"invite"}`),
	}})
	if err != nil {
		h.Fatal(err)
	}
	draft := answer.Outcomes[0]
	stripped := []json.RawMessage{json.RawMessage(`{"type":"m.room.create","state_key":"","sender":"` + string(from) + `","content":{"room_version":"` + string(draft.Version) + `"}}`)}
	signed, err := h.federate(bus.FederationQuestion{Invite: &bus.InviteRemote{Version: draft.Version, Event: draft.Event, Stripped: stripped}})
	if err != nil {
		h.Fatal(err)
	}
	for _, server := range []string{from.Homeserver(), to.Homeserver()} {
		if !gjson.GetBytes(signed.Body, "signatures."+gjson.Escape(server)).Exists() {
			h.Errorf("the invite lacks the signature of %s: %s", server, signed.Body)
		}
	}
	received, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](h.Context(), h.bus, bus.RoomDo(room), bus.RoomQuestion{
		Receive: &bus.Received{Origin: h.name, PDUs: []json.RawMessage{signed.Body}},
	})
	if err != nil || received.Outcomes[0].Verdict != bus.Accepted {
		h.Fatalf("invite received: got %+v and error %v", received, err)
	}
}

func TestRescindedInvite(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "invite")
	interior.invite(room, alice, bob)
	interior.set(room, alice, "m.room.member", string(bob), `{"membership":"leave"}`)
	finance.wait("the end of the invite", func() bool { return finance.membership(room, bob) == event.MembershipLeave })
}

func TestKnock(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "knock")
	_, err := finance.federate(bus.FederationQuestion{Knock: &bus.JoinRemote{RoomID: room, UserID: bob, Servers: []string{interior.name}, Content: json.RawMessage(`{"reason":"please"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := finance.membership(room, bob); got != event.MembershipKnock {
		t.Errorf("finance: got %q, want knock", got)
	}
	if got := interior.membership(room, bob); got != event.MembershipKnock {
		t.Errorf("interior: got %q, want knock", got)
	}
	interior.invite(room, alice, bob)
	finance.join(room, bob, interior)
}

func TestRestrictedJoin(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob, carl := interior.account("alice"), finance.account("bob"), finance.account("carl")
	space := interior.room(id.RoomV11, alice, "public")
	empty := ""
	room := interior.room(id.RoomV11, alice, "invite", bus.Proposal{Sender: alice, Type: "m.room.join_rules", StateKey: &empty,
		Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(space) + `"}]}`)})
	if err := finance.tryJoin(room, bob, interior); err == nil {
		t.Error("bob joined without being in the space")
	}
	finance.join(space, bob, interior)
	finance.join(room, bob, interior)
	if err := finance.tryJoin(room, carl, interior); err == nil {
		t.Error("carl joined without being in the space")
	}
	finance.waitFor(interior.say(room, alice, "welcome"))
}
