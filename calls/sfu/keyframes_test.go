package sfu

import (
	"sync/atomic"
	"testing"
	"time"
)

// asked counts the key frames that a layer has been asked for.
func asked(s *stage, layer int) uint64 { return s.layers[layer].counts.keyAsks.Load() }

func TestAsksForKeyFramesAFewTimesAtOnceAndThenSeldom(t *testing.T) {
	s := newStage(t, 3)
	l := s.layers[2]
	now := millis(time.Now())
	for _, c := range []struct {
		name string
		prep func()
		want uint64
	}{
		{"the first", func() { l.lastAsk.Store(0); l.askDue.Store(0) }, 1},
		{"at once again", func() {}, 0},
		{"half a second later, without an answer", func() { l.lastAsk.Store(now - 520); l.askDue.Store(now + 480) }, 1},
		{"a third of a second after an answer", func() { l.lastAsk.Store(now - 320); l.lastKey.Store(now - 250); l.askDue.Store(now + 680) }, 1},
		{"and then too much for the long run", func() { l.lastAsk.Store(now - 320); l.lastKey.Store(now - 250); l.askDue.Store(now + 1360) }, 0},
		{"soon after an answer to a question for another layer", func() {
			l.lastAsk.Store(0)
			l.askDue.Store(0)
			s.up.lastAsk.Store(now - 200)
			l.lastKey.Store(now - 150)
		}, 0},
		{"later after it", func() { s.up.lastAsk.Store(now - 310); l.lastKey.Store(now - 250) }, 1},
	} {
		s.up.lastAsk.Store(0)
		c.prep()
		before := asked(s, 2)
		l.RequestKeyFrame()
		if got := asked(s, 2) - before; got != c.want {
			t.Errorf("%s: got %d questions, want %d", c.name, got, c.want)
		}
	}
}

// TestAsksUntilAKeyFrameComes: a question that was lost, or came too soon, is asked again by itself; one that met its answer on the way is not.
func TestAsksUntilAKeyFrameComes(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 100}
	l := s.layers[0]
	next := func(key bool) (asks uint64) { // a frame, half a second later
		for _, at := range []*atomic.Int64{&l.lastAsk, &l.lastKey, &l.keyWish, &l.askDue, &s.up.lastAsk} {
			if at.Load() != 0 {
				at.Add(-500)
			}
		}
		before := asked(s, 0)
		s.feed(t, 0, v.frame(key, 0, 1)...)
		return asked(s, 0) - before
	}
	next(true)
	for _, c := range []struct {
		name string
		asks bool // a subscriber does
		key  bool // comes with the next frame
		want uint64
	}{
		{"nobody asks", false, false, 0},
		{"the question is lost", true, false, 1},
		{"and the next too", false, false, 1},
		{"the answer comes", false, true, 0},
		{"nobody waits any more", false, false, 0},
		{"a new question, answered", true, true, 0},
		{"all is well", false, false, 0},
	} {
		if c.asks {
			s.down.AskKeyFrame()
		}
		if got := next(c.key); got != c.want {
			t.Errorf("%s: got %d questions, want %d", c.name, got, c.want)
		}
	}
	s.down.AskKeyFrame()
	asks := uint64(0)
	for range 30 {
		asks += next(false)
	}
	if asks < 5 || asks > 12 || next(false) != 0 {
		t.Errorf("of a publisher that makes none: got %d questions in fifteen seconds, want some, and then no more", asks)
	}
	next(true)
	s.down.AskKeyFrame() // within the same millisecond
	if got := next(false); got != 0 {
		t.Errorf("just after a key frame: got %d questions more, want none", got)
	}
}

// Who cannot be reached yet asks for nothing: the key frame would be gone before the transport stands.
func TestAsksForNoKeyFrameTooEarly(t *testing.T) {
	s := newStage(t, 1)
	link := newDownlink(s.mouth, nil, LinkConfig{})
	before := asked(s, 0)
	early := NewDownTrack(s.up, link, "TR_2", "PA_2")
	early.binding.Store(&binding{writer: &written{}, ssrc: 9, payload: 120})
	early.Start()
	early.AskKeyFrame()
	if got := asked(s, 0) - before; got != 0 {
		t.Errorf("got %d questions before the transport stands, want none", got)
	}
	link.Near()
	s.layers[0].lastAsk.Store(0)
	early.AskKeyFrame()
	if got := asked(s, 0) - before; got != 1 {
		t.Errorf("got %d questions when it is about to stand, want 1", got)
	}
}

