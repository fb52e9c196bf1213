package calls

import (
	"encoding/json"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// transport is one peer connection of a participant. In single mode there is one, named PUBLISHER to the client.
type transport struct {
	pc         *webrtc.PeerConnection
	target     signal.Target
	state      webrtc.PeerConnectionState
	candidates []webrtc.ICECandidateInit // came before the description that they belong to
	count      int
	reliable   *webrtc.DataChannel
	lossy      *webrtc.DataChannel
}

// newTransport makes a peer connection whose news come to p.
func (p *Participant) newTransport(target signal.Target) (*transport, error) {
	pc, err := p.room.focus.engine.NewPeer()
	if err != nil {
		return nil, err
	}
	t := &transport{pc: pc, target: target}
	pc.OnICECandidate(func(c *webrtc.ICECandidate) { p.do(func() { p.sendCandidate(t, c) }) })
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) { p.do(func() { p.transportChanged(t, s) }) })
	pc.OnTrack(func(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
		mid := midOf(pc, receiver)
		p.do(func() { p.onMedia(remote, receiver, mid) })
	})
	pc.OnDataChannel(func(c *webrtc.DataChannel) { p.do(func() { p.onDataChannel(t, c) }) })
	return t, nil
}

func midOf(pc *webrtc.PeerConnection, receiver *webrtc.RTPReceiver) string {
	for _, t := range pc.GetTransceivers() {
		if t.Receiver() == receiver {
			return t.Mid()
		}
	}
	return ""
}

func (t *transport) close() {
	if t != nil {
		_ = t.pc.Close() // nothing is left to be done about it
	}
}

// sendCandidate trickles one of our own candidates. The client takes no empty one: the end is not announced.
func (p *Participant) sendCandidate(t *transport, c *webrtc.ICECandidate) {
	if c == nil {
		return
	}
	init, err := json.Marshal(c.ToJSON())
	if err != nil {
		p.log.Error().Err(err).Msg("Candidate not encoded")
		return
	}
	p.send(&signal.Response{Message: &signal.Response_Trickle{Trickle: &signal.Trickle{CandidateInit: string(init), Target: t.target}}})
}

// onTrickle takes one of the client's candidates.
func (p *Participant) onTrickle(m *signal.Trickle) {
	t := p.pub
	if m.Target == signal.Target_SUBSCRIBER && !p.single {
		t = p.sub
	}
	var c webrtc.ICECandidateInit
	if t == nil || m.CandidateInit == "" || json.Unmarshal([]byte(m.CandidateInit), &c) != nil || c.Candidate == "" {
		return
	}
	if t.count++; t.count > maxCandidates {
		return
	}
	if t.pc.RemoteDescription() == nil {
		t.candidates = append(t.candidates, c)
		return
	}
	p.addCandidate(t, c)
}

func (p *Participant) addCandidate(t *transport, c webrtc.ICECandidateInit) {
	if err := t.pc.AddICECandidate(c); err != nil {
		p.log.Debug().Err(err).Msg("Candidate not taken")
	}
}

// described is called when the client's description has been set: what came early is taken now.
func (p *Participant) described(t *transport) {
	early := t.candidates
	t.candidates, t.count = nil, len(early)
	for _, c := range early {
		p.addCandidate(t, c)
	}
}

// carrier is the transport that carries what p subscribes to, and whose state is the session's.
func (p *Participant) carrier() *transport {
	if p.single {
		return p.pub
	}
	return p.sub
}

func (p *Participant) transportUp() bool {
	return p.carrier().state == webrtc.PeerConnectionStateConnected
}

func (p *Participant) transportClosed() bool {
	s := p.carrier().state
	return s == webrtc.PeerConnectionStateClosed || s == webrtc.PeerConnectionStateFailed
}

// transportChanged follows a peer connection's life.
func (p *Participant) transportChanged(t *transport, s webrtc.PeerConnectionState) {
	t.state = s
	if t != p.carrier() {
		return
	}
	switch s {
	case webrtc.PeerConnectionStateConnected:
		p.graceEnds = time.Time{}
		p.connected()
	case webrtc.PeerConnectionStateDisconnected, webrtc.PeerConnectionStateFailed:
		p.startGrace(p.room.focus.config.Grace)
	case webrtc.PeerConnectionStateClosed:
		// The client's end said so, by its DTLS alert: it has closed its page, or is about to join anew.
		p.stop(ending{reason: signal.DisconnectReason_SIGNAL_CLOSE, action: signal.Leave_RECONNECT})
	}
}
