package turn

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v4"
	"golang.org/x/time/rate"
)

// kind is what a message of a client is, before anybody has looked at who sent it.
type kind int

const (
	nonsense kind = iota // not for us
	unproven             // a request that anybody could have sent: a binding, or the first one of an allocation
	signed               // a request that says who it is from
	data                 // for a peer; it is only looked at where there is an allocation
)

const (
	stunHeader   = 20
	magicCookie  = 0x2112A442
	maxUnsigned  = 256 // bytes of a request that proves nothing
	attrIsSigned = uint16(stun.AttrMessageIntegrity)
	attrLifetime = uint16(stun.AttrLifetime)
)

// methods are those that clients may use: nothing of TURN over TCP relays.
var methods = map[stun.MessageType]kind{
	stun.NewType(stun.MethodBinding, stun.ClassRequest):          unproven,
	stun.NewType(stun.MethodAllocate, stun.ClassRequest):         signed,
	stun.NewType(stun.MethodRefresh, stun.ClassRequest):          signed,
	stun.NewType(stun.MethodCreatePermission, stun.ClassRequest): signed,
	stun.NewType(stun.MethodChannelBind, stun.ClassRequest):      signed,
	stun.NewType(stun.MethodSend, stun.ClassIndication):          data,
}

// classify says what one whole message is. Channel data in a datagram need no padding, and browsers give them none.
// RFC 8656, section 12.5
func classify(b []byte) kind {
	size, ok := frameSize(b)
	if !ok || len(b) > maxFrame {
		return nonsense
	}
	if b[0]&0xC0 == 0x40 {
		if 4+int(binary.BigEndian.Uint16(b[2:])) > len(b) {
			return nonsense
		}
		return data
	}
	if size > len(b) {
		return nonsense
	}
	var t stun.MessageType
	t.ReadValue(binary.BigEndian.Uint16(b))
	k := methods[t]
	if k == signed {
		if _, ok := attribute(b[stunHeader:size], attrIsSigned); !ok {
			k = unproven
		}
	}
	if k == unproven && size > maxUnsigned {
		return nonsense
	}
	return k
}

// frameSize is how long the message at the beginning of b is, padding of channel data included; false if it is none, or
// too long. b holds at least the beginning: what cannot be said of it yet is false too.
func frameSize(b []byte) (int, bool) {
	if len(b) < 4 {
		return 0, false
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[0]&0xC0 == 0x40: // channel data: 0x4000 to 0x7FFF
		size := 4 + (length+3)&^3
		return size, size <= maxFrame
	case b[0]&0xC0 == 0 && len(b) >= 8 && binary.BigEndian.Uint32(b[4:]) == magicCookie:
		size := stunHeader + length
		return size, length%4 == 0 && size <= maxFrame
	}
	return 0, false
}

// attribute looks for an attribute in the body of a STUN message. What is cut off of its value is not there.
func attribute(body []byte, which uint16) (value []byte, ok bool) {
	for len(body) >= 4 {
		length := int(binary.BigEndian.Uint16(body[2:]))
		if binary.BigEndian.Uint16(body) == which {
			return body[4:min(4+length, len(body))], true
		}
		next := 4 + (length+3)&^3
		if next > len(body) {
			return nil, false
		}
		body = body[next:]
	}
	return nil, false
}

// IsSTUN says whether a connection that begins so is a STUN or TURN client's: its first message is a binding or an
// allocation, whose types begin with a zero byte. HTTP begins with a letter.
func IsSTUN(first []byte) bool { return len(first) > 0 && first[0] == 0 }

// gate is a UDP socket in front of Pion: what need not be answered does not come through.
type gate struct {
	*net.UDPConn
	server *Server
}

