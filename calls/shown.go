package calls

import (
	"maps"
	"time"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// setting is how the client shows a track, as it said last: perhaps before it has the track, or while it wants none of it.
type setting struct {
	wish     sfu.Wish
	priority uint32 // 1 comes first; 0: nothing was said
}

// maxWishes bounds what a client may say of tracks that may never come.
const maxWishes = 4096

// present says of which tracks the others' media can be had.
func (p *Participant) present() map[string]bool {
	there := map[string]bool{}
	for _, from := range p.peers {
		for track := range from.ups {
			there[track] = true
		}
	}
	return there
}

// makeRoom lets what was said of tracks that are not there go, if more is said than is kept.
func makeRoom[V any](p *Participant, said map[string]V, more int) {
	if len(said)+more > maxWishes {
		there := p.present()
		maps.DeleteFunc(said, func(track string, _ V) bool { return !there[track] })
	}
}

// keep notes what was said of a track, if there is room.
func keep[V any](said map[string]V, track string, v V) {
	if _, known := said[track]; known || len(said) < maxWishes {
		said[track] = v
	}
}

// onTrackSetting takes how tracks are shown. Each is looked at once, however often it is named.
func (p *Participant) onTrackSetting(m *signal.TrackSetting) {
	to := setting{
		wish:     sfu.Wish{Disabled: m.Disabled, Quality: int(m.Quality), Width: m.Width, Height: m.Height, FPS: m.Fps},
		priority: m.Priority,
	}
	if m.Quality == signal.VideoQuality_OFF && (m.Width == 0 || m.Height == 0) {
		to.wish.Disabled = true
	}
	named := map[string]bool{}
	for _, track := range m.TrackSids[:min(len(m.TrackSids), maxWishes)] {
		named[track] = true
	}
	makeRoom(p, p.settings, len(named))
	for track := range named {
		keep(p.settings, track, to)
		if s := p.subs[track]; s != nil {
			p.adjust(s, to)
		}
	}
}

// adjust lets a subscription be as the client shows it.
func (p *Participant) adjust(s *subscription, to setting) {
	hidden := s.wish.Disabled
	s.wish, s.said = to.wish, to.priority
	s.down.SetPriority(s.rank())
	switch {
	case s.sender == nil:
	case !s.wish.Disabled:
		if s.hiding != nil {
			s.hiding.Stop()
		}
		p.show(s)
	case !hidden:
		s.hiding = time.AfterFunc(hiddenFor, func() { p.do(func() { p.hide(s) }) })
	}
}

// hiddenFor is how long a picture must be out of view before it is stopped: a page that begins to show one says first that it
// does not. (livekit-client 2.23.0)
const hiddenFor = 300 * time.Millisecond

// hide stops a picture that is still out of view.
func (p *Participant) hide(s *subscription) {
	if p.subs[s.track] == s && s.sender != nil && s.wish.Disabled {
		p.show(s)
	}
}

// show lets the client have the track as it wishes.
func (p *Participant) show(s *subscription) {
	s.down.SetWish(s.wish)
	p.tellWanted(s, s.down.Wanted())
}

// Who comes first where a line does not carry everything: a screen, then what the client puts first, then who speaks.
const (
	speakerPriority = 1
	saidPriorities  = 8 // that are told apart; 1, the first, is the highest of them
	screenPriority  = speakerPriority + saidPriorities + 1
)

// rank is how important a subscription is on p's line.
func (s *subscription) rank() int {
	switch {
	case s.screen:
		return screenPriority
	case s.said > 0:
		return screenPriority - int(min(s.said, saidPriorities))
	case s.speaks:
		return speakerPriority
	}
	return 0
}

// prefer lets those who speak come before the others on p's line.
func (p *Participant) prefer(speakers []*signal.Speaker) {
	for _, speaker := range speakers {
		if delete(p.speaking, speaker.Sid); speaker.Active {
			p.speaking[speaker.Sid] = true // for tracks that come while they speak on
		}
		for _, s := range p.subs {
			if s.from.sid == speaker.Sid {
				s.speaks = speaker.Active
				s.down.SetPriority(s.rank())
			}
		}
	}
}
