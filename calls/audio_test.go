package calls

import (
	"strings"
	"testing"
)

func TestAudioForms(t *testing.T) {
	lines := func(l ...string) string { return strings.Join(l, "\r\n") + "\r\n" }
	const (
		head    = "v=0"
		both    = "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 0"
		opus    = "a=rtpmap:111 opus/48000/2"
		nack    = "a=rtcp-fb:111 nack"
		feed    = "a=rtcp-fb:111 transport-cc"
		red     = "a=rtpmap:63 red/48000/2"
		redOf   = "a=fmtp:63 111/111"
		pcmu    = "a=rtpmap:0 PCMU/8000"
		mid     = "a=mid:1"
		said    = "a=fmtp:111 minptime=10; useinbandfec=1;stereo=1;usedtx=0"
		plain   = "a=fmtp:111 minptime=10;useinbandfec=1"
		picture = "m=video 9 UDP/TLS/RTP/SAVPF 111"
		wide    = "a=rtpmap:111 OPUS/90000"
	)
	tail := []string{pcmu, mid, picture, wide}
	all := func(l ...string) string { return lines(append(append([]string{head}, l...), tail...)...) }
	for _, c := range []struct {
		name     string
		in, want string
		form     audioForm
	}{
		{"RED is wished of the client", all(both, opus, feed, nack, said, red, redOf),
			all("m=audio 9 UDP/TLS/RTP/SAVPF 63 111 0", opus, nack, plain+";usedtx=1", feed, red, redOf), audioForm{red: true, dtx: true}},
		{"RED is wished, and not offered", all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, said),
			all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, nack, plain), audioForm{red: true}},
		{"RED is not wished", all(both, opus, said, red, redOf), all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, nack, plain), audioForm{}},
		{"two channels of the client", all(both, opus, said, red, redOf),
			all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, nack, plain+";stereo=1"), audioForm{stereo: true}},
		{"two channels of ours, in an answer", all(both, opus, said, red, redOf),
			all(both, opus, nack, plain+";sprop-stereo=1", red, redOf), audioForm{ours: true, red: true, stereo: true, dtx: true}},
		{"RED of ours, in an answer to who has it not", all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, said),
			all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, nack, plain), audioForm{ours: true, red: true}},
		{"RED of ours, in an offer", all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "a=setup:actpass", opus),
			lines(head, "m=audio 9 UDP/TLS/RTP/SAVPF 111 0 63", "a=setup:actpass", opus, nack, plain, pcmu, mid, red, redOf, picture, wide), audioForm{ours: true, red: true}},
		{"RED of ours, in an offer that has it", all(both, "a=setup:actpass", opus, red, redOf),
			all(both, "a=setup:actpass", opus, nack, plain, red, redOf), audioForm{ours: true, red: true}},
		{"no parameters", all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, "a=fmtp:111 stereo=1"), all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, nack, plain), audioForm{}},
		{"no Opus", all("m=audio 9 UDP/TLS/RTP/SAVPF 0"), all("m=audio 9 UDP/TLS/RTP/SAVPF 0"), audioForm{red: true}},
	} {
		forms := map[string]audioForm{"1": c.form}
		got := withAudioForms(c.in, forms)
		if got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
		if again := withAudioForms(got, forms); again != got {
			t.Errorf("%s, said twice: got\n%s\nwant\n%s", c.name, again, got)
		}
	}
	if got := withAudioForms(all(both, opus, said, red, redOf), nil); got != all("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", opus, nack, plain) {
		t.Errorf("a section that nobody uses: got\n%s", got)
	}
}
