package sfu

import (
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// noted is a publisher's RTCP mouth, or a subscriber's, that remembers.
type noted struct{ said chan rtcp.Packet }

func (n *noted) WriteRTCP(packets []rtcp.Packet) error {
	for _, p := range packets {
		select {
		case n.said <- p:
		default:
		}
	}
	return nil
}

// written keeps what was sent to a subscriber.
type written struct {
	packets []rtp.Packet
	count   int
	keep    bool
}

func (w *written) WriteRTP(h *rtp.Header, payload []byte) (int, error) {
	w.count++
	if w.keep {
		w.packets = append(w.packets, rtp.Packet{Header: h.Clone(), Payload: append([]byte(nil), payload...)})
	}
	return len(payload), nil
}

func (w *written) Write([]byte) (int, error) { panic("not used") }

var vp8 = webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{
	MimeType: webrtc.MimeTypeVP8, ClockRate: 90000, RTCPFeedback: videoFeedback}, PayloadType: 96}

// stage is an up track with layers, and one subscriber of it, without a network.
type stage struct {
	up     *UpTrack
	layers [MaxLayers]*Layer
	link   *Downlink
	down   *DownTrack
	out    *written
	mouth  *noted
}

func newStage(t testing.TB, layers int) *stage {
	t.Helper()
	s := &stage{out: &written{keep: true}, mouth: &noted{said: make(chan rtcp.Packet, 64)}}
	sizes := [MaxLayers]Size{}
	for i := range layers {
		sizes[i] = Size{Width: 320 << i, Height: 180 << i}
	}
	s.up = newUpTrack(s.mouth, nil, true, sizes)
	t.Cleanup(s.up.Close)
	s.up.codec.Store(&vp8)
	for i := range layers {
		s.layers[i] = newLayer(s.up, i, uint32(1000+i), vp8.RTPCodecCapability)
		s.up.layers[i].Store(s.layers[i])
	}
	s.link = newDownlink(s.mouth, nil, LinkConfig{MayPause: true})
	s.link.Ready()
	s.down = NewDownTrack(s.up, s.link, "TR_1", "PA_1")
	s.down.binding.Store(&binding{writer: s.out, ssrc: 7, payload: 120, rtxSSRC: 8, rtx: 121})
	s.down.Start()
	return s
}

// frame makes the packets of one VP8 frame.
type stream struct {
	seq     uint16
	ts      uint32
	picture uint16
	tl0     uint8
	key     uint8
}

func (v *stream) frame(key bool, tid uint8, packets int) []*rtp.Packet {
	v.ts += 3000
	v.picture++
	if tid == 0 {
		v.tl0++
	}
	first := byte(1)
	if key {
		v.key++
		first = 0
	}
	var frame []*rtp.Packet
	for i := range packets {
		v.seq++
		start := byte(0)
		if i == 0 {
			start = 0x10
		}
		payload := []byte{0x80 | start, 0xf0, 0x80 | byte(v.picture>>8)&0x7f, byte(v.picture), v.tl0, tid<<6 | 0x20 | v.key&0x1f, first, 0, 0}
		frame = append(frame, &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: v.seq, Timestamp: v.ts, Marker: i == packets-1}, Payload: payload})
	}
	return frame
}

func (s *stage) feed(t testing.TB, layer int, packets ...*rtp.Packet) {
	t.Helper()
	for _, p := range packets {
		b, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		s.layers[layer].receive(b, time.Now())
	}
}

