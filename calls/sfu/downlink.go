package sfu

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"

	"chancery/calls/packet"
)

// Downlink carries everything that goes to one subscriber: its DownTracks, which share its line. The packets themselves
// are written by the goroutines of the layers; Run looks after what the line carries, and who gets how much of it.
type Downlink struct {
	peer  Uplink
	in    *incoming
	cfg   LinkConfig
	done  chan struct{}
	once  sync.Once
	near  atomic.Bool // the transport is about to stand
	ready atomic.Bool
	scant atomic.Bool // too narrow for copies of what was sent
	began time.Time
	woken chan struct{}

	line     sync.Mutex // guards what follows, for the packet path: held for lines
	estimate estimate
	most     int     // bits per second that it is never thought to exceed; 0: none
	next     uint16  // transport-wide number
	said     int     // bits per second that the subscriber thinks it carries (REMB)
	saidAt   int64   // when it said so
	fell     bool    // and less than before, since the reports were judged
	repairs  float64 // bytes that may be sent again on a bounded line
	voices   int     // bits per second that they take of it
	steered  int64   // when they were last counted

	mu      sync.Mutex // guards what follows
	tracks  []*DownTrack
	demands []*demand
	reports []rtcp.Packet
	bounded bool // as the tracks were last told
	plenty  time.Time
	lossy   int // reports in a row, for clients that give no feedback
	clean   int
}

// LinkConfig is what a subscriber allows and wants to hear.
type LinkConfig struct {
	// MayPause lets tracks stop when the line does not even carry their lowest layer.
	MayPause bool
	// Paused is told when a track stops or goes on because of the line, by the goroutine of Run. It must not block.
	Paused func(id string, paused bool)
	// Trailer is for a client that learns of a track by its first packet: while nothing comes of one, a few packets announce it, and frames of ours
	// end with these bytes, by which the client knows that they are not the publisher's. Empty: nothing is announced.
	Trailer []byte
}

const (
	reportEvery = time.Second            // sender reports
	steerEvery  = 100 * time.Millisecond // while the line is narrow
	padEvery    = 5 * time.Millisecond   // during a probe
	// plentyFor is how long a line must carry a third more than all that is wished for, until it is thought of as open.
	plentyFor  = 5 * time.Second
	plenty     = 1.3
	repairPart = 0.25 // of what the voices leave of a narrow line may go to repairs of video
	lossBad    = 12   // percent, in the reports of a client that gives no feedback
	lossGood   = 3
	saidFor    = 3_000_000     // microseconds that a REMB is the one before: browsers send one each second
	saidFalls  = 0.97          // of the one before
	saidLess   = 0.95          // of what was sent
	mostRate   = 1_000_000_000 // beyond which nobody asks what a line carries
)

func newDownlink(peer Uplink, in *incoming, cfg LinkConfig) *Downlink {
	if cfg.Paused == nil {
		cfg.Paused = func(string, bool) {}
	}
	return &Downlink{
		peer: peer, in: in, cfg: cfg, began: time.Now(),
		done: make(chan struct{}), woken: make(chan struct{}, 1),
	}
}

// Near says that the subscriber's transport is about to stand: key frames that are asked for now come in time.
func (l *Downlink) Near() { l.near.Store(true) }

// Ready opens the road when the subscriber's transport is connected. Until then media are not forwarded.
func (l *Downlink) Ready() {
	l.suspect()
	l.ready.Store(true)
}

// Close ends Run.
func (l *Downlink) Close() { l.once.Do(func() { close(l.done) }) }

// Run reports and steers until Close.
func (l *Downlink) Run() {
	report, steer := time.NewTicker(reportEvery), time.NewTicker(steerEvery)
	defer report.Stop()
	defer steer.Stop()
	every := steerEvery
	var announce <-chan time.Time
	if len(l.cfg.Trailer) > 0 {
		t := time.NewTicker(announceEvery)
		defer t.Stop()
		announce = t.C
	}
	for {
		select {
		case <-l.done:
			return
		case now := <-report.C:
			l.report(now)
		case now := <-announce:
			l.announce(now)
		case <-steer.C:
		case <-l.woken:
		}
		wish := l.steer(time.Now())
		if wish != every {
			every = wish
			steer.Reset(max(every, time.Millisecond))
			if every == 0 {
				steer.Stop()
			}
		}
	}
}

