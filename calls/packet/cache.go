package packet

import "sync"

// Cache keeps the payloads of the newest packets of one stream, for handing over and for repair.
// One goroutine puts, many get; a get copies, so that nobody holds a slot.
type Cache struct {
	slots []slot
	mask  int64
}

type slot struct {
	mu   sync.RWMutex
	seq  int64
	meta Meta
	data []byte
}

// NewCache makes a cache of at least size packets. Room for their bytes is taken as they come.
func NewCache(size int) *Cache {
	n := 1
	for n < size {
		n *= 2
	}
	c := &Cache{slots: make([]slot, n), mask: int64(n - 1)}
	for i := range c.slots {
		c.slots[i].seq = -1
	}
	return c
}

// Put keeps a copy of payload, and of the meta.Extra bytes beside it, under its unwrapped sequence number, in place of the
// packet that is a cache's length older. It is false for a packet that is there already, or older than what the cache holds in its place.
func (c *Cache) Put(seq int64, meta Meta, payload, extra []byte) bool {
	s := &c.slots[seq&c.mask]
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.seq {
		return false
	}
	if size := len(payload) + len(extra); cap(s.data) < size {
		s.data = make([]byte, 0, roundUp(size))
	}
	s.seq, s.meta, s.data = seq, meta, append(append(s.data[:0], payload...), extra...)
	return true
}

// Get copies the payload into buf, with what was kept beside it behind it, and says how long the payload is. It is false if
// the packet is not here, or buf too small.
func (c *Cache) Get(seq int64, meta *Meta, buf []byte) (n int, ok bool) {
	if seq < 0 {
		return 0, false
	}
	s := &c.slots[seq&c.mask]
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.seq != seq || len(buf) < len(s.data) {
		return 0, false
	}
	*meta = s.meta
	return copy(buf, s.data) - int(s.meta.Extra), true
}

// roundUp picks a few sizes, so that a slot seldom grows twice.
func roundUp(n int) int {
	for _, size := range [...]int{160, 320, 640, 1216} {
		if n <= size {
			return size
		}
	}
	return (n + 255) &^ 255
}
