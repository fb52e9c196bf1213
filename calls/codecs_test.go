package calls

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// onlyCodecs is a media engine with Opus and these video codecs.
func onlyCodecs(t *testing.T, mimes ...string) *webrtc.MediaEngine {
	t.Helper()
	m := &webrtc.MediaEngine{}
	opus := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	err := m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: opus, PayloadType: 111}, webrtc.RTPCodecTypeAudio)
	for i, mime := range mimes {
		if err == nil {
			video := webrtc.RTPCodecCapability{MimeType: mime, ClockRate: 90000}
			err = m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: video, PayloadType: webrtc.PayloadType(120 + i)}, webrtc.RTPCodecTypeVideo)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Each packet is a key frame, and ends with the name of its codec.
var pictures = map[string][]byte{
	webrtc.MimeTypeVP8: append([]byte{0x90, 0x80, 0x01, 0, 0, 0, 0, 0, 0}, "vp8"...),
	webrtc.MimeTypeVP9: append([]byte{0x0c, 0, 0, 0}, "vp9"...), // RFC 9628, section 4.2: begins and ends a frame, of no other
}

// sends negotiates a section with a picture in this codec, and sends until the test ends. It gives the transceiver.
func (c *testClient) sends(mime, cid string) *webrtc.RTPTransceiver {
	c.t.Helper()
	track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime, ClockRate: 90000}, cid, "stream")
	if err != nil {
		c.t.Fatal(err)
	}
	tr, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		c.t.Fatal(err)
	}
	go func() {
		for {
			if _, _, err := tr.Sender().ReadRTCP(); err != nil {
				return
			}
		}
	}()
	c.offer()
	go send(c.t, track, pictures[mime], 3000, 20*time.Millisecond)
	return tr
}

func (c *testClient) announces(req *signal.AddTrack) *signal.Track {
	c.t.Helper()
	c.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: req}})
	return c.wait("track_published", func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == req.Cid }).GetTrackPublished().Track
}

// track is the next one that comes.
func (c *testClient) track() *webrtc.TrackRemote {
	c.t.Helper()
	select {
	case remote := <-c.media:
		return remote
	case <-time.After(patience):
		c.t.Fatalf("no track within %v", patience)
		return nil
	}
}

// shows waits until a track comes in this codec, and checks that its numbers have no gap on the way there.
func (c *testClient) shows(remote *webrtc.TrackRemote, codec string) {
	c.t.Helper()
	var last uint16
	for begun, i := time.Now(), 0; ; i++ {
		if err := remote.SetReadDeadline(time.Now().Add(patience)); err != nil {
			c.t.Fatal(err)
		}
		p, _, err := remote.ReadRTP()
		if err != nil {
			c.t.Fatalf("packet %d: %v", i, err)
		}
		if i > 0 && p.SequenceNumber != last+1 {
			c.t.Errorf("packet %d: got number %d after %d", i, p.SequenceNumber, last)
		}
		last = p.SequenceNumber
		if strings.HasSuffix(string(p.Payload), codec) && i > 5 {
			return
		}
		if time.Since(begun) > patience {
			c.t.Fatalf("got no packet in %s within %v", codec, patience)
		}
	}
}

// enabled says whether a client is told to send a codec.
func enabled(res *signal.Response, codec string) (on, told bool) {
	for _, c := range res.GetSubscribedQualityUpdate().GetSubscribedCodecs() {
		if c.Codec != codec {
			continue
		}
		told = true
		for _, q := range c.Qualities {
			on = on || q.Enabled
		}
	}
	return on, told
}

