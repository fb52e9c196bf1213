package calls

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protowire"

	"chancery/calls/signal"
)

// TestFramesThatAreNotTaken: a frame that is too large, or text, closes its socket at once. Neither it nor what comes after it is obeyed, and the
// session waits for its client.
func TestFramesThatAreNotTaken(t *testing.T) {
	rename, err := signal.Encode(&signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Name: "Anna"}}})
	if err != nil {
		t.Fatal(err)
	}
	padded := func(n int) []byte { // by a field that nobody knows
		return protowire.AppendBytes(protowire.AppendTag(slices.Clone(rename), 1000, protowire.BytesType), make([]byte, n))
	}
	for _, c := range []struct {
		name  string
		kind  int
		frame []byte
		taken bool
	}{
		{"a large frame", websocket.BinaryMessage, padded(signal.FrameBytes / 2), true},
		{"a giant frame", websocket.BinaryMessage, padded(signal.FrameBytes), false},
		{"text", websocket.TextMessage, rename, false},
		{"text that is none", websocket.TextMessage, []byte("{}"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t, func(c *Config) { c.Grace = time.Minute })
			ann := join(t, base, "room", "ann")
			p := ann.session(f)
			ann.saying.Lock()
			for _, m := range []struct {
				kind  int
				frame []byte
			}{{c.kind, c.frame}, {websocket.BinaryMessage, rename}} {
				_ = ann.ws.WriteMessage(m.kind, m.frame) // a closed socket shows below
			}
			ann.saying.Unlock()
			ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
			if answered := ann.answered(); answered != c.taken {
				t.Errorf("a ping after it answered: %v, want %v", answered, c.taken)
			}
			var name string
			within(t, p, func() { name = p.info.Name })
			if (name == "Anna") != c.taken {
				t.Errorf("got the name %q, want it changed: %v", name, c.taken)
			}
			again := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", "ann")}, "reconnect": {"1"}, "sid": {p.sid}})
			if res, err := readResponse(again); err != nil || res.GetReconnect() == nil {
				t.Errorf("at the resume: got %v, %v, want the session", res, err)
			}
		})
	}
}

// answered waits for a pong; false: the socket is closed instead.
func (c *testClient) answered() bool {
	c.t.Helper()
	for timeout := time.After(5 * time.Second); ; { // a silent socket is closed much later
		select {
		case res, open := <-c.said:
			if !open || res.GetPong() != 0 {
				return open
			}
		case <-timeout:
			c.t.Fatal("the socket gives no answer, and is not closed")
		}
	}
}
