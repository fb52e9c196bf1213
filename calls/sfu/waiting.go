package sfu

import (
	"io"
	"sync"
	"time"

	"github.com/pion/transport/v4/packetio"
)

const (
	streamWaits = 256 << 10 // may wait to be read of one RTP stream
	peerWaits   = 2 << 20   // and of all of one peer's
	waitCost    = 64        // that a packet counts beside its bytes
	// waitsFor is after which time nobody comes any more for what waits: Pion asks in milliseconds whose a stream is. Then it goes, should the
	// room be needed: a browser that tries its line on streams that are nobody's must not keep its next track out.
	waitsFor = time.Second
)

// waiting are the packets of an RTP stream that have come before it was known whose they are, for Pion to read.
type waiting struct {
	mu     sync.Mutex // guards what follows; held for a look
	list   [][]byte   // oldest first
	bytes  int        // that they count
	looked time.Time  // when somebody last took one, or the first came
	closed bool

	more chan struct{} // there are some again, or there never will be
}

func newWaiting() *waiting { return &waiting{more: make(chan struct{}, 1)} }

// put lets a packet wait; it is copied.
func (w *waiting) put(b []byte, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return io.ErrClosedPipe
	case w.bytes+len(b)+waitCost > streamWaits:
		return packetio.ErrFull
	case len(w.list) == 0:
		w.looked = now
	}
	w.list = append(w.list, append([]byte{}, b...))
	w.bytes += len(b) + waitCost
	select {
	case w.more <- struct{}{}:
	default:
	}
	return nil
}

// next takes the oldest packet away, or nothing.
func (w *waiting) next() (p []byte, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) == 0 {
		return nil, w.closed
	}
	p, w.list[0] = w.list[0], nil
	w.bytes -= len(p) + waitCost
	w.looked = time.Now()
	if w.list = w.list[1:]; len(w.list) == 0 {
		w.list = nil
	}
	return p, false
}

// clear throws away what nobody has come for since then, and gives what it counted.
func (w *waiting) clear(since time.Time) (freed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looked.Before(since) {
		freed, w.bytes, w.list = w.bytes, 0, nil
	}
	return freed
}

// close ends the waiting, and gives what was thrown away with it.
func (w *waiting) close() (freed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.more)
	}
	freed, w.bytes, w.list = w.bytes, 0, nil
	return freed
}

// reserve counts what is to wait, and says whether the peer has room for it.
func (in *incoming) reserve(size int, now time.Time) bool {
	if in.waits.Add(int64(size)) <= peerWaits {
		return true
	}
	in.waits.Add(-int64(size))
	last := in.cleared.Load()
	if ms := millis(now); ms-last < waitsFor.Milliseconds() || !in.cleared.CompareAndSwap(last, ms) {
		return false
	}
	in.mu.RLock()
	for _, s := range in.rtp {
		in.waits.Add(-int64(s.waiting.clear(now.Add(-waitsFor))))
	}
	in.mu.RUnlock()
	if in.waits.Add(int64(size)) <= peerWaits {
		return true
	}
	in.waits.Add(-int64(size))
	return false
}
