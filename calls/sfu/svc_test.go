package sfu

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// svc makes a VP9 stream with several layers in it, as browsers send it.
type svc struct {
	spatial, temporal int
	keyed             bool // layers need one another in key pictures only (L3T3_KEY)
	bare              bool // no dependency descriptors
	sends             int  // spatial layers that are sent just now, 0: all
	tells             bool // and the descriptors say so

	seq     uint16
	ts      uint32
	number  uint16
	picture uint16
	since   int         // pictures since the key picture
	chains  map[int]int // chain -> its last frame
	newest  [MaxLayers][allTID + 1]int
	frames  map[uint16]svcFrame
	sent    map[string]bool // payloads
}

// svcFrame is a frame that was sent: where it stands, and what it needs.
type svcFrame struct {
	spatial, temporal int
	needs             []uint16
	picture           uint32 // timestamp
}

const svcDescriptor = 5 // id at the publisher

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
	b.put(flag(v.tells && v.sends > 0), 1)
	b.put(0, 1)
	b.put(1, 1) // what it needs is told of each frame
	b.put(1, 1) // and the chains
	if key && start && spatial == 0 {
		v.structure(&b)
	}
	if v.tells && v.sends > 0 {
		b.put(1<<(v.sends*v.temporal)-1, v.spatial*v.temporal)
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
		if v.sends > 0 && s >= v.sends {
			break
		}
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
