package packet

import (
	"bytes"
	"math/bits"
	"reflect"
	"slices"
	"testing"
)

// written is a structure as a publisher would write it.
type written struct {
	offset      int
	targets     int
	chains      int
	protectedBy []int
	templates   []writtenTemplate
	sizes       []PictureSize
}

type writtenTemplate struct {
	spatial, temporal int
	dtis              string // - not present, D discardable, S switch, R required
	diffs, chains     []int
}

// l2t2 has four targets: small at half rate, small, large at half rate, large; the large one needs the small one.
var l2t2 = &written{
	offset: 60, targets: 4, chains: 2, protectedBy: []int{0, 0, 1, 1},
	templates: []writtenTemplate{
		{0, 0, "SSSS", nil, []int{0, 0}},
		{0, 0, "SSRR", []int{4}, []int{4, 3}},
		{0, 1, "-D-R", []int{2}, []int{2, 1}},
		{1, 0, "--SS", []int{1}, []int{1, 1}},
		{1, 0, "--SS", []int{4, 1}, []int{1, 1}},
		{1, 1, "---D", []int{2, 1}, []int{3, 2}},
	},
	sizes: []PictureSize{{320, 180}, {640, 360}},
}

// described is one descriptor to be written.
type described struct {
	start, end bool
	template   int
	number     int
	structure  *written // is written with it
	mask       int      // -1: none
	dtis       string   // own ones
	diffs      []int    // own ones
	chains     []int    // own ones
}

// bytes writes the descriptor; s is the structure in force.
func (d *described) bytes(s *written) []byte {
	w := bitWriter{b: make([]byte, 400)}
	flag := func(on bool) { w.bits(uint32(map[bool]int{true: 1}[on]), 1) }
	flag(d.start)
	flag(d.end)
	w.bits(uint32((s.offset+d.template)%64), 6)
	w.bits(uint32(d.number), 16)
	if d.structure == nil && d.mask < 0 && d.dtis == "" && d.diffs == nil && d.chains == nil {
		return w.b[:3]
	}
	flag(d.structure != nil)
	flag(d.mask >= 0)
	flag(d.dtis != "")
	flag(d.diffs != nil)
	flag(d.chains != nil)
	if d.structure != nil {
		d.structure.write(&w)
	}
	if d.mask >= 0 {
		w.bits(uint32(d.mask), s.targets)
	}
	writeIndications(&w, d.dtis)
	if d.diffs != nil {
		for _, diff := range d.diffs {
			size := (bits.Len(uint(diff-1))+3)/4 | 1
			w.bits(uint32(size), 2)
			w.bits(uint32(diff-1), 4*size)
		}
		w.bits(0, 2)
	}
	for _, gap := range d.chains {
		w.bits(uint32(gap), 8)
	}
	return w.b[:w.size()]
}

func (s *written) write(w *bitWriter) {
	w.bits(uint32(s.offset), 6)
	w.bits(uint32(s.targets-1), 5)
	for i, t := range s.templates {
		next := uint32(3)
		if i+1 < len(s.templates) {
			switch n := s.templates[i+1]; {
			case n.spatial > t.spatial:
				next = 2
			case n.temporal > t.temporal:
				next = 1
			default:
				next = 0
			}
		}
		w.bits(next, 2)
	}
	for _, t := range s.templates {
		writeIndications(w, t.dtis)
	}
	for _, t := range s.templates {
		for _, diff := range t.diffs {
			w.bits(1, 1)
			w.bits(uint32(diff-1), 4)
		}
		w.bits(0, 1)
	}
	writeBelow(w, s.chains, s.targets+1)
	for _, chain := range s.protectedBy {
		writeBelow(w, chain, s.chains)
	}
	for _, t := range s.templates {
		for _, gap := range t.chains {
			w.bits(uint32(gap), 4)
		}
	}
	w.bits(uint32(min(len(s.sizes), 1)), 1)
	for _, size := range s.sizes {
		w.bits(size.Width-1, 16)
		w.bits(size.Height-1, 16)
	}
}

func writeIndications(w *bitWriter, dtis string) {
	for _, c := range dtis {
		w.bits(map[rune]uint32{'D': 1, 'S': 2, 'R': 3}[c], 2)
	}
}

func writeBelow(w *bitWriter, v, n int) {
	width := bits.Len(uint(n))
	if short := 1<<width - n; v < short {
		w.bits(uint32(v), width-1)
	} else {
		w.bits(uint32(v+short), width)
	}
}

