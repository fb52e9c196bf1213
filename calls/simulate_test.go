package calls

import (
	"testing"
	"time"

	"chancery/calls/signal"
)

// TestSimulatedBandwidth: a client may ask to be treated as one on a narrow line.
func TestSimulatedBandwidth(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.film()
	seen := bob.screen()
	comes := func(what string, want func(layer int) bool) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			if layer, _, _ := seen.read(); layer >= 0 && want(layer) {
				return
			}
			if time.Now().After(end) {
				layer, _, _ := seen.read()
				t.Fatalf("%s: got layer %d", what, layer)
			}
		}
	}
	simulate := func(bps int64) {
		bob.say(&signal.Request{Message: &signal.Request_Simulate{Simulate: &signal.Simulate{Scenario: &signal.Simulate_SubscriberBandwidth{SubscriberBandwidth: bps}}}})
	}
	comes("an open line", func(layer int) bool { return layer == 2 })
	simulate(300_000)
	comes("300 kbit/s", func(layer int) bool { return layer == 0 })
	p := bob.session(f)
	within(t, p, func() {
		if n := p.link.Numbers(); !n.Bounded || n.Estimate > 300_000 {
			t.Errorf("got %+v, want a line of 300 kbit/s", n)
		}
	})
	simulate(0)
	comes("an open line again", func(layer int) bool { return layer == 2 })
}
