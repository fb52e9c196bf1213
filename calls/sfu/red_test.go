package sfu

import (
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

var opus = webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{
	MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, PayloadType: 111}

// voice is a microphone that sends RED, and two subscribers: one takes RED, under other payload types, and one does not.
type voice struct {
	layer       *Layer
	with, bare  *DownTrack
	red, single *written
}

func newVoice(t *testing.T, unfold bool) *voice {
	t.Helper()
	mouth := &noted{said: make(chan rtcp.Packet, 64)}
	up := newUpTrack(mouth, nil, false, [MaxLayers]Size{})
	t.Cleanup(up.Close)
	up.codec.Store(&opus)
	if unfold {
		up.Unfold()
	}
	l := newLayer(up, 0, 1000, opus.RTPCodecCapability)
	l.fold.payloads = redPayloads{red: 63, opus: 111}
	up.layers[0].Store(l)
	link := newDownlink(mouth, nil, LinkConfig{})
	link.Ready()
	v := &voice{layer: l, red: &written{keep: true}, single: &written{keep: true}}
	v.bare, v.with = NewDownTrack(up, link, "TR_1", "PA_1"), NewDownTrack(up, link, "TR_1", "PA_1")
	v.bare.binding.Store(&binding{writer: v.single, ssrc: 7, payload: 120, sent: make([]sending, audioCache)})
	v.with.binding.Store(&binding{writer: v.red, ssrc: 8, payload: 109, sent: make([]sending, audioCache)})
	v.with.TakeRED(99)
	v.with.Start() // first, so that what it changes in the payload is seen by the other
	v.bare.Start()
	return v
}

// send sends packet number n with copies of those before it.
func (v *voice) send(t *testing.T, n int, copies int) {
	t.Helper()
	var head, body []byte
	for i := copies; i > 0; i-- {
		back := uint32(i * 960)
		head = append(head, 0x80|111, byte(back>>6), byte(back<<2), 1)
		body = append(body, 'a'+byte(n-i))
	}
	payload := append(append(append(head, 111), body...), 'a'+byte(n))
	p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 63, SequenceNumber: uint16(65534 + n), Timestamp: uint32(n * 960)}, Payload: payload}
	v.feed(t, &p)
}

func (v *voice) feed(t *testing.T, p *rtp.Packet) {
	t.Helper()
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	v.layer.receive(b, time.Now())
}

func TestREDForThoseWhoTakeIt(t *testing.T) {
	v := newVoice(t, true)
	for n := range 4 {
		v.send(t, n, min(n, 1))
	}
	if len(v.red.packets) != 4 || len(v.single.packets) != 4 {
		t.Fatalf("got %d packets with copies and %d without, want 4 and 4", len(v.red.packets), len(v.single.packets))
	}
	for i := range 4 {
		with, bare := v.red.packets[i], v.single.packets[i]
		if want := string(rune('a' + i)); bare.PayloadType != 120 || string(bare.Payload) != want {
			t.Errorf("packet %d without copies: got %q of type %d, want %q of type 120", i, bare.Payload, bare.PayloadType, want)
		}
		if with.PayloadType != 99 || with.Payload[len(with.Payload)-1] != 'a'+byte(i) {
			t.Errorf("packet %d with copies: got %q of type %d", i, with.Payload, with.PayloadType)
		}
		if i > 0 && (with.Payload[0] != 0x80|109 || with.Payload[4] != 109 || with.Payload[5] != 'a'+byte(i-1)) {
			t.Errorf("packet %d with copies: got blocks %v, want types 109", i, with.Payload)
		}
		if bare.SequenceNumber != v.single.packets[0].SequenceNumber+uint16(i) || bare.Timestamp != uint32(i*960) {
			t.Errorf("packet %d: got number %d at %d", i, bare.SequenceNumber, bare.Timestamp)
		}
	}
}

