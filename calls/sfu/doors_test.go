package sfu

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
)

// tcpOnly keeps a client from UDP.
func tcpOnly(s *webrtc.SettingEngine) {
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
}

// TestMediaByTCPAtEachAddress: the port is open where media are taken, and nowhere else; clients get in also where it is not the first.
func TestMediaByTCPAtEachAddress(t *testing.T) {
	at := []net.IP{net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 1)} // the second is an interface's own, which clients are told
	e, err := NewEngine(Ports{Listen: at, Loopback: true})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	g := join(t, e, tcpOnly, false, func(g guest) {
		_, err := g.pc.CreateDataChannel("x", nil)
		must(t, err)
	})
	pair, err := g.peer.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	must(t, err)
	if pair.Local.Protocol != webrtc.ICEProtocolTCP || pair.Local.Address != "127.0.0.1" {
		t.Errorf("got %v, want TCP at 127.0.0.1", pair.Local)
	}
	for last, open := range map[byte]bool{1: true, 2: true, 3: false} {
		conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, last), Port: int(pair.Local.Port)})
		if (err == nil) != open {
			t.Errorf("127.0.0.%d: got %v, want it open: %v", last, err, open)
		}
		if err == nil {
			must(t, conn.Close())
		}
	}
}

// A port that is taken on one address is refused, and the others are free again.
func TestPortTakenOnOneAddress(t *testing.T) {
	at := []net.IP{net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 3)}
	taken, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at[1]})
	must(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	if d, err := listenTCP(at, port, strangersWait); err == nil {
		t.Errorf("got %v, want a refusal", d.Addr())
	}
	free, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at[0], Port: port})
	must(t, err)
	must(t, free.Close())
}

// callersOf are doors, and what comes in by them.
func callersOf(t *testing.T, wait time.Duration) (*doors, <-chan net.Conn) {
	t.Helper()
	d, err := listenTCP([]net.IP{net.IPv4(127, 0, 0, 1)}, 0, wait)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	come := make(chan net.Conn, 1)
	go func() {
		for {
			conn, err := d.Accept()
			if err != nil {
				return
			}
			come <- conn
		}
	}()
	return d, come
}

func dialFrom(t *testing.T, from net.IP, d *doors) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTCP("tcp", &net.TCPAddr{IP: from}, d.Addr().(*net.TCPAddr))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	return conn
}

func ends(t *testing.T, when string, conn net.Conn) {
	t.Helper()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: got %v, want its end", when, err)
	}
}

// TestStrangersByTCPAreBounded: connections that are nobody's are counted by network; those of clients are not.
func TestStrangersByTCPAreBounded(t *testing.T) {
	d, come := callersOf(t, time.Hour)
	one, other := net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 9)
	client := dialFrom(t, one, d)
	await(t, "the client", come)
	d.knows(addressOfTCP(client))
	var stranger *net.TCPConn
	for range maxStrangers {
		stranger = dialFrom(t, one, d)
		await(t, "a stranger", come)
	}
	ends(t, "one too many", dialFrom(t, one, d))
	dialFrom(t, other, d)
	await(t, "one from elsewhere", come)
	d.hangUp(addressOfTCP(stranger))
	ends(t, "hung up", stranger)
	dialFrom(t, one, d)
	await(t, "one more, now that there is room", come)
	must(t, d.Close())
	ends(t, "a client, when all is closed", client)
	if len(d.callers)+len(d.strangers)+d.waiting != 0 {
		t.Errorf("got %d callers, %d networks and %d who wait, want none", len(d.callers), len(d.strangers), d.waiting)
	}
}

// TestStrangersByTCPDoNotStay: who has not shown by ICE whose it is must go; clients stay.
func TestStrangersByTCPDoNotStay(t *testing.T) {
	d, come := callersOf(t, time.Second)
	client := dialFrom(t, net.IPv4(127, 0, 0, 1), d)
	await(t, "the client", come)
	d.knows(addressOfTCP(client))
	stranger := dialFrom(t, net.IPv4(127, 0, 0, 1), d)
	await(t, "a stranger", come)
	ends(t, "after a while", stranger)
	must(t, client.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client: got %v, want it to stay", err)
	}
}

func addressOfTCP(c *net.TCPConn) netip.AddrPort { return c.LocalAddr().(*net.TCPAddr).AddrPort() }

// TestAClientKeepsSomeConnections: by ICE a client's connection is its own, until it has too many others.
func TestAClientKeepsSomeConnections(t *testing.T) {
	e := newEngine(t)
	d := e.ways.doors
	strangers := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.waiting
	}
	g := join(t, e, tcpOnly, false, func(g guest) {
		_, err := g.pc.CreateDataChannel("x", nil)
		must(t, err)
	})
	if n := strangers(); n != 0 {
		t.Errorf("got %d strangers, want the client known", n)
	}
	conn, err := net.DialTCP("tcp", nil, d.Addr().(*net.TCPAddr))
	must(t, err)
	defer conn.Close()
	for late := time.Now().Add(patience); strangers() == 0 && time.Now().Before(late); {
		time.Sleep(time.Millisecond)
	}
	from := addressOfTCP(conn)
	e.ways.verified(candidate(t, "tcp", "127.0.0.1", int(from.Port())), g.peer.in.wire, time.Now())
	if n := strangers(); n != 0 {
		t.Errorf("got %d strangers, want the client's second connection known", n)
	}
	for port := range maxWays {
		e.ways.verified(candidate(t, "udp", "192.0.2.7", 2000+port), g.peer.in.wire, time.Now())
	}
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	ends(t, "one of too many", conn)
}

func TestNetworkOf(t *testing.T) {
	for from, want := range map[string]string{"192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth0": "fe80::"} {
		if got := networkOf(netip.MustParseAddr(from)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: got %v, want %s", from, got, want)
		}
	}
}
