package calls

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// What a room or an administrator orders is done to the packets: a client that does not listen is not heard. The client is
// told as LiveKit would tell it.

// obey brings what p may do in line with a new ruling. It runs in p's goroutine. Several ask at the same time, each in a goroutine of its
// own: a ruling that was asked for before the one that holds comes too late.
func (p *Participant) obey(v ruling) {
	if v.asked < p.ruling.asked {
		return
	}
	p.ruling = v
	p.room.bound(&v)
	p.permit()
	forced := false
	for _, t := range p.published {
		forced = p.force(t) || forced
	}
	if forced {
		p.changed()
	}
}

// mayPublish says whether p may send media: both the room and an administrator can take it away. In a focus alone the token
// decides, and an administrator after it.
func (p *Participant) mayPublish() bool {
	if p.binding == nil {
		if p.granted != nil {
			return *p.granted
		}
		return allowed(p.claims.Video.CanPublish)
	}
	return p.ruling.publish && !p.binding.Watch && allowed(p.granted)
}

// mayData says whether p may send data packets. Its token decides, and an administrator after it; who may only watch by the
// rules of its room sends none.
func (p *Participant) mayData() bool {
	may := allowed(p.claims.Video.CanPublishData)
	if p.sending != nil {
		may = *p.sending
	}
	return may && (p.binding == nil || p.ruling.publish && !p.binding.Watch)
}

// maySend says whether p may publish a track of the kind. A track that does not say what it is is none of those that are named.
func (p *Participant) maySend(source signal.TrackSource) bool {
	only := p.info.Permission.CanPublishSources
	return p.info.Permission.CanPublish && (len(only) == 0 || source != signal.TrackSource_UNKNOWN && slices.Contains(only, source))
}

// sourcesNamed are kinds of tracks as tokens name them. A name that is none stands for no track, and so permits none.
func sourcesNamed(names []string) (sources []signal.TrackSource) {
	for _, name := range names {
		sources = append(sources, signal.TrackSource(signal.TrackSource_value[strings.ToUpper(name)]))
	}
	return sources
}

// namesOfSources is the reverse.
func namesOfSources(sources []signal.TrackSource) (names []string) {
	for _, source := range sources {
		names = append(names, strings.ToLower(source.String()))
	}
	return names
}

// permit takes publishing and data away, or gives them back, and tells everybody.
func (p *Participant) permit() {
	publish, data := p.mayPublish(), p.mayData()
	p.data.may.Store(data)
	now := p.info.Permission
	if publish == now.CanPublish && data == now.CanPublishData {
		return
	}
	ends := now.CanPublish && !publish
	now.CanPublish, now.CanPublishData = publish, data
	if ends {
		p.withdraw(func(*publication) bool { return true })
	}
	p.changed()
}

// bound takes what the ruling says of the whole call.
func (r *Room) bound(v *ruling) {
	limit := r.focus.config.MaxCallBitrate
	if v.bitrate > 0 && (limit == 0 || v.bitrate < limit) {
		limit = v.bitrate
	}
	r.budget.SetLimit(limit)
}

// withdraw ends what p publishes and which is true of.
func (p *Participant) withdraw(which func(*publication) bool) {
	for sid, t := range p.published {
		if !which(t) {
			continue
		}
		for up := range t.ups() {
			up.Silence(true) // until the client has stopped, or for ever
		}
		p.offers.ends(t.end())
		p.hook("track_unpublished", t)
		delete(p.published, sid)
		delete(p.wanted, sid)
		p.send(&signal.Response{Message: &signal.Response_TrackUnpublished{TrackUnpublished: &signal.TrackUnpublished{TrackSid: sid}}})
	}
}

// force mutes a track that the ruling wants muted, or lets go of it. It is true if others should hear of it.
func (p *Participant) force(t *publication) (changed bool) {
	forced := p.ruling.mute
	if t.info.Type == signal.TrackType_VIDEO {
		forced = p.ruling.noVideo
	}
	if forced == t.forced {
		return false
	}
	t.forced = forced
	t.quiet()
	if !forced || t.info.Muted {
		return false // its client unmutes it, or had muted it
	}
	t.info.Muted = true
	p.sendMute(t)
	return true
}

