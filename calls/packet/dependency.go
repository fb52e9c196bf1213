package packet

// What a dependency descriptor may speak of (AV1 RTP payload format, appendix A.4.1). One that wants more is not read.
const (
	MaxTargets   = 32
	maxChains    = 32
	maxTemplates = 64
	maxSpatial   = 4
	maxTemporal  = 8
	maxDiffs     = 16 // frames that one frame may refer to
)

// DependencyURI names the header extension in session descriptions.
const DependencyURI = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"

// Frame is what a packet says of the frame that it is part of. Sets of decode targets are masks: bit i is target i.
type Frame struct {
	Known      bool // the rest holds
	Start, End bool // first and last packet of the frame
	Key        bool // first packet of a key frame: nothing before it is needed
	Number     uint16
	Spatial    uint8
	Temporal   uint8
	Present    uint32 // targets that the frame is part of
	Switch     uint32 // targets whose later frames can all be decoded if this one can
	Active     uint32 // targets that the publisher still sends, as far as this packet tells; 0: it tells nothing
	Mask       MaskPlace

	diffs     []uint16
	ownDiffs  [maxDiffs]uint16
	chains    *[maxChains]uint8
	ownChains [maxChains]uint8
}

// Needs are the frames that this one refers to, as how many numbers they lie before it; false if the packet does not tell.
func (f *Frame) Needs() ([]uint16, bool) { return f.diffs, f.Mask.targets != 0 }

// ChainGap is how many frames before this one the last of a chain is; 0: the chain needs none.
func (f *Frame) ChainGap(chain int) uint16 {
	if f.chains == nil || chain < 0 || chain >= maxChains {
		return 0
	}
	return uint16(f.chains[chain])
}

// PictureSize is the size of a spatial layer; zero if it was not told.
type PictureSize struct{ Width, Height uint32 }

// Structure says how the frames of a stream depend on one another, until a key frame brings another one.
type Structure struct {
	Targets int // decode targets
	Chains  int // 0: no target is protected by any
	Spatial int // spatial layers
	Sizes   [maxSpatial]PictureSize

	offset    uint8
	templates int
	template  [maxTemplates]template
	target    [MaxTargets]target
}

// Layers are a spatial and a temporal layer, counted from 0.
type Layers struct{ Spatial, Temporal uint8 }

type template struct {
	Layers
	present, switches uint32
	diffs             [maxDiffs]uint16
	refers            uint8 // how many diffs there are
	chains            [maxChains]uint8
}

// target is a decode target: the frames that are needed for pictures of one size at one rate.
type target struct {
	Layers
	chain  uint8
	covers uint32 // targets whose frames are all frames of this one too
}

// All is the mask of all targets.
func (s *Structure) All() uint32 { return uint32(uint64(1)<<s.Targets - 1) }

// Target is the best of the active targets with at most these layers, or the least one if all have more; -1 if none is active.
func (s *Structure) Target(spatial, temporal int, active uint32) int {
	best := -1
	for i := range s.Targets {
		if active>>i&1 == 0 {
			continue
		}
		if best < 0 || nearer(&s.target[i], &s.target[best], spatial, temporal) {
			best = i
		}
	}
	return best
}

// nearer says whether a serves the wish better than b: first by its size, then by its rate.
func nearer(a, b *target, spatial, temporal int) bool {
	if a.Spatial != b.Spatial {
		return closer(int(a.Spatial), int(b.Spatial), spatial)
	}
	return closer(int(a.Temporal), int(b.Temporal), temporal)
}

// closer says whether a is the better answer to want than b: the highest that is not above it, else the lowest.
func closer(a, b, want int) bool {
	if (a <= want) != (b <= want) {
		return a <= want
	}
	return (a > b) == (a <= want)
}

// Layers are the highest layers of a target.
func (s *Structure) Layers(target int) Layers { return s.target[target].Layers }

// Chain is the chain that protects a target; -1 if nothing is protected.
func (s *Structure) Chain(target int) int {
	if s.Chains == 0 {
		return -1
	}
	return int(s.target[target].chain)
}

// Covers are the targets that can be decoded by who gets this one, itself among them.
func (s *Structure) Covers(target int) uint32 { return s.target[target].covers }

// conclude works out what follows from the templates: each target's layers, and which targets it covers.
func (s *Structure) conclude() {
	for i := range s.Targets {
		t := &s.target[i]
		t.Spatial, t.Temporal, t.covers = 0, 0, s.All()
		for j := range s.templates {
			if p := &s.template[j]; p.present>>i&1 != 0 {
				t.Spatial, t.Temporal = max(t.Spatial, p.Spatial), max(t.Temporal, p.Temporal)
			} else {
				t.covers &^= p.present
			}
		}
	}
}

// Dependencies follows the dependency descriptors of one stream. The zero value is ready; it belongs to one goroutine.
type Dependencies struct {
	kept    [2]Structure
	at      int
	version uint32
}

// Structure is what holds now, and a number that changes with it; nil and 0 before the first.
func (d *Dependencies) Structure() (*Structure, uint32) {
	if d.version == 0 {
		return nil, 0
	}
	return &d.kept[d.at], d.version
}

// Read reads a packet's descriptor. It is false, and f unknown, if the descriptor is damaged or speaks of a structure that
// has not come. f refers to d: it holds until two structures later.
func (d *Dependencies) Read(b []byte, f *Frame) bool { return d.read(b, f, true) }

// Again reads the descriptor of a packet that was read before, since the newest structure came or with it.
func (d *Dependencies) Again(b []byte, f *Frame) bool { return d.read(b, f, false) }

