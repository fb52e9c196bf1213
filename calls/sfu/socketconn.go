package sfu

import (
	"net"
	"time"
)

// What follows makes a socket the net.PacketConn that Pion's mux wants; on the packet path it uses the two of socket.go.

func (s *socket) ReadFrom(p []byte) (int, net.Addr, error) { return s.conn.ReadFrom(p) }

func (s *socket) WriteTo(p []byte, to net.Addr) (int, error) {
	if udp, ok := to.(*net.UDPAddr); ok {
		return s.WriteToAddrPort(p, udp.AddrPort())
	}
	return s.conn.WriteTo(p, to)
}

func (s *socket) Close() error                       { return s.conn.Close() }
func (s *socket) LocalAddr() net.Addr                { return s.conn.LocalAddr() }
func (s *socket) SetDeadline(t time.Time) error      { return s.conn.SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.conn.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }
