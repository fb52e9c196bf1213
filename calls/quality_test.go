package calls

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

func TestOpinion(t *testing.T) {
	for _, c := range []struct {
		name        string
		sample      lineSample
		least, most float64
	}{
		{"clean", lineSample{}, 4.3, 4.5},
		{"across a country", lineSample{delay: 40 * time.Millisecond, jitter: 5 * time.Millisecond, loss: 0.5}, 4.2, 4.5},
		{"five percent lost", lineSample{loss: 5}, 3.9, 4.15},
		{"ten percent lost", lineSample{loss: 10}, 3.2, 3.7},
		{"a fifth lost", lineSample{loss: 20}, 1.5, 2.7},
		{"a satellite", lineSample{delay: 600 * time.Millisecond}, 3.5, 4.1},
		{"a high layer missing", lineSample{missing: 1}, 3.1, 3.7},
		{"no picture", lineSample{missing: allLayers}, 1, 3},
		{"everything lost", lineSample{loss: 100, delay: 5 * time.Second}, 1, 1},
	} {
		if got := c.sample.opinion(); got < c.least || got > c.most {
			t.Errorf("%s: got %.2f, want %.2f to %.2f", c.name, got, c.least, c.most)
		}
	}
}

func TestLineQuality(t *testing.T) {
	const poor, good, excellent = signal.LinkQuality_POOR, signal.LinkQuality_GOOD, signal.LinkQuality_EXCELLENT
	steady := func(score float64, n int) (list []float64) {
		for range n {
			list = append(list, score)
		}
		return list
	}
	for _, c := range []struct {
		name   string
		scores []float64
		want   signal.LinkQuality
	}{
		{"at once", steady(4.4, 1), excellent},
		{"one bad second", append(steady(4.4, 10), 3.5), excellent},
		{"bad for good", append(steady(4.4, 10), steady(2, 10)...), poor},
		{"middling for good", append(steady(4.4, 10), steady(3.5, 10)...), good},
		{"at the border from above", append(steady(4.4, 10), steady(3.95, 30)...), excellent},
		{"at the border from below", append(steady(3.5, 10), steady(4.05, 30)...), good},
		{"back again", append(steady(2, 10), steady(4.4, 12)...), excellent},
	} {
		var q lineQuality
		for _, score := range c.scores {
			q.hear(score)
		}
		if q.level != c.want {
			t.Errorf("%s: got %v at %.2f, want %v", c.name, q.level, q.score, c.want)
		}
	}
}

// TestQualityGoesToWhomItConcerns: a client hears how its own line is and those of whom it gets tracks, and of nobody else.
func TestQualityGoesToWhomItConcerns(t *testing.T) {
	focus, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	room := theRoom(t, focus)
	sids := map[string]string{ann.joined.Participant.Sid: "ann", bob.joined.Participant.Sid: "bob"}
	for identity := range map[string]bool{"ann": true, "bob": true} {
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // until it is judged, once a second
			if q := room.find(identity).quality(); q != nil && q.Score > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s's line is not judged", identity)
			}
		}
	}
	room.do(func() { room.tellQuality() })
	for who, want := range map[*testClient][]string{ann: {"ann"}, bob: {"ann", "bob"}} {
		told := who.wait("connection_quality", func(res *signal.Response) bool { return len(res.GetConnectionQuality().GetUpdates()) == len(want) }).GetConnectionQuality()
		var got []string
		for _, q := range told.Updates {
			got = append(got, sids[q.ParticipantSid])
			if q.Score < 1 || q.Score > bestScore {
				t.Errorf("%s: got %v, want a score between 1 and %v", sids[q.ParticipantSid], q, bestScore)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("got the lines of %v, want %v", got, want)
		}
	}
}

// TestASilentLineIsLost: of whom nothing comes any more the others hear that the line is lost, and not that it is poor; and that it is not, once
// something comes again.
func TestASilentLineIsLost(t *testing.T) {
	f, base := newTestFocus(t, func(c *Config) { c.Grace = time.Minute })
	media := mediaAddress(t, f)
	r := newRelay(t, media, strings.TrimPrefix(base, "ws://"))
	_, from, _ := net.SplitHostPort(media)
	ann := joinWith(t, base, "room", "ann", func(c *testClient) webrtc.Configuration {
		c.through = strings.NewReplacer("127.0.0.1 "+from+" ", "127.0.0.1 "+strconv.Itoa(r.port())+" ").Replace
		return webrtc.Configuration{}
	})
	bob := join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	p, room := ann.session(f), theRoom(t, f)
	// hears waits until ann's line is judged as wanted, and bob is told so.
	hears := func(want ...signal.LinkQuality) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			q := p.quality()
			if q != nil && q.Score > 0 && slices.Contains(want, q.Quality) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("ann's line is judged as %v, want one of %v", q, want)
			}
		}
		room.do(func() { room.tellQuality() })
		bob.wait(fmt.Sprint(want), func(res *signal.Response) bool {
			return slices.ContainsFunc(res.GetConnectionQuality().GetUpdates(), func(q *signal.LinkQualityInfo) bool {
				return q.ParticipantSid == p.sid && slices.Contains(want, q.Quality)
			})
		})
	}
	const poor, good, excellent, lost = signal.LinkQuality_POOR, signal.LinkQuality_GOOD, signal.LinkQuality_EXCELLENT, signal.LinkQuality_LOST
	hears(good, excellent)
	r.up.Store(&way{Loss: 1})
	r.down.Store(&way{Loss: 1})
	hears(lost)
	r.up.Store(&way{})
	r.down.Store(&way{})
	hears(poor, good, excellent)
}
