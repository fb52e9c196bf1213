package calls

import (
	"strings"
	"testing"
)

func TestAudioNackIsAnswered(t *testing.T) {
	lines := func(l ...string) string { return strings.Join(l, "\r\n") + "\r\n" }
	head := []string{"v=0", "m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "a=rtpmap:111 opus/48000/2"}
	tail := []string{"a=rtpmap:0 PCMU/8000", "m=video 9 UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 OPUS/90000"}
	all := func(middle ...string) string {
		return lines(append(append(append([]string{}, head...), middle...), tail...)...)
	}
	want := all("a=rtcp-fb:111 nack")
	for name, in := range map[string]string{"absent": all(), "there already": want} {
		if got := withAudioNack(in); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}
