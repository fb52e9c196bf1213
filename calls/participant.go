package calls

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/calls/sfu"
	"chancery/calls/signal"
	"chancery/storage"
	"chancery/storage/bus"
)

// Participant is one client in one room. Its goroutine owns everything below the line; pion's and the socket's
// goroutines hand it functions through do, the room through post.
type Participant struct {
	room     *Room
	sid      string
	identity string
	single   bool // one peer connection for both directions
	log      zerolog.Logger

	// as whom the token was given; empty in a focus alone
	user       id.UserID
	device     id.DeviceID
	matrixRoom id.RoomID
	binding    *Matrix // the same, as the token said it; not to be changed

	inbox    chan func()
	done     chan struct{}
	once     sync.Once
	because  ending                                 // written before done is closed
	judged   atomic.Pointer[signal.LinkQualityInfo] // how p's line does; nil: not judged yet
	measured atomic.Pointer[bus.LiveParticipant]    // as of the last look
	data     dataPort
	hearsay  hearsay
	came     time.Time
	allotted *allotment // what its client's messages may cost

	// owned by run
	claims    *Claims
	join      *signal.Join
	ruling    ruling
	granted   *bool              // publishing, as an administrator last said; nil: nobody did
	sending   *bool              // likewise data packets
	budgets   []*sfu.Budget      // that its packets are counted against: its own, the call's, its server's
	counted   bool               // among the focus's places
	record    storage.CallRecord // as it was last noted
	recorded  bool
	kinds     []string // of tracks that it has published
	got       totals   // when it was last measured
	ticks     int
	conn      *signal.Conn
	info      *signal.Participant
	talk      talk
	allow     *allowance
	published map[string]*publication // by track sid
	repeats   []repeated              // of its tracks, that wait
	premature []premature             // media of tracks that it is yet to announce
	peers     map[string]*peer        // by participant sid
	subs      map[string]*subscription
	speaking  map[string]bool // others, by sid
	wishes    map[string]bool // subscribe or not, as the client said, by track sid
	settings  map[string]setting
	sought    map[string]time.Time // asked for, and not there: since when
	pub, sub  *transport
	link      *sfu.Downlink
	sections  sections
	offers    offers
	wanted    map[string]map[string]want // by own track sid: what each subscriber wants
	untold    bool                       // its token says what is no longer so
	graceEnds time.Time                  // when to give up a lost transport; zero: it stands
	pulse     pulse
	line      lineQuality
	gone      departed
	arrived   arrived
	deaf      deafness
	hears     bool // what comes after its join; see deafness
	returning returning
	ordeal    ordeal
	trailer   []byte // ends the frames that are the focus's own; nil: the client gets none
	road      road
	spokeAt   time.Time // when the client last said something
	stoodAt   time.Time // when its carrier last came to stand

	introduced int // how often it is yet to be told who speaks
}

// ending is why and how a participant goes.
type ending struct {
	reason signal.DisconnectReason
	action signal.Leave_Action
	silent bool // the client itself has left
}

const (
	participantInbox = 1024
	participantTick  = time.Second
	refreshEvery     = 5 * time.Minute
	leastRefresh     = 10 * time.Minute
	longestToken     = 4 << 10 // with what its bearer tells of itself; beside a join request it fits into the 8 KiB that proxies allow an address
	pingTimeout      = 15      // seconds, for the client
	pingInterval     = 5
	requestsPerSec   = 50 // signalling messages of one client in the long run; each may go to all others
	requestsAtOnce   = 1000
	workPerSec       = 250 * time.Millisecond // of a processor, for one client's messages in the long run
	workAtOnce       = 4 * time.Second
	longestRest      = 5 * time.Second // a client gives its socket up after fifteen seconds without an answer
	maxCapabilities  = 64
)

