package calls

import (
	"maps"
	"sync/atomic"
	"time"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

const serverVersion = "1.9.0" // of the protocol's reference, whose features we offer

func (p *Participant) serverInfo() *signal.ServerInfo {
	return &signal.ServerInfo{Version: serverVersion, Protocol: signal.Protocol, NodeId: p.room.focus.node()}
}

// begin lets the client in: it hears of the room first, then of its token, then gets its answer or our offer.
func (p *Participant) begin(c *signal.Conn) error {
	p.conn = c
	var others []*peer
	err := p.takePlace()
	if err == nil {
		p.room.bound(&p.ruling)
		others, err = p.room.join(p, p.snapshot())
	}
	if err != nil {
		p.leavePlace()
		return err
	}
	p.enters()
	p.measure()
	p.room.focus.live.Go(func() {
		p.guarded(func() { p.arrive(c, others) })
		p.run()
	})
	return nil
}

// arrive is p's first work. Its client's messages pay for it.
func (p *Participant) arrive(c *signal.Conn, others []*peer) {
	begun := time.Now()
	if joinsAnew(p.claims, p.join) {
		p.returns()
		if !p.hears {
			p.deafen()
		}
	}
	p.welcome(others)
	if err := p.open(); err != nil {
		p.log.Error().Err(err).Msg("No peer connection")
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_DISCONNECT)
	} else {
		p.room.focus.live.Go(p.link.Run)
		p.introduce()
	}
	p.recheck(func() {}) // what changed between the first check and the room's knowing p
	p.allotted.charge(min(time.Since(begun), joinCosts))
	p.hearken(c)
}

// welcome says the first words. The client makes its peer connections meanwhile, and so do we, afterwards.
func (p *Participant) welcome(others []*peer) {
	infos := make([]*signal.Participant, 0, len(others))
	for _, o := range others {
		p.peers[o.info.Sid] = o
		if !o.info.Permission.GetHidden() {
			infos = append(infos, o.info)
		}
	}
	codecs := make([]*signal.Codec, 0, 8)
	for _, mime := range sfu.MimeTypes() {
		codecs = append(codecs, &signal.Codec{Mime: mime})
	}
	p.send(&signal.Response{Message: &signal.Response_Join{Join: &signal.Joined{
		Room: p.room.describe(p.headcount()), Participant: p.snapshot().info, OtherParticipants: infos,
		ServerVersion: serverVersion, ServerInfo: p.serverInfo(),
		IceServers: p.road.servers(p.room.focus.iceServers(p)), ClientConfiguration: p.road.configuration(), SubscriberPrimary: !p.single, FastPublish: p.single || p.returning.on,
		PingTimeout: pingTimeout, PingInterval: pingInterval, EnabledPublishCodecs: codecs,
		SifTrailer: p.trailer,
	}}})
	p.sendToken()
}

// introduce begins with what the client asked for when it came.
func (p *Participant) introduce() {
	p.startGrace(p.room.focus.config.Grace) // for the first connection
	for _, req := range p.join.GetAddTrackRequests() {
		p.onAddTrack(req)
	}
	if offer := p.join.GetPublisherOffer(); offer.GetSdp() != "" {
		p.subscribeAll()
		p.onOffer(offer)
	} else if !p.single {
		p.subscribeAll()
		p.sendOffer() // even without a track: the data channels need it
	}
	p.join.PublisherOffer = nil
	p.resubscribe()
}

// headcount counts who is there, as far as p has heard, and p itself.
func (p *Participant) headcount() headcount {
	n := countPeers(maps.Values(p.peers))
	n.add(&signal.Participant{Permission: p.info.Permission, IsPublisher: len(p.published) > 0})
	return n
}

// subscribeAll notes what is wanted before the first negotiation, so that it is in there.
func (p *Participant) subscribeAll() {
	for _, from := range p.peers {
		for track := range from.ups {
			if p.wants(from, track) {
				p.subscribe(from, track)
			}
		}
	}
}

// connecting is called when the carrier is on its way: the first key frames may be too.
func (p *Participant) connecting() {
	p.link.Near()
	for _, s := range p.subs {
		s.down.AskKeyFrame()
	}
}

// introductions is how often a newcomer is told who speaks, a second apart: livekit-client drops it of whom it has not placed yet, and on a busy
// machine the carrier stands before that.
const introductions = 4

// hearSpeakers tells a newcomer who speaks just now.
func (p *Participant) hearSpeakers() {
	if p.introduced > 0 {
		p.introduced--
		p.room.do(func() { p.room.tellPresent(p) })
	}
}

