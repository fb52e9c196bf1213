package turn

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// TestReachesNothingElse: threats.md C14.
func TestReachesNothingElse(t *testing.T) {
	focus, other := echo(t), echo(t) // another service of this host
	s := openServer(t, withFocus(focus.LocalAddr()), func(s *Settings) {
		s.Public = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.2") }
	})
	public, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
	if err != nil {
		t.Skipf("no second loopback address: %v", err)
	}
	defer public.Close()
	participant, account := allocate(t, s, "udp", ToFoci, "ann"), allocate(t, s, "tcp", ToPublic, "bob")
	for _, c := range []struct {
		name, peer string
		refused    []net.PacketConn // at the permission; otherwise the packet does not arrive
	}{
		{"private", "10.1.2.3:5000", []net.PacketConn{participant, account}},
		{"private", "192.168.1.1:5000", []net.PacketConn{participant, account}},
		{"link local: a cloud's secrets", "169.254.169.254:80", []net.PacketConn{participant, account}},
		{"other loopback", "127.0.0.3:5000", []net.PacketConn{participant, account}},
		{"public, for a participant", public.LocalAddr().String(), []net.PacketConn{participant}},
		{"broadcast", "255.255.255.255:5000", []net.PacketConn{participant, account}},
		{"multicast", "224.0.0.251:5353", []net.PacketConn{participant, account}},
		{"nowhere", "0.0.0.0:5000", []net.PacketConn{participant, account}},
	} {
		to, err := net.ResolveUDPAddr("udp", c.peer)
		if err != nil {
			t.Fatal(err)
		}
		for _, relay := range c.refused {
			if _, err := relay.WriteTo([]byte("x"), to); err == nil {
				t.Errorf("%s %s: a permission was given", c.name, c.peer)
			}
		}
	}
	for name, relay := range map[string]net.PacketConn{"participant": participant, "account": account} {
		if bounces(t, relay, other.LocalAddr().String(), "into the house", time.Second) {
			t.Errorf("%s: another port of this host was reached", name)
		}
	}
	if bounces(t, account, "127.0.0.2:53", "a name server", 300*time.Millisecond) {
		t.Error("a public service's port was reached")
	}
}

// TestReachesNoOtherAddressOfTheHost: where we listen on one address only, the host's others are not the Internet's, public as
// they may be; nor is one that it gets later.
func TestReachesNoOtherAddressOfTheHost(t *testing.T) {
	var open [3]*net.UDPConn
	for i := range open {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(2+i))})
		if err != nil {
			t.Skipf("no further loopback address: %v", err)
		}
		defer conn.Close()
		open[i] = conn
	}
	var addresses atomic.Value
	host := func(more ...string) {
		all := []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}
		for _, ip := range more {
			all = append(all, &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(24, 32)})
		}
		addresses.Store(all)
	}
	host("127.0.0.2")
	s := openServer(t, func(s *Settings) {
		s.Public = func(a netip.Addr) bool { return a.IsLoopback() }
		s.Host = func() ([]net.Addr, error) { return addresses.Load().([]net.Addr), nil }
	})
	account := allocate(t, s, "udp", ToPublic, "ann")
	reaches := func(to *net.UDPConn) bool {
		t.Helper()
		if _, err := account.WriteTo([]byte("hello"), to.LocalAddr()); err != nil {
			return false // no permission
		}
		if err := to.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := to.ReadFromUDPAddrPort(make([]byte, 100))
		return err == nil && n == len("hello")
	}
	if reaches(open[0]) {
		t.Errorf("%v of this host was reached", open[0].LocalAddr())
	}
	if !reaches(open[1]) {
		t.Errorf("%v, which is not this host's, was not reached", open[1].LocalAddr())
	}
	host("127.0.0.2", "127.0.0.3")
	before := *s.host.Load()
	before.at = before.at.Add(-hostAgain)
	s.host.Store(&before)
	account = allocate(t, s, "udp", ToPublic, "bob")
	if reaches(open[1]) {
		t.Errorf("%v was reached though it has become this host's", open[1].LocalAddr())
	}
	if !reaches(open[2]) {
		t.Errorf("%v, which is not this host's, was not reached", open[2].LocalAddr())
	}
}

func TestAccountsReachOneAnother(t *testing.T) {
	for name, told := range map[string][]net.IP{"as they are": nil, "behind a router": {net.IPv4(203, 0, 113, 7)}} {
		t.Run(name, func(t *testing.T) { accountsMeet(t, openServer(t, func(s *Settings) { s.Told = told })) })
	}
}

func accountsMeet(t *testing.T, s *Server) {
	ann, bob := allocate(t, s, "udp", ToPublic, "ann"), allocate(t, s, "tcp", ToPublic, "bob")
	if _, err := bob.WriteTo([]byte("permission"), ann.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	got := make(chan string, 1)
	go func() {
		n, from, err := bob.ReadFrom(b)
		if err == nil && from.String() == ann.LocalAddr().String() {
			got <- string(b[:n])
		}
	}()
	end := time.After(patience)
	for {
		if _, err := ann.WriteTo([]byte("hello bob"), bob.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		select {
		case text := <-got:
			if text != "hello bob" {
				t.Errorf("got %q", text)
			}
			return
		case <-end:
			t.Fatal("bob heard nothing")
		case <-time.After(50 * time.Millisecond): // packets may be lost
		}
	}
}
