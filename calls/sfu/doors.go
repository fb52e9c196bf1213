package sfu

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// doors are the listeners for media by TCP, one on each address, as one: for Pion, which takes its port from it. Connections wait there
// for ICE to show whose they are, and Pion counts none: so they are counted here until that is known. A client's own are bounded by maxWays.
type doors struct {
	list   []net.Listener
	fresh  chan net.Conn
	closed chan struct{}
	once   sync.Once
	live   sync.WaitGroup
	wait   time.Duration // how long one may be nobody's

	mu        sync.Mutex // guards the rest; held for a look
	callers   map[netip.AddrPort]*caller
	strangers map[netip.Addr]int // callers that are nobody's yet, by network
	waiting   int                // all of these
}

const (
	maxStrangers   = 256  // connections of one network that are nobody's yet: an office may stand behind one address
	maxAnyStranger = 4096 // and of all
	strangersWait  = 30 * time.Second
)

// caller is a connection for media by TCP.
type caller struct {
	net.Conn
	doors    *doors
	from     netip.AddrPort
	stranger bool // guarded by the doors' lock
	patience *time.Timer
}

// listenTCP opens the port on each address; 0 takes one that is free on the first. Who stays a stranger for so long is sent away.
func listenTCP(addresses []net.IP, port int, wait time.Duration) (*doors, error) {
	d := &doors{fresh: make(chan net.Conn), closed: make(chan struct{}), wait: wait,
		callers: map[netip.AddrPort]*caller{}, strangers: map[netip.Addr]int{}}
	for _, ip := range addresses {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on TCP port %d: %w", port, err), d.Close())
		}
		port = l.Addr().(*net.TCPAddr).Port
		d.list = append(d.list, l)
		d.live.Go(func() { d.take(l) })
	}
	return d, nil
}

// take takes connections until the listener is closed.
func (d *doors) take(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, say: Pion would never ask again
			time.Sleep(100 * time.Millisecond)
			continue
		}
		c := d.admit(conn)
		if c == nil {
			_ = conn.Close() // nobody to tell
			continue
		}
		select {
		case d.fresh <- c:
		case <-d.closed:
			_ = c.Close()
		}
	}
}

// admit counts a connection, nil: there are too many. One from where another is takes its place: that one is dead.
func (d *doors) admit(conn net.Conn) *caller {
	c := &caller{Conn: conn, doors: d, from: unmapped(conn.RemoteAddr().(*net.TCPAddr).AddrPort()), stranger: true}
	d.hangUp(c.from)
	d.mu.Lock()
	defer d.mu.Unlock()
	network := networkOf(c.from.Addr())
	if d.strangers[network] >= maxStrangers || d.waiting >= maxAnyStranger {
		return nil
	}
	d.callers[c.from] = c
	d.strangers[network]++
	d.waiting++
	c.patience = time.AfterFunc(d.wait, func() { _ = c.Close() })
	return c
}

// knows is told that a client has shown by ICE that it is there.
func (d *doors) knows(from netip.AddrPort) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.callers[from]; c != nil {
		d.stopCounting(c)
	}
}

// stopCounting is for a caller that is a stranger no more. The lock is held.
func (d *doors) stopCounting(c *caller) {
	if !c.stranger {
		return
	}
	c.stranger = false
	c.patience.Stop()
	network := networkOf(c.from.Addr())
	if d.strangers[network]--; d.strangers[network] == 0 {
		delete(d.strangers, network)
	}
	d.waiting--
}

// hangUp ends the connection from there, if there is one.
func (d *doors) hangUp(from netip.AddrPort) {
	if d == nil {
		return
	}
	d.mu.Lock()
	c := d.callers[from]
	d.mu.Unlock()
	if c != nil {
		_ = c.Close() // for whoever reads it, it has ended
	}
}

// Close closes the connection.
func (c *caller) Close() error {
	c.doors.mu.Lock()
	c.doors.stopCounting(c)
	if c.doors.callers[c.from] == c {
		delete(c.doors.callers, c.from)
	}
	c.doors.mu.Unlock()
	return c.Conn.Close()
}

// networkOf is what one client may have all of: an address of IPv4, or 64 bits of IPv6.
func networkOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// Accept gives the next connection, to whichever address.
func (d *doors) Accept() (net.Conn, error) {
	select {
	case conn := <-d.fresh:
		return conn, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close closes all of them, and what has come in by them: Pion waits for who has said nothing yet.
func (d *doors) Close() error {
	var errs []error
	d.once.Do(func() {
		close(d.closed)
		for _, l := range d.list {
			errs = append(errs, l.Close())
		}
	})
	d.live.Wait()
	d.mu.Lock()
	left := slices.Collect(maps.Values(d.callers))
	d.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
	return errors.Join(errs...)
}

// Addr is the first address; the port is that of all.
func (d *doors) Addr() net.Addr { return d.list[0].Addr() }
