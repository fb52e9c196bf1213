package calls

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

const (
	offeredKeys = "a=ice-ufrag:EsAw\r\na=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y\r\na=setup:actpass\r\na=rtcp-mux\r\nc=IN IP4 0.0.0.0\r\n"
	offeredHead = "v=0\r\no=mozilla...THIS_IS_SDPARTA-99.0 4611731400430051336 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=sendrecv\r\n" +
		"a=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\r\n" +
		"a=group:BUNDLE 0 1\r\na=ice-options:trickle\r\na=msid-semantic:WMS *\r\n"
)

// audioOffer and videoOffer are sections that send "voice" and "camera".
func audioOffer(formats string, lines ...string) string {
	return "m=audio 9 UDP/TLS/RTP/SAVPF " + formats + "\r\n" + offeredKeys + "a=sendonly\r\na=mid:0\r\na=msid:stream voice\r\n" +
		strings.Join(lines, "\r\n") + "\r\na=ssrc:1001 cname:x\r\n"
}

func videoOffer(formats string, lines ...string) string {
	return "m=video 9 UDP/TLS/RTP/SAVPF " + formats + "\r\n" + offeredKeys + "a=sendonly\r\na=mid:1\r\na=msid:stream camera\r\n" +
		strings.Join(lines, "\r\n") + "\r\na=ssrc:1002 cname:x\r\n"
}

// TestOffersOfOtherBrowsers: what a browser does not know is not answered, and what it offers is taken under its own numbers.
func TestOffersOfOtherBrowsers(t *testing.T) {
	firefoxAudio := audioOffer("109 9 0 8 101", "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
		"a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level", "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid",
		"a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1", "a=fmtp:101 0-15", "a=rtpmap:109 opus/48000/2", "a=rtpmap:9 G722/8000/1",
		"a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000", "a=rtpmap:101 telephone-event/8000")
	firefoxVideo := videoOffer("120 124 121 125 126 127 97 98 123 122 119", "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid",
		"a=extmap:4 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", "a=extmap:5 urn:ietf:params:rtp-hdrext:toffset",
		"a=extmap:6/recvonly http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
		"a=extmap:7 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
		"a=fmtp:126 profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1", "a=fmtp:97 profile-level-id=42e01f;level-asymmetry-allowed=1",
		"a=fmtp:120 max-fs=12288;max-fr=60", "a=fmtp:124 apt=120", "a=fmtp:121 max-fs=12288;max-fr=60", "a=fmtp:125 apt=121", "a=fmtp:127 apt=126",
		"a=fmtp:98 apt=97", "a=fmtp:119 apt=122", "a=rtcp-fb:120 nack", "a=rtcp-fb:120 nack pli", "a=rtcp-fb:120 ccm fir", "a=rtcp-fb:120 goog-remb",
		"a=rtcp-fb:120 transport-cc", "a=rtcp-fb:121 nack", "a=rtcp-fb:121 nack pli", "a=rtcp-fb:126 nack", "a=rtcp-fb:126 nack pli",
		"a=rtpmap:120 VP8/90000", "a=rtpmap:124 rtx/90000", "a=rtpmap:121 VP9/90000", "a=rtpmap:125 rtx/90000", "a=rtpmap:126 H264/90000",
		"a=rtpmap:127 rtx/90000", "a=rtpmap:97 H264/90000", "a=rtpmap:98 rtx/90000", "a=rtpmap:123 ulpfec/90000", "a=rtpmap:122 red/90000", "a=rtpmap:119 rtx/90000")
	safariAudio := audioOffer("111 63 9 0 8 13 110 126", "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level", "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
		"a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 transport-cc", "a=fmtp:111 minptime=10;useinbandfec=1", "a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111",
		"a=rtpmap:9 G722/8000", "a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000", "a=rtpmap:13 CN/8000", "a=rtpmap:110 telephone-event/48000", "a=rtpmap:126 telephone-event/8000")
	safariVideo := videoOffer("96 97 98 99 100 101", "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid", "a=rtpmap:96 H264/90000", "a=rtcp-fb:96 nack", "a=rtcp-fb:96 nack pli",
		"a=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96", "a=rtpmap:98 H264/90000",
		"a=fmtp:98 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f", "a=rtpmap:99 rtx/90000", "a=fmtp:99 apt=98", "a=rtpmap:100 VP8/90000",
		"a=rtcp-fb:100 nack", "a=rtcp-fb:100 nack pli", "a=rtcp-fb:100 ccm fir", "a=rtpmap:101 rtx/90000", "a=fmtp:101 apt=100")
	for _, c := range []struct {
		name, offer  string
		codec        string // that the camera is announced with
		audio, video string // the first payload types of the answer
		red          bool   // wished, unless the browser has it not
	}{
		{"Firefox", offeredHead + firefoxAudio + firefoxVideo, "vp8", "109", "120", true},
		{"Firefox with H264", offeredHead + firefoxAudio + firefoxVideo, "h264", "109", "126", true},
		{"Firefox with VP9", offeredHead + firefoxAudio + firefoxVideo, "vp9", "109", "121", false},
		{"Safari", offeredHead + safariAudio + safariVideo, "h264", "63 111", "98", true},
		{"Safari without copies", offeredHead + safariAudio + safariVideo, "vp8", "111", "100", false},
		{"REMB in place of transport-wide feedback", offeredHead + audioOffer("96", "a=rtpmap:96 opus/48000/2") +
			videoOffer("97", "a=rtpmap:97 VP8/90000", "a=rtcp-fb:97 goog-remb", "a=rtcp-fb:97 nack"), "vp8", "96", "97", true},
		{"nothing but the codecs", offeredHead + audioOffer("96", "a=rtpmap:96 opus/48000/2") + videoOffer("97", "a=rtpmap:97 VP8/90000"), "vp8", "96", "97", true},
		{"unusual parameters of Opus", offeredHead + audioOffer("96 97", "a=rtpmap:96 opus/48000/2", "a=fmtp:96 minptime=3;useinbandfec=0;cbr=1", "a=rtpmap:97 red/48000/2", "a=fmtp:97 96/96") +
			videoOffer("98", "a=rtpmap:98 VP8/90000"), "vp8", "97 96", "98", true},
		{"copies of nothing", offeredHead + audioOffer("96 97", "a=rtpmap:96 opus/48000/2", "a=rtpmap:97 red/48000/2") + videoOffer("98", "a=rtpmap:98 VP8/90000"), "vp8", "97 96", "98", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, base := newTestFocus(t)
			ann := join(t, base, "room", "ann")
			ann.announces(&signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO, DisableRed: !c.red})
			ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: c.codec, Cid: "camera"}}})
			ann.say(offerOf(c.offer))
			var answer sdp.SessionDescription
			select {
			case got := <-ann.answer:
				if err := answer.UnmarshalString(got); err != nil {
					t.Fatal(err)
				}
			case <-time.After(patience):
				t.Fatal("no answer")
			}
			if len(answer.MediaDescriptions) != 2 {
				t.Fatalf("got %d sections, want 2", len(answer.MediaDescriptions))
			}
			for i, first := range []string{c.audio, c.video} {
				checkAnswered(t, answer.MediaDescriptions[i], c.offer, first)
			}
			remb := strings.Contains(c.offer, " goog-remb") && !strings.Contains(c.offer, " transport-cc")
			if got := strings.Contains(fmt.Sprint(answer.MediaDescriptions[1].Attributes), " goog-remb"); got != remb {
				t.Errorf("got an answer that agrees to REMB: %v, want %v", got, remb)
			}
		})
	}
}

