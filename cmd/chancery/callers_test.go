package main

import (
	"testing"

	"maunium.net/go/mautrix"
)

// TestCallersHearOneAnother lets clients without a browser into a call; one vanishes without a word, and the others stay.
func TestCallersHearOneAnother(t *testing.T) {
	house := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna := house.person("anna")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	var callers []*caller
	for _, name := range []string{"bob", "carl", "dora"} {
		who := house.person(name)
		must(who.JoinRoomByID(t.Context(), room))(t, "join room")
		socket, token := callToken(t, who, house, room)
		c := must(enter(t.Context(), socket, token))(t, name+" enters the call")
		t.Cleanup(c.drop)
		if err := c.publish(name, true); err != nil {
			t.Fatalf("%s publishes: %v", name, err)
		}
		callers = append(callers, c)
	}
	all := func(when string, callers []*caller) {
		for n, c := range callers {
			hears := c.hears(patience)
			if because, out := c.out(); out || !hears {
				t.Errorf("%s: caller %d hears others: %v, is sent away: %v (%v)", when, n, hears, out, because)
			}
		}
	}
	all("in the beginning", callers)
	callers[2].vanish()
	all("after one has vanished", callers[:2])
	callers[0].leave()
	callers[1].leave()
}
