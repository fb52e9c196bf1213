package calls

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/rs/zerolog"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// offers is where negotiation stands.
type offers struct {
	removed []*webrtc.RTPSender // to be taken away with the next negotiation
	tidying bool                // there will be one for them alone
	sent    int                 // the most subscriptions that there were at once, see widen
	ended   int                 // sections of tracks of its own that have ended, likewise

	// single mode: the client offers, and we say when it should
	asked     bool // it was asked, and has not offered since
	freed     map[string]bool
	requested [2]int // sections asked for that have not come yet: audio, video
	seenFor   [2]int // sections of the newest offer in which we may send

	// two connections: we offer on the subscriber's
	flying  bool // an offer of ours has no answer yet
	again   bool // and another is wanted after it
	restart bool // with new ICE credentials
	id      uint32
	told    time.Time // when the newest was said
	overdue int       // how often the client has said something else since its answer was due
}

func kindIndex(video bool) int {
	if video {
		return 1
	}
	return 0
}

// open makes the peer connections.
func (p *Participant) open() (err error) {
	if p.pub, err = p.newTransport(signal.Target_PUBLISHER); err != nil {
		return fmt.Errorf("calls: peer connection: %w", err)
	}
	p.sub = p.pub
	if !p.single {
		if p.sub, err = p.newTransport(signal.Target_SUBSCRIBER); err != nil {
			return fmt.Errorf("calls: peer connection: %w", err)
		}
		if err = p.openDataChannels(p.sub); err != nil {
			return fmt.Errorf("calls: data channels: %w", err)
		}
	}
	p.link = p.sub.pc.NewDownlink(sfu.LinkConfig{
		MayPause: mayPause(p.join.GetConnectionSettings()),
		Paused:   func(track string, paused bool) { p.post(func() { p.tellStream(track, paused) }) },
		Trailer:  p.trailer,
	})
	return nil
}

// tidyAfter is how long senders that have ended wait for a negotiation about something new, before there is one for them alone. Nobody misses
// anything meanwhile; and where one goes and comes back at once, as after a lost line, all others negotiate once and not twice.
const tidyAfter = time.Second

// tidyLater sees to it that what has ended is taken away.
func (p *Participant) tidyLater() {
	if p.offers.tidying || len(p.offers.removed) == 0 {
		return
	}
	p.offers.tidying = true
	time.AfterFunc(tidyAfter, func() { p.post(p.tidy) })
}

func (p *Participant) tidy() {
	p.offers.tidying = false
	switch {
	case len(p.offers.removed) == 0, !p.deaf.until.IsZero(): // done; or to be done when it hears
	case !p.single:
		p.sendOffer()
	case !p.offers.asked:
		p.requestOffer([2]int{})
	}
}

// negotiate sees to it that what is wanted and what is agreed come to be the same.
func (p *Participant) negotiate() {
	if !p.deaf.until.IsZero() {
		return // what the welcome's negotiation did not bring comes later
	}
	if p.single {
		p.askForOffer()
		return
	}
	for _, s := range p.subs {
		if s.sender == nil && p.mayAdd(s) {
			p.sendOffer()
			return
		}
	}
	p.tidyLater()
}

// --- one peer connection: the client offers ---

// spare: with the sections that are missing, of those that there are one in so many is asked for too. Pion keeps the whole of each description
// that brings new ones, which in a call that fills one by one would grow with the square of its tracks.
const spare = 4

