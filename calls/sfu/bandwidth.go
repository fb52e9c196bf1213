package sfu

import "chancery/calls/packet"

// estimate judges how much a subscriber's line carries, from its transport-wide feedback. It is open, and everything is
// sent, until the line shows that it is narrow: the least delayed packets of a feedback have all waited in a queue, or
// many are lost. From then on it follows what arrives, and grows by what probes prove. Receivers' clocks differ from ours;
// only differences of delay count. Times are microseconds on our clock. It belongs to the Downlink, under its lock.
type estimate struct {
	bounded bool
	bps     int // what the line carries; counts if bounded

	sent    []sentPacket // by number; nil until the first packet with one, and longer when feedback tells of what was forgotten
	number  uint16       // the newest
	base    delays       // the least delay of late, the length of the empty line
	steady  steady       // how long the slowest packets have taken while it was calm
	window  arrived
	out     arrived // what was sent, on our clock
	oldest  int64   // first arrival, on the receiver's clock
	newest  int64   // newest arrival
	clock   int64   // the receiver's, when it was heard of last, without its beginning anew; 0: not yet
	queued  int64   // least wait in a queue of the newest feedback
	lost    lossWindows
	loss    float64 // share of packets that were lost of late
	acked   int     // bits per second that arrived in the last half second
	lossy   bool    // more than a line of the air loses
	bad     int     // congested feedbacks in a row
	since   int64   // when the first of them came
	before  int64   // queued, by the feedback before
	cut     cut     // the last time that less was believed in
	decided int64   // when less was believed in for the last time
	heard   int64   // when the newest feedback came
	calm    int64   // since when the line has shown no congestion; 0: it does
	watched int64   // since when every packet is numbered
	dense   int64   // until then every packet is numbered, though the line is open

	probe probe
}

type sentPacket struct {
	at    int64
	size  uint16
	seq   uint16
	fresh bool // nothing was heard of it
	probe bool
	again bool // it was sent a second time: when it comes tells nothing
}

const (
	sentPackets = 1024 // at first, 16 kB: half a second of a large call
	mostSent    = 8192 // 128 kB: more than a second of six thousand packets
	ackWindows  = 10
	ackNarrow   = 5 // windows that tell what a line carries whose queue is full
	ackWindow50 = 50_000
	ackLeast    = 150_000 // of arrivals must be known before they tell a rate

	queueOpen    = 100_000 // waiting that says that an open line is narrow
	queueSuspect = 40_000  // and that deserves a closer look
	queueBounded = 60_000
	queueDrain   = 150_000 // beyond which less is sent until it has drained
	queueProbe   = 400_000 // what a probe may cause before it counts as congestion
	lossNarrow   = 0.10
	lossMuch     = 0.25
	lossChance   = 3      // packets beyond that share which may be missing by chance
	queueFalls   = 5_000  // less by so much from one feedback to the next: it drains
	queueSame    = 25_000 // no more than that between two waits: they are the same
	badFeedbacks = 2
	badFor       = 150_000 // a machine that stood still for a moment is no narrow line
	decideEvery  = 300_000
	keepOnCut    = 0.85 // of what arrived
	growPerSec   = 0.08
	idleFor      = 1_000_000
)

type ackWindow struct {
	slot int64
	bits int
}

// cut is what was known when less was believed in.
type cut struct {
	queued int64
	acked  int
}

// feedbackRound is what one feedback said.
type feedbackRound struct {
	least    int64 // least delay in it, on two clocks
	most     int64 // and the greatest, if something was received
	received int
	lost     int
}

// note remembers a packet that is being sent. While a probe runs everything proves something.
func (e *estimate) note(seq uint16, size int, at int64, probe bool) {
	if e.sent == nil {
		e.sent = make([]sentPacket, sentPackets)
	}
	probe = probe || e.probe.running() && at < e.probe.until
	if probe {
		e.probe.went(seq, size, at)
	}
	e.out.add(at, size*8)
	e.number = seq
	*e.place(seq) = sentPacket{at: at, size: uint16(size), seq: seq, fresh: true, probe: probe}
}

// resent is told that a packet goes out once more, under the same number.
func (e *estimate) resent(seq uint16) {
	if e.sent == nil {
		return
	}
	if p := e.place(seq); p.seq == seq {
		p.again = true
	}
}

// place is where a packet is remembered; there is a power of two of places.
func (e *estimate) place(seq uint16) *sentPacket { return &e.sent[int(seq)&(len(e.sent)-1)] }

// missed is told of a number of which nothing is known. If it was forgotten, more is remembered from now on.
func (e *estimate) missed(seq uint16) {
	old := e.sent
	if int(e.number-seq) < len(old) || len(old) >= mostSent {
		return
	}
	e.sent = make([]sentPacket, 2*len(old))
	for _, p := range old {
		if p.fresh {
			*e.place(p.seq) = p
		}
	}
}

// wants says whether a packet is to be numbered. Each number costs feedback: on an open line that has been calm a part of
// the packets tells enough, and the first suspicion brings back the rest.
func (e *estimate) wants(at int64) bool {
	return e.bounded || at < e.dense || at/sampleSlot%samplePart == 0
}

