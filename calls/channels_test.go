package calls

import (
	"fmt"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestChannelsAreBounded: who opens data channels without end goes, whatever they are called and whether they are closed again.
func TestChannelsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name, label string
		closes      bool
	}{
		{"of no name that we know", "x", false},
		{"of a known one", reliableLabel, false},
		{"one at a time", "x", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t)
			ann, bob := joinData(t, base, "ann"), joinData(t, base, "bob")
			p := ann.session(f)
			open := func() {
				t.Helper()
				opened := make(chan struct{})
				ch, err := ann.pub.CreateDataChannel(c.label, nil)
				if err != nil {
					t.Fatal(err)
				}
				ch.OnOpen(func() { close(opened) })
				select {
				case <-opened:
				case <-p.done:
				case <-time.After(patience):
					t.Fatal("a channel did not open")
				}
				if c.closes {
					if err := ch.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			for n := 2; n < maxChannels; n++ { // two it has
				open()
			}
			ann.send(ann.reliable, 1, 10)
			if got := bob.next("packet"); got.Sequence != 1 {
				t.Errorf("got packet %d, want 1", got.Sequence)
			}
			if p.ended() {
				t.Fatalf("gone with %d channels", maxChannels)
			}
			open()
			ann.wait("the end", func(res *signal.Response) bool {
				return res.GetLeave().GetReason() == signal.DisconnectReason_JOIN_FAILURE
			})
			bob.wait("ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
		})
	}
}

// TestAFurtherChannelTellsNothingAgain: what was said is told once, on the first channel, however many the client opens.
func TestAFurtherChannelTellsNothingAgain(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := joinData(t, base, "ann"), joinData(t, base, "bob")
	hears := func(seq uint32) {
		t.Helper()
		if got := bob.next(fmt.Sprintf("packet %d", seq)); got.Sequence != seq {
			t.Fatalf("got packet %d, want %d", got.Sequence, seq)
		}
	}
	ann.send(ann.reliable, 1, 10)
	hears(1)
	p, opened := bob.session(f), make(chan *webrtc.DataChannel, 1)
	within(t, p, func() {
		further, err := p.sub.pc.CreateDataChannel(reliableLabel, nil)
		if err != nil {
			t.Error(err)
			return
		}
		further.OnOpen(func() { opened <- further })
	})
	select {
	case further := <-opened:
		p.openReliable(further)
	case <-time.After(patience):
		t.Fatal("the further channel did not open")
	}
	ann.send(ann.reliable, 2, 10)
	hears(2)
}
