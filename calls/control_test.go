package calls

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// media takes the two tracks that come to c, by kind, once each has brought a packet.
func (c *testClient) tracks() map[webrtc.RTPCodecType]*webrtc.TrackRemote {
	c.t.Helper()
	found := map[webrtc.RTPCodecType]*webrtc.TrackRemote{}
	for len(found) < 2 {
		select {
		case remote := <-c.media:
			found[remote.Kind()] = remote
			if !c.brings(remote) {
				c.t.Fatalf("no %v", remote.Kind())
			}
		case <-time.After(patience):
			c.t.Fatalf("no track within %v", patience)
		}
	}
	return found
}

// brings says whether a packet of the track comes, within the tests' patience.
func (c *testClient) brings(remote *webrtc.TrackRemote) bool {
	c.t.Helper()
	if err := remote.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	_, _, err := remote.ReadRTP()
	return err == nil
}

// fallsSilent waits until no packet of the track has come for half a second.
func (c *testClient) fallsSilent(remote *webrtc.TrackRemote) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err := remote.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			c.t.Fatal(err)
		}
		if _, _, err := remote.ReadRTP(); err != nil {
			return
		}
	}
	c.t.Fatalf("%v still comes", remote.Kind())
}

// TestMutedIsNotHeard mutes a client that goes on sending: its packets end at the focus.
func TestMutedIsNotHeard(t *testing.T) {
	focus, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	tracks := bob.tracks()
	voice, picture := tracks[webrtc.RTPCodecTypeAudio], tracks[webrtc.RTPCodecTypeVideo]
	room := theRoom(t, focus)
	p := room.find("ann")
	obey := func(v ruling) { p.do(func() { p.obey(v) }) }

	// The room mutes the voice.
	muted := unbound
	muted.mute = true
	obey(muted)
	sid := ann.wait("the word", func(res *signal.Response) bool { return res.GetMute().GetMuted() }).GetMute().Sid
	bob.fallsSilent(voice)
	if !bob.brings(picture) {
		t.Error("the picture went with the voice")
	}
	// The client may not lift it.
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: sid, Muted: false}}})
	ann.wait("the word again", func(res *signal.Response) bool { return res.GetMute().GetMuted() && res.GetMute().Sid == sid })
	bob.fallsSilent(voice)
	// The room lifts it, and the client unmutes.
	obey(unbound)
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: sid, Muted: false}}})
	if !bob.brings(voice) {
		t.Error("no voice after the mute")
	}

	// An administrator mutes once: until the client unmutes itself.
	p.do(func() { p.muteByAdmin(sid) })
	bob.fallsSilent(voice)
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: sid, Muted: false}}})
	if !bob.brings(voice) {
		t.Error("no voice after the client unmuted itself")
	}

	// Who says that it is muted is not heard, though it sends all the same.
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: sid, Muted: true}}})
	bob.fallsSilent(voice)
	if !bob.brings(picture) {
		t.Error("the picture went with the voice that its client muted")
	}
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: sid, Muted: false}}})
	if !bob.brings(voice) {
		t.Error("no voice after its client muted and unmuted it")
	}

	// An administrator mutes also a picture that its client says it has muted, and sends all the same.
	_, film, _ := strings.Cut(picture.StreamID(), "|")
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: film, Muted: true}}})
	bob.wait("the client's mute", func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool {
			return slices.ContainsFunc(p.Tracks, func(t *signal.Track) bool { return t.Sid == film && t.Muted })
		})
	})
	p.do(func() { p.muteByAdmin(film) })
	bob.fallsSilent(picture)
	ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: film, Muted: false}}})
	if !bob.brings(picture) {
		t.Error("no picture after the client unmuted it")
	}

	// The call becomes view-only: nothing comes, whatever the client sends.
	no := false
	p.do(func() { p.granted = &no; p.permit() })
	ann.wait("the end of its tracks", func(res *signal.Response) bool { return res.GetTrackUnpublished() != nil })
	bob.fallsSilent(voice)
	bob.fallsSilent(picture)
}

