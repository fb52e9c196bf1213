package sfu

import (
	"bytes"
	"encoding/binary"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"
)

// checked is a client that has its place, and what its checks say.
func checked(t *testing.T) (e *Engine, g guest, check []byte) {
	t.Helper()
	e = newEngine(t)
	g = join(t, e, nil, false, func(g guest) {
		_, err := g.pc.CreateDataChannel("x", nil)
		must(t, err)
	})
	return e, g, checkOf(t, g)
}

// checkOf is a check of a client's as it would send it.
func checkOf(t *testing.T, g guest) []byte {
	t.Helper()
	said := func(sdp, what string) string {
		_, after, ok := strings.Cut(sdp, "a="+what+":")
		if !ok {
			t.Fatalf("no %s in %s", what, sdp)
		}
		line, _, _ := strings.Cut(after, "\r\n")
		return line
	}
	ours, theirs := g.peer.LocalDescription().SDP, g.pc.LocalDescription().SDP
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID,
		stun.NewUsername(said(ours, "ice-ufrag")+":"+said(theirs, "ice-ufrag")),
		stun.RawAttribute{Type: stun.AttrICEControlling, Value: make([]byte, 8)},
		stun.RawAttribute{Type: stun.AttrPriority, Value: []byte{0, 0, 1, 0}},
		stun.NewShortTermIntegrity(said(ours, "ice-pwd")), stun.Fingerprint)
	must(t, err)
	return m.Raw
}

// answers counts what is answered on a connection until a while after the last.
func answers(t *testing.T, conn net.Conn) (n int) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		must(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
		if _, err := conn.Read(buf); err != nil {
			return n
		}
		n++
	}
}

// A client that asks where it is without end fills no memory, and keeps the focus busy for no more than its share; it is still there.
func TestAFloodOfChecks(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			e, g, check := checked(t)
			to := e.udp[0].String()
			if network == "tcp" {
				to = e.ways.doors.Addr().String()
				check = append(binary.BigEndian.AppendUint16(nil, uint16(len(check))), check...)
			}
			conn, err := net.Dial(network, to)
			must(t, err)
			defer conn.Close()
			heap := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before, began := heap(), time.Now()
			for range 50_000 {
				if _, err := conn.Write(check); err != nil {
					t.Fatal(err)
				}
			}
			if after := heap(); after > before+20<<20 {
				t.Errorf("the heap has grown by %d MB, want less than 20", (after-before)>>20)
			}
			got := answers(t, conn)
			if most := int((checksLent + time.Since(began)) / checkEvery); got == 0 || got > most {
				t.Errorf("got %d answers, want some, and at most %d", got, most)
			}
			if s := g.peer.ConnectionState(); s != webrtc.PeerConnectionStateConnected {
				t.Errorf("the client is %v", s)
			}
		})
	}
}

// A client may ask from many places, but not from any number: for each its agent keeps something, and asks back there.
func TestChecksFromManyPlaces(t *testing.T) {
	e, g, check := checked(t)
	known := func() (n int) {
		for _, s := range g.peer.GetStats() {
			if c, ok := s.(webrtc.ICECandidateStats); ok && c.Type == webrtc.StatsTypeRemoteCandidate {
				n++
			}
		}
		return n
	}
	const places = 180 // no more than may ask at once
	var conns []net.Conn
	for range places {
		conn, err := net.Dial("udp", e.udp[0].String())
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = conn.Write(check)
		must(t, err)
		conns = append(conns, conn)
	}
	buf := make([]byte, 2000)
	var answered []net.Conn
	for _, conn := range conns {
		must(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if _, err := conn.Read(buf); err == nil {
			answered = append(answered, conn)
		}
	}
	if n := known(); len(answered) < maxPlaces/2 || len(answered) > maxPlaces || n > maxPlaces {
		t.Fatalf("got %d of %d places answered and %d known, want at most %d", len(answered), places, n, maxPlaces)
	}
	if s := g.peer.ConnectionState(); s != webrtc.PeerConnectionStateConnected {
		t.Errorf("the client is %v", s)
	}
	if _, err := answered[0].Write(check); err != nil {
		t.Fatal(err)
	}
	if n := answers(t, answered[0]); n == 0 {
		t.Error("a place that is known was not answered any more")
	}
}

// What an agent does not read is dropped when its box is full; the others get theirs.
func TestABoxThatIsFull(t *testing.T) {
	s := newSocket(newWays(), listen(t, "127.0.0.1:0"))
	s.start()
	m := newUDPMux(s)
	t.Cleanup(func() { _ = m.Close() })
	slow, quick := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	hand := func(ufrag string, to *net.UDPConn) *udpConn {
		c, err := m.GetConn(ufrag, s.LocalAddr())
		must(t, err)
		_, err = c.WriteTo([]byte("hello"), to.LocalAddr())
		must(t, err)
		return c.(*udpConn)
	}
	full, second, other := hand("one", slow), hand("one", slow), hand("two", quick)
	say := func(from *net.UDPConn, what string) {
		t.Helper()
		if _, err := from.WriteTo([]byte(what), s.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 2000)
	for range 3 * maxWaiting { // one after the other: none is lost on the way
		say(slow, "much")
		say(quick, "little")
		if n, from, err := other.ReadFromAddrPort(buf); err != nil || string(buf[:n]) != "little" || from != addressOf(quick) {
			t.Fatalf("got %q from %v, %v; want little", buf[:n], from, err)
		}
	}
	if n := len(full.box.waits); n != maxWaiting {
		t.Errorf("%d datagrams wait for who does not read, want %d", n, maxWaiting)
	}
	must(t, full.Close())
	if n, _, err := second.ReadFromAddrPort(buf); err != nil || string(buf[:n]) != "much" {
		t.Errorf("the other hand in the box: got %q, %v", buf[:n], err)
	}
	must(t, second.Close())
	must(t, second.Close())
	if _, err := second.WriteTo([]byte("late"), slow.LocalAddr()); err == nil {
		t.Error("wrote with a hand that is closed")
	}
	if len(m.boxes) != 1 || len(m.at) != 1 {
		t.Errorf("%d boxes and %d places are left, want those of the other", len(m.boxes), len(m.at))
	}
	m.RemoveConnByUfrag("two") // the agent begins anew
	if _, err := other.WriteTo([]byte("still"), quick.LocalAddr()); err != nil {
		t.Errorf("write before the hand is closed: %v", err)
	}
	must(t, other.Close())
	if len(m.boxes)+len(m.at) != 0 {
		t.Errorf("%d boxes and %d places are left, want none", len(m.boxes), len(m.at))
	}
}

// Nothing that has the form of a request comes through that names nobody here.
func FuzzChecks(f *testing.F) {
	s := newSocket(newWays(), listen(f, "127.0.0.1:0"))
	m := newUDPMux(s)
	f.Cleanup(func() { _ = m.Close() })
	if _, err := m.GetConn("one", nil); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"one:two", "one", ":", "two:one", ""} {
		if b, err := stun.Build(stun.BindingRequest, stun.TransactionID, stun.NewUsername(name)); err == nil {
			f.Add(b.Raw)
		}
	}
	var asked stun.Message
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &datagram{}
		d.n = copy(d.data[:], b)
		if box := m.whose(d, &asked); box != nil && !bytes.Contains(b, []byte("one:")) {
			t.Errorf("%x is for somebody", b)
		}
	})
}
