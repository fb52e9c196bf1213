package sfu

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inbox reads many datagrams in one system call (recvmmsg), and allocates nothing.
type inbox struct {
	raw     syscall.RawConn
	headers [inboxSize]message
	vectors [inboxSize]unix.Iovec
	names   [inboxSize]unix.RawSockaddrInet6
	data    [inboxSize][receiveMTU]byte

	got  int
	err  error
	read func(fd uintptr) bool
}

// message is struct mmsghdr.
type message struct {
	header unix.Msghdr
	n      uint32
	_      [4]byte
}

const inboxSize = 32

func newInbox(conn *net.UDPConn) (*inbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	in := &inbox{raw: raw}
	for i := range in.headers {
		in.vectors[i].Base = &in.data[i][0]
		in.vectors[i].SetLen(receiveMTU)
		h := &in.headers[i].header
		h.Name = (*byte)(unsafe.Pointer(&in.names[i]))
		h.Iov = &in.vectors[i]
		h.SetIovlen(1)
	}
	in.read = in.receive
	return in, nil
}

// fill waits for datagrams and reads those that are there. It is not called while the last ones are still looked at.
func (in *inbox) fill() (int, error) {
	in.got, in.err = 0, nil
	if err := in.raw.Read(in.read); err != nil {
		return 0, err
	}
	return in.got, in.err
}

func (in *inbox) receive(fd uintptr) bool {
	for i := range in.headers {
		in.headers[i].header.Namelen = unix.SizeofSockaddrInet6
		in.headers[i].header.Flags = 0
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.headers[0])), inboxSize, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		in.got = int(n)
	case unix.EAGAIN, unix.EINTR:
		return false
	default:
		in.err = errno
	}
	return true
}

// datagram is one of those that fill has read; it is empty if it did not fit.
func (in *inbox) datagram(k int) ([]byte, netip.AddrPort) {
	m, name := &in.headers[k], &in.names[k]
	if m.header.Flags&unix.MSG_TRUNC != 0 {
		m.n = 0
	}
	p := in.data[k][:m.n]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return p, netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	}
	addr := netip.AddrFrom16(name.Addr).Unmap()
	if name.Scope_id != 0 { // of this link only
		addr = addr.WithZone(strconv.Itoa(int(name.Scope_id)))
	}
	return p, netip.AddrPortFrom(addr, port)
}

// share lets more of our sockets have the same address.
func share(c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); err != nil {
		return err
	}
	return set
}

// shareable makes an address that was opened alone one that may be shared.
func shareable(conn *net.UDPConn) bool {
	raw, err := conn.SyscallConn()
	return err == nil && share(raw) == nil
}