// connected is called when the carrier stands, the first time and after each restart.
func (p *Participant) connected() {
	p.link.Ready()
	p.stoodAt = time.Now()
	for _, s := range p.subs {
		s.down.AskKeyFrame()
	}
	if p.info.State != signal.Participant_ACTIVE {
		p.info.State = signal.Participant_ACTIVE
		p.changed()
		p.tellForbidden()
		p.hook("participant_joined", nil)
		p.introduced = introductions
		p.hearSpeakers()
	}
}

// resumes gives the client's new socket to p, and says whether p took it: one that ends takes no more.
func (p *Participant) resumes(c *signal.Conn, e *entry) bool {
	var decided atomic.Bool
	ran := make(chan struct{})
	if !p.do(func() {
		defer close(ran)
		if !p.ended() && decided.CompareAndSwap(false, true) {
			begun := time.Now()
			p.resume(c, e)
			p.allotted.charge(min(time.Since(begun), joinCosts))
		}
	}) {
		return false
	}
	select {
	case <-ran:
	case <-p.done: // and may not look at its inbox again
	}
	return !decided.CompareAndSwap(false, true)
}

// resume takes a new socket for a session that lives: the first message says so, the rest brings the client up to date.
func (p *Participant) resume(c *signal.Conn, e *entry) {
	if p.ordeal.unheard(c) {
		return
	}
	p.claims = e.claims
	p.attach(c)
	p.recheck(func() {})
	p.send(&signal.Response{Message: &signal.Response_Reconnect{Reconnect: &signal.Reconnected{
		IceServers: p.road.servers(p.room.focus.iceServers(p)), ClientConfiguration: p.road.configuration(), ServerInfo: p.serverInfo(), LastMessageSeq: p.data.lastReliable(),
	}}})
	if p.ordeal.resumed(c) {
		return
	}
	p.muteAgain()
	gone := p.gone.missed(time.Now(), p.peers)
	for _, o := range gone {
		p.fallenSilent(o.Sid)
	}
	update := &signal.ParticipantUpdate{Participants: append(gone, p.snapshot().info)}
	for _, o := range p.peers {
		if !o.info.Permission.GetHidden() {
			update.Participants = append(update.Participants, o.info)
		}
	}
	p.send(&signal.Response{Message: &signal.Response_Update{Update: update}})
	p.send(&signal.Response{Message: &signal.Response_RoomUpdate{RoomUpdate: &signal.RoomUpdate{Room: p.room.describe(p.headcount())}}})
	p.sendToken()
	p.hear()
	p.stopWaiting()
	p.repeat()
	p.room.do(func() { p.room.tellLevels(p) })
	if !p.graceEnds.IsZero() {
		p.graceEnds = time.Now().Add(p.room.focus.config.Grace) // a fresh chance for the transport
	}
	if p.single {
		p.askAgain()
	} else {
		p.offerAgain()
	}
	if e.join.GetSyncState() != nil {
		p.onSyncState(e.join.SyncState)
	}
}

// muteAgain says which of its own tracks others have muted: a client that sees such a one muted and has not heard of it takes that for a slip, and
// unmutes it. (livekit-client 2.23.0: LocalParticipant.updateInfo)
func (p *Participant) muteAgain() {
	for _, t := range p.published {
		if t.silenced() {
			p.sendMute(t)
		}
	}
}

// repeat says what holds for the client's own tracks and those that it gets, since the lost socket may have swallowed it:
// a layer that it was told to send again and did not hear of would stay dark.
func (p *Participant) repeat() {
	for _, t := range p.published {
		if t.live {
			p.sendQualities(t)
		}
	}
	var states []*signal.StreamStateInfo
	for _, s := range p.subs {
		if s.stalled {
			states = append(states, s.state())
		}
	}
	p.tellStates(states)
	p.tellForbidden()
}

// onSyncState compares what the client thinks it has with what it has. Tracks it left behind are gone for good.
func (p *Participant) onSyncState(m *signal.SyncState) {
	for _, known := range m.PublishTracks {
		sid := known.GetTrack().GetSid()
		if sid != "" && p.published[sid] == nil {
			p.end(signal.DisconnectReason_STATE_MISMATCH, signal.Leave_RECONNECT)
			return
		}
	}
	for _, track := range m.TrackSidsDisabled {
		if s := p.subs[track]; s != nil {
			s.wish.Disabled = true
			s.down.SetWish(s.wish)
		}
	}
	if m.Subscription != nil {
		p.onSubscription(m.Subscription)
	}
	p.tellAgain(m.DatachannelReceiveStates)
}
