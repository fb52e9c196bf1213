package calls

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"chancery/calls/signal"
)

// faultyAdmission fails, once it is told to, at every question about ann but the first, which the door asks.
type faultyAdmission struct {
	admission
	fails atomic.Bool
	asked atomic.Int32
}

func (a *faultyAdmission) admit(ctx context.Context, c *Claims) (ruling, error) {
	if a.fails.Load() && c.Subject == "ann" && a.asked.Add(1) > 1 {
		panic("a fault of the test")
	}
	return a.admission.admit(ctx, c)
}

// TestAFaultEndsItsParticipantOnly: wherever in a participant's life something fails, it goes alone.
func TestAFaultEndsItsParticipantOnly(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(t *testing.T, f *Focus, base string)
	}{
		{"its first work", func(t *testing.T, f *Focus, _ string) {
			beginFaulty(t, f)
		}},
		{"its goodbye", func(t *testing.T, f *Focus, base string) {
			p := join(t, base, "room", "ann").session(f)
			within(t, p, func() { p.published["none"] = nil })
			p.end(signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT)
		}},
		{"a question whether it may be here", func(t *testing.T, f *Focus, base string) {
			f.admit.(*faultyAdmission).fails.Store(true)
			join(t, base, "room", "ann")
		}},
		{"its data", func(t *testing.T, f *Focus, base string) {
			ann := joinData(t, base, "ann")
			p := ann.session(f)
			within(t, p, func() { p.data.in = nil; p.data.may.Store(true) })
			ann.send(ann.reliable, 1, 10)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t)
			f.admit = &faultyAdmission{admission: f.admit}
			bob := join(t, base, "room", "bob")
			c.fault(t, f, base)
			bob.wait("ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
			bob.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
			bob.wait("a pong", func(res *signal.Response) bool { return res.GetPongResp().GetLastPingTimestamp() == 7 })
		})
	}
}

// beginFaulty lets ann in, who asks for what cannot be said on the wire: a track that is none.
func beginFaulty(t *testing.T, f *Focus) {
	t.Helper()
	begun := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := signal.Accept(w, r, signal.Limits{})
		if err == nil {
			claims := &Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "ann"}, Video: Grant{Room: "room", RoomJoin: true}}
			err = newParticipant(theRoom(t, f), &entry{claims: claims, join: &signal.Join{AddTrackRequests: []*signal.AddTrack{nil}}, ruling: unbound}).begin(conn)
		}
		begun <- err
	}))
	t.Cleanup(srv.Close)
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	for {
		res, err := readResponse(ws)
		if err != nil {
			t.Fatalf("got %v, want a word that sends ann away", err)
		}
		if leave := res.GetLeave(); leave != nil {
			if leave.Action != signal.Leave_RECONNECT {
				t.Errorf("got %v, want leave to reconnect", leave)
			}
			return
		}
	}
}
