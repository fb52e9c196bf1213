package calls

import (
	"strings"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// Which codec of a track a subscriber gets. What a client can decode shows when a track is put on a section: from then on the
// subscription knows what it lacks, and goes over to another encoding of the track on the same section, without a
// negotiation. Where none suits that comes, but one was announced, the publisher hears that somebody wants it.

// take makes the subscription one of this encoding.
func (s *subscription) take(c source, link *sfu.Downlink) {
	// livekit-client finds the participant by the part of the stream's name before the bar
	s.up, s.mime, s.down = c.up, c.mime, sfu.NewDownTrack(c.up, link, s.track, s.from.sid+"|"+s.track)
}

// codec is what the subscription wants of the publisher.
func (s *subscription) codec() string {
	if s.awaits != "" {
		return s.awaits
	}
	return s.mime
}

// findUnsupported looks after the subscriptions for which the client agreed to no codec.
func (p *Participant) findUnsupported() {
	for _, s := range p.subs {
		if s.sender == nil || !s.down.Unsupported() || s.lacks[strings.ToLower(s.mime)] {
			continue
		}
		s.lacks[strings.ToLower(s.mime)] = true
		if from := p.peers[s.from.sid]; from != nil {
			p.reconsider(s, from)
		}
	}
}

// reconsider lets a subscription have the encoding that suits best.
func (p *Participant) reconsider(s *subscription, from *peer) {
	for _, c := range from.sourcesOf(s.track) {
		if s.lacks[strings.ToLower(c.mime)] {
			continue
		}
		if c.up == s.up || p.goOver(s, c) {
			return
		}
	}
	for _, c := range from.track(s.track).GetCodecs() {
		if c.MimeType != "" && !s.lacks[strings.ToLower(c.MimeType)] {
			p.awaitCodec(s, c.MimeType)
			return
		}
	}
	if !s.refused && len(s.lacks) > 0 {
		s.refused, s.awaits = true, ""
		p.send(&signal.Response{Message: &signal.Response_SubscriptionResponse{SubscriptionResponse: &signal.SubscriptionResponse{
			TrackSid: s.track, Err: codecUnsupported,
		}}})
		p.tellWanted(s, -1) // its publisher need not send for this one
	}
}

// awaitCodec lets the publisher know that somebody wants this codec.
func (p *Participant) awaitCodec(s *subscription, mime string) {
	if s.awaits != mime {
		s.awaits = mime
		if s.told != nil {
			*s.told = want{} // a publisher that has stopped this codec is to be asked again
		}
		p.tellWanted(s, s.down.Wanted())
	}
}

const codecUnsupported = 1 // of the wire's subscription errors

// goOver lets a subscription go on in another encoding. It is false if the client has not that codec either.
func (p *Participant) goOver(s *subscription, c source) bool {
	old := s.down
	s.take(c, p.link)
	s.down.Follow(old)
	s.awaits = ""
	if s.sender == nil {
		return true // its turn comes with the next negotiation
	}
	if err := s.sender.ReplaceTrack(s.down); err != nil {
		p.log.Warn().Err(err).Str("codec", c.mime).Msg("Subscription not moved to another codec")
	}
	s.down.Start()
	if s.down.Unsupported() {
		s.lacks[strings.ToLower(c.mime)] = true
		return false
	}
	s.refused = false
	p.tellWanted(s, s.down.Wanted())
	return true
}
