package turn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/turn/v5"
	"golang.org/x/time/rate"
)

// Media is one media address of a focus: as clients are told it, and where it is.
type Media struct {
	Told netip.AddrPort `json:"told"`
	At   netip.AddrPort `json:"at"`
}

// Foci are the media addresses of all foci of a server. It is never changed.
type Foci struct {
	at, told map[netip.AddrPort]netip.AddrPort
}

// NewFoci takes all the addresses.
func NewFoci(all []Media) *Foci {
	f := &Foci{at: map[netip.AddrPort]netip.AddrPort{}, told: map[netip.AddrPort]netip.AddrPort{}}
	for _, m := range all {
		told, at := plain(m.Told), plain(m.At)
		if _, known := f.at[told]; !known {
			f.at[told] = at
		}
		if _, known := f.told[at]; !known {
			f.told[at] = told
		}
	}
	return f
}

// Reaches says whether an address is one of the foci's, as clients are told it.
func (f *Foci) Reaches(told netip.AddrPort) bool {
	_, ok := f.at[plain(told)]
	return ok
}

func (f *Foci) has(ip netip.Addr) bool {
	for told := range f.at {
		if told.Addr() == ip {
			return true
		}
	}
	return false
}

// plain is an address without the forms that the same address may also have.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// generator makes the sockets that Pion relays through.
type generator struct{ *Server }

func (generator) Validate() error { return nil }

var errUDPOnly = errors.New("turn: nothing but UDP is relayed")

func (generator) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errUDPOnly
}

func (generator) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errUDPOnly }

// AllocatePacketConn opens a relay for a user. Pion also asks without a user, looking for even ports: they are not given.
func (g generator) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	s := g.Server
	if c.UserID == "" || c.RequestedPort != 0 {
		return nil, nil, errors.New("turn: no ports by wish")
	}
	ip, err := s.localAddress(c.Network == "udp6")
	if err != nil {
		return nil, nil, err
	}
	conn, err := s.listenRelay(c.Network, ip)
	if err != nil {
		return nil, nil, err
	}
	at := plain(conn.LocalAddr().(*net.UDPAddr).AddrPort())
	told := at
	for _, outer := range s.settings.Told {
		if a, ok := netip.AddrFromSlice(outer); ok && a.Unmap().Is4() == told.Addr().Is4() {
			told = netip.AddrPortFrom(a.Unmap(), told.Port())
			break
		}
	}
	right := Right(c.UserID[:1])
	r := &relay{UDPConn: conn, server: s, name: c.UserID, right: right, session: newSession(right), told: told, at: at,
		in:  rate.NewLimiter(rate.Limit(s.settings.Rate), s.settings.Rate),
		out: rate.NewLimiter(rate.Limit(s.settings.Rate), s.settings.Rate)}
	if !s.keep(r) {
		_ = conn.Close()
		return nil, nil, errors.New("turn: too many allocations")
	}
	return r, net.UDPAddrFromAddrPort(told), nil
}

// localAddress is the address of this host to relay from.
func (s *Server) localAddress(six bool) (net.IP, error) {
	for _, ip := range s.settings.Listen {
		if (ip.To4() == nil) == six {
			return ip, nil
		}
	}
	return nil, errors.New("turn: no address of that family here")
}

const portTries = 64

func (s *Server) listenRelay(network string, ip net.IP) (*net.UDPConn, error) {
	first, last := s.settings.MinPort, s.settings.MaxPort
	if first == 0 || last < first {
		return net.ListenUDP(network, &net.UDPAddr{IP: ip})
	}
	var err error
	for range portTries {
		var conn *net.UDPConn
		if conn, err = net.ListenUDP(network, &net.UDPAddr{IP: ip, Port: first + rand.IntN(last-first+1)}); err == nil {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("turn: no free port between %d and %d: %w", first, last, err)
}

// host are all addresses of the machine that we run on, as they were.
type host struct {
	at  time.Time
	all map[netip.Addr]bool
}

// hostAgain is how old what we know of the host's addresses may be when somebody asks for a permission. Each is renewed within
// five minutes (RFC 8656, section 9).
const hostAgain = 10 * time.Second

// lookAround learns this host's addresses, unless that was done a moment ago.
func (s *Server) lookAround() error {
	now := s.now()
	if known := s.host.Load(); known != nil && now.Sub(known.at) < hostAgain {
		return nil
	}
	found, err := s.settings.Host()
	if err != nil {
		return fmt.Errorf("TURN: this host's addresses: %w", err)
	}
	h := &host{at: now, all: map[netip.Addr]bool{}}
	for _, a := range found {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				h.all[ip.Unmap()] = true
			}
		}
	}
	s.host.Store(h)
	return nil
}