// TestMutesReachTheMedia: whatever mutes a track, its media know, so that it takes no part of a narrow line.
func TestMutesReachTheMedia(t *testing.T) {
	focus, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.tracks()
	p := theRoom(t, focus).find("ann")
	muted := func() (sid string, all []bool) {
		within(t, p, func() {
			for _, track := range p.published {
				sid = track.info.Sid
				for up := range track.ups() {
					all = append(all, up.Muted())
				}
			}
		})
		return sid, all
	}
	sid, all := muted()
	if len(all) != 2 || slices.Contains(all, true) {
		t.Fatalf("got tracks that are muted %v, want two that are not", all)
	}
	for _, want := range []bool{true, false} {
		ann.say(&signal.Request{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: sid, Muted: want}}})
		for end := time.Now().Add(patience); ; {
			if _, all := muted(); slices.Contains(all, true) == want {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("muted by its client: got %v for a long time, want %v", !want, want)
			}
		}
	}
	within(t, p, func() { p.muteByAdmin(sid) })
	if _, all := muted(); !slices.Contains(all, true) {
		t.Error("muted by an administrator: its media do not know")
	}
}

// TestCallKeepsItsBudget lets two send more than their call may bring: pictures stop, voices do not.
func TestCallKeepsItsBudget(t *testing.T) {
	focus, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	tracks := bob.tracks()
	room := theRoom(t, focus)
	p := room.find("ann")
	narrow := unbound
	narrow.bitrate = 8 * 800 // bytes a second: the voice alone brings about twenty packets of these
	p.do(func() { p.obey(narrow) })
	deadline := time.Now().Add(patience)
	for room.budget.Refused() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("nothing was refused")
		}
		if !bob.brings(tracks[webrtc.RTPCodecTypeAudio]) {
			t.Fatal("the voice stopped")
		}
	}
	wide := unbound
	p.do(func() { p.obey(wide) })
	if !bob.brings(tracks[webrtc.RTPCodecTypeVideo]) {
		t.Error("no picture once the budget was lifted")
	}
}

// TestParticipantKeepsItsBudget lets one send more than a participant may: its pictures stop, its voice does not, and nobody else loses anything.
func TestParticipantKeepsItsBudget(t *testing.T) {
	focus, base := newTestFocus(t, func(c *Config) { c.MaxParticipantBitrate = 8 * 800 }) // see above
	ann, bob := joinAs(t, base, "room", "ann", joining{steady: true}), joinAs(t, base, "room", "bob", joining{steady: true})
	room := theRoom(t, focus)
	a, b := room.find("ann"), room.find("bob")
	b.do(func() { b.budgets[0].SetLimit(0) })
	ann.publish("ann")
	bob.publish("bob")
	fromAnn, fromBob := bob.tracks(), ann.tracks()
	for deadline := time.Now().Add(patience); a.budgets[0].Refused() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing was refused")
		}
		if !bob.brings(fromAnn[webrtc.RTPCodecTypeAudio]) || !ann.brings(fromBob[webrtc.RTPCodecTypeVideo]) {
			t.Fatal("ann's voice stopped, or bob's picture")
		}
	}
	if own, all := b.budgets[0].Refused(), room.budget.Refused(); own+all != 0 {
		t.Errorf("got %d packets of bob refused and %d of all together, want only ann's", own, all)
	}
	a.do(a.measure)
	told := make(chan uint64, 1)
	a.do(func() { told <- a.measured.Load().Dropped })
	if got := <-told; got == 0 {
		t.Error("operators are not told")
	}
	a.do(func() { a.budgets[0].SetLimit(0) })
	if !bob.brings(fromAnn[webrtc.RTPCodecTypeVideo]) {
		t.Error("no picture once the budget was lifted")
	}
}

