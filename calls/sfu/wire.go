package sfu

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/webrtc/v4"
)

// wire is the short way of a peer's media: SRTP is deciphered by the goroutine that read it from the socket, which hands it
// to its layer, and what goes out is enciphered in the outbox from which it leaves. Pion does the rest: ICE, DTLS, the
// first packets of a stream that nobody knows yet, data channels, our own reports. A wire without keys carries nothing.
type wire struct {
	engine   *Engine
	incoming *incoming
	pair     func() (*webrtc.ICECandidatePair, error) // that is in use
	keyed    atomic.Bool
	received atomic.Uint64
	to       atomic.Pointer[way]

	handshakes handshakes

	closed bool    // this and the next are guarded by the ways' lock
	places []place // where the client is

	inward  sync.Mutex // guards the next five; two meet here only while a client changes its address
	in      *srtp.Context
	rtp     rtp.Header
	rtcp    rtcp.Header
	senders map[uint32]struct{} // SSRCs of which SRTP keeps something, for as long as the keys hold
	crowded bool                // there were too many: the peer closes
	outward sync.Mutex          // guards the rest; held while a packet is enciphered
	out     *srtp.Context
	header  rtp.Header
}

// srtpOverhead is what encryption adds to a packet at most, rounded up.
const srtpOverhead = 32

var (
	errTooLarge = errors.New("sfu: packet too large")
	errCrowded  = errors.New("sfu: a peer of too many streams")
)

// desk is what a goroutine needs that takes packets.
type desk struct {
	now     time.Time
	out     *outbox
	plain   [slotBytes]byte
	scratch [receiveMTU + 2]byte // for repairs
}

func newDesk() *desk { return &desk{out: &outbox{lane: int(lanes.Add(1) & 0xff)}} }

func (d *desk) begin() { d.now = time.Now() }

// key takes the keys; media go by the wire when the handshake has come to its end, and has shown that the client is the one who signalled.
func (w *wire) key(in, out *srtp.Context) {
	w.inward.Lock()
	w.in = in
	w.inward.Unlock()
	w.outward.Lock()
	w.out = out
	w.outward.Unlock()
}

// shaken is told how the handshake stands; before Pion carries any media.
func (w *wire) shaken(s webrtc.DTLSTransportState) {
	if s == webrtc.DTLSTransportStateConnected {
		w.handshakes.over.Store(true)
	}
	w.inward.Lock()
	keyed := w.in != nil
	w.inward.Unlock()
	if s == webrtc.DTLSTransportStateConnected && keyed {
		w.inward.Lock()
		clear(w.senders) // anybody may have named those
		w.inward.Unlock()
		w.keyed.Store(true)
	}
}

// meet notes the sender of a packet that is genuine. One who speaks under too many names is at an end.
func (w *wire) meet(sender uint32) {
	w.inward.Lock()
	defer w.inward.Unlock()
	if !w.enter(sender) && !w.crowded {
		w.crowded = true
		go w.incoming.excess()
	}
}

// enter finds room for a sender. The lock is held.
func (w *wire) enter(sender uint32) bool {
	if _, known := w.senders[sender]; known {
		return true
	}
	if len(w.senders) >= maxStreams {
		return false
	}
	if w.senders == nil {
		w.senders = map[uint32]struct{}{}
	}
	w.senders[sender] = struct{}{}
	return true
}

// passes says whether a report may go to Pion, which deciphers it and keeps something of each sender. Nobody knows yet whether it is
// genuine, so that one too many is dropped, and does not end the peer.
func (w *wire) passes(sender uint32) bool {
	w.inward.Lock()
	defer w.inward.Unlock()
	return w.enter(sender)
}

// carries says whether media go by the wire. It is so from the end of the handshake on, or never: the counters of SRTP
// cannot be changed over.
func (w *wire) carries() bool { return w != nil && w.keyed.Load() }

