package sfu

// line judges how much a subscriber's line carries, from what its reports say is lost: under loss that lasts it lowers
// the highest layer that any track may have, and tries a higher one again after a while without.
// The zero value carries everything. It belongs to the Downlink's goroutine.
type line struct {
	lowered   int // layers below the highest
	bad, good int // reports in a row
	wait      int // good reports until the next try; doubled by each try that fails
	sinceRise int
}

const (
	lossBad  = 12 // percent
	lossGood = 3
	badRow   = 2 // one report may be chance
	minWait  = 4 // seconds, a report each
	maxWait  = 60
	failSoon = 8 // a fall so soon after a rise means that the rise was too much
)

// hear takes the loss of the last second, in percent, and gives the highest layer for now.
func (l *line) hear(loss int) int {
	l.sinceRise++
	switch {
	case loss >= lossBad:
		l.good = 0
		if l.bad++; l.bad >= badRow && l.lowered < MaxLayers-1 {
			l.fall()
		}
	case loss <= lossGood:
		l.bad = 0
		if l.good++; l.lowered > 0 && l.good >= max(l.wait, minWait) {
			l.lowered--
			l.good, l.sinceRise = 0, 0
		}
	default:
		l.bad, l.good = 0, 0
	}
	return MaxLayers - 1 - l.lowered
}

func (l *line) fall() {
	if l.sinceRise <= failSoon {
		l.wait = min(max(l.wait, minWait)*2, maxWait)
	} else {
		l.wait = minWait
	}
	l.lowered++
	l.bad = 0
	l.sinceRise = failSoon + 1
}

// judge asks what every track loses: a narrow line takes from all of them, a bad publisher only from its own.
func (l *Downlink) judge() {
	least := -1
	for _, t := range l.tracks {
		sent := t.counts.packets.Load()
		if sent == t.judged {
			continue // nothing was sent, nothing can be lost
		}
		t.judged = sent
		if loss := t.Loss(); least < 0 || loss < least {
			least = loss
		}
	}
	if least < 0 {
		return
	}
	limit := l.line.hear(least)
	for _, t := range l.tracks {
		t.setLimit(limit)
	}
}

// setLimit bounds the layer that may be chosen.
func (d *DownTrack) setLimit(limit int) {
	d.wishing.Lock()
	same := d.limit == limit
	d.limit = limit
	d.wishing.Unlock()
	if !same {
		d.retarget()
	}
}
