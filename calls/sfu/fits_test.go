package sfu

import (
	"testing"

	"github.com/pion/webrtc/v4"
)

// A track keeps its codec, and the shape it began with: one stream with all layers, or one for each. The other is not taken.
func TestLayersOfATrackAreAlike(t *testing.T) {
	vp9 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP9, ClockRate: 90000}
	for _, test := range []struct {
		name         string
		first, other webrtc.RTPCodecCapability
		whole, all   bool // the first, the other: has all layers in it
		want         bool
	}{
		{"a further layer", vp8.RTPCodecCapability, vp8.RTPCodecCapability, false, false, true},
		{"another codec", vp8.RTPCodecCapability, vp9, false, false, false},
		{"one with all layers beside simulcast", vp9, vp9, false, true, false},
		{"simulcast beside one with all layers", vp9, vp9, true, false, false},
		{"one with all layers, begun anew", vp9, vp9, true, true, true},
	} {
		s := newStage(t, 0)
		layer := func(c webrtc.RTPCodecCapability, index int, whole bool) *Layer {
			l := newLayer(s.up, index, 99, c)
			if whole {
				l.scalable = newScalable(l.codec, 0)
			}
			return l
		}
		s.up.layers[0].Store(layer(test.first, 0, test.whole))
		if got := s.up.fits(layer(test.other, 1, test.all)); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// A subscriber that had a layer of another shape begins anew with a key frame.
func TestAStreamThatTurnsScalable(t *testing.T) {
	v := newSVC(3, 3, false)
	s := newScalableStage(t, v)
	s.down.current.Store(2)
	v.next(true) // went by before
	s.feed(t, 0, v.next(false)...)
	if n := len(s.out.packets); n != 0 {
		t.Errorf("got %d packets before a key frame, want none", n)
	}
	s.feed(t, 0, v.next(true)...)
	if len(s.out.packets) == 0 {
		t.Error("got nothing of a key frame")
	}
}
