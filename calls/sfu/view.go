package sfu

import (
	"github.com/pion/rtp"

	"chancery/calls/packet"
)

// view is what one subscriber gets of a scalable stream: the frames of a decode target. It belongs to its DownTrack, under
// its lock.
type view struct {
	version uint32 // of the structure that the targets are of
	asked   int32  // layers that want answers to
	active  uint32
	want    int // decode target that the subscriber should have
	have    int // and has; -1: the stream tells of none, and everything goes out

	begun   bool
	picture uint32 // timestamp and number of the frame that was last decided on
	frame   uint16
	goes    bool // it goes out
	left    bool // the newest packet was left out, and was of frame
	narrow  bool // the subscriber was told of fewer targets since the last key frame

	frames [256]uint16 // that went out, by the low byte of their number

	descriptor [255]byte // as it goes out
}

// everyLayer is the highest layer of a stream that tells of none.
const everyLayer = -1

// pushScalable forwards a packet of a scalable stream, if its frame belongs to what the subscriber is to have.
func (d *DownTrack) pushScalable(p *Packet, target int32) {
	b := d.binding.Load()
	if target == paused {
		d.current.Store(paused)
		return
	}
	if b == nil || !d.link.ready.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out = p.out
	defer func() { d.out = nil }()
	anew := d.current.Load() == paused || d.view == nil || d.streams[p.Layer.Index] != p.Layer
	if d.ended || anew && !d.beginView(p, target) && !d.catchUpView(b, p, target) {
		return
	}
	d.passScalable(b, p, target)
}

// passScalable sends a packet, or leaves it out.
func (d *DownTrack) passScalable(b *binding, p *Packet, target int32) {
	late := d.numbers.Late(p.Seq)
	if !d.shows(p, target, late) {
		d.leaveOut(b, p, late)
		return
	}
	out, span, ok := d.numbers.Forward(p.Seq)
	if !ok {
		return
	}
	d.view.left = d.view.left && late
	d.note(&p.Meta, span, p.Layer)
	d.write(b, &p.Meta, span, out, p.Payload, p.Extra, p.Layer.codec, nil)
}

// catchUpView begins with a key frame that went by a moment ago, and sends what has come since and belongs to the target; or
// it asks for one. See catchUp.
func (d *DownTrack) catchUpView(b *binding, p *Packet, target int32) bool {
	l := p.Layer
	age := catchUpNew
	if d.last.sent {
		age = catchUpSwitch
	}
	first, ok := l.keySince(p.Seq, age)
	if !ok || first >= p.Seq || d.late(l, first) {
		l.RequestKeyFrame()
		return false
	}
	for seq := first; seq < p.Seq; seq++ {
		q, ok := l.scalable.again(l, seq)
		switch {
		case seq == first && (!ok || !d.beginView(q, target)):
			l.RequestKeyFrame()
			return false
		case ok:
			d.passScalable(b, q, target)
		}
	}
	return true
}

// beginView begins with a key frame. It is false for any other packet.
func (d *DownTrack) beginView(p *Packet, target int32) bool {
	s := p.Layer.scalable
	if p.Meta.Empty || !p.Meta.Key || s.structure != nil && !p.Frame.Known {
		return false
	}
	d.meet(p.Layer)
	if d.view == nil {
		d.view = &view{}
	}
	v := d.view
	v.begun, v.have, v.narrow, v.version = false, everyLayer, false, 0
	for i := range v.frames {
		v.frames[i] = uint16(i + 1) // none that stands here
	}
	span := packet.Span{Layer: int8(p.Layer.Index), In: p.Seq, Top: everyLayer}
	if d.last.sent {
		span.Timestamp = d.align(p.Layer, p.Meta.Timestamp)
	}
	d.numbers.Begin(span)
	d.current.Store(target)
	return true
}

// shows says whether a packet goes out. What the stream does not tell of goes out: nobody can say that it is not needed.
func (d *DownTrack) shows(p *Packet, target int32, late bool) bool {
	v, f := d.view, &p.Frame
	if p.Meta.Empty {
		return false
	}
	if !f.Known {
		return true
	}
	if late {
		return v.have == everyLayer || f.Present>>v.have&1 != 0
	}
	if !v.begun || f.Number != v.frame || p.Meta.Timestamp != v.picture {
		d.nextFrame(p, target)
	}
	return v.goes
}

// nextFrame decides on the frame that p is the first seen packet of.
func (d *DownTrack) nextFrame(p *Packet, target int32) {
	v, f, s := d.view, &p.Frame, p.Layer.scalable
	before := v.have
	v.choose(s, target, d.maxTID.Load())
	switch {
	case v.have == everyLayer || s.version != v.version:
		v.have, v.version = v.want, s.version // a key frame, or the first that shows what it is
	case v.have != v.want && v.may(s.structure, f, p.Meta.Timestamp):
		v.have = v.want
	case v.have != v.want && v.far(s.structure):
		p.Layer.RequestKeyFrame()
	}
	if chain := s.structure.Chain(v.have); s.chained() && s.chains.broken>>chain&1 != 0 {
		p.Layer.RequestKeyFrame()
	}
	v.begun, v.left, v.frame, v.picture = true, false, f.Number, p.Meta.Timestamp
	v.goes = f.Present>>v.have&1 != 0 || f.Key // with a key frame comes the structure, which everybody needs
	if v.goes {
		v.frames[f.Number&0xff] = f.Number
	}
	if f.Key || v.have != before || v.narrow {
		d.tellView(p, s)
	}
}

