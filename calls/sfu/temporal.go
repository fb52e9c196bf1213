package sfu

import "chancery/calls/packet"

// wanted says whether a packet of the current layer goes out, by the temporal layer of its picture, and whether it is the first that
// is seen of a picture.
func (d *DownTrack) wanted(l *Layer, late bool, meta *packet.Meta) (goes, first bool) {
	if meta.Empty {
		return false, false
	}
	v := &meta.VP8
	if !v.HasTemporal() {
		return true, false
	}
	if goes, known := d.pictures.find(l.Index, meta.Timestamp, late); known {
		return goes, false
	}
	if late { // nothing of it came in time, and its picture ID is kept free: browsers hold others back that come after a hole
		goes = v.Temporal <= d.curTID || v.Sync || v.Loose && v.Temporal == d.curTID+1
	} else {
		goes = d.nextPicture(meta)
	}
	d.pictures.note(picture{timestamp: meta.Timestamp, layer: int8(l.Index), goes: goes, known: true}, late)
	return goes, true
}

// nextPicture decides on the picture that begins, of which the first packet may have been lost.
func (d *DownTrack) nextPicture(meta *packet.Meta) bool {
	v, limit := &meta.VP8, uint8(d.maxTID.Load())
	switch {
	case limit < d.curTID:
		d.curTID = limit
	case v.Temporal > d.curTID && v.Temporal <= limit && v.Sync:
		d.curTID = v.Temporal
	case meta.Key:
		d.curTID = limit
	}
	if v.Loose {
		d.spared = d.thin.Load() && !d.spared
	}
	return v.Temporal <= d.curTID && !(v.Loose && d.spared)
}

// omit closes the gaps that a packet which is left out leaves in the numbers, and its picture in the picture IDs. A late one's number is
// spoken for, and goes out with padding.
func (d *DownTrack) omit(b *binding, seq int64, meta *packet.Meta, late, first bool) {
	span := d.numbers.Current()
	switch {
	case span == nil:
	case late:
		d.fill(b, seq, meta)
	case meta.Empty:
		d.numbers.Drop(seq, span.VP8)
	case first:
		shift := span.VP8
		shift.Picture--
		d.numbers.Drop(seq, shift)
	default:
		d.numbers.Skip(seq) // what is missing before it is of the same picture
	}
}

// pictures are the newest pictures that were decided on: which of them go out.
type pictures struct {
	list   [64]picture
	count  int
	newest picture // that did not come late
}

type picture struct {
	timestamp uint32
	layer     int8
	goes      bool
	known     bool
}

func (p *picture) is(layer int, timestamp uint32) bool {
	return p.known && p.timestamp == timestamp && int(p.layer) == layer
}

func (p *pictures) note(q picture, late bool) {
	p.list[p.count%len(p.list)] = q
	p.count++
	if !late {
		p.newest = q
	}
}

// find says whether a picture goes out, if that was decided. A packet that is not late is of the newest or of none.
func (p *pictures) find(layer int, timestamp uint32, late bool) (goes, known bool) {
	if !late {
		return p.newest.goes, p.newest.is(layer, timestamp)
	}
	for i := range p.list {
		if q := &p.list[i]; q.is(layer, timestamp) {
			return q.goes, true
		}
	}
	return false, false
}

// leftOut says whether a packet was left out, or would have been if it had come before its layer was left.
func (d *DownTrack) leftOut(span *packet.Span, meta *packet.Meta) bool {
	goes, known := d.pictures.find(int(span.Layer), meta.Timestamp, true)
	return meta.Empty || known && !goes
}
