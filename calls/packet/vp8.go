package packet

// VP8Descriptor is the RTP payload descriptor of VP8 (RFC 7741, section 4.2). An offset of 0 means: not there.
type VP8Descriptor struct {
	Size  uint8 // of the descriptor
	Start bool  // first packet of a frame
	Loose bool  // N: no other frame refers to this one
	Sync  bool  // Y: depends on the base layer only

	Picture   uint16
	Temporal  uint8
	TL0       uint8
	KeyIndex  uint8
	pictureAt uint8
	long      bool // M: the picture ID has 15 bits
	tl0At     uint8
	layerAt   uint8
	hasLayer  bool // T: Temporal is there
	hasKey    bool // K: KeyIndex is there
}

// HasTemporal says whether the packet names its temporal layer.
func (d *VP8Descriptor) HasTemporal() bool { return d.hasLayer }

// ParseVP8 reads the descriptor at the start of a payload.
func ParseVP8(p []byte) (d VP8Descriptor, ok bool) {
	if len(p) < 1 {
		return d, false
	}
	d.Start = p[0]&0x10 != 0 && p[0]&0x07 == 0
	d.Loose = p[0]&0x20 != 0
	d.Size = 1
	if p[0]&0x80 == 0 {
		return d, true
	}
	if len(p) < 2 {
		return d, false
	}
	flags := p[1]
	at := 2
	if flags&0x80 != 0 {
		if len(p) <= at {
			return d, false
		}
		d.pictureAt = uint8(at)
		d.Picture = uint16(p[at] & 0x7f)
		if p[at]&0x80 != 0 {
			if len(p) <= at+1 {
				return d, false
			}
			d.long = true
			d.Picture = d.Picture<<8 | uint16(p[at+1])
			at++
		}
		at++
	}
	if flags&0x40 != 0 {
		if len(p) <= at {
			return d, false
		}
		d.tl0At, d.TL0 = uint8(at), p[at]
		at++
	}
	if flags&0x30 != 0 {
		if len(p) <= at {
			return d, false
		}
		d.layerAt = uint8(at)
		if d.hasLayer = flags&0x20 != 0; d.hasLayer {
			d.Temporal, d.Sync = p[at]>>6, p[at]&0x20 != 0
		}
		if d.hasKey = flags&0x10 != 0; d.hasKey {
			d.KeyIndex = p[at] & 0x1f
		}
		at++
	}
	d.Size = uint8(at)
	return d, true
}

// Shift is what is added to a VP8 descriptor so that a subscriber sees one unbroken stream.
type Shift struct {
	Picture  uint16
	TL0      uint8
	KeyIndex uint8
}

// Apply rewrites the descriptor at the start of p, in place. Fields that are absent stay absent, sizes stay.
func (d *VP8Descriptor) Apply(s Shift, p []byte) {
	if int(d.Size) > len(p) {
		return
	}
	if d.pictureAt != 0 {
		picture := d.Picture + s.Picture
		if d.long {
			p[d.pictureAt] = 0x80 | uint8(picture>>8)&0x7f
			p[d.pictureAt+1] = uint8(picture)
		} else {
			p[d.pictureAt] = uint8(picture) & 0x7f
		}
	}
	if d.tl0At != 0 {
		p[d.tl0At] = d.TL0 + s.TL0
	}
	if d.hasKey {
		p[d.layerAt] = p[d.layerAt]&0xe0 | (d.KeyIndex+s.KeyIndex)&0x1f
	}
}

// Follow gives the shift that lets d's frame come right after the one shown as (picture, tl0, key).
// d begins a key frame, which is of the base layer and therefore counts in TL0 and in the key index.
func (d *VP8Descriptor) Follow(picture uint16, tl0, key uint8) Shift {
	return Shift{Picture: picture + 1 - d.Picture, TL0: tl0 + 1 - d.TL0, KeyIndex: key + 1 - d.KeyIndex}
}

// Shown gives picture, TL0 and key index as they are after s.
func (d *VP8Descriptor) Shown(s Shift) (picture uint16, tl0, key uint8) {
	return d.Picture + s.Picture, d.TL0 + s.TL0, d.KeyIndex + s.KeyIndex
}
