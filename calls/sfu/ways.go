package sfu

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"
)

// ways knows whose media come from which address. An address becomes a client's when it has asked from there with the
// password of its session (a STUN binding request that Pion has verified), and stays it while its peer connection lives, unless another asks
// from there when it has not for a while.
type ways struct {
	mu      sync.RWMutex // guards the rest; held for a look
	at      map[place]*way
	sockets []*socket // ours
	doors   *doors    // for TCP; nil: there is none
}

// place is a client's address, as it is seen from here.
type place struct {
	tcp  bool
	addr netip.AddrPort
}

// way is a place, and how what is sent there leaves.
type way struct {
	place
	wire *wire
	seen atomic.Int64         // when its client last asked from there, milliseconds
	by   atomic.Pointer[exit] // nil until Pion has sent something there
}

// exit is one of our addresses on UDP, or what carries a client's packets on TCP.
type exit struct {
	socket *socket
	conn   net.PacketConn
	to     net.Addr
}

// maxWays is how many addresses of one client are known: its networks and their relays. Of one that changes them often the
// oldest is forgotten, and its connection closed.
const maxWays = 32

func newWays() *ways { return &ways{at: map[place]*way{}} }

// of is whose an RTP or RTCP packet is that came from an address, or nil: others are Pion's (RFC 7983, section 7).
func (w *ways) of(tcp bool, from netip.AddrPort, p []byte) *wire {
	if len(p) < 12 || p[0] < 128 || p[0] > 191 {
		return nil
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if known := w.at[place{tcp, from}]; known != nil {
		return known.wire
	}
	return nil
}

// heldFor is how long an address on UDP stays a client's that has just asked from there. A client asks all the time, each six seconds at
// the least; whoever fakes its address, with a session of his own, would get what it sends until it asks again.
const heldFor = 10 * time.Second

// verified makes an address a client's, unless another is there.
func (w *ways) verified(c ice.Candidate, owner *wire, now time.Time) {
	at, ok := placeOf(c)
	if !ok {
		return
	}
	if at.tcp {
		w.doors.knows(at.addr)
	}
	w.mu.RLock()
	known := w.at[at]
	w.mu.RUnlock()
	switch {
	case known == nil:
	case known.wire == owner:
		known.seen.Store(millis(now))
		return
	case !at.tcp && millis(now)-known.seen.Load() < heldFor.Milliseconds():
		return
	}
	var gone place
	defer func() { // without the lock
		if gone.tcp {
			w.doors.hangUp(gone.addr)
		}
	}()
	w.mu.Lock()
	defer w.mu.Unlock()
	if owner.closed {
		return
	}
	if len(owner.places) >= maxWays {
		gone = owner.places[0]
		w.drop(owner, gone)
		owner.places = owner.places[1:]
	}
	next := &way{place: at, wire: owner}
	next.seen.Store(millis(now))
	if s := w.only(at); s != nil {
		next.by.Store(&exit{socket: s})
	}
	w.at[at] = next
	owner.places = append(owner.places, at)
}

// only is the one of our addresses by which a place can be reached, nil if Pion has to show which it is.
func (w *ways) only(at place) (found *socket) {
	for _, s := range w.sockets {
		local := s.LocalAddr().(*net.UDPAddr)
		if at.tcp || (local.IP.To4() != nil) != at.addr.Addr().Is4() {
			continue
		}
		if found != nil {
			return nil
		}
		found = s
	}
	return found
}

// add takes one of our addresses in.
func (w *ways) add(s *socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sockets = append(w.sockets, s)
}

// drop forgets a place, if it still is the owner's. The lock is held.
func (w *ways) drop(owner *wire, at place) {
	if known := w.at[at]; known != nil && known.wire == owner {
		delete(w.at, at)
	}
}

func placeOf(c ice.Candidate) (place, bool) {
	addr, err := netip.ParseAddr(c.Address())
	return place{c.NetworkType().IsTCP(), netip.AddrPortFrom(addr.Unmap(), uint16(c.Port()))}, err == nil
}

// unmapped is an address as places name it: IPv4 as such.
func unmapped(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// leads notes by which of our addresses Pion reaches one of the client's.
func (w *ways) leads(to netip.AddrPort, s *socket) {
	if known := w.find(place{false, unmapped(to)}); known != nil {
		if by := known.by.Load(); by == nil || by.socket != s {
			known.by.Store(&exit{socket: s})
		}
	}
}

// leadsByTCP is leads for what carries a client's packets on TCP.
func (w *ways) leadsByTCP(to net.Addr, conn net.PacketConn) {
	tcp, ok := to.(*net.TCPAddr)
	if !ok {
		return
	}
	if known := w.find(place{true, unmapped(tcp.AddrPort())}); known != nil {
		if by := known.by.Load(); by == nil || by.conn != conn {
			known.by.Store(&exit{conn: conn, to: to})
		}
	}
}

func (w *ways) find(at place) *way {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.at[at]
}

// forget takes all that is the owner's.
func (w *ways) forget(owner *wire) {
	w.mu.Lock()
	defer w.mu.Unlock()
	owner.closed = true
	for _, at := range owner.places {
		w.drop(owner, at)
	}
	owner.places = nil
}

// tcpMux stands before Pion's, so that media that come by TCP go the short way too.
type tcpMux struct {
	ice.TCPMux
	ways *ways
}

// GetConnByUfrag is Pion's.
func (m *tcpMux) GetConnByUfrag(ufrag string, six bool, local net.IP) (net.PacketConn, error) {
	conn, err := m.TCPMux.GetConnByUfrag(ufrag, six, local)
	if err != nil {
		return nil, err
	}
	return &tcpConn{PacketConn: conn, ways: m.ways, desk: newDesk()}, nil
}

// tcpConn is what carries a client's packets on TCP. One goroutine reads it.
type tcpConn struct {
	net.PacketConn
	ways   *ways
	desk   *desk
	checks pace
	shakes handshakes // from places that are not known
}

// ReadFrom gives what is Pion's; media go where they belong, and a client that asks too often where it is is not answered, nor one whose
// handshake has no end.
func (c *tcpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil {
			return n, from, err
		}
		tcp, ok := from.(*net.TCPAddr)
		if !ok {
			return n, from, nil
		}
		if asks(b[:n]) && !c.checks.take(checkEvery, checksLent, time.Now()) {
			continue
		}
		w := c.ways.of(true, unmapped(tcp.AddrPort()), b[:n])
		if w == nil {
			if !c.ways.handshakesOf(true, tcp.AddrPort(), &c.shakes).take(b[:n]) {
				continue
			}
			return n, from, nil
		}
		c.desk.begin()
		taken := w.take(b[:n], c.desk)
		c.desk.out.flush()
		if !taken {
			return n, from, nil
		}
	}
}

// WriteTo writes what Pion has to say.
func (c *tcpConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.ways.leadsByTCP(to, c.PacketConn)
	return c.PacketConn.WriteTo(b, to)
}

// chosen is the way to a candidate of a client, or nil.
func (w *ways) chosen(c *webrtc.ICECandidate) *way {
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return nil
	}
	return w.find(place{c.Protocol == webrtc.ICEProtocolTCP, netip.AddrPortFrom(addr.Unmap(), c.Port)})
}
