package turn

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
)

const patience = 10 * time.Second

var testSecret = []byte("a secret for tests")

// openServer starts a server on loopback.
func openServer(t *testing.T, change ...func(*Settings)) *Server {
	t.Helper()
	settings := Settings{Listen: []net.IP{net.IPv4(127, 0, 0, 1)}, Secret: testSecret}
	for _, c := range change {
		c(&settings)
	}
	s, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// withFocus lets participants reach a focus, which is told as told, or as it is.
func withFocus(at net.Addr, told ...string) func(*Settings) {
	m := Media{At: at.(*net.UDPAddr).AddrPort(), Told: at.(*net.UDPAddr).AddrPort()}
	if len(told) > 0 {
		m.Told = netip.MustParseAddrPort(told[0])
	}
	foci := NewFoci([]Media{m})
	return func(s *Settings) { s.Foci = func() *Foci { return foci } }
}

// echo answers each packet with itself, in place of a focus.
func echo(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return conn
}

// dial opens the way to the server: udp, tcp or tls.
func dial(t *testing.T, s *Server, network string) net.PacketConn {
	t.Helper()
	switch network {
	case "udp":
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	case "tcp":
		conn, err := net.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.TCP())).String())
		if err != nil {
			t.Fatal(err)
		}
		return turn.NewSTUNConn(conn)
	}
	// TLS, agreed upon by whoever owns port 443.
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", certificate.TLS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		if conn, err := listener.Accept(); err == nil && conn.(*tls.Conn).Handshake() == nil {
			s.Take(conn)
		}
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return turn.NewSTUNConn(conn)
}

// newClient is a TURN client of somebody's.
func newClient(t *testing.T, s *Server, network, username, password string) *turn.Client {
	t.Helper()
	conn := dial(t, s, network)
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.UDP())).String()
	c, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: address, TURNServerAddr: address, Conn: conn, Username: username, Password: password, Realm: Realm,
		RTO: 100 * time.Millisecond, LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); conn.Close() })
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	return c
}

func allocate(t *testing.T, s *Server, network string, right Right, who string) net.PacketConn {
	t.Helper()
	username, password := Credential(testSecret, right, who, time.Now())
	relay, err := newClient(t, s, network, username, password).Allocate()
	if err != nil {
		t.Fatalf("allocate over %s: %v", network, err)
	}
	t.Cleanup(func() { relay.Close() })
	return relay
}

// bounces sends a text to a peer until it comes back, and says whether it did.
func bounces(t *testing.T, relay net.PacketConn, peer, text string, within time.Duration) bool {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", peer)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(within)
	b := make([]byte, 2000)
	for time.Now().Before(end) {
		if _, err := relay.WriteTo([]byte(text), to); err != nil {
			return false // no permission
		}
		if err := relay.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, from, err := relay.ReadFrom(b)
		if err == nil && string(b[:n]) == text {
			if from.String() != peer {
				t.Errorf("the answer came from %v, want from %s", from, peer)
			}
			return true
		}
	}
	return false
}

func TestRelaysToTheFocus(t *testing.T) {
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			focus := echo(t)
			s := openServer(t, withFocus(focus.LocalAddr()))
			if !bounces(t, allocate(t, s, network, ToFoci, "ann"), focus.LocalAddr().String(), "hello", patience) {
				t.Error("nothing came back from the focus")
			}
		})
	}
}

func TestRelaysToTheFocusBehindARouter(t *testing.T) {
	focus := echo(t)
	s := openServer(t, withFocus(focus.LocalAddr(), "203.0.113.7:7882"))
	if !bounces(t, allocate(t, s, "udp", ToFoci, "ann"), "203.0.113.7:7882", "hello", patience) {
		t.Error("nothing came back from the focus's outer address")
	}
}

func TestRelaysOverIPv6(t *testing.T) {
	focus, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer focus.Close()
	s := openServer(t, withFocus(focus.LocalAddr()), func(s *Settings) { s.Listen = append(s.Listen, net.IPv6loopback) })
	username, password := Credential(testSecret, ToFoci, "ann", time.Now())
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	address := netip.AddrPortFrom(netip.IPv6Loopback(), uint16(s.UDP())).String()
	c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: address, TURNServerAddr: address, Conn: conn, Username: username, Password: password,
		Realm: Realm, RequestedAddressFamily: turn.RequestedAddressFamilyIPv6})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	relay, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	if got := relay.LocalAddr().(*net.UDPAddr).IP; !got.Equal(net.IPv6loopback) {
		t.Errorf("got a relay at %v, want ::1", got)
	}
	if _, err := relay.WriteTo([]byte("six"), focus.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := focus.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, _, err := focus.ReadFrom(b); err != nil || string(b[:n]) != "six" {
		t.Errorf("the focus got %q, %v, want \"six\"", b[:n], err)
	}
}

