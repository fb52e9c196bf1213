package sfu

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func listen(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Skipf("%s: %v", address, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func readOne(t *testing.T, conn *net.UDPConn) string {
	t.Helper()
	buf := make([]byte, 2000)
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("nothing came: %v", err)
	}
	return string(buf[:n])
}

// What is written while a socket is held comes in its order, each to its own, none before the release.
func TestSocketSendsABatch(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		s := newSocket(listen(t, address))
		one, two := listen(t, address), listen(t, address)
		to := func(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }
		write := func(what string, c *net.UDPConn) {
			t.Helper()
			if n, err := s.WriteToAddrPort([]byte(what), to(c)); err != nil || n != len(what) {
				t.Errorf("%s: write %q: got %d, %v", address, what, n, err)
			}
		}
		write("at once", one)
		if got := readOne(t, one); got != "at once" {
			t.Errorf("%s: got %q, want what was not held", address, got)
		}
		s.hold()
		s.hold()
		for range batchSize { // a full batch does not wait
			write("first", one)
		}
		for range batchSize {
			if got := readOne(t, one); got != "first" {
				t.Fatalf("%s: got %q, want first", address, got)
			}
		}
		write("second", two)
		write("third", one)
		if s.filled == nil || s.filled.n != 2 {
			t.Errorf("%s: what was written did not wait", address)
		}
		s.release() // sends, though another still holds
		if got := readOne(t, two); got != "second" {
			t.Errorf("%s: got %q, want second", address, got)
		}
		if got := readOne(t, one); got != "third" {
			t.Errorf("%s: got %q, want third", address, got)
		}
		s.release()
		write("after", two)
		if got := readOne(t, two); got != "after" {
			t.Errorf("%s: got %q, want after", address, got)
		}
	}
}

// One destination that the kernel refuses costs the others nothing.
func TestSocketPassesOverWhatIsRefused(t *testing.T) {
	s, one := newSocket(listen(t, "127.0.0.1:0")), listen(t, "127.0.0.1:0")
	s.hold()
	for _, to := range []string{"255.255.255.255:9", one.LocalAddr().String(), "255.255.255.255:9", "255.255.255.255:9", one.LocalAddr().String()} {
		if _, err := s.WriteToAddrPort([]byte(to), netip.MustParseAddrPort(to)); err != nil {
			t.Error(err)
		}
	}
	s.release()
	for range 2 {
		if got := readOne(t, one); got != one.LocalAddr().String() {
			t.Errorf("got %q, want both of mine", got)
		}
	}
}

func TestSocketDoesNotAllocate(t *testing.T) {
	s, one := newSocket(listen(t, "127.0.0.1:0")), listen(t, "127.0.0.1:0")
	to, p := one.LocalAddr().(*net.UDPAddr).AddrPort(), make([]byte, 1200)
	turn := func() {
		s.hold()
		for range 10 {
			if _, err := s.WriteToAddrPort(p, to); err != nil {
				t.Fatal(err)
			}
		}
		s.release()
	}
	turn()
	if got := testing.AllocsPerRun(200, turn); got > 1 { // the race detector empties pools at times
		t.Errorf("got %v allocations for ten packets, want none", got)
	}
}
