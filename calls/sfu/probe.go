package sfu

// steady keeps, of the last moments in which the line was calm, how long the slowest packet of a feedback took at least. A narrow line takes its
// time for each packet, and more for large ones: when all come sooner than they did, it has become wider.
type steady struct {
	slot   int64
	least  int64 // of this slot
	before [2]int64
	known  int // slots before this one
}

const (
	steadySlot = 500_000
	comesSoon  = 4_000 // sooner than in the slots before
)

// fell takes the greatest delay of a feedback. It is true when that is well below all of the last second.
func (s *steady) fell(now, delay int64) bool {
	switch slot := now / steadySlot; {
	case s.slot == slot:
		s.least = min(s.least, delay)
	case s.slot >= slot-2: // a probe may lie between
		s.before = [2]int64{s.least, s.before[0]}
		s.slot, s.least, s.known = slot, delay, s.known+1
	default: // nothing was heard for long
		*s = steady{slot: slot, least: delay}
	}
	if s.known < len(s.before) || delay > min(s.before[0], s.before[1])-comesSoon {
		return false
	}
	s.before = [2]int64{delay, delay}
	return true
}

// probe is a short burst of padding by which the line proves that it carries more.
type probe struct {
	rate    int // bits per second, 0: none
	until   int64
	quiet   int64  // until then its queue counts for nothing
	failed  bool   // no more padding is sent
	seq     uint16 // number of its last packet
	told    bool   // feedback has come of it
	first   int64  // arrivals on the receiver's clock
	last    int64
	bits    int // after the first
	next    int64
	backoff int64
	proved  int   // probes in a row that went through
	sent    int   // bytes that have gone out in it
	head    int   // of which in its first packet
	from    int64 // when that went
	to      int64 // when the last one went
}

const (
	probeTime  = 100_000
	probeWait  = 600_000 // for the feedback of its last packets
	probeSoon  = 100_000
	probeLeast = 1_000_000
	probeMost  = 3_000_000
	probeProof = 0.85   // of the rate must arrive
	probeFull  = 0.95   // of what arrives of a probe on a full line is believed in
	probeStep  = 40_000 // bits per second beyond what goes out anyway: two packets of padding, since less proves nothing
)

func (p *probe) running() bool { return p.rate > 0 }

// start begins a probe that brings the line's load to rate; seq is the number of the packet that comes next.
func (p *probe) start(now int64, rate int, seq uint16) {
	*p = probe{rate: rate, seq: seq, until: now + probeTime, quiet: now + probeTime + probeWait, backoff: p.backoff, proved: p.proved}
}

// went is told of what goes out while it runs.
func (p *probe) went(seq uint16, size int, at int64) {
	if p.sent == 0 {
		p.head, p.from = size, at
	}
	p.seq, p.told, p.to = seq, false, at
	p.sent += size
}

// due is how many bytes of padding would bring what has gone out until now to the probe's rate: pictures come in lumps.
func (p *probe) due(now int64) int {
	return int(float64(p.rate)/8*float64(now-p.until+probeTime)/1e6) - p.sent
}

func (p *probe) heard(at int64, bits int) {
	if p.first == 0 || at < p.first {
		p.first = at
	} else {
		p.bits += bits
	}
	p.last = max(p.last, at)
}

// measured is what has arrived of it until now, in bits per second, and at least acked.
func (p *probe) measured(acked int) int { return max(acked, paceOf(p.bits, p.last-p.first)) }

// proven says whether it has arrived as fast as it went. The first packet counts on neither side: it may be a large one. Where it was broken off, or
// not much of it went out, nothing less than its rate will do.
func (p *probe) proven(acked int) bool {
	need := p.rate
	if filled := float64(p.sent) * 8e6 / probeTime; !p.failed && filled > probeProof*float64(p.rate) {
		need = min(need, paceOf((p.sent-p.head)*8, p.to-p.from))
	}
	return need > 0 && float64(p.measured(acked)) >= probeProof*float64(need)
}

// paceOf is so many bits of a probe in such a time, for each second.
func paceOf(bits int, micros int64) int {
	return int(int64(bits) * 1_000_000 / max(micros, probeTime/2))
}

// over says whether there is nothing to wait for any more: it has proved its rate, or all that it sent is told of.
func (p *probe) over(now int64, acked int) bool {
	return now >= p.until && (p.told || now >= p.quiet || p.proven(acked))
}

// soon has the next probe begin now, whatever became of those before.
func (p *probe) soon(now int64) { p.next, p.backoff = min(p.next, now), 0 }

// end judges a probe that is over: what the line has been seen to carry. The next comes soon after success. Of one that was more than the
// line carries it is nearly what arrived: that came as fast as the line could.
func (p *probe) end(now int64, acked int) (carries int) {
	rate, measured, proven := p.rate, p.measured(acked), p.proven(acked)
	p.rate = 0
	if !proven {
		p.backoff = min(max(p.backoff*3/2, probeLeast), probeMost)
		p.next, p.proved = now+p.backoff, 0
		return int(float64(paceOf(p.bits, p.last-p.first)) * probeFull)
	}
	p.backoff, p.next = 0, now+probeSoon
	p.proved++
	return min(measured, rate)
}
