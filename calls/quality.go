package calls

import (
	"math"
	"time"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// lineQuality is how a participant's line does, as it is told every five seconds. It belongs to the participant's
// goroutine.
type lineQuality struct {
	score  float64 // 1 to 4.5, as people would judge a conversation; smoothed; 0: not judged yet
	level  signal.LinkQuality
	ailing int               // ticks without a transport
	heard  map[string]passed // by own track sid: how far its packets were counted
}

// passed counts packets of a track at one moment.
type passed struct{ came, lost uint64 }

// lineSample is one second of a line.
type lineSample struct {
	loss    float64 // percent, the worse of both directions
	delay   time.Duration
	jitter  time.Duration
	missing int // most layers that the line keeps from a track; allLayers: it keeps the track
}

const (
	allLayers    = sfu.MaxLayers
	qualityShare = 0.3  // of the newest second in the score
	qualityGap   = 0.15 // a level changes only beyond its border by so much
	bestScore    = 4.5
	lostAfter    = 5 // seconds without a transport: only then is a line called lost, since its client joins anew for that
)

// borders are the least scores of good and of excellent.
var borders = [...]float64{signal.LinkQuality_GOOD: 3.1, signal.LinkQuality_EXCELLENT: 4.0}

// opinion turns what a line does into what people would say of it: a simple form of the E-model (ITU-T G.107), in which
// delay and loss take from a rating that begins at 93.2.
func (s lineSample) opinion() float64 {
	ms := float64((s.delay/2 + 2*s.jitter).Milliseconds()) + 10
	rating := 93.2 - 2.5*s.loss
	if ms < 160 {
		rating -= ms / 40
	} else {
		rating -= (ms - 120) / 10
	}
	rating = min(max(rating, 0), 100)
	score := 1 + 0.035*rating + 7e-6*rating*(rating-60)*(100-rating)
	switch { // a picture that had to be taken away cannot be excellent
	case s.missing >= allLayers:
		score = min(score, 2.5)
	case s.missing > 0:
		score = min(score, 3.7)
	}
	return min(max(score, 1), bestScore)
}

// hear takes a second's opinion.
func (q *lineQuality) hear(score float64) {
	if q.score == 0 {
		q.score = score
		q.level = signal.LinkQuality_POOR
		for level, least := range borders {
			if least > 0 && score >= least {
				q.level = signal.LinkQuality(level)
			}
		}
		return
	}
	q.score += (score - q.score) * qualityShare
	if q.level == signal.LinkQuality_LOST {
		q.level = signal.LinkQuality_POOR
	}
	for q.level < signal.LinkQuality_EXCELLENT && q.score >= borders[q.level+1]+qualityGap {
		q.level++
	}
	for q.level > signal.LinkQuality_POOR && q.score < borders[q.level]-qualityGap {
		q.level--
	}
}

// judgeLine looks at p's line, once a second.
func (p *Participant) judgeLine() {
	q := &p.line
	if p.pub.ailing() || p.sub.ailing() {
		if q.ailing++; q.ailing >= lostAfter && q.score > 0 {
			q.level, q.score = signal.LinkQuality_LOST, 1
		}
	} else if q.ailing = 0; p.info.State == signal.Participant_ACTIVE {
		q.hear(p.sampleLine().opinion())
	}
	p.judged.Store(&signal.LinkQualityInfo{ParticipantSid: p.sid, Quality: q.level, Score: float32(math.Round(q.score*10) / 10)})
}

// sampleLine gathers what the last second showed.
func (p *Participant) sampleLine() (s lineSample) {
	bounded := p.link.Numbers().Bounded
	for _, sub := range p.subs {
		n := sub.down.Numbers()
		if n.Layer < 0 && n.Target < 0 && sub.wish.Disabled {
			continue
		}
		s.loss = max(s.loss, float64(n.Loss))
		s.delay, s.jitter = max(s.delay, n.RoundTrip), max(s.jitter, n.Jitter)
		if bounded && sub.up.Video() && !sub.wish.Disabled {
			if n.Target < 0 {
				s.missing = allLayers
			}
			s.missing = max(s.missing, min(sub.down.Wanted(), sendsUpTo(sub.up))-n.Target)
		}
	}
	heard := map[string]passed{}
	for sid, t := range p.published {
		if !t.live || t.info.Muted {
			continue
		}
		now, jitter := t.countUp()
		before := p.line.heard[sid]
		heard[sid] = now
		s.jitter = max(s.jitter, jitter)
		came, lost := float64(now.came)-float64(before.came), float64(now.lost)-float64(before.lost)
		if before != (passed{}) && came+lost >= leastPackets && lost > 0 {
			s.loss = max(s.loss, 100*lost/(came+lost))
		}
	}
	p.line.heard = heard
	return s
}

// leastPackets in a second tell something of loss.
const leastPackets = 10

// sendsUpTo is the highest layer that the publisher sends just now.
func sendsUpTo(up *sfu.UpTrack) int {
	most := -1
	for i, alive := range up.Alive() {
		if alive {
			most = i
		}
	}
	return most
}

func (t *publication) countUp() (sum passed, jitter time.Duration) {
	for up := range t.ups() {
		n := up.Numbers()
		for _, l := range n.Layers {
			sum.came, sum.lost = sum.came+l.Packets, sum.lost+l.Lost
			if l.Alive && l.SSRC != 0 && !n.Video { // a picture's packets leave together: their jitter is the encoder's
				jitter = max(jitter, l.Jitter)
			}
		}
	}
	return sum, jitter
}

// quality is how p's line is. It may be called from anywhere; nil: not judged yet.
func (p *Participant) quality() *signal.LinkQualityInfo { return p.judged.Load() }

// tellQuality tells everybody how their line is, and those of whom they hear.
func (r *Room) tellQuality() {
	all := map[string]*signal.LinkQualityInfo{}
	for _, m := range r.members {
		if q := m.from.quality(); q != nil && q.Score > 0 {
			all[m.from.sid] = q
		}
	}
	for _, m := range r.members {
		to := m.from
		to.post(func() { to.hearQuality(all) })
	}
}

// hearQuality passes on what concerns p: its own line, and those whose tracks it gets.
func (p *Participant) hearQuality(all map[string]*signal.LinkQualityInfo) {
	concerned := map[string]bool{p.sid: true}
	for _, s := range p.subs {
		concerned[s.from.sid] = true
	}
	update := &signal.LinkQualityUpdate{}
	for sid := range concerned {
		if q := all[sid]; q != nil {
			update.Updates = append(update.Updates, q)
		}
	}
	if len(update.Updates) > 0 {
		p.send(&signal.Response{Message: &signal.Response_ConnectionQuality{ConnectionQuality: update}})
	}
}
