package packet

import (
	"testing"

	"github.com/pion/rtp/codecs"
)

// fuzzFrames feeds the parts of a codec that are read in clear, and checks what must hold of any payload.
func fuzzFrames(f *testing.F, codec Codec, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		m := Describe(codec, &Header{Timestamp: 7, Marker: true}, payload)
		if m.Empty != (len(payload) == 0) || m.Timestamp != 7 || !m.Marker {
			t.Errorf("%x: got %+v", payload, m)
		}
		if m.Key && !m.Start {
			t.Errorf("%x: a key frame that does not start", payload)
		}
		if codec != VP9 || len(payload) == 0 {
			return
		}
		d, ok := ParseVP9(payload)
		if ok && d.Size > len(payload) {
			t.Errorf("%x: got a descriptor of %d bytes", payload, d.Size)
		}
		var want codecs.VP9Packet
		if _, err := want.Unmarshal(payload); err == nil && (!ok || m.Start != want.B || d.End != want.E || d.Inter != want.P ||
			d.Spatial != want.SID || d.Temporal != want.TID || d.SwitchUp != want.U || d.Picture != want.PictureID) {
			t.Errorf("%x: got %+v, want %+v", payload, d, want)
		}
		var frame Frame
		d.Frame(&frame)
	})
}

func FuzzVP9(f *testing.F) {
	fuzzFrames(f, VP9, []byte{0x88, 0x05}, []byte{0xa8, 0x85, 0x01, 0x02}, []byte{0xfa, 0x80, 1, 2, 3, 0x18})
}

func FuzzH264(f *testing.F) {
	fuzzFrames(f, H264, []byte{0x67, 1}, []byte{24, 0, 2, 0x09, 1, 0, 1, 0x67}, []byte{0x7c, 0x85})
}

func FuzzAV1(f *testing.F) {
	fuzzFrames(f, AV1, []byte{0x18, 1}, []byte{0x90, 1}, []byte{0xcd})
}
