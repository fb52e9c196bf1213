package sfu

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/transport/v4/packetio"
	"github.com/pion/webrtc/v4"
)

const patience = 10 * time.Second

// guest is a client of an engine, on Pion.
type guest struct {
	pc   *webrtc.PeerConnection
	peer *Peer
}

// join connects a client, by its offer or by ours.
func join(t *testing.T, e *Engine, set func(*webrtc.SettingEngine), ours bool, prepare func(guest)) guest {
	t.Helper()
	var settings webrtc.SettingEngine
	settings.SetIncludeLoopbackCandidate(true)
	if set != nil {
		set(&settings)
	}
	media := &webrtc.MediaEngine{}
	must(t, media.RegisterDefaultCodecs())
	must(t, webrtc.ConfigureSimulcastExtensionHeaders(media))
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(media)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	peer, err := e.NewPeer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	g := guest{pc, peer}
	prepare(g)
	connected := make(chan struct{})
	var once sync.Once
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			once.Do(func() { close(connected) })
		}
	})
	from, to := pc, peer.PeerConnection
	if ours {
		from, to = to, from
	}
	describe := func(from, to *webrtc.PeerConnection, d webrtc.SessionDescription, err error) {
		t.Helper()
		must(t, err)
		gathered := webrtc.GatheringCompletePromise(from)
		must(t, from.SetLocalDescription(d))
		await(t, "all candidates", gathered)
		take := to.SetRemoteDescription
		if to == peer.PeerConnection {
			take = peer.SetRemoteDescription
		}
		must(t, take(*from.LocalDescription()))
	}
	offer, err := from.CreateOffer(nil)
	describe(from, to, offer, err)
	answer, err := to.CreateAnswer(nil)
	describe(to, from, answer, err)
	await(t, "a connection", connected)
	return g
}

