package sfu

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
)

func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n" }

func TestOnlyOurs(t *testing.T) {
	head := lines("v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0")
	for _, c := range []struct {
		name     string
		in, want string // after the head
	}{
		{"sound", lines("m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 126", "a=mid:0", "a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 transport-cc",
			"a=fmtp:111 minptime=10;useinbandfec=1", "a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111", "a=rtpmap:9 G722/8000",
			"a=rtpmap:0 PCMU/8000", "a=rtpmap:126 telephone-event/8000", "a=ssrc:1 cname:x"),
			lines("m=audio 9 UDP/TLS/RTP/SAVPF 111 63", "a=mid:0", "a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 transport-cc",
				"a=fmtp:111 minptime=10;useinbandfec=1", "a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111", "a=ssrc:1 cname:x")},
		{"profiles, packetization, and what repairs them", lines("m=video 9 UDP/TLS/RTP/SAVPF 96 97 100 101 102 103 104 107 45 47 120", "a=rtpmap:96 vp8/90000",
			"a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96", "a=rtpmap:100 VP9/90000", "a=fmtp:100 profile-id=2", "a=rtcp-fb:100 nack",
			"a=rtpmap:101 rtx/90000", "a=fmtp:101 apt=100", "a=rtpmap:102 H264/90000",
			"a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d0029", "a=rtpmap:103 rtx/90000", "a=fmtp:103 apt=102",
			"a=rtpmap:104 H264/90000", "a=fmtp:104 packetization-mode=0;profile-level-id=42e01f", "a=rtpmap:107 rtx/90000", "a=fmtp:107 apt=104",
			"a=rtpmap:45 AV1/90000", "a=rtpmap:47 AV1/90000", "a=fmtp:47 profile=1", "a=rtpmap:120 ulpfec/90000", "a=rtcp-fb:* ccm fir"),
			lines("m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 45", "a=rtpmap:96 vp8/90000", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96",
				"a=rtpmap:102 H264/90000", "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d0029",
				"a=rtpmap:103 rtx/90000", "a=fmtp:103 apt=102", "a=rtpmap:45 AV1/90000", "a=rtcp-fb:* ccm fir")},
		{"REMB beside transport-wide feedback", lines("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000", "a=rtcp-fb:96 goog-remb", "a=rtcp-fb:96 transport-cc"),
			lines("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000", "a=rtcp-fb:96 transport-cc")},
		{"REMB alone", lines("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000", "a=rtcp-fb:96 goog-remb"),
			lines("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000", "a=rtcp-fb:96 goog-remb")},
		{"nothing of ours", lines("m=audio 9 UDP/TLS/RTP/SAVPF 0 8", "a=rtpmap:0 PCMU/8000"), lines("m=audio 9 UDP/TLS/RTP/SAVPF 0 8", "a=rtpmap:0 PCMU/8000")},
		{"data", lines("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000"), lines("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000")},
		{"no sections", "", ""},
		{"no last line's end", "m=audio 9 X 111 9\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:9 G722/8000", "m=audio 9 X 111\r\na=rtpmap:111 opus/48000/2\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := onlyOurs(head + c.in)
			if want := head + c.want; err != nil || got != want {
				t.Errorf("got %q, %v\nwant %q", got, err, want)
			}
		})
	}
}

// A description whose lines and formats multiply is refused before Pion sees it.
func TestADescriptionThatCostsTooMuch(t *testing.T) {
	var section strings.Builder
	section.WriteString("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF")
	for n := range 128 {
		section.WriteString(" " + strconv.Itoa(n))
	}
	for n := range 128 {
		section.WriteString("\r\na=rtpmap:" + strconv.Itoa(n) + " VP8/90000")
	}
	section.WriteString("\r\na=mid:0" + strings.Repeat("\r\na=x", 40_000) + "\r\n")
	peer, err := newEngine(t).NewPeer()
	must(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	begun := time.Now()
	err = peer.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: section.String()})
	if took := time.Since(begun); !errors.Is(err, errLooks) || took > time.Second {
		t.Errorf("got %v after %v, want %v at once", err, took, errLooks)
	}
}

// TestOurOffersNameOneFeedback: transport-wide feedback, and not REMB too.
func TestOurOffersNameOneFeedback(t *testing.T) {
	peer, err := newEngine(t).NewPeer()
	must(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	_, err = peer.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo)
	must(t, err)
	offer, err := peer.CreateOffer(nil)
	must(t, err)
	told := WithoutREMB(offer.SDP)
	for _, c := range []struct {
		sdp  string
		want int
	}{{offer.SDP, len(videoCodecs)}, {told, 0}} {
		if got := strings.Count(c.sdp, " goog-remb\r\n"); got != c.want {
			t.Errorf("got REMB of %d formats, want %d", got, c.want)
		}
	}
	tells, gone := strings.Count(told, " transport-cc\r\n"), strings.Count(offer.SDP, "\n")-strings.Count(told, "\n")
	if tells != len(videoCodecs) || gone != len(videoCodecs) {
		t.Errorf("got transport-wide feedback of %d formats and %d lines less, want %d of both", tells, gone, len(videoCodecs))
	}
}

// FuzzOnlyOurs: what is left out is left out at once, and nothing is added but a line's end.
func FuzzOnlyOurs(f *testing.F) {
	f.Add("v=0\r\nm=video 9 X 96 97 120\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtpmap:120 ulpfec/90000\r\n")
	f.Add("m=audio 9 X 111\na=rtpmap:111 opus\nm=audio\nm=video 9 X 1 1 1 1")
	f.Fuzz(func(t *testing.T, description string) {
		once, err := onlyOurs(description)
		if err != nil {
			return
		}
		if most := len(description) + 2*(1+strings.Count(description, "\nm=")); len(once) > most {
			t.Errorf("got %d bytes of %d, want at most %d", len(once), len(description), most)
		}
		if again, err := onlyOurs(once); err != nil || again != once {
			t.Errorf("the second time: got %q, %v, want %q", again, err, once)
		}
	})
}