// checkAnswered looks at a section of an answer: it is taken, begins with these payload types, and names nothing that was not
// offered.
func checkAnswered(t *testing.T, m *sdp.MediaDescription, offer, first string) {
	t.Helper()
	formats := strings.Join(m.MediaName.Formats, " ")
	if m.MediaName.Port.Value == 0 || formats != first && !strings.HasPrefix(formats, first+" ") {
		t.Errorf("%s: got port %d and payload types %s, want it taken with %s first", m.MediaName.Media, m.MediaName.Port.Value, formats, first)
	}
	if _, ok := m.Attribute("recvonly"); !ok {
		t.Errorf("%s: not received", m.MediaName.Media)
	}
	for _, a := range m.Attributes {
		payload, value, _ := strings.Cut(a.Value, " ")
		switch a.Key {
		case "rtpmap", "fmtp":
			if !slices.Contains(m.MediaName.Formats, payload) {
				t.Errorf("%s: got %s of a payload type that is not named", m.MediaName.Media, a.Value)
			}
			if a.Key == "rtpmap" && !strings.Contains(strings.ToLower(offer), "a=rtpmap:"+strings.ToLower(a.Value)) {
				t.Errorf("%s: got %s, which was not offered", m.MediaName.Media, a.Value)
			}
		case "rtcp-fb": // that of Opus is asked for unoffered: see calls/audio.go
			if m.MediaName.Media == "video" && !strings.Contains(offer, "a=rtcp-fb:"+payload+" "+value+"\r\n") {
				t.Errorf("got feedback %s, which was not offered", a.Value)
			}
		case "extmap":
			if !strings.Contains(offer, "a=extmap:"+a.Value+"\r\n") {
				t.Errorf("%s: got extension %s, which was not offered", m.MediaName.Media, a.Value)
			}
		}
	}
	if m.MediaName.Media == webrtc.RTPCodecTypeAudio.String() && !slices.ContainsFunc(m.Attributes, func(a sdp.Attribute) bool { return strings.Contains(a.Value, "opus/48000/2") }) {
		t.Error("Opus was not answered")
	}
}

// TestAnOfferWithoutAnswer: a client that goes on speaking and does not answer is sent away to join anew.
func TestAnOfferWithoutAnswer(t *testing.T) {
	_, base := newTestFocus(t, func(c *Config) { c.Grace = time.Second })
	bob := join(t, base, "room", "bob")
	bob.wait("its connection", func(res *signal.Response) bool { return mentions(res, "bob", signal.Participant_ACTIVE) })
	bob.mute.Store(true)
	ann := join(t, base, "room", "ann")
	ann.publish("ann")
	ask := time.NewTicker(100 * time.Millisecond)
	defer ask.Stop()
	for deadline := time.After(patience); ; {
		select {
		case res, ok := <-bob.said:
			if !ok {
				t.Fatal("the socket ended without a word")
			}
			if leave := res.GetLeave(); leave != nil {
				if leave.Action != signal.Leave_RECONNECT {
					t.Errorf("got %v, want to be asked to join anew", leave)
				}
				return
			}
		case <-ask.C:
			bob.say(&signal.Request{Message: &signal.Request_Ping{Ping: 1}})
		case <-deadline:
			t.Fatal("a client that answers no offer is kept")
		}
	}
}
