package sfu

import (
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
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

// What comes before anybody knows whose it is counts as come when it came: a browser tries how much its line carries with padding on its
// repair streams, which Pion meets late, or never.
func TestArrivalOfUnknownStreams(t *testing.T) {
	for _, c := range []struct {
		name, said string
		want       int
	}{
		{"an offer with numbers", "v=0\r\na=extmap:2 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=extmap:4 " + sdp.TransportCCURI + "\r\n", 1},
		{"an offer with numbers that it sends", "a=extmap:4/sendonly " + sdp.TransportCCURI + "\r\n", 1},
		{"an offer without", "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n", 0},
		{"no sense", "a=extmap:999999 " + sdp.TransportCCURI + "\r\na=extmap:-1 " + sdp.TransportCCURI + "\r\na=extmap: " + sdp.TransportCCURI, 0},
	} {
		in := newIncoming()
		in.arrivals.expect(c.said)
		padding := rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: 10, SSRC: 11, PayloadType: 97, Padding: true, PaddingSize: 200}}
		if err := padding.SetExtension(4, []byte{1, 2}); err != nil {
			t.Fatal(err)
		}
		raw, err := padding.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		stream := in.buffer(packetio.RTPBufferPacket, 11).(*rtpStream)
		if _, err := stream.Write(raw); err != nil {
			t.Fatal(err)
		}
		if got := in.arrivals.record.PacketsHeld(); got != c.want {
			t.Errorf("%s: got %d packets to tell of, want %d", c.name, got, c.want)
		}
		pion := in.arrivals.BindRemoteStream(&interceptor.StreamInfo{SSRC: 11, RTPHeaderExtensions: []interceptor.RTPHeaderExtension{{URI: sdp.TransportCCURI, ID: 4}}},
			interceptor.RTPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
				n, err := stream.Read(b)
				return n, a, err
			}))
		if _, _, err := pion.Read(make([]byte, receiveMTU), nil); err != nil {
			t.Fatal(err)
		}
		if got := in.arrivals.record.PacketsHeld(); got != 1 {
			t.Errorf("%s, read by Pion: got %d packets to tell of, want 1", c.name, got)
		}
		if got := in.arrivals.stream(11).received; got != 1 {
			t.Errorf("%s: got %d packets for the receiver report, want 1", c.name, got)
		}
		_ = in.arrivals.Close()
	}
}

// TestManyReportsLeaveInPieces: of whoever sends a hundred streams each is reported, in packets that a line takes.
func TestManyReportsLeaveInPieces(t *testing.T) {
	const streams = 100
	a := newArrivals()
	reported := map[uint32]bool{}
	a.BindRTCPWriter(interceptor.RTCPWriterFunc(func(said []rtcp.Packet, _ interceptor.Attributes) (int, error) {
		raw, err := rtcp.Marshal(said)
		if err != nil || len(raw) > 1200 {
			t.Errorf("got a packet of %d bytes, %v, want at most 1200", len(raw), err)
		}
		for _, p := range said {
			if r, ok := p.(*rtcp.ReceiverReport); ok {
				reported[r.Reports[0].SSRC] = true
			}
		}
		return len(raw), nil
	}))
	for ssrc := range uint32(streams) {
		a.streams[ssrc] = &arriving{ssrc: ssrc, clock: 90000, received: 1}
	}
	a.timer = time.NewTimer(time.Hour)
	for range reportRounds {
		a.tell()
	}
	_ = a.Close()
	if len(reported) != streams {
		t.Errorf("got reports of %d streams, want %d", len(reported), streams)
	}
}
