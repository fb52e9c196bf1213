package calls

import (
	"math"
	"time"

	"chancery/calls/signal"
)

// speaker is how loud a participant is.
type speaker struct {
	level  float64 // 0 to 1, smoothed
	told   float32 // as the clients know it
	active bool
	until  time.Time // spoken for, in a client's test of itself
}

const (
	audibleShare  = 0.4 // of a window's packets must be audible for speech
	audibleLevel  = 35  // -dBov
	levelSteps    = 8
	levelSmoother = 0.5
)

// hear takes one window's loudest level (0 loudest, 127 silence) and share of audible packets.
// It is true if the clients should be told.
func (s *speaker) hear(level uint8, share float64) bool {
	loudness := 0.0
	if level < audibleLevel && share >= audibleShare {
		loudness = math.Pow(10, -float64(level)/20)
	}
	s.level += (loudness - s.level) * levelSmoother
	now := float32(math.Ceil(s.level*levelSteps) / levelSteps)
	if s.level < 1.0/(4*levelSteps) {
		now, s.level = 0, 0
	}
	active := now > 0
	if now == s.told && active == s.active {
		return false
	}
	s.told, s.active = now, active
	return true
}

// pretend lets p speak until then, whatever its microphone says.
func (r *Room) pretend(p *Participant, until time.Time) {
	if m := r.members[p.identity]; m == nil || m.from != p {
		return
	}
	if r.speakers[p.sid] == nil {
		r.speakers[p.sid] = &speaker{}
	}
	r.speakers[p.sid].until = until
}

// tellPresent tells p who speaks just now: after that it hears of changes only.
func (r *Room) tellPresent(p *Participant) {
	var now []*signal.Speaker
	for sid, s := range r.speakers {
		if s.active && sid != p.sid {
			now = append(now, &signal.Speaker{Sid: sid, Level: s.told, Active: true})
		}
	}
	if len(now) > 0 {
		p.post(func() {
			p.prefer(now)
			p.tellOfSpeakers(now)
		})
	}
}

// tellLevels tells p, whose client resumes, of everybody whether they speak: it may have missed that one has stopped.
func (r *Room) tellLevels(p *Participant) {
	all := make([]*signal.Speaker, 0, len(r.speakers))
	for sid, s := range r.speakers {
		all = append(all, &signal.Speaker{Sid: sid, Level: s.told, Active: s.active})
	}
	p.post(func() { p.tellOfSpeakers(all) })
}

func (p *Participant) tellOfSpeakers(speakers []*signal.Speaker) {
	p.send(&signal.Response{Message: &signal.Response_SpeakersChanged{SpeakersChanged: &signal.SpeakersChanged{Speakers: speakers}}})
}

// fallsSilent tells p's client that somebody who leaves speaks no more, while it knows who that is: it forgets who has left, and would have
// them among the speakers for ever. (livekit-client 2.23.0: Room.handleSpeakersChanged)
func (p *Participant) fallsSilent(sid string) {
	if p.speaking[sid] {
		p.fallenSilent(sid)
	}
	delete(p.speaking, sid)
}

func (p *Participant) fallenSilent(sid string) { p.tellOfSpeakers([]*signal.Speaker{{Sid: sid}}) }

// tellSpeakers hears every microphone once and tells what has changed.
func (r *Room) tellSpeakers() {
	var changed []*signal.Speaker
	for _, m := range r.members {
		level, share := uint8(127), 0.0
		for _, all := range m.ups {
			for _, c := range all {
				if c.up.Video() {
					continue
				}
				if l, s := c.up.Level(); l < level {
					level, share = l, s
				}
			}
		}
		s := r.speakers[m.from.sid]
		if s == nil {
			s = &speaker{}
			r.speakers[m.from.sid] = s
		}
		if s.until.After(time.Now()) {
			level, share = 0, 1
		}
		if s.hear(level, share) {
			changed = append(changed, &signal.Speaker{Sid: m.from.sid, Level: s.told, Active: s.active})
		}
	}
	if len(changed) > 0 {
		for _, m := range r.members {
			to := m.from
			to.post(func() { to.prefer(changed) })
		}
		r.say(&signal.Response{Message: &signal.Response_SpeakersChanged{SpeakersChanged: &signal.SpeakersChanged{Speakers: changed}}})
	}
}