// askForOffer asks the client for an offer, with as many new sections as are missing, and some more in a great call.
func (p *Participant) askForOffer() {
	if !p.deaf.until.IsZero() {
		return
	}
	var need [2]int
	for _, s := range p.subs {
		if s.sender == nil {
			need[kindIndex(s.up.Video())]++
		}
	}
	if need == [2]int{} {
		p.tidyLater()
		return
	}
	var ask [2]int
	free := p.freeSections()
	left := p.room.focus.mostSent - p.offers.requested[0] - p.offers.requested[1] - p.offers.seenFor[0] - p.offers.seenFor[1]
	helps := len(p.offers.removed) > 0 // an offer without new sections
	for k := range ask {               // sounds first
		room := min(left, p.mostOf(k)-p.offers.requested[k]-p.offers.seenFor[k])
		if ask[k] = need[k] - free[k] - p.offers.requested[k]; ask[k] > 0 {
			ask[k] = max(ask[k], p.offers.seenFor[k]/spare)
		}
		ask[k] = max(0, min(ask[k], room))
		left -= ask[k]
		helps = helps || need[k] > 0 && free[k] > 0
	}
	if ask != [2]int{} || helps && !p.offers.asked {
		p.requestOffer(ask)
	}
}

// askAgain asks for what a lost socket may have swallowed. Who has heard it all the same has a section too many, for the next track.
func (p *Participant) askAgain() {
	p.offers.asked, p.offers.requested = false, [2]int{}
	p.askForOffer()
}

// requestOffer asks for an offer with so many more sections.
func (p *Participant) requestOffer(ask [2]int) {
	p.offers.asked = true
	p.widen()
	for k := range ask {
		p.offers.requested[k] += ask[k]
	}
	p.send(&signal.Response{Message: &signal.Response_MediaSectionsRequirement{MediaSectionsRequirement: &signal.MediaSections{
		NumAudios: uint32(ask[0]), NumVideos: uint32(ask[1]),
	}}})
}

// usable says whether AddTrack would put a track on this transceiver.
func (p *Participant) usable(t *webrtc.RTPTransceiver) bool {
	return t.Sender() == nil && p.sections[t.Mid()].takes && !p.offers.freed[t.Mid()]
}

// freeSections counts the sections on which we could send, by kind.
func (p *Participant) freeSections() (free [2]int) {
	for _, t := range p.pub.pc.GetTransceivers() {
		if p.usable(t) {
			free[kindIndex(t.Kind() == webrtc.RTPCodecTypeVideo)]++
		}
	}
	return free
}

// onOffer answers a client's offer: what it publishes is taken, what it waits for is put on free sections.
func (p *Participant) onOffer(m *signal.SessionDescription) {
	offer, all, err := p.readDescription(m.GetSdp(), p.pub)
	if err == nil {
		err = p.answer(offer, m.GetId(), all)
	}
	if err != nil {
		p.log.Info().Err(err).Msg("Offer not answered")
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_RECONNECT)
	}
}

func (p *Participant) answer(offer string, id uint32, all sections) error {
	p.offers.asked = false
	p.countSections(all)
	before := p.sections
	p.sections = all
	if err := p.pub.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}); err != nil {
		return fmt.Errorf("set offer: %w", err)
	}
	p.pub.count = 0
	p.place(before)
	p.unpublish()
	p.dropPremature()
	p.preferCodecs()
	if p.single {
		p.placeSubscriptions()
	}
	answer, err := p.pub.pc.CreateAnswer(nil)
	if err != nil {
		return fmt.Errorf("make answer: %w", err)
	}
	if err := p.pub.pc.SetLocalDescription(answer); err != nil {
		return fmt.Errorf("set answer: %w", err)
	}
	p.offers.freed = nil
	p.takeForms(p.pub, all)
	p.send(&signal.Response{Message: &signal.Response_Answer{Answer: &signal.SessionDescription{
		Type: "answer", Sdp: p.told(withAudioForms(answer.SDP, p.audioForms(p.pub))), Id: id, MidToTrackId: p.trackByMid(p.pub),
	}}})
	if p.single {
		p.findUnsupported()
		p.askForOffer() // what found no section
	}
	return nil
}

// told is a description of ours as the client gets it: where it asked for one road, our candidates come by trickle alone.
func (p *Participant) told(description string) string {
	if p.road == anyRoad {
		return description
	}
	kept, err := withoutCandidates(description)
	if err != nil {
		return description // ours is never that long
	}
	return kept
}