// newEngine is an engine at the loopback address, closed with the test.
func newEngine(t testing.TB) *Engine {
	t.Helper()
	e, err := NewEngine(Ports{Listen: []net.IP{net.IPv4(127, 0, 0, 1)}, Loopback: true})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await[T any](t *testing.T, what string, c <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-c:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
	return got
}

// Media go by the wire whatever carries them, past where sequence numbers begin anew; where the client is the handshake's
// server Pion carries them.
func TestMediaGoByTheWire(t *testing.T) {
	older := func(s *webrtc.SettingEngine) { s.SetSRTPProtectionProfiles(dtls.SRTP_AES128_CM_HMAC_SHA1_80) }
	passive := func(s *webrtc.SettingEngine) { must(t, s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer)) }
	for _, c := range []struct {
		name string
		set  func(*webrtc.SettingEngine)
		ours bool // the offer to the subscriber is ours
		pion bool // carries what the subscriber gets
	}{
		{name: "UDP"},
		{name: "TCP", set: tcpOnly},
		{name: "AES-CM", set: older},
		{name: "two connections", ours: true},
		{name: "the subscriber waits for our handshake", set: passive, ours: true, pion: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t)

			track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8}, "v", "s")
			must(t, err)
			asked, up := make(chan struct{}, 8), (*UpTrack)(nil)
			layered := make(chan struct{})
			publisher := join(t, e, c.set, false, func(g guest) {
				sender, err := g.pc.AddTrack(track)
				must(t, err)
				go func() {
					for {
						packets, _, err := sender.ReadRTCP()
						if err != nil {
							return
						}
						for _, p := range packets {
							if _, ok := p.(*rtcp.PictureLossIndication); ok {
								select {
								case asked <- struct{}{}:
								default:
								}
							}
						}
					}
				}()
				up = g.peer.NewUpTrack(true, [MaxLayers]Size{})
				g.peer.OnTrack(func(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
					up.AddLayer(0, remote, receiver)
					close(layered)
				})
			})
			t.Cleanup(up.Close)
			seq := uint16(65_500)
			send := func() {
				p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: uint32(seq) * 3000, Marker: true},
					Payload: append([]byte{0x10, 0, 0, 0, 0x9d, 1, 0x2a, 0, 1, 0, 1}, binary.BigEndian.AppendUint16(nil, seq)...)}
				must(t, track.WriteRTP(p))
				seq++
			}
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			until := func(what string, done <-chan struct{}) {
				t.Helper()
				late := time.After(patience)
				for {
					select {
					case <-done:
						return
					case <-tick.C:
						send()
					case <-late:
						t.Fatalf("%s did not come", what)
					}
				}
			}
			until("a layer", layered)

			got := make(chan []byte, 4096)
			link := (*Downlink)(nil)
			subscriber := join(t, e, c.set, c.ours, func(g guest) {
				if !c.ours {
					_, err := g.pc.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
					must(t, err)
				}
				g.pc.OnTrack(func(remote *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
					for {
						p, _, err := remote.ReadRTP()
						if err != nil {
							return
						}
						got <- bytes.Clone(p.Payload)
					}
				})
				link = g.peer.NewDownlink(LinkConfig{})
				down := NewDownTrack(up, link, "v", "s")
				_, err := g.peer.AddTrack(down)
				must(t, err)
				down.Start()
				t.Cleanup(down.Stop)
			})
			go link.Run()
			t.Cleanup(link.Close)
			link.Ready()

			first := uint16(0)
			for n := 0; n < 200; n++ { // the numbers of the publisher wrap on the way
				select {
				case p := <-got:
					if now := binary.BigEndian.Uint16(p[len(p)-2:]); n == 0 {
						first = now
					} else if now != first+uint16(n) {
						t.Fatalf("packet %d: got what was sent as %d, want %d", n, now, first+uint16(n))
					}
				case <-tick.C:
					send()
					n--
				case <-time.After(patience):
					t.Fatalf("only %d packets came", n)
				}
			}
			if first < 60_000 {
				t.Fatalf("the first packet was %d: the numbers did not wrap", first)
			}
			remote := subscriber.pc.GetReceivers()[0].Track()
			for len(asked) > 0 {
				<-asked
			}
			must(t, subscriber.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(remote.SSRC())}}))
			until("the question for a key frame", asked)
			for name, g := range map[string]guest{"publisher": publisher, "subscriber": subscriber} {
				pion := c.pion && name == "subscriber"
				if carries := g.peer.in.wire.carries(); carries == pion {
					t.Errorf("the wire of the %s carries media: %v, want %v", name, carries, !pion)
				}
				if n := g.peer.Received(); (n > 0) == pion {
					t.Errorf("%d packets of the %s came by its wire", n, name)
				}
			}
			must(t, publisher.peer.Close())
			must(t, subscriber.peer.Close())
			if n := len(e.ways.at); n != 0 {
				t.Errorf("%d addresses are remembered of clients that have gone", n)
			}
		})
	}
}

