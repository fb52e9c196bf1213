package sfu

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// rawTrack is a client's simulcast layer whose packets are made here.
type rawTrack struct {
	*webrtc.TrackLocalStaticRTP
	agreed chan webrtc.TrackLocalContext
	bound  webrtc.TrackLocalContext
	mid    string
}

func (r *rawTrack) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	r.agreed <- ctx
	return r.TrackLocalStaticRTP.Bind(ctx)
}

// send sends a packet of a stream that says of itself what uri names.
func (r *rawTrack) send(t *testing.T, ssrc uint32, kind uint8, uri string, seq uint16, payload []byte) {
	t.Helper()
	h := rtp.Header{Version: 2, Marker: true, PayloadType: kind, SSRC: ssrc, SequenceNumber: seq, Timestamp: uint32(seq) * 3000}
	for _, ext := range r.bound.HeaderExtensions() {
		for of, value := range map[string]string{sdp.SDESMidURI: r.mid, uri: "q"} {
			if ext.URI == of {
				must(t, h.SetExtension(uint8(ext.ID), []byte(value)))
			}
		}
	}
	_, err := r.bound.WriteStream().WriteRTP(&h, payload)
	must(t, err)
}

// TestRepairsOfAnotherStreamOfALayer: a client sends a simulcast layer under another SSRC, whose repairs come under another one too. They are
// its own, and those of the stream before never are.
func TestRepairsOfAnotherStreamOfALayer(t *testing.T) {
	if poolsEmpty > 0 {
		t.Skip("Pion gives a layer another stream without a lock against its reader (webrtc v4.2.20, rtpreceiver.go:582)")
	}
	e, err := NewEngine(Ports{Listen: []net.IP{net.IPv4(127, 0, 0, 1)}, Loopback: true})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	layer := func(rid string) *rawTrack {
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8}, "v", "s", webrtc.WithRTPStreamID(rid))
		must(t, err)
		return &rawTrack{TrackLocalStaticRTP: track, agreed: make(chan webrtc.TrackLocalContext, 4)}
	}
	raw, up := layer("q"), (*UpTrack)(nil)
	g := join(t, e, nil, false, func(g guest) {
		tr, err := g.pc.AddTransceiverFromTrack(raw, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		must(t, err)
		must(t, tr.Sender().AddEncoding(layer("h"))) // one alone has no name
		up = g.peer.NewUpTrack(true, [MaxLayers]Size{})
		g.peer.OnTrack(func(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) { up.AddLayer(0, remote, receiver) })
	})
	t.Cleanup(up.Close)
	raw.bound, raw.mid = await(t, "what was agreed", raw.agreed), g.pc.GetTransceivers()[0].Mid()

	picture := []byte{0x10, 0, 0, 0, 0x9d, 1, 0x2a, 0, 1, 0, 1}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	until := func(what string, send func(), done func() bool) {
		t.Helper()
		for late := time.After(patience); !done(); {
			select {
			case <-tick.C:
				send()
			case <-late:
				t.Fatalf("%s did not come", what)
			}
		}
	}
	seq, again := map[uint32]uint16{}, map[uint32]uint16{}
	media := func(ssrc uint32) func() {
		return func() { seq[ssrc]++; raw.send(t, ssrc, 96, sdp.SDESRTPStreamIDURI, seq[ssrc], picture) }
	}
	repair := func(ssrc uint32, original uint16) func() {
		return func() {
			again[ssrc]++
			raw.send(t, ssrc, 97, sdp.SDESRepairRTPStreamIDURI, again[ssrc], append(binary.BigEndian.AppendUint16(nil, original), picture...))
		}
	}
	owned := func(ssrc uint32) *Layer {
		if s := g.peer.in.stream(ssrc); s != nil && s.owner.Load() != nil {
			return s.owner.Load().layer
		}
		return nil
	}
	const one, oneAgain, other, otherAgain = 1111, 1112, 2222, 2223
	until("the layer", media(one), func() bool { return owned(one) != nil })
	until("its repairs", repair(oneAgain, 1), func() bool { return owned(oneAgain) == owned(one) })
	seq[other] = 30_000
	until("the other stream of the layer", media(other), func() bool { return owned(other) != nil && up.Layer(0) == owned(other) })
	taken := up.Layer(0)
	media(other)()
	lost := seq[other] + 1
	seq[other]++
	has := func() bool {
		var meta packet.Meta
		taken.reading.Lock()
		defer taken.reading.Unlock()
		highest := taken.unwrap.Highest()
		_, ok := taken.cache.Get(highest-int64(uint16(highest)-lost), &meta, make([]byte, receiveMTU))
		return ok
	}
	until("what comes after the lost packet", media(other), func() bool { return uint16(taken.newest.Load())-lost < 1<<15 })
	if has() {
		t.Fatal("the packet that was to be lost came")
	}
	until("the lost packet", func() { repair(otherAgain, lost)(); repair(oneAgain, 7)(); media(other)() }, has)
	if owned(oneAgain) == taken || owned(otherAgain) != taken {
		t.Errorf("the repairs before are the layer's: %v, its own are: %v", owned(oneAgain) == taken, owned(otherAgain) == taken)
	}
}

// Who says nothing of its streams, or nonsense, names none.
func TestNamesOfStreams(t *testing.T) {
	var n names
	n.expect(strings.Join([]string{"a=extmap:1 " + sdp.SDESMidURI, "a=extmap:2/sendonly " + sdp.SDESRTPStreamIDURI + " more", "a=extmap:3 " + sdp.SDESRepairRTPStreamIDURI,
		"a=extmap:999 " + sdp.SDESMidURI, "a=extmap: " + sdp.SDESMidURI, "extmap:9 " + sdp.SDESMidURI, ""}, "\r\n"))
	for _, c := range []struct {
		name string
		says map[uint8]string
		want *streamName
	}{
		{"a layer", map[uint8]string{1: "0", 2: "q"}, &streamName{"0", "q", false}},
		{"its repairs", map[uint8]string{1: "0", 3: "q"}, &streamName{"0", "q", true}},
		{"no section", map[uint8]string{2: "q"}, nil},
		{"no layer", map[uint8]string{1: "0"}, nil},
		{"nothing", nil, nil},
	} {
		p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96}, Payload: []byte{1}}
		for id, value := range c.says {
			must(t, p.SetExtension(id, []byte(value)))
		}
		b, err := p.Marshal()
		must(t, err)
		if got := n.of(b); (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
	if n.of([]byte{0x80}) != nil {
		t.Error("half a packet has a name")
	}
}
