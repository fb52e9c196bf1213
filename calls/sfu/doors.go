package sfu

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// doors are the listeners for media by TCP, one on each address, as one: for Pion, which takes its port from it.
type doors struct {
	list   []net.Listener
	fresh  chan net.Conn
	closed chan struct{}
	once   sync.Once
	live   sync.WaitGroup
}

// listenTCP opens the port on each address; 0 takes one that is free on the first.
func listenTCP(addresses []net.IP, port int) (*doors, error) {
	d := &doors{fresh: make(chan net.Conn), closed: make(chan struct{})}
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
		select {
		case d.fresh <- conn:
		case <-d.closed:
			_ = conn.Close()
		}
	}
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

// Close closes all of them.
func (d *doors) Close() error {
	var errs []error
	d.once.Do(func() {
		close(d.closed)
		for _, l := range d.list {
			errs = append(errs, l.Close())
		}
	})
	d.live.Wait()
	return errors.Join(errs...)
}

// Addr is the first address; the port is that of all.
func (d *doors) Addr() net.Addr { return d.list[0].Addr() }
