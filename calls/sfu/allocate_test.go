package sfu

import (
	"slices"
	"testing"

	"github.com/pion/webrtc/v4"
)

func TestAllocate(t *testing.T) {
	track := func(priority, now int, rates ...int) *demand {
		d := &demand{priority: priority, now: now}
		for i, r := range rates {
			d.add(step{grant: grant{layer: i, tid: allTID}, bps: r})
		}
		return d
	}
	for _, c := range []struct {
		name     string
		budget   int
		mayPause bool
		tracks   []*demand
		want     []int
	}{
		{"room for all", 10_000, true, []*demand{track(0, 0, 100, 400, 1500), track(0, 0, 100, 400, 1500)}, []int{2, 2}},
		{"fair", 1100, true, []*demand{track(0, 0, 100, 400, 1500), track(0, 0, 100, 400, 1500)}, []int{1, 1}},
		{"the more important rises first", 2000, true, []*demand{track(0, 0, 100, 400, 1500), track(2, 0, 100, 400, 1500)}, []int{0, 2}},
		{"everybody gets the least before anybody rises", 300, true, []*demand{track(0, 0, 100, 400), track(2, 0, 100, 400)}, []int{0, 0}},
		{"the least for the more important", 150, true, []*demand{track(0, 0, 100), track(1, 0, 100)}, []int{-1, 0}},
		{"what is there stays without room to rise", 400, true, []*demand{track(0, 1, 100, 400)}, []int{1}},
		{"to rise needs some room", 400, true, []*demand{track(0, 0, 100, 400)}, []int{0}},
		{"paused comes back with some room", 100, true, []*demand{track(0, -1, 100)}, []int{-1}},
		{"a client that knows no pause gets what does not fit", 60, false, []*demand{track(0, 0, 100)}, []int{0}},
		{"and does not rise by it", 60, false, []*demand{track(0, 1, 100, 120)}, []int{0}},
		{"less than nothing", -50, true, []*demand{track(0, 0, 100)}, []int{-1}},
	} {
		allocate(c.budget, c.budget, c.tracks, c.mayPause)
		var got []int
		for _, d := range c.tracks {
			got = append(got, d.got)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// A publisher's word on how large its picture is does not make the line of others hopeless.
func TestTypicalRate(t *testing.T) {
	const all = 1<<32 - 1
	for size, want := range map[Size]int{
		{}: 500_000, {Width: all}: 500_000, {320, 180}: 115_200, {100, 100}: 80_000, {1920, 1080}: 4_147_200,
		{3840, 2160}: 8_000_000, {all, all}: 8_000_000, {1 << 31, 1 << 31}: 8_000_000, {1 << 31, 1 << 30}: 8_000_000, {all, 1}: 8_000_000,
	} {
		if got := typicalRate(size); got != want {
			t.Errorf("%d x %d: got %d bit/s, want %d", size.Width, size.Height, got, want)
		}
	}
}

func TestMatch(t *testing.T) {
	h264 := func(payload int, fmtp string) webrtc.RTPCodecParameters {
		return webrtc.RTPCodecParameters{PayloadType: webrtc.PayloadType(payload), RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, SDPFmtpLine: fmtp}}
	}
	rtx := webrtc.RTPCodecParameters{PayloadType: 99, RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeRTX, SDPFmtpLine: "apt=3"}}
	agreed := []webrtc.RTPCodecParameters{
		h264(1, "packetization-mode=0;profile-level-id=42e01f"), h264(2, "packetization-mode=1;profile-level-id=64001f"),
		h264(3, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e034"), rtx,
	}
	for _, c := range []struct {
		name, sent string
		want, rtx  webrtc.PayloadType
	}{
		{"another level", "packetization-mode=1;profile-level-id=42e01f", 3, 99},
		{"high", "packetization-mode=1;profile-level-id=64001f", 2, 0},
		{"single packets", "profile-level-id=42e01f", 1, 0},
		{"main, which nobody reads", "packetization-mode=1;profile-level-id=4d001f", 0, 0},
	} {
		chosen, repair, ok := match(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, SDPFmtpLine: c.sent}, agreed)
		if chosen.PayloadType != c.want || repair != c.rtx || ok != (c.want != 0) {
			t.Errorf("%s: got %d with %d, %v; want %d with %d", c.name, chosen.PayloadType, repair, ok, c.want, c.rtx)
		}
	}
}