func TestDependencyDescriptor(t *testing.T) {
	var d Dependencies
	var f Frame
	if d.Read((&described{template: 1, mask: -1}).bytes(l2t2), &f) || f.Known {
		t.Error("before a structure has come: got known")
	}
	for _, c := range []struct {
		name              string
		in                described
		spatial, temporal uint8
		present, switches uint32
		active            uint32
		gaps              [2]uint16
		needs             []uint16
	}{
		{"key frame", described{start: true, number: 65535, structure: l2t2, mask: -1}, 0, 0, 15, 15, 15, [2]uint16{0, 0}, nil},
		{"its upper layer", described{start: true, end: true, template: 3, mask: -1}, 1, 0, 12, 12, 0, [2]uint16{1, 1}, []uint16{1}},
		{"temporal layer", described{start: true, end: true, template: 2, number: 1, mask: -1}, 0, 1, 10, 0, 0, [2]uint16{2, 1}, []uint16{2}},
		{"inside", described{template: 5, number: 2, mask: -1}, 1, 1, 8, 0, 0, [2]uint16{3, 2}, []uint16{2, 1}},
		{"mask", described{start: true, template: 1, number: 3, mask: 3}, 0, 0, 15, 3, 3, [2]uint16{4, 3}, []uint16{4}},
		{"own targets", described{start: true, template: 1, mask: -1, dtis: "-SDR"}, 0, 0, 14, 2, 0, [2]uint16{4, 3}, []uint16{4}},
		{"own chains", described{start: true, template: 1, mask: -1, chains: []int{200, 0}}, 0, 0, 15, 3, 0, [2]uint16{200, 0}, []uint16{4}},
		{"everything of its own", described{template: 4, mask: 5, dtis: "S--D", diffs: []int{1, 17, 4096}, chains: []int{7, 9}}, 1, 0, 9, 1, 5, [2]uint16{7, 9}, []uint16{1, 17, 4096}},
	} {
		b := c.in.bytes(l2t2)
		if !d.Read(b, &f) {
			t.Errorf("%s: %x is not read", c.name, b)
			continue
		}
		gaps := [2]uint16{f.ChainGap(0), f.ChainGap(1)}
		if f.Start != c.in.start || f.End != c.in.end || int(f.Number) != c.in.number || f.Key != (c.in.structure != nil) ||
			f.Spatial != c.spatial || f.Temporal != c.temporal || f.Present != c.present || f.Switch != c.switches || f.Active != c.active || gaps != c.gaps || !slices.Equal(f.diffs, c.needs) {
			t.Errorf("%s: got %+v with gaps %v, want %+v", c.name, f, gaps, c)
		}
	}
	if d.Read((&described{template: 6, mask: -1}).bytes(l2t2), &f) || f.Known {
		t.Error("a template that does not exist: got known")
	}
	s, version := d.Structure()
	if version != 1 || s.Targets != 4 || s.Chains != 2 || s.Spatial != 2 || s.Sizes[1] != (PictureSize{640, 360}) || s.Chain(1) != 0 || s.Chain(2) != 1 {
		t.Errorf("structure %d: got %d targets, %d chains, %d layers of %v", version, s.Targets, s.Chains, s.Spatial, s.Sizes)
	}
}

func TestTargets(t *testing.T) {
	var d Dependencies
	var f Frame
	d.Read((&described{start: true, structure: l2t2, mask: -1}).bytes(l2t2), &f)
	s, _ := d.Structure()
	for _, c := range []struct {
		name              string
		spatial, temporal int
		active            uint32
		want              int
	}{
		{"best", 2, 3, 15, 3}, {"large at half rate", 1, 0, 15, 2}, {"small", 0, 3, 15, 1}, {"least", 0, 0, 15, 0},
		{"large, which is not sent", 1, 1, 3, 1}, {"small, which is not sent", 0, 1, 12, 3}, {"nothing is sent", 0, 0, 0, -1},
	} {
		if got := s.Target(c.spatial, c.temporal, c.active); got != c.want {
			t.Errorf("%s: got target %d, want %d", c.name, got, c.want)
		}
	}
	for target, want := range []uint32{1, 3, 5, 15} {
		if got := s.Covers(target); got != want {
			t.Errorf("target %d covers %b, want %b", target, got, want)
		}
	}
}

