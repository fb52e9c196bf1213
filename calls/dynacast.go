package calls

import (
	"strings"
	"time"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// dynacastWait is how long a layer that nobody wants goes on before the publisher is told to stop it.
const dynacastWait = 5 * time.Second

// want is what one subscriber would have of a track.
type want struct {
	mime  string // in which codec
	layer int    // up to which layer
}

// tellWanted tells the publisher which layer this subscriber wants: -1 for none.
func (p *Participant) tellWanted(s *subscription, layer int) {
	w := want{mime: s.codec(), layer: layer}
	if s.told != nil && (!s.up.Video() || *s.told == w) {
		return
	}
	first := s.told == nil
	s.told = &w
	s.from.learnWant(wanting{s.track, p.sid}, wanted{w, first})
}

// noteWanted takes a subscriber's wish for one of p's tracks. Upwards the client is told at once.
func (p *Participant) noteWanted(track, subscriber string, w want, first bool) {
	t := p.published[track]
	if t == nil {
		return
	}
	if p.wanted[track] == nil {
		p.wanted[track] = map[string]want{}
	}
	if first && !p.hidden(subscriber) && !p.hasHearer(track) {
		p.send(&signal.Response{Message: &signal.Response_TrackSubscribed{TrackSubscribed: &signal.TrackSubscribed{TrackSid: track}}})
	}
	if w.layer < 0 {
		delete(p.wanted[track], subscriber)
	} else {
		p.wanted[track][subscriber] = w
	}
	more := false
	for _, e := range t.encodings {
		if most := p.mostWanted(track, e); most > e.told {
			e.told, e.lower, more = most, time.Time{}, true
		}
	}
	if more {
		p.sendQualities(t)
	}
}

// hasHearer says whether somebody wants the track whom p's client knows of.
func (p *Participant) hasHearer(track string) bool {
	for subscriber := range p.wanted[track] {
		if !p.hidden(subscriber) {
			return true
		}
	}
	return false
}

// hidden says whether p's client may not know of another.
func (p *Participant) hidden(sid string) bool {
	o := p.peers[sid]
	return o != nil && o.info.Permission.GetHidden()
}

// forgetWants lets what a participant wanted end with it.
func (p *Participant) forgetWants(subscriber string) {
	for _, wants := range p.wanted {
		delete(wants, subscriber)
	}
}

func (p *Participant) mostWanted(track string, e *encoding) int {
	most := -1
	for _, w := range p.wanted[track] {
		if strings.EqualFold(w.mime, e.codec.MimeType) {
			most = max(most, w.layer)
		}
	}
	return most
}

// tellDynacast turns down what nobody has wanted for a while.
func (p *Participant) tellDynacast(now time.Time) {
	for sid, t := range p.published {
		less := false
		for _, e := range t.encodings {
			if e.up == nil || !e.up.Video() {
				continue
			}
			most := p.mostWanted(sid, e)
			switch {
			case most >= e.told:
				e.lower = time.Time{}
			case e.lower.IsZero():
				e.lower = now
			case now.Sub(e.lower) >= dynacastWait:
				e.told, e.lower, less = most, time.Time{}, true
			}
		}
		if less {
			p.sendQualities(t)
		}
	}
}

// sendQualities tells the client which layers to send in which codec. A codec of which it sends nothing yet it begins with then.
func (p *Participant) sendQualities(t *publication) {
	if !t.live || t.info.Type != signal.TrackType_VIDEO {
		return
	}
	update := &signal.SubscribedQualityUpdate{TrackSid: t.info.Sid, SubscribedQualities: t.encodings[0].qualities()}
	for _, e := range t.encodings {
		codec := "vp8"
		if mime := e.codec.MimeType; len(mime) > len("video/") {
			codec = strings.ToLower(mime[len("video/"):])
		}
		update.SubscribedCodecs = append(update.SubscribedCodecs, &signal.SubscribedCodec{Codec: codec, Qualities: e.qualities()})
	}
	p.send(&signal.Response{Message: &signal.Response_SubscribedQualityUpdate{SubscribedQualityUpdate: update}})
}

// qualities are the layers that the client was told to send.
func (e *encoding) qualities() (all []*signal.SubscribedQuality) {
	top := max(1, min(len(e.codec.Layers), sfu.MaxLayers)) - 1
	for q := range sfu.MaxLayers {
		// two layers are low and medium to the client; what lies above follows the highest
		all = append(all, &signal.SubscribedQuality{Quality: signal.VideoQuality(q), Enabled: e.told >= 0 && min(q, top) <= e.told})
	}
	return all
}
