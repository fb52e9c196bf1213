package packet

import (
	"bytes"
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
)

func marshal(t testing.TB, p *rtp.Packet) []byte {
	t.Helper()
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseHeader(t *testing.T) {
	p := &rtp.Packet{Header: rtp.Header{Version: 2, Marker: true, PayloadType: 96, SequenceNumber: 65535, Timestamp: 7, SSRC: 9, CSRC: []uint32{1, 2}}, Payload: []byte{1, 2, 3}}
	for id, ext := range map[uint8][]byte{1: {0x85}, 4: []byte("mid0")} {
		if err := p.SetExtension(id, ext); err != nil {
			t.Fatal(err)
		}
	}
	b := marshal(t, p)
	h, ok := ParseHeader(b)
	if !ok || !h.Marker || h.PayloadType != 96 || h.Sequence != 65535 || h.Timestamp != 7 || h.SSRC != 9 {
		t.Fatalf("got %+v, %v", h, ok)
	}
	if got := b[h.Payload:h.End]; !bytes.Equal(got, p.Payload) {
		t.Errorf("payload: got %v, want %v", got, p.Payload)
	}
	if got := h.Extension(b, 4); string(got) != "mid0" {
		t.Errorf("extension 4: got %q", got)
	}
	if level, ok := AudioLevel(h.Extension(b, 1)); !ok || level != 5 {
		t.Errorf("audio level: got %d, %v, want 5", level, ok)
	}
	if got := h.Extension(b, 3); got != nil {
		t.Errorf("extension 3: got %v, want none", got)
	}
	padded := marshal(t, &rtp.Packet{Header: rtp.Header{Version: 2, Padding: true, PaddingSize: 4}, Payload: []byte{9}})
	if h, ok := ParseHeader(padded); !ok || h.End-h.Payload != 1 {
		t.Errorf("padded: got %+v, %v, want one byte of payload", h, ok)
	}
	for name, bad := range map[string][]byte{
		"short":            b[:11],
		"version":          append([]byte{0x40}, b[1:]...),
		"csrc beyond":      append([]byte{0x8f}, make([]byte, 11)...),
		"extension beyond": {0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0xff, 0xff},
		"padding beyond":   {0xa0, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 200},
	} {
		if _, ok := ParseHeader(bad); ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestUnwrap(t *testing.T) {
	var u Unwrapper
	for _, c := range []struct {
		in   uint16
		want int64
	}{{65534, 131070}, {65535, 131071}, {0, 131072}, {65533, 131069}, {2, 131074}, {1, 131073}, {32000, 163072}} {
		if got := u.Unwrap(c.in); got != c.want {
			t.Errorf("%d: got %d, want %d", c.in, got, c.want)
		}
	}
}

func TestKeyFrames(t *testing.T) {
	for _, c := range []struct {
		name       string
		codec      Codec
		payload    []byte
		start, key bool
	}{
		{"vp8 key", VP8, []byte{0x90, 0x80, 0x81, 0x02, 0x30}, true, true},
		{"vp8 delta", VP8, []byte{0x90, 0x80, 0x81, 0x02, 0x31}, true, false},
		{"vp8 inside", VP8, []byte{0x80, 0x80, 0x81, 0x02, 0x30}, false, false},
		{"vp8 second partition", VP8, []byte{0x11, 0x30}, false, false},
		{"vp8 descriptor only", VP8, []byte{0x90, 0x80, 0x01}, true, false},
		{"vp9 key", VP9, []byte{0x88, 0x05}, true, true},
		{"vp9 inter", VP9, []byte{0xc8, 0x05}, true, false},
		{"vp9 upper spatial layer of a key picture", VP9, []byte{0xa8, 0x85, 0x01, 0x02, 0x07}, true, false},
		{"vp9 base spatial layer", VP9, []byte{0xa8, 0x85, 0x01, 0x00, 0x07}, true, true},
		{"h264 sps", H264, []byte{0x67, 1}, true, true},
		{"h264 slice", H264, []byte{0x41, 1}, false, false},
		{"h264 stap-a with sps", H264, []byte{24, 0, 2, 0x09, 1, 0, 1, 0x67}, true, true},
		{"h264 fu-a first of idr", H264, []byte{0x7c, 0x85}, true, true},
		{"h264 fu-a middle of idr", H264, []byte{0x7c, 0x05}, false, false},
		{"av1 new sequence", AV1, []byte{0x18, 1}, true, true},
		{"av1 continuation", AV1, []byte{0x90, 1}, false, false},
		{"opus", Audio, []byte{0xfc}, true, false},
	} {
		m := Describe(c.codec, &Header{}, c.payload)
		if m.Start != c.start || m.Key != c.key {
			t.Errorf("%s: got start %v key %v, want %v %v", c.name, m.Start, m.Key, c.start, c.key)
		}
	}
	if m := Describe(VP8, &Header{}, nil); !m.Empty {
		t.Error("padding only: not seen as empty")
	}
}

func TestVP8Rewrite(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want []byte
	}{
		{"long picture", []byte{0x90, 0xf0, 0xff, 0xff, 0xff, 0x7f, 1}, []byte{0x90, 0xf0, 0x80, 0x00, 0x02, 0x62, 1}},
		{"short picture", []byte{0x90, 0x80, 0x7f, 1}, []byte{0x90, 0x80, 0x00, 1}},
		{"bare", []byte{0x10, 1}, []byte{0x10, 1}},
	} {
		got := bytes.Clone(c.in)
		d, ok := ParseVP8(got)
		if !ok {
			t.Errorf("%s: not parsed", c.name)
		}
		d.Apply(Shift{Picture: 1, TL0: 3, KeyIndex: 3}, got)
		if !bytes.Equal(got, c.want) {
			t.Errorf("%s: got %x, want %x", c.name, got, c.want)
		}
	}
	d, _ := ParseVP8([]byte{0x90, 0xf0, 0x80, 0x10, 0x20, 0x05})
	if picture, tl0, key := d.Shown(d.Follow(99, 200, 31)); picture != 100 || tl0 != 201 || key&0x1f != 0 {
		t.Errorf("follow: got %d %d %d, want 100 201 0", picture, tl0, key&0x1f)
	}
}

func TestCache(t *testing.T) {
	c := NewCache(4)
	buf := make([]byte, 1500)
	var m Meta
	for seq := int64(65534); seq < 65540; seq++ {
		if !c.Put(seq, Meta{Timestamp: uint32(seq), Extra: 2}, []byte{byte(seq)}, []byte{7, 8}) {
			t.Errorf("put %d: refused", seq)
		}
	}
	for seq := int64(65530); seq < 65542; seq++ {
		n, ok := c.Get(seq, &m, buf)
		if want := seq >= 65536 && seq < 65540; ok != want || ok && (n != 1 || buf[0] != byte(seq) || buf[1] != 7 || buf[2] != 8 || m.Timestamp != uint32(seq)) {
			t.Errorf("get %d: got %v (%d bytes, %x), want %v", seq, ok, n, buf[0], want)
		}
	}
	if c.Put(65535, Meta{}, nil, nil) || c.Put(65539, Meta{}, nil, nil) {
		t.Error("an older packet and a repeated one: got kept, want refused")
	}
	if _, ok := c.Get(65539, &m, nil); ok {
		t.Error("a buffer too small: got true")
	}
}

func BenchmarkForward(b *testing.B) {
	p := &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96}, Payload: make([]byte, 1100)}
	copy(p.Payload, []byte{0x90, 0xf0, 0x80, 0x10, 0x20, 0x05})
	raw := marshal(b, p)
	cache, buf := NewCache(512), make([]byte, 1500)
	var m Map
	m.Begin(Span{In: 0})
	var meta Meta
	for i := range int64(1024) { // the slots get their bytes
		cache.Put(i, meta, raw, nil)
	}
	b.ReportAllocs()
	seq := int64(1024)
	for b.Loop() {
		seq++
		h, _ := ParseHeader(raw)
		payload := raw[h.Payload:h.End]
		cache.Put(seq, Describe(VP8, &h, payload), payload, nil)
		n, _ := cache.Get(seq, &meta, buf)
		if _, span, ok := m.Forward(seq); ok {
			meta.VP8.Apply(span.VP8, buf[:n])
		}
	}
}

