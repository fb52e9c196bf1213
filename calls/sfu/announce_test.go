package sfu

import (
	"bytes"
	"testing"
	"time"
)

// What announces a track and what comes of it later are one unbroken stream.
func TestAnnounce(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 1}
	now := time.Now().Add(-20 * announceEvery)
	for range 4 {
		now = now.Add(announceEvery)
		s.link.announce(now)
	}
	if len(s.out.packets) != 4 {
		t.Fatalf("got %d packets, want 4", len(s.out.packets))
	}
	for i, p := range s.out.packets {
		if !p.Padding || p.Header.PaddingSize == 0 || len(p.Payload) != 0 || p.SSRC != 7 || p.PayloadType != 120 {
			t.Errorf("packet %d: got %+v with %d bytes, want mere padding", i, p.Header, len(p.Payload))
		}
	}
	s.feed(t, 0, v.frame(true, 0, 1)...)
	s.feed(t, 0, v.frame(false, 0, 1)...)
	s.link.announce(now)
	if len(s.out.packets) != 6 {
		t.Fatalf("got %d packets, want 4 and 2", len(s.out.packets))
	}
	for i := range s.out.packets[1:] {
		a, b := s.out.packets[i], s.out.packets[i+1]
		if step := int32(b.Timestamp - a.Timestamp); b.SequenceNumber != a.SequenceNumber+1 || step <= 0 || i < 3 && step != 45000 {
			t.Errorf("packet %d: got number %d at %d after %d at %d", i+1, b.SequenceNumber, b.Timestamp, a.SequenceNumber, a.Timestamp)
		}
	}
	s.down.repair(s.out.packets[3].SequenceNumber, 0, make([]byte, receiveMTU+2))
	if n := len(s.out.packets); n != 6 {
		t.Errorf("got %d packets, want none again of what announced the track", n-6)
	}
	if n := s.down.Numbers().Packets; n != 2 {
		t.Errorf("got %d packets counted, want 2: the others show nothing", n)
	}
}

// A track of which nothing comes is announced so often and no more, also where another encoding takes its place.
func TestAnnounceEnds(t *testing.T) {
	s := newStage(t, 1)
	for range announceMost / 2 {
		s.link.announce(time.Now())
	}
	next := NewDownTrack(s.up, s.link, "TR_1", "PA_1")
	next.binding.Store(s.down.binding.Load())
	next.Follow(s.down)
	next.Start()
	for range announceMost {
		s.link.announce(time.Now())
	}
	if n := len(s.out.packets); n != announceMost {
		t.Fatalf("got %d packets, want %d", n, announceMost)
	}
	for i := range s.out.packets[1:] {
		if a, b := s.out.packets[i], s.out.packets[i+1]; b.SequenceNumber != a.SequenceNumber+1 {
			t.Errorf("packet %d: got number %d after %d", i+1, b.SequenceNumber, a.SequenceNumber)
		}
	}
}

// Of a voice comes silence that the client knows not to be the publisher's, and nothing before its transport stands.
func TestAnnounceAVoice(t *testing.T) {
	s := newStage(t, 0)
	s.up.video = false
	s.link.cfg.Trailer = []byte("trailer")
	s.link.ready.Store(false)
	s.link.announce(time.Now())
	s.link.ready.Store(true)
	s.link.announce(time.Now())
	if len(s.out.packets) != 1 {
		t.Fatalf("got %d packets, want 1", len(s.out.packets))
	}
	if p := s.out.packets[0]; p.Padding || !bytes.Equal(p.Payload, []byte("\xf8\xff\xfetrailer")) {
		t.Errorf("got %+v with %q", p.Header, p.Payload)
	}
}
