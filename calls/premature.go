package calls

import (
	"slices"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
)

// premature is a stream of a track that nobody has announced yet. Clients offer a track and announce it at once; and one that resumes holds back
// what it announces until it has resumed, for two seconds, but not what it offers. (livekit-client 2.23.0: SignalClient.sendRequest)
// LiveKit 1.13.5 has such streams wait, too.
type premature struct {
	remote   *webrtc.TrackRemote
	receiver *webrtc.RTPReceiver
	mid      string
}

// notePremature lets a stream wait for its track: as many as all tracks could have.
func (p *Participant) notePremature(m premature) {
	p.log.Debug().Str("mid", m.mid).Msg("Media without a track")
	if len(p.premature) < p.room.focus.config.MaxTracks*sfu.MaxLayers {
		p.premature = append(p.premature, m)
	}
}

// takePremature gives what was announced just now its section, and the media that have come already.
func (p *Participant) takePremature() {
	p.place(p.sections)
	waiting := p.premature
	p.premature = nil
	for _, m := range waiting {
		if t, _ := p.byCID(m.remote.ID()); t != nil {
			p.onMedia(m.remote, m.receiver, m.mid)
		} else {
			p.premature = append(p.premature, m)
		}
	}
}

// dropPremature forgets the streams that the newest offer does not send any more.
func (p *Participant) dropPremature() {
	p.premature = slices.DeleteFunc(p.premature, func(m premature) bool { return !p.sections.sends(m.mid, m.remote.ID()) })
}
