package calls

import (
	"encoding/json"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// transport is one peer connection of a participant. In single mode there is one, named PUBLISHER to the client.
type transport struct {
	pc     *sfu.Peer
	target signal.Target
	state  webrtc.PeerConnectionState
	held   *webrtc.ICECandidate // of ours, not yet sent
	count  int                  // candidates of the client since its last description
	stood  bool                 // at least once
	early  int                  // bytes of the client's descriptions before
}

// newTransport makes a peer connection whose news come to p.
func (p *Participant) newTransport(target signal.Target) (*transport, error) {
	pc, err := p.room.focus.engine.NewPeer()
	if err != nil {
		return nil, err
	}
	t := &transport{pc: pc, target: target}
	pc.OnICECandidate(func(c *webrtc.ICECandidate) { p.do(func() { p.sendCandidate(t, c) }) })
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) { p.transportTold(t, s) })
	pc.OnTrack(func(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
		mid := midOf(pc, receiver)
		p.do(func() { p.onMedia(remote, receiver, mid) })
	})
	pc.OnDataChannel(p.onDataChannel)
	return t, nil
}

func midOf(pc *sfu.Peer, receiver *webrtc.RTPReceiver) string {
	for _, t := range pc.GetTransceivers() {
		if t.Receiver() == receiver {
			return t.Mid()
		}
	}
	return ""
}

// received counts packets and pings that have come from the client on the pair in use.
func (t *transport) received() uint64 {
	if t == nil || t.pc.ConnectionState() == webrtc.PeerConnectionStateNew { // Pion may be about to start it, and takes no question meanwhile
		return 0
	}
	pair, ok := t.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePairStats()
	if !ok {
		return 0
	}
	return t.pc.Received() + uint64(pair.PacketsReceived) + pair.RequestsReceived + pair.ResponsesReceived
}

func (t *transport) close() {
	if t != nil {
		_ = t.pc.Close() // nothing is left to be done about it
	}
}

// sendCandidate trickles one of our own candidates, each when the next is known, so that the last one can say that it is.
func (p *Participant) sendCandidate(t *transport, c *webrtc.ICECandidate) {
	if c != nil && !p.road.leads(c) {
		return
	}
	before := t.held
	t.held = c
	if before == nil {
		return
	}
	init, err := json.Marshal(before.ToJSON())
	if err != nil {
		p.log.Error().Err(err).Msg("Candidate not encoded")
		return
	}
	p.send(&signal.Response{Message: &signal.Response_Trickle{Trickle: &signal.Trickle{CandidateInit: string(init), Target: t.target, Final: c == nil}}})
}

// onTrickle counts a client's candidates and takes none of them: the focus is reached, it does not reach out. Clients
// know our candidates and begin; where they are shows in their checks, which carry the password of this session. So no
// candidate makes us send anything to an address of the client's choice.
func (p *Participant) onTrickle(m *signal.Trickle) {
	t := p.pub
	if m.Target == signal.Target_SUBSCRIBER && !p.single {
		t = p.sub
	}
	if t.count++; t.count > maxCandidates || len(m.CandidateInit) > maxCandidate {
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_DISCONNECT)
	}
}

// carrier is the transport that carries what p subscribes to, and whose state is the session's.
func (p *Participant) carrier() *transport {
	if p.single {
		return p.pub
	}
	return p.sub
}

// transportUp says whether all that the client has stands. A publisher's connection that was never used does not count.
func (p *Participant) transportUp() bool {
	return p.carrier().state == webrtc.PeerConnectionStateConnected && !p.pub.ailing()
}

// ailing says that a connection stood, or should, and does not.
func (t *transport) ailing() bool {
	return t.state == webrtc.PeerConnectionStateDisconnected || t.state == webrtc.PeerConnectionStateFailed
}

func (p *Participant) transportClosed() bool {
	s := p.carrier().state
	return s == webrtc.PeerConnectionStateClosed || s == webrtc.PeerConnectionStateFailed
}

// transportTold hears of a peer connection's life. Pion says each state in a goroutine of its own, so that on a busy machine an older
// word may come last: what is counts, not what was said.
func (p *Participant) transportTold(t *transport, _ webrtc.PeerConnectionState) {
	p.do(func() { p.transportChanged(t, t.pc.ConnectionState()) })
}

// transportChanged follows a peer connection's life.
func (p *Participant) transportChanged(t *transport, s webrtc.PeerConnectionState) {
	t.state = s
	switch s {
	case webrtc.PeerConnectionStateConnecting:
		if t == p.carrier() {
			p.connecting()
		}
	case webrtc.PeerConnectionStateConnected:
		t.stood = true
		if p.transportUp() {
			p.graceEnds = time.Time{}
		}
		if t == p.carrier() {
			p.connected()
		}
		p.stood()
	case webrtc.PeerConnectionStateDisconnected, webrtc.PeerConnectionStateFailed:
		p.startGrace(p.room.focus.config.Grace)
	case webrtc.PeerConnectionStateClosed:
		// The client's end said so, by its DTLS alert: it has closed its page, or is about to join anew.
		p.stop(ending{reason: signal.DisconnectReason_SIGNAL_CLOSE, action: signal.Leave_RECONNECT})
	}
}
