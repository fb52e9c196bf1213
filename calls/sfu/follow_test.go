package sfu

import (
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// TestAnotherEncodingGoesOn: a subscriber that gets another encoding sees one stream, in which the payload type changes at a
// key frame; what it asks for again of the old one is not answered with packets of the new one.
func TestAnotherEncodingGoesOn(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 65500}
	s.feed(t, 0, v.frame(true, 0, 3)...)
	s.feed(t, 0, v.frame(false, 0, 3)...)
	old := append([]rtp.Packet(nil), s.out.packets...)
	s.down.SetPriority(2)
	wish := Wish{Width: 320, Height: 180}
	s.down.SetWish(wish)

	next := newUpTrack(s.mouth, nil, true, [MaxLayers]Size{{Width: 320, Height: 180}})
	t.Cleanup(next.Close)
	h264 := webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000}, PayloadType: 102}
	next.codec.Store(&h264)
	layer := newLayer(next, 0, 2000, h264.RTPCodecCapability)
	next.layers[0].Store(layer)
	down := NewDownTrack(next, s.link, "TR_1", "PA_1")
	down.Follow(s.down)
	down.binding.Store(&binding{writer: s.out, ssrc: 7, payload: 122, rtxSSRC: 8, rtx: 123})
	down.Start()
	if down.wish != wish || down.priority != 2 {
		t.Errorf("got wish %+v and priority %d, want those of before", down.wish, down.priority)
	}

	s.feed(t, 0, v.frame(true, 0, 3)...) // the old encoding still comes
	other := &stage{layers: [MaxLayers]*Layer{layer}}
	h := rtp.Header{Version: 2, PayloadType: 102, SequenceNumber: 7, Timestamp: 4_000_000_000}
	other.feed(t, 0, &rtp.Packet{Header: h, Payload: []byte{0x41, 1}}) // no key frame
	for range 3 {
		h.SequenceNumber++
		h.Timestamp += 3000
		other.feed(t, 0, &rtp.Packet{Header: h, Payload: []byte{0x65, 1}})
	}
	if len(s.out.packets) != len(old)+3 {
		t.Fatalf("got %d packets, want the %d old ones and three from the key frame on", len(s.out.packets), len(old))
	}
	for i, p := range s.out.packets[1:] {
		before := s.out.packets[i]
		if p.SequenceNumber != before.SequenceNumber+1 || int32(p.Timestamp-before.Timestamp) < 0 || p.SSRC != 7 {
			t.Errorf("packet %d: got %+v after %+v", i+1, p.Header, before.Header)
		}
		if want := i+1 >= len(old); (p.PayloadType == 122) != want {
			t.Errorf("packet %d: got payload type %d", i+1, p.PayloadType)
		}
	}
	if got := down.Numbers().Packets; got != uint64(len(old)+3) {
		t.Errorf("got %d packets counted, want %d", got, len(old)+3)
	}
	sent := len(s.out.packets)
	for _, b := range []*binding{s.down.binding.Load(), down.binding.Load()} {
		b.numbers = down.extension(3)
	}
	s.down.repair(old[1].SequenceNumber, 0, make([]byte, receiveMTU+2))
	if padded := s.down.pad(1000); padded != 0 || len(s.out.packets) != sent {
		t.Errorf("got %d packets of the old track, and %d bytes of padding, under numbers of the new one", len(s.out.packets)-sent, padded)
	}
	buf := make([]byte, receiveMTU+2)
	down.repair(old[1].SequenceNumber, 0, buf)
	if len(s.out.packets) != sent {
		t.Error("a packet of the new encoding was sent for one of the old")
	}
	down.repair(s.out.packets[len(old)].SequenceNumber, 0, buf)
	if len(s.out.packets) != sent+1 || s.out.packets[sent].PayloadType != 123 {
		t.Errorf("got %d packets after a question, want one again", len(s.out.packets)-sent)
	}
}
