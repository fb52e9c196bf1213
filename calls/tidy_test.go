package calls

import (
	"strings"
	"testing"
	"time"

	"chancery/calls/signal"
)

// TestEndedSendersAreTakenAway: the sections of somebody who has gone are given up a moment later, though nothing new asks for a negotiation,
// and serve the next one.
func TestEndedSendersAreTakenAway(t *testing.T) {
	_, base := newTestFocus(t)
	bob := join(t, base, "room", "bob")
	leave := func(c *testClient) {
		c.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{Reason: signal.DisconnectReason_CLIENT_INITIATED}}})
	}
	sections := func(what string, inactive, sending int) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(patience); ; <-tick.C {
			offered := ""
			if d := bob.sub.CurrentRemoteDescription(); d != nil {
				offered = d.SDP
			}
			if strings.Count(offered, "a=inactive") == inactive && strings.Count(offered, "a=sendonly") == sending {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: bob was offered %q, want %d sections inactive and %d sending", what, offered, inactive, sending)
			}
		}
	}
	ann := join(t, base, "room", "ann")
	ann.publish("ann")
	bob.hears("ann")
	leave(ann)
	sections("ann has gone", 2, 0)
	cat := join(t, base, "room", "cat")
	cat.publish("cat")
	sections("cat has their places", 0, 2)
}
