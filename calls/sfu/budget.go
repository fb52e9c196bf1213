package sfu

import "sync/atomic"

// Budget bounds what several publishers together may bring in a second: those of one call, those of one server. What
// is beyond it is dropped before anybody is told of it. The zero limit bounds nothing; a nil *Budget neither.
type Budget struct {
	limit   atomic.Int64 // bytes in a second
	second  atomic.Int64 // which is being counted
	spent   atomic.Int64 // in it
	refused atomic.Uint64
}

// NewBudget makes a budget of so many bits in a second.
func NewBudget(bits int64) *Budget {
	b := &Budget{}
	b.SetLimit(bits)
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
	limit := b.limit.Load()
	if limit <= 0 {
		return true
	}
	if second, now := b.second.Load(), ms/1000; now != second && b.second.CompareAndSwap(second, now) {
		b.spent.Store(0)
	}
	if !video {
		limit += limit / voiceShare
	}
	if b.spent.Load()+int64(size) > limit {
		b.refused.Add(1)
		return false
	}
	b.spent.Add(int64(size))
	return true
}
