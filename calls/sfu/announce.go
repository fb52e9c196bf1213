package sfu

import (
	"time"

	"github.com/pion/rtp"
)

// A client on Pion has a track with its first packet: of one that is muted, or whose picture stands still, it would know nothing until
// that goes on. So it gets a few packets in which nothing is to be seen or heard, under the numbers before those of the first real
// one. (LiveKit 1.13.5: sendPaddingOnMute)

const (
	announceEvery = 500 * time.Millisecond
	announceMost  = 10 // packets of one track
)

// silence is a frame of Opus in which nothing is to be heard; decoders read no further than that.
var silence = []byte{0xf8, 0xff, 0xfe}

// announce has the tracks show that they are there of which nothing has gone out yet.
func (l *Downlink) announce(now time.Time) {
	if !l.ready.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tracks {
		t.announce(now, l.cfg.Trailer)
	}
}

// announce sends the next of the packets that announce the track. Those of a picture are padding; those of a voice are silence that ends with the
// trailer: LiveKit's SDK for Go (2.18.1) cannot decrypt an empty packet, and knows by the trailer that it need not.
func (d *DownTrack) announce(now time.Time, trailer []byte) {
	b, codec := d.binding.Load(), d.up.Codec()
	if b == nil || codec == nil || d.counts.packets.Load() > 0 {
		return
	}
	out := borrowOutbox()
	defer out.giveBack() // without the lock
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.greeted == announceMost || d.numbers.Current() != nil {
		return
	}
	d.greeted++
	var payload []byte
	d.header = rtp.Header{Version: 2, Marker: true, PayloadType: b.payload, SSRC: b.ssrc, SequenceNumber: uint16(d.numbers.Spend(int64(b.ssrc)))}
	if d.up.video {
		d.header.Padding, d.header.PaddingSize = true, fillingSize
	} else {
		payload = append(append(payload, silence...), trailer...)
	}
	if d.last.sent {
		d.header.Timestamp = d.last.timestamp + uint32(now.Sub(d.last.at).Milliseconds()*int64(codec.ClockRate)/1000)
	}
	d.last = shown{sent: true, at: now, timestamp: d.header.Timestamp, layer: noLayer}
	d.stamp(b, len(payload)+int(d.header.PaddingSize), false)
	d.out = out
	_ = d.emit(b, payload) // lost or closing: the next one announces it, or the subscriber is gone
	d.out = nil
}
