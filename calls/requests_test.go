package calls

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"chancery/calls/signal"
)

// TestRequestsReachTheOthers sends what a client may say of itself and of its tracks: the others and it itself hear it, each time in a
// newer version, and who asks for an answer gets one.
func TestRequestsReachTheOthers(t *testing.T) {
	_, base := newTestFocus(t)
	bob, ann := join(t, base, "room", "bob"), join(t, base, "room", "ann")
	ann.publish("ann")
	tracks := map[string]string{}
	bob.wait("ann's tracks", func(res *signal.Response) bool {
		for _, p := range res.GetUpdate().GetParticipants() {
			for _, t := range p.Tracks {
				tracks[map[signal.TrackType]string{signal.TrackType_AUDIO: "voice", signal.TrackType_VIDEO: "picture"}[t.Type]] = t.Sid
			}
		}
		return len(tracks) == 2
	})
	track := func(p *signal.Participant, name string) *signal.Track {
		for _, found := range p.Tracks {
			if found.Sid == tracks[name] {
				return found
			}
		}
		return &signal.Track{}
	}
	version := uint32(0)
	for _, c := range []struct {
		name  string
		say   *signal.Request
		shown func(*signal.Participant) bool
	}{
		{"mute", &signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: tracks["voice"], Muted: true}}},
			func(p *signal.Participant) bool { return track(p, "voice").Muted && !track(p, "picture").Muted }},
		{"unmute", &signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: tracks["voice"]}}},
			func(p *signal.Participant) bool { return !track(p, "voice").Muted }},
		{"update_audio_track", &signal.Request{Message: &signal.Request_UpdateAudioTrack{UpdateAudioTrack: &signal.UpdateAudioTrack{TrackSid: tracks["voice"], Features: []signal.AudioTrackFeature{2, 5}}}},
			func(p *signal.Participant) bool {
				return slices.Equal(track(p, "voice").AudioFeatures, []signal.AudioTrackFeature{2, 5})
			}},
		{"update_video_track", &signal.Request{Message: &signal.Request_UpdateVideoTrack{UpdateVideoTrack: &signal.UpdateVideoTrack{TrackSid: tracks["picture"], Width: 360, Height: 640}}},
			func(p *signal.Participant) bool {
				return track(p, "picture").Width == 360 && track(p, "picture").Height == 640
			}},
		{"update_metadata", &signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Name: "Anna", Metadata: "m", Attributes: map[string]string{"a": "1", "b": "2"}}}},
			func(p *signal.Participant) bool {
				return p.Name == "Anna" && p.Metadata == "m" && maps.Equal(p.Attributes, map[string]string{"a": "1", "b": "2"})
			}},
		{"what is empty stays, but an attribute goes", &signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Attributes: map[string]string{"a": "", "c": "3"}}}},
			func(p *signal.Participant) bool {
				return p.Name == "Anna" && p.Metadata == "m" && maps.Equal(p.Attributes, map[string]string{"b": "2", "c": "3"})
			}},
	} {
		ann.say(c.say)
		for of, who := range map[string]*testClient{"the others": bob, "itself": ann} {
			res := who.wait(c.name+", by "+of, func(res *signal.Response) bool {
				return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool { return p.Identity == "ann" && c.shown(p) })
			})
			for _, p := range res.GetUpdate().Participants {
				if p.Identity != "ann" {
					continue
				}
				if who == bob && p.Version <= version {
					t.Errorf("%s: got version %d after %d", c.name, p.Version, version)
				} else if who == bob {
					version = p.Version
				}
			}
		}
	}
}

// TestFramesTrailersAreTold: what a publisher appends to its frames is told to those who are to take it off again.
func TestFramesTrailersAreTold(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	features := []signal.PacketTrailerFeature{signal.PacketTrailerFeature_PTF_USER_TIMESTAMP, signal.PacketTrailerFeature_PTF_FRAME_ID}
	sid := ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO, PacketTrailerFeatures: features}).Sid
	ann.sendsAs("camera")
	ann.offer()
	if got := bob.told("ann", sid)[sid].PacketTrailerFeatures; !slices.Equal(got, features) {
		t.Errorf("bob is told of %v, want %v", got, features)
	}
	ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{
		Cid: "second", Type: signal.TrackType_VIDEO, PacketTrailerFeatures: make([]signal.PacketTrailerFeature, maxTrackFeatures+1),
	}}})
	res := ann.wait("an answer", func(res *signal.Response) bool {
		return res.GetRequestResponse() != nil || res.GetTrackPublished() != nil
	})
	if got := res.GetRequestResponse().GetReason(); got != signal.RequestResponse_LIMIT_EXCEEDED {
		t.Errorf("got %v, want more of them refused", res)
	}
}