// take deciphers a packet of the client and hands it on. It is false if it is Pion's: nothing is keyed yet, or the stream is
// one that Pion has to meet first.
func (w *wire) take(b []byte, d *desk) bool {
	report := b[1] >= 192 && b[1] <= 223 // RFC 5761, section 4
	if !w.carries() {
		return report && w != nil && !w.passes(binary.BigEndian.Uint32(b[4:]))
	}
	if report {
		plain, err := w.decipherReport(b, d)
		if err == nil {
			w.meet(binary.BigEndian.Uint32(b[4:]))
			w.received.Add(1)
			w.incoming.hear(plain, 0, d.now, d.scratch[:])
		}
		return true
	}
	plain, err := w.decipher(b, d)
	if err != nil {
		return true // forged, or seen already
	}
	w.received.Add(1)
	ssrc := binary.BigEndian.Uint32(b[8:])
	s := w.incoming.stream(ssrc)
	if s == nil {
		w.meet(ssrc)
	}
	return s != nil && s.take(plain, d.now, d.out) && binary.BigEndian.Uint16(b[2:])%pionHears != 0
}

func (w *wire) decipher(b []byte, d *desk) ([]byte, error) {
	w.inward.Lock()
	defer w.inward.Unlock()
	if w.crowded {
		return nil, errCrowded
	}
	return w.in.DecryptRTP(d.plain[:0], b, &w.rtp)
}

func (w *wire) decipherReport(b []byte, d *desk) ([]byte, error) {
	w.inward.Lock()
	defer w.inward.Unlock()
	if w.crowded {
		return nil, errCrowded
	}
	return w.in.DecryptRTCP(d.plain[:0], b, &w.rtcp)
}

// pionHears is how often Pion gets a packet that has been taken: its count of how often the numbers began anew stays right, should it
// have to meet the stream again. That the layer gets this packet twice does no harm.
const pionHears = 1 << 13

// write enciphers a packet and lets it leave with the outbox's others; out is nil for one that leaves alone.
func (w *wire) write(out *outbox, h *rtp.Header, payload []byte) error {
	to, by := w.leads()
	if by == nil {
		return nil // lost: nobody is there
	}
	if out == nil {
		out = borrowOutbox()
		defer out.giveBack()
	}
	if by.socket == nil {
		p, err := w.encipher(out.scratch[:], h, payload)
		if err == nil {
			_, err = by.conn.WriteTo(p, by.to) // does not wait: the connection has a buffer
		}
		return err
	}
	b := out.batch(by.socket)
	p, err := w.encipher(b.room(), h, payload)
	if err == nil {
		b.add(p, to.addr)
	}
	return err
}

func (w *wire) encipher(room []byte, h *rtp.Header, payload []byte) ([]byte, error) {
	n, err := h.MarshalTo(room)
	if err != nil {
		return nil, err
	}
	if n+len(payload)+int(h.PaddingSize) > len(room)-srtpOverhead {
		return nil, errTooLarge
	}
	n += copy(room[n:], payload)
	if h.Padding {
		clear(room[n : n+int(h.PaddingSize)])
		n += int(h.PaddingSize)
		room[n-1] = h.PaddingSize
	}
	w.outward.Lock()
	defer w.outward.Unlock()
	return w.out.EncryptRTP(room, room[:n], &w.header)
}

// leads is where the client is reached: at the address that ICE has chosen.
func (w *wire) leads() (*way, *exit) {
	to := w.to.Load()
	if to == nil {
		if pair, err := w.pair(); err == nil && pair != nil {
			w.chosen(pair)
			to = w.to.Load()
		}
	}
	if to == nil {
		return nil, nil
	}
	return to, to.by.Load()
}

// chosen is told which pair of addresses is in use.
func (w *wire) chosen(pair *webrtc.ICECandidatePair) {
	if to := w.engine.ways.chosen(pair.Remote); to != nil {
		w.to.Store(to)
	}
}
