package sfu

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/ipv4"
)

// outbox gathers what one goroutine sends: a picture's packets for a hundred subscribers go through the kernel's door a few
// times. It belongs to one goroutine, which flushes it before it waits for anything.
type outbox struct {
	lane    int // which of the kernel's sockets it sends by
	batches []*batch
	scratch [slotBytes]byte // for what goes by TCP
}

const (
	batchSize = 64               // packets that leave together
	slotBytes = receiveMTU + 128 // the largest packet, with what encryption and our own extensions add
)

// batch is what waits to leave by one address.
type batch struct {
	socket   *socket
	n        int
	messages [batchSize]ipv4.Message
	slots    [batchSize]slot
}

type slot struct {
	buffer [1][]byte
	bytes  [slotBytes]byte
	addr   net.UDPAddr
	ip     [16]byte
}

func newBatch(s *socket) *batch {
	b := &batch{socket: s}
	for i := range b.messages {
		b.messages[i].Buffers = b.slots[i].buffer[:]
		b.messages[i].Addr = &b.slots[i].addr
	}
	return b
}

// batch is the one for an address, with room for a packet. What is full it sends, though a lock of the caller's be held: that is so
// only for a subscriber who gets more than a batch at once, when it catches up with a key frame. See relieve.
func (o *outbox) batch(s *socket) *batch {
	for _, b := range o.batches {
		if b.socket == s {
			if b.n == batchSize {
				b.send(o.lane)
			}
			return b
		}
	}
	b := newBatch(s)
	o.batches = append(o.batches, b)
	return b
}

// relieve sends what is full, between two subscribers: so that the lock of neither is held meanwhile.
func (o *outbox) relieve() {
	for _, b := range o.batches {
		if b.n == batchSize {
			b.send(o.lane)
		}
	}
}

// flush sends what waits.
func (o *outbox) flush() {
	for _, b := range o.batches {
		b.send(o.lane)
	}
}

// room is where the next packet goes; add takes it in.
func (b *batch) room() []byte { return b.slots[b.n].bytes[:] }

func (b *batch) add(p []byte, to netip.AddrPort) {
	s := &b.slots[b.n]
	s.buffer[0] = p
	s.addr.Port = int(to.Port())
	if ip := to.Addr().Unmap(); ip.Is4() {
		four := ip.As4()
		s.addr.IP = append(s.ip[:0], four[:]...)
	} else {
		s.ip = ip.As16()
		s.addr.IP, s.addr.Zone = s.ip[:], ip.Zone()
	}
	b.n++
}

// send sends the batch. A destination that cannot be reached loses its packet, no other does.
func (b *batch) send(lane int) {
	many := b.socket.many[lane%len(b.socket.many)]
	for at := 0; at < b.n; {
		n, err := many.WriteBatch(b.messages[at:b.n], 0)
		if err != nil && n <= 0 {
			n = 1 // the first one is refused
		}
		at += max(n, 1)
	}
	b.n = 0
}

// outboxes are for goroutines that send now and then.
var (
	outboxes = sync.Pool{New: func() any { return &outbox{lane: int(lanes.Add(1) & 0xff)} }}
	lanes    atomic.Uint32
)

func borrowOutbox() *outbox { return outboxes.Get().(*outbox) }

// giveBack sends what waits in a borrowed outbox.
func (o *outbox) giveBack() {
	o.flush()
	outboxes.Put(o)
}