func newParticipant(r *Room, e *entry) *Participant {
	now := time.Now()
	claims, join := e.claims, e.join
	p := &Participant{
		room: r, sid: newID("PA_"), identity: claims.Subject, single: e.single,
		claims: claims, join: join, ruling: e.ruling, hears: e.hears,
		inbox: make(chan func(), participantInbox), done: make(chan struct{}),
		published: map[string]*publication{}, peers: map[string]*peer{}, subs: map[string]*subscription{},
		speaking: map[string]bool{}, wishes: map[string]bool{}, settings: map[string]setting{}, sought: map[string]time.Time{}, wanted: map[string]map[string]want{},
		granted: claims.Granted,
		allow:   everybody, talk: newTalk(),
		data: newDataPort(), came: now, allotted: r.focus.door.of(r.name, claims.Subject),
	}
	if m := claims.Matrix; m != nil {
		p.user, p.device, p.matrixRoom, p.binding = m.User, m.Device, m.Room, m
	}
	if p.onPion() {
		p.trailer = []byte(rand.Text())
	}
	p.road = r.focus.roads.of(p)
	p.log = zerolog.Ctx(r.focus.ctx).With().Str("call", r.sid).Str("participant", p.sid).Logger()
	grant := &claims.Video
	p.info = &signal.Participant{
		Sid: p.sid, Identity: p.identity, Name: claims.Name, Metadata: claims.Metadata, Attributes: maps.Clone(claims.Attributes),
		State: signal.Participant_JOINED, JoinedAt: now.Unix(), JoinedAtMs: now.UnixMilli(), Version: 1,
		Permission: &signal.Permission{
			CanSubscribe: allowed(grant.CanSubscribe), CanPublish: p.mayPublish(),
			CanPublishData: p.mayData(), CanPublishSources: sourcesNamed(grant.CanPublishSources), Hidden: grant.Hidden,
			CanUpdateMetadata: grant.CanUpdateOwnMetadata != nil && *grant.CanUpdateOwnMetadata,
		},
		ClientProtocol: join.GetClientInfo().GetClientProtocol(), Capabilities: join.GetClientInfo().GetCapabilities(),
	}
	p.data.may.Store(p.info.Permission.CanPublishData)
	p.data.hidden.Store(grant.Hidden)
	if len(p.info.Capabilities) > maxCapabilities {
		p.info.Capabilities = nil
	}
	if p.info.Permission.CanUpdateMetadata {
		metadata, attributes := cmp.Or(join.GetMetadata(), claims.Metadata), map[string]string{}
		maps.Copy(attributes, claims.Attributes)
		maps.Copy(attributes, join.GetParticipantAttributes())
		if withinBounds(claims.Name, metadata, attributes) {
			p.info.Metadata, p.info.Attributes = metadata, attributes
		}
	}
	return p
}

// onPion says whether p's client stands on Pion, which in some things is not as browsers are.
func (p *Participant) onPion() bool { return p.join.GetClientInfo().GetSdk() == sdkGo }

// snapshot is what the others may know of p now.
func (p *Participant) snapshot() *peer {
	s := &peer{from: p, info: signal.Clone(p.info), ups: map[string][]source{}, allow: p.allow}
	s.info.Tracks = nil
	for sid, t := range p.published {
		if all := t.sources(); len(all) > 0 {
			s.ups[sid] = all
		}
		if t.live {
			s.info.Tracks = append(s.info.Tracks, signal.Clone(t.info))
		}
	}
	return s
}

// do hands fn to p's goroutine and waits for room; for those who serve p alone.
func (p *Participant) do(fn func()) bool {
	select {
	case p.inbox <- fn:
		return true
	case <-p.done:
		return false
	}
}

// post hands fn over without waiting; for those who serve others too. A participant that does not keep up is sent away.
func (p *Participant) post(fn func()) {
	select {
	case p.inbox <- fn:
	default:
		p.end(signal.DisconnectReason_STATE_MISMATCH, signal.Leave_RECONNECT)
	}
}

// end sends p away. Only the first call counts.
func (p *Participant) end(reason signal.DisconnectReason, action signal.Leave_Action) {
	p.stop(ending{reason: reason, action: action})
}

func (p *Participant) stop(why ending) {
	p.once.Do(func() {
		p.because = why
		close(p.done)
	})
}

// run is p's goroutine.
func (p *Participant) run() {
	p.room.focus.crowded(1)
	defer p.room.focus.crowded(-1)
	tick, refresh := time.NewTicker(participantTick), time.NewTicker(p.room.focus.refreshEvery)
	defer tick.Stop()
	defer refresh.Stop()
	defer p.close()
	for {
		select {
		case <-p.done:
			return
		case fn := <-p.inbox:
			p.guarded(fn)
		case now := <-tick.C:
			p.guarded(func() { p.tick(now) })
		case <-refresh.C:
			p.guarded(p.refresh)
		}
	}
}

// guarded runs fn; a fault in it ends p and nobody else.
func (p *Participant) guarded(fn func()) {
	defer func() {
		if fault := recover(); fault != nil {
			faults.Inc()
			p.log.Error().Interface("panic", fault).Bytes("stack", debug.Stack()).Msg("Participant's session failed")
			p.end(signal.DisconnectReason_STATE_MISMATCH, signal.Leave_RECONNECT)
		}
	}()
	fn()
}

