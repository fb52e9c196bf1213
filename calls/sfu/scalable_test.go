package sfu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"chancery/calls/packet"
)

func TestEachSubscriberGetsItsTarget(t *testing.T) {
	for _, mode := range []struct {
		name              string
		spatial, temporal int
		keyed, bare       bool
	}{
		{"L3T3_KEY", 3, 3, true, false}, {"L3T3", 3, 3, false, false}, {"L2T2", 2, 2, false, false}, {"L1T3", 1, 3, false, false},
		{"L3T1_KEY", 3, 1, true, false}, {"L3T3 without descriptors", 3, 3, false, true}, {"L3T3_KEY without descriptors", 3, 3, true, true},
	} {
		for _, wish := range []struct {
			w                 Wish
			spatial, temporal int
		}{
			{Best, 2, 2}, {Wish{Width: 640, Height: 360}, 1, 2}, {Wish{Width: 320, Height: 180}, 0, 2},
			{Wish{Quality: 2, FPS: 15}, 2, 1}, {Wish{Width: 320, Height: 180, FPS: 5}, 0, 0},
		} {
			t.Run(fmt.Sprintf("%s %+v", mode.name, wish.w), func(t *testing.T) {
				v := newSVC(mode.spatial, mode.temporal, mode.keyed)
				v.bare = mode.bare
				s := newScalableStage(t, v)
				s.up.SetSizes([MaxLayers]Size{{320, 180}, {640, 360}, {1280, 720}}) // more than there are
				s.down.SetWish(wish.w)
				s.feed(t, 0, v.next(true)...)
				s.up.checkLayers(millis(time.Now()))
				s.feed(t, 0, v.next(true)...)
				for range 12 {
					s.feed(t, 0, v.next(false)...)
				}
				got := s.seen(t, v, 0)
				decodable(t, v, got)
				spatial, temporal := layersOf(v, got, 2*3000)
				top := min(wish.spatial, mode.spatial-1)
				if len(temporal) != min(wish.temporal, mode.temporal-1)+1 {
					t.Errorf("got temporal layers %v, want up to %d", temporal, wish.temporal)
				}
				for layer, n := range spatial {
					if layer > top || mode.keyed && !mode.bare && layer != top {
						t.Errorf("got %d frames of layer %d, want layer %d", n, layer, top)
					}
				}
				if spatial[top] == 0 {
					t.Errorf("got layers %v, want layer %d", spatial, top)
				}
			})
		}
	}
}

// Who wants a small picture is spared the bytes of the large one.
func TestASmallPictureCostsAThirdAtMost(t *testing.T) {
	for _, keyed := range []bool{true, false} {
		size := func(w Wish) (n int) {
			v := newSVC(3, 3, keyed)
			s := newScalableStage(t, v)
			s.down.SetWish(w)
			for i := range 40 {
				s.feed(t, 0, v.next(i == 0)...)
			}
			for _, p := range s.out.packets {
				n += len(p.Payload)
			}
			return n
		}
		if small, all := size(Wish{Quality: 0}), size(Best); small*3 > all || small == 0 {
			t.Errorf("keyed %v: got %d bytes for the small picture, want a third of %d at most", keyed, small, all)
		}
	}
}

// asks is how many key frames the publisher was asked for so far.
func (s *stage) asks() uint64 { return s.layers[0].numbers().KeyAsks }

// mayAsk forgets when the publisher was asked before.
func (s *stage) mayAsk() {
	s.layers[0].lastAsk.Store(0)
	s.layers[0].askDue.Store(0)
}