// quiet lets a track's media be as muted as it is. Dropped are the packets of one that others have muted, and those of a voice that its own client
// has: nobody is heard who seems to be muted. (Of such a picture clients show nothing; and once it goes on it would have to wait for a key frame.)
func (t *publication) quiet() {
	for up := range t.ups() {
		up.Mute(t.info.Muted)
		up.Silence(t.silenced() || t.info.Muted && !up.Video())
	}
}

// silenced says whether others than its client have muted the track.
func (t *publication) silenced() bool { return t.forced || t.hushed }

func (p *Participant) sendMute(t *publication) {
	p.send(&signal.Response{Message: &signal.Response_Mute{Mute: &signal.Mute{Sid: t.info.Sid, Muted: true}}})
}

// muteByAdmin mutes a track until its own client unmutes it; with an empty sid, all of them. It gives the tracks.
func (p *Participant) muteByAdmin(sid string) (muted []*signal.Track) {
	changed := false
	for _, t := range p.published {
		if sid != "" && t.info.Sid != sid {
			continue
		}
		if !t.hushed { // also of one that its client has muted: it may send all the same
			changed = changed || !t.info.Muted
			t.info.Muted, t.hushed = true, true
			t.quiet()
			p.sendMute(t)
		}
		muted = append(muted, signal.Clone(t.info))
	}
	if changed {
		p.changed()
	}
	return muted
}

// rejudge reads what holds in a Matrix room now, and lets everybody in its calls hear of it.
func (f *Focus) rejudge(ctx context.Context, room id.RoomID) error {
	present := f.present(func(p *Participant) bool { return p.matrixRoom == room })
	if len(present) == 0 {
		return nil
	}
	asked := f.house.ask()
	rules, err := f.house.rules(ctx, room)
	if err != nil {
		return err
	}
	for _, p := range present {
		v, ok := f.house.judge(rules, p.binding)
		if !ok {
			f.sendOff(ctx, p)
			continue
		}
		v.asked = asked
		p.post(func() { p.obey(v) })
	}
	return nil
}

// present gives the participants for whom which is true.
func (f *Focus) present(which func(*Participant) bool) (found []*Participant) {
	for _, r := range f.liveRooms() {
		for _, p := range *r.everyone.Load() {
			if which(p) {
				found = append(found, p)
			}
		}
	}
	return found
}

// sendOff ends a session of a user who may no longer be there.
func (f *Focus) sendOff(ctx context.Context, p *Participant) {
	p.room.left.noteSent(p.user, time.Now())
	p.dismiss(ctx)
}

// dismiss ends a session that may no longer be there.
func (p *Participant) dismiss(ctx context.Context) {
	zerolog.Ctx(ctx).Info().Str("participant", p.sid).Str("call", p.room.sid).Msg("Participant removed from the call")
	p.end(signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT)
}

// commanded does what a moderator asks for in an event of the room, whose rules these are.
func (f *Focus) commanded(ctx context.Context, e *storage.Event, rules *roomRules) {
	command, ok := policy.ParseCallCommand(contentOf(e))
	if !ok || e.RedactedBy != "" || rules == nil || rules.levels == nil || f.house.externals.Name(e.Sender.Homeserver()) {
		return
	}
	own := rules.levels.User(e.Sender)
	if own < rules.levels.Event(policy.CallSettingsType, true) {
		return
	}
	if command.Do != policy.CallEnd && command.UserID != e.Sender && rules.levels.User(command.UserID) >= own {
		return // as with kicks
	}
	if f.late(e) {
		zerolog.Ctx(ctx).Info().Stringer("event_id", e.ID).Msg("Command came after its call")
		return
	}
	f.command(ctx, e.RoomID, command)
}