func TestCatchesUpWithANewKeyFrame(t *testing.T) {
	for _, c := range []struct {
		name string
		old  time.Duration // of the key frame
		seen bool          // the subscriber sees another layer meanwhile
		want bool
	}{
		{"a new subscriber", 200 * time.Millisecond, false, true},
		{"a new subscriber, too late", 400 * time.Millisecond, false, false},
		{"another layer", 50 * time.Millisecond, true, true},
		{"another layer, too late", 200 * time.Millisecond, true, false},
	} {
		s := newStage(t, 3)
		var v [3]stream
		for i := range v {
			v[i] = stream{seq: uint16(i*20000 + 65530), ts: uint32(i) * 1e9, picture: uint16(i * 999)}
		}
		round := func(key bool) {
			for i := range v {
				s.feed(t, i, v[i].frame(key, 0, 3)...)
			}
		}
		if c.seen {
			s.down.SetWish(Wish{Quality: 0})
		} else {
			s.link.ready.Store(false)
		}
		round(true)
		round(false)
		for _, l := range s.layers {
			l.lastKey.Add(-c.old.Milliseconds())
		}
		before := len(s.out.packets)
		s.link.ready.Store(true)
		s.down.SetWish(Best)
		round(false)
		if got := s.down.current.Load() == 2; got != c.want {
			t.Errorf("%s: got the layer at once: %v, want %v", c.name, got, c.want)
		}
		if got := len(s.out.packets) - before; c.want && !c.seen && got != 9 {
			t.Errorf("%s: got %d packets, want the 9 of three frames", c.name, got)
		}
		s.steady(t)
	}
}

// A line that does not carry every frame of the lowest layer gets those that others refer to, and every second of the rest.
func TestThinsFramesToWhichNoneRefers(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 65500}
	s.down.setGrant(grant{layer: 0, tid: allTID, thin: true})
	s.feed(t, 0, v.frame(true, 0, 2)...)
	const rounds = 8
	for range rounds {
		for _, tid := range []uint8{2, 1, 2, 0} {
			frame := v.frame(false, tid, 2)
			if tid == 2 {
				for _, p := range frame {
					p.Payload[0] |= 0x20
				}
			}
			s.feed(t, 0, frame...)
		}
	}
	if got, want := len(s.out.packets), 2+rounds*3*2; got != want {
		t.Errorf("got %d packets, want %d: three frames in four", got, want)
	}
	s.steady(t)
}

func TestRates(t *testing.T) {
	var r rates
	for second, bytes := range []int{1000, 2000, 9000, 2000, 2100} {
		r.count(int64(second+1), bytes)
	}
	r.count(6, 2050)
	if got, want := r.usual.Load(), int64(2100+lineOverhead)*8; got != want {
		t.Errorf("got %d bits a second, want %d: the one with a key frame does not count", got, want)
	}
	r.count(20, 100)
	if got, want := r.usual.Load(), int64(2050+lineOverhead)*8; got != want || r.whole != 0 {
		t.Errorf("after a silence: got %d, and %d in the second before, want %d and 0", got, r.whole, want)
	}
	for second := int64(25); second < 50; second += 5 {
		r.count(second, 110)
	}
	if got, want := r.usual.Load(), int64(110+lineOverhead)*8; got != want {
		t.Errorf("of a still screen: got %d, want %d", got, want)
	}
}

// TestAStillScreenStays: a screen that stands still costs a narrow line next to nothing, and does not pause.
func TestAStillScreenStays(t *testing.T) {
	s, v := newStage(t, 1), &stream{}
	s.up.SetSizes([MaxLayers]Size{{Width: 1920, Height: 1080}})
	now := time.Now()
	for i := range 10 { // one picture in three seconds
		raw, err := v.frame(i == 0, 0, 1)[0].Marshal()
		must(t, err)
		s.layers[0].receive(raw, now.Add(time.Duration(i)*3*time.Second))
	}
	s.link.estimate.bounded, s.link.estimate.bps = true, 100_000
	s.link.steer(now)
	if got := s.down.target.Load(); got != 0 {
		t.Errorf("got layer %d, charged %d bit/s, want layer 0", got, s.down.asked.rate(0))
	}
}
