package calls

import (
	"testing"

	"chancery/calls/signal"
)

// Only that somebody without tracks has come or stands may wait; a leave, a track or a new name may not.
func TestMereArrivals(t *testing.T) {
	state := func(s signal.Participant_State, tracks ...*signal.Track) *signal.Participant {
		return &signal.Participant{Sid: "PA_1", State: s, Tracks: tracks}
	}
	track := &signal.Track{Sid: "TR_1"}
	for _, c := range []struct {
		name        string
		before, now *signal.Participant
		want        bool
	}{
		{"has come", nil, state(signal.Participant_JOINED), true},
		{"stands at once", nil, state(signal.Participant_ACTIVE), true},
		{"stands", state(signal.Participant_JOINED), state(signal.Participant_ACTIVE), true},
		{"comes with a track", nil, state(signal.Participant_JOINED, track), false},
		{"stands and has a track", state(signal.Participant_JOINED), state(signal.Participant_ACTIVE, track), false},
		{"takes its track away", state(signal.Participant_ACTIVE, track), state(signal.Participant_ACTIVE), false},
		{"has another name", state(signal.Participant_ACTIVE), state(signal.Participant_ACTIVE), false},
		{"has another name before it stands", state(signal.Participant_JOINED), state(signal.Participant_JOINED), false},
		{"has left", state(signal.Participant_JOINED), state(signal.Participant_DISCONNECTED), false},
		{"has left before anybody heard of it", nil, state(signal.Participant_DISCONNECTED), false},
	} {
		var before *peer
		if c.before != nil {
			before = &peer{info: c.before}
		}
		if got := mereArrival(c.now, before); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Two who come at once are one message for the third, and what follows is told after it.
func TestArrivalsAreGathered(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	ann.wait("its connection", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_ACTIVE) })
	f.mu.Lock()
	p := f.rooms["room"].find("ann")
	f.mu.Unlock()
	come := func(sid string, tracks ...*signal.Track) *peer {
		return &peer{info: &signal.Participant{Sid: sid, Identity: sid, State: signal.Participant_JOINED, Tracks: tracks, Permission: &signal.Permission{}}, allow: &allowance{}}
	}
	p.do(func() {
		p.peerChanged(come("bob"))
		p.peerChanged(come("cat"))
		p.peerChanged(come("dan", &signal.Track{Sid: "TR_1"}))
	})
	var said [][]*signal.Participant
	ann.wait("dan", func(res *signal.Response) bool {
		if u := res.GetUpdate(); u != nil {
			said = append(said, u.Participants)
		}
		return mentions(res, "dan", signal.Participant_JOINED)
	})
	if len(said) != 2 || len(said[0]) != 2 || len(said[1]) != 1 {
		t.Errorf("got %v, want bob and cat in one message and dan in the next", said)
	}
	p.do(func() { p.peerChanged(come("eve")) })
	ann.wait("eve", func(res *signal.Response) bool { return mentions(res, "eve", signal.Participant_JOINED) })
}
