package packet

import "encoding/binary"

// RTCP packet types that forwarding reads (RFC 3550, RFC 4585).
const (
	SenderReport       = 200
	ReceiverReport     = 201
	TransportFeedback  = 205
	PayloadFeedback    = 206
	FormatNack         = 1  // of TransportFeedback
	FormatTransportCC  = 15 // likewise
	maxFeedbackPackets = 4096
)

// RTCP is one packet of a compound.
type RTCP struct {
	Type   uint8
	Format uint8 // or the count of reports
	Body   []byte
	All    []byte // with its header
}

// NextRTCP cuts the first packet off a compound. It is false at its end, and at anything that is no RTCP.
func NextRTCP(b []byte) (p RTCP, rest []byte, ok bool) {
	if len(b) < 4 || b[0]>>6 != 2 {
		return p, nil, false
	}
	size := 4 * (int(binary.BigEndian.Uint16(b[2:])) + 1)
	if size > len(b) {
		return p, nil, false
	}
	return RTCP{Type: b[1], Format: b[0] & 0x1f, Body: b[4:size], All: b[:size]}, b[size:], true
}

// Arrival is what transport-wide feedback says of one packet.
type Arrival struct {
	Seq      uint16
	Received bool
	At       int64 // microseconds on the receiver's clock, which begins anew each ClockRound; only if received. May be less than 0.
}

// ClockRound is after how many microseconds the clock of transport-wide feedback begins anew: 24 bits of 64 ms, twelve days.
const ClockRound = 64_000 << 24

// TransportCCPackets is of how many packets ParseTransportCC would tell, at most.
func TransportCCPackets(body []byte) int {
	if len(body) < transportCCHead {
		return 0
	}
	return min(int(binary.BigEndian.Uint16(body[10:])), maxFeedbackPackets)
}

const transportCCHead = 16

// ParseTransportCC reads the body of a transport-wide congestion control packet
// (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1) and tells each packet in turn. What was told before
// the bytes end too early was there. Nothing is told of more than 4096 packets.
func ParseTransportCC(body []byte, tell func(Arrival)) bool {
	const head = transportCCHead
	if len(body) < head {
		return false
	}
	seq := binary.BigEndian.Uint16(body[8:])
	count := TransportCCPackets(body)
	at := int64(body[12])<<16 | int64(body[13])<<8 | int64(body[14])
	at *= 64_000
	chunksEnd, ok := chunksLength(body[head:], count)
	if !ok {
		return false
	}
	deltas := body[head+chunksEnd:]
	chunks := body[head : head+chunksEnd]
	left := count
	for len(chunks) >= 2 && left > 0 {
		chunk := binary.BigEndian.Uint16(chunks)
		chunks = chunks[2:]
		n := min(chunkPackets(chunk), left)
		for i := range n {
			a := Arrival{Seq: seq}
			seq++
			switch chunkSymbol(chunk, i) {
			case 1:
				if len(deltas) < 1 {
					return false
				}
				at += int64(deltas[0]) * 250
				deltas = deltas[1:]
				a.Received, a.At = true, at
			case 2:
				if len(deltas) < 2 {
					return false
				}
				at += int64(int16(binary.BigEndian.Uint16(deltas))) * 250
				deltas = deltas[2:]
				a.Received, a.At = true, at
			}
			tell(a)
		}
		left -= n
	}
	return left == 0
}

// chunksLength is how many bytes the status chunks of count packets take.
func chunksLength(b []byte, count int) (n int, ok bool) {
	for count > 0 {
		if n+2 > len(b) {
			return 0, false
		}
		packets := chunkPackets(binary.BigEndian.Uint16(b[n:]))
		if packets == 0 {
			return 0, false
		}
		count -= packets
		n += 2
	}
	return n, true
}

func chunkPackets(chunk uint16) int {
	switch {
	case chunk&0x8000 == 0:
		return int(chunk & 0x1fff)
	case chunk&0x4000 == 0:
		return 14
	}
	return 7
}

// chunkSymbol is the status of the i-th packet of a chunk: 0 not received, 1 a small delta, 2 a large or negative one.
func chunkSymbol(chunk uint16, i int) uint16 {
	switch {
	case chunk&0x8000 == 0:
		return chunk >> 13 & 3
	case chunk&0x4000 == 0:
		return chunk >> (13 - i) & 1
	}
	return chunk >> (12 - 2*i) & 3
}
