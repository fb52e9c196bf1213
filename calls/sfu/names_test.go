package sfu

import (
	"encoding/binary"
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

// layered is a client that sends a simulcast layer, packet by packet.
type layered struct {
	t          *testing.T
	raw        *rawTrack
	up         *UpTrack
	peer       *Peer
	seq, again map[uint32]uint16 // the newest number of each stream, and of each that repairs one
}

func newLayered(t *testing.T) *layered {
	e := newEngine(t)
	layer := func(rid string) *rawTrack {
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8}, "v", "s", webrtc.WithRTPStreamID(rid))
		must(t, err)
		return &rawTrack{TrackLocalStaticRTP: track, agreed: make(chan webrtc.TrackLocalContext, 4)}
	}
	l := &layered{t: t, raw: layer("q"), seq: map[uint32]uint16{}, again: map[uint32]uint16{}}
	g := join(t, e, nil, false, func(g guest) {
		tr, err := g.pc.AddTransceiverFromTrack(l.raw, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		must(t, err)
		must(t, tr.Sender().AddEncoding(layer("h"))) // one alone has no name
		l.up = g.peer.NewUpTrack(true, [MaxLayers]Size{})
		g.peer.OnTrack(func(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) { l.up.AddLayer(0, remote, receiver) })
	})
	t.Cleanup(l.up.Close)
	l.peer, l.raw.bound, l.raw.mid = g.peer, await(t, "what was agreed", l.raw.agreed), g.pc.GetTransceivers()[0].Mid()
	return l
}

// until sends something again and again, until it has come.
func (l *layered) until(what string, send func(), done func() bool) {
	l.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !done(); {
		select {
		case <-tick.C:
			send()
		case <-late:
			l.t.Fatalf("%s did not come", what)
		}
	}
}

var somePicture = []byte{0x10, 0, 0, 0, 0x9d, 1, 0x2a, 0, 1, 0, 1}

// media sends the next packet of a stream.
func (l *layered) media(ssrc uint32) {
	l.seq[ssrc]++
	l.raw.send(l.t, ssrc, 96, sdp.SDESRTPStreamIDURI, l.seq[ssrc], somePicture)
}

// repair sends a packet again; uri is by what it names its layer.
func (l *layered) repair(ssrc uint32, uri string, original uint16) {
	l.again[ssrc]++
	l.raw.send(l.t, ssrc, 97, uri, l.again[ssrc], append(binary.BigEndian.AppendUint16(nil, original), somePicture...))
}

// owner is whose a stream is.
func (l *layered) owner(ssrc uint32) *Layer {
	if s := l.peer.in.stream(ssrc); s != nil && s.owner.Load() != nil {
		return s.owner.Load().layer
	}
	return nil
}

// TestRepairsOfAnotherStreamOfALayer: a client sends a simulcast layer under another SSRC, whose repairs come under another one too. They are
// its own, and those of the stream before never are.
func TestRepairsOfAnotherStreamOfALayer(t *testing.T) {
	if poolsEmpty > 0 {
		t.Skip("Pion gives a layer another stream without a lock against its reader (webrtc v4.2.20, rtpreceiver.go:582)")
	}
	const one, oneAgain, other, otherAgain = 1111, 1112, 2222, 2223
	l := newLayered(t)
	repair := func(ssrc uint32, original uint16) { l.repair(ssrc, sdp.SDESRepairRTPStreamIDURI, original) }
	l.until("the layer", func() { l.media(one) }, func() bool { return l.owner(one) != nil })
	l.until("its repairs", func() { repair(oneAgain, 1) }, func() bool { return l.owner(oneAgain) == l.owner(one) })
	l.seq[other] = 30_000
	l.until("the other stream of the layer", func() { l.media(other) }, func() bool { return l.owner(other) != nil && l.up.Layer(0) == l.owner(other) })
	taken := l.up.Layer(0)
	l.media(other)
	lost := l.seq[other] + 1
	l.seq[other]++
	has := func() bool {
		var meta packet.Meta
		taken.reading.Lock()
		defer taken.reading.Unlock()
		highest := taken.unwrap.Highest()
		_, ok := taken.cache.Get(highest-int64(uint16(highest)-lost), &meta, make([]byte, receiveMTU))
		return ok
	}
	l.until("what comes after the lost packet", func() { l.media(other) }, func() bool { return uint16(taken.newest.Load())-lost < 1<<15 })
	if has() {
		t.Fatal("the packet that was to be lost came")
	}
	l.until("the lost packet", func() { repair(otherAgain, lost); repair(oneAgain, 7); l.media(other) }, has)
	if l.owner(oneAgain) == taken || l.owner(otherAgain) != taken {
		t.Errorf("the repairs before are the layer's: %v, its own are: %v", l.owner(oneAgain) == taken, l.owner(otherAgain) == taken)
	}
}

