package turn

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

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
