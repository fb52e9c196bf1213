package sfu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// svc makes a VP9 stream with several layers in it, as browsers send it.
type svc struct {
	spatial, temporal int
	keyed             bool // layers need one another in key pictures only (L3T3_KEY)
	bare              bool // no dependency descriptors

	seq     uint16
	ts      uint32
	number  uint16
	picture uint16
	since   int         // pictures since the key picture
	chains  map[int]int // chain -> its last frame
	newest  [MaxLayers][allTID + 1]int
	packets int // of all pictures
	frames  map[uint16]svcFrame
	sent    map[string]bool // payloads
}

// svcFrame is a frame that was sent: where it stands, and what it needs.
type svcFrame struct {
	spatial, temporal int
	needs             []uint16
	picture           uint32 // timestamp
}

const (
	svcDescriptor = 5 // id at the publisher
	svcTemplate   = 4 // templates of a spatial layer
)

func newSVC(spatial, temporal int, keyed bool) *svc {
	return &svc{spatial: spatial, temporal: temporal, keyed: keyed, seq: 65500, number: 65530, frames: map[uint16]svcFrame{}, sent: map[string]bool{}}
}

// bitText writes numbers as text, for those who can count.
type bitText struct{ strings.Builder }

func (b *bitText) put(v, n int) { fmt.Fprintf(b, "%0*b", n, v) }

func (b *bitText) bytes() (out []byte) {
	text := b.String()
	for text += strings.Repeat("0", (8-len(text)%8)%8); text != ""; text = text[8:] {
		var v byte
		fmt.Sscanf(text[:8], "%b", &v)
		out = append(out, v)
	}
	return out
}

// below writes v, less than n, as ns(n).
func (b *bitText) below(v, n int) {
	width := len(fmt.Sprintf("%b", n))
	if short := 1<<width - n; v < short {
		b.put(v, width-1)
	} else {
		b.put(v+short, width)
	}
}

// dti says what a frame is to a target.
func (v *svc) dti(key bool, spatial, temporal, toSpatial, toTemporal int) int {
	const absent, discardable, switches, required = 0, 1, 2, 3
	switch {
	case toSpatial < spatial || toTemporal < temporal:
		return absent
	case key:
		return switches
	case toSpatial != spatial && v.keyed:
		return absent
	case toSpatial != spatial:
		return required
	case temporal > 0 && toTemporal == temporal:
		return discardable
	}
	return switches
}

// structure writes the template structure: of each spatial layer the key frame and one template for each temporal layer.
func (v *svc) structure(b *bitText) {
	b.put(7, 6) // offset
	b.put(v.spatial*v.temporal-1, 5)
	type template struct {
		key               bool
		spatial, temporal int
	}
	var all []template
	for s := range v.spatial {
		all = append(all, template{true, s, 0})
		for t := range v.temporal {
			all = append(all, template{false, s, t})
		}
	}
	for i, t := range all {
		switch {
		case i+1 == len(all):
			b.put(3, 2)
		case all[i+1].spatial > t.spatial:
			b.put(2, 2)
		case all[i+1].temporal > t.temporal:
			b.put(1, 2)
		default:
			b.put(0, 2)
		}
	}
	for _, t := range all {
		for s := range v.spatial {
			for tid := range v.temporal {
				b.put(v.dti(t.key, t.spatial, t.temporal, s, tid), 2)
			}
		}
	}
	for range all {
		b.put(0, 1) // which frames they need is told of each frame
	}
	b.below(v.spatial, v.spatial*v.temporal+1) // a chain for each spatial layer
	for s := range v.spatial {
		for range v.temporal {
			b.below(s, v.spatial)
		}
	}
	for range all {
		for range v.spatial {
			b.put(1, 4)
		}
	}
	b.put(1, 1)
	for s := range v.spatial {
		b.put(320<<s-1, 16)
		b.put(180<<s-1, 16)
	}
}