// choose finds the decode target that the subscriber should have.
func (v *view) choose(s *scalable, target, temporal int32) {
	if asked := target<<8 | temporal; asked != v.asked || s.active != v.active || s.version != v.version {
		v.asked, v.active = asked, s.active
		v.want = max(0, s.structure.Target(int(target), int(temporal), s.active))
	}
}

// may says whether the frame f, which begins, is where the subscriber can get another target: downwards with each picture,
// upwards where the publisher says so, if the frame can be decoded with what was sent.
func (v *view) may(s *packet.Structure, f *packet.Frame, timestamp uint32) bool {
	if s.Covers(v.have)>>v.want&1 != 0 {
		return timestamp != v.picture
	}
	if f.Switch>>v.want&1 == 0 || f.Key {
		return f.Key
	}
	if from, to := s.Layers(v.have), s.Layers(v.want); from.Spatial != to.Spatial && timestamp == v.picture {
		return false // the picture has had its marker
	}
	needs, told := f.Needs()
	if !told {
		return f.Present>>v.have&1 != 0 && s.Chain(v.have) == s.Chain(v.want)
	}
	for _, diff := range needs {
		if before := f.Number - diff; v.frames[before&0xff] != before {
			return false
		}
	}
	return true
}

// far says whether only a key frame leads to the target that is wanted.
func (v *view) far(s *packet.Structure) bool {
	return s.Covers(v.have)>>v.want&1 == 0 && (s.Chains == 0 || s.Chain(v.want) != s.Chain(v.have))
}

// tellView has the packets from p on say what is left of the stream: the marker behind the highest layer, and which decode
// targets can be decoded.
func (d *DownTrack) tellView(p *Packet, s *scalable) {
	v := d.view
	mask := s.structure.Covers(v.have) & s.active
	switch {
	case mask != s.active:
		v.narrow = true
	case p.Frame.Key:
		v.narrow, mask = false, 0
	case !v.narrow:
		mask = 0
	}
	top := s.structure.Layers(v.have).Spatial
	d.current.Store(int32(min(top, MaxLayers-1)))
	if span := d.numbers.Current(); span != nil && span.Top == int8(top) && span.Mask == mask {
		return
	}
	if span := d.numbers.Cut(p.Seq); span != nil {
		span.Top, span.Mask = int8(top), mask
	}
}

// leaveOut closes the gap that a packet leaves. A late one's number is spoken for, and goes out with padding.
func (d *DownTrack) leaveOut(b *binding, p *Packet, late bool) {
	switch {
	case late:
		d.fill(b, p.Seq, &p.Meta)
	case d.view.left && !p.Meta.Empty:
		d.numbers.Skip(p.Seq) // what is missing before it is of the same frame
	default:
		d.numbers.Drop(p.Seq, packet.Shift{})
		d.view.left = !p.Meta.Empty
	}
}

// marker says whether a packet is the last of its picture, as the subscriber gets it.
func marker(meta *packet.Meta, span *packet.Span) bool {
	return meta.Marker || meta.End && int8(meta.Spatial) == span.Top
}

// describe makes the header extensions of packets with a dependency descriptor.
func (b *binding) describe() {
	if b.descriptor == 0 {
		return
	}
	h := rtp.Header{Extension: true, ExtensionProfile: rtp.ExtensionProfileTwoByte}
	if h.SetExtension(b.descriptor, nil) == nil {
		b.described = append(h.Extensions, b.numbers...)
	}
}

// describeFrame adds the dependency descriptor to d.header. One longer than 16 bytes needs the two-byte form (RFC 8285).
func (d *DownTrack) describeFrame(b *binding, meta *packet.Meta, span *packet.Span, descriptor []byte) {
	if b.described == nil || d.view == nil {
		return
	}
	if span.Mask != 0 && meta.Start {
		if n := meta.Mask.Write(d.view.descriptor[:], descriptor, span.Mask); n > 0 {
			descriptor = d.view.descriptor[:n]
		}
	}
	numbered := d.header.Extension
	d.header.Extension, d.header.ExtensionProfile, d.header.Extensions = true, rtp.ExtensionProfileOneByte, b.described
	if !numbered {
		d.header.Extensions = b.described[:1]
	}
	if len(descriptor) > 16 || b.descriptor > 14 {
		d.header.ExtensionProfile = rtp.ExtensionProfileTwoByte
	}
	if d.header.SetExtension(b.descriptor, descriptor) != nil {
		d.header.Extensions = b.numbers // too long for any form
		d.header.Extension, d.header.ExtensionProfile = numbered, rtp.ExtensionProfileOneByte
	}
}

// stepsDown says whether the stream's higher layers can be left out at once, so that none has to stop meanwhile.
func (d *DownTrack) stepsDown() bool {
	l := d.up.source(0)
	return l != nil && l.scalable != nil && l.scalable.down.Load()
}