// TestTheConfigurationBoundsEachCall: what all may send together is bounded though no room says so, and no room lifts that.
func TestTheConfigurationBoundsEachCall(t *testing.T) {
	focus, base := newTestFocus(t, func(c *Config) { c.MaxCallBitrate = 8 * 800 })
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	tracks := bob.tracks()
	room := theRoom(t, focus)
	untilMore := func(what string) {
		t.Helper()
		before := room.budget.Refused()
		for deadline := time.Now().Add(patience); room.budget.Refused() < before+5; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: nothing is refused", what)
			}
			if !bob.brings(tracks[webrtc.RTPCodecTypeAudio]) {
				t.Fatalf("%s: the voice stopped", what)
			}
		}
	}
	untilMore("the room says nothing")
	for _, bitrate := range []int64{0, 8 * 80_000_000} {
		v := unbound
		v.bitrate = bitrate
		p := room.find("ann")
		said := make(chan struct{})
		p.do(func() { p.obey(v); close(said) })
		<-said
		untilMore(fmt.Sprintf("the room says %d", bitrate))
	}
}

// TestOrdersOfAnotherProcess: an order is obeyed once it is written, and not again and again.
func TestOrdersOfAnotherProcess(t *testing.T) {
	l := newTestLeaves(t)
	f, room := l.focus, id.RoomID("!a:interior.test")
	seen := map[id.RoomID]int64{}
	present := func() *Participant {
		p := &Participant{identity: "ann", user: "@ann:finance.test", matrixRoom: room, room: f.rooms["c"], binding: &Matrix{}, done: make(chan struct{})}
		f.rooms["c"].everyone.Store(&[]*Participant{p})
		return p
	}
	for _, c := range []struct {
		name    string
		ordered bool
		judged  bool // a room that is not there has nobody in its calls
	}{{"none", false, false}, {"the first", true, true}, {"the same", false, false}, {"another", true, true}, {"the same again", false, false}} {
		p := present()
		if c.ordered {
			l.order(t, room, `{}`)
		}
		if err := f.look(t.Context(), seen); err != nil {
			t.Fatal(err)
		}
		if got := p.ended(); got != c.judged {
			t.Errorf("%s: judged %v, want %v", c.name, got, c.judged)
		}
		if p.ended() && p.because.reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
			t.Errorf("%s: got reason %v", c.name, p.because.reason)
		}
	}
}

// TestTheNewestRulingHolds: rulings that were asked for at different times come in any order, and what was asked for last is obeyed.
func TestTheNewestRulingHolds(t *testing.T) {
	l := newTestLeaves(t)
	f, house, room, ann := l.focus, l.focus.house, id.RoomID("!a:interior.test"), id.UserID("@ann:finance.test")
	l.aRoom(t, room, ann)
	order := func(orders string) { t.Helper(); l.order(t, room, orders) }
	for _, c := range []struct {
		name string
		ask  func(p *Participant) func() // and gives what is to be done in p's goroutine
	}{
		{"the room has news", func(p *Participant) func() {
			if err := f.rejudge(t.Context(), room); err != nil {
				t.Fatal(err)
			}
			return <-p.inbox
		}},
		{"the bearer is asked about anew", func(p *Participant) func() {
			v, err := house.admit(t.Context(), p.claims)
			if err != nil {
				t.Fatal(err)
			}
			return func() { p.obey(v) }
		}},
	} {
		p := l.inRoom(room, ann)
		f.rooms["c"].everyone.Store(&[]*Participant{p})
		order(`{"muted":["` + string(ann) + `"]}`)
		older := c.ask(p)
		order(`{}`)
		newer := c.ask(p)
		newer()
		if older(); p.ruling.mute {
			t.Errorf("%s: what was asked before overrides what was asked after", c.name)
		}
		order(`{"muted":["` + string(ann) + `"]}`)
		if c.ask(p)(); !p.ruling.mute {
			t.Errorf("%s: what was asked last is not obeyed", c.name)
		}
	}
}
