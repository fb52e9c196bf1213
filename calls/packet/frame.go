package packet

import "strings"

// Codec names the payload formats that we look into.
type Codec uint8

// The codecs; OtherVideo is forwarded without being understood.
const (
	Audio Codec = iota
	VP8
	VP9
	H264
	AV1
	OtherVideo
)

// CodecOf names the codec of a MIME type such as "video/VP8".
func CodecOf(mime string) Codec {
	switch strings.ToLower(mime) {
	case "video/vp8":
		return VP8
	case "video/vp9":
		return VP9
	case "video/h264":
		return H264
	case "video/av1":
		return AV1
	}
	if strings.HasPrefix(strings.ToLower(mime), "audio/") {
		return Audio
	}
	return OtherVideo
}

// KeyFrames says whether a forwarder must wait for a key frame of this codec, and can recognise one.
func (c Codec) KeyFrames() bool { return c == VP8 || c == VP9 || c == H264 || c == AV1 }

// Meta is what is known of one packet without its bytes.
type Meta struct {
	Timestamp uint32
	Marker    bool
	Start     bool // first packet of a frame, as far as the codec shows it
	Key       bool // first packet of a key frame
	Empty     bool // padding only, not worth forwarding
	VP8       VP8Descriptor

	Newest   uint16 // of a RED payload: where its newest block begins, 0 if it is none
	Restored bool   // taken from a copy in a later packet: who gets the copies needs it not

	// Of a stream with several layers in it: which one, whether its frame ends here, and what is kept beside the payload.
	Spatial uint8
	End     bool
	Extra   uint8 // bytes of dependency descriptor
	Mask    MaskPlace
}

// Note takes over what a dependency descriptor of so many bytes tells of the packet's frame.
func (m *Meta) Note(f *Frame, extra int) {
	m.Start, m.Key, m.End, m.Spatial, m.Mask, m.Extra = f.Start, f.Key, f.End, f.Spatial, f.Mask, uint8(extra)
}

// Describe reads what the codec shows of a payload in clear.
func Describe(codec Codec, h *Header, payload []byte) Meta {
	m := Meta{Timestamp: h.Timestamp, Marker: h.Marker, Empty: len(payload) == 0}
	if m.Empty {
		return m
	}
	switch codec {
	case Audio, OtherVideo:
		m.Start = true
	case VP8:
		d, ok := ParseVP8(payload)
		if !ok {
			return m
		}
		m.VP8 = d
		m.Start = d.Start
		m.Key = d.Start && int(d.Size) < len(payload) && payload[d.Size]&1 == 0
	case VP9:
		d, ok := ParseVP9(payload)
		m.Start = ok && d.Start
		m.Key = m.Start && !d.Inter && d.Spatial == 0
	case H264:
		m.Key = h264Key(payload)
		m.Start = m.Key
	case AV1:
		m.Start = payload[0]&0x80 == 0          // Z: continues an OBU of the packet before
		m.Key = m.Start && payload[0]&0x08 != 0 // N: first packet of a coded video sequence
	}
	return m
}

// h264Key finds an SPS or IDR slice in a single NAL unit, a STAP-A, or the first FU-A fragment.
func h264Key(p []byte) bool {
	const idr, sps, stapA, fuA = 5, 7, 24, 28
	switch t := p[0] & 0x1f; t {
	case idr, sps:
		return true
	case stapA:
		for at := 1; at+2 < len(p); {
			size := int(p[at])<<8 | int(p[at+1])
			if t := p[at+2] & 0x1f; t == idr || t == sps {
				return true
			}
			at += 2 + size
		}
	case fuA:
		if len(p) < 2 || p[1]&0x80 == 0 {
			return false
		}
		t := p[1] & 0x1f
		return t == idr || t == sps
	}
	return false
}
