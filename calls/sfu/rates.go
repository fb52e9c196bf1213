package sfu

import (
	"sync/atomic"

	"chancery/calls/packet"
)

// rates counts what a layer brings in a second, and which part of it each temporal layer takes. The layer's goroutine counts,
// anybody may ask.
type rates struct {
	usual  atomic.Int64  // bits on the line of a subscriber, in a second in which something comes; 0: none has ended yet
	shares atomic.Uint32 // a byte for each temporal layer, see share
	spare  atomic.Uint32 // percentage of frames to which no other refers

	second  int64 // that is being counted
	counted int   // its bytes
	packets int
	whole   int64    // bits of the second before, 0 if nothing came
	last    [3]int64 // of the newest seconds in which something came, in bits
	seconds int
	byTID   [allTID + 1]int // bytes of each temporal layer, older ones count less and less
	loose   int             // of them in frames to which no other refers
}

// lineOverhead is what a packet costs a subscriber's line beyond what it measured when it came: other extensions, another
// authentication, the headers of UDP and IP.
const lineOverhead = 36

// count counts a packet; it is true if a second has ended. One in which nothing comes tells nothing of the next in which something
// does: a screen that stands still is drawn anew now and then.
func (r *rates) count(second int64, size int) (ended bool) {
	if second != r.second {
		ended = true
		if r.whole = 0; second == r.second+1 {
			r.whole = int64(r.counted) * 8
		}
		if r.packets > 0 {
			r.last[r.seconds%len(r.last)] = int64(r.counted+r.packets*lineOverhead) * 8
			r.seconds++
			r.usual.Store(r.middle())
		}
		r.tellShares()
		r.second, r.counted, r.packets = second, 0, 0
	}
	r.counted += size
	r.packets++
	return ended
}

// middle is the median of these seconds: one in which there was a key frame says nothing of the next.
func (r *rates) middle() int64 {
	a, b, c := r.last[0], r.last[1], r.last[2]
	switch min(r.seconds, 3) {
	case 0:
		return 0
	case 1:
		return a
	case 2:
		return min(a, b)
	}
	return max(min(a, b), min(max(a, b), c))
}

// note counts a packet for its temporal layer.
func (r *rates) note(meta *packet.Meta, size int) {
	if v := &meta.VP8; v.HasTemporal() {
		r.byTID[v.Temporal&allTID] += size
		if v.Loose {
			r.loose += size
		}
	}
}

// tellShares says which part of the bytes each temporal layer and those below it took.
func (r *rates) tellShares() {
	sum, word, all := 0, uint32(0), 0
	for _, n := range r.byTID {
		all += n
	}
	for tid, n := range r.byTID {
		sum += n
		if all > 0 {
			word |= uint32(sum*100/all) << (8 * tid)
		}
		r.byTID[tid] = n / 2
	}
	r.shares.Store(word)
	if all > 0 {
		r.spare.Store(uint32(r.loose * 100 / all))
	}
	r.loose /= 2
}

// share gives the percentage of the layer's bytes that temporal layers up to tid take; 100 if it has none.
func (r *rates) share(tid int) int {
	if word := r.shares.Load(); word != 0 {
		return int(word >> (8 * tid) & 0xff)
	}
	return 100
}