// countSections notes how many of the sections that we asked for have come.
func (p *Participant) countSections(all sections) {
	var seen [2]int
	for _, s := range all {
		if s.takes {
			seen[kindIndex(s.kind == webrtc.RTPCodecTypeVideo)]++
		}
	}
	for k := range seen {
		p.offers.requested[k] = max(0, p.offers.requested[k]-max(0, seen[k]-p.offers.seenFor[k]))
	}
	p.offers.seenFor = seen
}

// placeSubscriptions takes ended subscriptions off their sections and puts waiting ones on free sections.
func (p *Participant) placeSubscriptions() {
	p.takeAway(p.pub)
	for _, s := range p.subs {
		if s.sender != nil || p.freeSections()[kindIndex(s.up.Video())] == 0 {
			continue
		}
		sender, err := p.pub.pc.AddTrack(s.down)
		if err != nil {
			p.log.WithLevel(levelOf(err)).Err(err).Msg("Subscription not placed")
			continue
		}
		p.bound(s, sender)
	}
}

// takeAway removes the senders of ended subscriptions. Their sections are free after the next answer.
func (p *Participant) takeAway(t *transport) {
	for _, sender := range p.offers.removed {
		for _, tr := range t.pc.GetTransceivers() {
			if tr.Sender() == sender {
				if p.offers.freed == nil {
					p.offers.freed = map[string]bool{}
				}
				p.offers.freed[tr.Mid()] = true
			}
		}
		if err := t.pc.RemoveTrack(sender); err != nil && !errors.Is(err, webrtc.ErrConnectionClosed) {
			p.log.Debug().Err(err).Msg("Sender not removed")
		}
	}
	p.offers.removed = nil
}

// trackByMid tells the client which track is on which section: in single mode its only link.
func (p *Participant) trackByMid(t *transport) map[string]string {
	tracks := map[string]string{}
	if !p.single && t == p.pub {
		return tracks
	}
	for _, tr := range t.pc.GetTransceivers() {
		for _, s := range p.subs {
			if s.sender != nil && tr.Sender() == s.sender {
				tracks[tr.Mid()] = s.track
			}
		}
	}
	return tracks
}

// --- two peer connections: we offer on the subscriber's ---

// sendOffer offers what has changed; while an offer is under way it waits for its answer.
func (p *Participant) sendOffer() {
	if p.offers.flying {
		p.offers.again = true
		return
	}
	if err := p.offer(); err != nil {
		p.log.WithLevel(levelOf(err)).Err(err).Msg("Offer not made")
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_RECONNECT)
	}
}

// levelOf is how loud to speak of an error in a negotiation: that the client has gone meanwhile is no news.
func levelOf(err error) zerolog.Level {
	if errors.Is(err, webrtc.ErrConnectionClosed) {
		return zerolog.DebugLevel
	}
	return zerolog.WarnLevel
}

func (p *Participant) offer() error {
	p.widen()
	p.takeAway(p.sub)
	for _, video := range []bool{false, true} { // sounds first
		if err := p.addSenders(video); err != nil {
			return fmt.Errorf("add track: %w", err)
		}
	}
	offer, err := p.sub.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: p.offers.restart})
	if err != nil {
		return fmt.Errorf("make offer: %w", err)
	}
	if err := p.sub.pc.SetLocalDescription(offer); err != nil {
		return fmt.Errorf("set offer: %w", err)
	}
	p.offers.again, p.offers.restart = false, false
	p.tellOffer(offer.SDP)
	return nil
}

// addSenders gives the subscriptions of one kind that wait their sections, as far as there are some.
func (p *Participant) addSenders(video bool) error {
	for _, s := range p.subs {
		if s.sender != nil || s.up.Video() != video || !p.mayAdd(s) {
			continue
		}
		sender, err := p.addSender(s)
		if err != nil {
			return err
		}
		p.bound(s, sender)
	}
	return nil
}

// withFreeSections has the sections that are free take media, where they would be inactive. Nothing comes of it, and the client's answer is the
// same; but Pion takes nothing more on a section that was inactive in two offers (4.2.20: RTPTransceiver.Stop). LiveKit 1.13.5 offers
// them so to everybody.
func withFreeSections(offer string) string {
	return strings.ReplaceAll(offer, lineEnd+"a=inactive"+lineEnd, lineEnd+"a=recvonly"+lineEnd)
}

