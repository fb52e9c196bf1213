package calls

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestDescriptionsBeforeTheTransport: who says one description after the other and never comes to where media are taken goes, before what is kept
// of them is much; one who comes in time may say any number.
func TestDescriptionsBeforeTheTransport(t *testing.T) {
	const filler = 200 << 10
	for _, c := range []struct {
		name string
		size int // beside what has to be there
		most int // offers that are answered
	}{
		{"large ones", filler, earlySDP / filler},
		{"small ones", 0, earlySDP / earlyBeside},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, base := newTestFocus(t, func(c *Config) { c.Grace = time.Minute })
			bob := joinSolo(t, base, "bob", false)
			offer := strings.Replace(offerTaking([]string{"audio"}), "a=mid:", "a=x:"+strings.Repeat("x", c.size)+"\r\na=mid:", 1)
			answered := 0
			for over := false; !over; {
				bob.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: offer, Id: 1}}})
				_ = bob.ws.SetReadDeadline(time.Now().Add(patience))
				for {
					res, err := readResponse(bob.ws)
					if err != nil {
						t.Fatal(err)
					}
					if over = res.GetLeave() != nil; over || res.GetAnswer() != nil {
						break
					}
				}
				if answered++; answered > c.most+1 {
					t.Fatalf("got %d offers answered, want %d at most", answered, c.most)
				}
			}
			if answered < 4 {
				t.Errorf("gone after %d offers", answered)
			}
		})
	}
}

// TestTracksThatEnded: a client may publish and take back again and again, though each track leaves a section in its offers for good.
func TestTracksThatEnded(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	offers := func(what string) {
		t.Helper()
		offer, err := ann.pub.CreateOffer(nil)
		if err == nil {
			err = ann.pub.SetLocalDescription(offer)
		}
		if err != nil {
			t.Fatal(err)
		}
		long := strings.ReplaceAll(offer.SDP, "a=mid:", "a=x:"+strings.Repeat("x", 6000)+"\r\na=mid:")
		ann.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: long, Id: 1}}})
		select {
		case answer := <-ann.answer:
			if err := ann.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
				t.Fatal(err)
			}
		case <-ann.session(f).done:
			t.Fatalf("%s: ann is sent away with %d bytes: %v", what, len(long), ann.session(f).because.reason)
		case <-time.After(patience):
			t.Fatalf("%s: no answer", what)
		}
	}
	for n := range 45 {
		cid := fmt.Sprint("screen ", n)
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, cid, "ann")
		if err != nil {
			t.Fatal(err)
		}
		ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: cid, Name: cid, Type: signal.TrackType_VIDEO}}})
		ann.wait(cid, func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == cid })
		tr, err := ann.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		if err != nil {
			t.Fatal(err)
		}
		go reads(tr.Sender())
		offers(cid)
		if err := ann.pub.RemoveTrack(tr.Sender()); err != nil {
			t.Fatal(err)
		}
		offers(cid + " taken back")
	}
}
