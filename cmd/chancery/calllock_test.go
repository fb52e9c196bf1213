package main

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// refreshed waits for a token that the focus gives to somebody inside.
func refreshed(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	for {
		if token := heard(t, ws).GetRefreshToken(); token != "" {
			return token
		}
	}
}

// atTheDoor says how a call receives the bearer of a token.
func (h *testHouse) atTheDoor(t *testing.T, token string) int {
	t.Helper()
	return statusOf(t, "GET", h.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode())
}

// TestLockedCallsTakeBackTheirOwn: who was in a locked call comes back to it when its line was lost, or the focus itself; nobody new comes
// in, and none who had left it for good.
func TestLockedCallsTakeBackTheirOwn(t *testing.T) {
	interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna := interior.person("anna")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	first, inside := map[string]string{}, map[string]string{} // tokens
	sockets := map[string]*websocket.Conn{}
	for _, name := range []string{"ben", "carl", "dora", "eve", "late"} {
		who := interior.person(name)
		must(who.JoinRoomByID(t.Context(), room))(t, "join room")
		socket, token := callToken(t, who, interior, room)
		first[name] = token
		if name != "late" {
			sockets[name] = enterCall(t, socket, token)
			inside[name] = refreshed(t, sockets[name])
		}
	}
	socket := "ws" + interior.focus()[len("http"):]
	interior.settings(anna, room, map[string]any{"locked": true})
	if got := interior.atTheDoor(t, first["late"]); got != http.StatusForbidden {
		t.Fatalf("locked, to who is new: got %d, want 403", got)
	}
	enterCall(t, socket, first["ben"]) // in place of itself, with what it came with
	leaveCall(t, sockets["carl"])
	if _, err := anna.SendMessageEvent(t.Context(), room, event.Type{Type: "chancery.call.command", Class: event.MessageEventType},
		map[string]any{"command": "remove", "user_id": id.NewUserID("eve", "interior.test")}); err != nil {
		t.Fatal(err)
	}
	if reason := sentAway(t, sockets["eve"]); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
		t.Fatalf("got %v, want PARTICIPANT_REMOVED", reason)
	}
	for deadline := time.Now().Add(patience); interior.atTheDoor(t, inside["carl"]) != http.StatusForbidden || interior.atTheDoor(t, inside["eve"]) != http.StatusForbidden; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("who has left, or was removed, may come back to the locked call")
		}
	}
	interior.close()
	interior.open()
	for _, c := range []struct {
		name, token string
		want        int
	}{
		{"who has left", inside["carl"], http.StatusForbidden},
		{"who was removed", inside["eve"], http.StatusForbidden},
		{"who is new", first["late"], http.StatusForbidden},
		{"what was given at the first time", first["dora"], http.StatusForbidden},
		{"who was in it", inside["dora"], http.StatusOK},
		{"who was in it, and with another session before", inside["ben"], http.StatusOK},
	} {
		if got := interior.atTheDoor(t, c.token); got != c.want {
			t.Errorf("after a new start of the focus, %s: got %d, want %d", c.name, got, c.want)
		}
	}
	back := enterCall(t, socket, inside["dora"])
	if _, err := anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: id.NewUserID("dora", "interior.test")}); err != nil {
		t.Fatal(err)
	}
	sentAway(t, back)
	if got := interior.atTheDoor(t, inside["dora"]); got != http.StatusUnauthorized {
		t.Errorf("kicked, with a young token: got %d, want 401", got)
	}
}
