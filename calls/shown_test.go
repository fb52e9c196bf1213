package calls

import (
	"fmt"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// TestSettingsAreKept: what a client says of a track before it has it, or while it wants none of it, holds when it gets it.
func TestSettingsAreKept(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	sid := bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO}).Sid
	p := ann.session(f)
	handle := func(req *signal.Request) { within(t, p, func() { p.handle(req) }) }
	expect := func(when string, want sfu.Wish, rank int) {
		t.Helper()
		within(t, p, func() {
			if s := p.subs[sid]; s == nil || s.wish != want || s.rank() != rank {
				t.Errorf("%s: got %+v, want %+v of rank %d", when, s, want, rank)
			}
		})
	}
	subscribe := func(on bool) {
		handle(&signal.Request{Message: &signal.Request_Subscription{Subscription: &signal.UpdateSubscription{TrackSids: []string{sid}, Subscribe: on}}})
	}
	handle(settingOf(&signal.TrackSetting{TrackSids: []string{sid}, Width: 300, Height: 200, Fps: 15, Priority: 2}))
	bob.sends(webrtc.MimeTypeVP8, "bob")
	ann.shows(ann.track(), "vp8")
	expect("said before", sfu.Wish{Width: 300, Height: 200, FPS: 15}, screenPriority-2)
	subscribe(false)
	handle(settingOf(&signal.TrackSetting{TrackSids: []string{sid}, Quality: signal.VideoQuality_OFF}))
	subscribe(true)
	expect("said meanwhile", sfu.Wish{Disabled: true, Quality: 3}, 0)

	subscribed := func() (s *subscription) { within(t, p, func() { s = p.subs[sid] }); return s }
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s, bound := subscribed(), false
		if within(t, p, func() { bound = s != nil && s.sender != nil }); bound {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no media section within %v", patience)
		}
	}
	handle(settingOf(&signal.TrackSetting{TrackSids: []string{sid}}))
	handle(settingOf(&signal.TrackSetting{TrackSids: []string{sid, sid}, Disabled: true}))
	timer := subscribed().hiding
	handle(settingOf(&signal.TrackSetting{TrackSids: []string{sid, sid}, Disabled: true}))
	if again := subscribed().hiding; timer == nil || again != timer {
		t.Errorf("got another timer for a track that is being hidden already (%p, %p)", timer, again)
	}

	var strange []string
	for i := range 2 * maxWishes {
		strange = append(strange, fmt.Sprint("TR_", i))
	}
	for _, part := range [][]string{strange[:maxWishes], strange[maxWishes:]} {
		handle(settingOf(&signal.TrackSetting{TrackSids: part}))
		handle(&signal.Request{Message: &signal.Request_Subscription{Subscription: &signal.UpdateSubscription{TrackSids: part, Subscribe: true}}})
	}
	within(t, p, func() {
		if len(p.settings) > maxWishes || len(p.wishes) > maxWishes || len(p.sought) > maxWishes {
			t.Errorf("got %d settings, %d wishes, %d sought, want at most %d", len(p.settings), len(p.wishes), len(p.sought), maxWishes)
		}
		if !p.settings[sid].wish.Disabled || !p.wishes[sid] {
			t.Error("what was said of a track that is there had to go for what is not there")
		}
	})
}

// TestTracksThatAreNotThere: who asks for a track that does not come is told so, once, and gets it if it comes after all.
func TestTracksThatAreNotThere(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	sid := bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO}).Sid
	p := ann.session(f)
	within(t, p, func() {
		p.handle(&signal.Request{Message: &signal.Request_Subscription{Subscription: &signal.UpdateSubscription{TrackSids: []string{sid}, Subscribe: true}}})
		p.tellNotFound(time.Now()) // it may still come
	})
	for range 2 {
		within(t, p, func() { p.tellNotFound(time.Now().Add(soughtFor)) })
	}
	bob.sends(webrtc.MimeTypeVP8, "bob")
	ann.shows(ann.track(), "vp8")
	ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 3}})
	told := 0
	ann.wait("a pong", func(res *signal.Response) bool {
		if r := res.GetSubscriptionResponse(); r != nil {
			if told++; r.TrackSid != sid || r.Err != notFound {
				t.Errorf("got %v, want that %s was not found", r, sid)
			}
		}
		return res.GetPong() != 0
	})
	if told != 1 {
		t.Errorf("told %d times, want once", told)
	}
}

func TestRank(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, then *subscription
	}{
		{"a screen before what the client puts first", &subscription{screen: true}, &subscription{said: 1}},
		{"the client's first before its second", &subscription{said: 1}, &subscription{said: 2}},
		{"its last before who speaks", &subscription{said: 1 << 31}, &subscription{speaks: true}},
		{"who speaks before the others", &subscription{speaks: true}, &subscription{}},
	} {
		if a, b := c.first.rank(), c.then.rank(); a <= b || a > screenPriority {
			t.Errorf("%s: got %d and %d", c.name, a, b)
		}
	}
}

// TestMayPause: what the client says holds; one that says nothing is asked by whether it adapts its streams, as Element Call does.
func TestMayPause(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name string
		said *signal.ConnectionSettings
		want bool
	}{
		{"no settings", nil, false},
		{"nothing said", &signal.ConnectionSettings{}, false},
		{"nothing said, by one that adapts", &signal.ConnectionSettings{AdaptiveStream: true}, true},
		{"it may", &signal.ConnectionSettings{SubscriberAllowPause: &yes}, true},
		{"it may not, of one that adapts", &signal.ConnectionSettings{AdaptiveStream: true, SubscriberAllowPause: &no}, false},
	} {
		if got := mayPause(c.said); got != c.want {
			t.Errorf("%s: may pause %v, want %v", c.name, got, c.want)
		}
	}
}