// watch lets every packet be numbered for a while. It is true if that is news: what arrived before was counted in part.
func (e *estimate) watch(at int64) (news bool) {
	if news = !e.bounded && at >= e.dense; news {
		e.window, e.out, e.oldest, e.bad = arrived{}, arrived{}, 0, 0
		e.lost, e.watched = lossWindows{}, at
	}
	e.dense = max(e.dense, at+watchFor)
	return news
}

const (
	sampleSlot = 50_000
	samplePart = 20
	watchFor   = 2_000_000
)

const noDelay = int64(1) << 62

// unwrapped is a time of the receiver's clock, which begins anew now and then, on one that goes on: the nearest to what was heard last. A
// receiver may tell of any time.
func (e *estimate) unwrapped(at int64) int64 {
	const round, half = packet.ClockRound, packet.ClockRound / 2
	if e.clock == 0 {
		e.clock = round
	}
	e.clock += ((at-e.clock+half)%round+round)%round - half
	return e.clock
}

// arrival takes what feedback says of one packet; at counts if it was received.
func (e *estimate) arrival(seq uint16, received bool, at int64, r *feedbackRound) {
	if e.sent == nil {
		return
	}
	if e.probe.running() && int16(seq-e.probe.seq) >= 0 {
		e.probe.told = true
	}
	p := e.place(seq)
	if p.seq != seq {
		e.missed(seq)
		return
	}
	if !p.fresh {
		return
	}
	if !received {
		if p.at >= e.decided {
			r.lost++
		}
		return // it may come yet, and be told of by the next
	}
	at = e.unwrapped(at)
	p.fresh = false
	if p.again {
		return
	}
	if wait := at - p.at; r.received == 0 || wait > r.most {
		r.most = wait
	}
	r.received++
	r.least = min(r.least, at-p.at)
	if p.at >= e.watched {
		e.ack(at, int(p.size)*8)
	}
	if p.probe {
		e.probe.heard(at, int(p.size)*8)
	}
}

func (e *estimate) ack(at int64, bits int) {
	e.window.add(at, bits)
	if e.oldest == 0 {
		e.oldest = at
	}
	e.newest = max(e.newest, at)
}

// rate is what arrived in the last half second of the receiver's time, or since the beginning. The newest window is not
// over yet.
func (e *estimate) rate(windows int64) int {
	slot := e.newest / ackWindow50
	span := min(slot*ackWindow50-e.oldest, ackWindow50*windows)
	return int(e.window.bits(slot, windows) * 1_000_000 / max(span, 2*ackWindow50))
}

// arrived counts bits by the time of their packets.
type arrived [ackWindows]ackWindow

func (a *arrived) add(at int64, bits int) {
	slot := at / ackWindow50
	w := &a[uint64(slot)%ackWindows] // a receiver may tell of any time
	if w.slot != slot {
		*w = ackWindow{slot: slot}
	}
	w.bits += bits
}

// bits are those of so many windows before slot.
func (a *arrived) bits(slot, windows int64) (bits int64) {
	for _, w := range a {
		if w.slot < slot && w.slot >= slot-windows {
			bits += int64(w.bits)
		}
	}
	return bits
}

// hear judges after a feedback. It is true if the estimate has fallen: what is sent must be less, at once.
func (e *estimate) hear(now int64, r *feedbackRound) (fell bool) {
	if r.received+r.lost == 0 {
		return false
	}
	e.acked = e.rate(ackWindows - 1)
	share := float64(r.lost) / float64(r.received+r.lost)
	e.lost.note(now, r.received, r.lost)
	received, lost := e.lost.sum(now)
	e.loss = float64(lost) / float64(received+lost)
	e.lossy = lost > lossChance+int(lossNarrow*float64(received+lost))
	if r.received > 0 {
		e.queued = r.least - e.base.least(now, r.least)
	}
	since := min(now-e.heard, 1_000_000)
	e.heard = now
	if !e.bounded && (e.queued > queueSuspect || share > lossNarrow) && e.watch(now) {
		return false
	}
	congested, before := e.congested(), e.before
	e.before = e.queued
	switch {
	case congested && e.queued <= before-queueFalls && !e.lossy: // it drains: what is sent now is little enough
		e.bad, e.calm, e.steady = 0, 0, steady{}
		return false
	case congested:
		e.calm, e.steady = 0, steady{}
		return e.narrow(now)
	}
	e.bad = 0
	if e.calm == 0 {
		e.calm = now
	}
	if e.bounded && r.received > 0 && !e.probe.running() && e.steady.fell(now, r.most) {
		e.probe.soon(now)
	}
	if e.bounded && e.queued < queueBounded/2 && !e.probe.running() && now >= e.probe.quiet { // padding is no load of ours
		e.grow(since)
	}
	return false
}

func (e *estimate) congested() bool {
	limit := int64(queueOpen)
	if e.bounded {
		limit = queueBounded
	}
	if e.probe.running() || e.heard < e.probe.quiet {
		limit = queueProbe
		if e.queued > queueOpen || e.lossy {
			e.probe.failed = true // enough was sent to know: what arrived of it tells
		}
	}
	return e.queued > limit || e.lossy
}