// descriptor writes a packet's dependency descriptor.
func (v *svc) descriptor(start, end, key bool, spatial, temporal int, needs []uint16, gaps []int) []byte {
	var b bitText
	flag := func(on bool) int { return map[bool]int{true: 1}[on] }
	b.put(flag(start), 1)
	b.put(flag(end), 1)
	template := 7 + spatial*(v.temporal+1)
	if !key {
		template += 1 + temporal
	}
	b.put(template, 6)
	b.put(int(v.number), 16)
	b.put(flag(key && start && spatial == 0), 1)
	b.put(0, 2)
	b.put(1, 1) // what it needs is told of each frame
	b.put(1, 1) // and the chains
	if key && start && spatial == 0 {
		v.structure(&b)
	}
	for _, need := range needs {
		b.put(2, 2)
		b.put(int(v.number-need)-1, 8)
	}
	b.put(0, 2)
	for _, gap := range gaps {
		b.put(gap, 8)
	}
	return b.bytes()
}

// next makes the packets of the next picture.
func (v *svc) next(key bool) (packets []*rtp.Packet) {
	if key {
		v.since, v.chains = 0, map[int]int{}
	}
	temporal := [][]int{{0}, {0, 1}, {0, 2, 1, 2}}[v.temporal-1]
	tid := temporal[v.since%len(temporal)]
	v.since++
	v.ts += 3000
	v.picture = (v.picture + 1) & 0x7fff
	for s := range v.spatial {
		v.number++
		f := svcFrame{spatial: s, temporal: tid, picture: v.ts}
		if !key {
			for t := range tid + 1 {
				if n := v.newest[s][t]; n >= 0 && (t < tid || t == 0) {
					f.needs = append(f.needs, uint16(n))
				}
			}
		}
		if s > 0 && (key || !v.keyed) {
			f.needs = append(f.needs, v.number-1)
		}
		v.frames[v.number] = f
		packets = append(packets, v.frame(key, s, tid)...)
		if key {
			v.newest[s] = [allTID + 1]int{-1, -1, -1, -1}
		}
		v.newest[s][tid] = int(v.number)
		for above := tid + 1; above <= allTID; above++ {
			v.newest[s][above] = -1
		}
	}
	packets[len(packets)-1].Marker = true
	v.packets += len(packets)
	return packets
}

// frame makes the packets of a frame: one for the smallest picture, and four times as many bytes for each larger one.
func (v *svc) frame(key bool, spatial, tid int) (packets []*rtp.Packet) {
	gaps := make([]int, v.spatial)
	for c := range gaps {
		if last, ok := v.chains[c]; ok {
			gaps[c] = int(v.number - uint16(last))
		}
		if c == spatial && tid == 0 || c > spatial && (key || !v.keyed && tid == 0) {
			v.chains[c] = int(v.number)
		}
	}
	n := 1 << spatial
	for i := range n {
		v.seq++
		first := byte(0x80 | 0x20 | 0x10) // picture, layers, flexible
		if !key {
			first |= 0x40
		}
		if i == 0 {
			first |= 0x08
		}
		if i == n-1 {
			first |= 0x04
		}
		layers := byte(tid<<5 | spatial<<1)
		if tid == 0 {
			layers |= 0x10 // higher temporal layers may begin
		}
		payload := []byte{first, 0x80 | byte(v.picture>>8), byte(v.picture), layers}
		if !key {
			payload = append(payload, 2)
		}
		payload = append(payload, encrypted(spatial, v.seq)[:(spatial+1)*100]...)
		v.sent[string(payload)] = true
		p := &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 98, SequenceNumber: v.seq, Timestamp: v.ts}, Payload: payload}
		if !v.bare {
			p.Extension, p.ExtensionProfile = true, rtp.ExtensionProfileTwoByte
			if err := p.SetExtension(svcDescriptor, v.descriptor(i == 0, i == n-1, key, spatial, tid, v.frames[v.number].needs, gaps)); err != nil {
				panic(err)
			}
		}
		packets = append(packets, p)
	}
	return packets
}

