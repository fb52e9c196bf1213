package calls

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// strictHouse lets everybody in, and moderators alone where it is locked.
type strictHouse struct{ locked atomic.Bool }

func (h *strictHouse) admit(_ context.Context, c *Claims) (ruling, error) {
	return ruling{start: true, publish: true, locked: h.locked.Load(), moderate: strings.HasPrefix(string(c.user()), "@mod")}, nil
}

// seatToken is a token of a user's device, as it was given some time ago.
func seatToken(t *testing.T, user id.UserID, device id.DeviceID, again bool, ago time.Duration) string {
	t.Helper()
	key := tokens{key: testKey, secret: []byte(testSecret), now: func() time.Time { return time.Now().Add(-ago) }}
	token, err := key.sign(Claims{
		RegisteredClaims: jwt.RegisteredClaims{Subject: legacyIdentity(user, device)}, Video: Grant{Room: "room", RoomJoin: true},
		Matrix: &Matrix{User: user, Device: device, Room: "!room:x"}, Again: again,
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// enters opens a socket, and says how the focus received it: 0 is a welcome, another number the status of a refusal.
func enters(t *testing.T, base, token string) (ws *websocket.Conn, status int) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(base+"/rtc?"+url.Values{"access_token": {token}}.Encode(), nil)
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	t.Cleanup(func() { ws.Close() })
	if res, err := readResponse(ws); err != nil || res.GetJoin() == nil {
		t.Fatalf("got %v, %v, want a welcome", res, err)
	}
	return ws, 0
}

// TestWhoReturnsToALockedCall: a token that was given inside, lately, opens a locked call to its bearer, but not to one who has left.
func TestWhoReturnsToALockedCall(t *testing.T) {
	house := &strictHouse{}
	f, base := newTestFocus(t)
	f.admit = house
	bob, _ := enters(t, base, seatToken(t, "@bob:x", "D", false, 0))
	enters(t, base, seatToken(t, "@cat:x", "D", false, 0))
	house.locked.Store(true)
	frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}}, false)
	if err == nil {
		err = bob.WriteMessage(websocket.BinaryMessage, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
	room := f.liveRooms("room")[0]
	for deadline := time.Now().Add(patience); room.find("@bob:x:D") != nil; time.Sleep(time.Millisecond) { // until he is out
		if time.Now().After(deadline) {
			t.Fatal("bob is still in the call")
		}
	}
	for _, c := range []struct {
		name   string
		user   id.UserID
		device id.DeviceID
		again  bool
		ago    time.Duration
		want   int
	}{
		{"a moderator", "@mod:x", "D", false, 0, 0},
		{"who is new", "@dan:x", "D", false, 0, 403},
		{"who has left, with what he had inside", "@bob:x", "D", true, 2 * time.Second, 403},
		{"who was inside until now", "@eve:x", "D", true, insideFor - 10*time.Second, 0},
		{"who was inside some time ago", "@fay:x", "D", true, insideFor + 10*time.Second, 403},
		{"who takes the own place", "@cat:x", "D", false, 0, 0},
		{"who is in with another device", "@cat:x", "E", false, 0, 0},
	} {
		token := seatToken(t, c.user, c.device, c.again, c.ago)
		if _, got := enters(t, base, token); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

// TestOneUserTakesSomePlaces: what a device is called is the client's choice, and opens no more places of a call than a few.
func TestOneUserTakesSomePlaces(t *testing.T) {
	f, base := newTestFocus(t)
	f.admit = &strictHouse{}
	for n := range maxSessions {
		if _, got := enters(t, base, seatToken(t, "@eve:x", id.DeviceID(fmt.Sprint("D", n)), false, 0)); got != 0 {
			t.Fatalf("session %d: got %d, want a welcome", n, got)
		}
	}
	token := seatToken(t, "@eve:x", "E", false, 0)
	if _, got := enters(t, base, token); got != http.StatusServiceUnavailable {
		t.Errorf("one session more: got %d, want 503", got)
	}
	resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + "/rtc/validate?" + url.Values{"access_token": {token}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || string(text) != errSessions.Error() {
		t.Errorf("asked why: got %d %q, want 503 %q", resp.StatusCode, text, errSessions)
	}
	if _, got := enters(t, base, seatToken(t, "@eve:x", "D3", false, 0)); got != 0 {
		t.Errorf("in place of one of them: got %d, want a welcome", got)
	}
	if _, got := enters(t, base, seatToken(t, "@ann:x", "D", false, 0)); got != 0 {
		t.Errorf("another user: got %d, want a welcome", got)
	}
}