func TestChangesTheTarget(t *testing.T) {
	small, large := Wish{Quality: 0}, Best
	for _, c := range []struct {
		name     string
		keyed    bool
		from, to Wish
		key      bool // is needed
	}{
		{"L3T3 down at once", false, large, small, false},
		{"L3T3 up with a key frame", false, small, large, true},
		{"L3T3_KEY down with a key frame", true, large, small, true},
		{"L3T3_KEY up with a key frame", true, small, large, true},
		{"fewer pictures at once", true, large, Wish{Quality: 2, FPS: 5}, false},
		{"more pictures without a key frame", true, Wish{Quality: 2, FPS: 5}, large, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newSVC(3, 3, c.keyed)
			s := newScalableStage(t, v)
			s.down.SetWish(c.from)
			for i := range 6 {
				s.feed(t, 0, v.next(i == 0)...)
			}
			s.mayAsk()
			s.down.SetWish(c.to)
			before, mark := s.asks(), v.ts
			for range 8 {
				s.feed(t, 0, v.next(false)...)
			}
			if asked := s.asks() > before; asked != c.key {
				t.Errorf("got a key frame asked for: %v, want %v", asked, c.key)
			}
			if c.key {
				mark = v.ts
				s.feed(t, 0, v.next(true)...)
			}
			for range 8 {
				s.feed(t, 0, v.next(false)...)
			}
			got := s.seen(t, v, 0)
			decodable(t, v, got)
			spatial, temporal := layersOf(v, got, mark+4*3000)
			if want := c.to.Quality; spatial[want] == 0 || want == 0 && spatial[2] != 0 {
				t.Errorf("got layers %v, want layer %d", spatial, want)
			}
			if want := map[bool]int{true: 1, false: 3}[c.to.FPS == 5]; len(temporal) != want {
				t.Errorf("got temporal layers %v, want %d", temporal, want)
			}
		})
	}
}

// Who comes just after a key frame gets it from the cache, with what belongs to the target since, and nobody is asked.
func TestCatchesUpWithAScalableStream(t *testing.T) {
	for _, bare := range []bool{false, true} {
		v := newSVC(3, 3, true)
		v.bare = bare
		s := newScalableStage(t, v)
		s.down.SetWish(Wish{Quality: 1})
		for i := range 4 {
			s.link.ready.Store(i == 3)
			s.feed(t, 0, v.next(i == 0)...)
		}
		if s.asks() != 0 {
			t.Errorf("bare %v: a key frame was asked for", bare)
		}
		got := s.seen(t, v, 0)
		decodable(t, v, got)
		if spatial, _ := layersOf(v, got, 0); spatial[1] != 4 || spatial[2] != 0 {
			t.Errorf("bare %v: got layers %v, want four frames of layer 1", bare, spatial)
		}
	}
}

// What goes out says of itself what it is: the descriptors can be read, and their mask names the targets that are left.
func TestDescriptorsGoOut(t *testing.T) {
	v := newSVC(3, 3, true)
	s := newScalableStage(t, v)
	s.down.SetWish(Wish{Quality: 1, FPS: 15})
	for i := range 6 {
		s.feed(t, 0, v.next(i == 0)...)
	}
	s.down.SetWish(Best)
	for range 4 {
		s.feed(t, 0, v.next(false)...)
	}
	widened := len(s.out.packets)
	s.feed(t, 0, v.next(true)...)
	s.feed(t, 0, v.next(false)...)
	var deps packet.Dependencies
	var f packet.Frame
	for i, p := range s.out.packets {
		raw := p.GetExtension(3)
		if raw == nil || !deps.Read(raw, &f) {
			t.Fatalf("packet %d: descriptor %x is not read", i, raw)
		}
		if p.ExtensionProfile == rtp.ExtensionProfileOneByte != (len(raw) <= 16) {
			t.Errorf("packet %d: got profile %x for %d bytes", i, p.ExtensionProfile, len(raw))
		}
		if _, err := p.Marshal(); err != nil {
			t.Errorf("packet %d: %v", i, err)
		}
		if !f.Start {
			continue
		}
		structure, _ := deps.Structure()
		switch want := structure.Covers(structure.Target(1, 1, structure.All())); {
		case i < 3 && f.Active != want, i < widened && f.Active == structure.All():
			t.Errorf("packet %d: got targets %b, want %b", i, f.Active, want)
		case i > widened && f.Active != structure.Covers(structure.Target(2, 2, structure.All())):
			t.Errorf("packet %d: got targets %b, want those of the large picture", i, f.Active)
		}
	}
}

