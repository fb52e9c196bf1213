package calls

import (
	"testing"
	"time"

	"chancery/calls/signal"
)

func TestSilence(t *testing.T) {
	for _, c := range []struct {
		name   string
		rate   uint64 // packets in the last second
		voices int    // that may pause
		how    signal.Ending
		want   time.Duration
	}{
		{"talks and sees", 200, 0, signal.Broken, leastSilence},
		{"few packets", 5, 0, signal.Broken, 2 * time.Second},
		{"only pings", 0, 0, signal.Broken, longestSilence},
		{"one packet", 1, 0, signal.Broken, longestSilence},
		{"its page goes away", 0, 0, signal.Away, leastSilence},
		{"speaks, and may pause now", 52, 1, signal.Broken, pauseSilence},
		{"pauses", 5, 1, signal.Broken, pauseSilence},
		{"speaks, and shows a picture", 100, 1, signal.Broken, 200 * time.Millisecond},
		{"speaks, and shows a large picture", 250, 1, signal.Broken, leastSilence},
	} {
		b := pulse{}
		b.beat(1000)
		b.beat(1000 + c.rate)
		if got := b.silence(c.how, c.voices); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestDeparted(t *testing.T) {
	now := time.Now()
	info := func(identity string) *signal.Participant {
		return &signal.Participant{Sid: "PA_" + identity, Identity: identity}
	}
	var d departed
	d.note(info("long ago"), now.Add(-2*departedFor))
	d.note(info("ann"), now.Add(-time.Minute))
	d.note(info("bob"), now.Add(-time.Second))
	present := map[string]*peer{"PA_2": {info: &signal.Participant{Sid: "PA_2", Identity: "bob"}}}
	got := d.missed(now, present)
	if len(got) != 1 || got[0].Identity != "ann" {
		t.Errorf("got %v, want ann, since bob came back", got)
	}
	for i := range 2 * departedMost {
		d.note(info("many"), now.Add(time.Duration(i)))
	}
	if len(d.list) > departedMost {
		t.Errorf("got %d remembered, want at most %d", len(d.list), departedMost)
	}
}