// wake has Run steer at once.
func (l *Downlink) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// SetMost has the line taken for no wider than so many bits per second; 0: for what it is.
func (l *Downlink) SetMost(bps int) {
	l.line.Lock()
	l.most = max(bps, 0)
	l.line.Unlock()
	l.wake()
}

func (l *Downlink) micros(now time.Time) int64 { return now.Sub(l.began).Microseconds() }

// number takes the next transport-wide number for a packet, if it is to have one.
func (l *Downlink) number(payload int, probe bool) (seq uint16, ok bool) {
	at := l.micros(time.Now())
	l.line.Lock()
	if ok = probe || l.estimate.wants(at); ok {
		l.next++
		seq = l.next
		l.estimate.note(seq, payload+packetOverhead, at, probe)
	}
	l.line.Unlock()
	return seq, ok
}

// sentAgain is told that a packet goes out a second time under its transport-wide number.
func (l *Downlink) sentAgain(seq uint16) {
	l.line.Lock()
	l.estimate.resent(seq)
	l.line.Unlock()
}

// suspect has the line looked at closely for a while.
func (l *Downlink) suspect() {
	at := l.micros(time.Now())
	l.line.Lock()
	l.estimate.watch(at)
	l.line.Unlock()
}

// mayRepair says whether the line has room to send a packet again.
func (l *Downlink) mayRepair(payload int) bool {
	l.line.Lock()
	defer l.line.Unlock()
	if !l.estimate.bounded {
		return true
	}
	if l.repairs < float64(payload) {
		return false
	}
	l.repairs -= float64(payload)
	return true
}

// transportFeedback takes the subscriber's word on what arrived.
func (l *Downlink) transportFeedback(body []byte) {
	now := l.micros(time.Now())
	r := feedbackRound{least: noDelay}
	l.line.Lock()
	packet.ParseTransportCC(body, func(a packet.Arrival) { l.estimate.arrival(a.Seq, a.Received, a.At, &r) })
	fell := l.estimate.hear(now, &r)
	l.line.Unlock()
	if fell {
		l.wake()
	}
}

func (l *Downlink) attach(t *DownTrack) {
	l.mu.Lock()
	l.tracks = append(l.tracks, t)
	l.mu.Unlock()
	l.suspect()
	l.wake()
}

func (l *Downlink) detach(t *DownTrack) {
	l.mu.Lock()
	if i := slices.Index(l.tracks, t); i >= 0 {
		l.tracks = slices.Delete(l.tracks, i, i+1)
	}
	l.mu.Unlock()
	l.wake()
}

// report sends the sender reports.
func (l *Downlink) report(now time.Time) {
	l.mu.Lock()
	l.reports = l.reports[:0]
	for _, t := range l.tracks {
		if sr := t.senderReport(now); sr != nil {
			l.reports = append(l.reports, sr)
		}
	}
	l.judgeReports()
	reports := l.reports
	l.mu.Unlock()
	for part := range slices.Chunk(reports, reportsTogether) {
		_ = l.peer.WriteRTCP(part) // a closed connection is noticed elsewhere
	}
}

// told takes what the subscriber itself thinks that the line carries (REMB), which counts where it gives no transport feedback. It thinks of little
// more than it gets, and comes to more slowly: only when it thinks of less than before, and than was sent, is that a word on the line.
func (l *Downlink) told(bps float64) {
	if !(bps >= 0) { // not a number either
		return
	}
	now := l.micros(time.Now())
	l.line.Lock()
	e := &l.estimate
	said := int(min(max(bps, leastRate), mostRate))
	falls := now-l.saidAt < saidFor && float64(said) < saidFalls*float64(l.said) && float64(said) < saidLess*float64(e.acked)
	l.said, l.saidAt = said, now
	if falls = falls && e.heard == 0; falls {
		e.bounded, e.bps, l.fell = true, said, true
	}
	l.line.Unlock()
	if falls {
		l.wake()
	}
}