func TestForwardDoesNotAllocate(t *testing.T) {
	if got := testing.Benchmark(BenchmarkForward).AllocsPerOp(); got != 0 {
		t.Errorf("got %d allocations per packet, want 0", got)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte{0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0, 1, 0x10, 5, 0, 0, 1, 2, 3})
	f.Add([]byte{0xa0, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := ParseHeader(b)
		if !ok {
			return
		}
		payload := b[h.Payload:h.End]
		var want rtp.Packet
		if err := want.Unmarshal(bytes.Clone(b)); err == nil && !bytes.Equal(want.Payload, payload) {
			t.Errorf("payload: got %x, want %x", payload, want.Payload)
		}
		for id := range uint8(16) {
			said, renamed := h.Extension(b, id), bytes.Clone(b)
			if h.RenameExtension(renamed, id, 14) && id != 14 && h.Extension(b, 14) == nil && !bytes.Equal(h.Extension(renamed, 14), said) {
				t.Errorf("extension %d by another name: got %x, want %x", id, h.Extension(renamed, 14), said)
			}
		}
		for _, c := range []Codec{Audio, VP8, VP9, H264, AV1, OtherVideo} {
			Describe(c, &h, payload)
		}
	})
}

func FuzzVP8(f *testing.F) {
	f.Add([]byte{0x90, 0xf0, 0xff, 0xff, 0xff, 0x7f, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, ok := ParseVP8(b)
		if !ok {
			return
		}
		var want codecs.VP8Packet
		if _, err := want.Unmarshal(b); err == nil && (want.PictureID != d.Picture || want.TL0PICIDX != d.TL0 || want.TID != d.Temporal) {
			t.Errorf("got %+v, want %+v", d, want)
		}
		out := bytes.Clone(b)
		d.Apply(Shift{1, 2, 3}, out)
		again, ok := ParseVP8(out)
		if !ok || again.Size != d.Size || again.Temporal != d.Temporal {
			t.Errorf("rewriting changed the form: %x to %x", b, out)
		}
	})
}
