package sfu

import (
	"testing"

	"github.com/pion/rtcp"
)

// replace lets another stream come in the place of layer 0.
func (s *stage) replace(ssrc uint32) (old *stage) {
	old = &stage{layers: s.layers}
	l := newLayer(s.up, 0, ssrc, s.up.Codec().RTPCodecCapability)
	if was := s.layers[0].scalable; was != nil {
		l.scalable = newScalable(was.codec, was.id)
	}
	s.layers[0] = l
	s.up.layers[0].Store(l)
	return old
}

// TestAnotherStreamOfALayer: a publisher may send a layer under another SSRC, with numbers and times of its own. It goes on with a
// key frame as one stream; of the one before nothing comes any more, though it goes on too.
func TestAnotherStreamOfALayer(t *testing.T) {
	for name, seq := range map[string]uint16{"the same numbers": 99, "lower ones": 40, "higher ones": 30_000} {
		s, v := newStage(t, 1), &stream{seq: 99, ts: 7000, picture: 50}
		s.feed(t, 0, v.frame(true, 0, 3)...)
		for range 4 {
			s.feed(t, 0, v.frame(false, 0, 3)...)
		}
		sent := len(s.out.packets)
		old := s.replace(2000)
		s.mayAsk()
		next := &stream{seq: seq, ts: 1 << 31, picture: 9000, tl0: 77, key: 3}
		s.feed(t, 0, next.frame(false, 0, 2)...)
		if s.asks() != 1 || len(s.out.packets) != sent {
			t.Errorf("%s: got %d packets and %d key frames asked for before there is one, want none and 1", name, len(s.out.packets)-sent, s.asks())
		}
		for i := range 5 {
			old.feed(t, 0, v.frame(i == 1, 0, 3)...)
			s.feed(t, 0, next.frame(i == 0, 0, 2)...)
		}
		if got := len(s.out.packets) - sent; got != 10 {
			t.Errorf("%s: got %d packets, want the 10 of the new stream", name, got)
		}
		s.steady(t)
	}
}

// TestNumbersOfTwoStreams: what is asked for again of the one is never answered with the other's packets.
func TestNumbersOfTwoStreams(t *testing.T) {
	for _, repairs := range []bool{true, false} {
		s, v := newStage(t, 1), &stream{seq: 99}
		j := newJudge(t, s)
		if b := s.down.binding.Load(); !repairs {
			b.rtx, b.rtxSSRC, b.sent = 0, 0, make([]sending, videoCache)
		}
		first := s.down.numbers.Next()
		for i := range 30 {
			s.feed(t, 0, v.frame(i == 0, 0, 1)...)
			if i == 0 {
				first = s.down.numbers.Next() - 1
			}
		}
		old := s.replace(2000)
		next := &stream{seq: 99, ts: 1 << 30, picture: 900}
		buf := make([]byte, receiveMTU+2)
		for i := range 60 {
			s.feed(t, 0, next.frame(i == 20, 0, 1)...)
			old.feed(t, 0, v.frame(i == 40, 0, 1)...)
			for n := range uint16(100) {
				s.down.feedback(&rtcp.TransportLayerNack{Nacks: []rtcp.NackPair{{PacketID: uint16(first) + n}}}, 7, buf)
			}
		}
		if len(j.used) < 70 {
			t.Errorf("repairs %v: got %d packets, want 30 of the old stream and 40 of the new one", repairs, len(j.used))
		}
	}
}

// TestAnotherVoice: a voice has no key frames, and goes on at once.
func TestAnotherVoice(t *testing.T) {
	v := newVoice(t, true)
	for n := range 5 {
		v.send(t, n, 0)
	}
	old := *v
	l := newLayer(v.layer.track, 0, 2000, opus.RTPCodecCapability)
	l.fold.payloads = v.layer.fold.payloads
	v.layer = l
	l.track.layers[0].Store(l)
	for n := range 5 {
		v.send(t, n, 0)
		old.send(t, n+5, 0)
	}
	for name, out := range map[string]*written{"with RED": v.red, "without": v.single} {
		if len(out.packets) != 10 {
			t.Errorf("%s: got %d packets, want 10", name, len(out.packets))
		}
		for i := 1; i < len(out.packets); i++ {
			if a, b := out.packets[i-1], out.packets[i]; b.SequenceNumber != a.SequenceNumber+1 || int32(b.Timestamp-a.Timestamp) <= 0 {
				t.Errorf("%s: packet %d: got %+v after %+v", name, i, b.Header, a.Header)
			}
		}
	}
}

// TestAnotherScalableStream: the same of a stream with all layers in it.
func TestAnotherScalableStream(t *testing.T) {
	v := newSVC(3, 3, true)
	s := newScalableStage(t, v)
	for i := range 6 {
		s.feed(t, 0, v.next(i == 0)...)
	}
	before := len(s.out.packets)
	old := s.replace(2000)
	next := newSVC(3, 3, true)
	next.sent, next.frames, next.ts = v.sent, v.frames, v.ts+900_000
	next.next(true) // went by before
	s.feed(t, 0, next.next(false)...)
	if len(s.out.packets) != before || s.asks() == 0 {
		t.Errorf("got %d packets of the other before a key frame, %d asked for", len(s.out.packets)-before, s.asks())
	}
	for i := range 6 {
		old.feed(t, 0, v.next(i == 3)...)
		s.feed(t, 0, next.next(i == 0)...)
	}
	pictures := map[uint32]bool{}
	for i, p := range s.out.packets {
		if i > 0 && p.SequenceNumber != s.out.packets[i-1].SequenceNumber+1 {
			t.Errorf("packet %d: number %d after %d", i, p.SequenceNumber, s.out.packets[i-1].SequenceNumber)
		}
		if pictures[p.Timestamp] = true; !v.sent[string(p.Payload)] {
			t.Errorf("packet %d: what came is not what was sent", i)
		}
	}
	if len(pictures) != 12 {
		t.Errorf("got %d pictures, want six of each", len(pictures))
	}
}
