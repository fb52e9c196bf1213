package rooms

import (
	"testing"
	"time"
	"unsafe"

	"chancery/storage"
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
