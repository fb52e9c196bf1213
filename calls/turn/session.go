package turn

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
)

// session is what a client with an allocation may do, and whom it may reach by now. It is guarded by the server's lock.
type session struct {
	right    Right
	peers    map[netip.Addr]struct{} // that it has a permission for
	bound    map[netip.Addr]int      // channels, by their peer's address
	channels int
	// heard are the addresses of both, in order, for whoever holds no lock. What it points to is never changed.
	heard atomic.Pointer[[]netip.Addr]
}

func newSession(right Right) *session {
	c := &session{right: right, peers: map[netip.Addr]struct{}{}, bound: map[netip.Addr]int{}}
	c.heard.Store(&[]netip.Addr{})
	return c
}

// hears says whether the client takes packets from an address. It may be asked without the lock.
func (c *session) hears(peer netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(*c.heard.Load(), peer, netip.Addr.Compare)
	return ok
}

// note brings heard up to date with what is known of a peer.
func (c *session) note(peer netip.Addr) {
	heard := *c.heard.Load()
	at, was := slices.BinarySearchFunc(heard, peer, netip.Addr.Compare)
	_, is := c.peers[peer]
	switch is = is || c.bound[peer] > 0; {
	case is == was:
		return
	case is:
		heard = slices.Concat(heard[:at], []netip.Addr{peer}, heard[at:])
	default:
		heard = slices.Concat(heard[:at], heard[at+1:])
	}
	c.heard.Store(&heard)
}

// Each permission is kept for five minutes and each channel for ten, with a timer. A browser asks for one of either for each of the other
// side's candidates.
const (
	maxPeers    = 256  // that one client may have permissions for at once
	maxChannels = 1024 // likewise; with so many nothing is renewed either
)

// begun notes what the client at an address may do.
func (s *Server) begun(from, _ net.Addr, _, _, _ string, relay net.Addr, _ int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.told[addrPort(relay)]; r != nil {
		s.sessions[addressKey(from)] = r.session
	}
}

// ended forgets what the client at an address might do.
func (s *Server) ended(from, _ net.Addr, _, _, _ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, addressKey(from))
}

// roomFor gives the right of the client at an address, and says whether it may have a permission for a peer beside those that it has.
func (s *Server) roomFor(from net.Addr, peer netip.Addr) (right Right, room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.sessions[addressKey(from)]
	if c == nil {
		return "", true // and no allocation
	}
	_, known := c.peers[peer]
	return c.right, (known || len(c.peers) < maxPeers) && c.channels < maxChannels
}

// change does something to the session of a relay and what it knows of a peer.
func (s *Server) change(relay net.Addr, peer netip.Addr, do func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.told[addrPort(relay)]; r != nil {
		do(r.session)
		r.session.note(peer)
	}
}

// permitted is told that a permission is there, unpermitted that it has ended.
func (s *Server) permitted(_, _ net.Addr, _, _, _ string, relay net.Addr, peer net.IP) {
	if ip, ok := netip.AddrFromSlice(peer); ok {
		ip = ip.Unmap()
		s.change(relay, ip, func(c *session) { c.peers[ip] = struct{}{} })
	}
}

func (s *Server) unpermitted(_, _ net.Addr, _, _, _ string, relay net.Addr, peer net.IP) {
	if ip, ok := netip.AddrFromSlice(peer); ok {
		ip = ip.Unmap()
		s.change(relay, ip, func(c *session) { delete(c.peers, ip) })
	}
}

// bound is told that a channel is there, unbound that it has ended. It may outlive the permission that came with it.
func (s *Server) bound(_, _ net.Addr, _, _, _ string, relay, peer net.Addr, _ uint16) {
	ip := addrPort(peer).Addr()
	s.change(relay, ip, func(c *session) {
		c.channels++
		c.bound[ip]++
	})
}

func (s *Server) unbound(_, _ net.Addr, _, _, _ string, relay, peer net.Addr, _ uint16) {
	ip := addrPort(peer).Addr()
	s.change(relay, ip, func(c *session) {
		c.channels--
		if c.bound[ip]--; c.bound[ip] <= 0 {
			delete(c.bound, ip)
		}
	})
}

// addrPort is the plain address of what Pion names; none of what is not UDP's.
func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		return plain(u.AddrPort())
	}
	return netip.AddrPort{}
}
