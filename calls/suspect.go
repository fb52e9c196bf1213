package calls

import (
	"time"

	"chancery/calls/signal"
)

// A page that crashes says nothing: its socket breaks, and its media stop with it. A proxy that restarts breaks the
// socket too, but the media go on. So a broken socket alone proves nothing, and a broken socket with silence where
// there was traffic proves enough: the client has left, or comes back as one that joins anew.

// pulse knows how often something comes from a client.
type pulse struct {
	total uint64 // packets, as last counted
	rate  uint64 // in the last tick
}

// beat takes the packets that have come so far, once a tick.
func (b *pulse) beat(total uint64) { b.rate, b.total = total-min(b.total, total), total }

const (
	suspectTick    = 20 * time.Millisecond
	onTheWay       = 40 * time.Millisecond   // packets that left before the socket broke
	leastSilence   = 120 * time.Millisecond  // proves enough where ten packets a second came, or more
	longestSilence = 2200 * time.Millisecond // of a client without media: it answers our ping each second
	silentPackets  = 10                      // so many packets missing in a row are no chance

	voiceRate    = 50                     // packets a second of who speaks
	pauseSilence = 900 * time.Millisecond // proves enough where a voice may pause: it is heard of each 400 ms all the same
)

// silence is how long nothing must come until the client counts as gone. So many voices of what came may pause at any time.
func (b *pulse) silence(how signal.Ending, voices int) time.Duration {
	if how == signal.Away {
		return leastSilence
	}
	longest, rate := longestSilence, b.rate
	if voices > 0 {
		longest = pauseSilence
		rate -= min(rate, uint64(voices*voiceRate))
	}
	if rate == 0 {
		return longest
	}
	return min(max(silentPackets*participantTick/time.Duration(rate), leastSilence), longest)
}

// voices counts the sounds that p sends, and that pause where there is nothing to hear.
func (p *Participant) voices() (n int) {
	for _, t := range p.published {
		if t.live && !t.info.Muted && t.info.Type == signal.TrackType_AUDIO && t.form().dtx {
			n++
		}
	}
	return n
}

// received counts what has come from the client: media, data, reports and pings.
func (p *Participant) received() uint64 {
	n := p.pub.received()
	if p.sub != p.pub {
		n += p.sub.received()
	}
	return n
}

// suspect watches whether anything still comes from a client whose socket c broke, and ends the session if not.
func (p *Participant) suspect(c *signal.Conn, how signal.Ending) {
	silence := p.pulse.silence(how, p.voices())
	p.room.focus.live.Go(func() {
		tick := time.NewTicker(suspectTick)
		defer tick.Stop()
		begun := time.Now()
		before := p.received()
		for {
			select {
			case <-p.done:
				return
			case now := <-tick.C:
				switch n := p.received(); {
				case now.Sub(begun) < onTheWay:
					before = n
				case n != before:
					return // the media live: only the socket was lost
				case now.Sub(begun) >= silence:
					p.do(func() {
						if p.conn == c {
							p.stop(ending{reason: signal.DisconnectReason_SIGNAL_CLOSE, silent: true})
						}
					})
					return
				}
			}
		}
	})
}
