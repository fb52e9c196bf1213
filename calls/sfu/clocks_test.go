package sfu

import (
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// reports takes a sender report of a layer in, as its publisher sends it.
func (s *stage) reports(t *testing.T, layer int, ntp uint64, rtp uint32, now time.Time) {
	t.Helper()
	raw, err := (&rtcp.SenderReport{SSRC: s.layers[layer].ssrc, NTPTime: ntp, RTPTime: rtp}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s.layers[layer].noteReport(raw[4:], now)
}

// TestSwitchesByTheSendersClock: with reports of both layers a switch keeps what the publisher's clock says of the two pictures,
// whatever the time at which they came; without them, and where they make no sense, the time that went by is added.
func TestSwitchesByTheSendersClock(t *testing.T) {
	const second = uint64(1) << 32
	type at struct {
		ntp uint64
		rtp uint32
	}
	for _, c := range []struct {
		name        string
		reports     [2]*at
		shown, next uint32 // incoming timestamps: the last picture of layer 0, the first of layer 1
		want        uint32 // how much later the second is; 0: about as much as went by, which is next to nothing
	}{
		{"five seconds later", [2]*at{{7 * second, 1000}, {7 * second, 500_000}}, 91_000, 500_000 + 540_000, 450_000},
		{"reports of different moments", [2]*at{{7 * second, 1000}, {9*second + second/2, 500_000}}, 1000, 500_000, 225_000},
		{"an older report of the new layer", [2]*at{{9 * second, 1000}, {8*second + second/2, 500_000}}, 1000, 500_000 + 90_000, 45_000},
		{"timestamps begin anew", [2]*at{{7 * second, 1<<32 - 45_000}, {7 * second, 1<<32 - 90_000}}, 1<<32 - 10_000, 0, 55_000},
		{"NTP's time begins anew", [2]*at{{^uint64(0) - second + 1, 1000}, {second, 500_000}}, 1000, 500_000, 180_000},
		{"reports a day apart", [2]*at{{86_400 * second, 1000}, {2 * second, 500_000}}, 1000, 500_000 + 3_480_852_704 + 90_000, 90_000},
		{"no reports", [2]*at{}, 91_000, 500_000, 0},
		{"a report of the old layer alone", [2]*at{{7 * second, 1000}, nil}, 91_000, 500_000, 0},
		{"a report of the new layer alone", [2]*at{nil, {7 * second, 500_000}}, 91_000, 500_000, 0},
		{"back in time", [2]*at{{7 * second, 1000}, {7 * second, 500_000}}, 91_000, 500_000 + 89_000, 0},
		{"far ahead", [2]*at{{7 * second, 1000}, {7 * second, 500_000}}, 91_000, 500_000 + 91_000 + 900_000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, 2)
			s.down.SetWish(Wish{Quality: 0})
			for layer, r := range c.reports {
				if r != nil {
					s.reports(t, layer, r.ntp, r.rtp, time.Now())
				}
			}
			low, high := &stream{ts: c.shown - 3000}, &stream{ts: c.next - 3000}
			began := time.Now()
			s.feed(t, 0, low.frame(true, 0, 1)...)
			s.down.SetWish(Wish{Quality: 1})
			s.feed(t, 1, high.frame(true, 0, 1)...)
			if len(s.out.packets) != 2 || s.down.current.Load() != 1 {
				t.Fatalf("got %d packets and layer %d, want one of each layer", len(s.out.packets), s.down.current.Load())
			}
			went := uint32(time.Since(began).Milliseconds()) * 90
			switch got := s.out.packets[1].Timestamp - s.out.packets[0].Timestamp; {
			case c.want == 0 && (got < 1 || got > went+90):
				t.Errorf("moved by %d, want by what went by, at most %d", got, went+90)
			case c.want != 0 && got != c.want:
				t.Errorf("moved by %d, want %d", got, c.want)
			}
			s.steady(t)
		})
	}
}

// TestSenderReportsKeepTheSendersClock: what the subscriber is told of its one stream holds over switches of layers, so that
// lips and voice stay together: the publisher's time, and what the stream's timestamps are at it.
func TestSenderReportsKeepTheSendersClock(t *testing.T) {
	const second = uint64(1) << 32
	s := newStage(t, 2)
	s.down.SetWish(Wish{Quality: 0})
	now := time.Now()
	if got := s.down.senderReport(now); got != nil {
		t.Errorf("got %v before anything was sent, want none", got)
	}
	// Two clocks that will both begin anew: the layers' frames are of the same moments.
	base := [2]uint32{1<<32 - 12_000, 1<<32 - 7000}
	low, high := &stream{ts: base[0]}, &stream{ts: base[1], seq: 900, picture: 77}
	frames := [2]*stream{low, high}
	round := func(key bool, first int) { // a frame that is of the same moment as one that was shown would move the clock by one
		s.feed(t, first, frames[first].frame(key, 0, 2)...)
		s.feed(t, 1-first, frames[1-first].frame(key, 0, 2)...)
	}
	round(true, 0)
	if got := s.down.senderReport(now); got != nil {
		t.Errorf("got %v before the publisher's own, want none", got)
	}
	s.reports(t, 0, 5*second-second/4, base[0], now)
	s.reports(t, 1, 5*second+second/4, base[1]+45_000, now.Add(500*time.Millisecond))

	judge := func(what string, after time.Duration, wantNTP uint64) {
		t.Helper()
		got := s.down.senderReport(now.Add(after))
		if got == nil {
			t.Fatalf("%s: no report", what)
		}
		// The subscriber's stream goes by the clock of the layer that it began with.
		wantRTP := base[0] + uint32((wantNTP-(5*second-second/4))*90_000>>32)
		bytes := 0
		for _, p := range s.out.packets {
			bytes += len(p.Payload)
		}
		want := rtcp.SenderReport{SSRC: 7, NTPTime: wantNTP, RTPTime: wantRTP, PacketCount: uint32(len(s.out.packets)), OctetCount: uint32(bytes)}
		if got.SSRC != want.SSRC || got.NTPTime != want.NTPTime || got.RTPTime != want.RTPTime || got.PacketCount != want.PacketCount || got.OctetCount != want.OctetCount {
			t.Errorf("%s: got %+v, want %+v", what, *got, want)
		}
	}
	judge("at once", 0, 5*second-second/4)
	judge("a moment before it has come", -3*time.Millisecond, 5*second-second/4)
	judge("a while after", 2250*time.Millisecond, 7*second)
	s.down.SetWish(Wish{Quality: 1})
	round(true, 1)
	if s.down.current.Load() != 1 {
		t.Fatalf("got layer %d, want 1", s.down.current.Load())
	}
	judge("of another layer", 750*time.Millisecond, 5*second+second/2)
	for range 3 {
		round(false, 0) // past the clocks' end
	}
	judge("with new timestamps", 3*time.Second, 5*second+2*second+second*3/4)
	s.down.SetWish(Wish{Quality: 0})
	round(true, 0)
	if s.down.current.Load() != 0 {
		t.Fatalf("got layer %d, want 0", s.down.current.Load())
	}
	judge("back again", 2250*time.Millisecond, 7*second)
	if span := s.down.numbers.Current(); span.Timestamp != 0 {
		t.Errorf("the first layer's timestamps are moved by %d, want as they were", span.Timestamp)
	}
	s.steady(t)

	s.down.SetWish(Wish{Disabled: true})
	round(false, 0)
	if got := s.down.senderReport(now.Add(time.Minute)); got != nil {
		t.Errorf("got %v of a stream that stands still, want none", got)
	}
}
