package calls

import (
	"time"

	"chancery/calls/signal"
)

// arrived are others who have come, or whose connection stands, and of whom the client is told a moment later: while nobody sees or hears
// anything of them, this may wait. In a call of a hundred each join would be two hundred messages otherwise, which delay the next one.
type arrived struct {
	infos []*signal.Participant
}

// gatherArrivals is how long such news wait for more of their kind.
const gatherArrivals = 50 * time.Millisecond

// tellOf tells the client of another. Whatever is more than an arrival is told at once, after what has waited.
func (p *Participant) tellOf(o, before *peer) {
	now := o.info
	if !mereArrival(now, before) {
		p.tellArrived()
		p.sendFrame(o.frame())
		return
	}
	for i, known := range p.arrived.infos {
		if known.Sid == now.Sid {
			p.arrived.infos[i] = now
			return
		}
	}
	if p.arrived.infos = append(p.arrived.infos, now); len(p.arrived.infos) == 1 {
		time.AfterFunc(gatherArrivals, func() { p.post(p.tellArrived) })
	}
}

// tellArrived tells what has waited.
func (p *Participant) tellArrived() {
	if infos := p.arrived.infos; len(infos) > 0 {
		p.arrived.infos = nil
		p.send(&signal.Response{Message: &signal.Response_Update{Update: &signal.ParticipantUpdate{Participants: infos}}})
	}
}

// mereArrival says whether all that is new is that somebody without tracks has come, or that the connection stands.
func mereArrival(now *signal.Participant, before *peer) bool {
	switch {
	case len(now.Tracks) > 0:
		return false
	case before == nil:
		return now.State != signal.Participant_DISCONNECTED
	}
	return before.info.State == signal.Participant_JOINED && now.State == signal.Participant_ACTIVE
}