func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := g.UDPConn.ReadFromUDPAddrPort(p)
		if err != nil {
			return n, nil, err
		}
		if g.server.admits(p[:n], from) {
			return n, net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// admits says whether a datagram is worth an answer. Over UDP the sender's address may be false: what proves nothing is
// answered a few times a second only, and nobody else is flooded through us. So is what says who it is from, until somebody at its
// address has an allocation: that it does not lie is known later.
func (s *Server) admits(b []byte, from netip.AddrPort) bool {
	var strangers *sources
	switch classify(b) {
	case nonsense:
		refused.WithLabelValues("nonsense").Inc()
		return false
	case unproven:
		strangers = &s.unproven
	case signed:
		if !s.knows(from) {
			strangers = &s.signed
		}
	}
	if strangers != nil && !strangers.allow(from.Addr(), s.now()) {
		refused.WithLabelValues("flood").Inc()
		return false
	}
	return true
}

// knows says whether somebody at an address has an allocation over UDP.
func (s *Server) knows(from netip.AddrPort) bool {
	key := addressKey(net.UDPAddrFromAddrPort(from))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.sessions[key]
	return ok
}

// sources bounds what addresses may ask that have proven nothing.
type sources struct {
	mu    sync.Mutex
	known map[netip.Addr]*rate.Limiter
}

const (
	sourceRate  = 50 // a whole ministry may sit behind one address
	sourceBurst = 400
	maxSources  = 8192 // then all are forgotten
)

// source is the address that a client is counted by: of an IPv6 address the first half, since one client has all of the second.
func source(from netip.Addr) netip.Addr {
	if from = from.Unmap(); !from.Is6() {
		return from
	}
	prefix, _ := from.Prefix(64) // never fails: 64 is no more than an address has
	return prefix.Addr()
}

func (l *sources) allow(from netip.Addr, now time.Time) bool {
	from = source(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.known[from]
	if found == nil {
		if l.known == nil || len(l.known) >= maxSources {
			l.known = map[netip.Addr]*rate.Limiter{}
		}
		found = rate.NewLimiter(sourceRate, sourceBurst)
		l.known[from] = found
	}
	return found.AllowN(now, 1)
}

// inlet is the listener that Pion accepts from: connections come from the TCP port, and from wherever else Take is called.
type inlet struct {
	server *Server
	fresh  chan net.Conn
	done   chan struct{}
	once   sync.Once

	mu      sync.Mutex
	clients map[*client]struct{}
	early   map[netip.Addr]int // without an allocation, by source
}

const (
	maxEarly    = 256              // connections of one source that have no allocation
	silentLife  = 11 * time.Minute // a client refreshes its allocation within ten
	writeLife   = 10 * time.Second
	tcpBuffer   = 256 << 10 // old media in a long queue are of no use
	deadlineAge = time.Second
)

func newInlet(s *Server) *inlet {
	return &inlet{server: s, fresh: make(chan net.Conn), done: make(chan struct{}), clients: map[*client]struct{}{}, early: map[netip.Addr]int{}}
}

// Take serves a connection that speaks STUN and TURN; its TLS, if it has any, has been agreed upon. It is closed if there
// are too many, or if it says nothing of worth.
func (s *Server) Take(conn net.Conn) {
	c := s.inlet.admit(conn)
	if c == nil {
		refused.WithLabelValues("connections").Inc()
		_ = conn.Close() // nobody to tell
		return
	}
	select {
	case s.inlet.fresh <- c:
	case <-s.inlet.done:
		_ = c.Close()
	}
}

func (l *inlet) admit(conn net.Conn) *client {
	c := &client{Conn: conn, inlet: l, from: source(addressOf(conn))}
	c.reader = bufio.NewReaderSize(conn, maxFrame+1)
	if tcp, ok := underlying(conn).(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(tcpBuffer) // a wish
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.clients) >= 2*l.server.settings.Allocations || l.early[c.from] >= maxEarly {
		return nil
	}
	l.clients[c] = struct{}{}
	l.early[c.from]++
	return c
}

func addressOf(conn net.Conn) netip.Addr {
	if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		return a.Addr()
	}
	return netip.Addr{}
}

// underlying is the connection below a TLS one.
func underlying(conn net.Conn) net.Conn {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return over.NetConn()
	}
	return conn
}

func (l *inlet) Accept() (net.Conn, error) {
	select {
	case c := <-l.fresh:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *inlet) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *inlet) Addr() net.Addr { return &net.TCPAddr{} }

func (l *inlet) closeAll() {
	_ = l.Close()
	l.mu.Lock()
	clients := make([]*client, 0, len(l.clients))
	for c := range l.clients {
		clients = append(clients, c)
	}
	l.mu.Unlock()
	for _, c := range clients {
		_ = c.Close()
	}
}

