package calls

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// sendsAs sends a picture under a name, until the test ends, and gives what carries it. It is offered with the next offer.
func (c *testClient) sendsAs(cid string) *webrtc.RTPTransceiver {
	c.t.Helper()
	track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, cid, "stream")
	if err != nil {
		c.t.Fatal(err)
	}
	transceiver, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		c.t.Fatal(err)
	}
	go send(c.t, track, []byte{0x90, 0x80, 0x01, 0, 0, 0, 0, 0, 0}, 3000, 33*time.Millisecond)
	return transceiver
}

// told waits until c hears of these tracks of an identity and of no others, and gives them by sid.
func (c *testClient) told(identity string, sids ...string) (found map[string]*signal.Track) {
	c.t.Helper()
	c.wait(fmt.Sprintf("%s with the tracks %v", identity, sids), func(res *signal.Response) bool {
		for _, p := range res.GetUpdate().GetParticipants() {
			if p.Identity != identity {
				continue
			}
			found = map[string]*signal.Track{}
			for _, t := range p.Tracks {
				found[t.Sid] = t
			}
			if len(found) == len(sids) && !slices.ContainsFunc(sids, func(sid string) bool { return found[sid] == nil }) {
				return true
			}
		}
		return false
	})
	return found
}

// TestATrackUnderAnotherName: what is offered under a name that was not announced is the oldest track of its kind that was.
func TestATrackUnderAnotherName(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	first := ann.announces(&signal.AddTrack{Cid: "first", Type: signal.TrackType_VIDEO})
	ann.announces(&signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO})
	second := ann.announces(&signal.AddTrack{Cid: "second", Type: signal.TrackType_VIDEO})
	ann.sendsAs("another name")
	ann.offer()
	bob.told("ann", first.Sid)
	ann.sendsAs("second")
	ann.offer()
	bob.told("ann", first.Sid, second.Sid)
	// What was taken away and is offered still does not become the next track that is announced.
	ann.sendsAs("never announced")
	ann.offer()
	third := ann.announces(&signal.AddTrack{Cid: "third", Type: signal.TrackType_VIDEO})
	ann.offer()
	ann.sendsAs("the third")
	ann.offer()
	if got := bob.told("ann", first.Sid, second.Sid, third.Sid)[third.Sid].Mid; got != "3" {
		t.Errorf("the third track is on section %s, want 3", got)
	}
}

// TestATrackAnnouncedWhileItIsSent: a client that stops a track and publishes it anew announces it before the offer that ends the first one.
func TestATrackAnnouncedWhileItIsSent(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	first := ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO})
	old := ann.sendsAs("camera")
	ann.offer()
	bob.told("ann", first.Sid)
	ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: "camera", Name: "again", Type: signal.TrackType_VIDEO}}})
	ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
	ann.wait("a pong", func(res *signal.Response) bool {
		if got := res.GetTrackPublished(); got != nil {
			t.Errorf("got %v while the first track is sent", got)
		}
		return res.GetPong() != 0
	})
	if err := ann.pub.RemoveTrack(old.Sender()); err != nil {
		t.Fatal(err)
	}
	ann.offer()
	second := ann.wait("track_published", func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == "camera" }).GetTrackPublished().Track
	if second.Sid == first.Sid || second.Name != "again" {
		t.Errorf("got track %s %q, want a new one", second.Sid, second.Name)
	}
	ann.sendsAs("camera")
	ann.offer()
	bob.told("ann", second.Sid)
}
