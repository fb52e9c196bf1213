package sfu

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// DownTrack is one UpTrack as one subscriber gets it. It is the webrtc.TrackLocal that Pion binds, and the
// Sink that the UpTrack feeds.
type DownTrack struct {
	id, stream string
	up         *UpTrack
	link       *Downlink

	binding atomic.Pointer[binding]
	target  atomic.Int32 // layer, or paused
	current atomic.Int32 // layer that is being forwarded, or paused; changed under mu
	maxTID  atomic.Int32
	thin    atomic.Bool // see grant
	counts  downCounts

	sentReport  atomic.Pointer[sentReport]
	unsupported atomic.Bool
	red         atomic.Uint32 // payload type of RED, 0: the subscriber has not agreed to it

	wishing  sync.Mutex // guards wish and its turning into target
	wish     Wish
	grant    grant // what the subscriber's line carries
	priority int

	mu       sync.Mutex // guards what follows: the forwarding state; held while a packet is written, by its own layer or a repair
	curTID   uint8
	spared   bool // the newest frame to which no other refers was left out
	pictures pictures
	numbers  packet.Map
	streams  [MaxLayers]*Layer // whose packets the numbers are of
	last     shown
	ended    bool // another goes on where it was, with its numbers
	filled   filled
	greeted  int       // packets that announced it
	repaired *repaired // nil until something was asked for again
	rtxSeq   uint16
	out      *outbox // for what is being sent; nil: it leaves alone
	header   rtp.Header
	meta     packet.Meta
	number   [2]byte // transport-wide number, as the header's extension points to it
	view     *view   // of a scalable stream; nil before it began

	// owned by the Downlink, under its lock
	asked  demand
	told   bool   // the subscriber was told that the track is paused
	judged uint64 // bytes that had been sent when the line was judged by reports
}

// grant is what the line has room for: a layer up to a temporal layer.
type grant struct {
	layer int // or paused
	tid   int32
	thin  bool // without every other frame to which no other refers
}

// level orders the grants of one layer.
func (g grant) level() int32 {
	if g.thin {
		return 2 * g.tid
	}
	return 2*g.tid + 1
}

var everything = grant{layer: MaxLayers - 1, tid: allTID}

// binding is what was agreed with the subscriber.
type binding struct {
	writer  webrtc.TrackLocalWriter
	ssrc    uint32
	payload uint8
	rtxSSRC uint32
	rtx     uint8           // 0: no repair stream
	numbers []rtp.Extension // the transport-wide number; nil if the subscriber gives no feedback on it

	descriptor uint8           // id of the dependency descriptor; 0: the subscriber does not read it
	described  []rtp.Extension // that and the transport-wide number, if there is one

	sent []sending // the newest packets, by number, if there is no repair stream; guarded by the track's mu
}

// sending is how a packet went out. Without a repair stream a repair must be the same packet to the last byte: SRTP would encipher
// another one under the same number with the same key stream, and show what is in both.
type sending struct {
	known     bool
	numbered  bool // number holds
	filling   bool // mere padding
	kind      uint8
	seq       uint16
	transport uint16 // the transport-wide number
}

// shown is the newest of what the subscriber saw.
type shown struct {
	sent      bool
	at        time.Time
	timestamp uint32
	layer     int
	picture   uint16
	tl0, key  uint8
}

// NewDownTrack makes a subscription; id and stream are what the subscriber reads in the SDP.
// It is fed once the caller adds it to the UpTrack with Start.
func NewDownTrack(up *UpTrack, link *Downlink, id, stream string) *DownTrack {
	d := &DownTrack{id: id, stream: stream, up: up, link: link, wish: Best, grant: everything}
	d.current.Store(paused)
	d.maxTID.Store(temporal(0))
	d.retarget()
	return d
}

// Start begins to forward, as soon as Pion has bound the track and the transport is up.
func (d *DownTrack) Start() {
	d.link.attach(d)
	d.up.AddSink(d)
	d.LayersChanged()
}

// Stop ends the subscription.
func (d *DownTrack) Stop() {
	d.up.RemoveSink(d)
	d.link.detach(d)
	d.link.in.removeDown(d)
}