// steady checks that what went out is one unbroken VP8 stream.
func (s *stage) steady(t *testing.T) {
	t.Helper()
	for i := 1; i < len(s.out.packets); i++ {
		a, b := s.out.packets[i-1], s.out.packets[i]
		if b.SequenceNumber != a.SequenceNumber+1 {
			t.Errorf("packet %d: sequence %d after %d", i, b.SequenceNumber, a.SequenceNumber)
		}
		if d := int32(b.Timestamp - a.Timestamp); d < 0 || a.Marker && d == 0 {
			t.Errorf("packet %d: timestamp moved by %d", i, d)
		}
		da, _ := packet.ParseVP8(a.Payload)
		db, _ := packet.ParseVP8(b.Payload)
		want := uint16(0)
		if a.Marker {
			want = 1
		}
		if got := (db.Picture - da.Picture) & 0x7fff; got != want {
			t.Errorf("packet %d: picture moved by %d, want %d", i, got, want)
		}
		base, key := uint8(0), uint8(0) // frames of the base layer and key frames are counted, whatever layer they came in
		if a.Marker && db.Temporal == 0 {
			base = 1
		}
		if a.Marker && db.Start && b.Payload[db.Size]&1 == 0 {
			key = 1
		}
		if got := db.TL0 - da.TL0; got != base {
			t.Errorf("packet %d: TL0PICIDX moved by %d, want %d", i, got, base)
		}
		if got := (db.KeyIndex - da.KeyIndex) & 0x1f; got != key {
			t.Errorf("packet %d: KEYIDX moved by %d, want %d", i, got, key)
		}
		if b.PayloadType != 120 || b.SSRC != 7 || b.Extension {
			t.Errorf("packet %d: got header %+v", i, b.Header)
		}
	}
}

func TestStartsWithAKeyFrame(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 65530}
	s.feed(t, 0, v.frame(false, 0, 2)...)
	if len(s.out.packets) != 0 {
		t.Fatalf("got %d packets before a key frame, want none", len(s.out.packets))
	}
	select {
	case p := <-s.mouth.said:
		if pli, ok := p.(*rtcp.PictureLossIndication); !ok || pli.MediaSSRC != 1000 {
			t.Errorf("asked for %v, want a key frame of 1000", p)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no key frame was asked for")
	}
	s.feed(t, 0, v.frame(true, 0, 3)...)
	for range 5 {
		s.feed(t, 0, v.frame(false, 0, 2)...)
	}
	if got := len(s.out.packets); got != 13 {
		t.Errorf("got %d packets, want 13", got)
	}
	s.steady(t)
}

func TestSwitchesLayersAtKeyFrames(t *testing.T) {
	s := newStage(t, 3)
	var v [3]stream
	for i := range v {
		v[i] = stream{seq: uint16(i * 20000), ts: uint32(i) * 1e9, picture: uint16(i * 999), tl0: uint8(254 - i*50), key: uint8(30 - i*7)}
	}
	s.down.SetWish(Wish{Quality: 0})
	round := func(keys ...bool) {
		for i := range v {
			s.feed(t, i, v[i].frame(keys[i], 0, 2)...)
		}
	}
	round(true, true, true)
	round(false, false, false)
	if s.down.current.Load() != 0 {
		t.Fatalf("got layer %d, want 0", s.down.current.Load())
	}
	for _, l := range s.layers {
		l.lastKey.Store(0) // long ago
	}
	s.down.SetWish(Wish{Width: 1280, Height: 720})
	round(false, false, false)
	if s.down.current.Load() != 0 {
		t.Errorf("switched without a key frame")
	}
	round(false, false, true)
	if s.down.current.Load() != 2 {
		t.Errorf("got layer %d after its key frame, want 2", s.down.current.Load())
	}
	s.down.SetWish(Wish{Disabled: true})
	n := len(s.out.packets)
	round(true, true, true)
	if len(s.out.packets) != n {
		t.Error("a disabled track was forwarded")
	}
	s.down.SetWish(Wish{Width: 600, Height: 350})
	round(true, true, true)
	round(false, false, false)
	if s.down.current.Load() != 1 {
		t.Errorf("got layer %d, want 1", s.down.current.Load())
	}
	s.steady(t)
}

func TestFallsToALayerThatSends(t *testing.T) {
	s := newStage(t, 3)
	now := millis(time.Now())
	for i, last := range []int64{now, now, now - 2000} {
		s.layers[i].lastPacket.Store(last)
	}
	if !s.up.checkLayers(now) {
		t.Error("a silent layer made no change")
	}
	s.down.LayersChanged()
	if got := s.down.target.Load(); got != 1 {
		t.Errorf("got target %d, want 1", got)
	}
	for i := range 3 {
		s.layers[i].lastPacket.Store(now - 5000)
	}
	s.up.checkLayers(now)
	if got := s.up.Alive(); got != [3]bool{true, true, true} {
		t.Errorf("all silent: got %v, want all alive", got)
	}
}

