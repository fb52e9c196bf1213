package calls

import (
	"time"

	"chancery/calls/signal"
)

// ordeal is what a client has asked us to do to it at its next resume, to test itself.
type ordeal struct {
	cutBefore, cutAfter bool
}

// unheard closes c without a word, if that was asked for.
func (o *ordeal) unheard(c *signal.Conn) bool {
	cut := o.cutBefore
	if o.cutBefore = false; cut {
		c.Close()
	}
	return cut
}

// resumed closes c after its first message, if that was asked for.
func (o *ordeal) resumed(c *signal.Conn) bool {
	cut := o.cutAfter
	if o.cutAfter = false; cut {
		c.Close()
	}
	return cut
}

const longestSpeech = 30 // seconds that a client may be shown as speaking

// mostSimulated is a line that is as good as open, in bits per second.
const mostSimulated = 1 << 30

// onSimulate serves the scenarios by which clients test themselves.
func (p *Participant) onSimulate(m *signal.Simulate) {
	switch s := m.Scenario.(type) {
	case *signal.Simulate_SpeakerUpdate:
		until := time.Now().Add(time.Duration(min(max(s.SpeakerUpdate, 0), longestSpeech)) * time.Second)
		p.room.do(func() { p.room.pretend(p, until) })
	case *signal.Simulate_NodeFailure:
		p.stop(ending{reason: signal.DisconnectReason_SIGNAL_CLOSE, silent: true}) // as if we were gone
	case *signal.Simulate_Migration:
		p.send(&signal.Response{Message: &signal.Response_Leave{Leave: &signal.Leave{
			Reason: signal.DisconnectReason_MIGRATION, Action: signal.Leave_RESUME, CanReconnect: true,
		}}})
	case *signal.Simulate_ServerLeave:
		p.end(signal.DisconnectReason_SERVER_SHUTDOWN, signal.Leave_DISCONNECT)
	case *signal.Simulate_SwitchCandidateProtocol:
		if wanted := road(s.SwitchCandidateProtocol); wanted != relayRoad || p.room.focus.relays() {
			p.room.focus.roads.set(p, wanted)
		}
	case *signal.Simulate_SubscriberBandwidth:
		if p.link != nil { // until it says 0, or has joined anew
			p.link.SetMost(int(min(max(s.SubscriberBandwidth, 0), mostSimulated)))
		}
	case *signal.Simulate_DisconnectSignalOnResume:
		p.ordeal.cutAfter = true
	case *signal.Simulate_DisconnectSignalOnResumeNoMessages:
		p.ordeal.cutBefore = true
	case *signal.Simulate_LeaveRequestFullReconnect:
		p.send(&signal.Response{Message: &signal.Response_Leave{Leave: &signal.Leave{
			Reason: signal.DisconnectReason_CLIENT_INITIATED, Action: signal.Leave_RECONNECT, CanReconnect: true,
		}}})
	}
}