// abroad says whether an address is on the open Internet and not this host's.
func (s *Server) abroad(ip netip.Addr) bool { return s.settings.Public(ip) && !s.host.Load().all[ip] }

// permits is asked for the address of a peer, before anything is sent to it or a permission is renewed; each packet is looked at again, with
// its port.
func (s *Server) permits(from net.Addr, peer net.IP) bool {
	ip, ok := netip.AddrFromSlice(peer)
	if !ok {
		return false
	}
	ip = ip.Unmap()
	_ = s.lookAround() // should it fail, what was known before holds
	right, room := s.roomFor(from, ip)
	switch {
	case !s.settings.Foci().has(ip) && (right != ToPublic || !s.own[ip] && !s.abroad(ip)):
		refused.WithLabelValues("peer").Inc()
		return false
	case !room:
		refused.WithLabelValues("quota").Inc()
		return false
	}
	return true
}

// relay is the socket of one allocation, seen from its client.
type relay struct {
	*net.UDPConn
	server  *Server
	name    string // of the user
	user    *user  // from keep on
	right   Right
	session *session
	told    netip.AddrPort // as peers know it
	at      netip.AddrPort // as it is
	in, out *rate.Limiter
	once    sync.Once

	// owned by the goroutine that reads
	lastFrom netip.AddrPort
	lastAddr *net.UDPAddr
}

// target is where a packet for a peer goes; false if the bearer may not send there.
func (r *relay) target(peer netip.AddrPort) (netip.AddrPort, bool) {
	s := r.server
	peer = plain(peer)
	if at, ok := s.settings.Foci().at[peer]; ok {
		return at, true
	}
	if r.right != ToPublic {
		return peer, false
	}
	if s.own[peer.Addr()] { // of this host only what is an allocation itself
		s.mu.Lock()
		other := s.told[peer]
		s.mu.Unlock()
		if other == nil || other.right != ToPublic {
			return peer, false
		}
		return other.at, true
	}
	return peer, peer.Port() >= 1024 && s.abroad(peer.Addr())
}

// source is what the client is told of where a packet came from; false if nothing is taken from there.
func (r *relay) source(from netip.AddrPort) (netip.AddrPort, bool) {
	s := r.server
	from = plain(from)
	if told, ok := s.settings.Foci().told[from]; ok {
		return told, true
	}
	if r.right != ToPublic {
		return from, false
	}
	if s.own[from.Addr()] {
		s.mu.Lock()
		other := s.at[from]
		s.mu.Unlock()
		if other == nil || other.right != ToPublic {
			return from, false
		}
		return other.told, true
	}
	return from, s.abroad(from.Addr())
}

// may charges a packet to its direction, to the user and to all together, as far as there is room for it.
func (r *relay) may(direction *rate.Limiter, n int) bool {
	now := r.server.now()
	return direction.AllowN(now, n) && r.user.rate.AllowN(now, n) && r.server.total.AllowN(now, n)
}

// WriteTo sends the client's packet to a peer. What may not be sent is dropped, as the net would drop it.
func (r *relay) WriteTo(p []byte, to net.Addr) (int, error) {
	peer, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, errUDPOnly
	}
	at, ok := r.target(peer.AddrPort())
	switch {
	case !ok:
		refused.WithLabelValues("peer").Inc()
		return len(p), nil
	case !r.may(r.out, len(p)):
		refused.WithLabelValues("rate").Inc()
		return len(p), nil
	}
	relayed.WithLabelValues("out").Add(float64(len(p)))
	return r.UDPConn.WriteToUDPAddrPort(p, at)
}

// ReadFrom gives the next packet that a peer may send. What Pion would drop for want of a permission is dropped here: a stranger who knows
// the port shall not spend what the client's own peers have.
func (r *relay) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.UDPConn.ReadFromUDPAddrPort(p)
		if err != nil {
			return n, nil, err
		}
		told, ok := r.source(from)
		switch {
		case !ok || !r.session.hears(told.Addr()):
			refused.WithLabelValues("peer").Inc()
			continue
		case !r.may(r.in, n):
			refused.WithLabelValues("rate").Inc()
			continue
		}
		relayed.WithLabelValues("in").Add(float64(n))
		if r.lastAddr == nil || told != r.lastFrom {
			r.lastFrom, r.lastAddr = told, net.UDPAddrFromAddrPort(told)
		}
		return n, r.lastAddr, nil
	}
}

// Close ends the allocation's socket.
func (r *relay) Close() error {
	r.once.Do(func() { r.server.drop(r) })
	return r.UDPConn.Close()
}
