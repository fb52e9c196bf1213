package calls

import (
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// untilPremature waits until media of c have come that nobody has announced: so many streams.
func (c *testClient) untilPremature(p *Participant, want int) {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got := 0
		within(c.t, p, func() { got = len(p.premature) })
		if got == want {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("got %d streams without a track after %v, want %d", got, patience, want)
		}
	}
}

// TestATrackAnnouncedAfterItsMedia: a client that resumes holds its requests back for two seconds, but not its offers. (livekit-client
// 2.23.0: SignalClient.sendRequest, canPassThroughQueue)
func TestATrackAnnouncedAfterItsMedia(t *testing.T) {
	for _, single := range []bool{true, false} {
		t.Run(map[bool]string{true: "one connection", false: "two connections"}[single], func(t *testing.T) {
			f, base := newTestFocus(t)
			ann, bob := joinAs(t, base, "room", "ann", joining{single: single}), join(t, base, "room", "bob")
			p := ann.session(f)
			ann.sends(webrtc.MimeTypeVP8, "camera")
			ann.untilPremature(p, 1)
			other := ann.announces(&signal.AddTrack{Cid: "other", Type: signal.TrackType_VIDEO})
			track := ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO})
			found := bob.told("ann", track.Sid)
			if got := found[track.Sid]; got.Mid != "0" || got.MimeType != webrtc.MimeTypeVP8 {
				t.Errorf("got %v, want VP8 on section 0", got)
			}
			bob.shows(bob.track(), "vp8")
			within(t, p, func() {
				if t := p.published[other.Sid]; t == nil || t.live || t.encodings[0].mid != "" {
					ann.t.Errorf("the other track: got %+v, want it to wait for its media", t)
				}
			})
			ann.untilPremature(p, 0)
		})
	}
}

// TestASecondCodecAnnouncedAfterItsMedia: the same goes for it.
func TestASecondCodecAnnouncedAfterItsMedia(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	p := ann.session(f)
	track := ann.announces(&signal.AddTrack{
		Cid: "camera", Type: signal.TrackType_VIDEO, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp9", Cid: "camera"}, {Codec: "vp8"}},
	})
	ann.sends(webrtc.MimeTypeVP9, "camera")
	ann.sends(webrtc.MimeTypeVP8, "second")
	ann.untilPremature(p, 1)
	ann.announces(&signal.AddTrack{
		Cid: "second", Sid: track.Sid, Type: signal.TrackType_VIDEO, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp8", Cid: "second"}},
	})
	ann.untilPremature(p, 0)
	within(t, p, func() {
		if e := p.published[track.Sid].encodings[1]; !e.live || e.mid != "1" {
			t.Errorf("the second codec: got %+v, want it live on section 1", e)
		}
	})
}

// TestMediaThatNobodyAnnounces are forgotten with their section.
func TestMediaThatNobodyAnnounces(t *testing.T) {
	f, base := newTestFocus(t)
	ann := joinAs(t, base, "room", "ann", joining{single: true})
	p := ann.session(f)
	sent := ann.sendsAs("camera")
	ann.offer()
	ann.untilPremature(p, 1)
	if err := ann.pub.RemoveTrack(sent.Sender()); err != nil {
		t.Fatal(err)
	}
	ann.offer()
	ann.untilPremature(p, 0)
}
