package calls

import (
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// subscription is a track of another that the participant gets, or is to get with the next negotiation.
type subscription struct {
	track   string // sid
	from    *Participant
	up      *sfu.UpTrack
	down    *sfu.DownTrack
	sender  *webrtc.RTPSender // nil until it has a media section
	wish    sfu.Wish
	said    uint32      // which priority the client gives it, 0: none
	hiding  *time.Timer // runs while it is out of view, until it is stopped
	told    *want       // what the publisher was told last
	screen  bool        // it shows a screen
	speaks  bool        // its publisher speaks
	red     bool        // it may be sent with copies of earlier packets
	stereo  bool
	refused bool // the client knows that it has no codec for it

	mime    string          // of up
	lacks   map[string]bool // codecs that the client has not, in small letters
	awaits  string          // codec that it has, and that the publisher is to send
	paused  bool            // because of p's line
	stalled bool            // it was paused once: a client that has not heard the end of it takes it for paused still
}

// peerChanged takes what the room says of another: the client hears of it first, then come its media.
func (p *Participant) peerChanged(now *peer) {
	if now.info.State == signal.Participant_DISCONNECTED {
		p.forgetWants(now.info.Sid)
		p.fallsSilent(now.info.Sid)
	}
	if p.holdsBack(now) {
		return
	}
	sid := now.info.Sid
	before := p.peers[sid]
	if before != nil && before.info.Version > now.info.Version {
		return
	}
	if !now.info.Permission.GetHidden() && (before == nil || before.info.Version != now.info.Version) {
		p.tellOf(now, before)
	}
	if now.info.State == signal.Participant_DISCONNECTED {
		delete(p.peers, sid)
		if !now.info.Permission.GetHidden() {
			p.gone.note(now.info, time.Now())
		}
	} else {
		p.peers[sid] = now
		p.tellPermissions(before, now)
	}
	if len(now.ups) > 0 || before != nil && len(before.ups) > 0 {
		p.resubscribe()
	}
}

// wants says whether p is to have the track.
func (p *Participant) wants(from *peer, track string) bool {
	wish, said := p.wishes[track]
	if !said {
		wish = p.join.GetConnectionSettings().GetAutoSubscribe()
	}
	return wish && p.info.Permission.CanSubscribe && p.permitted(from, track)
}

// resubscribe brings the subscriptions in line with what there is and what is wanted.
func (p *Participant) resubscribe() {
	keep := map[string]bool{}
	for _, from := range p.peers {
		for track := range from.ups {
			if !p.wants(from, track) {
				continue
			}
			keep[track] = true
			if s := p.subs[track]; s == nil {
				p.subscribe(from, track)
			} else {
				p.reconsider(s, from)
			}
		}
	}
	for track, s := range p.subs {
		if !keep[track] {
			p.unsubscribe(track, s)
		}
	}
	p.negotiate()
}

func (p *Participant) subscribe(from *peer, track string) {
	s := &subscription{track: track, from: from.from, wish: sfu.Best, lacks: map[string]bool{}}
	s.take(from.sourcesOf(track)[0], p.link)
	if t := from.track(track); t != nil {
		s.screen, s.red, s.stereo = t.Source == signal.TrackSource_SCREEN_SHARE, redAllowed(t), isStereo(t)
	}
	if to, said := p.settings[track]; said {
		s.wish, s.said = to.wish, to.priority
	}
	s.speaks = p.speaking[from.info.Sid]
	s.down.SetPriority(s.rank())
	p.subs[track] = s
}

func (p *Participant) unsubscribe(track string, s *subscription) {
	delete(p.subs, track)
	s.down.Stop()
	if s.sender != nil {
		p.offers.removed = append(p.offers.removed, s.sender)
	}
	if s.told != nil {
		p.tellWanted(s, -1)
	}
}

// bound is called when a subscription has got its media section.
func (p *Participant) bound(s *subscription, sender *webrtc.RTPSender) {
	s.sender = sender
	s.down.SetWish(s.wish)
	s.down.Start()
	p.tellPermission(s.from.sid, s.track, true)
	p.tellWanted(s, s.down.Wanted())
}

// onSubscription takes the client's wish, also for tracks that are not there yet.
func (p *Participant) onSubscription(m *signal.UpdateSubscription) {
	named := map[string]bool{}
	name := func(tracks []string) {
		for _, track := range tracks[:min(len(tracks), maxWishes-len(named))] {
			named[track] = true
		}
	}
	name(m.TrackSids)
	for _, list := range m.ParticipantTracks {
		name(list.GetTrackSids())
	}
	makeRoom(p, p.wishes, len(named))
	for track := range named {
		keep(p.wishes, track, m.Subscribe)
	}
	p.resubscribe()
	p.answerWish(named, m.Subscribe)
}

// answerWish says what the client may not have of the tracks that it has just named, and has those looked for that are not there.
func (p *Participant) answerWish(named map[string]bool, subscribe bool) {
	if !subscribe {
		for track := range named {
			delete(p.sought, track)
		}
		return
	}
	for _, from := range p.peers {
		for track := range from.ups {
			if named[track] && !p.permitted(from, track) {
				p.tellPermission(from.info.Sid, track, false) // livekit-client 2.23.0 takes it for allowed once it has asked
			}
			delete(named, track)
		}
	}
	makeRoom(p, p.sought, len(named))
	for track := range named {
		keep(p.sought, track, time.Now())
	}
}

const (
	soughtFor    = 5 * time.Second // how long a track that the client has asked for may take to come, before it is told that there is none
	mostNotFound = 64              // are said at once
	notFound     = 2               // of the wire's subscription errors
)

// tellNotFound says which of the tracks that the client asked for are not there. If one comes later the client gets it all the same.
func (p *Participant) tellNotFound(now time.Time) {
	var there map[string]bool
	said := 0
	for track, since := range p.sought {
		if now.Sub(since) < soughtFor || said == mostNotFound {
			continue
		}
		if there == nil {
			there = p.present()
		}
		delete(p.sought, track)
		if !there[track] {
			said++
			p.send(&signal.Response{Message: &signal.Response_SubscriptionResponse{SubscriptionResponse: &signal.SubscriptionResponse{
				TrackSid: track, Err: notFound,
			}}})
		}
	}
}

// tellStream says that a track has stopped, or goes on, because of p's line.
func (p *Participant) tellStream(track string, paused bool) {
	s := p.subs[track]
	if s == nil {
		return
	}
	s.paused, s.stalled = paused, s.stalled || paused
	p.tellStates([]*signal.StreamStateInfo{s.state()})
}

// state is how the track does on p's line, as clients are told.
func (s *subscription) state() *signal.StreamStateInfo {
	state := signal.StreamState_STREAM_ACTIVE
	if s.paused {
		state = signal.StreamState_STREAM_PAUSED
	}
	return &signal.StreamStateInfo{ParticipantSid: s.from.sid, TrackSid: s.track, State: state}
}

func (p *Participant) tellStates(states []*signal.StreamStateInfo) {
	if len(states) > 0 {
		p.send(&signal.Response{Message: &signal.Response_StreamStateUpdate{StreamStateUpdate: &signal.StreamStateUpdate{StreamStates: states}}})
	}
}

// mayPause says whether a picture may stop for a client whose line is too narrow. livekit-client leaves it open unless it
// is told; one that adapts its streams shows what has stopped, and then the voices come first. (livekit-client 2.23.0)
func mayPause(s *signal.ConnectionSettings) bool {
	if s != nil && s.SubscriberAllowPause != nil {
		return *s.SubscriberAllowPause
	}
	return s.GetAdaptiveStream()
}
