package calls

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// theRoom is the one that tests of one room call "room".
func theRoom(t *testing.T, f *Focus) *Room {
	t.Helper()
	room, err := f.room("room", false)
	if err != nil {
		t.Fatal(err)
	}
	return room
}

// session is c's participant in the focus.
func (c *testClient) session(f *Focus) *Participant {
	c.t.Helper()
	p := theRoom(c.t, f).find(c.joined.Participant.Identity)
	if p == nil {
		c.t.Fatalf("%s is not in the room", c.joined.Participant.Identity)
	}
	return p
}

// within does something in p's goroutine, and waits for it.
func within(t *testing.T, p *Participant, fn func()) {
	t.Helper()
	done := make(chan struct{})
	if !p.do(func() { defer close(done); fn() }) {
		t.Fatalf("%s has ended", p.identity)
	}
	select {
	case <-done:
	case <-p.done:
		t.Fatalf("%s has ended: %v", p.identity, p.because.reason)
	case <-time.After(patience):
		t.Fatalf("%s is not done within %v", p.identity, patience)
	}
}

func settingOf(m *signal.TrackSetting) *signal.Request {
	return &signal.Request{Message: &signal.Request_TrackSetting{TrackSetting: m}}
}

// TestNobodyFillsAnothersInbox: whatever one participant does, and how often, while another has no time to listen: it is not the other who
// goes, and the other hears the newest.
func TestNobodyFillsAnothersInbox(t *testing.T) {
	const often = 3 * participantInbox
	bobs, anns := "", ""
	for _, c := range []struct {
		name string
		says func(i int) *signal.Request
	}{
		{"a track named thousands of times", func(i int) *signal.Request {
			if i >= 4 {
				return nil
			}
			return settingOf(&signal.TrackSetting{TrackSids: slices.Repeat([]string{bobs}, often), Width: 320, Height: uint32(180 << (i % 2))})
		}},
		{"a track hidden thousands of times", func(i int) *signal.Request {
			return settingOf(&signal.TrackSetting{TrackSids: []string{bobs}, Disabled: i%2 == 0})
		}},
		{"a track in one size and another", func(i int) *signal.Request {
			return settingOf(&signal.TrackSetting{TrackSids: []string{bobs}, Quality: signal.VideoQuality(i % 3)})
		}},
		{"subscribing and not", func(i int) *signal.Request {
			return &signal.Request{Message: &signal.Request_Subscription{Subscription: &signal.UpdateSubscription{TrackSids: []string{bobs}, Subscribe: i%2 == 0}}}
		}},
		{"allowing and not", func(i int) *signal.Request {
			return &signal.Request{Message: &signal.Request_SubscriptionPermission{SubscriptionPermission: &signal.SubscriptionPermission{AllParticipants: i%2 == 0}}}
		}},
		{"names", func(i int) *signal.Request {
			return &signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Name: fmt.Sprint("ann ", i)}}}
		}},
		{"muting and not", func(i int) *signal.Request {
			return &signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: anns, Muted: i%2 == 0}}}
		}},
		{"sizes of a picture", func(i int) *signal.Request {
			return &signal.Request{Message: &signal.Request_UpdateVideoTrack{UpdateVideoTrack: &signal.UpdateVideoTrack{TrackSid: anns, Width: uint32(i), Height: 7}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t)
			ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
			anns = ann.announces(&signal.AddTrack{Cid: "ann", Type: signal.TrackType_VIDEO}).Sid
			bobs = bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO}).Sid
			ann.sends(webrtc.MimeTypeVP8, "ann")
			bob.sends(webrtc.MimeTypeVP8, "bob")
			ann.shows(ann.track(), "vp8")
			bob.shows(bob.track(), "vp8")
			pa, pb := ann.session(f), bob.session(f)

			busy := make(chan struct{})
			pb.do(func() { <-busy })
			began := time.Now()
			within(t, pa, func() {
				for i := range often {
					if req := c.says(i); req != nil {
						pa.handle(req)
					}
				}
				pa.info.Name = "at last"
				pa.changed()
			})
			pa.room.ask(func() {}) // what ann has said is with the room, and the room is done with it
			close(busy)
			heard := 0
			bob.wait("ann's last name", func(res *signal.Response) bool {
				for _, p := range res.GetUpdate().GetParticipants() {
					if p.Identity == "ann" {
						if heard++; p.Name == "at last" {
							return true
						}
					}
				}
				return false
			})
			if most := 2*newsBurst/newsCost + int(time.Since(began).Seconds()+1)*newsPerSec/newsCost; heard > most {
				t.Errorf("got %d updates of ann, want at most %d", heard, most)
			}
			for _, client := range []*testClient{ann, bob} {
				client.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
				client.wait("a pong", func(res *signal.Response) bool { return res.GetPongResp().GetLastPingTimestamp() == 7 })
			}
		})
	}
}

// The first changes of a participant are told at once, and so is the first after a silence; great ones wait for longer.
func TestChangesAreGathered(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	p := ann.session(f)
	bob.wait("ann's connection", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_ACTIVE) })
	var at []bool
	within(t, p, func() {
		p.talk = newTalk()
		for i := range 100 {
			p.info.Metadata = fmt.Sprint(i)
			p.changed()
			at = append(at, p.talk.waits)
		}
	})
	if slices.Contains(at[:20], true) || !slices.Contains(at[:40], true) {
		t.Errorf("got the first change that waited as number %d, want one after 20 and before 40", slices.Index(at, true))
	}
	bob.wait("the last", func(res *signal.Response) bool {
		for _, p := range res.GetUpdate().GetParticipants() {
			if p.Metadata == "99" {
				return true
			}
		}
		return false
	})
}

// A subscriber's wish that comes in after it has left is nobody's.
func TestTheDepartedWantNothing(t *testing.T) {
	f, base := newTestFocus(t)
	bob := join(t, base, "room", "bob")
	sid := bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO}).Sid
	p := bob.session(f)
	p.learnWant(wanting{sid, "PA_gone"}, wanted{want{mime: "video/VP8", layer: 2}, true})
	within(t, p, func() {
		if got := p.wanted[sid]; len(got) > 0 {
			t.Errorf("got %v wanted by somebody who is not there", got)
		}
	})
}

// A subscriber that comes and goes while its publisher's client hears nothing leaves no wish behind.
func TestTheDepartedWantNothingOfTheDeaf(t *testing.T) {
	f, base := newTestFocus(t)
	bob := join(t, base, "room", "bob")
	sid := bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO}).Sid
	p := bob.session(f)
	guest := &signal.Participant{Sid: "PA_guest", Identity: "guest", Permission: &signal.Permission{}}
	within(t, p, func() {
		p.deafen()
		p.peerChanged(&peer{info: guest})
	})
	p.learnWant(wanting{sid, guest.Sid}, wanted{want{mime: "video/VP8", layer: 2}, true})
	within(t, p, func() {
		if got := p.wanted[sid][guest.Sid]; got.layer != 2 {
			t.Errorf("got %v wanted by somebody who is there, want layer 2", got)
		}
		gone := signal.Clone(guest)
		gone.State = signal.Participant_DISCONNECTED
		p.peerChanged(&peer{info: gone})
		if got := p.wanted[sid]; len(got) > 0 {
			t.Errorf("got %v wanted by somebody who has left", got)
		}
	})
}
