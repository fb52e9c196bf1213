package calls

import (
	"testing"
	"time"

	"chancery/calls/signal"
)

// TestThePublisherHearsOfItsFirstSubscriber: of each track once, when the first one gets it, and not of those who come after.
func TestThePublisherHearsOfItsFirstSubscriber(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	p := ann.session(f)
	ann.publish("ann")
	// hears counts what ann was told of each track, once so many want each.
	hears := func(subscribers int) map[string]int {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			published, least := 0, subscribers
			within(t, p, func() {
				for sid, track := range p.published {
					if track.live {
						published++
					}
					least = min(least, len(p.wanted[sid]))
				}
			})
			if published == 2 && least == subscribers {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d tracks are published, and wanted by %d, want 2 and %d", published, least, subscribers)
			}
		}
		told := map[string]int{}
		ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
		ann.wait("a pong", func(res *signal.Response) bool {
			if m := res.GetTrackSubscribed(); m != nil {
				told[m.TrackSid]++
			}
			return res.GetPong() != 0
		})
		return told
	}
	if told := hears(0); len(told) != 0 {
		t.Errorf("alone: got %v, want nothing", told)
	}
	join(t, base, "room", "bob").hears("ann")
	first := hears(1)
	for sid, n := range first {
		if n != 1 {
			t.Errorf("the first subscriber: got %d messages of %s, want one", n, sid)
		}
	}
	if len(first) != 2 {
		t.Errorf("the first subscriber: got %v, want word of both tracks", first)
	}
	join(t, base, "room", "cat").hears("ann")
	if told := hears(2); len(told) != 0 {
		t.Errorf("another subscriber: got %v, want nothing", told)
	}
}
