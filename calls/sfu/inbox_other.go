//go:build !linux

package sfu

import (
	"net"
	"net/netip"
	"syscall"
)

// inbox reads one datagram at a time.
type inbox struct {
	conn *net.UDPConn
	n    int
	from netip.AddrPort
	data [receiveMTU]byte
}

func newInbox(conn *net.UDPConn) (*inbox, error) { return &inbox{conn: conn}, nil }

// fill waits for a datagram.
func (in *inbox) fill() (int, error) {
	n, from, err := in.conn.ReadFromUDPAddrPort(in.data[:])
	if err != nil {
		return 0, err
	}
	in.n, in.from = n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	return 1, nil
}

// datagram is the one that fill has read.
func (in *inbox) datagram(int) ([]byte, netip.AddrPort) { return in.data[:in.n], in.from }

func share(syscall.RawConn) error      { return syscall.ENOTSUP }
func shareable(conn *net.UDPConn) bool { return false }
