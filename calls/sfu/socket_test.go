package sfu

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
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

// put writes a packet into an outbox, as a wire does.
func put(o *outbox, s *socket, what string, to netip.AddrPort) {
	b := o.batch(s)
	room := b.room()
	b.add(room[:copy(room, what)], to)
}

func addressOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// What is put into an outbox comes in its order, each to its own; a full batch leaves when the next packet comes.
func TestOutboxSendsABatch(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		s, o := newSocket(newWays(), listen(t, address)), &outbox{}
		one, two := listen(t, address), listen(t, address)
		for range batchSize {
			put(o, s, "first", addressOf(one))
		}
		put(o, s, "second", addressOf(two))
		for range batchSize {
			if got := readOne(t, one); got != "first" {
				t.Fatalf("%s: got %q, want first", address, got)
			}
		}
		put(o, s, "third", addressOf(one))
		if n := o.batches[0].n; n != 2 {
			t.Errorf("%s: %d packets wait, want 2", address, n)
		}
		o.flush()
		if got := readOne(t, two); got != "second" {
			t.Errorf("%s: got %q, want second", address, got)
		}
		if got := readOne(t, one); got != "third" {
			t.Errorf("%s: got %q, want third", address, got)
		}
		if n := o.batches[0].n; n != 0 {
			t.Errorf("%s: %d packets still wait", address, n)
		}
	}
}

// putter is a subscriber who gets each packet as it is.
type putter struct {
	socket *socket
	to     netip.AddrPort
	full   int // batches that were full when its turn came
}

func (p *putter) LayersChanged() {}
func (p *putter) Push(of *Packet) {
	for _, b := range of.out.batches {
		if b.n == batchSize {
			p.full++
		}
	}
	put(of.out, p.socket, "one", p.to)
}

// What is full leaves between two subscribers, when the lock of neither is held.
func TestFullBatchesLeaveBetweenSubscribers(t *testing.T) {
	s, one, reader := newSocket(newWays(), listen(t, "127.0.0.1:0")), listen(t, "127.0.0.1:0"), &outbox{}
	stage, v, sink := newStage(t, 1), &stream{}, &putter{socket: s, to: addressOf(one)}
	for range batchSize + 1 {
		stage.up.AddSink(sink)
	}
	for _, out := range []*outbox{reader, nil} {
		stage.layers[0].in.out = out
		stage.feed(t, 0, v.frame(true, 0, 1)...)
	}
	if sink.full != 0 {
		t.Errorf("%d times a full batch was left to a subscriber", sink.full)
	}
	if n := reader.batches[0].n; n != 1 {
		t.Errorf("%d packets wait in the reader's outbox, want the last one", n)
	}
	for range 2*batchSize + 1 {
		readOne(t, one)
	}
}

// One destination that the kernel refuses costs the others nothing.
func TestOutboxPassesOverWhatIsRefused(t *testing.T) {
	s, one, o := newSocket(newWays(), listen(t, "127.0.0.1:0")), listen(t, "127.0.0.1:0"), &outbox{}
	for _, to := range []string{"255.255.255.255:9", one.LocalAddr().String(), "255.255.255.255:9", "255.255.255.255:9", one.LocalAddr().String()} {
		put(o, s, to, netip.MustParseAddrPort(to))
	}
	o.flush()
	for range 2 {
		if got := readOne(t, one); got != one.LocalAddr().String() {
			t.Errorf("got %q, want both of mine", got)
		}
	}
}

func TestOutboxDoesNotAllocate(t *testing.T) {
	s, one, o := newSocket(newWays(), listen(t, "127.0.0.1:0")), listen(t, "127.0.0.1:0"), &outbox{}
	to, p := addressOf(one), string(make([]byte, 1200))
	turn := func() {
		for range 10 {
			put(o, s, p, to)
		}
		o.flush()
	}
	turn()
	if got := testing.AllocsPerRun(200, turn); got > poolsEmpty {
		t.Errorf("got %v allocations for ten packets, want none", got)
	}
}

// A socket has a reader for each processor, which share its address; nobody else may open it; Pion gets what comes to any of them.
func TestSocketReadersShareAnAddress(t *testing.T) {
	s, err := listenSocket(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, newWays())
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() { _ = s.Close() })
	if want := min(runtime.GOMAXPROCS(0), maxReaders); runtime.GOOS == "linux" && len(s.conns) != want {
		t.Errorf("got %d readers, want %d", len(s.conns), want)
	}
	if other, err := net.ListenUDP("udp", s.LocalAddr().(*net.UDPAddr)); err == nil {
		_ = other.Close()
		t.Error("the address could be opened a second time")
	}
	if other, err := listenSocket(s.LocalAddr().(*net.UDPAddr), newWays()); err == nil {
		_ = other.Close()
		t.Error("a second focus could open the address")
	}
	const clients, each = 16, 20
	want := map[netip.AddrPort]bool{}
	for range clients {
		c := listen(t, "127.0.0.1:0")
		want[addressOf(c)] = true
		for range each {
			if _, err := c.WriteTo([]byte("what may this be"), s.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := map[netip.AddrPort]int{}
	late := time.AfterFunc(5*time.Second, func() { _ = s.Close() })
	defer late.Stop()
	for range clients * each {
		d, err := s.next()
		if err != nil {
			t.Fatalf("after packets of %d clients: %v", len(got), err)
		}
		if string(d.data[:d.n]) != "what may this be" || !want[d.from] {
			t.Fatalf("got %q from %v", d.data[:d.n], d.from)
		}
		got[d.from]++
	}
	for from, n := range got {
		if n != each {
			t.Errorf("got %d packets from %v, want %d", n, from, each)
		}
	}
	var waits sync.WaitGroup
	waits.Go(func() {
		if _, err := s.next(); err == nil {
			t.Error("read from a closed socket")
		}
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	waits.Wait()
}

// A datagram larger than any of ours is nobody's.
func TestSocketDropsWhatDoesNotFit(t *testing.T) {
	s := newSocket(newWays(), listen(t, "127.0.0.1:0"))
	s.start()
	t.Cleanup(func() { _ = s.Close() })
	c := listen(t, "127.0.0.1:0")
	for _, size := range []int{receiveMTU + 1, 100} {
		if _, err := c.WriteTo(make([]byte, size), s.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	d, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	if d.n != 100 {
		t.Errorf("got %d bytes, want the one of 100", d.n)
	}
}