// judgeReports bounds the line of a client that gives no transport feedback by what its receiver reports say is lost of
// every track that was sent: a narrow line takes from all of them, a bad publisher only from its own. A narrow line on which nothing
// was sent, since all is paused, has lost nothing.
func (l *Downlink) judgeReports() {
	least, sent := 100, uint64(0)
	for _, t := range l.tracks {
		all := t.counts.bytes.Load()
		if all > t.judged {
			least, sent = min(least, t.Loss()), sent+all-t.judged
		}
		t.judged = all
	}
	rate := int(sent) * 8
	if rate == 0 {
		least = 0
	}
	l.line.Lock()
	defer l.line.Unlock()
	e := &l.estimate
	if e.heard != 0 || rate == 0 && !e.bounded || len(l.tracks) == 0 {
		return
	}
	fell := l.fell
	l.fell = false
	switch {
	case fell:
		l.clean, l.lossy = 0, 0
	case least >= lossBad:
		l.clean = 0
		if l.lossy++; l.lossy >= 2 {
			e.bounded, e.bps, l.lossy = true, max(rate*3/4, leastRate), 0
		}
	case least <= lossGood:
		l.lossy = 0
		if l.clean++; l.clean < 4 || !e.bounded {
			break
		}
		if e.bps = min(e.bps+e.bps/4, mostRate); float64(e.bps) >= plenty*float64(rate) && missingRate(l.demands) == 0 {
			e.open()
			l.wake()
		}
	}
	e.acked = rate
}

// steer shares the line out, and probes it. It says when it wants to be called again; 0: when something happens.
func (l *Downlink) steer(at time.Time) time.Duration {
	now := l.micros(at)
	l.mu.Lock()
	told, next := l.steerLocked(now, at)
	l.mu.Unlock()
	for _, t := range told {
		l.cfg.Paused(t.id, t.told)
	}
	return next
}

func (l *Downlink) steerLocked(now int64, at time.Time) (told []*DownTrack, next time.Duration) {
	l.line.Lock()
	e := &l.estimate
	if e.probe.running() && e.probe.over(now, e.acked) {
		e.bps = max(e.bps, e.probe.end(now, e.acked))
	}
	bounded, budget, whole, most := e.bounded, e.budget(), e.bps, l.most
	part := float64(max(e.budget()-l.voices, 0)) / 8 * repairPart
	l.repairs = min(l.repairs+part*float64(now-l.steered)/1e6, max(part/2, receiveMTU))
	l.steered = now
	l.line.Unlock()
	if most > 0 {
		if !bounded {
			budget, whole = most, most
		}
		bounded, budget, whole = true, min(budget, most), min(whole, most)
	}
	if !bounded {
		if !l.bounded {
			return nil, 0
		}
		l.bounded = false
		l.scant.Store(false)
		return l.grantAll(), 0
	}
	l.bounded = true
	l.gather(at)
	audio := l.thrift(budget, at)
	l.line.Lock()
	l.voices = audio
	l.line.Unlock()
	allocate(budget-audio, whole-audio, l.demands, l.cfg.MayPause)
	told = l.grantDemands()
	if most > 0 {
		return told, steerEvery // there is nothing to prove
	}
	return told, l.probe(now, at, budget, audio)
}

// gather asks the tracks what they would like. Those that rest keep what they have.
func (l *Downlink) gather(at time.Time) {
	l.demands = l.demands[:0]
	for _, t := range l.tracks {
		if t.up.video && !t.up.rests(at) && t.describe(&t.asked) {
			l.demands = append(l.demands, &t.asked)
		}
	}
}

// thrift decides whether voices leave their copies at home, and gives what they take. They are never paused: what is left is
// for video.
func (l *Downlink) thrift(budget int, at time.Time) (audio int) {
	whole, bare := 0, 0
	for _, t := range l.tracks {
		if up := t.up.Layer(0); !t.up.video && up != nil && t.target.Load() != paused && !t.up.rests(at) {
			bps := int(up.rates.usual.Load())
			whole += bps
			bare += bps * (100 - int(up.fold.copies.Load())) / 100
		}
	}
	scant := budget < scantLine*whole
	l.scant.Store(scant)
	if scant {
		return bare
	}
	return whole
}

