package calls

import (
	"fmt"
	"testing"
)

// TestGreatCallsAreListed: a call with more people than an answer holds is there with its count and loses some of them, and hides no other.
func TestGreatCallsAreListed(t *testing.T) {
	f, base := newTestFocus(t)
	for n := range 3 {
		join(t, base, "great", fmt.Sprint("ann", n))
	}
	join(t, base, "small", "bob")
	for _, c := range []struct {
		name              string
		most, calls       int
		more              bool
		greatOnes, smalls int // listed; -1: the call is not
	}{
		{"room for all", 4, 2, false, 3, 1},
		{"one too many", 3, 2, true, 2, 1},
		{"one place", 1, 2, true, 0, 1},
		{"one call", 4, 1, true, 3, -1},
	} {
		answer := f.list("", c.most, c.calls)
		listed := map[string]int{"great": -1, "small": -1}
		for _, call := range answer.Calls {
			listed[call.Name] = len(call.Participants)
			if want := map[string]int{"great": 3, "small": 1}[call.Name]; call.Count != want {
				t.Errorf("%s: %s: got %d in it, want %d", c.name, call.Name, call.Count, want)
			}
		}
		if answer.More != c.more || listed["great"] != c.greatOnes || listed["small"] != c.smalls {
			t.Errorf("%s: got %v, more %v, want %d and %d, more %v", c.name, listed, answer.More, c.greatOnes, c.smalls, c.more)
		}
	}
}
