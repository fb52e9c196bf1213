package sfu

import (
	"math/bits"
	"sync/atomic"

	"chancery/calls/packet"
)

// scalable is what a Layer knows of a stream that may have several spatial and temporal layers in it (SVC). The dependency
// descriptor tells of them, or VP9's own descriptor where none was agreed; both are in clear when the frames are encrypted.
type scalable struct {
	codec packet.Codec
	id    uint8 // of the descriptor's header extension; 0: none was agreed

	// of the layer's goroutine, and of the sinks while it pushes
	deps      packet.Dependencies
	structure *packet.Structure // nil before the first
	version   uint32            // rises with each structure
	since     int64             // the packet that brought it
	active    uint32            // decode targets that the publisher sends
	said      int64             // the newest packet that told of them
	described bool              // a dependency descriptor has come
	chains    chainWatch
	counted   [packet.MaxTargets]int // payload bytes of the targets; older ones count less and less
	whole     int                    // and of all frames
	kept      Packet                 // see again

	// for everybody
	told  atomic.Uint32 // version, as far as the sinks were told
	news  atomic.Uint32 // version
	down  atomic.Bool   // each spatial layer can be had by leaving out those above
	alive atomic.Uint32 // mask of spatial layers that send
	last  [MaxLayers]atomic.Int64
	sizes [MaxLayers]atomic.Uint64
	parts [MaxLayers][allTID + 1]atomic.Uint32 // of 1000, that pictures of these layers take of the stream
}

// Scalable says whether a stream of this codec may have several spatial layers in it.
func Scalable(mime string) bool {
	codec := packet.CodecOf(mime)
	return codec == packet.VP9 || codec == packet.AV1
}

func newScalable(codec packet.Codec, id uint8) *scalable {
	s := &scalable{codec: codec, id: id}
	s.alive.Store(1<<MaxLayers - 1)
	return s
}

// read finds out which frame a packet is of, and what that means for whom.
func (s *scalable) read(h *packet.Header, b []byte, p *Packet) {
	p.Frame.Known = false
	if p.Extra = h.Extension(b, s.id); p.Extra != nil {
		s.described = true
		p.Meta.Extra = uint8(len(p.Extra))
		s.readDescriptor(p)
		return
	}
	d, ok := s.bare(p)
	if !ok {
		return
	}
	p.Meta.End, p.Meta.Spatial = d.End, d.Spatial
	if s.structure == nil {
		s.adopt(packet.VP9Layers, bareVersion)
	}
	if d.Spatials > 0 {
		s.tellSizes(d.Sizes[:])
	}
}

// readDescriptor reads a dependency descriptor. What comes late changes nothing for those after it.
func (s *scalable) readDescriptor(p *Packet) {
	if p.Seq <= s.since { // that packet itself, come again, brings nothing new
		if s.deps.Again(p.Extra, &p.Frame) {
			p.Meta.Note(&p.Frame, len(p.Extra))
		}
		return
	}
	if !s.deps.Read(p.Extra, &p.Frame) {
		return
	}
	p.Meta.Note(&p.Frame, len(p.Extra))
	late := p.Seq < s.said
	if structure, version := s.deps.Structure(); version != s.version {
		active, same := s.active, s.structure != nil && structure.Targets == s.structure.Targets
		s.since = p.Seq
		s.adopt(structure, version)
		if late && same {
			s.active = active
		}
	}
	if p.Frame.Active != 0 && !late {
		s.active, s.said = p.Frame.Active, p.Seq
	}
}

const bareVersion = 1 << 31 // that no dependency descriptor's structure reaches

// bare reads a packet without a dependency descriptor, where there are none.
func (s *scalable) bare(p *Packet) (d packet.VP9Descriptor, ok bool) {
	if s.codec != packet.VP9 || s.described || p.Meta.Empty {
		return d, false
	}
	if d, ok = packet.ParseVP9(p.Payload); ok {
		d.Frame(&p.Frame)
	}
	return d, ok
}

// again gives a packet that is still in the cache, as it came. It holds until the next.
func (s *scalable) again(l *Layer, seq int64) (*Packet, bool) {
	p := &s.kept
	n, ok := l.cache.Get(seq, &p.Meta, l.scratch)
	if !ok {
		return nil, false
	}
	p.Layer, p.Seq, p.Payload, p.Extra, p.Frame.Known = l, seq, l.scratch[:n], l.scratch[n:n+int(p.Meta.Extra)], false
	if len(p.Extra) > 0 {
		s.deps.Again(p.Extra, &p.Frame)
	} else {
		s.bare(p)
	}
	return p, true
}

// adopt takes a new structure.
func (s *scalable) adopt(structure *packet.Structure, version uint32) {
	if s.structure != nil && structure.Targets != s.structure.Targets {
		s.counted, s.whole = [packet.MaxTargets]int{}, 0
	}
	s.structure, s.version, s.active = structure, version, structure.All()
	s.tellSizes(structure.Sizes[:])
	down := true
	for spatial := range structure.Spatial - 1 {
		above, below := structure.Target(spatial+1, 0, s.active), structure.Target(spatial, 0, s.active)
		down = down && structure.Covers(above)>>below&1 != 0
	}
	s.down.Store(down)
	s.news.Store(version)
}

func (s *scalable) tellSizes(sizes []packet.PictureSize) {
	for i := range s.sizes {
		s.sizes[i].Store(uint64(sizes[i].Width)<<32 | uint64(sizes[i].Height))
	}
}