func (p *Participant) tellOffer(sdp string) {
	if p.onPion() {
		sdp = withFreeSections(sdp)
	}
	p.offers.flying, p.offers.told, p.offers.overdue = true, time.Now(), 0
	p.offers.id++
	p.send(&signal.Response{Message: &signal.Response_Offer{Offer: &signal.SessionDescription{
		Type: "offer", Sdp: p.told(withAudioForms(sfu.WithoutREMB(sdp), p.audioForms(p.sub))), Id: p.offers.id, MidToTrackId: p.trackByMid(p.sub),
	}}})
}

// offerAgain offers with new ICE credentials to a client that has resumed. Pion takes no offer back: one that the lost socket swallowed, or
// its answer, is said once more, and the new one follows its answer.
func (p *Participant) offerAgain() {
	p.offers.restart = true
	if pending := p.sub.pc.PendingLocalDescription(); pending != nil {
		p.offers.again = true
		p.tellOffer(pending.SDP)
		return
	}
	p.offers.flying = false
	p.sendOffer()
}

// missAnswer ends a session whose client goes on speaking and leaves an offer unanswered: nothing that has come since would reach it. It joins
// anew. Who was asleep may say one thing before it answers.
func (p *Participant) missAnswer(now time.Time) {
	if !p.offers.flying || now.Sub(p.offers.told) < p.room.focus.config.Grace {
		return
	}
	if p.offers.overdue++; p.offers.overdue > 1 {
		p.log.Info().Uint32("offer", p.offers.id).Msg("Offer not answered by the client")
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_RECONNECT)
	}
}

// freed says whether there is a section that a subscription can take over.
func (p *Participant) freed(s *subscription) bool {
	for _, t := range p.sub.pc.GetTransceivers() {
		if t.Kind() == s.down.Kind() && t.Sender() == nil && t.Mid() != "" && !p.offers.freed[t.Mid()] {
			return true
		}
	}
	return false
}

// mayAdd says whether a subscription can have its section with the next offer.
func (p *Participant) mayAdd(s *subscription) bool {
	if len(p.offers.removed) > 0 || p.freed(s) {
		return true
	}
	all, same := p.sub.pc.GetTransceivers(), 0
	for _, t := range all {
		if t.Kind() == s.down.Kind() {
			same++
		}
	}
	return len(all) < p.room.focus.mostSent && same < p.mostOf(kindIndex(s.up.Video()))
}

// mostOf is how many sections there may be of a kind. Pictures leave some free, so that a voice which comes later has one.
func (p *Participant) mostOf(kind int) int {
	most := p.room.focus.mostSent
	if kind == kindIndex(true) {
		return most - most/keptForSounds
	}
	return most
}

// addSender puts a subscription on a section that became free, or on a new one.
func (p *Participant) addSender(s *subscription) (*webrtc.RTPSender, error) {
	if p.freed(s) {
		return p.sub.pc.AddTrack(s.down)
	}
	t, err := p.sub.pc.AddTransceiverFromTrack(s.down, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		return nil, err
	}
	return t.Sender(), nil
}

// onAnswer takes the client's answer to the newest offer.
func (p *Participant) onAnswer(m *signal.SessionDescription) {
	if p.single || !p.offers.flying || m.GetId() != 0 && m.Id != p.offers.id {
		return
	}
	answer, all, err := p.readDescription(m.GetSdp(), p.sub)
	if err == nil {
		err = p.sub.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer})
	}
	if err != nil {
		p.log.Info().Err(err).Msg("Answer not taken")
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_RECONNECT)
		return
	}
	p.offers.flying = false
	p.offers.freed = nil
	p.sub.count = 0
	p.takeForms(p.sub, all)
	p.findUnsupported()
	if p.offers.again {
		p.sendOffer()
		return
	}
	p.negotiate()
}
