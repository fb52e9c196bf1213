package turn

import (
	"bufio"
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
	allocate := stun.NewType(stun.MethodAllocate, stun.ClassRequest)
	falsely := []stun.Setter{stun.TransactionID, allocate, stun.NewUsername("x"), stun.NewRealm(Realm), stun.NewNonce("x"), stun.NewShortTermIntegrity("x")}
	for name, request := range map[string][]stun.Setter{
		"bindings":            {stun.TransactionID, stun.BindingRequest},
		"first allocations":   {stun.TransactionID, allocate},
		"what is signed by x": falsely,
	} {
		t.Run(name, func(t *testing.T) { flood(t, stun.MustBuild(request...).Raw) })
	}
}

func flood(t *testing.T, request []byte) {
	s := openServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.UDP())).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
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

// TestAllocationsAreNotFloods: whoever has an allocation is answered, as much as it asks.
func TestAllocationsAreNotFloods(t *testing.T) {
	s := openServer(t)
	client := newRawClient(t, s, "udp4", "ann")
	client.wants(stun.MethodAllocate, -1)
	for range sourceBurst + sourceRate*3 {
		client.wants(stun.MethodRefresh, -1)
	}
}

// rawClient speaks TURN by hand, to ask what no library asks.
type rawClient struct {
	t        *testing.T
	conn     net.Conn
	reader   *bufio.Reader // of UDP one packet at a time
	username string
	key      stun.MessageIntegrity
	nonce    stun.Nonce
}

func newRawClient(t *testing.T, s *Server, network, who string) *rawClient {
	t.Helper()
	port := s.TCP()
	if network == "udp4" {
		port = s.UDP()
	}
	conn, err := net.Dial(network, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{t: t, conn: conn, reader: bufio.NewReader(conn)}
	c.may(ToFoci, who)
	answer, err := c.ask(stun.MethodAllocate)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.nonce.GetFrom(answer); err != nil {
		t.Fatalf("the first answer has no nonce: %v", err)
	}
	return c
}

// may gives the client a credential.
func (c *rawClient) may(right Right, who string) {
	username, password := Credential(testSecret, right, who, time.Now())
	c.username, c.key = username, stun.NewLongTermIntegrity(username, Realm, password)
}

// ask sends a request and reads the answer.
func (c *rawClient) ask(method stun.Method, attributes ...stun.Setter) (*stun.Message, error) {
	request := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attributes...)
	if len(c.nonce) > 0 {
		request = append(request, stun.NewUsername(c.username), stun.NewRealm(Realm), c.nonce, c.key)
	}
	if _, err := c.conn.Write(stun.MustBuild(request...).Raw); err != nil {
		return nil, err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	head := make([]byte, stunHeader)
	if _, err := io.ReadFull(c.reader, head); err != nil {
		return nil, err
	}
	answer := &stun.Message{Raw: append(head, make([]byte, binary.BigEndian.Uint16(head[2:]))...)}
	if _, err := io.ReadFull(c.reader, answer.Raw[stunHeader:]); err != nil {
		return nil, err
	}
	return answer, answer.Decode()
}

// wants is ask where nothing but success is looked for. The allocation ends after so many seconds; less than 0 says nothing of that.
func (c *rawClient) wants(method stun.Method, seconds int) {
	c.t.Helper()
	attributes := []stun.Setter{stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}}
	if seconds >= 0 {
		attributes = append(attributes, stun.RawAttribute{Type: stun.AttrLifetime, Value: binary.BigEndian.AppendUint32(nil, uint32(seconds))})
	}
	answer, err := c.ask(method, attributes...)
	if err != nil || answer.Type.Class != stun.ClassSuccessResponse {
		c.t.Fatalf("%v: got %v, %v, want success", method, answer, err)
	}
}

// peersFrom are so many addresses in a row, as attributes of a request.
func peersFrom(first string, n int) (attributes []stun.Setter) {
	for a := netip.MustParseAddr(first); n > 0; a, n = a.Next(), n-1 {
		attributes = append(attributes, stunAddress{netip.AddrPortFrom(a, 5000)})
	}
	return attributes
}

// stunAddress is a peer's.
type stunAddress struct{ netip.AddrPort }

func (a stunAddress) AddTo(m *stun.Message) error {
	return stun.XORMappedAddress{IP: a.Addr().AsSlice(), Port: int(a.Port())}.AddToAs(m, stun.AttrXORPeerAddress)
}

// TestPermissionsAreBounded: each is kept for five minutes, with a timer. Who has as many as there may be renews them, and gets none for others
// until some have ended.
func TestPermissionsAreBounded(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.Public = func(netip.Addr) bool { return true } })
	c := newRawClient(t, s, "tcp4", "ann")
	c.may(ToPublic, "ann")
	c.wants(stun.MethodAllocate, -1)
	permit := func(first string, n int) int {
		t.Helper()
		answer, err := c.ask(stun.MethodCreatePermission, peersFrom(first, n)...)
		if err != nil {
			t.Fatal(err)
		}
		return codeOf(answer)
	}
	kept := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, one := range s.sessions {
			n += len(one.peers)
		}
		return n
	}
	const each = 50
	for i := range 20 {
		want := 0
		if (i+1)*each > maxPeers {
			want = int(stun.CodeForbidden)
		}
		if got := permit(netip.AddrFrom4([4]byte{198, 51, byte(i), 1}).String(), each); got != want {
			t.Fatalf("after %d peers: got error %d, want %d", i*each, got, want)
		}
	}
	if n := kept(); n > maxPeers {
		t.Errorf("%d permissions are kept, want at most %d", n, maxPeers)
	}
	if got := permit("198.51.0.1", each); got != 0 {
		t.Errorf("renewed: got error %d", got)
	}
	bind := func(peer string, number uint16) int {
		t.Helper()
		answer, err := c.ask(stun.MethodChannelBind, stunAddress{netip.AddrPortFrom(netip.MustParseAddr(peer), 5000)},
			stun.RawAttribute{Type: stun.AttrChannelNumber, Value: binary.BigEndian.AppendUint32(nil, uint32(number)<<16)})
		if err != nil {
			t.Fatal(err)
		}
		return codeOf(answer)
	}
	if got := bind("198.51.0.1", 0x4000); got != 0 {
		t.Errorf("a channel to a peer that has a permission: got error %d", got)
	}
	if got := bind("203.0.113.1", 0x4001); got == 0 {
		t.Error("a channel to one peer too many was given")
	}
	c.wants(stun.MethodRefresh, 0)
	if n := kept(); n != 0 {
		t.Errorf("%d permissions are kept of an allocation that has ended", n)
	}
}

