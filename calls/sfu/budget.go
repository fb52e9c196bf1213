package sfu

import (
	"sync/atomic"
	"time"
)

// Budget bounds what a publisher may bring in a second, or several together: those of one call, those of one server. What
// is beyond it is dropped before anybody is told of it. The zero limit bounds nothing; a nil *Budget neither.
type Budget struct {
	limit   atomic.Int64 // bytes in a second
	most    atomic.Int64 // packets in a second
	second  atomic.Int64 // which is being counted
	spent   atomic.Int64 // bytes in it
	packets atomic.Int64 // in it
	refused atomic.Uint64
}

// NewBudget makes a budget of so many bits in a second.
func NewBudget(bits int64) *Budget {
	b := &Budget{}
	b.SetLimit(bits)
	return b
}

// leastPacket is what a packet counts at least in a budget for one, in bits: as many small ones as there are cost their hearers as much.
// Pictures come in packets twice as large, and a voice in a hundred a second at most.
const leastPacket = 4000

// NewOwnBudget makes the budget of one publisher, who may bring so many bits in a second, and so many packets as that allows at 500 bytes each;
// never less than a thousand.
func NewOwnBudget(bits int64) *Budget {
	b := NewBudget(bits)
	if bits > 0 {
		b.most.Store(max(bits/leastPacket, 1000))
	}
	return b
}

// SetLimit changes the bound, in bits a second; 0 takes it away.
func (b *Budget) SetLimit(bits int64) { b.limit.Store(bits / 8) }

// Refused is how many packets found the budget used up.
func (b *Budget) Refused() uint64 { return b.refused.Load() }

// voiceShare is the part of a budget, as a fraction of it, that only audio may use beyond the limit: pictures stop first.
const voiceShare = 4

// spend counts a packet and says whether the second has room for it. Two goroutines that begin a second at once may
// count a packet too few: it is a bound, not an account.
func (b *Budget) spend(ms int64, size int, video bool) bool {
	if b == nil {
		return true
	}
	limit, most := b.limit.Load(), b.most.Load()
	if limit <= 0 {
		return true
	}
	if second, now := b.second.Load(), ms/1000; now != second && b.second.CompareAndSwap(second, now) {
		b.spent.Store(0)
		b.packets.Store(0)
	}
	if !video {
		limit += limit / voiceShare
		most += most / voiceShare
	}
	if b.spent.Load()+int64(size) > limit || most > 0 && b.packets.Load() >= most {
		b.refused.Add(1)
		return false
	}
	b.spent.Add(int64(size))
	if most > 0 {
		b.packets.Add(1)
	}
	return true
}

// pace bounds how often somebody may have us do something, by the time that each may take of the whole in the long run.
type pace struct{ due atomic.Int64 } // when so much was done as may be in the long run, microseconds

// take says whether it may be done now, where so much of the time is lent to one who has waited.
func (p *pace) take(part, lent time.Duration, now time.Time) bool {
	at := now.Sub(began).Microseconds()
	for {
		before := p.due.Load()
		due := max(before, at) + part.Microseconds()
		if due-at > lent.Microseconds() {
			return false
		}
		if p.due.CompareAndSwap(before, due) {
			return true
		}
	}
}