// Whatever is wished for, and when: each frame that comes can be decoded, and nothing is missing between them.
func TestAnyWishLeavesADecodableStream(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		v := newSVC(1+r.IntN(3), 1+r.IntN(3), seed%2 == 0)
		v.bare = seed%5 == 0
		s := newScalableStage(t, v)
		for i := range 150 {
			if r.IntN(6) == 0 {
				s.down.SetWish(Wish{Quality: r.IntN(3), FPS: []uint32{0, 5, 15}[r.IntN(3)], Disabled: r.IntN(8) == 0})
			}
			s.feed(t, 0, v.next(i == 0 || r.IntN(20) == 0)...)
		}
		decodable(t, v, s.seen(t, v, 0))
	}
}

// Packets come late, and wishes change: what goes out is what was sent, each number once, and what is missing between them
// comes when it is asked for.
func TestScalableStreamInARoughSea(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		v := newSVC(3, 3, seed%2 == 0)
		s := newScalableStage(t, v)
		var held []*rtp.Packet
		for i := range 120 {
			if r.IntN(10) == 0 {
				s.down.SetWish(Wish{Quality: r.IntN(3), FPS: []uint32{0, 5, 15}[r.IntN(3)]})
			}
			for _, p := range v.next(i%20 == 0) {
				if r.IntN(15) == 0 {
					held = append(held, p)
					continue
				}
				s.feed(t, 0, p)
				if len(held) > 0 && r.IntN(6) == 0 {
					s.feed(t, 0, held...)
					held = held[:0]
				}
			}
			if i%10 == 9 {
				s.feed(t, 0, held...)
				held = held[:0]
				s.checkNumbers(t, seed, v)
			}
		}
	}
}

// checkNumbers looks through what went out, asks for what is missing, and forgets it.
func (s *stage) checkNumbers(t *testing.T, seed uint64, v *svc) {
	t.Helper()
	came := map[uint16]rtp.Packet{}
	low, high := int64(1<<62), int64(0)
	var unwrap packet.Unwrapper
	for i, p := range s.out.packets {
		if before, twice := came[p.SequenceNumber]; twice && !bytes.Equal(before.Payload, p.Payload) {
			t.Fatalf("seed %d: number %d was given twice", seed, p.SequenceNumber)
		}
		came[p.SequenceNumber] = p
		n := unwrap.Unwrap(p.SequenceNumber)
		low, high = min(low, n), max(high, n)
		if len(p.Payload) > 0 && !v.sent[string(p.Payload)] {
			t.Fatalf("seed %d: packet %d is not what was sent", seed, i)
		}
	}
	straight := len(s.out.packets)
	for n := low; n < high; n++ {
		if _, ok := came[uint16(n)]; ok {
			continue
		}
		s.down.feedback(&rtcp.TransportLayerNack{Nacks: []rtcp.NackPair{{PacketID: uint16(n)}}}, 7, make([]byte, receiveMTU+2))
		if straight++; len(s.out.packets) != straight {
			t.Fatalf("seed %d: number %d of %d to %d never came", seed, n, low, high)
		}
	}
	s.out.packets = nil
}

