package turn

import (
	"net"
	"net/netip"
)

// session is what a client with an allocation may do, and whom it may reach by now. It is guarded by the server's lock.
type session struct {
	right    Right
	peers    map[netip.Addr]struct{} // that it has a permission for
	channels int
}

// Each permission is kept for five minutes and each channel for ten, with a timer. A browser asks for one of either for each of the other
// side's candidates.
const (
	maxPeers    = 256  // that one client may have permissions for at once
	maxChannels = 1024 // likewise; with so many nothing is renewed either
)

// begun notes what the client at an address may do.
func (s *Server) begun(from, _ net.Addr, _, user, _ string, _ net.Addr, _ int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[addressKey(from)] = &session{right: Right(user[:1]), peers: map[netip.Addr]struct{}{}}
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

// change does something to the session at an address, if there is one.
func (s *Server) change(from net.Addr, do func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.sessions[addressKey(from)]; c != nil {
		do(c)
	}
}

// permitted is told that a permission is there, unpermitted that it has ended.
func (s *Server) permitted(from, _ net.Addr, _, _, _ string, _ net.Addr, peer net.IP) {
	if ip, ok := netip.AddrFromSlice(peer); ok {
		s.change(from, func(c *session) { c.peers[ip.Unmap()] = struct{}{} })
	}
}

func (s *Server) unpermitted(from, _ net.Addr, _, _, _ string, _ net.Addr, peer net.IP) {
	if ip, ok := netip.AddrFromSlice(peer); ok {
		s.change(from, func(c *session) { delete(c.peers, ip.Unmap()) })
	}
}

// bound is told that a channel is there, unbound that it has ended.
func (s *Server) bound(from, _ net.Addr, _, _, _ string, _, _ net.Addr, _ uint16) {
	s.change(from, func(c *session) { c.channels++ })
}

func (s *Server) unbound(from, _ net.Addr, _, _, _ string, _, _ net.Addr, _ uint16) {
	s.change(from, func(c *session) { c.channels-- })
}