// keyedWire is a wire whose client is at the address of a socket that nobody reads, and what that client sends with.
func keyedWire(t testing.TB) (*wire, *srtp.Context) {
	t.Helper()
	ways, in := newWays(), newIncoming()
	w := &wire{engine: &Engine{ways: ways}, incoming: in}
	in.wire = w
	context := func(key byte) *srtp.Context {
		c, err := srtp.CreateContext(bytes.Repeat([]byte{key}, 16), bytes.Repeat([]byte{key}, 12), srtp.ProtectionProfileAeadAes128Gcm, srtp.SRTPReplayProtection(replayWindow), srtp.SRTCPReplayProtection(replayWindow))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	w.key(context(1), context(2))
	if w.carries() {
		t.Error("the wire carries media before the handshake is over")
	}
	w.shaken(webrtc.DTLSTransportStateConnected)
	client := listen(t, "127.0.0.1:0")
	to := &way{place: place{addr: addressOf(client)}, wire: w}
	to.by.Store(&exit{socket: newSocket(ways, listen(t, "127.0.0.1:0"))})
	w.to.Store(to)
	ways.at[to.place] = to
	return w, context(1)
}

func sealed(t testing.TB, by *srtp.Context, seq uint16) []byte {
	t.Helper()
	raw, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, SSRC: 7, PayloadType: 96, Timestamp: uint32(seq) * 3000}, Payload: make([]byte, 1000)}).Marshal()
	if err == nil {
		raw, err = by.EncryptRTP(nil, raw, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Packets that are forged, changed on the way, or sent a second time go nowhere: neither to a layer nor to Pion.
func TestWireDropsWhatIsForged(t *testing.T) {
	w, client := keyedWire(t)
	d := newDesk()
	first := sealed(t, client, 1)
	if w.take(first, d) {
		t.Error("a stream that Pion has not met was kept from it")
	}
	_, stranger := keyedWire(t)
	changed := sealed(t, client, 2)
	changed[20] ^= 1
	report, err := stranger.EncryptRTCP(nil, []byte{0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9}, nil)
	must(t, err)
	report[4] ^= 1
	for name, p := range map[string][]byte{
		"replayed": first, "changed": changed, "cut": sealed(t, client, 3)[:24], "noise": bytes.Repeat([]byte{0x90}, 40), "report": report,
	} {
		if !w.take(p, d) {
			t.Errorf("%s: was left to Pion", name)
		}
	}
	if n := w.received.Load(); n != 1 {
		t.Errorf("got %d packets, want the one that was sent", n)
	}
}

// SRTP keeps something of each sender of reports and media, and would of as many as a client names: so many are there and no
// more. What is forged names nobody.
func TestAClientOfTooManyNames(t *testing.T) {
	report := func(by *srtp.Context, sender uint32) []byte {
		b, err := by.EncryptRTCP(nil, binary.BigEndian.AppendUint32([]byte{0x80, 201, 0, 1}, sender), nil)
		must(t, err)
		return b
	}
	media := func(by *srtp.Context, sender uint32) []byte {
		b, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: sender, PayloadType: 96}, Payload: []byte{1}}).Marshal()
		must(t, err)
		b, err = by.EncryptRTP(nil, b, nil)
		must(t, err)
		return b
	}
	for name, c := range map[string]struct {
		packet func(*srtp.Context, uint32) []byte
		kept   func(*srtp.Context, uint32) bool
	}{
		"reports": {report, func(in *srtp.Context, sender uint32) bool { _, ok := in.Index(sender); return ok }},
		"media":   {media, func(in *srtp.Context, sender uint32) bool { _, ok := in.ROC(sender); return ok }},
	} {
		w, client := keyedWire(t)
		closed, d := make(chan struct{}, 9), newDesk()
		w.incoming.excess = func() { closed <- struct{}{} }
		for i := range uint32(maxStreams + 100) {
			forged := c.packet(client, 1<<20+i)
			forged[len(forged)-1] ^= 1
			w.take(forged, d)
		}
		for i := range uint32(maxStreams) {
			w.take(c.packet(client, i), d)
			w.take(report(client, 0), d) // one known is no other
		}
		select {
		case <-closed:
			t.Errorf("%s: a client of %d names was sent away", name, maxStreams)
		default:
		}
		for i := range uint32(100) {
			if !w.take(c.packet(client, maxStreams+i), d) && i > 0 {
				t.Errorf("%s: name %d too many was left to Pion", name, i)
			}
		}
		await(t, name+": the end of a client of too many names", closed)
		if !c.kept(w.in, maxStreams-1) || c.kept(w.in, maxStreams+1) || len(closed) != 0 {
			t.Errorf("%s: got more than %d names kept, or its end told twice", name, maxStreams)
		}
	}
	w, client := keyedWire(t)
	w.keyed.Store(false) // as where Pion carries what comes
	d := newDesk()
	for i := range uint32(maxStreams + 100) {
		if taken := w.take(report(client, i), d); taken != (i >= maxStreams) {
			t.Fatalf("to Pion: report of name %d was kept from it: %v", i, taken)
		}
	}
	w.shaken(webrtc.DTLSTransportStateConnected)
	w.take(report(client, maxStreams+100), d)
	if n := len(w.senders); n != 1 || w.crowded {
		t.Errorf("got %d names after the handshake, crowded %v, want the genuine one", n, w.crowded)
	}
}