// A publisher that has no power or no line for its large picture leaves it out, and may say so. The subscriber gets what
// there is, and the large picture when it is back.
func TestLayersThatStopAndComeBack(t *testing.T) {
	for _, tells := range []bool{true, false} {
		for _, keyed := range []bool{true, false} {
			v := newSVC(3, 3, keyed)
			v.tells = tells
			s := newScalableStage(t, v)
			now := time.Now()
			pictures := func(n int, key bool) map[uint16]bool {
				from := len(s.out.packets)
				for i := range n {
					now = now.Add(33 * time.Millisecond)
					for _, p := range v.next(key && i == 0) {
						b, _ := p.Marshal()
						s.layers[0].receive(b, now)
					}
					if s.up.checkLayers(millis(now)) {
						s.down.LayersChanged()
					}
				}
				return s.seen(t, v, from)
			}
			pictures(8, true)
			v.sends = 2
			s.mayAsk()
			before, at := s.asks(), v.ts
			pictures(12, false)
			if asked := s.asks() > before; asked != keyed {
				t.Errorf("keyed %v, tells %v: got a key frame asked for: %v, want %v", keyed, tells, asked, keyed)
			}
			got := pictures(8, keyed)
			if spatial, _ := layersOf(v, got, at); spatial[1] != 8 {
				t.Errorf("keyed %v, tells %v: got layers %v while there are two, want eight frames of the second", keyed, tells, spatial)
			}
			v.sends, at = 0, v.ts
			pictures(3, true)
			got = pictures(8, true)
			if spatial, _ := layersOf(v, got, at); spatial[2] != 8 {
				t.Errorf("keyed %v, tells %v: got layers %v when all are back, want eight frames of the third", keyed, tells, spatial)
			}
			decodable(t, v, s.seen(t, v, 0))
		}
	}
}

// The first packet of a key frame that comes after the next key frame does not bring its structure back.
func TestALateStructure(t *testing.T) {
	v := newSVC(3, 3, true)
	s := newScalableStage(t, v)
	s.feed(t, 0, v.next(true)...)
	late := v.next(true)
	s.feed(t, 0, late[1:]...)
	w := newSVC(2, 2, true)
	w.seq, w.ts, w.number, w.picture = v.seq, v.ts, v.number, v.picture
	s.feed(t, 0, w.next(true)...)
	s.feed(t, 0, late[0])
	from := len(s.out.packets)
	for range 4 {
		s.feed(t, 0, w.next(false)...)
	}
	if got := s.layers[0].scalable.structure.Targets; got != 4 {
		t.Errorf("got a structure of %d targets, want the newest of 4", got)
	}
	if got := len(s.out.packets) - from; got != 4*2 {
		t.Errorf("got %d packets of the upper layer, want 8", got)
	}
}

// What a packet says that comes late of the layers that are sent does not hold any more: neither its mask nor that a key frame begins with all.
func TestALateMask(t *testing.T) {
	for _, c := range []struct {
		name string
		late func(v *svc) []*rtp.Packet
		then int // layers that are sent afterwards
	}{
		{"fewer layers, when all are back", func(v *svc) []*rtp.Packet { v.sends = 1; return v.next(false) }, 3},
		{"a key frame, when there are fewer", func(v *svc) []*rtp.Packet { return v.next(true) }, 1},
	} {
		v := newSVC(3, 3, false)
		v.tells = true
		s := newScalableStage(t, v)
		s.feed(t, 0, v.next(true)...)
		late := c.late(v)
		v.sends = c.then
		s.feed(t, 0, v.next(false)...)
		want := uint32(1<<(3*c.then) - 1)
		if got := s.layers[0].scalable.active; got != want {
			t.Fatalf("%s: got targets %b, want %b", c.name, got, want)
		}
		s.feed(t, 0, late...)
		if got := s.layers[0].scalable.active; got != want {
			t.Errorf("%s: got targets %b after what came late, want %b", c.name, got, want)
		}
	}
}

// The packet that brought a structure, sent twice by the publisher or the line, brings no other: subscribers go on as they were.
func TestAStructureThatComesAgain(t *testing.T) {
	v := newSVC(3, 3, false)
	s := newScalableStage(t, v)
	key := v.next(true)
	s.feed(t, 0, key...)
	s.feed(t, 0, v.next(false)...)
	l := s.layers[0].scalable
	version, structure, since, sent := l.version, l.structure, l.since, len(s.out.packets)
	l.active = 1
	s.feed(t, 0, key[0], key[0])
	if l.version != version || l.structure != structure || l.since != since || l.active != 1 {
		t.Errorf("got structure %d since %d with targets %b active, want %d since %d as it was", l.version, l.since, l.active, version, since)
	}
	if got := len(s.out.packets) - sent; got != 0 {
		t.Errorf("got %d packets of a repetition, want none", got)
	}
	l.active = structure.All()
	for range 4 {
		s.feed(t, 0, v.next(false)...)
	}
	decodable(t, v, s.seen(t, v, 0))
}