// narrow takes a sign of congestion. A line with a queue is full, and what arrives is what it carries.
func (e *estimate) narrow(now int64) bool {
	if e.bad++; e.bad == 1 {
		e.since = now
	}
	if e.bad < badFeedbacks || now-e.since < badFor || e.newest-e.oldest < ackLeast || e.bounded && now-e.decided < decideEvery+e.queued {
		return false
	}
	acked := min(e.acked, e.rate(ackNarrow))
	if moved := e.queued - e.cut.queued; e.cut.acked > 0 && acked < e.cut.acked*9/10 && max(moved, -moved) < queueSame && e.arrives(now) {
		e.base.forget() // less was sent, and all waits as long as before: the way itself has become longer
		e.bps = max(e.bps, e.cut.acked)
		e.cut, e.bad, e.queued = cut{}, 0, 0
		return true
	}
	e.decided, e.cut = now, cut{queued: e.queued, acked: acked}
	e.lost = lossWindows{} // it was lost of what was too much
	to := int(float64(acked) * keepOnCut)
	if e.bounded && e.queued <= queueBounded && e.loss < lossMuch { // loss alone, perhaps of the air: go slowly
		to = min(max(to, int(float64(e.bps)*(1-e.loss/2))), e.bps)
	}
	e.bounded, e.bps = true, max(to, leastRate)
	e.probe.backoff, e.probe.proved = max(e.probe.backoff, probeLeast), 0
	e.probe.next = max(e.probe.next, now+e.probe.backoff)
	return true
}

// idle says whether nothing has gone out of late that feedback would tell of: whatever waited has drained, and nobody will say so.
// It is false for a client that gives none.
func (e *estimate) idle(now int64) bool {
	return e.heard != 0 && now-e.heard > idleFor && e.out.bits(now/ackWindow50+1, ackWindows) == 0
}

// rest takes an idle line for a calm one.
func (e *estimate) rest(now int64) {
	e.calm, e.queued, e.before, e.bad, e.acked = now, 0, 0, 0, 0
	e.lost, e.loss, e.lossy = lossWindows{}, 0, false
}

// arrives says whether as much arrives as was sent of late.
func (e *estimate) arrives(now int64) bool {
	sent := e.out.bits(now/ackWindow50, ackWindows-1) * 1_000_000 / (ackWindow50 * (ackWindows - 1))
	return e.loss < lossNarrow/2 && int64(e.acked)*10 >= sent*9
}

// budget is what may be sent now: less than the line carries while its queue has to drain.
func (e *estimate) budget() int {
	if e.queued > queueDrain && !e.probe.running() && e.heard >= e.probe.quiet {
		return int(float64(e.bps) * drainShare)
	}
	return e.bps
}

const drainShare = 0.6

const leastRate = 30_000

// grow goes up slowly while nothing speaks against it, but not far beyond what arrives.
func (e *estimate) grow(since int64) {
	to := float64(e.bps) * (1 + growPerSec*float64(since)/1e6)
	if most := 1.1*float64(e.acked) + 10_000; to > most {
		return
	}
	e.bps = int(to)
}

// lossWindows counts what arrived and what was lost in the last second: a feedback alone speaks of too few packets.
type lossWindows [lossSlots]struct {
	slot           int64
	received, lost int
}

const (
	lossSlots = 10
	lossSlot  = 100_000
)

func (w *lossWindows) note(now int64, received, lost int) {
	slot := now / lossSlot
	s := &w[slot%lossSlots]
	if s.slot != slot {
		s.slot, s.received, s.lost = slot, 0, 0
	}
	s.received += received
	s.lost += lost
}

func (w *lossWindows) sum(now int64) (received, lost int) {
	for _, s := range w {
		if s.slot > now/lossSlot-lossSlots {
			received += s.received
			lost += s.lost
		}
	}
	return received, lost
}

// open forgets what was thought of the line: it carries all that is wished for.
func (e *estimate) open() { e.bounded, e.bps, e.bad, e.cut = false, 0, 0, cut{} }

// goal is how much the next probe tries to prove: little while the line has proved to be narrow, for what is too much waits in
// its queue; more once it has let some through.
func (e *estimate) goal() int {
	switch e.probe.proved {
	case 0:
		return e.bps * 3 / 2
	case 1:
		return e.bps * 2
	}
	return e.bps * 3
}

// delays keeps the least delay of the last seconds, so that a path that becomes longer is believed after a while.
type delays struct {
	slots [5]struct {
		second int64
		least  int64
	}
}

const delaySlot = 2_000_000

func (d *delays) forget() { *d = delays{} }

func (d *delays) least(now, delay int64) int64 {
	slot := now / delaySlot
	s := &d.slots[slot%int64(len(d.slots))]
	if s.second != slot+1 {
		s.second, s.least = slot+1, delay
	}
	s.least = min(s.least, delay)
	all := delay
	for i := range d.slots {
		if n := d.slots[i].second; n != 0 && n > slot+1-int64(len(d.slots)) {
			all = min(all, d.slots[i].least)
		}
	}
	return all
}