func TestASecondCodecForWhoLacksTheFirst(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy signal.BackupCodecPolicy
		others string // what those get who have both
	}{
		{"as the focus likes", 0, "vp8"},
		{"both", signal.BackupCodecPolicy_SIMULCAST, "vp9"},
		{"the second alone", 2, "vp8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, base := newTestFocus(t)
			ann := join(t, base, "room", "ann")
			track := ann.announces(&signal.AddTrack{
				Cid: "camera", Type: signal.TrackType_VIDEO, BackupCodecPolicy: c.policy,
				SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp9", Cid: "camera"}, {Codec: "vp8"}},
			})
			if len(track.Codecs) != 2 || track.Codecs[1].MimeType != webrtc.MimeTypeVP8 || track.MimeType != webrtc.MimeTypeVP9 {
				t.Errorf("announced: got %v, want VP9 and VP8 behind it", track)
			}
			ann.sends(webrtc.MimeTypeVP9, "camera")
			cat := join(t, base, "room", "cat")
			catSees := cat.track()
			cat.shows(catSees, "vp9")

			bob := joinAs(t, base, "room", "bob", joining{codecs: onlyCodecs(t, webrtc.MimeTypeVP8)})
			ann.wait("the wish for VP8", func(res *signal.Response) bool { on, _ := enabled(res, "vp8"); return on })
			again := ann.announces(&signal.AddTrack{
				Cid: "second", Sid: track.Sid, Type: signal.TrackType_VIDEO, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp8", Cid: "second"}},
			})
			if again.Sid != track.Sid || again.Codecs[1].Cid != "second" {
				t.Errorf("announced again: got %v, want the same track with the second's cid", again)
			}
			second := ann.sends(webrtc.MimeTypeVP8, "second")
			bobSees := bob.track()
			bob.shows(bobSees, "vp8")
			cat.shows(catSees, c.others)
			if c.others == "vp8" {
				ann.wait("the end of VP9", func(res *signal.Response) bool { on, told := enabled(res, "vp9"); return told && !on })
			}
			told := bob.wait("both codecs", func(res *signal.Response) bool {
				for _, p := range res.GetUpdate().GetParticipants() {
					if p.Identity == "ann" && len(p.Tracks) == 1 && len(p.Tracks[0].Codecs) == 2 && p.Tracks[0].Codecs[1].Mid != "" {
						return true
					}
				}
				return false
			}).GetUpdate().Participants[0].Tracks[0]
			if told.MimeType != webrtc.MimeTypeVP9 {
				t.Errorf("told of the track: got %s, want the first codec's name", told.MimeType)
			}

			// The second codec alone ends, and is wished for anew; those who can go back to the first.
			if err := ann.pub.RemoveTrack(second.Sender()); err != nil {
				t.Fatal(err)
			}
			ann.offer()
			cat.shows(catSees, "vp9")
			ann.wait("the wish for VP8 again", func(res *signal.Response) bool { on, _ := enabled(res, "vp8"); return on })
		})
	}
}

func TestWhoHasNoCodecOfATrackIsTold(t *testing.T) {
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	track := ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp9", Cid: "camera"}}})
	ann.sends(webrtc.MimeTypeVP9, "camera")
	bob := joinAs(t, base, "room", "bob", joining{codecs: onlyCodecs(t, webrtc.MimeTypeVP8)})
	got := bob.wait("a refusal", func(res *signal.Response) bool { return res.GetSubscriptionResponse() != nil }).GetSubscriptionResponse()
	if got.TrackSid != track.Sid || got.Err != codecUnsupported {
		t.Errorf("got %v, want that the codec of %s is not supported", got, track.Sid)
	}
}

// TestNobodyWantsWhatTheDepartedWanted: a client is told to stop when the last who saw its picture has left, whether it said so or not.
func TestNobodyWantsWhatTheDepartedWanted(t *testing.T) {
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp8", Cid: "camera"}}})
	bob := join(t, base, "room", "bob")
	ann.sends(webrtc.MimeTypeVP8, "camera")
	bob.shows(bob.track(), "vp8")
	bob.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	ann.wait("the end of VP8", func(res *signal.Response) bool { on, told := enabled(res, "vp8"); return told && !on })
}