func (d *Dependencies) read(b []byte, f *Frame, adopt bool) bool {
	f.Known = false
	if len(b) < 3 || len(b) > 255 {
		return false
	}
	r := bitReader{b: b}
	start, end := r.bit(), r.bit()
	id, number := uint8(r.bits(6)), uint16(r.bits(16))
	var brings, masked, ownTargets, ownDiffs, ownChains bool
	if len(b) > 3 {
		brings, masked, ownTargets, ownDiffs, ownChains = r.bit(), r.bit(), r.bit(), r.bit(), r.bit()
	}
	s, at := &d.kept[d.at], d.at
	if brings {
		at = 1 - d.at
		s = &d.kept[at]
		if s.read(&r); r.bad {
			return false
		}
	} else if d.version == 0 {
		return false
	}
	place := MaskPlace{at: uint16(24 + extendedFlags), targets: uint8(s.Targets)}
	active := uint32(0)
	if brings {
		place.at, active = uint16(r.at), s.All()
	}
	if masked {
		active = r.bits(s.Targets)
	}
	index := (int(id) + maxTemplates - int(s.offset)) % maxTemplates
	if index >= s.templates {
		return false
	}
	t := &s.template[index]
	f.Present, f.Switch, f.diffs, f.chains = t.present, t.switches, t.diffs[:t.refers], &t.chains
	if ownTargets {
		f.Present, f.Switch = readIndications(&r, s.Targets)
	}
	if ownDiffs {
		f.diffs = f.readDiffs(&r)
	}
	if ownChains {
		for i := range s.Chains {
			f.ownChains[i] = uint8(r.bits(8))
		}
		f.chains = &f.ownChains
	}
	if r.bad {
		return false
	}
	place.end = uint16(r.at)
	f.Known, f.Start, f.End, f.Key, f.Number = true, start, end, brings && start, number
	f.Spatial, f.Temporal, f.Active, f.Mask = t.Spatial, t.Temporal, active, place
	if brings && adopt {
		d.at = at
		d.version++
	}
	return true
}

const extendedFlags = 5 // bits that say which of the longer fields are there

// read reads template_dependency_structure().
func (s *Structure) read(r *bitReader) {
	s.offset = uint8(r.bits(6))
	s.Targets = int(r.bits(5)) + 1
	s.readLayers(r)
	for i := range s.templates {
		s.template[i].present, s.template[i].switches = readIndications(r, s.Targets)
	}
	for i := range s.templates {
		t := &s.template[i]
		for t.refers = 0; r.bit(); t.refers++ {
			if t.refers == maxDiffs {
				r.bad = true
				return
			}
			t.diffs[t.refers] = uint16(r.bits(4)) + 1
		}
	}
	s.readChains(r)
	s.Sizes = [maxSpatial]PictureSize{}
	if r.bit() {
		for i := range s.Spatial {
			s.Sizes[i].Width = r.bits(16) + 1
			s.Sizes[i].Height = r.bits(16) + 1
		}
	}
	if !r.bad {
		s.conclude()
	}
}

func (s *Structure) readLayers(r *bitReader) {
	spatial, temporal := 0, 0
	for s.templates = 0; !r.bad; {
		if s.templates == maxTemplates || spatial == maxSpatial || temporal == maxTemporal {
			r.bad = true
			return
		}
		t := &s.template[s.templates]
		t.Spatial, t.Temporal = uint8(spatial), uint8(temporal)
		s.templates++
		switch r.bits(2) {
		case 1:
			temporal++
		case 2:
			temporal = 0
			spatial++
		case 3:
			s.Spatial = spatial + 1
			return
		}
	}
}

func (s *Structure) readChains(r *bitReader) {
	s.Chains = r.below(s.Targets + 1)
	if s.Chains == 0 {
		return
	}
	for i := range s.Targets {
		s.target[i].chain = uint8(r.below(s.Chains))
	}
	for i := range s.templates {
		for j := range s.Chains {
			s.template[i].chains[j] = uint8(r.bits(4))
		}
	}
}

// readIndications reads two bits for each target: 0 not present, 1 discardable, 2 switch, 3 required.
func readIndications(r *bitReader, targets int) (present, switches uint32) {
	for i := range targets {
		dti := r.bits(2)
		if dti != 0 {
			present |= 1 << i
		}
		if dti == 2 {
			switches |= 1 << i
		}
	}
	return present, switches
}

// readDiffs reads frame_fdiffs().
func (f *Frame) readDiffs(r *bitReader) []uint16 {
	for n := 0; ; n++ {
		size := int(r.bits(2))
		if size == 0 {
			return f.ownDiffs[:n]
		}
		if n == maxDiffs {
			r.bad = true
			return nil
		}
		f.ownDiffs[n] = uint16(r.bits(4*size)) + 1
	}
}

// MaskPlace is where the mask of active decode targets stands in a descriptor, or would stand.
type MaskPlace struct {
	at, end uint16 // bits: of the mask, and where the descriptor's fields end
	targets uint8
}

// Write writes the descriptor b to the buffer to, with active as its mask, and gives its length. It is 0 if there is no room.
func (m MaskPlace) Write(to, b []byte, active uint32) int {
	const maskFlag = 0x40
	w := bitWriter{b: to[:min(len(to), 255)]}
	r := bitReader{b: b}
	if len(b) == 3 {
		w.copy(&r, 24)
		w.bits(maskFlag>>3, extendedFlags)
		w.bits(active, int(m.targets))
	} else {
		w.copy(&r, int(m.at))
		w.bits(active, int(m.targets))
		if len(b) > 3 && b[3]&maskFlag != 0 {
			r.bits(int(m.targets))
		}
		w.copy(&r, int(m.end))
	}
	if w.bad || r.bad || w.at < 24 {
		return 0
	}
	to[3] |= maskFlag
	return w.size()
}