var vp9 = webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{
	MimeType: webrtc.MimeTypeVP9, ClockRate: 90000, RTCPFeedback: videoFeedback}, PayloadType: 98}

// newScalableStage is a stage with one stream that has all layers in it.
func newScalableStage(t testing.TB, v *svc) *stage {
	s := newStage(t, 1)
	s.up.codec.Store(&vp9)
	l := newLayer(s.up, 0, 1000, vp9.RTPCodecCapability)
	l.scalable = newScalable(packet.VP9, svcDescriptor)
	s.layers[0] = l
	s.up.layers[0].Store(l)
	b := &binding{writer: s.out, ssrc: 7, payload: 120, rtxSSRC: 8, rtx: 121, descriptor: 3}
	b.numbers = s.down.extension(4)
	b.describe()
	s.down.binding.Store(b)
	var sizes [MaxLayers]Size
	for i := range v.spatial {
		sizes[i] = Size{Width: 320 << i, Height: 180 << i}
	}
	s.up.SetSizes(sizes)
	s.down.SetWish(Best)
	return s
}

// seen reads what went out from packet n on: which frames, whole and in order; and that nothing was changed on the way.
func (s *stage) seen(t *testing.T, v *svc, n int) map[uint16]bool {
	t.Helper()
	got := map[uint16]bool{}
	ending := false
	for i, p := range s.out.packets {
		if i > 0 {
			if a := s.out.packets[i-1]; p.SequenceNumber != a.SequenceNumber+1 {
				t.Errorf("packet %d: sequence %d after %d", i, p.SequenceNumber, a.SequenceNumber)
			}
		}
		if !v.sent[string(p.Payload)] {
			t.Fatalf("packet %d: what came is not what was sent", i)
		}
		d, _ := packet.ParseVP9(p.Payload)
		if d.End {
			number := uint16(0)
			for f, frame := range v.frames {
				if frame.picture == p.Timestamp && frame.spatial == int(d.Spatial) {
					number = f
				}
			}
			if i >= n {
				got[number] = true
			}
		}
		if i+1 < len(s.out.packets) {
			ending = s.out.packets[i+1].Timestamp != p.Timestamp
			if p.Marker != ending {
				t.Errorf("packet %d of layer %d: got marker %v, want %v", i, d.Spatial, p.Marker, ending)
			}
		}
	}
	return got
}

// decodable checks that every frame that came has what it needs.
func decodable(t *testing.T, v *svc, got map[uint16]bool) {
	t.Helper()
	for number := range got {
		for _, need := range v.frames[number].needs {
			if !got[need] {
				f, n := v.frames[number], v.frames[need]
				t.Errorf("frame %d (layer %d/%d) came without frame %d (%d/%d)", number, f.spatial, f.temporal, need, n.spatial, n.temporal)
			}
		}
	}
}

// layersOf counts what came of the pictures after a timestamp, by spatial and temporal layer.
func layersOf(v *svc, got map[uint16]bool, after uint32) (spatial, temporal map[int]int) {
	spatial, temporal = map[int]int{}, map[int]int{}
	for number := range got {
		if f := v.frames[number]; f.picture > after {
			spatial[f.spatial]++
			temporal[f.temporal]++
		}
	}
	return spatial, temporal
}

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
				s.up.checkLayers(time.Now().UnixMilli())
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
		s.up.checkLayers(time.Now().UnixMilli())
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
	now := time.Now().Truncate(time.Second).Add(time.Second)
	for i := range 31 {
		for _, p := range v.next(i == 0) {
			b, _ := p.Marshal()
			s.layers[0].receive(b, now.Add(time.Duration(i)*time.Second/30))
		}
	}
	s.up.checkLayers(now.Add(time.Second).UnixMilli())
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
	s.out.keep = false
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