// codeOf is the error that an answer tells, 0 for none.
func codeOf(answer *stun.Message) int {
	var code stun.ErrorCodeAttribute
	if code.GetFrom(answer) != nil {
		return 0
	}
	return int(code.Code)
}

// TestChannelsAreBounded: a participant may reach few addresses, but any of their ports, each by a channel of its own.
func TestChannelsAreBounded(t *testing.T) {
	s := openServer(t, withFocus(echo(t).LocalAddr()))
	c := newRawClient(t, s, "tcp4", "ann")
	c.wants(stun.MethodAllocate, -1)
	const first = 0x4000
	given := 0
	for i := range 2 * maxChannels {
		peer := stunAddress{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(2000+i))}
		answer, err := c.ask(stun.MethodChannelBind, peer, stun.RawAttribute{Type: stun.AttrChannelNumber, Value: binary.BigEndian.AppendUint32(nil, uint32(first+i)<<16)})
		if err != nil {
			t.Fatal(err)
		}
		if codeOf(answer) == 0 {
			given++
		}
	}
	if given != maxChannels {
		t.Errorf("got %d channels, want %d", given, maxChannels)
	}
}

// TestConnectionsEndWithTheirAllocation: to have had one is no right to stay, whatever else the client asks.
func TestConnectionsEndWithTheirAllocation(t *testing.T) {
	s := openServer(t, func(s *Settings) { s.Early = 300 * time.Millisecond })
	early := func() (n int) {
		s.inlet.mu.Lock()
		defer s.inlet.mu.Unlock()
		for _, of := range s.inlet.early {
			n += of
		}
		return n
	}
	stays := newRawClient(t, s, "tcp4", "cat")
	stays.wants(stun.MethodAllocate, -1)
	for _, c := range []struct {
		name string
		does func(*rawClient)
		left int // connections without an allocation, as they are counted
	}{
		{"given back", func(c *rawClient) { c.wants(stun.MethodAllocate, -1); c.wants(stun.MethodRefresh, 0) }, 1},
		{"given back twice", func(c *rawClient) {
			for range 2 {
				c.wants(stun.MethodAllocate, -1)
				c.wants(stun.MethodRefresh, 0)
			}
		}, 1},
		{"not refreshed", func(c *rawClient) { c.wants(stun.MethodAllocate, 1) }, 0},
		{"refreshed for a second", func(c *rawClient) { c.wants(stun.MethodAllocate, -1); c.wants(stun.MethodRefresh, 1) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := newRawClient(t, s, "tcp4", "ann")
			c.does(client)
			if got := early(); got != c.left {
				t.Errorf("%d connections are counted as without an allocation, want %d", got, c.left)
			}
			for end := time.Now().Add(patience / 2); ; time.Sleep(20 * time.Millisecond) { // one that keeps asking
				if _, err := client.ask(stun.MethodBinding); err != nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the connection is open still")
				}
			}
		})
	}
	if _, err := stays.ask(stun.MethodBinding); err != nil {
		t.Errorf("one whose allocation lasts was closed too: %v", err)
	}
}

// cameFrom is a connection that came from somewhere.
type cameFrom struct {
	net.Conn
	addr netip.Addr
}

func (c cameFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, 5000))
}

// TestConnectionsAreCountedBySource: who has a network of addresses has no more connections for that, nor has who gives allocations back.
func TestConnectionsAreCountedBySource(t *testing.T) {
	s := &Server{settings: Settings{}.withDefaults(), now: time.Now}
	s.inlet = newInlet(s)
	defer s.inlet.closeAll()
	addr := netip.MustParseAddr("2001:db8::1")
	admit := func(from netip.Addr) *client {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		return s.inlet.admit(cameFrom{near, from})
	}
	comes := func(from netip.Addr) bool { return admit(from) != nil }
	had := admit(addr)
	if err := had.holds(time.Minute); err != nil {
		t.Fatal(err)
	}
	for n := range maxEarly {
		if !comes(addr) {
			t.Fatalf("connection %d was not taken", n+1)
		}
		addr = addr.Next()
	}
	for from, want := range map[string]bool{addr.String(): false, "2001:db8::ffff:0:0:1": false, "2001:db8:0:1::1": true, "198.51.100.1": true, "::ffff:198.51.100.1": true} {
		if got := comes(netip.MustParseAddr(from)); got != want {
			t.Errorf("one more from %s: got taken %v, want %v", from, got, want)
		}
	}
	if err := had.holds(0); err != nil {
		t.Fatal(err)
	}
	if _, err := had.Read(make([]byte, maxFrame)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one that gave its allocation back where there are enough without: got %v, want no more time", err)
	}
}
