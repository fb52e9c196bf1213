package calls

import (
	"net/url"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chancery/calls/signal"
)

// resumes comes back with another socket, in place of one that was lost, and gives it when it has brought the first word.
func (c *testClient) resumes(base string) *websocket.Conn {
	c.t.Helper()
	self := c.joined.Participant
	ws := dialSocket(c.t, base, "/rtc", url.Values{"access_token": {testToken(c.t, "room", self.Identity)}, "reconnect": {"1"}, "sid": {self.Sid}})
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if first, err := readResponse(ws); err != nil || first.GetReconnect() == nil {
		c.t.Fatalf("got %v, %v, want reconnect first", first, err)
	}
	return ws
}

// TestAMuteThatWasLostIsToldFirst: whoever resumes and sees its own track muted takes that for a slip of the focus, and unmutes it, unless it
// has heard of the mute.
func TestAMuteThatWasLostIsToldFirst(t *testing.T) {
	for _, c := range []struct {
		name string
		mute func(p *Participant, sid string)
	}{
		{"by a moderator", func(p *Participant, sid string) { p.muteByAdmin(sid) }},
		{"by the room", func(p *Participant, _ string) { v := unbound; v.mute = true; p.obey(v) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t)
			ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
			voice := ann.announces(&signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO}).Sid
			ann.publish("ann")
			bob.hears("ann")
			p := ann.session(f)
			ann.ws.Close()
			within(t, p, func() { c.mute(p, voice) })
			ws, told := ann.resumes(base), false
			for {
				res, err := readResponse(ws)
				if err != nil {
					t.Fatalf("no update: %v", err)
				}
				if m := res.GetMute(); m.GetSid() == voice && m.Muted {
					told = true
				}
				if mentions(res, "ann", signal.Participant_ACTIVE) {
					break
				}
			}
			if !told {
				t.Error("told of itself before the mute")
			}
		})
	}
}