// ID, RID, StreamID and Kind are for Pion.
func (d *DownTrack) ID() string       { return d.id }
func (d *DownTrack) RID() string      { return "" }
func (d *DownTrack) StreamID() string { return d.stream }
func (d *DownTrack) Kind() webrtc.RTPCodecType {
	if d.up.video {
		return webrtc.RTPCodecTypeVideo
	}
	return webrtc.RTPCodecTypeAudio
}

// Bind takes what was agreed in an offer and its answer. A subscriber without the codec gets nothing, and
// Unsupported says so: an error here would spoil the whole negotiation.
func (d *DownTrack) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	agreed := ctx.CodecParameters()
	if len(agreed) == 0 {
		return webrtc.RTPCodecParameters{}, webrtc.ErrUnsupportedCodec
	}
	codec := d.up.Codec()
	if codec == nil {
		return webrtc.RTPCodecParameters{}, fmt.Errorf("sfu: track %s has no codec yet", d.id)
	}
	chosen, rtx, ok := match(codec.RTPCodecCapability, agreed)
	if !ok {
		d.unsupported.Store(true)
		return agreed[0], nil
	}
	b := &binding{writer: ctx.WriteStream(), ssrc: uint32(ctx.SSRC()), payload: uint8(chosen.PayloadType)}
	if ssrc := ctx.SSRCRetransmission(); ssrc != 0 && rtx != 0 {
		b.rtxSSRC, b.rtx = uint32(ssrc), uint8(rtx)
	} else {
		b.sent = make([]sending, d.cached())
	}
	for _, ext := range ctx.HeaderExtensions() {
		switch ext.URI {
		case sdp.TransportCCURI:
			b.numbers = d.extension(uint8(ext.ID))
		case packet.DependencyURI:
			b.descriptor = uint8(ext.ID)
		}
	}
	b.describe()
	d.link.in.addDown(d, b.ssrc, b.rtxSSRC)
	d.binding.Store(b)
	return chosen, nil
}

// extension makes the header extension that points to d.number.
func (d *DownTrack) extension(id uint8) []rtp.Extension {
	h := rtp.Header{Extension: true, ExtensionProfile: rtp.ExtensionProfileOneByte}
	if h.SetExtension(id, d.number[:]) != nil {
		return nil // an id that one byte cannot hold: no feedback then
	}
	return h.Extensions
}

// Unsupported says that the subscriber agreed to no codec of this track.
func (d *DownTrack) Unsupported() bool { return d.unsupported.Load() }

// Unbind ends what Bind began.
func (d *DownTrack) Unbind(webrtc.TrackLocalContext) error {
	d.binding.Store(nil)
	return nil
}

// SetWish takes the subscriber's wish.
func (d *DownTrack) SetWish(w Wish) {
	d.wishing.Lock()
	d.wish = w
	d.wishing.Unlock()
	d.retarget()
	d.link.wake()
}

// SetPriority says how important the track is to the subscriber: more is more. A screen comes before who speaks, and who
// speaks before the others.
func (d *DownTrack) SetPriority(p int) {
	d.wishing.Lock()
	same := d.priority == p
	d.priority = p
	d.wishing.Unlock()
	if !same {
		d.link.wake()
	}
}

// Priority is what SetPriority has set.
func (d *DownTrack) Priority() int {
	d.wishing.Lock()
	defer d.wishing.Unlock()
	return d.priority
}

// Wanted is the layer that the subscriber would have if it were there, or -1.
func (d *DownTrack) Wanted() int {
	d.wishing.Lock()
	defer d.wishing.Unlock()
	if d.wish.Disabled {
		return paused
	}
	return suits(d.wish, d.up.pictures())
}

// LayersChanged chooses anew.
func (d *DownTrack) LayersChanged() {
	d.retarget()
	d.link.wake()
}

func (d *DownTrack) retarget() {
	d.wishing.Lock()
	defer d.wishing.Unlock()
	d.maxTID.Store(min(temporal(d.wish.FPS), d.grant.tid))
	d.thin.Store(d.grant.thin)
	target := choose(d.wish, d.grant.layer, d.up.pictures(), d.up.Alive())
	if d.target.Swap(int32(target)) == int32(target) || target == paused {
		return
	}
	if l := d.up.source(target); l != nil && l.scalable == nil { // a scalable stream shows whether it needs one
		d.askKeyFrame(target)
	}
}