// commandSkew is how far another server's clock may be behind ours in a call that has just begun.
const commandSkew = time.Minute

// late says whether an event was written before the calls of its room that go on now, and only came now: its server was cut off
// meanwhile. What our own users write comes at once.
func (f *Focus) late(e *storage.Event) bool {
	if e.Sender.Homeserver() == f.house.name {
		return false
	}
	written := time.UnixMilli(e.Timestamp).Add(commandSkew)
	return !slices.ContainsFunc(f.callsOf(e.RoomID), func(r *Room) bool { return !written.Before(r.created) })
}

// command does something once to those in a Matrix room's calls whom it names, and says to how many.
func (f *Focus) command(ctx context.Context, room id.RoomID, c policy.CallCommand) (done int) {
	if c.Do == policy.CallEnd {
		for _, r := range f.callsOf(room) {
			r.end(signal.DisconnectReason_ROOM_DELETED, signal.Leave_DISCONNECT)
			done++
		}
		return done
	}
	for _, p := range f.present(func(p *Participant) bool {
		return p.matrixRoom == room && p.user == c.UserID && (c.DeviceID == "" || p.device == c.DeviceID)
	}) {
		if c.Do == policy.CallRemove {
			f.sendOff(ctx, p)
		} else {
			p.post(func() { p.muteByAdmin(c.TrackSID) })
		}
		done++
	}
	return done
}

// callsOf gives the live calls of a Matrix room.
func (f *Focus) callsOf(room id.RoomID) (found []*Room) {
	for _, r := range f.liveRooms() {
		for _, p := range *r.everyone.Load() {
			if p.matrixRoom == room {
				found = append(found, r)
				break
			}
		}
	}
	return found
}

// patrolEvery is how soon an account that is locked or expires, or an order of another process, is noticed though nobody rings.
const patrolEvery = 400 * time.Millisecond

// seldom is the log of one thing that is tried again and again while something is away: a line each ten seconds is enough.
func seldom(ctx context.Context) zerolog.Logger {
	return zerolog.Ctx(ctx).Sample(&zerolog.BurstSampler{Burst: 1, Period: 10 * time.Second})
}

// patrol looks after what is no news of the stream: accounts that are closed, locked or suspended or that expire, and orders of administrators.
func (f *Focus) patrol(ctx context.Context) {
	tick := time.NewTicker(patrolEvery)
	defer tick.Stop()
	log := seldom(ctx)
	seen := map[id.RoomID]int64{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := f.look(ctx, seen); err != nil && ctx.Err() == nil {
				log.Warn().Err(err).Msg("Calls not looked after, will try again")
			}
		}
	}
}

// look is one round of patrol. seen has the orders that live calls have been judged by: those are news that have another number,
// whatever the clock of the process that wrote them says.
func (f *Focus) look(ctx context.Context, seen map[id.RoomID]int64) error {
	ours, rooms := map[id.UserID]bool{}, map[id.RoomID]bool{}
	for _, p := range f.present(func(p *Participant) bool { return p.user != "" }) {
		rooms[p.matrixRoom] = true
		if f.guestServer(p.user) == "" {
			ours[p.user] = true
		}
	}
	if len(ours) > 0 {
		barred, err := f.house.store.Accounts.Barred(ctx, slices.Collect(maps.Keys(ours)))
		if err != nil {
			return err
		}
		for _, user := range barred {
			f.remove(ctx, func(p *Participant) bool { return p.user == user })
		}
	}
	maps.DeleteFunc(seen, func(room id.RoomID, _ int64) bool { return !rooms[room] })
	written, err := f.house.store.CallOrders.Written(ctx, slices.Collect(maps.Keys(rooms)))
	if err != nil {
		return err
	}
	for room, since := range written {
		if seen[room] == since {
			continue
		}
		if err := f.rejudge(ctx, room); err != nil {
			return err
		}
		seen[room] = since
	}
	return nil
}
