package calls

import (
	"time"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// dynacastPause is how long a layer that nobody wants goes on before the publisher is told to stop it.
type dynacastPause struct {
	since time.Time // when the wish fell below what the client was told; zero: it has not
}

const dynacastWait = 5 * time.Second

// tellWanted tells the publisher which layer this subscriber wants: -1 for none.
func (p *Participant) tellWanted(s *subscription, layer int) {
	if !s.up.Video() && s.told {
		return
	}
	first := !s.told
	s.told = true
	from, track, me := s.from, s.track, p.sid
	from.post(func() { from.noteWanted(track, me, layer, first) })
}

// noteWanted takes a subscriber's wish for one of p's tracks. Upwards the client is told at once.
func (p *Participant) noteWanted(track, subscriber string, layer int, first bool) {
	t := p.published[track]
	if t == nil {
		return
	}
	if p.wanted[track] == nil {
		p.wanted[track] = map[string]int{}
	}
	if first && len(p.wanted[track]) == 0 {
		p.send(&signal.Response{Message: &signal.Response_TrackSubscribed{TrackSubscribed: &signal.TrackSubscribed{TrackSid: track}}})
	}
	if layer < 0 {
		delete(p.wanted[track], subscriber)
	} else {
		p.wanted[track][subscriber] = layer
	}
	if most := p.mostWanted(track); most > t.told {
		p.sendQualities(t, most)
	}
}

func (p *Participant) mostWanted(track string) int {
	most := -1
	for _, layer := range p.wanted[track] {
		most = max(most, layer)
	}
	return most
}

// tellDynacast turns down what nobody has wanted for a while.
func (p *Participant) tellDynacast(now time.Time) {
	for sid, t := range p.published {
		if t.up == nil || !t.up.Video() {
			continue
		}
		most := p.mostWanted(sid)
		switch {
		case most >= t.told:
			t.lower.since = time.Time{}
		case t.lower.since.IsZero():
			t.lower.since = now
		case now.Sub(t.lower.since) >= dynacastWait:
			p.sendQualities(t, most)
		}
	}
}

// sendQualities tells the client to send the layers up to most.
func (p *Participant) sendQualities(t *publication, most int) {
	t.told = most
	t.lower.since = time.Time{}
	if t.up == nil || !t.up.Video() {
		return
	}
	top := max(1, min(len(t.info.Layers), sfu.MaxLayers)) - 1
	var qualities []*signal.SubscribedQuality
	for q := range sfu.MaxLayers {
		// two layers are low and medium to the client; what lies above follows the highest
		qualities = append(qualities, &signal.SubscribedQuality{Quality: signal.VideoQuality(q), Enabled: most >= 0 && min(q, top) <= most})
	}
	codec := "vp8"
	if mime := t.info.MimeType; len(mime) > len("video/") {
		codec = mime[len("video/"):]
	}
	p.send(&signal.Response{Message: &signal.Response_SubscribedQualityUpdate{SubscribedQualityUpdate: &signal.SubscribedQualityUpdate{
		TrackSid: t.info.Sid, SubscribedQualities: qualities,
		SubscribedCodecs: []*signal.SubscribedCodec{{Codec: codec, Qualities: qualities}},
	}}})
}
