package sfu

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/stun/v4"
	"github.com/pion/transport/v4/packetio"
	"github.com/pion/webrtc/v4"
)

// Peer is one peer connection. Its media go by its wire, past Pion. RTCP does not wait for a reader in each track: it is
// handled as it comes in, by the goroutine that deciphered it.
type Peer struct {
	*webrtc.PeerConnection
	engine *Engine
	in     *incoming
}

// NewPeer makes a peer connection without ICE servers of its own: the focus is reached, it does not reach out.
func (e *Engine) NewPeer() (*Peer, error) {
	certificates, err := e.certificate()
	if err != nil {
		return nil, err
	}
	in := newIncoming()
	in.wire = &wire{engine: e, incoming: in}
	settings := e.settings
	settings.BufferFactory = in.buffer
	(&keys{made: in.wire.key}).listen(&settings)
	settings.SetICEBindingRequestHandler(func(_ *stun.Message, _, remote ice.Candidate, _ *ice.CandidatePair) bool {
		e.ways.verified(remote, in.wire, time.Now())
		return false // Pion chooses the pair
	})
	settings.SetRemoteIPFilter(func(net.IP) bool { return in.newPlaces.take(newPlaceEvery, maxPlaces*newPlaceEvery, time.Now()) })
	registry := &interceptor.Registry{}
	registry.Add(in)
	api := webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(e.media), webrtc.WithInterceptorRegistry(registry))
	pc, err := api.NewPeerConnection(webrtc.Configuration{
		BundlePolicy: webrtc.BundlePolicyMaxBundle, Certificates: certificates,
	})
	if err != nil {
		return nil, err
	}
	transport := pc.SCTP().Transport()
	in.wire.pair = transport.ICETransport().GetSelectedCandidatePair
	transport.ICETransport().OnSelectedCandidatePairChange(in.wire.chosen)
	transport.OnStateChange(in.wire.shaken)
	peer := &Peer{PeerConnection: pc, engine: e, in: in}
	in.excess = func() { _ = peer.Close() } // its participant leaves with it
	return peer, nil
}

// SetRemoteDescription is Pion's, and takes note of how the peer numbers its packets. Formats that we do not forward are left out.
func (p *Peer) SetRemoteDescription(d webrtc.SessionDescription) error {
	var err error
	if d.SDP, err = onlyOurs(d.SDP); err != nil {
		return err
	}
	p.in.arrivals.expect(d.SDP)
	p.in.names.expect(d.SDP)
	return p.PeerConnection.SetRemoteDescription(d)
}

// Close closes the peer connection.
func (p *Peer) Close() error {
	p.engine.ways.forget(p.in.wire)
	return p.PeerConnection.Close()
}

// Received counts the packets of media and their reports that have come the short way.
func (p *Peer) Received() uint64 { return p.in.wire.received.Load() }

// NewUpTrack makes a track for what the peer publishes. Close ends it.
func (p *Peer) NewUpTrack(video bool, sizes [MaxLayers]Size) *UpTrack {
	return newUpTrack(p, p.in, video, sizes)
}

// NewDownlink makes the road to the peer as a subscriber.
func (p *Peer) NewDownlink(cfg LinkConfig) *Downlink {
	return newDownlink(p, p.in, cfg)
}

// incoming knows whom a peer's RTCP is for. A nil one knows nobody.
type incoming struct {
	arrivals *arrivals
	wire     *wire // nil in tests of the rest
	names    names

	newPlaces pace // from which the peer has shown that it is there
	looks     pace // that its reports have us take; see looksFor

	excess  func()       // is called for a peer that speaks of too many streams
	streams atomic.Int32 // how many it has spoken of
	waits   atomic.Int64 // what waits of its streams; see waiting
	cleared atomic.Int64 // when that was last thrown away for want of room, milliseconds

	mu     sync.RWMutex // guards the maps; held for a look
	layers map[uint32]*Layer
	downs  map[uint32]*DownTrack
	rtp    map[uint32]*rtpStream
}

func newIncoming() *incoming {
	return &incoming{arrivals: newArrivals(), layers: map[uint32]*Layer{}, downs: map[uint32]*DownTrack{}, rtp: map[uint32]*rtpStream{}}
}

// NewInterceptor gives Pion the only interceptor of this peer.
func (in *incoming) NewInterceptor(string) (interceptor.Interceptor, error) { return in.arrivals, nil }

func (in *incoming) addLayer(l *Layer) {
	if in != nil {
		in.mu.Lock()
		in.layers[l.ssrc] = l
		in.mu.Unlock()
	}
}

func (in *incoming) removeLayer(l *Layer) {
	if in != nil {
		in.mu.Lock()
		if in.layers[l.ssrc] == l {
			delete(in.layers, l.ssrc)
		}
		in.mu.Unlock()
	}
}

func (in *incoming) addDown(d *DownTrack, ssrcs ...uint32) {
	if in != nil {
		in.mu.Lock()
		for _, ssrc := range ssrcs {
			in.downs[ssrc] = d
		}
		in.mu.Unlock()
	}
}

func (in *incoming) removeDown(d *DownTrack) {
	if in != nil {
		in.mu.Lock()
		for ssrc, known := range in.downs {
			if known == d {
				delete(in.downs, ssrc)
			}
		}
		in.mu.Unlock()
	}
}

// road is the short way, or nil.
func (in *incoming) road() *wire {
	if in == nil {
		return nil
	}
	return in.wire
}

// stream is an RTP stream that Pion has met, or nil.
func (in *incoming) stream(ssrc uint32) *rtpStream {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.rtp[ssrc]
}

func (in *incoming) find(ssrc uint32) (*Layer, *DownTrack) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.layers[ssrc], in.downs[ssrc]
}

// A peer may be in so many places at first, and then in a new one so often. Of each Pion keeps a candidate, with a pair for each of ours, and looks
// through all of them for every check. Who comes from one too many is not answered there.
const (
	maxPlaces     = 64
	newPlaceEvery = time.Minute // for who wanders all day
)

const (
	maxStreams = 4096 // that a peer may ever speak of: a call of hundreds, many times over
	// maxSent is how many RTP streams of it there may be at once: five times what all its tracks in all their forms are. Pion keeps the first
	// packets of each of which it cannot find out whose it is.
	maxSent = 1024
)

// buffer is Pion's: one for each SSRC that RTP or RTCP speaks of.
func (in *incoming) buffer(kind packetio.BufferPacketType, ssrc uint32) io.ReadWriteCloser {
	born := in.streams.Add(1)
	if born == maxStreams+1 {
		go in.excess()
	}
	if kind == packetio.RTCPBufferPacket {
		return &rtcpStream{in: in, ssrc: ssrc, closed: make(chan struct{})}
	}
	s := &rtpStream{in: in, ssrc: ssrc, born: born, waiting: newWaiting()}
	in.mu.Lock()
	in.rtp[ssrc] = s
	sent := len(in.rtp)
	in.mu.Unlock()
	if sent == maxSent+1 {
		go in.excess()
	}
	return s
}

// give lets the packets of an SSRC go to l at once. It is false while Pion has not heard of the SSRC, and where it repairs another layer.
func (in *incoming) give(ssrc uint32, l *Layer, repair bool) bool {
	if in == nil {
		return true
	}
	s := in.stream(ssrc)
	if s == nil || repair && in.arrivals.stream(ssrc) == nil {
		return false
	}
	if o := s.owner.Load(); repair && o != nil && o.layer != l {
		return false
	}
	s.give(l, repair)
	return true
}