func TestDropsTemporalLayers(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 100}
	s.down.SetWish(Wish{Quality: 2, FPS: 8})
	s.feed(t, 0, v.frame(true, 0, 2)...)
	for range 4 {
		for _, tid := range []uint8{2, 1, 2, 0} {
			s.feed(t, 0, v.frame(false, tid, 2)...)
		}
	}
	if got := len(s.out.packets); got != 10 {
		t.Errorf("got %d packets, want 10 of the base layer", got)
	}
	s.steady(t)
}

func TestRepairs(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 10}
	s.feed(t, 0, v.frame(true, 0, 4)...)
	s.feed(t, 0, v.frame(false, 0, 4)...)
	sent := append([]rtp.Packet(nil), s.out.packets...)
	nack := &rtcp.TransportLayerNack{Nacks: []rtcp.NackPair{{PacketID: sent[1].SequenceNumber, LostPackets: 1<<0 | 1<<3}}}
	buf := make([]byte, receiveMTU+2)
	s.down.feedback(nack, 7, buf)
	s.down.feedback(nack, 7, buf) // within a round trip: not again
	again := s.out.packets[len(sent):]
	if len(again) != 3 {
		t.Fatalf("got %d packets again, want 3", len(again))
	}
	for i, want := range []rtp.Packet{sent[1], sent[2], sent[5]} {
		got := again[i]
		osn := uint16(got.Payload[0])<<8 | uint16(got.Payload[1])
		if got.PayloadType != 121 || got.SSRC != 8 || osn != want.SequenceNumber || string(got.Payload[2:]) != string(want.Payload) || got.Timestamp != want.Timestamp {
			t.Errorf("repair %d: got %v of %d, want %v of %d", i, got.Payload, osn, want.Payload, want.SequenceNumber)
		}
	}
}

func TestAsksForWhatIsMissing(t *testing.T) {
	m := missing{wait: reorderWait, again: nackAgain}
	m.note(10, 0)
	m.note(11, 0)
	m.note(15, 100)
	m.note(13, 101)
	if got := m.pairs(102); got != nil {
		t.Errorf("at once: got %v, want none", got)
	}
	want := []rtcp.NackPair{{PacketID: 12, LostPackets: 1 << 1}}
	if got := m.pairs(110); len(got) != 1 || got[0] != want[0] {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := m.pairs(130); got != nil {
		t.Errorf("too soon again: got %v", got)
	}
	m.note(12, 140)
	if got := m.pairs(180); len(got) != 1 || got[0] != (rtcp.NackPair{PacketID: 14}) {
		t.Errorf("got %v, want 14", got)
	}
	if m.pairs(2000); m.n != 0 {
		t.Errorf("got %d still missing after the time is up, want 0", m.n)
	}
}

func TestAFloodIsCutOff(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 1}
	now := time.Now()
	raw, err := v.frame(true, 0, 1)[0].Marshal()
	if err != nil {
		t.Fatal(err)
	}
	send := func(n int, at time.Time) {
		for range n {
			v.seq++
			raw[2], raw[3] = byte(v.seq>>8), byte(v.seq)
			s.layers[0].receive(raw, at)
		}
	}
	most := maxLayerBytes / len(raw)
	send(most+1000, now)
	if got := s.layers[0].numbers().Packets; got != uint64(most) {
		t.Errorf("got %d packets in a second, want %d", got, most)
	}
	send(10, now.Add(time.Second))
	if got := s.layers[0].numbers().Packets; got != uint64(most+10) {
		t.Errorf("a second later: got %d packets, want %d", got, most+10)
	}
	s.up.Charge(NewOwnBudget(4_000_000))
	raw = raw[:len(raw)-1] // small packets, of which the bytes alone let many more through
	before := s.layers[0].numbers().Packets
	send(5000, now.Add(2*time.Second))
	if got := s.layers[0].numbers().Packets - before; got != 1000 {
		t.Errorf("small packets: got %d, want 1000", got)
	}
}

