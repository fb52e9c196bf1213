package sfu

import (
	"testing"

	"github.com/pion/rtp"
)

// bare is a packet of mere padding, as browsers send it to try how much their line carries.
func (v *stream) bare() *rtp.Packet {
	v.seq++
	return &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: v.seq, Timestamp: v.ts, Padding: true, PaddingSize: 9}}
}

// Padding of the publisher that a picture has overtaken leaves no hole behind: its number goes out with padding, and again if that is lost.
func TestLatePaddingLeavesNoHole(t *testing.T) {
	for _, c := range []struct {
		name string
		rtx  bool
	}{{"with a repair stream", true}, {"without", false}} {
		t.Run(c.name, func(t *testing.T) {
			s, v := newStage(t, 1), &stream{seq: 1}
			b := *s.down.binding.Load()
			if !c.rtx {
				b.rtx, b.rtxSSRC, b.sent = 0, 0, make([]sending, s.down.cached())
			}
			b.numbers = s.down.extension(3)
			s.down.binding.Store(&b)
			s.down.link.suspect() // every packet is numbered
			s.feed(t, 0, v.frame(true, 0, 2)...)
			s.feed(t, 0, v.bare()) // in time: nothing goes out
			late := v.bare()
			s.feed(t, 0, v.frame(false, 0, 1)...)
			number := s.out.packets[1].SequenceNumber + 1
			again := func() []rtp.Packet {
				before := len(s.out.packets)
				s.down.repair(number, 0, make([]byte, receiveMTU+2))
				return s.out.packets[before:]
			}
			if got := again(); len(got) != 0 {
				t.Errorf("got %v before it came, want nothing", got)
			}
			s.feed(t, 0, late)
			s.feed(t, 0, v.frame(false, 0, 1)...)
			if len(s.out.packets) != 5 {
				t.Fatalf("got %d packets, want 5", len(s.out.packets))
			}
			for i, ahead := range []uint16{0, 1, 3, 2, 4} {
				p := s.out.packets[i]
				if p.SequenceNumber != number+ahead-2 || p.SSRC != 7 || p.PayloadType != 120 || p.Padding != (i == 3) || len(p.Payload) > 0 == p.Padding {
					t.Errorf("packet %d: got %+v with %d bytes, want number %d", i, p.Header, len(p.Payload), number+ahead-2)
				}
			}
			sent, got := s.out.packets[3], again()
			switch {
			case len(got) != 1:
				t.Fatalf("got %d packets again, want 1", len(got))
			case c.rtx:
				if p := got[0]; p.SSRC != 8 || p.PayloadType != 121 || p.Marker || p.Timestamp != sent.Timestamp || string(p.Payload) != string([]byte{byte(number >> 8), byte(number)}) {
					t.Errorf("got %+v with %x, want nothing but the number %d", p.Header, p.Payload, number)
				}
			default:
				first, err := sent.Marshal()
				must(t, err)
				second, err := got[0].Marshal()
				must(t, err)
				if string(first) != string(second) {
					t.Errorf("got %x again, want %x as before", second, first)
				}
			}
		})
	}
}

// The padding in place of a late packet of a layer that is left out is sent again as that.
func TestARepairOfPaddingInAScalableStream(t *testing.T) {
	v := newSVC(2, 1, true)
	s := newScalableStage(t, v)
	s.down.SetWish(Wish{Quality: 0})
	s.feed(t, 0, v.next(true)...)
	picture := v.next(false) // one packet of the small layer, two of the large one
	s.feed(t, 0, picture[0], picture[2])
	s.feed(t, 0, v.next(false)...)
	before := len(s.out.packets)
	s.feed(t, 0, picture[1])
	if len(s.out.packets) != before+1 || !s.out.packets[before].Padding {
		t.Fatalf("got %v for the late packet, want padding", s.out.packets[before:])
	}
	s.down.repair(s.out.packets[before].SequenceNumber, 0, make([]byte, receiveMTU+2))
	if again := s.out.packets[before+1:]; len(again) != 1 || len(again[0].Payload) != 2 {
		t.Errorf("got %v again, want nothing but a number", again)
	}
}
