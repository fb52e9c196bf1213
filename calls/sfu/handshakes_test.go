package sfu

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"
)

// dtlsRecord is one of DTLS, of a kind and so many bytes.
func dtlsRecord(kind, epoch byte, n int) []byte {
	b := append([]byte{kind, 254, 253, 0, epoch}, make([]byte, 6)...)
	return append(binary.BigEndian.AppendUint16(b, uint16(n)), make([]byte, n)...)
}

func TestWhatIsOfAHandshake(t *testing.T) {
	join := func(all ...[]byte) []byte { return slices.Concat(all...) }
	data, hello := dtlsRecord(23, 1, 100), dtlsRecord(22, 0, 100)
	for _, c := range []struct {
		name   string
		packet []byte
		counts bool // as of a handshake
		after  bool // it is taken when the handshake is over
	}{
		{"a message", hello, true, true}, // said again, since our last was lost
		{"a message that is enciphered", dtlsRecord(22, 1, 100), true, true},
		{"a change of ciphers", dtlsRecord(20, 0, 1), false, true},
		{"data", data, false, true},
		{"an alert", dtlsRecord(21, 1, 2), false, true},
		{"an alert in the clear", dtlsRecord(21, 0, 2), false, false},
		{"data in the clear", dtlsRecord(23, 0, 2), false, false},
		{"nothing known in the clear", dtlsRecord(26, 0, 2), false, false},
		{"data and an alert in the clear", join(data, dtlsRecord(21, 0, 2)), false, false},
		{"a message and an alert in the clear", join(hello, dtlsRecord(21, 0, 2)), true, false},
		{"data and a message", join(data, hello), true, true},
		{"data and data", join(data, data), false, true},
		{"a message that is cut off", hello[:50], true, true},
		{"data that are cut off", data[:50], false, true}, // nobody reads them
		{"a record that is cut off behind data", append(dtlsRecord(23, 1, 100), 22), true, true},
		{"data that say they are longer than they are, and a message", join(data[:11], []byte{255, 255}, hello), false, true},
		{"empty data and a message", join(dtlsRecord(23, 1, 0), hello), true, true},
		{"a part of a header", hello[:3], true, true},
		{"media", append([]byte{0x80, 96}, hello...), false, true},
		{"a check", []byte{0, 1, 0, 0}, false, true},
		{"nothing", nil, false, true},
	} {
		for _, over := range []bool{false, true} {
			var h handshakes
			h.over.Store(over)
			want, counted := c.after || !over, int64(0)
			if c.counts && want {
				counted = int64(len(c.packet))
			}
			if got := h.take(c.packet); got != want || h.bytes.Load() != counted {
				t.Errorf("%s (over: %v): taken %v, counted %d; want %v, %d", c.name, over, got, h.bytes.Load(), want, counted)
			}
		}
	}
}

// talker connects a client that has a data channel; sends says something on it, and waits until it has come.
func talker(t *testing.T, e *Engine, set func(*webrtc.SettingEngine)) (g guest, sends func()) {
	t.Helper()
	came := make(chan struct{}, 4)
	var channel *webrtc.DataChannel
	g = join(t, e, set, false, func(g guest) {
		g.peer.OnDataChannel(func(ch *webrtc.DataChannel) {
			ch.OnMessage(func(webrtc.DataChannelMessage) { came <- struct{}{} })
		})
		var err error
		channel, err = g.pc.CreateDataChannel("x", nil)
		must(t, err)
		channel.OnOpen(func() { came <- struct{}{} })
	})
	await(t, "an open channel", came)
	return g, func() {
		t.Helper()
		must(t, channel.Send([]byte("still there")))
		await(t, "data", came)
	}
}

// A handshake that has no end is not listened to any more; the connection lives, and its data come through. Nobody ends it without its keys.
func TestHandshakesAreBounded(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(*webrtc.SettingEngine)
		known bool
	}{{"by UDP", nil, true}, {"by TCP", tcpOnly, true}, {"by UDP, from a place that is not known", nil, false}, {"by TCP, from a place that is not known", tcpOnly, false}} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t)
			g, sends := talker(t, e, c.set)
			w := g.peer.in.wire
			spent := w.handshakes.bytes.Load()
			if spent == 0 || spent > handshakeMost/4 {
				t.Fatalf("got %d bytes of one handshake, want some, and few", spent)
			}
			e.ways.mu.RLock()
			at := w.places[0]
			e.ways.mu.RUnlock()
			if !c.known {
				at.addr, spent = netip.MustParseAddrPort("192.0.2.1:1000"), 0
			}
			takes, hello, data := takerOf(t, e, at), dtlsRecord(22, 0, 1187), dtlsRecord(23, 1, 1187)
			taken := 0
			for range 1000 {
				if takes(hello) {
					taken++
				}
				if !takes(data) {
					t.Fatal("data do not come through")
				}
			}
			if want := int(handshakeMost-spent) / len(hello); taken != want {
				t.Errorf("got %d packets of a handshake taken, want %d", taken, want)
			}
			if takes(dtlsRecord(21, 0, 2)) == c.known {
				t.Errorf("an alert in the clear is taken: %v, want %v", c.known, !c.known)
			}
			sends()
		})
	}
}

// takerOf says of packets that come from a place whether they are left to Pion.
func takerOf(t *testing.T, e *Engine, at place) func([]byte) bool {
	if at.tcp {
		from := &said{from: net.TCPAddrFromAddrPort(at.addr)}
		c, buf := &tcpConn{PacketConn: from, ways: e.ways, desk: newDesk()}, make([]byte, receiveMTU)
		return func(b []byte) bool {
			from.what = b
			_, _, err := c.ReadFrom(buf)
			return err == nil
		}
	}
	var asked stun.Message
	for _, c := range e.closers {
		if m, ok := c.(*udpMux); ok {
			conn, err := m.GetConn("another", nil) // whose places are not known
			must(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			if e.ways.find(at) == nil {
				m.leads(at.addr, conn.(*udpConn).box)
			}
			return func(b []byte) bool {
				d := &datagram{from: at.addr}
				d.n = copy(d.data[:], b)
				return m.whose(d, &asked) != nil
			}
		}
	}
	t.Fatal("no socket")
	return nil
}

// said is a connection on which one packet has come.
type said struct {
	net.PacketConn
	what []byte
	from net.Addr
}

func (s *said) ReadFrom(b []byte) (int, net.Addr, error) {
	if s.what == nil {
		return 0, nil, net.ErrClosed
	}
	n := copy(b, s.what)
	s.what = nil
	return n, s.from, nil
}

// Whoever can say something from a client's address, and has not its keys, ends nothing by it.
func TestNobodyHangsUpWithoutTheKeys(t *testing.T) {
	e, from := newEngine(t), listen(t, "127.0.0.1:0")
	mux := webrtc.NewICEUDPMux(nil, from)
	t.Cleanup(func() { _ = mux.Close() })
	g, sends := talker(t, e, func(s *webrtc.SettingEngine) { s.SetICEUDPMux(mux) })
	goodbye := dtlsRecord(21, 0, 2)
	goodbye[recordHeader] = 1 // a warning: that it closes
	for i, said := range [][]byte{goodbye, dtlsRecord(23, 0, 2), dtlsRecord(26, 0, 2)} {
		said[9] = byte(1 + i) // its number: none that has come
		_, err := from.WriteToUDPAddrPort(said, e.UDP()[0])
		must(t, err)
		sends()
	}
	if s := g.peer.ConnectionState(); s != webrtc.PeerConnectionStateConnected {
		t.Errorf("the connection is %v", s)
	}
}