func TestABrokenChainAsksForAKeyFrame(t *testing.T) {
	v := newSVC(3, 3, true)
	s := newScalableStage(t, v)
	s.down.SetWish(Wish{Quality: 0})
	now := time.Now()
	lose := func(spatial int, wait time.Duration) bool {
		for i := range 5 { // one period of pictures; its last is of the base layer
			for _, p := range v.next(i == 0) {
				if d, _ := packet.ParseVP9(p.Payload); i == 4 && int(d.Spatial) == spatial {
					continue
				}
				b, _ := p.Marshal()
				s.layers[0].receive(b, now)
			}
		}
		s.mayAsk()
		before := s.asks()
		for range 3 {
			now = now.Add(wait)
			for _, p := range v.next(false) {
				b, _ := p.Marshal()
				s.layers[0].receive(b, now)
			}
		}
		return s.asks() > before
	}
	if !lose(0, 200*time.Millisecond) {
		t.Error("a frame of the subscriber's chain was lost: no key frame was asked for")
	}
	if lose(0, 10*time.Millisecond) {
		t.Error("a frame that may yet be repaired: a key frame was asked for")
	}
	if lose(2, 200*time.Millisecond) {
		t.Error("a frame of a chain that nobody needs: a key frame was asked for")
	}
}

// A packet that is sent again is the same as at first, with its descriptor and its marker.
func TestRepairsOfAScalableStream(t *testing.T) {
	v := newSVC(3, 3, true)
	s := newScalableStage(t, v)
	s.down.SetWish(Wish{Quality: 1})
	for i := range 6 {
		s.feed(t, 0, v.next(i == 0)...)
	}
	sent := append([]rtp.Packet(nil), s.out.packets...)
	for i, p := range sent {
		sent[i].Extensions = nil
		_ = sent[i].SetExtension(3, bytes.Clone(p.GetExtension(3)))
	}
	s.out.packets = nil
	for i, want := range sent {
		s.down.feedback(&rtcp.TransportLayerNack{Nacks: []rtcp.NackPair{{PacketID: want.SequenceNumber}}}, 7, make([]byte, receiveMTU+2))
		if len(s.out.packets) != i+1 {
			t.Fatalf("packet %d: not sent again", i)
		}
		got := s.out.packets[i]
		if osn := binary.BigEndian.Uint16(got.Payload); osn != want.SequenceNumber || !bytes.Equal(got.Payload[2:], want.Payload) || got.Marker != want.Marker || got.Timestamp != want.Timestamp {
			t.Errorf("packet %d: got %d, marker %v, want %d, %v", i, osn, got.Marker, want.SequenceNumber, want.Marker)
		}
	}
}

// A publisher that makes its descriptors up: nothing breaks, no number is given twice, and what is good goes on.
func FuzzScalableStream(f *testing.F) {
	v := newSVC(3, 2, false)
	for _, p := range v.next(true)[:3] {
		f.Add(p.GetExtension(svcDescriptor), p.Payload[:8], uint8(2))
	}
	f.Fuzz(func(t *testing.T, descriptor, payload []byte, quality uint8) {
		v := newSVC(3, 3, true)
		s := newScalableStage(t, v)
		s.down.SetWish(Wish{Quality: int(quality % 3), FPS: uint32(quality)})
		s.feed(t, 0, v.next(true)...)
		for i := range 6 {
			for _, p := range v.next(i == 4) {
				bad := *p
				bad.Extensions, bad.Payload = nil, payload
				if len(descriptor) > 0 && len(descriptor) < 256 && bad.SetExtension(svcDescriptor, descriptor) != nil || i%2 == 1 {
					bad = *p
				}
				s.feed(t, 0, &bad)
			}
		}
		s.up.checkLayers(millis(time.Now()))
		var d demand
		s.down.describe(&d)
		came := map[uint16]bool{}
		for _, p := range s.out.packets {
			if came[p.SequenceNumber] {
				t.Fatalf("%x, %x: number %d was given twice", descriptor, payload, p.SequenceNumber)
			}
			came[p.SequenceNumber] = true
		}
	})
}

