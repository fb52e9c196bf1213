package turn

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// loopbackAt opens a socket on one of this host's loopback addresses.
func loopbackAt(t *testing.T, last byte) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, last)})
	if err != nil {
		t.Skipf("no further loopback address: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestStrangersSpendNothing: whoever knows the port of a relay, and has no permission there, takes nothing from those who have one.
func TestStrangersSpendNothing(t *testing.T) {
	const burst, size = 200, 100 // a packet needs half a second of it
	for name, bound := range map[string]func(*Settings){
		"of the relay": func(s *Settings) { s.Rate = burst },
		"of all":       func(s *Settings) { s.TotalRate = burst },
	} {
		t.Run(name, func(t *testing.T) {
			peer, stranger := loopbackAt(t, 2), loopbackAt(t, 3)
			s := openServer(t, bound, func(s *Settings) {
				s.Public = func(a netip.Addr) bool { return a.IsLoopback() }
				s.Host = func() ([]net.Addr, error) { return nil, nil }
			})
			ann := allocate(t, s, "tcp", ToPublic, "ann")
			if _, err := ann.WriteTo([]byte("hello"), peer.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			for range 40 {
				if _, err := stranger.WriteTo(make([]byte, size/2), ann.LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
			says := make([]byte, size) // comes to the relay behind all those
			copy(says, "hello ann")
			if _, err := peer.WriteTo(says, ann.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			if err := ann.SetReadDeadline(time.Now().Add(patience / 2)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 2*size)
			if n, from, err := ann.ReadFrom(b); err != nil || string(b[:n]) != string(says) || from.String() != peer.LocalAddr().String() {
				t.Errorf("got %q from %v, %v, want what %v said", b[:n], from, err, peer.LocalAddr())
			}
		})
	}
}

// TestHeardAsLongAsPermitted: from an address packets are taken while there is a permission or a channel. A permission may be told ended twice.
func TestHeardAsLongAsPermitted(t *testing.T) {
	s := openServer(t)
	allocate(t, s, "tcp", ToFoci, "ann")
	s.mu.Lock()
	var r *relay
	for r = range s.relays {
	}
	s.mu.Unlock()
	at, peer := net.UDPAddrFromAddrPort(r.told), net.IPv4(198, 51, 100, 1)
	permitted := func(is bool) func() {
		if is {
			return func() { s.permitted(nil, nil, "", "", "", at, peer) }
		}
		return func() { s.unpermitted(nil, nil, "", "", "", at, peer) }
	}
	bound := func(port int, is bool) func() {
		to := &net.UDPAddr{IP: peer, Port: port}
		if is {
			return func() { s.bound(nil, nil, "", "", "", at, to, 0) }
		}
		return func() { s.unbound(nil, nil, "", "", "", at, to, 0) }
	}
	for i, c := range []struct {
		name  string
		do    func()
		heard bool
	}{
		{"nothing", func() {}, false},
		{"permission", permitted(true), true},
		{"permission ended", permitted(false), false},
		{"permission again", permitted(true), true},
		{"channel", bound(5000, true), true},
		{"another channel", bound(5001, true), true},
		{"permission ended before its channels", permitted(false), true},
		{"and ended again", permitted(false), true},
		{"channel ended", bound(5000, false), true},
		{"the last one ended", bound(5001, false), false},
	} {
		c.do()
		if got := r.session.hears(netip.MustParseAddr("198.51.100.1")); got != c.heard {
			t.Errorf("step %d, %s: got heard %v, want %v", i, c.name, got, c.heard)
		}
		if r.session.hears(netip.MustParseAddr("198.51.100.2")) {
			t.Errorf("step %d, %s: another address is heard", i, c.name)
		}
	}
}
