package sfu

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"chancery/calls/packet"
)

// Downlink carries everything that goes to one subscriber. Its goroutine owns the forwarding state of all
// its DownTracks, so that one subscriber's packets leave in one order and from one place.
type Downlink struct {
	peer  Uplink
	queue chan item
	done  chan struct{}
	once  sync.Once
	ready atomic.Bool
	lost  atomic.Uint64 // packets that found the queue full

	// owned by Run
	tracks  []*DownTrack
	header  rtp.Header
	meta    packet.Meta
	buf     [receiveMTU + 2]byte // two bytes in front for the number of a repaired packet
	reports []rtcp.Packet
	line    line
}

// item is one thing for Run to do. Media are named by layer and number; the bytes stay in the layer's cache.
type item struct {
	what  uint8
	track *DownTrack
	layer *Layer
	seq   int64
}

const (
	doForward uint8 = iota
	doRepair        // seq holds a NACK pair: number, and mask shifted by 16
	doAttach
	doDetach
)

// downlinkQueue is how many packets may wait: about half a second of a large call. In a small one they get too old first.
const downlinkQueue = 1024

// reportEvery is how often sender reports go out.
const reportEvery = time.Second

// NewDownlink makes the road to a subscriber; peer takes its RTCP.
func NewDownlink(peer Uplink) *Downlink {
	return &Downlink{peer: peer, queue: make(chan item, downlinkQueue), done: make(chan struct{})}
}

// Ready opens the road when the subscriber's transport is connected. Until then media are not forwarded.
func (l *Downlink) Ready() { l.ready.Store(true) }

// Close ends Run.
func (l *Downlink) Close() { l.once.Do(func() { close(l.done) }) }

// Lost is how many packets were dropped because the subscriber's queue was full.
func (l *Downlink) Lost() uint64 { return l.lost.Load() }

// push never blocks. A packet that finds the queue full is lost like one on the wire: its number
// stays free, and the subscriber's NACK brings it from the cache.
func (l *Downlink) push(it item) {
	select {
	case l.queue <- it:
	default:
		l.lost.Add(1)
	}
}

// must waits for room in the queue; for attaching and detaching, which may not get lost.
func (l *Downlink) must(it item) {
	select {
	case l.queue <- it:
	case <-l.done:
	}
}

// Run writes until Close.
func (l *Downlink) Run() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case it := <-l.queue:
			l.handle(it)
		case now := <-tick.C:
			l.sendReports(now)
			l.judge()
		}
	}
}

func (l *Downlink) handle(it item) {
	switch it.what {
	case doForward:
		it.track.forward(it.layer, it.seq)
	case doRepair:
		it.track.repair(it.layer, uint16(it.seq), uint16(it.seq>>16))
	case doAttach:
		l.tracks = append(l.tracks, it.track)
		it.track.setLimit(MaxLayers - 1 - l.line.lowered)
	case doDetach:
		for i, t := range l.tracks {
			if t == it.track {
				l.tracks = append(l.tracks[:i], l.tracks[i+1:]...)
				break
			}
		}
	}
}

func (l *Downlink) sendReports(now time.Time) {
	l.reports = l.reports[:0]
	for _, t := range l.tracks {
		if sr := t.senderReport(now); sr != nil {
			l.reports = append(l.reports, sr)
		}
	}
	if len(l.reports) > 0 {
		_ = l.peer.WriteRTCP(l.reports) // a closed connection is noticed elsewhere
	}
}
