package sfu

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/pion/rtcp"

	"chancery/calls/packet"
)

// hear takes a deciphered compound. only is the SSRC that is meant, 0: all that it speaks of; scratch is where repairs are
// made, nil if there is none at hand. Of a compound, and of a peer, that says too much the rest is not heard.
func (in *incoming) hear(b []byte, only uint32, now time.Time, scratch []byte) {
	looks := looksTogether
	for rest := b; ; {
		p, next, ok := packet.NextRTCP(rest)
		if !ok {
			return
		}
		rest = next
		need := looksFor(p)
		if looks -= need; looks < 0 || !in.looks.take(time.Duration(need)*lookEvery, looksLent, now) {
			return
		}
		switch p.Type {
		case packet.SenderReport:
			if len(p.Body) < 24 {
				continue
			}
			if ssrc := binary.BigEndian.Uint32(p.Body); only == 0 || ssrc == only {
				in.arrivals.noteReport(p.Body, now)
				if layer, _ := in.find(ssrc); layer != nil {
					layer.noteReport(p.Body, now)
				}
			}
			if p.Format > 0 {
				in.tell(p, only, scratch)
			}
		case packet.ReceiverReport, packet.PayloadFeedback:
			in.tell(p, only, scratch)
		case packet.TransportFeedback:
			if p.Format != packet.FormatTransportCC {
				in.tell(p, only, scratch)
			} else if len(p.Body) >= 8 {
				if ssrc := binary.BigEndian.Uint32(p.Body[4:]); only == 0 || ssrc == only {
					if _, down := in.find(ssrc); down != nil {
						down.link.transportFeedback(p.Body)
					}
				}
			}
		}
	}
}

// looksFor is what it takes to hear a packet of RTCP: a look for each packet of ours that it speaks of, which a few bytes can do of thousands, and
// some for itself. One takes some ten nanoseconds.
func looksFor(p packet.RTCP) int {
	switch {
	case p.Type != packet.TransportFeedback:
	case p.Format == packet.FormatTransportCC:
		return looksAlone + packet.TransportCCPackets(p.Body)
	case p.Format == packet.FormatNack:
		return looksAlone + len(p.Body)/4*packetsOfNack
	}
	return looksAlone + len(p.Body)/4
}

const (
	looksAlone    = 64
	packetsOfNack = 17 // that a pair asks for
	looksTogether = 8192
	// lookEvery is how often a peer may have us look in the long run: so that one to whom seven hundred pictures are sent is heard in all, while
	// every tenth packet is lost on its way.
	lookEvery = 4 * time.Microsecond
	looksLent = time.Second // of them, that may be taken at once
)

// tell gives the down tracks what concerns them.
func (in *incoming) tell(p packet.RTCP, only uint32, scratch []byte) {
	packets, err := rtcp.Unmarshal(p.All)
	if err != nil {
		return // one bad packet of a subscriber harms nobody
	}
	for _, one := range packets {
		for _, ssrc := range one.DestinationSSRC() {
			_, down := in.find(ssrc)
			if down == nil || only != 0 && ssrc != only {
				continue
			}
			if _, nack := one.(*rtcp.TransportLayerNack); nack && scratch == nil {
				scratch = make([]byte, receiveMTU+2)
			}
			down.feedback(one, ssrc, scratch)
		}
	}
}

// rtcpStream takes the compounds that Pion deciphers, once for each SSRC that they speak of. Nobody reads it.
type rtcpStream struct {
	in     *incoming
	ssrc   uint32
	once   sync.Once
	closed chan struct{}
}

// Write handles what a compound says of the SSRC.
func (s *rtcpStream) Write(b []byte) (int, error) {
	s.in.hear(b, s.ssrc, time.Now(), nil)
	return len(b), nil
}

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