func TestChoose(t *testing.T) {
	three := [MaxLayers]Size{{320, 180}, {640, 360}, {1280, 720}}
	two := [MaxLayers]Size{{320, 180}, {640, 360}}
	portrait := [MaxLayers]Size{{180, 320}, {360, 640}, {720, 1280}}
	all := [MaxLayers]bool{true, true, true}
	for _, c := range []struct {
		name  string
		wish  Wish
		sizes [MaxLayers]Size
		alive [MaxLayers]bool
		limit int
		want  int
	}{
		{"disabled", Wish{Disabled: true, Quality: 2}, three, all, 2, paused},
		{"best", Best, three, all, 2, 2},
		{"best of two", Best, two, [MaxLayers]bool{true, true}, 2, 1},
		{"unknown sizes", Wish{Quality: 1}, [MaxLayers]Size{}, all, 2, 1},
		{"one layer", Best, [MaxLayers]Size{{1280, 720}}, [MaxLayers]bool{true}, 2, 0},
		{"small view", Wish{Width: 300, Height: 170}, three, all, 2, 0},
		{"view a little larger than the layer", Wish{Width: 326, Height: 184}, three, all, 2, 0},
		{"middle view", Wish{Width: 600, Height: 340}, three, all, 2, 1},
		{"huge view", Wish{Width: 4000, Height: 3000}, three, all, 2, 2},
		{"portrait", Wish{Width: 170, Height: 300}, portrait, all, 2, 0},
		{"a portrait view of a landscape", Wish{Width: 200, Height: 360}, three, all, 2, 1},
		{"a tall one", Wish{Width: 340, Height: 700}, three, all, 2, 2},
		{"a landscape view of a portrait", Wish{Width: 600, Height: 300}, portrait, all, 2, 2},
		{"a small one", Wish{Width: 350, Height: 170}, portrait, all, 2, 1},
		{"a flat view of a landscape", Wish{Width: 1000, Height: 180}, three, all, 2, 0},
		{"no width for a portrait", Wish{Quality: 1, Height: 700}, portrait, all, 2, 1},
		{"top is silent", Best, three, [MaxLayers]bool{true, true, false}, 2, 1},
		{"only the top sends", Wish{Quality: 0}, three, [MaxLayers]bool{false, false, true}, 2, 2},
		{"a narrow line", Best, three, all, 1, 1},
		{"a narrow line and a silent layer", Best, three, [MaxLayers]bool{true, false, true}, 1, 0},
		{"nothing sends", Best, three, [MaxLayers]bool{}, 2, 0},
	} {
		if got := choose(c.wish, c.limit, c.sizes, c.alive); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

// packetPath gives a function that takes one packet in and out again, numbered, and a line that is judged.
func packetPath(b testing.TB) func() {
	s, v := newStage(b, 1), &stream{seq: 1}
	s.out.keep, s.layers[0].in.out = false, &outbox{}
	numbered := *s.down.binding.Load()
	numbered.numbers = s.down.extension(3)
	s.down.binding.Store(&numbered)
	s.link.estimate.bounded = true
	s.feed(b, 0, v.frame(true, 0, 1)...)
	raw, err := v.frame(false, 0, 1)[0].Marshal()
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	step := func() {
		s.layers[0].rates.counted = 0 // a benchmark is faster than any camera
		v.seq++
		raw[2], raw[3] = byte(v.seq>>8), byte(v.seq)
		raw[6], raw[7] = raw[2], raw[3] // each is a picture
		s.layers[0].receive(raw, now)
	}
	for range videoCache {
		step()
	}
	if s.out.count < videoCache {
		b.Fatalf("got %d packets through, want all", s.out.count)
	}
	return step
}

func BenchmarkPacketPath(b *testing.B) {
	step := packetPath(b)
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

func TestPacketPathDoesNotAllocate(t *testing.T) {
	step := packetPath(t)
	if got := testing.AllocsPerRun(200, func() { // which rounds down: one with every other packet would not show in a packet each
		for range 10 {
			step()
		}
	}); got != 0 {
		t.Errorf("got %v allocations for ten packets, want none", got)
	}
}