func TestLostAudioComesFromItsCopies(t *testing.T) {
	v := newVoice(t, true)
	v.send(t, 0, 0)
	v.send(t, 1, 1)
	v.send(t, 4, 2) // 2 and 3 are lost, and copied in 4
	v.send(t, 3, 2) // 3 was late only
	v.send(t, 8, 2) // of 5, 6 and 7 the first is gone for good
	heard := ""
	first := v.single.packets[0]
	for _, p := range v.single.packets {
		heard += string(p.Payload)
		n := uint16(p.Payload[0] - 'a')
		if p.SequenceNumber != first.SequenceNumber+n || p.Timestamp != uint32(n)*960 {
			t.Errorf("packet %d: got number %d at %d, want %d at %d", n, p.SequenceNumber, p.Timestamp, first.SequenceNumber+n, n*960)
		}
	}
	if heard != "abcdeghi" {
		t.Errorf("without copies: got %q, want all but the one that no copy brought", heard)
	}
	if got := len(v.red.packets); got != 4 {
		t.Errorf("with copies: got %d packets, want the 4 that brought something", got)
	}
	if got := v.layer.missing.n; got != 1 {
		t.Errorf("got %d packets to be asked for, want 1", got)
	}
	v.single.packets = nil
	buf := make([]byte, receiveMTU+2)
	v.bare.repair(first.SequenceNumber+2, 0, buf)
	if len(v.single.packets) != 1 || string(v.single.packets[0].Payload) != "c" {
		t.Errorf("asked for a packet that came in a copy: got %v", v.single.packets)
	}
}

// TestANarrowLineGetsNoCopies: the voice itself comes first, and what a copy brings of a lost packet comes in its place.
func TestANarrowLineGetsNoCopies(t *testing.T) {
	v := newVoice(t, true)
	for n := range 20 {
		v.send(t, n, min(n, 1))
	}
	link := v.with.link
	v.layer.rates.usual.Store(60_000)
	for _, c := range []struct {
		name   string
		budget int
		scant  bool
	}{
		{"a wide line", 1_000_000, false},
		{"a narrow line", 100_000, true},
		{"a wide one again", 1_000_000, false},
	} {
		audio := link.thrift(c.budget, time.Now())
		if got := link.scant.Load(); got != c.scant || (audio < 60_000*len(link.tracks)) != c.scant {
			t.Errorf("%s: got scant %v with %d bit/s for voices, want %v", c.name, got, audio, c.scant)
		}
	}
	link.scant.Store(true)
	v.red.packets = nil
	v.send(t, 21, 1) // 20 is lost
	if len(v.red.packets) != 2 {
		t.Fatalf("got %d packets, want the lost one and the newest", len(v.red.packets))
	}
	for i, p := range v.red.packets {
		if want := string(rune('a' + 20 + i)); p.PayloadType != 109 || string(p.Payload) != want {
			t.Errorf("packet %d: got %q of type %d, want %q of type 109", i, p.Payload, p.PayloadType, want)
		}
	}
}

func TestCopiesThatCannotBe(t *testing.T) {
	packetOf := func(n int, payload ...byte) *rtp.Packet {
		return &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 63, SequenceNumber: uint16(100 + n), Timestamp: uint32(50_000 + n*960)}, Payload: payload}
	}
	for _, c := range []struct {
		name string
		p    *rtp.Packet
		want string
	}{
		{"of the present", packetOf(2, 0x80|111, 0, 0, 1, 111, 'x', 'c'), "ac"},
		{"of a time that was heard", packetOf(2, 0x80|111, 1920>>6, 1920<<2&0xff, 1, 111, 'x', 'c'), "ac"},
		{"of another codec", packetOf(2, 0x80|9, 960>>6, 960<<2&0xff, 1, 111, 'x', 'c'), "ac"},
		{"empty", packetOf(2, 0x80|111, 960>>6, 960<<2&0xff, 0, 111, 'c'), "ac"},
		{"cut off", packetOf(2, 0x80|111, 960>>6, 960<<2&0xff, 200, 111, 'c'), "a"},
		{"newest of another codec", packetOf(2, 0x80|111, 960>>6, 960<<2&0xff, 1, 9, 'x', 'c'), "a"},
		{"newest empty", packetOf(2, 0x80|111, 960>>6, 960<<2&0xff, 1, 111, 'x'), "a"},
	} {
		v := newVoice(t, true)
		v.feed(t, packetOf(0, 111, 'a'))
		v.feed(t, c.p)
		heard := ""
		for _, p := range v.single.packets {
			heard += string(p.Payload)
		}
		if heard != c.want {
			t.Errorf("%s: got %q, want %q", c.name, heard, c.want)
		}
	}
}

