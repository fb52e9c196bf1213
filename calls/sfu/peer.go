package sfu

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/transport/v4/packetio"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// Peer is one peer connection. Its RTCP does not wait for a reader in each track: it is handled as it comes in, by the
// goroutine that deciphered it.
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
	settings := e.settings
	settings.BufferFactory = in.buffer
	registry := &interceptor.Registry{}
	registry.Add(in)
	api := webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(e.media), webrtc.WithInterceptorRegistry(registry))
	pc, err := api.NewPeerConnection(webrtc.Configuration{
		BundlePolicy: webrtc.BundlePolicyMaxBundle, Certificates: certificates,
	})
	if err != nil {
		return nil, err
	}
	in.excess = func() { _ = pc.Close() } // its participant leaves with it
	return &Peer{PeerConnection: pc, engine: e, in: in}, nil
}

// NewUpTrack makes a track for what the peer publishes. Close ends it.
func (p *Peer) NewUpTrack(video bool, sizes [MaxLayers]Size) *UpTrack {
	return newUpTrack(p.engine, p, p.in, video, sizes)
}

// NewDownlink makes the road to the peer as a subscriber.
func (p *Peer) NewDownlink(cfg LinkConfig) *Downlink {
	return newDownlink(p.engine, p, p.in, cfg)
}

// incoming knows whom a peer's RTCP is for. A nil one knows nobody.
type incoming struct {
	arrivals *arrivals

	excess  func()       // is called for a peer that speaks of too many streams
	streams atomic.Int32 // how many it has spoken of

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

func (in *incoming) find(ssrc uint32) (*Layer, *DownTrack) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.layers[ssrc], in.downs[ssrc]
}

const (
	streamBuffer = 256 << 10 // may wait to be read of one RTP stream
	maxStreams   = 4096      // that a peer may ever speak of: a call of hundreds, many times over
)

// buffer is Pion's: one for each SSRC that RTP or RTCP speaks of.
func (in *incoming) buffer(kind packetio.BufferPacketType, ssrc uint32) io.ReadWriteCloser {
	if in.streams.Add(1) == maxStreams+1 {
		go in.excess()
	}
	if kind == packetio.RTCPBufferPacket {
		return &rtcpStream{in: in, ssrc: ssrc, closed: make(chan struct{})}
	}
	s := &rtpStream{Buffer: packetio.NewBuffer(), in: in, ssrc: ssrc}
	s.SetLimitSize(streamBuffer)
	in.mu.Lock()
	in.rtp[ssrc] = s
	in.mu.Unlock()
	return s
}

// give lets the packets of an SSRC go to l at once. It is false while Pion has not heard of the SSRC.
func (in *incoming) give(ssrc uint32, l *Layer, repair bool) bool {
	if in == nil {
		return true
	}
	in.mu.RLock()
	s := in.rtp[ssrc]
	in.mu.RUnlock()
	if s == nil || repair && in.arrivals.stream(ssrc) == nil {
		return false
	}
	s.give(l, repair)
	return true
}

// rtcpStream takes the compounds that speak of one SSRC. Nobody reads it.
type rtcpStream struct {
	in      *incoming
	ssrc    uint32
	scratch []byte // for repairs; most subscribers never need it
	once    sync.Once
	closed  chan struct{}
}

// Write handles what a compound says of the SSRC; the same compound comes to each SSRC that it speaks of.
func (s *rtcpStream) Write(b []byte) (int, error) {
	layer, down := s.in.find(s.ssrc)
	for rest := b; ; {
		p, next, ok := packet.NextRTCP(rest)
		if !ok {
			return len(b), nil
		}
		rest = next
		switch {
		case p.Type == packet.SenderReport && len(p.Body) >= 24 && binary.BigEndian.Uint32(p.Body) == s.ssrc:
			now := time.Now()
			s.in.arrivals.noteReport(p.Body, now)
			if layer != nil {
				layer.noteReport(p.Body, now)
			}
		case down != nil:
			s.feedback(down, p)
		}
	}
}

// feedback gives a down track what concerns it.
func (s *rtcpStream) feedback(d *DownTrack, p packet.RTCP) {
	switch p.Type {
	case packet.TransportFeedback, packet.PayloadFeedback:
		if len(p.Body) < 8 || binary.BigEndian.Uint32(p.Body[4:]) != s.ssrc && p.Format != formatFIR {
			return
		}
		if p.Type == packet.TransportFeedback && p.Format == packet.FormatTransportCC {
			d.link.transportFeedback(p.Body)
			return
		}
	case packet.ReceiverReport:
	default:
		return
	}
	packets, err := rtcp.Unmarshal(p.All)
	if err != nil {
		return // one bad packet of a subscriber harms nobody
	}
	for _, one := range packets {
		if _, nack := one.(*rtcp.TransportLayerNack); nack && s.scratch == nil {
			s.scratch = make([]byte, receiveMTU+2)
		}
		d.feedback(one, s.ssrc, s.scratch)
	}
}

const formatFIR = 4 // names its stream further behind (RFC 5104, section 4.3.1)

// Read waits for the end.
func (s *rtcpStream) Read([]byte) (int, error) {
	<-s.closed
	return 0, io.EOF
}

// Close ends Read.
func (s *rtcpStream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// SetReadDeadline is asked for by Pion, and of no use where nobody reads.
func (s *rtcpStream) SetReadDeadline(time.Time) error { return nil }
