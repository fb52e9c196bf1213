package rooms

import (
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// TestTimersWhenTheClockIsSet: threat D8. What waits is sent when its time has gone by, whatever the host's clock says meanwhile.
func TestTimersWhenTheClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, 0, 24 * time.Hour} {
		begun := time.Now()
		now := begun
		w := &timers{Handlers: &Handlers{now: func() time.Time { return now }}, waiting: map[string]*timer{}}
		w.waiting["d"] = newTimer(&storage.DelayedEvent{ID: "d", Due: begun.Add(time.Minute).UnixMilli()}, begun)
		for after, want := range map[time.Duration]int{time.Minute - time.Second: 0, time.Minute + time.Second: 1} {
			now = begun.Add(after)
			*(*uint64)(unsafe.Pointer(&now)) += uint64(by/time.Second) << 30 // the clock's seconds, and not what time has gone by
			if got := now.Round(0).Sub(begun.Round(0)) - after; got != by {
				t.Fatalf("the clock was set by %v, want %v", got, by)
			}
			if got := len(w.ripe()); got != want {
				t.Errorf("set by %v, after %v: got %d events that are due, want %d", by, after, got, want)
			}
			if next := w.next(); (next == 0) != (want == 1) || next > time.Second {
				t.Errorf("set by %v, after %v: looks again after %v", by, after, next)
			}
		}
	}
}

// TestTimersTryAgainForAnHour: what could be neither sent nor refused for good is tried again, ever more seldom, and not without end.
func TestTimersTryAgainForAnHour(t *testing.T) {
	begun := time.Now()
	now := begun
	w := &timers{Handlers: &Handlers{now: func() time.Time { return now }}, waiting: map[string]*timer{}}
	d := newTimer(&storage.DelayedEvent{ID: "d", Due: begun.UnixMilli()}, begun)
	w.waiting["d"] = d
	tries, last := 0, time.Duration(0)
	for !d.vain(now) {
		tries++
		w.settle(t.Context(), sent{d, bus.Refuse(502, "M_UNKNOWN", "away")})
		pause := w.next()
		if pause < last && pause < lookEvery || d.due.Sub(now) > retryMost {
			t.Fatalf("try %d: waits %v after %v", tries, d.due.Sub(now), last)
		}
		last, now = pause, d.due
		if len(w.ripe()) != 1 {
			t.Fatalf("after try %d it is not due", tries)
		}
	}
	if tries < 60 || tries > 70 || now.Sub(begun) < tryFor || now.Sub(begun) > tryFor+retryMost {
		t.Errorf("%d tries in %v, want some sixty in an hour", tries, now.Sub(begun))
	}
	for status, want := range map[int]bool{400: false, 403: false, 404: false, 413: false, 429: true, 500: true, 502: true, 504: true} {
		if got := passing(status); got != want {
			t.Errorf("%d may pass: got %v, want %v", status, got, want)
		}
	}
}

// TestARoomThatHangsHoldsUpNoOther: a room may wait ten seconds for its policy server; what is due in another is sent meanwhile.
func TestARoomThatHangsHoldsUpNoOther(t *testing.T) {
	messages, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(messages.Close)
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	for _, room := range []id.RoomID{"!hangs:x", "!well:x"} {
		stop, err := bus.Serve(messages, bus.RoomDo(room), func(q *bus.Question[bus.RoomQuestion, bus.RoomAnswer]) {
			if room == "!well:x" {
				q.Respond(bus.RoomAnswer{Outcomes: []bus.Outcome{{EventID: "$sent"}}}, nil)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	w := &timers{Handlers: &Handlers{now: time.Now, store: store, bus: messages}, sent: make(chan sent, 2)}
	event := func(d string, room id.RoomID) *timer {
		return newTimer(&storage.DelayedEvent{ID: d, UserID: "@anna:x", RoomID: room, Type: "org.test", Content: []byte("{}")}, time.Now())
	}
	w.fire(t.Context(), []*timer{event("d1", "!hangs:x"), event("d2", "!hangs:x"), event("d3", "!well:x")})
	select {
	case s := <-w.sent:
		if s.ID != "d3" {
			t.Errorf("%s was sent first (%v), want that of the room that does not hang", s.ID, s.err)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing was sent within five seconds: each waits for the room that hangs")
	}
}
