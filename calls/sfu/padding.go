package sfu

import (
	"slices"

	"github.com/pion/rtp"

	"chancery/calls/packet"
)

// fill sends mere padding under the number of a packet that comes late and is left out: what came before it has gone out as if it
// would go too, and without it the subscriber waits and asks for it in vain.
func (d *DownTrack) fill(b *binding, seq int64, meta *packet.Meta) {
	out, span, ok := d.numbers.Forward(seq)
	if !ok {
		return
	}
	d.filled.note(out)
	d.sendFilling(b, meta, span, out, nil)
}

// sendFilling sends what fill does; again is how it went out before, nil: it did not.
func (d *DownTrack) sendFilling(b *binding, meta *packet.Meta, span *packet.Span, out int64, again *sending) {
	d.header = rtp.Header{
		Version: 2, Padding: true, PaddingSize: fillingSize, PayloadType: b.payload, SSRC: b.ssrc,
		SequenceNumber: uint16(out), Timestamp: meta.Timestamp + span.Timestamp,
	}
	if again == nil {
		d.stamp(b, fillingSize, false)
		b.remember(&d.header, d.number[:])
	} else if again.numbered {
		d.setNumber(b, again.transport)
		d.link.sentAgain(again.transport)
	}
	_ = d.emit(b, nil) // lost or closing: the subscriber asks again or is gone
}

// filled are the newest numbers under which mere padding went out; 0 is none.
type filled struct {
	numbers [64]int64
	count   int
}

func (f *filled) note(out int64) {
	f.numbers[f.count%len(f.numbers)] = out
	f.count++
}

func (f *filled) has(out int64) bool { return slices.Contains(f.numbers[:], out) }

// pad sends packets of padding on the repair stream, by which the line is probed. It says how many bytes went out, 0 if
// this track has nothing to pad on.
func (d *DownTrack) pad(bytes int) (sent int) {
	b := d.binding.Load()
	if b == nil || b.rtx == 0 || b.numbers == nil {
		return 0
	}
	out := borrowOutbox()
	defer out.giveBack() // without the lock
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return 0
	}
	d.out = out
	defer func() { d.out = nil }()
	for sent < bytes {
		d.header = rtp.Header{
			Version: 2, Padding: true, PaddingSize: paddingSize, PayloadType: b.rtx, SSRC: b.rtxSSRC,
			SequenceNumber: d.rtxSeq, Timestamp: d.last.timestamp,
		}
		d.rtxSeq++
		d.stamp(b, paddingSize, true)
		if d.emit(b, nil) != nil {
			return sent
		}
		sent += paddingSize + packetOverhead
	}
	return sent
}

const (
	fillingSize    = 4
	paddingSize    = 224 // a multiple of the ciphers' blocks, as browsers do it
	packetOverhead = 64  // headers of IP and UDP, header, extension and authentication of a packet
)