func TestREDIsNotTakenApartWhereItMayNotBe(t *testing.T) {
	v := newVoice(t, false)
	v.send(t, 0, 0)
	v.send(t, 1, 1)
	v.feed(t, &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 111, SequenceNumber: 0, Timestamp: 1920}, Payload: []byte("sealed")})
	for name, got := range map[string]*written{"with copies": v.red, "without": v.single} {
		if len(got.packets) != 1 || string(got.packets[0].Payload) != "sealed" {
			t.Errorf("%s: got %v, want only the packet that is plain Opus", name, got.packets)
		}
	}
	if got := v.red.packets[0].PayloadType; got != 109 {
		t.Errorf("plain Opus: got type %d, want 109", got)
	}
}

func TestWithoutRED(t *testing.T) {
	red := func(fmtp string) webrtc.RTPCodecParameters {
		return webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: MimeTypeRED, SDPFmtpLine: fmtp}, PayloadType: 63}
	}
	for _, c := range []struct {
		name   string
		first  webrtc.RTPCodecParameters
		agreed []webrtc.RTPCodecParameters
		mime   string
		want   redPayloads
	}{
		{"Opus alone", opus, []webrtc.RTPCodecParameters{opus}, webrtc.MimeTypeOpus, redPayloads{}},
		{"RED first", red("111/111"), []webrtc.RTPCodecParameters{red("111/111"), opus}, webrtc.MimeTypeOpus, redPayloads{63, 111}},
		{"Opus first", opus, []webrtc.RTPCodecParameters{opus, red("111/111")}, webrtc.MimeTypeOpus, redPayloads{63, 111}},
		{"RED says nothing of what is in it", red(""), []webrtc.RTPCodecParameters{opus, red("")}, webrtc.MimeTypeOpus, redPayloads{63, 111}},
		{"RED of another codec", opus, []webrtc.RTPCodecParameters{opus, red("9/9")}, webrtc.MimeTypeOpus, redPayloads{}},
	} {
		got, payloads := withoutRED(c.first, c.agreed)
		if got.MimeType != c.mime || payloads != c.want {
			t.Errorf("%s: got %s %+v, want %s %+v", c.name, got.MimeType, payloads, c.mime, c.want)
		}
	}
}

func TestREDPathDoesNotAllocate(t *testing.T) {
	v := newVoice(t, true)
	v.red.keep, v.single.keep = false, false
	raw, err := (&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 63}, Payload: []byte{0x80 | 111, 15, 0, 1, 111, 'x', 'y'}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	now, n := time.Now(), uint16(0)
	step := func() {
		v.layer.rates.counted = 0
		n += 2 // each second one is lost, and restored
		raw[2], raw[3] = byte(n>>8), byte(n)
		at := uint32(n) * 960
		raw[4], raw[5], raw[6], raw[7] = byte(at>>24), byte(at>>16), byte(at>>8), byte(at)
		v.layer.receive(raw, now)
	}
	for range audioCache {
		step()
	}
	if got := testing.AllocsPerRun(1000, step); got != 0 {
		t.Errorf("got %v allocations per packet, want 0", got)
	}
}
