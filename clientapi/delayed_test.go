package clientapi

import (
	"fmt"
	"testing"

	"chancery/clientapi/rest"
)

// TestDelayedEventsHaveLimitsOfTheirOwn: a focus, or a ministry behind one address, restarts the events of many without a token, again and again.
// No one of them is restarted without end, and nobody asks without end for what is not there.
func TestDelayedEventsHaveLimitsOfTheirOwn(t *testing.T) {
	cfg := testConfig()
	cfg.HTTP.Limits.Enabled = true
	cfg.HTTP.Limits.Rates[rest.LimitCall] = rest.Rate{PerSecond: 0.001, Burst: 3}
	cfg.HTTP.Limits.Rates[rest.LimitGeneral] = rest.Rate{PerSecond: 0.001, Burst: 5}
	s := start(t, cfg)
	alice := s.register("alice")
	room := alice.do("POST", v3+"/createRoom", map[string]any{}).ok().str("room_id")
	const path = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"
	var last string
	for n := range 10 {
		last = alice.do("PUT", fmt.Sprintf("%s/rooms/%s/state/org.test/%d?org.matrix.msc4140.delay=60000", v3, room, n), `{}`).ok().str("delay_id")
		for range 2 {
			s.do("", "POST", path+last+"/restart", nil).ok()
		}
	}
	s.do("", "POST", path+last+"/restart", nil).ok()
	s.do("", "POST", path+last+"/restart", nil).fails(429, "M_LIMIT_EXCEEDED")
	for n := range 5 {
		s.do("", "POST", fmt.Sprint(path, "made-up-", n, "/restart"), nil).fails(404, "M_NOT_FOUND")
	}
	s.do("", "POST", path+"made-up/send", nil).fails(429, "M_LIMIT_EXCEEDED")
}
