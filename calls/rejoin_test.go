package calls

import (
	"net/url"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chancery/calls/signal"
)

// TestWhoJoinsAnewIsNotToldTooEarly: a client of the kind that forgets what it hears in the first seconds after it has joined anew
// hears of newcomers when these are over; of who leaves, and all that others do, it is told at once.
func TestWhoJoinsAnewIsNotToldTooEarly(t *testing.T) {
	_, base := newTestFocus(t)
	enter := func(identity, sdk string, again bool) (*websocket.Conn, *signal.Joined) {
		token := testToken(t, "room", identity, func(c *Claims) { c.Again = again })
		ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {token}, "sdk": {sdk}, "auto_subscribe": {"1"}})
		first, err := readResponse(ws)
		if err != nil || first.GetJoin() == nil {
			t.Fatalf("%s: got %v, %v, want join", identity, first, err)
		}
		return ws, first.GetJoin()
	}
	// hears says when ws was told of identity with that state, for the first time.
	hears := func(ws *websocket.Conn, identity string, state signal.Participant_State) time.Time {
		t.Helper()
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		for {
			res, err := readResponse(ws)
			if err != nil {
				t.Fatalf("not told of %s: %v", identity, err)
			}
			if mentions(res, identity, state) {
				return time.Now()
			}
		}
	}
	for _, c := range []struct {
		name, sdk string
		again     bool
		late      bool
	}{
		{"livekit-client, anew", "js", true, true},
		{"livekit-client, for the first time", "js", false, false},
		{"another client, anew", "go", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			there, _ := enter("there "+c.name, "js", false)
			ann, joined := enter("ann "+c.name, c.sdk, c.again)
			begun := time.Now()
			if n := len(joined.OtherParticipants); n == 0 {
				t.Errorf("the welcome tells of %d others, want those who were there", n)
			}
			frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Ping{Ping: 7}}, false)
			if err == nil {
				err = ann.WriteMessage(websocket.BinaryMessage, frame)
			}
			if err != nil {
				t.Fatal(err)
			}
			enter("bob "+c.name, "js", false)
			if leave, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}}, false); err != nil || there.WriteMessage(websocket.BinaryMessage, leave) != nil {
				t.Fatal("leave not said")
			}
			if c.late {
				if took := hears(ann, "there "+c.name, signal.Participant_DISCONNECTED).Sub(begun); took > deafFor/2 {
					t.Errorf("told of who left after %v, want at once", took)
				}
			}
			took := hears(ann, "bob "+c.name, signal.Participant_JOINED).Sub(begun)
			if (took >= deafFor) != c.late || took > deafMost+time.Second {
				t.Errorf("told of a newcomer after %v, want that to be late: %v", took, c.late)
			}
		})
	}
}