// scantLine is how many times what the voices take with their copies a line must carry for these to be sent.
const scantLine = 4

func (l *Downlink) grantAll() (told []*DownTrack) {
	for _, t := range l.tracks {
		t.setGrant(everything)
		if t.told {
			t.told = false
			told = append(told, t)
		}
	}
	return told
}

func (l *Downlink) grantDemands() (told []*DownTrack) {
	for _, d := range l.demands {
		g := grant{layer: paused}
		if d.got >= 0 {
			g = d.steps[d.got].grant
		}
		d.track.setGrant(g)
		if stopped := d.got < 0; stopped != d.track.told && l.cfg.MayPause {
			d.track.told = stopped
			told = append(told, d.track)
		}
	}
	return told
}

// probe sends padding while a probe runs, and begins one when there is something to win.
func (l *Downlink) probe(now int64, at time.Time, budget, audio int) time.Duration {
	load := audio
	for _, d := range l.demands {
		load += d.rate(d.got)
	}
	more := missingRate(l.demands)
	l.line.Lock()
	e := &l.estimate
	idle := e.idle(now)
	if idle && e.calm == 0 { // all is paused, and what was said last is that the line is full
		e.rest(now)
	}
	if more == 0 { // all has what it wishes; is there plenty?
		if float64(budget) < plenty*float64(load) || e.calm == 0 {
			l.plenty = time.Time{}
		} else if l.plenty.IsZero() {
			l.plenty = at
		} else if at.Sub(l.plenty) >= plentyFor {
			e.open()
			l.wake()
		}
	}
	if idle {
		load = 0
	}
	goal := min(l.allRate(audio), max(e.goal(), load+probeStep))
	start := !e.probe.running() && e.calm != 0 && now >= e.probe.next && now >= e.calm+probeLeast/2 && goal > budget && goal > load && e.heard != 0
	if start {
		e.probe.start(now, goal, l.next+1)
	}
	pad := 0
	if e.probe.running() && now < e.probe.until && !e.probe.failed {
		pad = min(e.probe.due(now), padBurst)
	}
	running := e.probe.running()
	l.line.Unlock()
	if pad >= paddingSize && !l.pad(pad) && idle { // so the picture itself has to show what the line carries
		l.line.Lock()
		e.bps = max(e.bps, audio+int(float64(more)/upgradeShare)+1)
		l.line.Unlock()
	}
	if running {
		return padEvery
	}
	return steerEvery
}

// allRate is what the line must carry for all that is wished for, and a little more.
func (l *Downlink) allRate(audio int) int {
	for _, d := range l.demands {
		audio += d.rate(d.n - 1)
	}
	return int(float64(audio) * (plenty + 0.1))
}

// padBurst bounds what a late timer may send at once.
const padBurst = 6000

// pad sends so much padding on the first track that can. It is false if there is none.
func (l *Downlink) pad(bytes int) bool {
	for _, t := range l.tracks {
		if t.pad(bytes) > 0 {
			return true
		}
	}
	l.line.Lock()
	l.estimate.probe.failed = true
	l.line.Unlock()
	return false
}

// LinkNumbers is how a subscriber's line is doing.
type LinkNumbers struct {
	Bounded  bool // it has shown to be narrow
	Estimate int  // bits per second that it carries, if so
	Arrived  int  // bits per second that arrived of late
	Queued   time.Duration
	Loss     float64 // share of packets, smoothed
	Probing  bool
}

// Numbers tells how the line is doing. It may be called from anywhere.
func (l *Downlink) Numbers() LinkNumbers {
	l.line.Lock()
	defer l.line.Unlock()
	e := &l.estimate
	estimate := e.bps
	if l.most > 0 && (!e.bounded || l.most < estimate) {
		estimate = l.most
	}
	return LinkNumbers{
		Bounded: e.bounded || l.most > 0, Estimate: estimate, Arrived: e.acked, Queued: time.Duration(e.queued) * time.Microsecond,
		Loss: e.loss, Probing: e.probe.running(),
	}
}