// close lets go of everything, also where one step of it fails.
func (p *Participant) close() {
	for _, step := range []func(){p.tellHooks, p.takeLeave, p.endMedia, p.hangUp, p.forget} {
		p.guarded(step)
	}
}

// tellHooks tells webhooks that p goes, before its room can be over.
func (p *Participant) tellHooks() {
	for _, t := range p.published {
		p.hook("track_unpublished", t)
	}
	if p.info.State == signal.Participant_ACTIVE {
		p.info.State, p.info.DisconnectReason = signal.Participant_DISCONNECTED, p.because.reason
		p.hook("participant_left", nil)
	}
}

// takeLeave tells everybody that p goes, its client last.
func (p *Participant) takeLeave() {
	departures.WithLabelValues(p.because.reason.String()).Inc()
	p.log.Debug().Stringer("reason", p.because.reason).Msg("Participant leaves the call")
	p.room.leave(p, p.because.reason)
	p.leaves()
	p.room.focus.departed(p)
	if !p.because.silent {
		if p.because.reason == signal.DisconnectReason_SERVER_SHUTDOWN {
			p.sendTokenAs(time.Now().UnixMilli(), firstTryOf(p.conn.RoundTrip()).Milliseconds())
		}
		p.send(&signal.Response{Message: &signal.Response_Leave{Leave: &signal.Leave{
			Reason: p.because.reason, Action: p.because.action, CanReconnect: p.because.action != signal.Leave_DISCONNECT,
		}}})
	}
	p.leavePlace()
	p.conn.Close()
}

// endMedia stops what p gets and what it sends.
func (p *Participant) endMedia() {
	if p.link != nil { // otherwise it never had a peer connection
		p.link.Close()
	}
	for _, s := range p.subs {
		s.down.Stop()
	}
	for _, t := range p.published {
		t.end()
	}
}

// hangUp closes what p holds of the outside, and waits for what has come by it.
func (p *Participant) hangUp() {
	p.leavePlace() // again, where there was no goodbye
	p.conn.Close()
	p.pub.close()
	if p.sub != p.pub {
		p.sub.close()
	}
	for _, t := range p.published {
		for up := range t.ups() {
			up.Wait()
		}
	}
}

// forget lets go of everybody else. A media section that nobody has used again keeps the track that was in it, and with it p: it must
// not keep all who came after p as well.
func (p *Participant) forget() {
	clear(p.peers)
	clear(p.subs)
	clear(p.published)
	p.offers.removed = nil
	p.hearsay.take(true)
	for {
		select {
		case <-p.inbox:
		default:
			return
		}
	}
}

func (p *Participant) send(res *signal.Response) {
	p.conn.Send(res) // a slow or lost socket is closed; its client resumes
}

// sendFrame is send for what many are told: it is encoded once.
func (p *Participant) sendFrame(frame []byte) { p.conn.SendFrame(frame) }

// tick looks after what has a time limit.
func (p *Participant) tick(now time.Time) {
	if !p.graceEnds.IsZero() && now.After(p.graceEnds) {
		p.blameRoad(now)
		p.end(signal.DisconnectReason_CONNECTION_TIMEOUT, signal.Leave_RECONNECT)
		return
	}
	p.pulse.beat(p.received())
	p.dropUnsent(now)
	p.tellNotFound(now)
	p.hearSpeakers()
	p.tellDynacast(now)
	p.judgeLine()
	if p.untold {
		p.sendToken()
	}
	if p.ticks++; p.ticks%measureEvery == 0 {
		p.measure()
	}
}

// startGrace gives the client a while to come back.
func (p *Participant) startGrace(d time.Duration) {
	if p.graceEnds.IsZero() {
		p.graceEnds = time.Now().Add(d)
	}
}

// attach makes c the signalling socket, in place of an older one, and reads it.
func (p *Participant) attach(c *signal.Conn) {
	if p.conn != nil {
		p.conn.Close()
	}
	p.conn = c
	p.widen()
	if p.transportUp() {
		p.graceEnds = time.Time{}
	}
	p.hearken(c)
}

// hearken reads c from now on.
func (p *Participant) hearken(c *signal.Conn) {
	p.room.focus.live.Go(func() { p.guarded(func() { p.read(c) }) })
}

// read hands over what the client says, until its socket ends or another has taken its place. Each message waits until the one before has been
// handled, so that one client holds one in memory, and longer where those before were much work, on whichever socket they came.
func (p *Participant) read(c *signal.Conn) {
	for alive := p.rest(0); alive; {
		req, err := c.Read()
		if err != nil {
			p.do(func() { p.socketLost(c, signal.EndingOf(err)) })
			return
		}
		if !p.allotted.messages.Allow() {
			p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_DISCONNECT)
			return
		}
		var took time.Duration
		if took, alive = p.serve(c, req); alive {
			alive = p.rest(took)
		}
	}
}

