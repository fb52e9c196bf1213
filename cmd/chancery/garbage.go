package main

import (
	"os"
	"runtime/debug"
	"sync/atomic"
)

// garbagePercent is by how many percent the memory may grow until what is no longer used is looked for, with so many people in calls.
// Without calls it is half of Go's habit: under full load that costs a tenth more processor time and saves a quarter of the memory. In a crowd a
// join needs a fifth less time where it is looked for less often, and the memory for that is small beside what the crowd itself needs.
func garbagePercent(participants int) int {
	switch {
	case participants >= 24:
		return 200
	case participants >= 8:
		return 100
	}
	return 50
}

var garbageSet atomic.Int64

// tuneGarbage sets it, unless GOGC says what it shall be. It may be called from anywhere.
func tuneGarbage(participants int) {
	percent := garbagePercent(participants)
	if os.Getenv("GOGC") == "" && garbageSet.Swap(int64(percent)) != int64(percent) {
		debug.SetGCPercent(percent)
	}
}