// Pion gets a packet of a stream now and then, and all of one whose receiver has stopped: it may have to meet the stream again.
func TestPionKeepsUpWithTheWire(t *testing.T) {
	w, client := keyedWire(t)
	s := newStage(t, 1)
	stream := w.incoming.buffer(packetio.RTPBufferPacket, 7).(*rtpStream)
	stream.give(s.layers[0], false)
	d := newDesk()
	left := 0
	for seq := range 1 << 16 {
		if !w.take(sealed(t, client, uint16(seq)), d) {
			left++
		}
		s.layers[0].rates.counted = 0
	}
	if want := 1 << 16 / pionHears; left != want {
		t.Errorf("Pion got %d packets of a round of numbers, want %d", left, want)
	}
	if got := s.layers[0].counts.packets.Load(); got != 1<<16 {
		t.Errorf("the layer got %d packets, want all", got)
	}
	must(t, stream.Close())
	if w.take(sealed(t, client, 5), d) {
		t.Error("a stream whose receiver has stopped is kept from Pion")
	}
}

// FuzzWire gives a datagram of a client to its wire, as it came and as the client would have sealed it.
func FuzzWire(f *testing.F) {
	w, client := keyedWire(f)
	s := newStage(f, 1)
	w.incoming.layers[7], w.incoming.downs[7] = s.layers[0], s.down
	stream := w.incoming.buffer(packetio.RTPBufferPacket, 7).(*rtpStream)
	stream.give(s.layers[0], false)
	w.incoming.excess = func() {} // a peer would close
	d, seq := newDesk(), uint16(0)
	f.Add(sealed(f, client, 1))
	f.Add([]byte{0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0x10, 1, 2, 3})
	f.Add([]byte{0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > receiveMTU || w.engine.ways.of(false, w.to.Load().addr, b) == nil {
			return
		}
		w.take(b, d)
		b = bytes.Clone(b)
		sealed, err := []byte(nil), error(nil)
		if b[1] >= 192 && b[1] <= 223 {
			sealed, err = client.EncryptRTCP(nil, b, nil)
		} else {
			seq++
			binary.BigEndian.PutUint16(b[2:], seq)
			binary.BigEndian.PutUint32(b[8:], 7)
			sealed, err = client.EncryptRTP(nil, b, nil)
		}
		if err == nil {
			w.take(sealed, d)
		}
		s.layers[0].rates.counted = 0
		w.inward.Lock()
		clear(w.senders) // what is tried has a new sender each time
		w.inward.Unlock()
	})
}

func TestWireDoesNotAllocate(t *testing.T) {
	w, client := keyedWire(t)
	s := newStage(t, 1)
	stream := w.incoming.buffer(packetio.RTPBufferPacket, 7).(*rtpStream)
	stream.give(s.layers[0], false)
	d, seq := newDesk(), uint16(0)
	const rounds, each = 60, 10
	packets := make([][]byte, (videoCache/each+rounds+3)*each)
	for i := range packets {
		packets[i] = sealed(t, client, uint16(i+1))
	}
	h, payload := &rtp.Header{Version: 2, SSRC: 9, PayloadType: 96}, make([]byte, 1000)
	turn := func() {
		for range each {
			if !w.take(packets[seq], d) {
				t.Fatal("was left to Pion")
			}
			seq++
			h.SequenceNumber = seq
			if err := w.write(d.out, h, payload); err != nil {
				t.Fatal(err)
			}
		}
		d.out.flush()
	}
	for range videoCache/each + 1 { // the cache takes its memory as it fills
		turn()
	}
	if got := testing.AllocsPerRun(rounds, turn); got > poolsEmpty {
		t.Errorf("got %v allocations for ten packets in and ten out, want none", got)
	}
}

func BenchmarkWire(b *testing.B) {
	w, client := keyedWire(b)
	d, h, payload := newDesk(), &rtp.Header{Version: 2, SSRC: 9, PayloadType: 96}, make([]byte, 1000)
	p := sealed(b, client, 1)
	b.ReportAllocs()
	for b.Loop() {
		h.SequenceNumber++
		if err := w.write(d.out, h, payload); err != nil {
			b.Fatal(err)
		}
		w.take(p, d) // seen already
	}
}
