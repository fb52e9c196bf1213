package sfu

import "time"

// began is an hour before the process did: what has not happened yet was long ago.
var began = time.Now().Add(-time.Hour)

// millis is a time on a clock that goes on evenly when somebody sets the machine's. Only differences count.
func millis(t time.Time) int64 { return t.Sub(began).Milliseconds() }

// ticks is the same in ticks of a stream's own clock.
func ticks(t time.Time, rate uint32) int64 {
	return t.Sub(began).Microseconds() * int64(rate) / 1_000_000
}
