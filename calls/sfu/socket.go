package sfu

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// socket is one of the focus's UDP addresses: several of the kernel's sockets, among which it shares the clients out, each
// with its own reader. What is a client's RTP or RTCP goes where it belongs in the reader's goroutine; the rest (STUN,
// DTLS, and what nobody knows yet) waits for Pion, to whose agents the udpMux gives it.
type socket struct {
	conns  []*net.UDPConn
	many   []manyWriter // of the same
	ways   *ways
	rest   chan *datagram // waits for Pion
	closed chan struct{}
	once   sync.Once
	ends   sync.WaitGroup // the readers
}

// manyWriter is sendmmsg, for either family.
type manyWriter interface {
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// datagram is a packet that waits for Pion.
type datagram struct {
	n    int
	from netip.AddrPort
	data [receiveMTU]byte
}

var datagrams = sync.Pool{New: func() any { return new(datagram) }}

const (
	maxReaders = 8    // of one address
	maxRest    = 2048 // datagrams; what comes on top is dropped
)

// listenSocket opens an address for as many readers as there are processors.
func listenSocket(at *net.UDPAddr, w *ways) (*socket, error) {
	first, err := net.ListenUDP("udp", at) // alone: a port that is taken is refused
	if err != nil {
		return nil, err
	}
	s := newSocket(w, first)
	if shareable(first) {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return share(c) }}
		for range min(runtime.GOMAXPROCS(0), maxReaders) - 1 {
			conn, err := config.ListenPacket(context.Background(), "udp", first.LocalAddr().String())
			if err != nil {
				break // fewer readers serve as well
			}
			s.add(conn.(*net.UDPConn))
		}
	}
	return s, nil
}

// newSocket makes a socket of what is open already. Nothing is read before start.
func newSocket(w *ways, conns ...*net.UDPConn) *socket {
	s := &socket{ways: w, rest: make(chan *datagram, maxRest), closed: make(chan struct{})}
	for _, c := range conns {
		s.add(c)
	}
	return s
}

func (s *socket) add(conn *net.UDPConn) {
	_ = conn.SetReadBuffer(kernelBuffer) // a smaller buffer serves a smaller call
	_ = conn.SetWriteBuffer(kernelBuffer)
	s.conns = append(s.conns, conn)
	if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && local.IP.To4() == nil {
		s.many = append(s.many, ipv6.NewPacketConn(conn))
	} else {
		s.many = append(s.many, ipv4.NewPacketConn(conn))
	}
}

// start begins to read.
func (s *socket) start() {
	for i := range s.conns {
		s.ends.Go(func() { s.read(i) })
	}
}

// read takes what comes to one of the kernel's sockets, many packets in one system call, until it is closed. What its
// packets cause to be sent leaves when the last of them has been looked at.
func (s *socket) read(i int) {
	in, err := newInbox(s.conns[i])
	if err != nil {
		return // closed already
	}
	d := &desk{out: &outbox{lane: i}}
	for {
		n, err := in.fill()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(time.Millisecond) // the kernel is out of memory, say
			continue
		}
		d.now = time.Now()
		for k := range n {
			p, from := in.datagram(k)
			if len(p) == 0 {
				continue
			}
			if w := s.ways.of(false, from, p); w == nil || !w.take(p, d) {
				s.leave(p, from)
			}
		}
		d.out.flush()
	}
}

// leave leaves a datagram to Pion.
func (s *socket) leave(p []byte, from netip.AddrPort) {
	d := datagrams.Get().(*datagram)
	d.n, d.from = copy(d.data[:], p), from
	select {
	case s.rest <- d:
	default: // it will be sent again
		datagrams.Put(d)
	}
}

// next gives what is left to Pion; it is the caller's, who puts it back.
func (s *socket) next() (*datagram, error) {
	select {
	case d := <-s.rest:
		return d, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// WriteToAddrPort writes what Pion has to say.
func (s *socket) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	s.ways.leads(to, s)
	return s.conns[0].WriteToUDPAddrPort(p, to)
}

// Close ends the readers and waits for them.
func (s *socket) Close() error {
	var errs []error
	s.once.Do(func() {
		close(s.closed)
		for _, c := range s.conns {
			errs = append(errs, c.Close())
		}
	})
	s.ends.Wait()
	return errors.Join(errs...)
}

// LocalAddr is the address.
func (s *socket) LocalAddr() net.Addr { return s.conns[0].LocalAddr() }
