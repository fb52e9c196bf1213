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
	f.mu.Lock()
	p := f.rooms["room"].find("ann")
	f.mu.Unlock()
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
