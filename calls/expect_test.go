package calls

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestTracksAreThereBeforeTheirMedia: whoever is in the call has the sections for a new track before its publisher's connection stands, and for
// one that is announced beside it; not for what is muted. What is never offered goes away again.
func TestTracksAreThereBeforeTheirMedia(t *testing.T) {
	f, base := newTestFocus(t)
	bob := join(t, base, "room", "bob")
	ann := join(t, base, "room", "ann")
	announce := func(cid string, kind signal.TrackType, muted bool) string {
		req := &signal.AddTrack{Cid: cid, Name: cid, Type: kind, Muted: muted}
		if kind == signal.TrackType_VIDEO {
			req.SimulcastCodecs = []*signal.SimulcastCodec{{Codec: "vp8", Cid: cid}}
		}
		return ann.announces(req).Sid
	}
	tracks := func(want ...string) {
		t.Helper()
		bob.wait("tracks "+strings.Join(want, ", "), func(res *signal.Response) bool {
			for _, p := range res.GetUpdate().GetParticipants() {
				if p.Identity != "ann" || len(p.Tracks) != len(want) {
					continue
				}
				names := map[string]bool{}
				for _, track := range p.Tracks {
					names[track.Name] = true
				}
				all := true
				for _, name := range want {
					all = all && names[name]
				}
				return all
			}
			return false
		})
	}
	announce("hidden", signal.TrackType_AUDIO, true)
	voice := announce("voice", signal.TrackType_AUDIO, false)
	silent, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "voice", "ann")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ann.pub.AddTransceiverFromTrack(silent, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
		t.Fatal(err)
	}
	ann.offer() // and nothing ever comes
	tracks("voice")
	camera := announce("camera", signal.TrackType_VIDEO, false)
	tracks("voice", "camera")

	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		offered := ""
		if d := bob.sub.CurrentRemoteDescription(); d != nil {
			offered = d.SDP
		}
		if strings.Contains(offered, voice) && strings.Contains(offered, camera) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("bob was offered %q, want sections for %s and %s", offered, voice, camera)
		}
	}

	for _, room := range f.liveRooms() {
		p := room.find("ann")
		p.do(func() { p.dropUnsent(time.Now().Add(2 * unsentFor)) })
	}
	tracks("voice")
}