// client is a connection over TCP or TLS. Each Read gives one whole message, so that nothing behind it has to guess where
// messages end; a client that breaks the framing is closed. It lives as long as its allocation.
type client struct {
	net.Conn
	inlet  *inlet
	from   netip.Addr
	reader *bufio.Reader
	once   sync.Once

	// owned by the goroutine that reads, which answers requests too
	allocated bool      // written with the inlet locked
	ends      time.Time // the allocation, unless it is refreshed
	deadline  time.Time
}

var errFrame = errors.New("turn: not a message")

func (c *client) Read(p []byte) (int, error) {
	if err := c.patience(); err != nil {
		return 0, err
	}
	head, err := c.reader.Peek(4)
	if err == nil && head[0]&0xC0 == 0 {
		head, err = c.reader.Peek(stunHeader)
	}
	if err != nil {
		return 0, err
	}
	size, ok := frameSize(head)
	if !ok || size > len(p) {
		refused.WithLabelValues("nonsense").Inc()
		return 0, errFrame
	}
	frame, err := c.reader.Peek(size)
	if err != nil {
		return 0, err
	}
	if classify(frame) == nonsense {
		refused.WithLabelValues("nonsense").Inc()
		return 0, errFrame
	}
	n := copy(p, frame)
	_, err = c.reader.Discard(n)
	return n, err
}

// patience sets how long the next message may take: not renewed without an allocation, nor beyond its end.
func (c *client) patience() error {
	now, early := c.inlet.server.now(), c.inlet.server.settings.Early
	if !c.allocated {
		if c.deadline.IsZero() {
			return c.wait(now.Add(early))
		}
		return nil
	}
	end := now.Add(silentLife)
	if last := c.ends.Add(early); last.Before(end) {
		end = last
	}
	if end.Sub(c.deadline).Abs() > deadlineAge {
		return c.wait(end)
	}
	return nil
}

func (c *client) wait(until time.Time) error {
	c.deadline = until
	return c.SetReadDeadline(until)
}

const (
	allocateSuccess = 0x0103
	refreshSuccess  = 0x0104
)

// granted reads in an answer of ours how long the client has an allocation from now on; false if it says nothing of that.
func granted(answer []byte) (life time.Duration, ok bool) {
	if len(answer) < stunHeader {
		return 0, false
	}
	if kind := binary.BigEndian.Uint16(answer); kind != allocateSuccess && kind != refreshSuccess {
		return 0, false
	}
	seconds, ok := attribute(answer[stunHeader:], attrLifetime)
	if !ok || len(seconds) != 4 {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint32(seconds)) * time.Second, true
}

// holds takes note of how long the client has its allocation. One that gave it back is as new: it may take a short while to the next.
func (c *client) holds(life time.Duration) error {
	now := c.inlet.server.now()
	c.ends = now.Add(life)
	switch early := c.inlet.recount(c, life > 0); {
	case life > 0:
		return nil // the next Read waits longer
	case early > maxEarly:
		return c.wait(now)
	}
	return c.wait(now.Add(c.inlet.server.settings.Early))
}

func (c *client) Write(p []byte) (int, error) {
	if life, ok := granted(p); ok {
		if err := c.holds(life); err != nil {
			return 0, err
		}
	}
	if err := c.SetWriteDeadline(c.inlet.server.now().Add(writeLife)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil { // half a message is out: nothing more can be said
		_ = c.Close()
	}
	return n, err
}

// recount takes note that c has an allocation now, or has none, and says how many of its source have none.
func (l *inlet) recount(c *client, allocated bool) (early int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.clients[c]; !open || c.allocated == allocated {
		return l.early[c.from]
	}
	if c.allocated = allocated; allocated {
		l.oneLess(c.from)
	} else {
		l.early[c.from]++
	}
	return l.early[c.from]
}

func (l *inlet) oneLess(from netip.Addr) {
	if l.early[from]--; l.early[from] <= 0 {
		delete(l.early, from)
	}
}

func (c *client) Close() error {
	c.once.Do(func() {
		l := c.inlet
		l.mu.Lock()
		delete(l.clients, c)
		if !c.allocated {
			l.oneLess(c.from)
		}
		l.mu.Unlock()
	})
	return c.Conn.Close()
}
