package main

import (
	"runtime/debug"
	"testing"
)

// With a crowd in calls garbage is looked for less often, and as before once it has gone.
func TestTuneGarbage(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	garbageSet.Store(0)
	t.Cleanup(func() { debug.SetGCPercent(before); garbageSet.Store(0) })
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	for _, c := range []struct{ participants, want int }{{0, 50}, {7, 50}, {8, 100}, {23, 100}, {24, 200}, {1000, 200}, {23, 100}, {0, 50}} {
		tuneGarbage(c.participants)
		if got := percent(); got != c.want {
			t.Errorf("%d participants: got %d %%, want %d", c.participants, got, c.want)
		}
	}
	t.Setenv("GOGC", "70")
	debug.SetGCPercent(70)
	if tuneGarbage(100); percent() != 70 {
		t.Errorf("got %d %%, want what GOGC says", percent())
	}
}
