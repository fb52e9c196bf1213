package calls

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"chancery/calls/signal"
)

// hearsay is what the others have for p, until p's goroutine takes it. Of each of them only the newest word counts: whatever one does, and
// how often, it takes its own few places here and never p's inbox, whose overflow ends p.
type hearsay struct {
	mu    sync.Mutex
	over  bool // p has gone
	peers []*peer
	at    map[string]int // where in peers, by participant sid
	wants map[wanting]wanted
}

// wanting is whose wish it is, and for which of p's tracks.
type wanting struct{ track, subscriber string }

// wanted is the newest such wish.
type wanted struct {
	want
	first bool // nothing was heard of this subscription before
}

// learn hands over the newest of another.
func (p *Participant) learn(now *peer) {
	p.hearsay.note(p, func(h *hearsay) {
		sid := now.info.Sid
		if i, known := h.at[sid]; known {
			h.peers[i] = now
			return
		}
		if h.at == nil {
			h.at = map[string]int{}
		}
		h.at[sid] = len(h.peers)
		h.peers = append(h.peers, now)
	})
}

// learnWant hands over what a subscriber wants of one of p's tracks.
func (p *Participant) learnWant(of wanting, w wanted) {
	p.hearsay.note(p, func(h *hearsay) {
		if h.wants == nil {
			h.wants = map[wanting]wanted{}
		}
		w.first = w.first || h.wants[of].first
		h.wants[of] = w
	})
}

// note keeps something, and calls p if nothing else waits for it.
func (h *hearsay) note(p *Participant, keep func(*hearsay)) {
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		return
	}
	first := len(h.peers)+len(h.wants) == 0
	keep(h)
	h.mu.Unlock()
	if first {
		p.post(p.listen)
	}
}

// take gives all that waits.
func (h *hearsay) take(over bool) (peers []*peer, wants map[wanting]wanted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	peers, wants = h.peers, h.wants
	h.peers, h.at, h.wants, h.over = nil, nil, nil, over
	return peers, wants
}

// listen takes what the others have for p: first who they are, then what they want. Whoever is gone by then wants nothing.
func (p *Participant) listen() {
	peers, wants := p.hearsay.take(false)
	for _, now := range peers {
		p.peerChanged(now)
	}
	for of, w := range wants {
		if p.peers[of.subscriber] != nil || p.deaf.held[of.subscriber] != nil {
			p.noteWanted(of.track, of.subscriber, w.want, w.first)
		}
	}
}

// talk bounds how much the others have to hear of p: each change goes to all of them. The first are told at once; from then on the
// newest is, as often as its size allows.
type talk struct {
	limit *rate.Limiter // bytes
	info  bool          // something of p.info was not told yet
	waits bool          // until limit lets it
}

// A change of a common participant is about 5 KiB here: two dozen at once, and a dozen a second in the long run.
const (
	newsCost   = 4 << 10 // bytes that a change counts beside its own
	newsPerSec = 64 << 10
	newsBurst  = 128 << 10
)

func newTalk() talk { return talk{limit: rate.NewLimiter(newsPerSec, newsBurst)} }

// changed tells everybody, the client itself too, that something about p is different.
func (p *Participant) changed() {
	p.talk.info = true
	p.tellAll()
}

// tellAll tells the others what they need of p, now or when it is time.
func (p *Participant) tellAll() {
	if p.talk.waits {
		return
	}
	now := p.snapshot()
	cost := min(signal.Size(now.info)+now.allow.size+newsCost, newsBurst)
	if wait := p.talk.limit.ReserveN(time.Now(), cost).Delay(); wait > 0 {
		p.talk.waits = true
		time.AfterFunc(wait, func() { p.do(p.tellLate) })
		return
	}
	p.tellNow(now)
}

func (p *Participant) tellLate() {
	p.talk.waits = false
	p.tellNow(p.snapshot())
}

func (p *Participant) tellNow(now *peer) {
	if p.talk.info {
		p.talk.info = false
		p.info.Version++
		p.info.IsPublisher = len(p.published) > 0
		now.info.Version, now.info.IsPublisher = p.info.Version, p.info.IsPublisher
		p.sendFrame(now.frame())
	}
	p.room.update(now)
}
