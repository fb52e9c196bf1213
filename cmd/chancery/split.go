package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"chancery/calls"
)

// splitter is the listener of one TLS port for two protocols: HTTP, which it gives to whoever accepts from it, and TURN,
// which it hands to the call focus. What a connection is, its ALPN says, or the name that it asked for, or else its first byte:
// browsers say neither when they speak TURN.
type splitter struct {
	tcp      net.Listener
	tls      *tls.Config
	turnName string         // of TURN alone; empty: TURN has no name of its own
	turn     func(net.Conn) // nil: no TURN here
	web      chan net.Conn
	done     chan struct{}
	once     sync.Once
	fresh    newcomers
	waiting  sync.WaitGroup
}

const (
	// alpnTURN is TURN's name among application protocols. RFC 7443
	alpnTURN = "stun.turn"
	// partPatience is how long a connection may take to say what it is.
	partPatience = 10 * time.Second
	// partPlaces bounds those connections. Half of them are anybody's: a proxy or a whole ministry may stand behind one address. Of the
	// other half an address has partShare at most.
	partPlaces = 2048
	partShare  = 64
)

// newcomers counts connections that have not yet said what they are, by address.
type newcomers struct {
	places, share int

	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
}

// enter counts a connection of an address, if there is a place for it.
func (s *newcomers) enter(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.places || s.all >= s.places/2 && s.from[from] >= s.share {
		return false
	}
	if s.from == nil {
		s.from = map[netip.Addr]int{}
	}
	s.all++
	s.from[from]++
	return true
}

// leave undoes enter.
func (s *newcomers) leave(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.from[from]--; s.from[from] == 0 {
		delete(s.from, from)
	}
}

// comesFrom is where a connection comes from; of an IPv6 address the first half, since one client has all of the second.
func comesFrom(remote net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return netip.Addr{}
	}
	from := at.Addr().Unmap()
	if from.Is6() {
		prefix, _ := from.Prefix(64) // never fails: 64 is no more than an address has
		from = prefix.Addr()
	}
	return from
}

// newSplitter parts the connections of a TCP listener. webName is the name of the HTTP side; a turnName other than that is
// TURN's alone.
func newSplitter(tcp net.Listener, secure *tls.Config, webName, turnName string, turn func(net.Conn)) *splitter {
	secure = secure.Clone()
	if turn != nil && !slices.Contains(secure.NextProtos, alpnTURN) {
		secure.NextProtos = append(slices.Clone(secure.NextProtos), alpnTURN)
	}
	if turnName == webName || net.ParseIP(turnName) != nil {
		turnName = ""
	}
	s := &splitter{tcp: tcp, tls: secure, turnName: turnName, turn: turn,
		web: make(chan net.Conn), done: make(chan struct{}), fresh: newcomers{places: partPlaces, share: partShare}}
	s.waiting.Go(s.accept)
	return s
}

func (s *splitter) accept() {
	for {
		conn, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, or the like
			select {
			case <-s.done:
				return
			case <-time.After(50 * time.Millisecond):
				continue
			}
		}
		from := comesFrom(conn.RemoteAddr())
		if !s.fresh.enter(from) {
			_ = conn.Close() // nobody to tell
			continue
		}
		s.waiting.Go(func() {
			defer s.fresh.leave(from)
			s.part(conn)
		})
	}
}

// part finds out what a connection is, and hands it on.
func (s *splitter) part(raw net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), partPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			_ = raw.Close()
		}
	})()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a door that closes waits for nobody who has said nothing
		select {
		case <-s.done:
			cancel()
			_ = raw.SetDeadline(time.Now())
		case <-stop:
		}
	}()
	conn := tls.Server(raw, s.tls)
	if conn.HandshakeContext(ctx) != nil {
		_ = raw.Close()
		return
	}
	state := conn.ConnectionState()
	switch s.speaks(state.NegotiatedProtocol, state.ServerName) {
	case speaksTURN:
		s.turn(conn)
		return
	case speaksHTTP:
		s.give(conn)
		return
	}
	first := make([]byte, 1)
	if err := raw.SetReadDeadline(time.Now().Add(partPatience)); err != nil || ctx.Err() != nil { // the door may have closed just before
		_ = raw.Close()
		return
	}
	if _, err := conn.Read(first); err != nil {
		_ = conn.Close()
		return
	}
	if err := raw.SetReadDeadline(time.Time{}); err != nil {
		_ = raw.Close()
		return
	}
	whole := &begunConn{Conn: conn, first: first}
	if s.turn != nil && calls.SpeaksTURN(first) {
		s.turn(whole)
		return
	}
	s.give(whole)
}

// What a connection's handshake says of what follows.
const (
	speaksEither = iota
	speaksHTTP
	speaksTURN
)

// speaks judges by the protocol agreed upon and the name asked for.
func (s *splitter) speaks(protocol, name string) int {
	switch {
	case s.turn == nil:
		return speaksHTTP
	case protocol == alpnTURN:
		return speaksTURN
	case protocol != "":
		return speaksHTTP
	case s.turnName != "" && name == s.turnName:
		return speaksTURN
	}
	return speaksEither
}

// give hands a connection to the HTTP server.
func (s *splitter) give(conn net.Conn) {
	select {
	case s.web <- conn:
	case <-s.done:
		_ = conn.Close()
	}
}

// Accept gives the next HTTP connection.
func (s *splitter) Accept() (net.Conn, error) {
	select {
	case conn := <-s.web:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener, and those who have not yet said what they are.
func (s *splitter) Close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = s.tcp.Close()
		s.waiting.Wait()
	})
	return err
}

func (s *splitter) Addr() net.Addr { return s.tcp.Addr() }

// begunConn is a connection of which something has been read already.
type begunConn struct {
	*tls.Conn
	first []byte
}

func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 && len(p) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// overTLS says to a handler what a proxy in front of it would say: the request came over HTTPS, and from where it came.
func overTLS(next http.Handler) http.Handler {
	if next == nil {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Del("X-Forwarded-For") // nobody stands between
		next.ServeHTTP(w, r)
	})
}
