package clientapi

import (
	"testing"
	"time"

	"maunium.net/go/mautrix/event"
)

// V3: who comes later reads nothing of what an erased user said; who was there still does.
func TestV3ErasedUsersArePrunedForLaterJoiners(t *testing.T) {
	s := start(t, testConfig())
	alice, bob, carol, dave := s.register("alice"), s.register("bob"), s.register("carol"), s.register("dave")
	room := bob.do("POST", v3+"/createRoom", map[string]any{"preset": "public_chat"}).ok().str("room_id")
	alice.do("POST", v3+"/join/"+room, "{}").ok()
	secret := alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "forget me"}).ok().str("event_id")
	kept := bob.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/2", map[string]any{"msgtype": "m.text", "body": "keep me"}).ok().str("event_id")
	dave.do("POST", v3+"/join/"+room, "{}").ok()
	body := func(u *user, eventID string) string {
		return u.do("GET", v3+"/rooms/"+room+"/event/"+eventID, nil).ok().str("content.body")
	}
	if got := body(dave, secret); got != "forget me" {
		t.Errorf("before: got %q", got)
	}
	alice.do("POST", v3+"/account/deactivate", alice.confirm(map[string]any{"erase": true}, "")).ok()
	carol.do("POST", v3+"/join/"+room, "{}").ok()
	for _, c := range []struct {
		who           *user
		eventID, want string
	}{{bob, secret, "forget me"}, {carol, secret, ""}, {carol, kept, "keep me"}} {
		if got := body(c.who, c.eventID); got != c.want {
			t.Errorf("%s reads %s: got %q, want %q", c.who.ID, c.eventID, got, c.want)
		}
	}
	page := carol.do("GET", v3+"/rooms/"+room+"/messages?dir=b&limit=50", nil).ok()
	if n := page.body.Get(`chunk.#(content.body=="forget me")#`).Get("#").Int(); n != 0 {
		t.Errorf("messages: got %s", page.body.Raw)
	}
	sync := carol.do("GET", v3+"/sync", nil).ok()
	if n := sync.body.Get("rooms.join." + escape(room) + `.timeline.events.#(content.body=="forget me")#`).Get("#").Int(); n != 0 {
		t.Errorf("sync: got %s", sync.body.Raw)
	}
}

func TestAClosedAccountAnswersItsInvites(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	room := bob.do("POST", v3+"/createRoom", map[string]any{"preset": "private_chat", "invite": []string{string(alice.ID)}}).ok().str("room_id")
	alice.do("POST", v3+"/account/deactivate", alice.confirm(nil, "")).ok()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got := bob.do("GET", v3+"/rooms/"+room+"/state/m.room.member/"+string(alice.ID), nil).ok().str("membership")
		if got == string(event.MembershipLeave) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("membership: got %s, want leave", got)
		}
	}
}
