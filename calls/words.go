package calls

import (
	"sync"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// words are the newest reliable data packets of a call, for those who did not get them all: a client that resumes says
// of each sender how far it has heard.
type words struct {
	mu   sync.Mutex
	list []word // oldest first
	size int
}

// word is a reliable packet as it goes out.
type word struct {
	from *Participant
	seq  uint32
	to   *destinations // nil: for all but the sender
	raw  []byte
	at   time.Time
}

// destinations are those to whom a packet goes. They are not changed.
type destinations struct{ names, sids map[string]bool }

// destinationsOf makes sets of what a packet names: everybody in the call is looked for in them, and again when it is told later.
func destinationsOf(names, sids []string) *destinations {
	if len(names)+len(sids) == 0 {
		return nil
	}
	return &destinations{names: setOf(names), sids: setOf(sids)}
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, one := range list {
		set[one] = true
	}
	return set
}

// bytes is what a word counts while it is kept.
func (w *word) bytes() int {
	n := len(w.raw)
	if w.to != nil {
		n += nameCost * (len(w.to.names) + len(w.to.sids))
	}
	return n
}

const (
	wordsFor   = 30 * time.Second
	wordsBytes = 2 << 20
	wordsMost  = 4096
)

func (w *word) isFor(p *Participant) bool {
	if p == w.from {
		return false
	}
	return w.to == nil || w.to.names[p.identity] || w.to.sids[p.sid]
}

// note keeps a packet for a while.
func (s *words) note(w word) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, w)
	s.size += w.bytes()
	old := 0
	for old < len(s.list) && (s.size > wordsBytes || len(s.list)-old > wordsMost || w.at.Sub(s.list[old].at) > wordsFor) {
		s.size -= s.list[old].bytes()
		s.list[old] = word{}
		old++
	}
	s.list = s.list[old:]
}

// missed gives what was for p since then and is newer than what heard says of its sender, oldest first.
func (s *words) missed(p *Participant, since time.Time, heard map[string]uint32) (list []word) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if w := &s.list[i]; w.isFor(p) && w.seq > heard[w.from.sid] && w.at.After(since) {
			list = append(list, *w)
		}
	}
	return list
}

// tellAgain sends what the client has not heard. A client drops what it has; what is sent meanwhile comes after, so that
// nothing newer makes it drop the older.
//
// One that names nobody keeps no count, and would take everything twice, or has heard nothing: its channel lives on, and nothing on it is lost.
func (p *Participant) tellAgain(states []*signal.DataChannelReceiveState) {
	if len(states) == 0 {
		return
	}
	heard := map[string]uint32{}
	for _, state := range states[:min(len(states), wordsMost)] {
		heard[state.PublisherSid] = state.LastSeq
	}
	p.data.mu.Lock()
	defer p.data.mu.Unlock()
	p.replay(heard)
}

// openReliable takes a channel that has opened. What was said since p came in is told first: others speak to whom they
// see, and cannot see that its channel is not there yet. A further channel beside one that is open gets nothing: what waits
// for a client has its bound on each.
func (p *Participant) openReliable(c *webrtc.DataChannel) {
	p.data.mu.Lock()
	defer p.data.mu.Unlock()
	if first := p.data.reliable; first != nil && first.ReadyState() == webrtc.DataChannelStateOpen {
		return
	}
	p.data.reliable = c
	for _, raw := range p.data.early {
		queue(c, raw, reliableBuffer)
	}
	p.data.early = nil
	c.SetBufferedAmountLowThreshold(reliableRest)
	c.OnBufferedAmountLow(func() { p.room.focus.live.Go(func() { p.guarded(p.catchUp) }) }) // Pion holds its locks meanwhile
	p.replay(nil)
}

// replay queues what p has not heard; p.data.mu is held.
func (p *Participant) replay(heard map[string]uint32) {
	clear(p.data.behind)
	for _, w := range p.room.words.missed(p, p.came, heard) {
		p.data.sendReliable(&w)
	}
}

// catchUp tells a client that was slow what it could not take, as far as that is remembered.
func (p *Participant) catchUp() {
	p.data.mu.Lock()
	defer p.data.mu.Unlock()
	behind := p.data.behind
	p.data.behind = nil
	if len(behind) == 0 {
		return
	}
	for _, w := range p.room.words.missed(p, p.came, behind) {
		if _, was := behind[w.from.sid]; was {
			p.data.sendReliable(&w)
		}
	}
}
