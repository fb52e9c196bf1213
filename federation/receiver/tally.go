package receiver

import (
	"maps"
	"sync"
	"time"

	"chancery/storage/bus"
)

// Tally counts what became of a server's events since the start.
type Tally struct {
	Accepted, SoftFailed, Rejected, Dropped int
	// Reasons for which events were not accepted, by how often.
	Reasons map[string]int
	// Heard is when the server last sent a transaction.
	Heard time.Time
}

// The bounds of what is counted.
const (
	maxTallies = 20_000
	maxReasons = 20
	maxReason  = 160
)

type tallies struct {
	mu    sync.Mutex
	known map[string]*Tally
}

func newTallies() *tallies { return &tallies{known: make(map[string]*Tally)} }

// Tallies gives the counts of all servers that have sent anything since the start.
func (r *Receiver) Tallies() map[string]Tally {
	r.tallies.mu.Lock()
	defer r.tallies.mu.Unlock()
	all := make(map[string]Tally, len(r.tallies.known))
	for server, t := range r.tallies.known {
		all[server] = Tally{t.Accepted, t.SoftFailed, t.Rejected, t.Dropped, maps.Clone(t.Reasons), t.Heard}
	}
	return all
}

func (t *tallies) of(server string) *Tally {
	known := t.known[server]
	if known == nil {
		if len(t.known) >= maxTallies {
			for name := range t.known { // any one: this is for operators' eyes
				delete(t.known, name)
				break
			}
		}
		known = &Tally{Reasons: make(map[string]int)}
		t.known[server] = known
	}
	return known
}

func (t *tallies) heard(server string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(server).Heard = now
}

// dropped counts events that never reached their room.
func (t *tallies) dropped(server string, n int, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.of(server)
	known.Dropped += n
	known.because("dropped: "+reason, n)
}

// judged counts the room's verdicts.
func (t *tallies) judged(server string, outcomes []bus.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.of(server)
	for _, o := range outcomes {
		if o.Already {
			continue
		}
		switch o.Verdict {
		case bus.Accepted:
			known.Accepted++
		case bus.SoftFailed:
			known.SoftFailed++
			known.because("soft-failed: "+o.Reason, 1)
		case bus.Rejected:
			known.Rejected++
			known.because("rejected: "+o.Reason, 1)
		}
	}
}

func (t *Tally) because(reason string, n int) {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	if _, ok := t.Reasons[reason]; !ok && len(t.Reasons) >= maxReasons {
		reason = "others"
	}
	t.Reasons[reason] += n
}
