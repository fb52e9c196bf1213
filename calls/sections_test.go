package calls

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/pion/webrtc/v4"
)

// chromeOffer is what livekit-client in Chromium offers, shortened to what is read of it.
const chromeOffer = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2 3\r\n" +
	"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=recvonly\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:1\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=sendonly\r\na=msid:stream camera-cid\r\na=rid:q send\r\na=rid:h send\r\na=simulcast:send q;h\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:3\r\na=inactive\r\n"

func TestParseSections(t *testing.T) {
	got, err := parseSections(chromeOffer, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Errorf("got %d media sections, want 3", len(got))
	}
	if s := got["0"]; s.kind != webrtc.RTPCodecTypeAudio || s.sends || !s.takes {
		t.Errorf("section 0: got %+v, want audio that takes", s)
	}
	if s := got["2"]; s.cid != "camera-cid" || !s.sends || s.takes || got.rid("2", "h") != 1 {
		t.Errorf("section 2: got %+v, want the camera with q and h", s)
	}
	if got.sends("3", "camera-cid") || got.sends("2", "another") || !got.sends("2", "camera-cid") {
		t.Errorf("who sends: got %+v", got)
	}
	for name, bad := range map[string]string{
		"nonsense": "hello",
		"too many": chromeOffer + strings.Repeat("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", maxSections),
	} {
		if _, err := parseSections(bad, 0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// disguises put a line into a description where the parser finds it and whoever goes by lines does not.
var disguises = map[string]func(offer, line string) string{
	"after a lone carriage return": func(offer, line string) string {
		return strings.Replace(offer, "a=mid:", "\r"+line+"\r\na=mid:", 1)
	},
	"at the end of an address": func(offer, line string) string {
		at := strings.Index(offer, "m=")
		return offer[:at] + strings.Replace(offer[at:], "c=IN IP4 0.0.0.0", "c=IN IP4 0.0.0.0 "+line, 1)
	},
	"after an address, behind a carriage return": func(offer, line string) string {
		at := strings.Index(offer, "m=")
		return offer[:at] + strings.Replace(offer[at:], "c=IN IP4 0.0.0.0", "c=IN IP4 0.0.0.0\r"+line, 1)
	},
	"at the end of the formats": func(offer, line string) string {
		at := strings.Index(offer, "m=")
		end := at + strings.Index(offer[at:], "\r\n")
		return offer[:end] + "\r" + line + offer[end:]
	},
	"after the times": func(offer, line string) string { return strings.Replace(offer, "t=0 0", "t=0 0 "+line, 1) },
	"between empty lines": func(offer, line string) string {
		return strings.Replace(offer, "a=mid:", "\n\r\n\r"+line+"\r\na=mid:", 1)
	},
	"without what it speaks": func(offer, _ string) string { return strings.Replace(offer, "a=mid:", "a=candidate\r\na=mid:", 1) },
}

// What is kept of a description for long does not keep all of it.
func TestSectionsAreCopies(t *testing.T) {
	all, err := parseSections(chromeOffer, 0)
	if err != nil {
		t.Fatal(err)
	}
	begin := uintptr(unsafe.Pointer(unsafe.StringData(chromeOffer)))
	for mid, s := range all {
		for _, kept := range append([]string{mid, s.mid, s.cid}, s.rids...) {
			if at := uintptr(unsafe.Pointer(unsafe.StringData(kept))); kept != "" && at >= begin && at < begin+uintptr(len(chromeOffer)) {
				t.Errorf("section %s: %q is a part of the description", mid, kept)
			}
		}
	}
}

// Lines that only the parser finds are refused, whatever they say.
func TestHiddenLines(t *testing.T) {
	for name, hide := range disguises {
		for _, line := range []string{"a=candidate:1 1 udp 1 192.0.2.1 1000 typ host", "m=video 9 UDP/TLS/RTP/SAVPF 96", "a=x"} {
			offer, err := withoutCandidates(hide(chromiumOffer, line))
			if err == nil {
				_, err = parseSections(offer, 0)
			}
			if err == nil {
				t.Errorf("%s, %q: accepted", name, line)
			}
		}
	}
	if offer, err := withoutCandidates(strings.ReplaceAll(chromiumOffer, "\r\n", "\n\n")); err != nil {
		t.Error(err)
	} else if _, err = parseSections(offer, 0); err != nil {
		t.Errorf("empty lines, and line ends without carriage returns: got %v", err)
	}
}

func FuzzParseSections(f *testing.F) {
	f.Add(chromeOffer)
	f.Add(strings.ReplaceAll(chromeOffer, "a=mid:2", "a=mid:"))
	f.Fuzz(func(t *testing.T, offer string) {
		all, err := parseSections(offer, 0)
		if err != nil {
			return
		}
		for mid, s := range all {
			if mid == "" || s.mid != mid {
				t.Errorf("section %q: got %+v", mid, s)
			}
			all.rid(mid, "q")
		}
	})
}
