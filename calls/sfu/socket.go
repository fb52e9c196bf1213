package sfu

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// socket is one of the focus's UDP sockets. What is written while it is held leaves in one system call when it is let
// go: a packet for a hundred subscribers goes through the kernel's door once. What is written otherwise leaves at once.
type socket struct {
	conn   *net.UDPConn
	many   manyWriter
	holds  atomic.Int32 // as held, for those who need not wait
	mu     sync.Mutex   // guards held, filled and spare; never held while sending
	held   int
	filled *batch
	spare  []*batch
}

// manyWriter is sendmmsg, for either family.
type manyWriter interface {
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

const (
	batchSize  = 64   // packets that leave together
	batchBytes = 1500 // the largest that waits; larger ones leave at once
	maxSpare   = 8
)

// batch is what waits to leave.
type batch struct {
	n        int
	messages [batchSize]ipv4.Message
	slots    [batchSize]struct {
		buffer [1][]byte
		bytes  [batchBytes]byte
		addr   net.UDPAddr
		ip     [16]byte
	}
}

func newBatch() *batch {
	b := &batch{}
	for i := range b.messages {
		b.messages[i].Buffers = b.slots[i].buffer[:]
		b.messages[i].Addr = &b.slots[i].addr
	}
	return b
}

// add copies a packet in. The batch must have room.
func (b *batch) add(p []byte, to netip.AddrPort) {
	s := &b.slots[b.n]
	s.buffer[0] = s.bytes[:copy(s.bytes[:], p)]
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

func newSocket(conn *net.UDPConn) *socket {
	s := &socket{conn: conn}
	if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && local.IP.To4() == nil {
		s.many = ipv6.NewPacketConn(conn)
	} else {
		s.many = ipv4.NewPacketConn(conn)
	}
	return s
}

// hold lets what is written wait, until release is called as often.
func (s *socket) hold() {
	s.mu.Lock()
	s.held++
	s.holds.Store(int32(s.held))
	s.mu.Unlock()
}

// release sends what waits, also for others who still hold.
func (s *socket) release() {
	s.mu.Lock()
	s.held--
	s.holds.Store(int32(s.held))
	full := s.take()
	s.mu.Unlock()
	s.send(full)
}

// take is called with the lock held.
func (s *socket) take() *batch {
	full := s.filled
	s.filled = nil
	return full
}

// send writes a batch and keeps it for the next. A destination that cannot be reached loses its packet, no other does.
func (s *socket) send(b *batch) {
	if b == nil {
		return
	}
	for at := 0; at < b.n; {
		n, err := s.many.WriteBatch(b.messages[at:b.n], 0)
		if err != nil && n <= 0 {
			n = 1 // the first one is refused
		}
		at += max(n, 1)
	}
	b.n = 0
	s.mu.Lock()
	if len(s.spare) < maxSpare {
		s.spare = append(s.spare, b)
	}
	s.mu.Unlock()
}

// WriteToAddrPort writes or keeps a packet.
func (s *socket) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	if s.holds.Load() == 0 || len(p) > batchBytes {
		return s.conn.WriteToUDPAddrPort(p, to)
	}
	s.mu.Lock()
	if s.held == 0 {
		s.mu.Unlock()
		return s.conn.WriteToUDPAddrPort(p, to)
	}
	if s.filled == nil {
		if n := len(s.spare); n > 0 {
			s.filled, s.spare = s.spare[n-1], s.spare[:n-1]
		} else {
			s.filled = newBatch()
		}
	}
	s.filled.add(p, to)
	var full *batch
	if s.filled.n == batchSize {
		full = s.take()
	}
	s.mu.Unlock()
	s.send(full)
	return len(p), nil
}

// ReadFromAddrPort reads a packet.
func (s *socket) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	return s.conn.ReadFromUDPAddrPort(p)
}
