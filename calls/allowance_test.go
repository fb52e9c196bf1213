package calls

import (
	"fmt"
	"slices"
	"testing"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestForbiddenTracksAreTold: to who is there, to who comes late, and to who asks; and that they are allowed, when they are.
func TestForbiddenTracksAreTold(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.wait("its connection", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_ACTIVE) })
	may := func(m *signal.SubscriptionPermission) {
		bob.say(&signal.Request{Message: &signal.Request_SubscriptionPermission{SubscriptionPermission: m}})
	}
	may(&signal.SubscriptionPermission{})
	sid := bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO}).Sid
	bob.sends(webrtc.MimeTypeVP8, "bob")
	told := func(c *testClient, when string, allowed bool) {
		t.Helper()
		known := false
		c.wait(fmt.Sprintf("that the track is allowed: %v, %s", allowed, when), func(res *signal.Response) bool {
			for _, p := range res.GetUpdate().GetParticipants() {
				known = known || p.Identity == "bob" && len(p.Tracks) > 0
			}
			u := res.GetSubscriptionPermissionUpdate()
			if u != nil && (u.TrackSid != sid || u.ParticipantSid != bob.joined.Participant.Sid || u.Allowed != allowed) {
				t.Errorf("%s: got %v, want %v for %s", when, u, allowed, sid)
			}
			if u != nil && when == "as it is published" && !known {
				t.Errorf("%s: told before the client knows of the track", when)
			}
			return u != nil
		})
	}
	told(ann, "as it is published", false)
	cat := join(t, base, "room", "cat")
	told(cat, "to who comes late", false)
	ask := &signal.Request{Message: &signal.Request_Subscription{Subscription: &signal.UpdateSubscription{TrackSids: []string{sid}, Subscribe: true}}}
	cat.say(ask)
	told(cat, "to who asks", false)
	within(t, cat.session(f), func() { cat.session(f).repeat() })
	told(cat, "after a resume", false)
	may(&signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{
		{ParticipantIdentity: "cat", TrackSids: []string{sid}}, {ParticipantSid: ann.joined.Participant.Sid, AllTracks: true},
	}})
	for _, c := range []*testClient{ann, cat} {
		told(c, "as it is allowed", true)
		told(c, "with its media", true)
		c.shows(c.track(), "vp8")
	}
}

func TestAllowance(t *testing.T) {
	entry := func(sid, name string, all bool, tracks ...string) *signal.TrackPermission {
		return &signal.TrackPermission{ParticipantSid: sid, ParticipantIdentity: name, AllTracks: all, TrackSids: tracks}
	}
	for _, c := range []struct {
		name string
		said *signal.SubscriptionPermission
		want []string // of TR_1 and TR_2
	}{
		{"nothing was said", nil, nil},
		{"everybody", &signal.SubscriptionPermission{AllParticipants: true}, []string{"TR_1", "TR_2"}},
		{"nobody", &signal.SubscriptionPermission{}, nil},
		{"by name", &signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{entry("", "ann", false, "TR_2")}}, []string{"TR_2"}},
		{"by sid", &signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{entry("PA_ann", "", true)}}, []string{"TR_1", "TR_2"}},
		{"by either", &signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{entry("PA_other", "ann", false, "TR_1")}}, []string{"TR_1"}},
		{"twice", &signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{entry("", "ann", false, "TR_1"), entry("PA_ann", "", false, "TR_2")}}, []string{"TR_1", "TR_2"}},
		{"too much", &signal.SubscriptionPermission{AllParticipants: true, TrackPermissions: []*signal.TrackPermission{entry("", "ann", true, make([]string, maxWishes)...)}}, nil},
		{"another", &signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{entry("PA_bob", "bob", true), entry("", "", true)}}, nil},
	} {
		p := &Participant{sid: "PA_ann", identity: "ann"}
		from := &peer{allow: newAllowance(c.said)}
		var got []string
		for _, track := range []string{"TR_1", "TR_2"} {
			if p.permitted(from, track) {
				got = append(got, track)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestAPermissionThatSaysTooMuch takes the older one away all the same.
func TestAPermissionThatSaysTooMuch(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.wait("its connection", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_ACTIVE) })
	bob.announces(&signal.AddTrack{Cid: "bob", Type: signal.TrackType_VIDEO})
	bob.sends(webrtc.MimeTypeVP8, "bob")
	ann.shows(ann.track(), "vp8")
	bob.say(&signal.Request{Message: &signal.Request_SubscriptionPermission{SubscriptionPermission: &signal.SubscriptionPermission{
		TrackPermissions: []*signal.TrackPermission{{ParticipantIdentity: "cat", TrackSids: make([]string, maxWishes)}},
	}}})
	ann.wait("that it may have the track no longer", func(res *signal.Response) bool {
		u := res.GetSubscriptionPermissionUpdate()
		return u != nil && !u.Allowed
	})
	within(t, ann.session(f), func() {
		if n := len(ann.session(f).subs); n != 0 {
			t.Errorf("got %d tracks, want none", n)
		}
	})
}
