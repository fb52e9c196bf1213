package clientapi

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"chancery/clientapi/rest"
	"chancery/storage/bus"
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

// answerDelayed stops the server's own timers, and has answer stand in for them; what it is asked comes out.
func (s *testServer) answerDelayed(answer error) (asked *atomic.Int32) {
	s.t.Helper()
	s.stop()
	asked = new(atomic.Int32)
	stop, err := bus.Answer(s.t.Context(), s.bus, bus.DelayedDo, func(context.Context, string, bus.DelayedQuestion) (bus.DelayedAnswer, error) {
		asked.Add(1)
		return bus.DelayedAnswer{}, answer
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(stop)
	return asked
}

// TestStrangersDoNotReachTheTimers: one goroutine holds the timers of all; who makes IDs up does not occupy it.
func TestStrangersDoNotReachTheTimers(t *testing.T) {
	cfg := testConfig()
	cfg.HTTP.Limits.Enabled = true
	s := start(t, cfg)
	alice := s.register("alice")
	room := alice.do("POST", v3+"/createRoom", map[string]any{}).ok().str("room_id")
	const path = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"
	ended := alice.do("PUT", v3+"/rooms/"+room+"/state/org.test?org.matrix.msc4140.delay=60000", `{}`).ok().str("delay_id")
	waits := alice.do("PUT", v3+"/rooms/"+room+"/state/org.test/2?org.matrix.msc4140.delay=60000", `{}`).ok().str("delay_id")
	s.do("", "POST", path+ended+"/cancel", nil).ok()
	asked := s.answerDelayed(nil)
	s.do("", "POST", path+ended+"/cancel", nil).ok() // again
	s.do("", "POST", path+ended+"/restart", nil).fails(404, "M_NOT_FOUND")
	found, limited := 0, 0
	for n := range 500 {
		switch a := s.do("", "POST", fmt.Sprintf("%sd%026d/restart", path, n), nil); a.code {
		case http.StatusNotFound:
			found++
		case http.StatusTooManyRequests:
			limited++
		default:
			t.Fatalf("%s: got %d %s", a.what, a.code, a.body.Raw)
		}
	}
	if got := asked.Load(); got != 0 || found == 0 || limited == 0 {
		t.Errorf("of 500 made-up IDs the timers were asked about %d, %d were answered with 404 and %d with 429, want none, and some of both", got, found, limited)
	}
	s.do("", "POST", path+waits+"/restart", nil).ok() // from the same address
	if got := asked.Load(); got != 1 {
		t.Errorf("about an event that waits the timers were asked %d times, want once", got)
	}
}

// TestScheduledThoughTheTimersAreBusy: what is written is scheduled, whether or not the timers have heard of it yet.
func TestScheduledThoughTheTimersAreBusy(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	room := alice.do("POST", v3+"/createRoom", map[string]any{}).ok().str("room_id")
	asked := s.answerDelayed(bus.Refuse(429, "M_LIMIT_EXCEEDED", "Too many requests about delayed events"))
	delay := alice.do("PUT", v3+"/rooms/"+room+"/state/org.test?org.matrix.msc4140.delay=60000", `{}`).ok().str("delay_id")
	if d, err := s.store.DelayedEvents.ByID(t.Context(), delay); err != nil || d == nil || asked.Load() != 1 {
		t.Errorf("event %q: got %v, %v, and the timers were asked %d times", delay, d, err, asked.Load())
	}
}
