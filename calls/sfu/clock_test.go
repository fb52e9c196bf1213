package sfu

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestNobodyAsksTheWallClock: what the machine's clock shows may be set at any time, by an hour or a day. Nothing here goes by it.
func TestNobodyAsksTheWallClock(t *testing.T) {
	files, err := filepath.Glob("*.go")
	must(t, err)
	wall := regexp.MustCompile(`\.Unix(Milli|Micro|Nano)?\(`)
	looked := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		must(t, err)
		looked++
		for i, line := range strings.Split(string(text), "\n") {
			if wall.MatchString(line) {
				t.Errorf("%s:%d: goes by the wall clock: %s", file, i+1, strings.TrimSpace(line))
			}
		}
	}
	if looked == 0 {
		t.Error("no file was looked at")
	}
}

// TestTheClockGoesOn: the beginning of the process lies long after what has not happened, and time goes on from there.
func TestTheClockGoesOn(t *testing.T) {
	now := time.Now()
	if got := millis(now); got < time.Hour.Milliseconds() {
		t.Errorf("got %d ms, want more than an hour", got)
	}
	if got := millis(now.Add(1500*time.Millisecond)) - millis(now); got != 1500 {
		t.Errorf("got %d ms after one and a half seconds, want 1500", got)
	}
	if got := ticks(now.Add(time.Second), 90_000) - ticks(now, 90_000); got != 90_000 {
		t.Errorf("got %d ticks of a second, want 90000", got)
	}
}
