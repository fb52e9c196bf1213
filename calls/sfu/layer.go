package sfu

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// Layer is one incoming RTP stream: the whole of a track, or one size of it.
type Layer struct {
	Index int

	track   *UpTrack
	ssrc    uint32
	codec   packet.Codec
	clock   uint32
	levelID uint8
	cache   *packet.Cache

	repairable bool // the publisher answers NACKs

	report     atomic.Pointer[senderReport]
	lastPacket atomic.Int64 // milliseconds
	lastAsk    atomic.Int64 // when a key frame was last asked for, milliseconds
	keyWish    atomic.Int64 // since when one is waited for, milliseconds; 0: nobody waits
	lastKey    atomic.Int64 // when the newest key frame began, milliseconds
	askDue     atomic.Int64 // when so many key frames were asked for as may be in the long run, milliseconds
	newest     atomic.Int64 // highest number received
	alive      atomic.Bool

	counts       layerCounts
	levels, loud atomic.Uint32
	loudest      atomic.Uint32

	remote atomic.Pointer[webrtc.TrackRemote] // while its repair stream is not known

	scalable *scalable // nil unless the stream may have several layers in it

	reading sync.Mutex // guards what follows; held while what is full leaves: two meet here only while the layer begins
	in      Packet
	unwrap  packet.Unwrapper
	missing missing
	fold    fold
	keySeq  int64  // first packet of the newest key frame, 0: none
	keyTime uint32 // its timestamp
	scratch []byte // for DownTrack.catchUp
	rates   rates
	transit int64 // of the packet before, for the jitter
	jitter  float64
}

// Packet is one packet as a Sink gets it. It belongs to the Layer and is gone when Push returns; a Sink may rewrite the
// payload's descriptor in place, for whoever comes after writes it anew.
type Packet struct {
	Layer   *Layer
	Seq     int64 // unwrapped
	Meta    packet.Meta
	Payload []byte
	Frame   packet.Frame // of a scalable stream, if it shows
	Extra   []byte       // the dependency descriptor, if there is one
	out     *outbox      // for what is sent of it
}

// senderReport ties a stream's timestamps to its publisher's clock.
type senderReport struct {
	ntp     uint64
	rtp     uint32
	arrived time.Time
}

const (
	videoCache = 512 // packets: more than a second at 2.5 Mbit/s
	audioCache = 64
	// maxLayerBytes bounds what one stream may bring in a second: twice what any camera or screen needs.
	maxLayerBytes = 2_500_000
	// audibleLevel is how loud (-dBov) speech must be to count.
	audibleLevel = 35
)

func newLayer(u *UpTrack, index int, ssrc uint32, codec webrtc.RTPCodecCapability) *Layer {
	l := &Layer{Index: index, track: u, ssrc: ssrc, codec: packet.CodecOf(codec.MimeType), clock: codec.ClockRate}
	l.repairable = !u.video // see calls/audio.go
	l.missing.wait, l.missing.again = reorderWait, nackAgain
	if !u.video { // its packets are far apart: the one after a gap says that there is one
		l.missing.wait, l.missing.again = 0, nackAgainAudio
	}
	for _, f := range codec.RTCPFeedback {
		l.repairable = l.repairable || f.Type == "nack" && f.Parameter == ""
	}
	l.loudest.Store(127)
	l.alive.Store(true)
	l.lastPacket.Store(millis(time.Now()))
	size := audioCache
	if u.video {
		size = videoCache
	}
	l.cache = packet.NewCache(size)
	l.in.Layer = l
	l.scratch = make([]byte, receiveMTU)
	return l
}

// run reads what came before the layer was known, and ends with Pion's receiver. What comes later comes by rtpStream.
func (l *Layer) run(remote *webrtc.TrackRemote) {
	l.track.in.give(l.ssrc, l, false)
	l.giveRepairs(remote)
	buf := make([]byte, receiveMTU)
	for {
		n, _, err := remote.Read(buf)
		if err != nil || !l.stands() {
			return
		}
		l.reading.Lock()
		l.receive(buf[:n], time.Now())
		l.reading.Unlock()
	}
}

// stands says whether the layer is still its track's: another stream may have come in its place.
func (l *Layer) stands() bool { return l.track.layers[l.Index].Load() == l }

// giveRepairs finds the layer's repair stream; of a simulcast layer it is known only when its first packet has come. Where the layer has taken
// over from another stream, that one's repairs are not its own.
func (l *Layer) giveRepairs(remote *webrtc.TrackRemote) {
	ssrc := l.track.in.repairsOf(l.ssrc)
	if ssrc == 0 {
		ssrc = uint32(remote.RtxSSRC())
	}
	if ssrc != 0 && l.track.in.give(ssrc, l, true) {
		return
	}
	l.remote.Store(remote)
}

// lookForRepairs is giveRepairs again, now and then.
func (l *Layer) lookForRepairs() {
	if remote := l.remote.Swap(nil); remote != nil {
		l.giveRepairs(remote)
	}
}

