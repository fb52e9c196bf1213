package turn

import (
	"context"
	"crypto/tls"
	"encoding/binary"
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
	s := openServer(t)
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
		relays, users, sessions := len(s.relays), len(s.users), len(s.sessions)
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

// TestHostileConnections: whoever breaks the framing, or says nothing, is closed and frees what it held.
func TestHostileConnections(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.Early = 300 * time.Millisecond })
	header := func(kind, length uint16) []byte {
		b := make([]byte, stunHeader)
		binary.BigEndian.PutUint16(b, kind)
		binary.BigEndian.PutUint16(b[2:], length)
		binary.BigEndian.PutUint32(b[4:], magicCookie)
		return b
	}
	for _, c := range []struct {
		name string
		says []byte
	}{
		{"nothing", nil},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"half a header", []byte{0, 1, 0}},
		{"a length that wraps to nothing", header(0x0003, 0xFFEC)},
		{"a length that is never filled", header(0x0003, 1000)},
		{"a length that is not a multiple of four", header(0x0003, 7)},
		{"another cookie", make([]byte, 40)},
		{"channel data of 64 kB", []byte{0x40, 0, 0xFF, 0xFF}},
		{"a method that is not served", header(0x000A, 0)},
	} {
		conn, err := net.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.TCP())).String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(c.says); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) || n > 0 {
			t.Errorf("%s: got %d bytes and %v, want to be closed", c.name, n, err)
		}
		conn.Close()
	}
	s.inlet.mu.Lock()
	defer s.inlet.mu.Unlock()
	if len(s.inlet.clients) != 0 || len(s.inlet.early) != 0 {
		t.Errorf("%d connections and %d addresses are remembered, want none", len(s.inlet.clients), len(s.inlet.early))
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.Allocations = 2 })
	var conns []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.TCP())).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	last := conns[len(conns)-1]
	if err := last.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the fifth connection: got %v, want it closed", err)
	}
}

// TestFloodsAreNotAnswered: requests that prove nothing, from one address which may be false.
func TestFloodsAreNotAnswered(t *testing.T) {
	s := openServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.UDP())).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	answers := make(chan int)
	go func() {
		n, b := 0, make([]byte, 200)
		for {
			_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			if _, err := conn.Read(b); err != nil {
				answers <- n
				return
			}
			n++
		}
	}()
	const sent = 3000
	for range sent {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-answers; n == 0 || n > sent/2 {
		t.Errorf("got %d answers to %d requests, want about %d", n, sent, sourceBurst)
	}
}

// TestClassify: what a datagram is.
func TestClassify(t *testing.T) {
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	allocate := stun.NewType(stun.MethodAllocate, stun.ClassRequest)
	for _, c := range []struct {
		name string
		b    []byte
		want kind
	}{
		{"nothing", nil, nonsense},
		{"a binding", binding, unproven},
		{"half a binding", binding[:12], nonsense},
		{"a first allocation", stun.MustBuild(stun.TransactionID, allocate).Raw, unproven},
		{"a signed allocation", stun.MustBuild(stun.TransactionID, allocate, stun.NewUsername("a"), stun.NewShortTermIntegrity("x")).Raw, signed},
		{"an answer", stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw, nonsense},
		{"channel data, padded", []byte{0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0}, data},
		{"channel data, without padding", []byte{0x40, 0, 0, 5, 1, 2, 3, 4, 5}, data},
		{"channel data that are too short", []byte{0x40, 0, 0, 5, 1, 2, 3, 4}, nonsense},
		{"a numberless channel", []byte{0x80, 0, 0, 1, 1}, nonsense},
		{"too much", append([]byte{0x40, 0, 0x0f, 0xff}, make([]byte, 4096)...), nonsense},
	} {
		if got := classify(c.b); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), stun.NewUsername("a"), stun.NewShortTermIntegrity("x")).Raw)
	f.Add([]byte{0x40, 0, 0, 4, 1, 2, 3, 4})
	f.Add([]byte{0, 3, 0xFF, 0xEC, 0x21, 0x12, 0xA4, 0x42, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		k := classify(b)
		size, ok := frameSize(b)
		if k == data { // padded or not
			size = min(size, 4+int(binary.BigEndian.Uint16(b[2:])))
		}
		if k != nonsense && (!ok || size > len(b) || size < 4) {
			t.Errorf("taken as %d, though its size is %d of %d", k, size, len(b))
		}
		if k == unproven && size > maxUnsigned {
			t.Errorf("%d bytes that prove nothing are taken", size)
		}
	})
}

func FuzzConnection(f *testing.F) {
	s := &Server{settings: Settings{Allocations: 10, Early: time.Second}.withDefaults(), now: time.Now}
	s.inlet = newInlet(s)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	f.Add([]byte{0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		c := s.inlet.admit(near)
		if c == nil {
			t.Fatal("not admitted")
		}
		go func() {
			_, _ = far.Write(b)
			_ = far.Close()
		}()
		defer c.Close()
		total, p := 0, make([]byte, maxFrame+1)
		for {
			n, err := c.Read(p)
			if err != nil {
				break
			}
			if n < 4 || classify(p[:n]) == nonsense {
				t.Fatalf("read %d bytes that are no message", n)
			}
			total += n
		}
		if total > len(b) {
			t.Errorf("read %d of %d bytes", total, len(b))
		}
	})
}

func FuzzUsername(f *testing.F) {
	name, _ := Credential(testSecret, ToFoci, "ann", time.Now())
	f.Add(name)
	f.Add("1:v:")
	f.Fuzz(func(t *testing.T, username string) {
		b, ok := parse(username)
		if ok && (b.who == "" || b.right != ToFoci && b.right != ToPublic || len(b.user()) < 3) {
			t.Errorf("%q is taken as %+v", username, b)
		}
	})
}