// TestRepairsThatSayTheyAreTheLayer: they repair it all the same, and do not take its place.
func TestRepairsThatSayTheyAreTheLayer(t *testing.T) {
	const one, oneAgain = 1111, 1112
	l := newLayered(t)
	l.until("the layer", func() { l.media(one) }, func() bool { return l.owner(one) != nil })
	l.until("its repairs", func() { l.repair(oneAgain, sdp.SDESRTPStreamIDURI, 1); l.media(one) }, func() bool { return l.owner(oneAgain) != nil })
	if l.up.Layer(0) != l.owner(one) || l.owner(oneAgain) != l.owner(one) {
		t.Error("the repairs are the layer now")
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

// TestAmendedRepairs: what a packet of a repair stream says of itself when Pion reads it.
func TestAmendedRepairs(t *testing.T) {
	const twoBytes = 0x1000
	extensions := func(repaired string) string {
		return strings.Join([]string{"a=rtpmap:96 VP8/90000", "a=rtpmap:97 rtx/90000", "a=rtpmap:127 RTX/90000", "a=rtpmap:300 rtx/90000",
			"a=extmap:1 " + sdp.SDESMidURI, "a=extmap:2 " + sdp.SDESRTPStreamIDURI, repaired, ""}, "\r\n")
	}
	low, high := "a=extmap:3 "+sdp.SDESRepairRTPStreamIDURI, "a=extmap:16 "+sdp.SDESRepairRTPStreamIDURI
	for _, c := range []struct {
		name     string
		offered  string
		payload  uint8
		form     uint16
		says     map[uint8]string
		want     map[uint8]string
		unspoken bool
	}{
		{"a repair that says so", low, 97, 0, map[uint8]string{1: "0", 3: "q"}, map[uint8]string{1: "0", 2: "", 3: "q"}, false},
		{"one that says it is the layer", low, 97, 0, map[uint8]string{1: "0", 2: "q"}, map[uint8]string{1: "0", 2: "", 3: "q"}, false},
		{"the last of all formats", low, 127, 0, map[uint8]string{2: "q"}, map[uint8]string{2: "", 3: "q"}, false},
		{"one that says both", low, 97, 0, map[uint8]string{2: "h", 3: "q"}, map[uint8]string{2: "h", 3: "q"}, false},
		{"in the long form", high, 97, twoBytes, map[uint8]string{1: "0", 2: "q"}, map[uint8]string{1: "0", 2: "", 16: "q"}, false},
		{"one that has no room for it", high, 97, 0, map[uint8]string{1: "0", 2: "q"}, nil, true},
		{"where it was not agreed on", "", 97, 0, map[uint8]string{1: "0", 2: "q"}, nil, true},
		{"the layer", low, 96, 0, map[uint8]string{1: "0", 2: "q"}, map[uint8]string{1: "0", 2: "q", 3: ""}, false},
	} {
		var n names
		n.expect(extensions(c.offered))
		p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: c.payload, Extension: c.form != 0, ExtensionProfile: c.form}, Payload: []byte{1, 2, 3}}
		for id, value := range c.says {
			must(t, p.SetExtension(id, []byte(value)))
		}
		b, err := p.Marshal()
		must(t, err)
		if n.amend(b) == c.unspoken {
			t.Errorf("%s: it may be read: %v", c.name, c.unspoken)
		}
		var got rtp.Packet
		must(t, got.Unmarshal(b))
		for id, want := range c.want {
			if value := string(got.GetExtension(id)); value != want {
				t.Errorf("%s: extension %d: got %q, want %q", c.name, id, value, want)
			}
		}
	}
}