// receive notes a packet, keeps it for repairs, and gives it to all who want it; what they write leaves together.
func (l *Layer) receive(b []byte, now time.Time) {
	h, ok := packet.ParseHeader(b)
	ms := millis(now)
	if !ok || !l.within(ms, len(b)) || !l.stands() {
		return
	}
	p := &l.in
	p.Payload = b[h.Payload:h.End]
	p.Seq = l.unwrap.Unwrap(h.Sequence)
	p.Meta = packet.Describe(l.codec, &h, p.Payload)
	l.fold.read(h.PayloadType, p, l.track.unfolds)
	if l.scalable != nil {
		l.scalable.read(&h, b, p)
	}
	silent := l.track.silent.Load()
	if silent {
		p.Meta.Empty, p.Meta.Extra, p.Payload, p.Extra = true, 0, nil, nil // every subscriber leaves it out, and counts on
	}
	if p.Meta.Newest != 0 && !silent {
		l.restore(p, ms)
	}
	if !l.cache.Put(p.Seq, p.Meta, p.Payload, p.Extra) {
		return
	}
	if l.scalable != nil {
		l.scalable.count(p, ms)
	}
	l.lastPacket.Store(ms)
	l.fold.note(p)
	if !l.alive.Load() {
		l.track.look()
	}
	l.newest.Store(l.unwrap.Highest())
	l.count(p, now)
	l.rates.note(&p.Meta, len(b))
	if p.Meta.Key && p.Seq > l.keySeq && (l.keySeq == 0 || p.Meta.Timestamp != l.keyTime) {
		l.keySeq, l.keyTime = p.Seq, p.Meta.Timestamp
		l.lastKey.Store(ms)
	}
	if l.levelID != 0 && !silent {
		l.noteLevel(packet.AudioLevel(h.Extension(b, l.levelID)))
	}
	if l.repairable && l.missing.note(p.Seq, ms) {
		l.askAgain(ms)
	}
	if l.missing.hopeless && l.track.video {
		l.missing.hopeless = false
		if l.scalable == nil || !l.scalable.chained() { // chains tell whether it matters
			l.RequestKeyFrame()
		}
	}
	if wish := l.keyWish.Load(); wish != 0 {
		l.pursue(wish)
	}
	l.push(p)
}

// pursue asks again for a key frame that has not come: the question may have been lost, or was not allowed yet. Browsers repeat theirs only after
// three seconds in which they could show nothing. (Chromium 156)
func (l *Layer) pursue(since int64) {
	now := millis(time.Now())
	if l.lastKey.Load() >= since || now-since > keyFrameNever.Milliseconds() {
		l.keyWish.CompareAndSwap(since, 0)
		return
	}
	l.ask(now)
}

// push gives a packet to all who want it.
func (l *Layer) push(p *Packet) {
	sinks := *l.track.sinks.Load()
	if len(sinks) == 0 {
		return
	}
	alone := p.out == nil
	if alone {
		p.out = borrowOutbox()
	}
	for _, s := range sinks {
		s.Push(p)
		p.out.relieve()
	}
	if alone {
		p.out.giveBack()
		p.out = nil
	}
}

// within counts a packet and says whether its second has room for it.
func (l *Layer) within(ms int64, size int) bool {
	if l.rates.count(ms/1000, size) {
		l.counts.second.Store(l.rates.whole)
		if l.scalable != nil {
			l.scalable.tellParts()
		}
	}
	if l.rates.counted > maxLayerBytes {
		return false
	}
	for _, b := range l.track.budgets {
		if !b.spend(ms, size, l.track.video) {
			return false
		}
	}
	return true
}

func (l *Layer) noteLevel(level uint8, ok bool) {
	if !ok {
		return
	}
	l.levels.Add(1)
	if level < audibleLevel {
		l.loud.Add(1)
	}
	if uint32(level) < l.loudest.Load() {
		l.loudest.Store(uint32(level))
	}
}

// askAgain sends a NACK for what is missing.
func (l *Layer) askAgain(ms int64) {
	pairs := l.missing.pairs(ms)
	if len(pairs) == 0 {
		return
	}
	select {
	case l.track.feedback <- &rtcp.TransportLayerNack{MediaSSRC: l.ssrc, Nacks: pairs}:
		l.counts.nacks.Add(uint64(len(pairs)))
	default: // feedback is behind; the next round asks again
	}
}

// RequestKeyFrame asks the publisher for a key frame, at most so often: a few at once, as when somebody joins and then shows
// the picture, but in the long run no more than one in a keyFrameEvery. Who waits asks with every packet.
// What is not allowed yet, or has no answer, is asked when the layer's packets come. Who asks just after a key frame has not seen it yet.
func (l *Layer) RequestKeyFrame() {
	now := millis(time.Now())
	if l.codec.KeyFrames() && now-l.lastKey.Load() > keyFrameUnseen.Milliseconds() {
		l.keyWish.CompareAndSwap(0, now)
	}
	l.ask(now)
}