// askKeyFrame asks for a key frame of a layer, unless it would come before the subscriber can have it.
func (d *DownTrack) askKeyFrame(layer int) {
	if l := d.up.source(layer); l != nil && d.up.video && (d.link.near.Load() || d.link.ready.Load()) && d.binding.Load() != nil {
		l.RequestKeyFrame()
	}
}

// AskKeyFrame asks for a key frame of the layer that is wanted, so that a subscriber need not wait for the next packet.
func (d *DownTrack) AskKeyFrame() { d.askKeyFrame(int(d.target.Load())) }

// Push forwards a packet, if it is wanted: under which number, and out.
func (d *DownTrack) Push(p *Packet) {
	target, current := d.target.Load(), d.current.Load()
	if p.Layer.scalable != nil {
		d.pushScalable(p, target)
		return
	}
	if i := int32(p.Layer.Index); i != current && i != target || !d.link.ready.Load() {
		if target == paused && current != paused {
			d.current.Store(paused)
		}
		return
	}
	b := d.binding.Load()
	if b == nil {
		return
	}
	d.mu.Lock()
	d.out = p.out
	if !d.ended {
		d.forward(b, p, target)
	}
	d.out = nil
	d.mu.Unlock()
}

func (d *DownTrack) forward(b *binding, p *Packet, target int32) {
	l, meta := p.Layer, &p.Meta
	if target == paused {
		d.current.Store(paused)
		return
	}
	if meta.Restored && d.takesCopies() {
		return
	}
	if (int32(l.Index) != d.current.Load() || d.streams[l.Index] != l) && !d.switchTo(l, p.Seq, meta) {
		return
	}
	d.pass(b, l, p.Seq, meta, p.Payload)
}

// pass sends a packet of the current layer, or leaves it out.
func (d *DownTrack) pass(b *binding, l *Layer, seq int64, meta *packet.Meta, payload []byte) {
	late := d.numbers.Late(seq)
	if goes, first := d.wanted(l, late, meta); !goes {
		d.omit(b, seq, meta, late, first)
		return
	}
	out, span, ok := d.numbers.Forward(seq)
	if !ok {
		return
	}
	d.note(meta, span, l)
	d.write(b, meta, span, out, payload, nil, l.codec, nil)
}

// switchTo begins to forward layer l, if seq is where that can be done.
func (d *DownTrack) switchTo(l *Layer, seq int64, meta *packet.Meta) bool {
	if meta.Empty || int32(l.Index) != d.target.Load() {
		return false
	}
	if l.codec.KeyFrames() && !meta.Key {
		if d.catchUp(l, seq) {
			return true
		}
		l.RequestKeyFrame()
		return false
	}
	d.begin(l, seq, meta)
	return true
}

// catchUp begins with a key frame that went by a moment ago, and sends what has come since: who joins, and a layer that
// wakes, need not wait for another.
func (d *DownTrack) catchUp(l *Layer, seq int64) bool {
	age := catchUpNew
	if d.last.sent {
		age = catchUpSwitch
	}
	first, ok := l.keySince(seq, age)
	b := d.binding.Load()
	if !ok || b == nil || d.late(l, first) {
		return false
	}
	meta := &d.meta
	for s := first; s < seq; s++ {
		n, ok := l.cache.Get(s, meta, l.scratch)
		if s == first {
			if !ok || !meta.Key {
				return false
			}
			d.begin(l, s, meta)
		}
		if ok {
			d.pass(b, l, s, meta, l.scratch[:n])
		}
	}
	return true
}

const (
	catchUpNew    = 300 * time.Millisecond // for a subscriber who has seen nothing yet
	catchUpSwitch = 100 * time.Millisecond // for one who sees another layer: the picture must not go back in time
)

// late says whether a packet of l comes after a higher one that the numbers know of.
func (d *DownTrack) late(l *Layer, seq int64) bool {
	span := d.numbers.Current()
	return span != nil && int(span.Layer) == l.Index && d.streams[l.Index] == l && d.numbers.Late(seq)
}

// meet has l be the stream of its layer. The numbers of another that was in its place are no longer known: what comes late, or is asked
// for again, would be l's packets under them.
func (d *DownTrack) meet(l *Layer) {
	if before := d.streams[l.Index]; before != nil && before != l {
		d.numbers, d.last.layer = d.numbers.Follow(), noLayer
	}
	d.streams[l.Index] = l
}

