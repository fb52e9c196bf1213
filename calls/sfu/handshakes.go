package sfu

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// handshakes stands before Pion's DTLS, whose messages of a handshake nobody has signed, so that whoever fakes a client's address may say them
// too: it bounds them, since Pion keeps each for as long as the connection lives, and lets nobody hang up without the keys.
type handshakes struct {
	bytes atomic.Int64 // that came of one
	over  atomic.Bool  // it has come to its end
}

// handshakeMost is how much of handshakes a connection takes: a browser's is three kilobytes, of which what is lost is said again.
const handshakeMost = 64 << 10

// Records of DTLS (RFC 6347, section 4.1).
const (
	recordHeader     = 13
	changeCipherSpec = 20
	handshakeMessage = 22
)

// take says whether a packet goes to Pion. What is not of DTLS does (RFC 7983, section 7).
func (h *handshakes) take(p []byte) bool {
	if len(p) == 0 || p[0] < 20 || p[0] > 63 {
		return true
	}
	shakes := false
	for b := p; len(b) > 0; {
		if len(b) < recordHeader {
			shakes = true // cut off
			break
		}
		kind, plain := b[0], b[3] == 0 && b[4] == 0 // its epoch
		if plain && kind != handshakeMessage && kind != changeCipherSpec && h.over.Load() {
			return false
		}
		shakes = shakes || kind == handshakeMessage
		b = b[min(recordHeader+int(binary.BigEndian.Uint16(b[recordHeader-2:])), len(b)):]
	}
	return !shakes || h.bytes.Add(int64(len(p))) <= handshakeMost
}

// handshakesOf are those of whose address it is, or else these.
func (w *ways) handshakesOf(tcp bool, from netip.AddrPort, unknown *handshakes) *handshakes {
	if known := w.find(place{tcp, unmapped(from)}); known != nil {
		return &known.wire.handshakes
	}
	return unknown
}
