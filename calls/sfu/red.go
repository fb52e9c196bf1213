package sfu

import (
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// fold is how a layer of Opus comes in RED (RFC 2198). It belongs to the goroutine that reads the layer.
type fold struct {
	payloads redPayloads
	blocks   packet.RED
	last     uint32 // timestamp of the highest packet
	restored Packet
	part     int           // thousandths of a packet that copies take, smoothed
	copies   atomic.Uint32 // the same in percent, for everybody
}

// redPayloads are the publisher's payload types. The zero value stands for a stream without RED.
type redPayloads struct{ red, opus uint8 }

// withoutRED gives the codec that lies in RED, if the first packet came so, and both payload types, if RED was agreed upon.
func withoutRED(codec webrtc.RTPCodecParameters, agreed []webrtc.RTPCodecParameters) (webrtc.RTPCodecParameters, redPayloads) {
	for _, red := range agreed {
		if !strings.EqualFold(red.MimeType, MimeTypeRED) {
			continue
		}
		inner, _, _ := strings.Cut(red.SDPFmtpLine, "/")
		for _, c := range agreed {
			if !strings.EqualFold(c.MimeType, webrtc.MimeTypeOpus) || inner != "" && inner != strconv.Itoa(int(c.PayloadType)) {
				continue
			}
			if strings.EqualFold(codec.MimeType, MimeTypeRED) {
				codec = c
			}
			return codec, redPayloads{red: uint8(red.PayloadType), opus: uint8(c.PayloadType)}
		}
	}
	return codec, redPayloads{}
}

// read notes where the newest block of a redundant packet lies. One that cannot be read, or may not be, is worth nothing.
func (f *fold) read(payload uint8, p *Packet, allowed bool) {
	if f.payloads.red == 0 || payload != f.payloads.red || p.Meta.Empty {
		return
	}
	if !allowed || !packet.ParseRED(p.Payload, &f.blocks) || f.blocks.Payload != f.payloads.opus || f.blocks.Newest == len(p.Payload) {
		p.Meta.Empty = true
		return
	}
	p.Meta.Newest = uint16(f.blocks.Newest)
	const header = 20 // of RTP, with its extensions
	f.part += (f.blocks.Newest*1000/(len(p.Payload)+header+lineOverhead) - f.part) / 16
	f.copies.Store(uint32(f.part / 10))
}

func (f *fold) note(p *Packet) {
	if p.Seq >= p.Layer.newest.Load() {
		f.last = p.Meta.Timestamp
	}
}

// restore gives the packets that were lost before p and are copied in it to those who get no copies. The block before the
// newest is that of the packet before p, and so on; one whose time does not fit in between is none of them.
func (l *Layer) restore(p *Packet, ms int64) {
	f, high := &l.fold, l.newest.Load()
	if high == 0 || p.Seq <= high+1 || p.Seq-high > packet.MaxREDBlocks+1 {
		return
	}
	last := f.last
	for i := range f.blocks.N {
		b := &f.blocks.Older[i]
		r := &f.restored
		*r = Packet{Layer: l, Seq: p.Seq - int64(f.blocks.N-i), Payload: p.Payload[b.Start:b.End]}
		r.Meta = packet.Meta{Timestamp: p.Meta.Timestamp - uint32(b.Back), Start: true, Restored: true}
		fits := int32(r.Meta.Timestamp-last) > 0 && int32(p.Meta.Timestamp-r.Meta.Timestamp) > 0
		if r.Seq <= high || !fits || b.Payload != f.payloads.opus || b.Start == b.End || !l.cache.Put(r.Seq, r.Meta, r.Payload, nil) {
			continue
		}
		last = r.Meta.Timestamp
		l.counts.packets.Add(1)
		l.missing.note(r.Seq, ms)
		l.push(r)
	}
}

// TakeRED says under which payload type the subscriber takes RED on this track; 0: it does not.
func (d *DownTrack) TakeRED(payload uint8) { d.red.Store(uint32(payload)) }

// takesCopies says whether the subscriber gets copies just now: where its line is narrow the voice itself comes first.
func (d *DownTrack) takesCopies() bool { return d.red.Load() != 0 && !d.link.scant.Load() }

// foldedKind is the payload type under which the subscriber gets a redundant packet just now.
func (d *DownTrack) foldedKind(b *binding) uint8 {
	if red := uint8(d.red.Load()); red != 0 && d.takesCopies() {
		return red
	}
	return b.payload
}

// folded gives a redundant payload as it is sent under a payload type: whole, or the newest block alone.
func folded(b *binding, kind uint8, meta *packet.Meta, payload []byte) []byte {
	if kind == b.payload {
		return payload[meta.Newest:]
	}
	packet.SetREDPayload(payload, b.payload)
	return payload
}