func TestRewritesTheMask(t *testing.T) {
	for _, c := range []struct {
		name string
		in   described
		size int // that the rewritten one has
	}{
		{"short", described{start: true, template: 1, number: 9, mask: -1}, 5},
		{"with a mask", described{start: true, template: 1, number: 9, mask: 15}, 5},
		{"key frame", described{start: true, structure: l2t2, mask: -1}, 0},
		{"key frame with a mask", described{start: true, structure: l2t2, mask: 9}, 0},
		{"everything of its own", described{template: 4, mask: -1, dtis: "S--D", diffs: []int{1, 17, 4096}, chains: []int{7, 9}}, 0},
	} {
		checkRewritten(t, c.name, c.in.bytes(l2t2), c.size, 6)
	}
	var d Dependencies
	var f Frame
	b := (&described{start: true, structure: l2t2, mask: -1}).bytes(l2t2)
	d.Read(b, &f)
	for room := range len(b) {
		if n := f.Mask.Write(make([]byte, room), b, 3); n != 0 {
			t.Fatalf("%d bytes of room for %d: got %d written", room, len(b), n)
		}
	}
}

// checkRewritten reads b, writes it with another mask, and reads that: all but the mask must be the same.
func checkRewritten(t *testing.T, name string, b []byte, size int, mask uint32) {
	t.Helper()
	var before, after Dependencies
	before.Read((&described{start: true, structure: l2t2, mask: -1}).bytes(l2t2), &Frame{})
	after = before
	var f, g Frame
	if !before.Read(b, &f) {
		return
	}
	s, _ := before.Structure()
	mask &= s.All()
	buf := make([]byte, 255)
	n := f.Mask.Write(buf, b, mask)
	if n == 0 {
		if len(b) <= 250 {
			t.Errorf("%s: %x is not written", name, b)
		}
		return
	}
	if size != 0 && n != size {
		t.Errorf("%s: got %d bytes, want %d", name, n, size)
	}
	if !after.Read(buf[:n], &g) {
		t.Fatalf("%s: %x became %x, which is not read", name, b, buf[:n])
	}
	if g.Active != mask {
		t.Errorf("%s: got mask %b, want %b", name, g.Active, mask)
	}
	f.Active, f.Mask, g.Active, g.Mask = 0, MaskPlace{}, 0, MaskPlace{}
	if !reflect.DeepEqual(f, g) {
		t.Errorf("%s: got %+v, want %+v", name, g, f)
	}
	one, _ := before.Structure()
	two, _ := after.Structure()
	if *one != *two {
		t.Errorf("%s: the structure changed", name)
	}
}

func TestDependencyDescriptorDoesNotAllocate(t *testing.T) {
	var d Dependencies
	var f Frame
	key := (&described{start: true, structure: l2t2, mask: -1}).bytes(l2t2)
	delta := (&described{start: true, template: 1, mask: -1}).bytes(l2t2)
	buf := make([]byte, 255)
	if got := testing.AllocsPerRun(100, func() {
		d.Read(key, &f)
		f.Mask.Write(buf, key, 3)
		d.Read(delta, &f)
		f.Mask.Write(buf, delta, 3)
	}); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func FuzzDependencyDescriptor(f *testing.F) {
	for _, d := range []described{
		{start: true, structure: l2t2, mask: -1}, {start: true, structure: l2t2, mask: 3}, {template: 1, number: 9, mask: -1},
		{template: 4, mask: 5, dtis: "S--D", diffs: []int{1, 17, 4096}, chains: []int{7, 9}},
	} {
		f.Add(d.bytes(l2t2), uint32(5))
	}
	f.Fuzz(func(t *testing.T, b []byte, mask uint32) {
		var d Dependencies
		var one Frame
		b = bytes.Clone(b)
		d.Read(b, &one) // with no structure before
		if s, _ := d.Structure(); s != nil {
			for i := range s.Targets {
				if l := s.Layers(i); int(l.Spatial) >= s.Spatial || l.Temporal >= maxTemporal || s.Covers(i)>>i&1 == 0 || s.Chain(i) >= max(s.Chains, 1) {
					t.Errorf("%x: target %d has layers %d and %d, chain %d of %d", b, i, l.Spatial, l.Temporal, s.Chain(i), s.Chains)
				}
			}
			if got := s.Target(1, 1, s.All()); got < 0 || got >= s.Targets {
				t.Errorf("%x: got target %d of %d", b, got, s.Targets)
			}
		}
		checkRewritten(t, "fuzz", b, 0, mask)
	})
}
