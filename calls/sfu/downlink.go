package sfu

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
)

// Downlink carries everything that goes to one subscriber: its DownTracks, which share its line. The packets themselves
// are written by the goroutines of the layers; Run looks after the rest.
type Downlink struct {
	peer  Uplink
	done  chan struct{}
	once  sync.Once
	ready atomic.Bool

	mu      sync.Mutex // guards what follows
	tracks  []*DownTrack
	reports []rtcp.Packet
	line    line
}

// reportEvery is how often sender reports go out.
const reportEvery = time.Second

// NewDownlink makes the road to a subscriber; peer takes its RTCP.
func NewDownlink(peer Uplink) *Downlink {
	return &Downlink{peer: peer, done: make(chan struct{})}
}

// Ready opens the road when the subscriber's transport is connected. Until then media are not forwarded.
func (l *Downlink) Ready() { l.ready.Store(true) }

// Close ends Run.
func (l *Downlink) Close() { l.once.Do(func() { close(l.done) }) }

// Run reports and judges until Close.
func (l *Downlink) Run() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case now := <-tick.C:
			l.mu.Lock()
			l.judge()
			reports := l.collectReports(now)
			l.mu.Unlock()
			if len(reports) > 0 {
				_ = l.peer.WriteRTCP(reports) // a closed connection is noticed elsewhere
			}
		}
	}
}

func (l *Downlink) attach(t *DownTrack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tracks = append(l.tracks, t)
	t.setLimit(MaxLayers - 1 - l.line.lowered)
}

func (l *Downlink) detach(t *DownTrack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.tracks, t); i >= 0 {
		l.tracks = slices.Delete(l.tracks, i, i+1)
	}
}

// collectReports gives the sender reports. The slice is used again.
func (l *Downlink) collectReports(now time.Time) []rtcp.Packet {
	l.reports = l.reports[:0]
	for _, t := range l.tracks {
		if sr := t.senderReport(now); sr != nil {
			l.reports = append(l.reports, sr)
		}
	}
	return l.reports
}
