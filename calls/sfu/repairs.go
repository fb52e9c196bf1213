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
	if d.ended {
		return
	}
	if d.repaired == nil {
		d.repaired = &repaired{slots: make([]repairedSlot, d.cached())}
	}
	d.out = out
	defer func() { d.out = nil }()
	now := millis(time.Now())
	d.repairOne(b, first, now, buf)
	for i := uint16(1); mask != 0; i, mask = i+1, mask>>1 {
		if mask&1 != 0 {
			d.repairOne(b, first+i, now, buf)
		}
	}
}

func (d *DownTrack) repairOne(b *binding, out uint16, now int64, buf []byte) {
	if d.up.video && d.target.Load() == paused {
		return // a key frame comes before the picture goes on
	}
	in, span, ok := d.numbers.Back(out)
	if !ok || !d.repaired.allows(out, now, d.counts.rtt.Load()/1000) {
		return
	}
	l := d.streams[span.Layer]
	meta := &d.meta
	n, ok := l.cache.Get(in, meta, buf[2:])
	if !ok && d.up.video && in < l.newest.Load()-videoCache { // too old to be sent again
		d.repaired.note(out, now)
		if int32(span.Layer) == d.current.Load() { // another layer has begun with a key frame since
			d.AskKeyFrame()
		}
	}
	again, filling := b.remembered(out), d.leftOut(span, meta) || d.filled.has(in-span.In+span.Out)
	if !ok || b.rtx == 0 && (again == nil || again.filling != filling) { // under this number went something else, or nothing
		return
	}
	if filling {
		n, *meta = 0, packet.Meta{Timestamp: meta.Timestamp}
	}
	d.repaired.note(out, now)
	if !d.repaired.afford(n+packetOverhead, d.repairRate(l), now) || d.up.video && !d.link.mayRepair(n) {
		return
	}
	d.counts.repaired.Add(1)
	payload, extra := buf[2:2+n], buf[2+n:2+n+int(meta.Extra)]
	switch {
	case b.rtx == 0 && filling:
		d.sendFilling(b, meta, span, int64(out), again)
		return
	case b.rtx == 0:
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
		known: true, numbered: h.Extension, filling: h.Padding, kind: h.PayloadType, seq: h.SequenceNumber, transport: binary.BigEndian.Uint16(number),
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

// repaired remembers what was sent again, so that a storm of NACKs brings each packet a few times only, and all of them no more
// than the track takes itself.
type repaired struct {
	slots []repairedSlot // as many as packets are kept
	bytes float64        // that may be sent again
	at    int64          // when they were last counted, milliseconds
}

type repairedSlot struct {
	seq   uint16
	tries uint8
	at    int64
}

const (
	maxRepairs   = 5    // of one packet
	repairedKept = 5000 // milliseconds
	repairBurst  = 2    // seconds of the track that may be sent again at once

	leastRepairs      = 64_000 // bytes in a second, of a picture of which is not known what it takes
	leastAudioRepairs = 8_000  // and of a voice
)

// allows says whether a packet may be sent again: not when it was a moment ago, or a few times.
func (r *repaired) allows(seq uint16, now, rttMillis int64) bool {
	s := r.slot(seq)
	switch {
	case now-s.at > repairedKept:
		return true
	case s.seq != seq:
		return int16(seq-s.seq) > 0 // so old that another has its place: it would be forgotten how often that was sent
	}
	return s.tries < maxRepairs && now-s.at >= min(max(rttMillis, 10), 200)
}

// note takes note that a packet is sent again, or that there is no room for it: on a narrow line who asks often enough gets no more. What has not come
// yet does not count: until the publisher has repeated a packet that was lost on its way to us, subscribers ask for it in vain, every few milliseconds.
func (r *repaired) note(seq uint16, now int64) {
	s := r.slot(seq)
	if s.seq != seq || now-s.at > repairedKept {
		*s = repairedSlot{seq: seq}
	}
	s.tries++
	s.at = now
}

func (r *repaired) slot(seq uint16) *repairedSlot { return &r.slots[int(seq)%len(r.slots)] }

// afford takes the bytes of a packet from what may be sent again, of a track that takes so many bytes in a second.
func (r *repaired) afford(size int, rate float64, now int64) bool {
	r.bytes = min(r.bytes+rate*float64(now-r.at)/1000, rate*repairBurst)
	r.at = now
	if r.bytes < float64(size) {
		return false
	}
	r.bytes -= float64(size)
	return true
}

// repairRate is how many bytes of a layer may be sent again in a second: as many as it brings.
func (d *DownTrack) repairRate(l *Layer) float64 {
	least := leastRepairs
	if !d.up.video {
		least = leastAudioRepairs
	}
	return float64(max(int(l.rates.usual.Load()/8), least))
}
