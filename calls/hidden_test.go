package calls

import (
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/calls/signal"
)

// TestTheHiddenAreNotKnown: of one whose token says that it is hidden the others hear nothing: not that it is there, not that it was, not that it
// takes their tracks, and its data come from nobody.
func TestTheHiddenAreNotKnown(t *testing.T) {
	f, base := newTestFocus(t)
	ann := joinData(t, base, "ann")
	known := func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool { return p.Identity == "spy" })
	}
	spy := joinAs(t, base, "room", "spy", joining{hidden: true})
	if n := spy.joined.Room.NumParticipants; n != 1 {
		t.Errorf("the spy was told of %d participants, want ann", n)
	}
	ann.publish("ann")
	spy.hears("ann")
	within(t, ann.session(f), func() {}) // what the spy takes has come to it by then
	ann.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 1}}})
	ann.wait("a pong", func(res *signal.Response) bool {
		if known(res) || res.GetTrackSubscribed() != nil {
			t.Errorf("ann was told of the spy: %v", res)
		}
		return res.GetPongResp() != nil
	})
	bob := joinData(t, base, "bob")
	if n := bob.joined.Room.NumParticipants; n != 2 {
		t.Errorf("bob was told of %d participants, want ann and himself", n)
	}
	// What it sends has no name.
	raw, err := signal.EncodeData(&signal.DataPacket{Sequence: 1, User: &signal.UserPacket{Payload: []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	spy.session(f).forwardData(signal.DataPacket_RELIABLE, raw)
	if got := bob.next("the spy's packet"); got.ParticipantIdentity != "" || got.User.ParticipantIdentity != "" || got.User.ParticipantSid != "" {
		t.Errorf("got a packet of %q, by %q, %q, want one of nobody", got.ParticipantIdentity, got.User.ParticipantIdentity, got.User.ParticipantSid)
	}
	taken := 0
	ann.wait("that bob takes her tracks", func(res *signal.Response) bool {
		if res.GetTrackSubscribed() != nil {
			taken++
		}
		return taken == 2
	})
	for name, status := range map[string]string{"ListRooms": `"num_participants":2`, "GetParticipant": `"spy"`} {
		if code, text := askService(t, base, name, `{"room":"room","identity":"spy"}`, Grant{Room: "room", RoomAdmin: true, RoomList: true}); code != 200 || !strings.Contains(strings.ReplaceAll(text, " ", ""), status) {
			t.Errorf("%s: got %d %s, want %s", name, code, text, status)
		}
	}
	// Who resumes is told who went meanwhile.
	spy.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	for end := time.Now().Add(patience); theRoom(t, f).find("spy") != nil; {
		if time.Now().After(end) {
			t.Fatal("the spy does not go")
		}
	}
	bob.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	ann.wait("bob's going", func(res *signal.Response) bool {
		if known(res) {
			t.Errorf("ann was told that the spy went: %v", res)
		}
		return mentions(res, "bob", signal.Participant_DISCONNECTED)
	})
	ann.ws.Close()
	until(t, ann.resumes(base), "an update", func(res *signal.Response) bool {
		if known(res) {
			t.Errorf("ann was told at her resume: %v", res)
		}
		return mentions(res, "bob", signal.Participant_DISCONNECTED)
	})
}
