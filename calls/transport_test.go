package calls

import (
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestALateWordOfAConnection: that a connection was gone, heard when it stands again, ends nobody, and that it was on its way does not
// make it one that never stood.
func TestALateWordOfAConnection(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	ann.wait("its connection", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_ACTIVE) })
	p := participantOf(f, "ann")
	type standing struct {
		up    bool
		grace time.Time
	}
	for _, late := range []webrtc.PeerConnectionState{webrtc.PeerConnectionStateConnecting, webrtc.PeerConnectionStateDisconnected} {
		after := make(chan standing, 1)
		p.do(func() {
			p.transportTold(p.carrier(), late)
			p.do(func() { after <- standing{p.transportUp(), p.graceEnds} })
		})
		if got := <-after; !got.up || !got.grace.IsZero() {
			t.Errorf("after a late %q the connection stands: %v, given up at %v; want it to stand", late, got.up, got.grace)
		}
	}
}

// TestCountingWhileAConnectionStarts is for the race detector: how much has come is asked each second, whatever goes on.
func TestCountingWhileAConnectionStarts(t *testing.T) {
	f, base := newTestFocus(t)
	for range 5 {
		ann := join(t, base, "room", "ann")
		p := participantOf(f, "ann")
		came := make(chan uint64, 1)
		for deadline, n := time.Now().Add(patience), uint64(0); n == 0; {
			p.do(func() { came <- p.received() })
			if n = <-came; time.Now().After(deadline) {
				t.Fatal("nothing has come from a client that is there")
			}
		}
		ann.ws.Close()
	}
}

// participantOf is who has this identity in the tests' room.
func participantOf(f *Focus, identity string) *Participant {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rooms["room"].find(identity)
}
