package sfu

import (
	"encoding/binary"
	"time"

	"github.com/pion/rtp"

	"chancery/calls/packet"
)

// repair answers a NACK pair from the cache, over the repair stream if there is one. buf is the caller's.
func (d *DownTrack) repair(first, mask uint16, buf []byte) {
	b := d.binding.Load()
	if b == nil {
		return
	}
	out := borrowOutbox()
	defer out.giveBack() // without the lock
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.repaired == nil {
		d.repaired = &repaired{}
	}
	d.out = out
	defer func() { d.out = nil }()
	now := time.Now().UnixMilli()
	d.repairOne(b, first, now, buf)
	for i := uint16(1); mask != 0; i, mask = i+1, mask>>1 {
		if mask&1 != 0 {
			d.repairOne(b, first+i, now, buf)
		}
	}
}

func (d *DownTrack) repairOne(b *binding, out uint16, now int64, buf []byte) {
	in, span, ok := d.numbers.Back(out)
	if !ok || !d.repaired.allow(out, now, d.counts.rtt.Load()/1000) {
		return
	}
	l := d.up.Layer(int(span.Layer))
	if l == nil {
		return
	}
	meta := &d.meta
	n, ok := l.cache.Get(in, meta, buf[2:])
	if !ok && d.up.video && in < l.newest.Load()-videoCache {
		d.AskKeyFrame() // too old to be sent again
	}
	if !ok || meta.Empty || d.up.video && !d.link.mayRepair(n) {
		return
	}
	again := b.remembered(out)
	if b.rtx == 0 && again == nil {
		return // under this number went something else, or nothing
	}
	d.counts.repaired.Add(1)
	payload, extra := buf[2:2+n], buf[2+n:2+n+int(meta.Extra)]
	if b.rtx == 0 {
		d.write(b, meta, span, int64(out), payload, extra, l.codec, again)
		return
	}
	if l.codec == packet.VP8 {
		meta.VP8.Apply(span.VP8, payload)
	}
	binary.BigEndian.PutUint16(buf, out)
	d.header = rtp.Header{
		Version: 2, Marker: marker(meta, span), PayloadType: b.rtx, SSRC: b.rtxSSRC,
		SequenceNumber: d.rtxSeq, Timestamp: meta.Timestamp + span.Timestamp,
	}
	d.rtxSeq++
	d.stamp(b, 2+n+len(extra), false)
	if len(extra) > 0 {
		d.describeFrame(b, meta, span, extra)
	}
	_ = d.emit(b, buf[:2+n]) // lost or closing: the subscriber asks again or is gone
}

// remember notes how a packet goes out, for its repair.
func (b *binding) remember(h *rtp.Header, number []byte) {
	if len(b.sent) == 0 {
		return
	}
	b.sent[int(h.SequenceNumber)%len(b.sent)] = sending{
		known: true, numbered: h.Extension, kind: h.PayloadType, seq: h.SequenceNumber, transport: binary.BigEndian.Uint16(number),
	}
}

// remembered is how a packet went out, nil if that is not known.
func (b *binding) remembered(seq uint16) *sending {
	if len(b.sent) == 0 {
		return nil
	}
	if s := &b.sent[int(seq)%len(b.sent)]; s.known && s.seq == seq {
		return s
	}
	return nil
}

// cached is how many packets of a layer are kept.
func (d *DownTrack) cached() int {
	if d.up.video {
		return videoCache
	}
	return audioCache
}

// repaired remembers what was sent again, so that a storm of NACKs brings each packet a few times only.
type repaired struct {
	slots [256]struct {
		seq   uint16
		tries uint8
		at    int64
	}
}

const maxRepairs = 5

func (r *repaired) allow(seq uint16, now, rttMillis int64) bool {
	s := &r.slots[seq%uint16(len(r.slots))]
	if s.seq != seq || now-s.at > 5000 {
		s.seq, s.tries, s.at = seq, 0, 0
	}
	if s.tries >= maxRepairs || now-s.at < min(max(rttMillis, 10), 200) {
		return false
	}
	s.tries++
	s.at = now
	return true
}