// ask asks for a key frame if it may.
func (l *Layer) ask(now int64) {
	every := keyFrameEvery
	if l.Index == 0 {
		every = lowKeyFrameEvery
	}
	last := l.lastAsk.Load()
	wait := keyFrameLost
	if l.lastKey.Load() > last {
		wait = keyFrameAgain
	}
	if any := l.track.lastAsk.Load(); now-any < keyFrameAgain.Milliseconds() && l.lastKey.Load() >= any {
		return // the answer was for all layers, and who gave it hears nothing yet
	}
	due := max(l.askDue.Load(), now)
	if now-last < wait.Milliseconds() || due-now > every.Milliseconds() || !l.lastAsk.CompareAndSwap(last, now) {
		return
	}
	select {
	case l.track.feedback <- &rtcp.PictureLossIndication{MediaSSRC: l.ssrc}:
		l.askDue.Store(due + every.Milliseconds())
		l.track.lastAsk.Store(now)
		l.counts.keyAsks.Add(1)
	default:
		l.lastAsk.Store(last)
	}
}

const (
	lowKeyFrameEvery = 500 * time.Millisecond // a small key frame is cheap
	keyFrameEvery    = time.Second
	keyFrameLost     = 500 * time.Millisecond // after which a question without an answer is asked again
	keyFrameUnseen   = 200 * time.Millisecond // in which a question may have met an answer on its way
	keyFrameNever    = 5 * time.Second        // after which it does not come: not every publisher makes one when asked
	keyFrameAgain    = 300 * time.Millisecond // after an answer: browsers hear no question that comes sooner (Chromium 156)
)

// keySince gives the number of the newest key frame's first packet, if it is no older than that and all since then may be
// sent at once. It is called by the layer's goroutine.
func (l *Layer) keySince(seq int64, age time.Duration) (first int64, ok bool) {
	if l.keySeq == 0 || seq-l.keySeq > maxCatchUp || millis(time.Now())-l.lastKey.Load() > age.Milliseconds() {
		return 0, false
	}
	return l.keySeq, true
}

const maxCatchUp = 128 // packets

// noteReport keeps the newest sender report.
func (l *Layer) noteReport(body []byte, now time.Time) {
	l.report.Store(&senderReport{ntp: binary.BigEndian.Uint64(body[4:]), rtp: binary.BigEndian.Uint32(body[12:]), arrived: now})
}

// missing remembers holes in the incoming numbers and when they were asked for.
type missing struct {
	wait  int64 // milliseconds that a packet may be late before it counts as lost
	again int64 // milliseconds between two NACKs for one packet
	high  int64
	list  [maxMissing]hole
	n     int

	hopeless bool // something is lost for good; whoever looks resets it
}

type hole struct {
	seq   int64
	since int64
	asked int64
	tries uint8
}

const (
	maxMissing     = 128
	maxNackTries   = 8
	reorderWait    = 8
	nackAgain      = 60
	nackAgainAudio = 40
	nackGiveUp     = 800 // milliseconds after which a packet is of no use any more
)

// note takes a packet in. It is true if somebody should look for what to ask.
func (m *missing) note(seq, ms int64) bool {
	if m.high == 0 || seq-m.high > maxMissing {
		m.hopeless = m.high != 0
		m.high, m.n = seq, 0
		return false
	}
	if seq <= m.high {
		m.remove(seq)
		return m.n > 0
	}
	for s := m.high + 1; s < seq && m.n < maxMissing; s++ {
		m.list[m.n] = hole{seq: s, since: ms}
		m.n++
	}
	m.high = seq
	return m.n > 0
}

func (m *missing) remove(seq int64) {
	for i := range m.n {
		if m.list[i].seq == seq {
			m.n--
			copy(m.list[i:m.n], m.list[i+1:m.n+1])
			return
		}
	}
}

// pairs says what to ask for now. It allocates only if there is something.
func (m *missing) pairs(ms int64) []rtcp.NackPair {
	var pairs []rtcp.NackPair
	kept := 0
	for i := range m.n {
		h := m.list[i]
		if ms-h.since > nackGiveUp || h.tries >= maxNackTries {
			m.hopeless = true
			continue
		}
		if ms-h.since >= m.wait && ms-h.asked >= m.again {
			h.asked = ms
			h.tries++
			pairs = addNack(pairs, uint16(h.seq))
		}
		m.list[kept] = h
		kept++
	}
	m.n = kept
	return pairs
}

func addNack(pairs []rtcp.NackPair, seq uint16) []rtcp.NackPair {
	if n := len(pairs); n > 0 {
		if d := seq - pairs[n-1].PacketID; d >= 1 && d <= 16 {
			pairs[n-1].LostPackets |= 1 << (d - 1)
			return pairs
		}
	}
	return append(pairs, rtcp.NackPair{PacketID: seq})
}