func TestCredentials(t *testing.T) {
	s := openServer(t)
	now := time.Now()
	name, word := Credential(testSecret, ToFoci, "ann", now)
	oldName, oldWord := Credential(testSecret, ToFoci, "ann", now.Add(-Life-time.Minute))
	foreignName, foreignWord := Credential([]byte("another secret"), ToFoci, "ann", now)
	eternal := "99999999999:c:ann"
	for _, c := range []struct {
		name, username, password string
		good                     bool
	}{
		{"good", name, word, true},
		{"expired", oldName, oldWord, false},
		{"another secret", foreignName, foreignWord, false},
		{"wrong password", name, "x", false},
		{"longer than any of ours", eternal, Password(testSecret, eternal), false},
		{"unknown right", "99999999999:x:ann", Password(testSecret, "99999999999:x:ann"), false},
		{"another's name", strings.Replace(name, "ann", "bob", 1), word, false},
		{"no time", "ann", Password(testSecret, "ann"), false},
		{"empty", "", "", false},
	} {
		_, err := newClient(t, s, "udp", c.username, c.password).Allocate()
		if (err == nil) != c.good {
			t.Errorf("%s: got %v, want good: %v", c.name, err, c.good)
		}
	}
	b, _ := parse(name)
	for _, c := range []struct {
		name   string
		method stun.Method
		at     time.Time
		good   bool
	}{
		{"allocate at once", stun.MethodAllocate, now, true},
		{"allocate after its life", stun.MethodAllocate, now.Add(Life + time.Second), false},
		{"refresh after its life", stun.MethodRefresh, now.Add(Life + time.Second), true},
		{"refresh after a day", stun.MethodRefresh, now.Add(24*time.Hour + time.Second), false},
	} {
		if got := b.holds(c.method, c.at); got != c.good {
			t.Errorf("%s: got %v, want %v", c.name, got, c.good)
		}
	}
}

func TestAllocationsAreBounded(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.PerUser, s.Allocations = 2, 3 })
	try := func(who string) error {
		username, password := Credential(testSecret, ToFoci, who, time.Now())
		_, err := newClient(t, s, "tcp", username, password).Allocate()
		return err
	}
	for i, c := range []struct {
		who  string
		good bool
	}{{"ann", true}, {"ann", true}, {"ann", false}, {"bob", true}, {"cat", false}} {
		if err := try(c.who); (err == nil) != c.good {
			t.Errorf("allocation %d, of %s: got %v, want good: %v", i+1, c.who, err, c.good)
		}
	}
}

func TestAGoneClientFreesItsAllocation(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.Allocations = 1 })
	username, password := Credential(testSecret, ToFoci, "ann", time.Now())
	conn := dial(t, s, "tcp")
	c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: "127.0.0.1:1", TURNServerAddr: "127.0.0.1:1", Conn: conn, Username: username, Password: password, Realm: Realm})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Allocate(); err != nil {
		t.Fatal(err)
	}
	conn.Close() // without a word
	end := time.Now().Add(patience)
	for {
		s.mu.Lock()
		relays, users, sessions := len(s.relays)+len(s.told)+len(s.at), len(s.users), len(s.sessions)
		s.mu.Unlock()
		if relays+users+sessions == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d relays, %d users, %d sessions are left", relays, users, sessions)
		}
		time.Sleep(10 * time.Millisecond) // polling what another goroutine does
	}
}

func TestBandwidthIsBounded(t *testing.T) {
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	s := openServer(t, withFocus(sink.LocalAddr()), func(s *Settings) { s.Rate = 10_000 })
	relay := allocate(t, s, "tcp", ToFoci, "ann")
	for range 100 { // 100 kB at once
		if _, err := relay.WriteTo(make([]byte, 1000), sink.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	got, b := 0, make([]byte, 2000)
	for {
		if err := sink.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _, err := sink.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		got += n
	}
	if got < 5_000 || got > 20_000 {
		t.Errorf("%d bytes came through, want about 10000", got)
	}
}

func TestSTUNAlone(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.Secret = nil })
	c := newClient(t, s, "udp", "ann", "x")
	if got, err := c.SendBindingRequest(); err != nil || !strings.HasPrefix(got.String(), "127.0.0.1:") {
		t.Errorf("binding: got %v, %v", got, err)
	}
	if _, err := c.Allocate(); err == nil {
		t.Error("an allocation was given without a secret")
	}
}

// TestTheClockIsSet: threats.md D8. Who has an allocation keeps it, who has a credential gets one with it, and so does who is given one
// by the clock as it is now.
func TestTheClockIsSet(t *testing.T) {
	for name, step := range map[string]time.Duration{"back an hour": -time.Hour, "forward a day": 24 * time.Hour, "not at all": 0} {
		t.Run(name, func(t *testing.T) {
			var set atomic.Int64
			clock := func() time.Time { return time.Now().Add(time.Duration(set.Load())) }
			focus := echo(t)
			s := openServer(t, withFocus(focus.LocalAddr()), func(s *Settings) { s.Now = clock })
			username, password := Credential(testSecret, ToFoci, "ann", clock())
			before := newRawClient(t, s, "tcp4", "ann")
			before.wants(stun.MethodAllocate, -1)
			older := allocate(t, s, "tcp", ToFoci, "ann")
			set.Store(int64(step))
			before.wants(stun.MethodRefresh, -1)
			if !bounces(t, older, focus.LocalAddr().String(), "hello", patience) { // asks for a permission
				t.Error("nothing came back through a relay of before")
			}
			for name, c := range map[string][2]string{"given before": {username, password}, "given since": pair(Credential(testSecret, ToFoci, "ben", clock()))} {
				relay, err := newClient(t, s, "udp", c[0], c[1]).Allocate()
				if err != nil {
					t.Errorf("a credential %s: %v", name, err)
					continue
				}
				if !bounces(t, relay, focus.LocalAddr().String(), "hello", patience) {
					t.Errorf("a credential %s: nothing came back from the focus", name)
				}
				relay.Close()
			}
			old, oldPassword := Credential(testSecret, ToFoci, "cat", clock().Add(-Life-25*time.Hour))
			if _, err := newClient(t, s, "udp", old, oldPassword).Allocate(); err == nil {
				t.Error("an allocation was given for a credential of days ago")
			}
		})
	}
}

func pair(a, b string) [2]string { return [2]string{a, b} }
