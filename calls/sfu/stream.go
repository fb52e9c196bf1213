package sfu

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v4/packetio"

	"chancery/calls/packet"
)

// rtpStream is where Pion writes the deciphered packets of one SSRC. Until somebody knows whose they are Pion reads them
// from the buffer; from then on they go to their layer at once, in the goroutine that deciphered them.
type rtpStream struct {
	*packetio.Buffer
	in   *incoming
	ssrc uint32

	owner atomic.Pointer[owner]
}

// owner is whose packets they are.
type owner struct {
	layer  *Layer
	repair bool // it brings lost packets of the layer again (RFC 4588)
	noted  *arriving
}

// give lets the stream's packets go to l.
func (s *rtpStream) give(l *Layer, repair bool) {
	s.owner.Store(&owner{layer: l, repair: repair, noted: s.in.arrivals.stream(s.ssrc)})
}

// Write takes a packet. Its bytes are the caller's, who has no more use for what is in them.
func (s *rtpStream) Write(b []byte) (int, error) {
	o := s.owner.Load()
	if o == nil {
		return s.Buffer.Write(b)
	}
	now := time.Now()
	if o.noted != nil {
		s.in.arrivals.note(o.noted, b, now)
	}
	whole := len(b)
	if o.repair {
		var ok bool
		if b, ok = original(b); !ok {
			return whole, nil
		}
	}
	l := o.layer
	l.reading.Lock()
	l.receive(b, now)
	l.reading.Unlock()
	return whole, nil
}

// original turns a packet of a repair stream into the one that was lost, in place. It is false for mere padding.
func original(b []byte) ([]byte, bool) {
	h, ok := packet.ParseHeader(b)
	if !ok || h.End-h.Payload < 2 {
		return nil, false
	}
	number := binary.BigEndian.Uint16(b[h.Payload:])
	copy(b[2:h.Payload+2], b[:h.Payload])
	b = b[2:]
	binary.BigEndian.PutUint16(b[2:], number)
	return b, true
}