// pictures are the sizes of the spatial layers, as the stream tells them; zero if it does not.
func (s *scalable) pictures() (sizes [MaxLayers]Size) {
	for i := range sizes {
		size := s.sizes[i].Load()
		sizes[i] = Size{Width: uint32(size >> 32), Height: uint32(size)}
	}
	return sizes
}

// count takes a new packet.
func (s *scalable) count(p *Packet, ms int64) {
	f := &p.Frame
	if !f.Known || p.Meta.Empty {
		return
	}
	s.whole += len(p.Payload)
	for m := f.Present; m != 0; m &= m - 1 {
		s.counted[bits.TrailingZeros32(m)] += len(p.Payload)
	}
	if f.Spatial < MaxLayers {
		s.last[f.Spatial].Store(ms)
	}
	if s.chained() {
		s.chains.note(f, s.structure.Chains, p.Seq, ms)
	}
}

// chained says whether the stream has chains, by which a loss that matters is known.
func (s *scalable) chained() bool { return s.described && s.structure != nil && s.structure.Chains > 0 }

// tellParts says which part of the stream each layer takes, with what it needs of the others.
func (s *scalable) tellParts() {
	if s.structure == nil || s.whole == 0 {
		return
	}
	for spatial := range s.parts {
		for temporal := range s.parts[spatial] {
			if target := s.structure.Target(spatial, temporal, s.active); target >= 0 {
				s.parts[spatial][temporal].Store(uint32(s.counted[target] * 1000 / s.whole))
			}
		}
	}
	for i := range s.counted {
		s.counted[i] /= 2
	}
	s.whole /= 2
}

// bits is what spatial layer i of the stream usually takes in a second, with what it needs of the others; of a stream that
// is one layer, all of it. It is 0 if that is not known.
func (l *Layer) bits(i int) int {
	bps := int(l.rates.usual.Load())
	if l.scalable != nil {
		bps = bps * int(l.scalable.parts[i][allTID].Load()) / 1000
	}
	return bps
}

// share is the percentage of those bits that temporal layers up to tid take; 100 if there are no others.
func (l *Layer) share(i, tid int) int {
	if l.scalable == nil {
		return l.rates.share(tid)
	}
	if all := l.scalable.parts[i][allTID].Load(); all > 0 {
		return int(min(l.scalable.parts[i][tid].Load()*100/all, 100))
	}
	return 100
}

// check looks which spatial layers send, where newest is when the newest packet of all came. It is true if something has
// changed that sinks should know.
func (s *scalable) check(newest int64) bool {
	alive := uint32(0)
	for i := range s.last {
		if last := s.last[i].Load(); last != 0 && newest-last < layerSilent.Milliseconds() {
			alive |= 1 << i
		}
	}
	if alive == 0 { // nothing is known
		alive = 1<<MaxLayers - 1
	}
	news := s.news.Load()
	changed := s.alive.Swap(alive) != alive
	return s.told.Swap(news) != news || changed
}

func (s *scalable) aliveLayers() (alive [MaxLayers]bool) {
	mask := s.alive.Load()
	for i := range alive {
		alive[i] = mask>>i&1 != 0
	}
	return alive
}

// chainWatch looks whether the frames have come that the later ones of a chain need. A frame that is not complete when
// the next of its chain comes has chainWait to become so, by repairs; then the chain is broken, until it begins anew.
type chainWatch struct {
	broken  uint32 // mask of chains
	waiting uint32 // mask of chains that miss a frame
	missing [packet.MaxTargets]struct {
		frame uint16
		since int64
	}
	frames [256]frameMark // by the low byte of their number
}

// chainWait is how long, in milliseconds, a repair may take.
const chainWait = 300

// frameMark is what has come of one frame.
type frameMark struct {
	number      uint16
	packets     int32
	first, last int64 // sequence numbers; 0: not come
}

func (m *frameMark) complete(number uint16) bool {
	return m.number == number && m.first != 0 && m.last != 0 && int64(m.packets) == m.last-m.first+1
}

// note takes a new packet of a frame.
func (w *chainWatch) note(f *packet.Frame, chains int, seq, ms int64) {
	mark := &w.frames[f.Number&0xff]
	begins := mark.packets == 0 || mark.number != f.Number
	if begins {
		if mark.packets > 0 && int16(f.Number-mark.number) < 0 {
			if !f.Key {
				return // a straggler
			}
			*w = chainWatch{} // the publisher counts anew
		}
		*mark = frameMark{number: f.Number}
	}
	mark.packets++
	if f.Start {
		mark.first = seq
	}
	if f.End {
		mark.last = seq
	}
	if begins {
		w.follow(f, chains, ms)
	}
	for m := w.waiting; m != 0; m &= m - 1 {
		chain := bits.TrailingZeros32(m)
		lack := &w.missing[chain]
		if w.frames[lack.frame&0xff].complete(lack.frame) {
			w.waiting &^= 1 << chain
		} else if ms-lack.since > chainWait {
			w.waiting &^= 1 << chain
			w.broken |= 1 << chain
		}
	}
}

// follow looks at what a new frame needs.
func (w *chainWatch) follow(f *packet.Frame, chains int, ms int64) {
	for chain := range chains {
		gap := f.ChainGap(chain)
		if gap == 0 {
			w.broken &^= 1 << chain
			w.waiting &^= 1 << chain
			continue
		}
		before := f.Number - gap
		if w.waiting>>chain&1 == 0 && !w.frames[before&0xff].complete(before) {
			w.waiting |= 1 << chain
			w.missing[chain].frame, w.missing[chain].since = before, ms
		}
	}
}