// serve has a request that came on c handled, and says how long that took; false: p has ended meanwhile, or has another socket.
func (p *Participant) serve(c *signal.Conn, req *signal.Request) (took time.Duration, alive bool) {
	handled := make(chan time.Duration, 1)
	if !p.do(func() {
		if p.conn != c {
			close(handled)
			return
		}
		begun := time.Now()
		defer func() { handled <- time.Since(begun) }()
		p.spokeAt = begun
		p.spoken()
		p.missAnswer(begun)
		p.handle(req)
	}) {
		return 0, false
	}
	select {
	case took, alive = <-handled:
		return took, alive
	case <-p.done:
		return 0, false
	}
}

// rest waits until the client's messages have earned the work that the last one was; false: p has ended meanwhile.
func (p *Participant) rest(took time.Duration) bool {
	wait := p.allotted.charge(took)
	if wait == 0 {
		return true
	}
	timer := time.NewTimer(min(wait, longestRest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// socketLost keeps participant and media: the client resumes. Where the media are gone too it has left.
func (p *Participant) socketLost(c *signal.Conn, how signal.Ending) {
	if p.conn != c {
		return
	}
	c.Close()
	switch {
	case p.transportClosed():
		p.stop(ending{reason: signal.DisconnectReason_SIGNAL_CLOSE, silent: true})
		return
	case !p.transportUp():
		p.startGrace(p.room.focus.config.Grace)
	case how == signal.Broken || how == signal.Away:
		p.suspect(c, how)
	}
}

// recheck asks once more whether the client may be here, and then does what follows. A question that finds no answer
// ends nobody: the next one will.
func (p *Participant) recheck(then func()) {
	f := p.room.focus
	claims := p.claims
	f.live.Go(func() { p.guarded(func() { p.askAdmission(claims, then) }) })
}

func (p *Participant) askAdmission(claims *Claims, then func()) {
	f := p.room.focus
	ctx, cancel := context.WithTimeout(f.ctx, 10*time.Second)
	defer cancel()
	ruling, err := f.admit.admit(ctx, claims)
	switch {
	case errors.Is(err, ErrNotAdmitted):
		p.end(signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT)
	case err != nil:
		p.log.Warn().Err(err).Msg("Admission not asked again")
	default:
		p.do(func() { p.obey(ruling); then() })
	}
}

// refresh gives the client a new token, if it may still be here.
func (p *Participant) refresh() { p.recheck(p.sendToken) }

func (p *Participant) sendToken() { p.sendTokenAs(0, 0) }

// sendTokenAs is sendToken, as the last word of a focus that stops if sentAway says when (see Claims).
func (p *Participant) sendTokenAs(sentAway, firstTry int64) {
	life := leastRefresh
	if p.claims.ExpiresAt != nil {
		life = max(life, time.Until(p.claims.ExpiresAt.Time))
	}
	p.untold = false
	claims := p.carried()
	claims.SentAway, claims.FirstTry = sentAway, firstTry
	token, err := p.room.focus.tokens.sign(claims, life)
	if len(token) > longestToken {
		claims.Name, claims.Metadata, claims.Attributes = p.claims.Name, p.claims.Metadata, p.claims.Attributes
		token, err = p.room.focus.tokens.sign(claims, life)
	}
	if err != nil {
		p.log.Error().Err(err).Msg("No refresh token")
		return
	}
	p.send(&signal.Response{Message: &signal.Response_RefreshToken{RefreshToken: token}})
}

// carried are the claims of a new token for p: what p is called and was granted by now, so that it is the same when its client joins anew. What
// its Matrix room rules is not in there: that is asked again.
func (p *Participant) carried() Claims {
	claims, may := *p.claims, signal.Clone(p.info.Permission)
	claims.Name, claims.Metadata, claims.Attributes = p.info.Name, p.info.Metadata, p.info.Attributes
	claims.Again, claims.Granted = true, p.granted
	grant := &claims.Video
	if p.binding == nil {
		grant.CanPublish = &may.CanPublish
	}
	if p.sending != nil {
		grant.CanPublishData = p.sending
	}
	grant.CanSubscribe, grant.CanUpdateOwnMetadata = &may.CanSubscribe, &may.CanUpdateMetadata
	grant.CanPublishSources, grant.Hidden = namesOfSources(may.CanPublishSources), may.Hidden
	return claims
}
