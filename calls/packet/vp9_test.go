package packet

import "testing"

func TestVP9Descriptor(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want VP9Descriptor
		ok   bool
	}{
		{"bare", []byte{0x0c, 1}, VP9Descriptor{Size: 1, Start: true, End: true}, true},
		{"short picture", []byte{0xc4, 0x05, 1}, VP9Descriptor{Size: 2, End: true, Inter: true, HasPicture: true, Picture: 5}, true},
		{"long picture, layers, flexible with two references", []byte{0xf8, 0x92, 0x34, 0x53, 0x03, 0x04, 9},
			VP9Descriptor{Size: 6, Start: true, Inter: true, Flexible: true, HasPicture: true, Picture: 0x1234, HasLayers: true,
				Temporal: 2, SwitchUp: true, Spatial: 1, InterLayer: true}, true},
		{"not flexible: TL0PICIDX", []byte{0x29, 0x24, 0x77, 9},
			VP9Descriptor{Size: 3, Start: true, Unneeded: true, HasLayers: true, Temporal: 1, Spatial: 2}, true},
		{"structure with sizes and a group", []byte{0x0a, 0x38, 1, 64, 0, 180, 2, 128, 1, 104, 2, 0x04, 1, 0x58, 1, 2, 9},
			VP9Descriptor{Size: 16, Start: true, Spatials: 2, Sizes: [maxSpatial]PictureSize{{320, 180}, {640, 360}}}, true},
		{"empty", nil, VP9Descriptor{}, false},
		{"no picture", []byte{0x80}, VP9Descriptor{}, false},
		{"half a picture", []byte{0x80, 0x81}, VP9Descriptor{}, false},
		{"no layers", []byte{0x20, 0x02}, VP9Descriptor{}, false},
		{"four references", []byte{0x50, 3, 3, 3, 3}, VP9Descriptor{}, false},
		{"sizes cut off", []byte{0x02, 0x30, 1, 64, 0, 180, 2}, VP9Descriptor{}, false},
		{"group cut off", []byte{0x02, 0x08, 2, 0x0c, 1, 1}, VP9Descriptor{}, false},
	} {
		got, ok := ParseVP9(c.in)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: got %+v, %v, want %+v, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

func TestVP9Layers(t *testing.T) {
	at := func(spatial, temporal int) uint32 { return 1 << VP9Layers.Target(spatial, temporal, VP9Layers.All()) }
	for _, c := range []struct {
		name                  string
		d                     VP9Descriptor
		key                   bool
		present, absent       uint32
		switches, notSwitches uint32
		gap                   uint16
	}{
		{"key", VP9Descriptor{Start: true}, true, at(0, 0) | at(2, 2), 0, at(0, 0) | at(2, 2), 0, 0},
		{"upper layer of a key picture", VP9Descriptor{Start: true, Spatial: 1, InterLayer: true}, false, at(1, 0) | at(2, 2), at(0, 2), at(1, 0) | at(2, 2), at(0, 2), 1},
		{"switching up", VP9Descriptor{Start: true, Inter: true, SwitchUp: true, Spatial: 1}, false, at(1, 0), at(0, 0), at(1, 2), at(2, 2) | at(0, 2), 1},
		{"temporal layer", VP9Descriptor{Start: true, Inter: true, Temporal: 1}, false, at(0, 1) | at(2, 2), at(0, 0) | at(2, 0), 0, at(0, 1), 1},
	} {
		var f Frame
		c.d.Frame(&f)
		if f.Key != c.key || f.Present&c.present != c.present || f.Present&c.absent != 0 || f.Switch&c.switches != c.switches ||
			f.Switch&c.notSwitches != 0 || f.ChainGap(1) != c.gap {
			t.Errorf("%s: got %+v with gap %d", c.name, f, f.ChainGap(1))
		}
	}
	var f Frame
	if (&VP9Descriptor{Spatial: 4}).Frame(&f); f.Known {
		t.Error("a fifth layer: got known")
	}
	if top := VP9Layers.Target(2, 2, VP9Layers.All()); VP9Layers.Covers(top)&at(1, 1) == 0 || VP9Layers.Covers(top)&at(3, 0) != 0 {
		t.Errorf("covers %b", VP9Layers.Covers(top))
	}
}
