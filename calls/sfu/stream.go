package sfu

import (
	"encoding/binary"
	"io"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v4/packetio"

	"chancery/calls/packet"
)

// rtpStream is one SSRC of a publisher, deciphered by Pion or by the wire. Until somebody knows whose its packets are they wait
// for Pion to read them; from then on they go to their layer at once, in the goroutine that deciphered them.
type rtpStream struct {
	in      *incoming
	ssrc    uint32
	born    int32 // which of the peer's streams it is
	waiting *waiting

	named atomic.Pointer[streamName] // nil until the client has said whose it is
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

// Close is called when Pion's receiver stops. Should the client send the same stream again, Pion meets it anew.
func (s *rtpStream) Close() error {
	s.in.mu.Lock()
	if s.in.rtp[s.ssrc] == s {
		delete(s.in.rtp, s.ssrc)
	}
	s.in.mu.Unlock()
	s.owner.Store(nil)
	s.in.waits.Add(-int64(s.waiting.close()))
	return nil
}

// Read gives Pion what waits, and waits itself until there is something.
func (s *rtpStream) Read(b []byte) (int, error) {
	for {
		p, closed := s.waiting.next()
		if p != nil {
			s.in.waits.Add(-int64(len(p) + waitCost))
			if len(p) > len(b) {
				return copy(b, p), io.ErrShortBuffer
			}
			return copy(b, p), nil
		}
		if closed {
			return 0, io.EOF
		}
		<-s.waiting.more
	}
}

// Write takes a packet that Pion has deciphered. Its bytes are the caller's, who has no more use for what is in them.
func (s *rtpStream) Write(b []byte) (int, error) {
	now := time.Now()
	if !s.take(b, now, nil) {
		s.in.arrivals.early(s.ssrc, b, now)
		if !s.in.names.amend(b) {
			return len(b), nil
		}
		if s.named.Load() == nil {
			s.named.Store(s.in.names.of(b))
		}
		return s.wait(b, now)
	}
	return len(b), nil
}

// wait keeps a packet for Pion. What there is no room for is dropped.
func (s *rtpStream) wait(b []byte, now time.Time) (int, error) {
	size := len(b) + waitCost
	if !s.in.reserve(size, now) {
		return 0, packetio.ErrFull
	}
	if err := s.waiting.put(b, now); err != nil {
		s.in.waits.Add(-int64(size))
		return 0, err
	}
	return len(b), nil
}

// take hands a packet to whose it is; false if that is not known yet. out takes what subscribers get of it; nil: it leaves by itself.
func (s *rtpStream) take(b []byte, now time.Time, out *outbox) bool {
	o := s.owner.Load()
	if o == nil {
		return false
	}
	if o.noted != nil {
		s.in.arrivals.note(o.noted, b, now)
	}
	if o.repair {
		var ok bool
		if b, ok = original(b); !ok {
			return true
		}
	}
	l := o.layer
	l.reading.Lock()
	l.in.out = out
	l.receive(b, now)
	l.in.out = nil
	l.reading.Unlock()
	return true
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
