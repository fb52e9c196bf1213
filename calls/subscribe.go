package calls

import (
	"slices"
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
	told    bool // the publisher knows
	screen  bool // it shows a screen
	red     bool // it may be sent with copies of earlier packets
	stereo  bool
	refused bool // the client knows that it has no codec for it

	mime   string          // of up
	lacks  map[string]bool // codecs that the client has not, in small letters
	awaits string          // codec that it has, and that the publisher is to send
	paused bool            // because of p's line
}

// peerChanged takes what the room says of another: the client hears of it first, then come its media.
func (p *Participant) peerChanged(now *peer) {
	if p.holdsBack(now) {
		return
	}
	sid := now.info.Sid
	before := p.peers[sid]
	if before != nil && before.info.Version > now.info.Version {
		return
	}
	if !now.info.Permission.GetHidden() && (before == nil || before.info.Version != now.info.Version) {
		p.tellOf(now.info, before)
	}
	if now.info.State == signal.Participant_DISCONNECTED {
		delete(p.peers, sid)
		p.forgetWants(sid)
		p.gone.note(now.info, time.Now())
	} else {
		p.peers[sid] = now
		p.tellPermissions(before, now)
	}
	if len(now.ups) > 0 || before != nil && len(before.ups) > 0 {
		p.resubscribe()
	}
}

// tellPermissions says which of a publisher's tracks have become allowed or forbidden.
func (p *Participant) tellPermissions(before, now *peer) {
	if before == nil {
		return
	}
	for track := range now.ups {
		was, is := p.permitted(before, track), p.permitted(now, track)
		if was != is {
			p.send(&signal.Response{Message: &signal.Response_SubscriptionPermissionUpdate{SubscriptionPermissionUpdate: &signal.SubscriptionPermissionUpdate{
				ParticipantSid: now.info.Sid, TrackSid: track, Allowed: is,
			}}})
		}
	}
}

// permitted says whether the publisher lets p have the track.
func (p *Participant) permitted(from *peer, track string) bool {
	if from.allow.GetAllParticipants() {
		return true
	}
	for _, perm := range from.allow.GetTrackPermissions() {
		if perm.ParticipantSid != p.sid && perm.ParticipantIdentity != p.identity {
			continue
		}
		if perm.AllTracks || slices.Contains(perm.TrackSids, track) {
			return true
		}
	}
	return false
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
	if s.screen {
		s.down.SetPriority(screenPriority)
	}
	p.subs[track] = s
}

func (p *Participant) unsubscribe(track string, s *subscription) {
	delete(p.subs, track)
	s.down.Stop()
	if s.sender != nil {
		p.offers.removed = append(p.offers.removed, s.sender)
	}
	p.tellWanted(s, -1)
}

// bound is called when a subscription has got its media section.
func (p *Participant) bound(s *subscription, sender *webrtc.RTPSender) {
	s.sender = sender
	s.down.SetWish(s.wish)
	s.down.Start()
	p.tellWanted(s, s.down.Wanted())
}

// onSubscriptionPermission takes whom the client lets have its tracks.
func (p *Participant) onSubscriptionPermission(m *signal.SubscriptionPermission) {
	if len(m.GetTrackPermissions()) > maxWishes {
		return
	}
	p.allow = m
	p.room.update(p.snapshot())
}

// onSubscription takes the client's wish, also for tracks that are not there yet.
func (p *Participant) onSubscription(m *signal.UpdateSubscription) {
	set := func(track string) {
		if len(p.wishes) < maxWishes {
			p.wishes[track] = m.Subscribe
		}
	}
	for _, track := range m.TrackSids {
		set(track)
	}
	for _, list := range m.ParticipantTracks {
		for _, track := range list.TrackSids {
			set(track)
		}
	}
	p.resubscribe()
}

// maxWishes bounds what a client may say of tracks that may never come.
const maxWishes = 4096

// onTrackSetting takes how a track is shown.
func (p *Participant) onTrackSetting(m *signal.TrackSetting) {
	for _, track := range m.TrackSids {
		s := p.subs[track]
		if s == nil {
			continue
		}
		s.wish = sfu.Wish{Disabled: m.Disabled, Quality: int(m.Quality), Width: m.Width, Height: m.Height, FPS: m.Fps}
		switch {
		case s.sender == nil:
		case m.Disabled:
			time.AfterFunc(hiddenFor, func() { p.do(func() { p.hide(s) }) })
		default:
			p.show(s)
		}
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

// tellStream says that a track has stopped, or goes on, because of p's line.
func (p *Participant) tellStream(track string, paused bool) {
	s := p.subs[track]
	if s == nil {
		return
	}
	s.paused = paused
	state := signal.StreamState_STREAM_ACTIVE
	if paused {
		state = signal.StreamState_STREAM_PAUSED
	}
	p.send(&signal.Response{Message: &signal.Response_StreamStateUpdate{StreamStateUpdate: &signal.StreamStateUpdate{
		StreamStates: []*signal.StreamStateInfo{{ParticipantSid: s.from.sid, TrackSid: track, State: state}},
	}}})
}

// Who comes first where a line does not carry everything.
const (
	speakerPriority = 1
	screenPriority  = 2
)

// prefer lets those who speak come before the others on p's line.
func (p *Participant) prefer(speakers []*signal.Speaker) {
	for _, speaker := range speakers {
		for _, s := range p.subs {
			if s.from.sid != speaker.Sid || s.screen {
				continue
			}
			priority := 0
			if speaker.Active {
				priority = speakerPriority
			}
			s.down.SetPriority(priority)
		}
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