// TestUpdatesAreAnswered: a client that changes its metadata waits for the word on it.
func TestUpdatesAreAnswered(t *testing.T) {
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	for id, c := range map[uint32]struct {
		update *signal.UpdateMetadata
		want   signal.RequestResponse_Reason
	}{
		11: {&signal.UpdateMetadata{Metadata: "m"}, signal.RequestResponse_OK},
		12: {&signal.UpdateMetadata{Metadata: strings.Repeat("m", maxMetadata+1)}, signal.RequestResponse_LIMIT_EXCEEDED},
	} {
		c.update.RequestId = id
		ann.say(&signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: c.update}})
		got := ann.wait("answer", func(res *signal.Response) bool { return res.GetRequestResponse() != nil }).GetRequestResponse()
		if got.RequestId != id || got.Reason != c.want {
			t.Errorf("got %v to request %d, want %v to %d", got.Reason, got.RequestId, c.want, id)
		}
	}
	ann.say(&signal.Request{Message: &signal.Request_PublishDataTrack{PublishDataTrack: &signal.PublishDataTrack{PubHandle: 5}}})
	if got := ann.wait("answer", func(res *signal.Response) bool { return res.GetRequestResponse() != nil }).GetRequestResponse(); got.Reason != signal.RequestResponse_UNSUPPORTED_TYPE || got.GetPublishDataTrack().GetPubHandle() != 5 {
		t.Errorf("a data track: got %v, want it refused under its handle", got)
	}
	ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
	if got := ann.wait("pong", func(res *signal.Response) bool { return res.GetPong() != 0 }).GetPong(); got < 1e12 {
		t.Errorf("got a pong of %d, want the focus's time in milliseconds", got)
	}
	ann.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
	if got := ann.wait("pong_resp", func(res *signal.Response) bool { return res.GetPongResp() != nil }).GetPongResp(); got.LastPingTimestamp != 7 || got.Timestamp < 1e12 {
		t.Errorf("got %v, want the time of the ping and the focus's", got)
	}
}

// TestClientsTestThemselves: the scenarios by which a client tries how it takes what a server may do.
func TestClientsTestThemselves(t *testing.T) {
	_, base := newTestFocus(t)
	for _, c := range []struct {
		name   string
		say    *signal.Simulate
		action signal.Leave_Action
		stays  bool // in the call, for the others
	}{
		{"migration", &signal.Simulate{Scenario: &signal.Simulate_Migration{Migration: true}}, signal.Leave_RESUME, true},
		{"full reconnect", &signal.Simulate{Scenario: &signal.Simulate_LeaveRequestFullReconnect{LeaveRequestFullReconnect: true}}, signal.Leave_RECONNECT, true},
		{"server leave", &signal.Simulate{Scenario: &signal.Simulate_ServerLeave{ServerLeave: true}}, signal.Leave_DISCONNECT, false},
	} {
		bob, ann := join(t, base, c.name, "bob"), join(t, base, c.name, "ann")
		ann.say(&signal.Request{Message: &signal.Request_Simulate{Simulate: c.say}})
		leave := ann.wait("leave", func(res *signal.Response) bool { return res.GetLeave() != nil }).GetLeave()
		if leave.Action != c.action || leave.CanReconnect != (c.action != signal.Leave_DISCONNECT) {
			t.Errorf("%s: got %v, want action %v", c.name, leave, c.action)
		}
		if c.stays {
			ann.announces(&signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO})
		} else {
			bob.wait(c.name+": ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
		}
	}
	bob, ann := join(t, base, "failure", "bob"), join(t, base, "failure", "ann")
	ann.say(&signal.Request{Message: &signal.Request_Simulate{Simulate: &signal.Simulate{Scenario: &signal.Simulate_NodeFailure{NodeFailure: true}}}})
	for res := range ann.said {
		if res.GetLeave() != nil {
			t.Errorf("node failure: got %v, want a socket that closes without a word", res)
		}
	}
	bob.wait("ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
}