// begin lets the layer's packets go on from what was shown, from seq on.
func (d *DownTrack) begin(l *Layer, seq int64, meta *packet.Meta) {
	d.meet(l)
	span := packet.Span{Layer: int8(l.Index), In: seq}
	if d.last.sent {
		span.Timestamp = d.align(l, meta.Timestamp)
		if l.codec == packet.VP8 {
			span.VP8 = meta.VP8.Follow(d.last.picture, d.last.tl0, d.last.key)
		}
	}
	d.numbers.Begin(span)
	d.current.Store(int32(l.Index))
	d.curTID = 3
	if max := uint8(d.maxTID.Load()); max < d.curTID {
		d.curTID = max
	}
}

// align gives what must be added to l's timestamps so that they go on from what was shown.
func (d *DownTrack) align(l *Layer, timestamp uint32) uint32 {
	span := d.numbers.Current()
	if d.last.layer == l.Index {
		return span.Timestamp // one stream that paused: its own clock went on
	}
	elapsed := uint32(time.Since(d.last.at).Milliseconds() * int64(l.clock) / 1000)
	next := d.last.timestamp + max(elapsed, 1)
	if d.last.layer != noLayer {
		if from, to := d.streams[d.last.layer].report.Load(), l.report.Load(); from != nil && to != nil {
			// the same instant on both layers' clocks
			ntp := int64(to.ntp-from.ntp) * int64(l.clock) >> 32
			same := from.rtp + uint32(ntp) + (timestamp - to.rtp) + span.Timestamp
			if ahead := int32(same - d.last.timestamp); ahead > 0 && ahead < int32(10*l.clock) {
				next = same
			}
		}
	}
	return next - timestamp
}

// note keeps what the subscriber saw last, for the next switch.
func (d *DownTrack) note(meta *packet.Meta, span *packet.Span, l *Layer) {
	timestamp := meta.Timestamp + span.Timestamp
	if d.last.sent && int32(timestamp-d.last.timestamp) < 0 {
		return
	}
	d.last.sent, d.last.at, d.last.timestamp, d.last.layer = true, time.Now(), timestamp, l.Index
	if l.codec == packet.VP8 {
		d.last.picture, d.last.tl0, d.last.key = meta.VP8.Shown(span.VP8)
	}
}

// write sends a packet; again is how it went out before, nil: it did not.
func (d *DownTrack) write(b *binding, meta *packet.Meta, span *packet.Span, out int64, payload, extra []byte, codec packet.Codec, again *sending) {
	if codec == packet.VP8 {
		meta.VP8.Apply(span.VP8, payload)
	}
	kind := b.payload
	if again != nil {
		kind = again.kind
	} else if meta.Newest != 0 {
		kind = d.foldedKind(b)
	}
	if meta.Newest != 0 {
		payload = folded(b, kind, meta, payload)
	}
	d.header = rtp.Header{
		Version: 2, Marker: marker(meta, span), PayloadType: kind, SSRC: b.ssrc,
		SequenceNumber: uint16(out), Timestamp: meta.Timestamp + span.Timestamp,
	}
	if again == nil {
		d.stamp(b, len(payload)+len(extra), false)
		b.remember(&d.header, d.number[:])
	} else if again.numbered {
		d.setNumber(b, again.transport)
		d.link.sentAgain(again.transport)
	}
	if len(extra) > 0 {
		d.describeFrame(b, meta, span, extra)
	}
	if d.emit(b, payload) != nil {
		return // the transport is closing; calls will hear of it
	}
	d.counts.packets.Add(1)
	d.counts.bytes.Add(uint64(len(payload)))
}

// emit sends d.header and a payload.
func (d *DownTrack) emit(b *binding, payload []byte) error {
	if w := d.link.in.road(); w.carries() {
		return w.write(d.out, &d.header, payload)
	}
	_, err := b.writer.WriteRTP(&d.header, payload)
	return err
}

// stamp gives d.header the next transport-wide number.
func (d *DownTrack) stamp(b *binding, payload int, probe bool) {
	if b.numbers == nil {
		return
	}
	if seq, ok := d.link.number(payload, probe); ok {
		d.setNumber(b, seq)
	}
}

func (d *DownTrack) setNumber(b *binding, seq uint16) {
	binary.BigEndian.PutUint16(d.number[:], seq)
	d.header.Extension, d.header.ExtensionProfile, d.header.Extensions = true, rtp.ExtensionProfileOneByte, b.numbers
}