func TestDemandOfAScalableStream(t *testing.T) {
	v := newSVC(3, 3, true)
	s := newScalableStage(t, v)
	now := began.Add(2 * time.Hour) // where a second begins
	for i := range 31 {
		for _, p := range v.next(i == 0) {
			b, _ := p.Marshal()
			s.layers[0].receive(b, now.Add(time.Duration(i)*time.Second/30))
		}
	}
	s.up.checkLayers(millis(now.Add(time.Second)))
	var d demand
	if !s.down.describe(&d) || d.steps[d.n-1].layer != 2 {
		t.Fatalf("got %d steps %v, want up to layer 2", d.n, d.steps)
	}
	for i := 1; i < d.n; i++ {
		if d.steps[i].bps < 2*d.steps[i-1].bps && d.steps[i].layer > d.steps[i-1].layer {
			t.Errorf("step %d: got %d bits after %d, want the larger picture's", i, d.steps[i].bps, d.steps[i-1].bps)
		}
	}
	if got := d.steps[0]; got.layer != 0 || got.tid != 0 || got.bps == 0 {
		t.Errorf("got least step %+v, want the base layers'", got)
	}
	s.down.setGrant(grant{layer: 0, tid: 1})
	s.feed(t, 0, v.next(true)...)
	if got := s.down.Numbers(); got.Layer != 0 || got.Target != 0 {
		t.Errorf("granted layer 0: got layer %d, target %d", got.Layer, got.Target)
	}
}

// scalablePath gives a function that takes a picture of three frames in, and its part for the subscriber out.
func scalablePath(b testing.TB) func() {
	v := newSVC(3, 3, true)
	s := newScalableStage(b, v)
	s.out.keep, s.layers[0].in.out = false, &outbox{}
	s.down.SetWish(Wish{Quality: 1})
	s.feed(b, 0, v.next(true)...)
	s.link.estimate.bounded = true
	var raw [][]byte
	for range 4 * 40 {
		for _, p := range v.next(false) {
			r, err := p.Marshal()
			if err != nil {
				b.Fatal(err)
			}
			raw = append(raw, r)
		}
	}
	now, at, seq, number, ts := time.Now(), 0, v.seq-uint16(len(raw)), v.number-4*40*3, v.ts-4*40*3000
	return func() {
		s.layers[0].rates.counted = 0 // a benchmark is faster than any camera
		for i := range 7 {
			p := raw[at]
			at = (at + 1) % len(raw)
			seq++
			if i == 0 {
				ts += 3000
			}
			if i == 0 || i == 1 || i == 3 {
				number++
			}
			binary.BigEndian.PutUint16(p[2:], seq)
			binary.BigEndian.PutUint32(p[4:], ts)
			binary.BigEndian.PutUint16(p[19:], number) // header, two-byte extension, the descriptor's first byte
			s.layers[0].receive(p, now)
		}
	}
}

func BenchmarkScalablePath(b *testing.B) {
	step := scalablePath(b)
	for range videoCache {
		step()
	}
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/7, "ns/packet")
}

func TestScalablePathDoesNotAllocate(t *testing.T) {
	step := scalablePath(t)
	for range videoCache {
		step()
	}
	if got := testing.AllocsPerRun(500, step); got != 0 {
		t.Errorf("got %v allocations per picture, want 0", got)
	}
}
