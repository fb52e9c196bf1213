package sfu

import (
	"testing"

	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/transport/v4/packetio"
)

// A repair is the packet that was lost: its number, its extensions, its payload.
func TestRepairsAreTheOriginals(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 500}
	in := newIncoming()
	main := in.buffer(packetio.RTPBufferPacket, 10).(*rtpStream)
	repair := in.buffer(packetio.RTPBufferPacket, 11).(*rtpStream)
	for _, ssrc := range []uint32{10, 11} {
		in.arrivals.BindRemoteStream(&interceptor.StreamInfo{SSRC: ssrc}, nil)
	}
	if !in.give(10, s.layers[0], false) || !in.give(11, s.layers[0], true) || in.give(12, s.layers[0], true) {
		t.Fatal("got streams that nobody made, or none")
	}
	frame := v.frame(true, 0, 4)
	for i, p := range frame {
		to, sent := main, *p
		if i == 2 {
			to = repair
			sent = rtp.Packet{Header: p.Header, Payload: append([]byte{byte(p.SequenceNumber >> 8), byte(p.SequenceNumber)}, p.Payload...)}
			sent.SequenceNumber, sent.SSRC, sent.PayloadType = 9, 11, 97
			if err := sent.SetExtension(1, []byte{7}); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := sent.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := to.Write(raw); err != nil || n != len(raw) {
			t.Errorf("packet %d: got %d, %v", i, n, err)
		}
	}
	padding := rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: 10, SSRC: 11, PayloadType: 97, Padding: true, PaddingSize: 200}}
	raw, err := padding.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repair.Write(raw); err != nil {
		t.Error(err)
	}
	if len(s.out.packets) != 4 {
		t.Fatalf("got %d packets, want 4", len(s.out.packets))
	}
	for i, p := range s.out.packets {
		if string(p.Payload[6:]) != string(frame[i].Payload[6:]) {
			t.Errorf("packet %d: got %x, want %x", i, p.Payload, frame[i].Payload)
		}
	}
	s.steady(t)
}

func FuzzRepair(f *testing.F) {
	f.Add([]byte{0x90, 97, 0, 9, 0, 0, 0, 0, 0, 0, 0, 11, 0xbe, 0xde, 0, 1, 0x10, 5, 0, 0, 1, 244, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := len(b)
		if got, ok := original(b); ok && len(got) != before-2 {
			t.Errorf("got %d bytes of %d", len(got), before)
		}
	})
}
