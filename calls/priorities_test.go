package calls

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// pictures publishes a picture of each of these sources, under its name.
func (c *testClient) pictures(sources ...signal.TrackSource) {
	c.t.Helper()
	for _, source := range sources {
		cid := source.String()
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, cid, "stream")
		if err != nil {
			c.t.Fatal(err)
		}
		c.announces(&signal.AddTrack{Cid: cid, Name: cid, Type: signal.TrackType_VIDEO, Source: source})
		if _, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
			c.t.Fatal(err)
		}
		go send(c.t, track, pictures[webrtc.MimeTypeVP8], 3000, 33*time.Millisecond)
	}
	c.offer()
}

// TestScreensAndSpeakersComeFirst: for everybody who gets them, whenever they came, a screen is more important than who speaks, and who
// speaks more than the others.
func TestScreensAndSpeakersComeFirst(t *testing.T) {
	focus, base := newTestFocus(t)
	ann, cat := join(t, base, "room", "ann"), join(t, base, "room", "cat")
	camera, screen := signal.TrackSource_CAMERA, signal.TrackSource_SCREEN_SHARE
	ann.pictures(camera, screen)
	cat.pictures(camera)
	room := theRoom(t, focus)
	// ranks are the priorities of what somebody gets, by publisher and source.
	ranks := func(of string) map[string]int {
		found := make(chan map[string]int, 1)
		p := room.find(of)
		p.do(func() {
			ranks := map[string]int{}
			for _, s := range p.subs {
				source := "?"
				if t := p.peers[s.from.sid].track(s.track); t != nil {
					source = t.Source.String()
				}
				ranks[s.from.identity+" "+source] = s.down.Priority()
			}
			found <- ranks
		})
		return <-found
	}
	until := func(of, what string, right func(screen, ann, cat int) bool) {
		t.Helper()
		var got map[string]int
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) { // between two looks
			if got = ranks(of); len(got) == 3 && right(got[fmt.Sprint("ann ", screen)], got[fmt.Sprint("ann ", camera)], got[fmt.Sprint("cat ", camera)]) {
				return
			}
		}
		t.Fatalf("%s, %s: got %v", of, what, got)
	}
	speaks := func(c *testClient, seconds int32) {
		c.say(&signal.Request{Message: &signal.Request_Simulate{Simulate: &signal.Simulate{Scenario: &signal.Simulate_SpeakerUpdate{SpeakerUpdate: seconds}}}})
	}
	bob := join(t, base, "room", "bob")
	until("bob", "nobody speaks", func(screen, ann, cat int) bool { return screen > ann && ann == cat })
	speaks(cat, longestSpeech)
	until("bob", "cat speaks", func(screen, ann, cat int) bool { return screen > cat && cat > ann })
	speaks(cat, 0)
	until("bob", "cat has spoken", func(screen, ann, cat int) bool { return screen > ann && ann == cat })
	speaks(ann, longestSpeech)
	annSpeaks := func(screen, ann, cat int) bool { return screen > ann && ann > cat }
	until("bob", "ann speaks, who shows a screen", annSpeaks)
	bob.wait("ann at the top of her voice", func(res *signal.Response) bool { // no change of it comes after that
		return slices.ContainsFunc(res.GetSpeakersChanged().GetSpeakers(), func(s *signal.Speaker) bool { return s.Sid == ann.joined.Participant.Sid && s.Level == 1 })
	})
	dee := join(t, base, "room", "dee")
	until("dee", "ann speaks on as dee comes", annSpeaks)
	for range 2 { // a client that is slow to begin drops it the first time
		dee.wait("who speaks as dee comes", func(res *signal.Response) bool {
			return slices.ContainsFunc(res.GetSpeakersChanged().GetSpeakers(), func(s *signal.Speaker) bool { return s.Sid == ann.joined.Participant.Sid })
		})
	}
}
