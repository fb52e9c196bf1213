package packet

// bitReader reads numbers of any width, most significant bit first. What is read beyond the end is zero, and bad.
type bitReader struct {
	b   []byte
	at  int // bits read
	bad bool
}

// bits reads a number of n bits, at most 32.
func (r *bitReader) bits(n int) (v uint32) {
	if n > 8*len(r.b)-r.at {
		r.at, r.bad = 8*len(r.b), true
		return 0
	}
	for n > 0 {
		left := 8 - r.at&7 // bits of the byte that are unread
		take := min(left, n)
		v = v<<take | uint32(r.b[r.at>>3]>>(left-take))&(1<<take-1)
		r.at += take
		n -= take
	}
	return v
}

func (r *bitReader) bit() bool { return r.bits(1) == 1 }

// below reads a number less than n, as the AV1 specification's ns(n) writes it.
func (r *bitReader) below(n int) int {
	width := 0
	for x := n; x != 0; x >>= 1 {
		width++
	}
	short := 1<<width - n // so many values take one bit less
	v := int(r.bits(width - 1))
	if v < short {
		return v
	}
	return v<<1 - short + int(r.bits(1))
}

// bitWriter writes numbers of any width, most significant bit first. What does not fit is not written, and bad.
type bitWriter struct {
	b   []byte
	at  int
	bad bool
}

// bits writes the n low bits of v, at most 32.
func (w *bitWriter) bits(v uint32, n int) {
	if n > 8*len(w.b)-w.at {
		w.bad = true
		return
	}
	for n > 0 {
		if w.at&7 == 0 {
			w.b[w.at>>3] = 0
		}
		left := 8 - w.at&7
		take := min(left, n)
		w.b[w.at>>3] |= byte(v>>(n-take)&(1<<take-1)) << (left - take)
		w.at += take
		n -= take
	}
}

// copy takes what r reads until the bit end.
func (w *bitWriter) copy(r *bitReader, end int) {
	for r.at < end && !r.bad && !w.bad {
		n := min(32, end-r.at)
		w.bits(r.bits(n), n)
	}
}

// size is how many bytes were begun.
func (w *bitWriter) size() int { return (w.at + 7) / 8 }
