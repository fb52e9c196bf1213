package sfu

// Follow lets d, which was not started yet, go on where old ends: it is another encoding of the same picture or sound, on the
// same section. Numbers and times go on without a gap, so that the subscriber's decoder sees a change of the payload type and
// nothing else. old is at its end after that; what its subscriber has not got of it is lost.
func (d *DownTrack) Follow(old *DownTrack) {
	old.Stop()
	old.wishing.Lock()
	wish, grant, priority := old.wish, old.grant, old.priority
	old.wishing.Unlock()
	old.mu.Lock()
	old.ended = true
	numbers, last, rtxSeq, greeted := old.numbers.Follow(), old.last, old.rtxSeq, old.greeted
	old.mu.Unlock()
	d.wishing.Lock()
	d.wish, d.grant, d.priority = wish, grant, priority
	d.wishing.Unlock()
	d.mu.Lock()
	d.numbers, d.last, d.rtxSeq, d.greeted = numbers, last, rtxSeq, greeted
	d.last.layer = noLayer
	d.mu.Unlock()
	d.red.Store(old.red.Load())
	d.counts.follow(&old.counts)
	d.link.mu.Lock()
	d.told, d.judged = old.told, old.judged
	d.link.mu.Unlock()
	d.retarget()
}

// noLayer is what was shown of another up track, or of a stream that another has taken the place of.
const noLayer = -1

// follow lets counters go on: they only rise.
func (c *downCounts) follow(old *downCounts) {
	c.packets.Store(old.packets.Load())
	c.bytes.Store(old.bytes.Load())
	c.repaired.Store(old.repaired.Load())
	c.nacks.Store(old.nacks.Load())
	c.keyAsks.Store(old.keyAsks.Load())
	c.rtt.Store(old.rtt.Load())
}
