package calls

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// publishesFew publishes a track, sends a few packets, and mutes it.
func (c *testClient) publishesFew(codec webrtc.RTPCodecCapability, kind signal.TrackType, payload []byte) *signal.Track {
	c.t.Helper()
	track, err := webrtc.NewTrackLocalStaticRTP(codec, codec.MimeType, "stream")
	if err != nil {
		c.t.Fatal(err)
	}
	info := c.announces(&signal.AddTrack{Cid: codec.MimeType, Type: kind})
	if _, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
		c.t.Fatal(err)
	}
	c.offer()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	p := rtp.Packet{Header: rtp.Header{Version: 2, Marker: true}, Payload: payload}
	for deadline := time.Now().Add(patience); ; <-tick.C {
		p.SequenceNumber++
		p.Timestamp += codec.ClockRate / 50
		if err := track.WriteRTP(&p); err != nil {
			c.t.Fatal(err)
		}
		select {
		case res := <-c.said:
			for _, who := range res.GetUpdate().GetParticipants() {
				for _, t := range who.Tracks {
					if t.Sid == info.Sid {
						c.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: info.Sid, Muted: true}}})
						return info
					}
				}
			}
		default:
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s did not come within %v", codec.MimeType, patience)
		}
	}
}

// TestMutedTracksAreAnnounced: Pion has a track with its first packet, and LiveKit's SDK for Go stands on it. With the tracks of somebody who is
// muted it gets packets in which there is nothing.
func TestMutedTracksAreAnnounced(t *testing.T) {
	for _, c := range []struct {
		name   string
		single bool
	}{{"two connections", false}, {"one connection", true}} {
		t.Run(c.name, func(t *testing.T) {
			_, base := newTestFocus(t)
			ann := join(t, base, "room", "ann")
			video := ann.publishesFew(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, signal.TrackType_VIDEO, []byte{0x90, 0x80, 0x01, 0, 0, 0, 0, 0, 0})
			audio := ann.publishesFew(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, signal.TrackType_AUDIO, []byte{0xfc})
			bob := joinAs(t, base, "room", "bob", joining{sdk: "go", single: c.single})
			if c.single {
				for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeVideo, webrtc.RTPCodecTypeAudio} {
					if _, err := bob.pub.AddTransceiverFromKind(kind, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}); err != nil {
						t.Fatal(err)
					}
				}
				bob.offer()
			}
			trailer := string(bob.joined.SifTrailer)
			if len(trailer) < 16 {
				t.Errorf("got the trailer %q, want one that nobody guesses", trailer)
			}
			for range 2 {
				track := bob.track()
				p, _, err := track.ReadRTP()
				if err != nil {
					t.Fatal(err)
				}
				switch _, sid, _ := strings.Cut(track.StreamID(), "|"); sid {
				case video.Sid:
					if !p.Padding || len(p.Payload) != 0 {
						t.Errorf("video: got %+v with %d bytes, want mere padding", p.Header, len(p.Payload))
					}
				case audio.Sid:
					if string(p.Payload) != "\xf8\xff\xfe"+trailer {
						t.Errorf("audio: got %q, want silence", p.Payload)
					}
				default:
					t.Errorf("got a track of the stream %s", track.StreamID())
				}
			}
		})
	}
	_, base := newTestFocus(t)
	if got := joinAs(t, base, "room", "eve", joining{sdk: "js"}).joined.SifTrailer; len(got) > 0 {
		t.Errorf("a browser got the trailer %q, want none", got)
	}
}

// TestFreeSectionsServePion: who joins after another has left is seen on the section that became free, also where there were offers in between.
func TestFreeSectionsServePion(t *testing.T) {
	_, base := newTestFocus(t)
	bob, ann, carl := joinAs(t, base, "room", "bob", joining{sdk: "go"}), join(t, base, "room", "ann"), join(t, base, "room", "carl")
	ann.publish("ann")
	bob.tracks()
	ann.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	bob.wait("the end of ann", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
	gets := func(info *signal.Track) {
		t.Helper()
		if track := bob.track(); !strings.HasSuffix(track.StreamID(), info.Sid) || !bob.brings(track) {
			t.Fatalf("got a track of the stream %s, want packets of %s", track.StreamID(), info.Sid)
		}
	}
	for _, cid := range []string{"voice", "music"} { // an offer each
		sound, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, cid, "stream")
		if err != nil {
			t.Fatal(err)
		}
		info := carl.announces(&signal.AddTrack{Cid: cid, Type: signal.TrackType_AUDIO})
		if _, err := carl.pub.AddTransceiverFromTrack(sound, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
			t.Fatal(err)
		}
		carl.offer()
		go send(t, sound, []byte{0xfc}, 960, 20*time.Millisecond)
		gets(info)
	}
	info := carl.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO})
	carl.sends(webrtc.MimeTypeVP8, "camera")
	gets(info)
}
