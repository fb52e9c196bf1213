package sfu

import (
	"fmt"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// MimeTypeRED is Opus with copies of earlier packets (RFC 2198).
const MimeTypeRED = "audio/red"

const audioLevelURI = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"

// videoFeedback is what we understand. Of transport-wide feedback and REMB a connection has one: see onlyOurs and WithoutREMB.
var videoFeedback = []webrtc.RTCPFeedback{
	{Type: "goog-remb"}, {Type: "transport-cc"}, {Type: "ccm", Parameter: "fir"}, {Type: "nack"}, {Type: "nack", Parameter: "pli"},
}

// The payload types of audio where the focus offers, as browsers number them.
const (
	OpusPayload = 111
	REDPayload  = 63
)

// videoCodecs are what we forward, with the payload types that browsers use.
var videoCodecs = []struct {
	mime, fmtp   string
	payload, rtx webrtc.PayloadType
}{
	{webrtc.MimeTypeVP8, "", 96, 97},
	{webrtc.MimeTypeVP9, "profile-id=0", 98, 99},
	{webrtc.MimeTypeH264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f", 102, 103},
	{webrtc.MimeTypeH264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f", 106, 107},
	{webrtc.MimeTypeH264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f", 112, 113},
	{webrtc.MimeTypeH264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f", 114, 115},
	{webrtc.MimeTypeAV1, "", 45, 46},
}

// MimeTypes lists the codecs that may be published.
func MimeTypes() []string {
	return []string{webrtc.MimeTypeOpus, MimeTypeRED, webrtc.MimeTypeVP8, webrtc.MimeTypeVP9, webrtc.MimeTypeH264, webrtc.MimeTypeAV1}
}

func mediaEngine() (*webrtc.MediaEngine, error) {
	m := &webrtc.MediaEngine{}
	// Neither names parameters of its own: so each form of a client's is an exact match, and none of the two is left out for
	// the other's sake. What they shall be is written into the descriptions, section by section: see calls/audio.go.
	opus := webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2,
		RTCPFeedback: []webrtc.RTCPFeedback{{Type: "transport-cc"}, {Type: "nack"}},
	}
	red := webrtc.RTPCodecCapability{MimeType: MimeTypeRED, ClockRate: 48000, Channels: 2}
	for payload, capability := range map[webrtc.PayloadType]webrtc.RTPCodecCapability{OpusPayload: opus, REDPayload: red} {
		if err := m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: capability, PayloadType: payload}, webrtc.RTPCodecTypeAudio); err != nil {
			return nil, err
		}
	}
	for _, c := range videoCodecs {
		media := webrtc.RTPCodecCapability{MimeType: c.mime, ClockRate: 90000, SDPFmtpLine: c.fmtp, RTCPFeedback: videoFeedback}
		repair := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeRTX, ClockRate: 90000, SDPFmtpLine: fmt.Sprintf("apt=%d", c.payload)}
		for payload, capability := range map[webrtc.PayloadType]webrtc.RTPCodecCapability{c.payload: media, c.rtx: repair} {
			if err := m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: capability, PayloadType: payload}, webrtc.RTPCodecTypeVideo); err != nil {
				return nil, err
			}
		}
	}
	return m, registerExtensions(m)
}

// registerExtensions names what we read. Header extensions never travel through: their ids belong to one peer connection.
func registerExtensions(m *webrtc.MediaEngine) error {
	for _, ext := range []struct {
		uri   string
		kinds []webrtc.RTPCodecType
		out   bool // we send it too
	}{
		{sdp.SDESMidURI, []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo}, false},
		{sdp.SDESRTPStreamIDURI, []webrtc.RTPCodecType{webrtc.RTPCodecTypeVideo}, false},
		{sdp.SDESRepairRTPStreamIDURI, []webrtc.RTPCodecType{webrtc.RTPCodecTypeVideo}, false},
		{sdp.TransportCCURI, []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo}, true},
		{audioLevelURI, []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio}, false},
		{packet.DependencyURI, []webrtc.RTPCodecType{webrtc.RTPCodecTypeVideo}, true},
	} {
		for _, kind := range ext.kinds {
			directions := []webrtc.RTPTransceiverDirection{webrtc.RTPTransceiverDirectionRecvonly}
			if ext.out {
				directions = append(directions, webrtc.RTPTransceiverDirectionSendonly)
			}
			err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: ext.uri}, kind, directions...)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// match picks from what a subscriber agreed to the codec that is being sent, and the payload type of its repair stream.
func match(codec webrtc.RTPCodecCapability, agreed []webrtc.RTPCodecParameters) (chosen webrtc.RTPCodecParameters, rtx webrtc.PayloadType, ok bool) {
	for _, c := range agreed {
		if !strings.EqualFold(c.MimeType, codec.MimeType) || !sameForm(codec, c.SDPFmtpLine) {
			continue
		}
		exact := c.SDPFmtpLine == codec.SDPFmtpLine
		if !ok || exact {
			chosen, ok = c, true
		}
		if exact {
			break
		}
	}
	apt := fmt.Sprintf("apt=%d", chosen.PayloadType)
	for _, c := range agreed {
		if ok && strings.EqualFold(c.MimeType, webrtc.MimeTypeRTX) && c.SDPFmtpLine == apt {
			rtx = c.PayloadType
		}
	}
	return chosen, rtx, ok
}

// sameForm says whether a decoder for fmtp reads what codec's encoder writes: the profile must be the same, for H264 the
// packetization too (RFC 6184, section 8.2.2). Levels may differ.
func sameForm(codec webrtc.RTPCodecCapability, fmtp string) bool {
	switch packet.CodecOf(codec.MimeType) {
	case packet.H264:
		profile := func(line string) string {
			id := strings.ToLower(parameter(line, "profile-level-id", "42e01f"))
			return id[:min(2, len(id))]
		}
		return parameter(codec.SDPFmtpLine, "packetization-mode", "0") == parameter(fmtp, "packetization-mode", "0") &&
			profile(codec.SDPFmtpLine) == profile(fmtp)
	case packet.VP9:
		return parameter(codec.SDPFmtpLine, "profile-id", "0") == parameter(fmtp, "profile-id", "0")
	case packet.AV1:
		return parameter(codec.SDPFmtpLine, "profile", "0") == parameter(fmtp, "profile", "0")
	}
	return true
}

// parameter is the value of one parameter of a format line.
func parameter(fmtp, name, absent string) string {
	for part := range strings.SplitSeq(fmtp, ";") {
		if key, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && strings.EqualFold(key, name) {
			return value
		}
	}
	return absent
}
