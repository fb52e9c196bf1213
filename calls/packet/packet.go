// Package packet is the pure part of forwarding media: bytes and numbers, no peers, no rooms, no clocks.
//
// It reads RTP headers, tells frames and key frames apart, keeps recent packets for repair, and maps
// an incoming stream's sequence numbers onto an outgoing one's. Payloads may be end-to-end encrypted:
// nothing is looked at but headers, header extensions and the bytes that stay in clear.
//
// What holds here:
//   - nothing on the packet path allocates (a benchmark says so);
//   - every length read from a packet is checked against the packet.
package packet

import "encoding/binary"

// Header is what forwarding needs of an RTP header. Offsets point into the packet that was parsed.
type Header struct {
	Marker      bool
	PayloadType uint8
	Sequence    uint16
	Timestamp   uint32
	SSRC        uint32
	Payload     int // where the payload begins
	End         int // where it ends: padding lies behind

	extProfile       uint16
	extStart, extEnd int
}

// ParseHeader reads the RTP header in b. It is false if b is no RTP packet.
func ParseHeader(b []byte) (h Header, ok bool) {
	if len(b) < 12 || b[0]>>6 != 2 {
		return h, false
	}
	h.Marker = b[1]&0x80 != 0
	h.PayloadType = b[1] & 0x7f
	h.Sequence = binary.BigEndian.Uint16(b[2:])
	h.Timestamp = binary.BigEndian.Uint32(b[4:])
	h.SSRC = binary.BigEndian.Uint32(b[8:])
	h.Payload = 12 + 4*int(b[0]&0x0f)
	h.End = len(b)
	if b[0]&0x10 != 0 {
		if len(b) < h.Payload+4 {
			return h, false
		}
		h.extProfile = binary.BigEndian.Uint16(b[h.Payload:])
		h.extStart = h.Payload + 4
		h.extEnd = h.extStart + 4*int(binary.BigEndian.Uint16(b[h.Payload+2:]))
		h.Payload = h.extEnd
	}
	if h.Payload > len(b) {
		return h, false
	}
	if b[0]&0x20 != 0 {
		padding := int(b[len(b)-1])
		if padding == 0 || h.Payload+padding > len(b) {
			return h, false
		}
		h.End -= padding
	}
	return h, true
}

// Extension gives the bytes of the header extension with this id, or nil. b is the parsed packet.
func (h *Header) Extension(b []byte, id uint8) []byte {
	if id == 0 || h.extEnd == 0 {
		return nil
	}
	switch {
	case h.extProfile == 0xBEDE:
		return oneByteExtension(b[h.extStart:h.extEnd], id)
	case h.extProfile&0xfff0 == 0x1000:
		return twoByteExtension(b[h.extStart:h.extEnd], id)
	}
	return nil
}

// RenameExtension gives the header extension of one id another, in place. It is false if there is none, or if the packet's form has no such id.
// b is the parsed packet.
func (h *Header) RenameExtension(b []byte, from, to uint8) bool {
	ext := h.Extension(b, from)
	if ext == nil || to == 0 {
		return false
	}
	at := cap(b) - cap(ext) // where its bytes begin
	switch {
	case h.extProfile != 0xBEDE:
		b[at-2] = to
	case to < 15:
		b[at-1] = to<<4 | b[at-1]&0x0f
	default:
		return false
	}
	return true
}

func oneByteExtension(ext []byte, id uint8) []byte {
	for i := 0; i < len(ext); {
		if ext[i] == 0 { // padding
			i++
			continue
		}
		got, size := ext[i]>>4, int(ext[i]&0x0f)+1
		if got == 15 || i+1+size > len(ext) {
			return nil
		}
		if got == id {
			return ext[i+1 : i+1+size]
		}
		i += 1 + size
	}
	return nil
}

func twoByteExtension(ext []byte, id uint8) []byte {
	for i := 0; i < len(ext); {
		if ext[i] == 0 {
			i++
			continue
		}
		if i+2 > len(ext) {
			return nil
		}
		got, size := ext[i], int(ext[i+1])
		if i+2+size > len(ext) {
			return nil
		}
		if got == id {
			return ext[i+2 : i+2+size]
		}
		i += 2 + size
	}
	return nil
}

// AudioLevel reads the audio level extension (RFC 6464): 0 is loudest, 127 silence.
func AudioLevel(ext []byte) (level uint8, ok bool) {
	if len(ext) < 1 {
		return 127, false
	}
	return ext[0] & 0x7f, true
}

// Unwrapper turns 16-bit sequence numbers into ones that never wrap.
// The zero value is ready; the first number given comes back with 65536 added, so that earlier ones stay positive.
type Unwrapper struct {
	high    int64
	started bool
}

// Unwrap gives the full number nearest to the highest one seen.
func (u *Unwrapper) Unwrap(seq uint16) int64 {
	if !u.started {
		u.started = true
		u.high = 1<<16 + int64(seq)
		return u.high
	}
	full := u.high + int64(int16(seq-uint16(u.high)))
	if full > u.high {
		u.high = full
	}
	return full
}

// Highest is the highest full number seen, 0 before the first.
func (u *Unwrapper) Highest() int64 { return u.high }
