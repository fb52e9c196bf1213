package packet

// VP9Descriptor is the RTP payload descriptor of VP9 (RFC 9628, section 4.2).
type VP9Descriptor struct {
	Size       int  // of the descriptor
	Start, End bool // first and last packet of a frame
	Inter      bool // P: needs pictures before it
	Flexible   bool // F
	HasPicture bool
	Picture    uint16
	HasLayers  bool
	Temporal   uint8
	Spatial    uint8
	SwitchUp   bool // U: higher temporal layers may begin after this frame
	InterLayer bool // D: needs the spatial layer below
	Unneeded   bool // Z: the spatial layer above does not need it
	Spatials   uint8
	Sizes      [maxSpatial]PictureSize // of the Spatials layers, where the packet brings the scalability structure with them
}

// ParseVP9 reads the descriptor at the start of a payload. Nothing behind it is looked at.
func ParseVP9(p []byte) (d VP9Descriptor, ok bool) {
	const i, pBit, l, f, b, e, v, z = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
	if len(p) < 1 {
		return d, false
	}
	flags, at := p[0], 1
	d.Inter, d.Flexible, d.Start, d.End, d.Unneeded = flags&pBit != 0, flags&f != 0, flags&b != 0, flags&e != 0, flags&z != 0
	if d.HasPicture = flags&i != 0; d.HasPicture {
		if len(p) < at+1 {
			return d, false
		}
		d.Picture = uint16(p[at] & 0x7f)
		if p[at]&0x80 != 0 {
			at++
			if len(p) < at+1 {
				return d, false
			}
			d.Picture = d.Picture<<8 | uint16(p[at])
		}
		at++
	}
	if d.HasLayers = flags&l != 0; d.HasLayers {
		need := 2 // with TL0PICIDX
		if d.Flexible {
			need = 1
		}
		if len(p) < at+need {
			return d, false
		}
		d.Temporal, d.SwitchUp, d.Spatial, d.InterLayer = p[at]>>5, p[at]&0x10 != 0, p[at]>>1&7, p[at]&1 != 0
		at += need
	}
	if d.Inter && d.Flexible {
		for n, more := 0, true; more; n++ { // P_DIFF and N, at most three times
			if n == 3 || len(p) < at+1 {
				return d, false
			}
			more = p[at]&1 != 0
			at++
		}
	}
	if flags&v != 0 {
		if at = d.structure(p, at); at < 0 {
			return d, false
		}
	}
	d.Size = at
	return d, true
}

// structure reads the scalability structure at p[at:], and gives where it ends; -1 if it is not all there.
func (d *VP9Descriptor) structure(p []byte, at int) int {
	if len(p) < at+1 {
		return -1
	}
	count, sizes, group := int(p[at]>>5)+1, p[at]&0x10 != 0, p[at]&0x08 != 0
	at++
	if sizes {
		if len(p) < at+4*count {
			return -1
		}
		for n := range min(count, maxSpatial) {
			s := p[at+4*n:]
			d.Sizes[n] = PictureSize{Width: uint32(s[0])<<8 | uint32(s[1]), Height: uint32(s[2])<<8 | uint32(s[3])}
		}
		d.Spatials = uint8(min(count, maxSpatial))
		at += 4 * count
	}
	if !group {
		return at
	}
	if len(p) < at+1 {
		return -1
	}
	pictures := int(p[at])
	at++
	for range pictures {
		if len(p) < at+1 {
			return -1
		}
		at += 1 + int(p[at]>>2&3)
	}
	if len(p) < at {
		return -1
	}
	return at
}

// VP9Layers are the decode targets of VP9 whose publisher sends no dependency descriptors: each spatial layer with each
// temporal one, all below included.
var VP9Layers = vp9Layers()

func vp9Layers() *Structure {
	s := &Structure{Targets: maxSpatial * maxTemporal, Chains: maxSpatial, Spatial: maxSpatial, templates: maxSpatial * maxTemporal}
	for i := range s.templates {
		spatial, temporal := i/maxTemporal, i%maxTemporal
		t := &s.template[i]
		t.Layers = Layers{uint8(spatial), uint8(temporal)}
		s.target[i].chain = uint8(spatial)
		for j := range s.Targets {
			if spatial <= j/maxTemporal && temporal <= j%maxTemporal {
				t.present |= 1 << j
			}
		}
	}
	s.conclude()
	return s
}

// following is what every chain says of a frame that needs others.
var following = func() (gaps [maxChains]uint8) {
	for i := range gaps {
		gaps[i] = 1
	}
	return gaps
}()

// Frame tells of the descriptor in the terms of VP9Layers.
func (d *VP9Descriptor) Frame(f *Frame) {
	f.Known = d.Spatial < maxSpatial && d.Temporal < maxTemporal
	if !f.Known {
		return
	}
	t := &VP9Layers.template[int(d.Spatial)*maxTemporal+int(d.Temporal)]
	f.Start, f.End, f.Spatial, f.Temporal = d.Start, d.End, d.Spatial, d.Temporal
	f.Number = d.Picture<<2 | uint16(d.Spatial)
	f.Key = d.Start && !d.Inter && d.Spatial == 0
	f.Present, f.Switch, f.diffs, f.chains = t.present, 0, nil, &following
	switch {
	case !d.Inter:
		f.Switch = t.present
		if d.Spatial == 0 {
			f.chains = nil
		}
	case d.SwitchUp:
		f.Switch = t.present & ((1<<maxTemporal - 1) << (int(d.Spatial) * maxTemporal))
	}
	f.Active, f.Mask = 0, MaskPlace{}
}
