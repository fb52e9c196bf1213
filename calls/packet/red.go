package packet

import "encoding/binary"

// RED is one audio payload with copies of earlier ones (RFC 2198). Offsets point into the payload that was parsed.
type RED struct {
	Older   [MaxREDBlocks]REDBlock // oldest first, as they came
	N       int                    // how many of them
	Newest  int                    // where the newest block begins; it reaches to the payload's end
	Payload uint8                  // the newest block's payload type
}

// REDBlock is a copy of an earlier payload.
type REDBlock struct {
	Payload    uint8
	Back       uint16 // how far its time lies before the packet's, in units of the timestamp
	Start, End int
}

// MaxREDBlocks bounds the copies in one packet: browsers send one or two.
const MaxREDBlocks = 8

const (
	redMore      = 0x80 // F: another header follows
	redHeader    = 4    // bytes of an older block's header
	redLastBytes = 1    // of the newest block's
)

// ParseRED reads the headers of a redundant payload. It is false if they do not fit the payload.
func ParseRED(b []byte, r *RED) bool {
	r.N = 0
	at, bytes := 0, 0
	for at < len(b) && b[at]&redMore != 0 {
		if r.N == MaxREDBlocks || at+redHeader > len(b) {
			return false
		}
		word := binary.BigEndian.Uint32(b[at:])
		size := int(word & 0x3ff)
		r.Older[r.N] = REDBlock{Payload: uint8(word>>24) & 0x7f, Back: uint16(word >> 10 & 0x3fff), Start: bytes, End: bytes + size}
		r.N++
		bytes += size
		at += redHeader
	}
	if at >= len(b) {
		return false
	}
	r.Payload = b[at] & 0x7f
	at += redLastBytes
	for i := range r.N {
		r.Older[i].Start += at
		r.Older[i].End += at
	}
	r.Newest = at + bytes
	return r.Newest <= len(b)
}

// SetREDPayload gives every block of a redundant payload this payload type, in place. It changes nothing behind the headers.
func SetREDPayload(b []byte, payload uint8) {
	for at := 0; at < len(b); at += redHeader {
		more := b[at] & redMore
		b[at] = more | payload&0x7f
		if more == 0 {
			return
		}
	}
}
