package sfu

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v4"
)

// udpMux gives each of Pion's ICE agents what comes for it on one of the focus's addresses: a request by the user fragment that it names,
// anything else by where it comes from, with a bound for handshakes. What an agent does not read in time is dropped; Pion's own would keep all of it, however much that is.
type udpMux struct {
	socket *socket
	sorter sync.WaitGroup

	mu    sync.RWMutex // guards the rest; held for a look
	boxes map[string]*udpBox
	at    map[netip.AddrPort]*udpBox // by where their agents have written to
}

// udpBox is what waits for an agent.
type udpBox struct {
	ufrag  string
	waits  chan *datagram
	checks pace
	shakes handshakes       // from places that are not known
	conns  int              // that are open; this and the next are guarded by the mux's lock
	places []netip.AddrPort // where it is in at
}

const (
	maxWaiting = 512 // datagrams for one agent: as many as a data channel's window holds, nearly

	// A client may ask so often where it is in the long run, and so much at once. A browser asks some twenty times in a second, and Pion's own
	// client five times by each pair of addresses.
	checkEvery = 10 * time.Millisecond
	checksLent = 200 * checkEvery
)

func newUDPMux(s *socket) *udpMux {
	m := &udpMux{socket: s, boxes: map[string]*udpBox{}, at: map[netip.AddrPort]*udpBox{}}
	m.sorter.Go(m.sort)
	return m
}

// sort puts what comes into the boxes until the socket is closed.
func (m *udpMux) sort() {
	var asked stun.Message
	for {
		d, err := m.socket.next()
		if err != nil {
			return
		}
		box := m.whose(d, &asked)
		if box == nil || !box.put(d) {
			datagrams.Put(d)
		}
	}
}

// whose is the box that a datagram is for, nil: nobody's, or one too many. asked is for reading it.
func (m *udpMux) whose(d *datagram, asked *stun.Message) *udpBox {
	b := d.data[:d.n]
	if !asks(b) {
		m.mu.RLock()
		box := m.at[unmapped(d.from)]
		m.mu.RUnlock()
		if box == nil || !m.socket.ways.handshakesOf(false, d.from, &box.shakes).take(b) {
			return nil
		}
		return box
	}
	asked.Raw = b
	if asked.Decode() != nil {
		return nil
	}
	name, err := asked.Get(stun.AttrUsername)
	if err != nil {
		return nil
	}
	ufrag := name[:max(slices.Index(name, ':'), 0)]
	m.mu.RLock()
	box := m.boxes[string(ufrag)]
	m.mu.RUnlock()
	if box == nil || !box.checks.take(checkEvery, checksLent, time.Now()) {
		return nil
	}
	return box
}

// asks says whether a packet is a STUN request.
func asks(b []byte) bool { return stun.IsMessage(b) && b[0]&0xc1 == 0 && b[1]&0x10 == 0 }

// put is false if the box is full.
func (b *udpBox) put(d *datagram) bool {
	select {
	case b.waits <- d:
		return true
	default:
		return false
	}
}

// GetConn gives an agent a hand in its box. Several share one; the last that is closed takes it away.
func (m *udpMux) GetConn(ufrag string, _ net.Addr) (net.PacketConn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	box := m.boxes[ufrag]
	if box == nil {
		box = &udpBox{ufrag: ufrag, waits: make(chan *datagram, maxWaiting)}
		m.boxes[ufrag] = box
	}
	box.conns++
	return &udpConn{mux: m, box: box, closed: make(chan struct{})}, nil
}

// RemoveConnByUfrag takes a box away. Who has a hand in it may go on to write.
func (m *udpMux) RemoveConnByUfrag(ufrag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if box := m.boxes[ufrag]; box != nil {
		m.remove(box)
	}
}

// remove forgets a box. The lock is held.
func (m *udpMux) remove(box *udpBox) {
	if m.boxes[box.ufrag] == box {
		delete(m.boxes, box.ufrag)
	}
	for _, at := range box.places {
		delete(m.at, at)
	}
	box.places = nil
}

// leads notes that an agent writes to an address: what comes from there is for it.
func (m *udpMux) leads(to netip.AddrPort, box *udpBox) {
	to = unmapped(to)
	m.mu.RLock()
	before := m.at[to]
	m.mu.RUnlock()
	if before == box {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if box.conns == 0 {
		return
	}
	if before = m.at[to]; before != nil {
		before.places = slices.DeleteFunc(before.places, func(at netip.AddrPort) bool { return at == to })
	}
	m.at[to] = box
	box.places = append(box.places, to)
}

// GetListenAddresses is the socket's.
func (m *udpMux) GetListenAddresses() []net.Addr { return []net.Addr{m.socket.LocalAddr()} }

// Close closes the socket.
func (m *udpMux) Close() error {
	err := m.socket.Close()
	m.sorter.Wait()
	return err
}

// udpConn is an agent's hand in its box.
type udpConn struct {
	mux    *udpMux
	box    *udpBox
	closed chan struct{}
	once   sync.Once
}

// ReadFromAddrPort waits for a datagram.
func (c *udpConn) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.box.waits:
		n, from := copy(p, d.data[:d.n]), d.from
		datagrams.Put(d)
		return n, from, nil
	case <-c.closed:
	case <-c.mux.socket.closed:
	}
	return 0, netip.AddrPort{}, net.ErrClosed
}

// WriteToAddrPort writes.
func (c *udpConn) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.closed:
		return 0, io.ErrClosedPipe
	default:
	}
	c.mux.leads(to, c.box)
	return c.mux.socket.WriteToAddrPort(p, to)
}

// ReadFrom is ReadFromAddrPort for the net.PacketConn that Pion asks for.
func (c *udpConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromAddrPort(p)
	return n, net.UDPAddrFromAddrPort(from), err
}

// WriteTo is WriteToAddrPort, likewise.
func (c *udpConn) WriteTo(p []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError(to.String())
	}
	return c.WriteToAddrPort(p, udp.AddrPort())
}

// Close ends reading.
func (c *udpConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.mux.mu.Lock()
		defer c.mux.mu.Unlock()
		if c.box.conns--; c.box.conns == 0 {
			c.mux.remove(c.box)
		}
	})
	return nil
}

// LocalAddr is the socket's; no deadline is needed where Close ends reading, and a datagram does not wait to leave.
func (c *udpConn) LocalAddr() net.Addr              { return c.mux.socket.LocalAddr() }
func (c *udpConn) SetDeadline(time.Time) error      { return nil }
func (c *udpConn) SetReadDeadline(time.Time) error  { return nil }
func (c *udpConn) SetWriteDeadline(time.Time) error { return nil }
