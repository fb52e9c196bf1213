package calls

import (
	"net/http"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// livekit-client, once it has joined anew by itself, says that it is connected as soon as its own tracks are out, and goes on for two
// seconds as one that reconnects. What it hears of others in between it keeps back from its application, and forgets: a track that
// comes then is never shown. So where two come back at once, as after the end of a focus, each would miss the other. Whoever joins
// anew is therefore told who was there when it came, and of what has changed since only when these seconds are over.
// Only one whose first attempt was this one is so deaf: where it tried to resume before and was sent away, or came to a door that was
// shut, its timer has been forgotten on the way, and it hears everything. So when a focus has stopped, and all its clients come back at
// once, each of them is sent away from its first attempt: it tries again after 150 to 450 ms, and hears everything.
//
// It is connected again as soon as its own tracks are out, provided that its connections stand by then; if they do not, it waits until
// those two seconds are over. So it hears that its tracks are taken when the connections stand, and not before.
// (livekit-client 2.23.0: Room.emitWhenConnected, Room.handleSignalRestarted, RTCEngine.handleDisconnect, RTCEngine.waitForPCReconnected)

const (
	// deafFor is how long such a client hears nothing, from its first word after the welcome; its own timer may be late.
	deafFor = 2300 * time.Millisecond
	// deafMost is the same from the welcome on.
	deafMost = 3 * time.Second
	// firstTry is when the first attempt of such a client is over, on slow lines too. It waits for half a second at most, so that it is over
	// after firstWait where the line takes no time.
	firstTry  = 2 * time.Second
	firstWait = 650 * time.Millisecond
	// allAtOnce is how long after the end of a focus its clients come back, and meet others who do.
	allAtOnce = 10 * time.Second
	// tracksWait is how long it waits for its connections, to hear that its tracks are taken.
	tracksWait = 1500 * time.Millisecond
	// noticeOne and noticeTwo are how long after us its own page may notice that its one or two connections stand.
	noticeOne = 20 * time.Millisecond
	noticeTwo = 50 * time.Millisecond
)

// The kinds of clients that are told apart, as they name themselves: two are livekit-client, the third stands on Pion.
const (
	sdkJS          = 1
	sdkReactNative = 7
	sdkGo          = 5
)

// deafness is what a client that has joined anew is not told yet.
type deafness struct {
	until time.Time // zero: it hears
	spoke bool
	held  map[string]*peer // by participant sid
	order []string
}

// joinsAnew says whether a join is that of a client that was in the call before, and comes back by itself: it has a token that was
// given to it while it was inside.
func joinsAnew(claims *Claims, join *signal.Join) bool {
	sdk := join.GetClientInfo().GetSdk()
	return claims.Again && !join.GetReconnect() && (sdk == sdkJS || sdk == sdkReactNative)
}

// returning is what a client that has joined anew is kept waiting with.
type returning struct {
	on     bool
	tracks []*publication // taken, and it does not know it yet
}

// returns begins the time in which the client's tracks wait for its connections.
func (p *Participant) returns() {
	p.returning.on = true
	time.AfterFunc(tracksWait, func() { p.post(p.stopWaiting) })
}

// waits says whether the client is to hear later that a track of its own is taken.
func (p *Participant) waits(t *publication) bool {
	if !p.returning.on {
		return false
	}
	p.returning.tracks = append(p.returning.tracks, t)
	return true
}

// stands says whether all connections stand that the client has begun.
func (p *Participant) stands() bool {
	return p.carrier().state == webrtc.PeerConnectionStateConnected &&
		(p.pub.state == webrtc.PeerConnectionStateConnected || p.pub.pc.RemoteDescription() == nil)
}

// stood is called when a connection has come to stand.
func (p *Participant) stood() {
	if !p.returning.on || !p.stands() {
		return
	}
	notice := noticeOne
	if !p.single {
		notice = noticeTwo
	}
	time.AfterFunc(notice, func() { p.post(p.stopWaiting) })
}

// stopWaiting says what has waited.
func (p *Participant) stopWaiting() {
	tracks := p.returning.tracks
	p.returning = returning{}
	for _, t := range tracks {
		if p.published[t.info.Sid] != t {
			continue
		}
		p.sendPublished(t)
		if t.silenced() {
			p.sendMute(t)
		}
	}
}

// sentAway remembers who was told to come again, and join anew.
type sentAway struct {
	mu    sync.Mutex
	known map[string]time.Time // by call and identity: until when it counts
}

const sentAwayFor = 20 * time.Second

func (s *sentAway) note(claims *Claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) >= maxRemembered {
		s.known = map[string]time.Time{}
	}
	s.known[claims.Video.Room+" "+claims.Subject] = time.Now().Add(sentAwayFor)
}

// take says whether it was so, and forgets it.
func (s *sentAway) take(claims *Claims) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := claims.Video.Room + " " + claims.Subject
	until, ok := s.known[key]
	delete(s.known, key)
	return ok && time.Now().Before(until)
}

// resumedBefore tells the home of a call, where a join is relayed to it, that the client was sent away when it tried to resume. Whoever says
// so himself hears too early, which harms nobody else.
const resumedBefore = "Chancery-Resumed-Before"

// resumedBefore says whether a client tried to resume before this join, here or where the request came in.
func (f *Focus) resumedBefore(r *http.Request, e *entry) bool {
	if e.join.Reconnect {
		return false
	}
	if f.refused.take(e.claims) {
		r.Header.Set(resumedBefore, "1")
	}
	return r.Header.Get(resumedBefore) != ""
}

// triedBefore says whether a client that joins anew must have found the door shut before: it was sent away by a focus that stopped, this
// one began after that, and such a client has tried long since.
func (f *Focus) triedBefore(claims *Claims, now time.Time) bool {
	tries := firstTry
	if claims.FirstTry != 0 {
		tries = time.Duration(claims.FirstTry) * time.Millisecond
	}
	away := time.UnixMilli(claims.SentAway)
	return claims.SentAway != 0 && f.began.After(away) && now.Sub(away) > tries
}

// comesDeaf says whether a client would be deaf if it was let in now, and meets others that it should hear of: it was sent away by a focus
// that stopped, a moment ago, and this may be its first attempt since.
func (e *entry) comesDeaf(now time.Time) bool {
	since := now.Sub(time.UnixMilli(e.claims.SentAway))
	return joinsAnew(e.claims, e.join) && !e.hears && since.Abs() < allAtOnce
}

// firstTryOf is how long after it was sent away such a client tries first, at the latest. Its packets take the way there and back three times:
// the word that sends it away, its connection, and its request.
func firstTryOf(roundTrip time.Duration) time.Duration {
	if roundTrip == 0 {
		return firstTry
	}
	return min(firstTry, firstWait+3*roundTrip)
}

// deafen begins the seconds in which p's client hears nothing.
func (p *Participant) deafen() {
	p.deaf = deafness{until: time.Now().Add(deafMost), held: map[string]*peer{}}
	p.hearLater(deafMost)
}

func (p *Participant) hearLater(in time.Duration) {
	time.AfterFunc(in, func() { p.post(func() { p.hearIfTime(time.Now()) }) })
}

// spoken notes that the client has said something, and so has read the welcome.
func (p *Participant) spoken() {
	if p.deaf.until.IsZero() || p.deaf.spoke {
		return
	}
	p.deaf.spoke = true
	if until := time.Now().Add(deafFor); until.Before(p.deaf.until) {
		p.deaf.until = until
		p.hearLater(deafFor)
	}
}

func (p *Participant) hearIfTime(now time.Time) {
	if !p.deaf.until.IsZero() && !now.Before(p.deaf.until) {
		p.hear()
	}
}

// hear tells the client what it was not told, and negotiates for it.
func (p *Participant) hear() {
	if p.deaf.until.IsZero() {
		return
	}
	held, order := p.deaf.held, p.deaf.order
	p.deaf = deafness{}
	for _, sid := range order {
		if now := held[sid]; now != nil {
			p.peerChanged(now)
		}
	}
	p.resubscribe()
}

// holdsBack says whether the news of another wait. That somebody has left whom the client knows is told at once.
func (p *Participant) holdsBack(now *peer) bool {
	if p.deaf.until.IsZero() {
		return false
	}
	sid := now.info.Sid
	if now.info.State == signal.Participant_DISCONNECTED {
		delete(p.deaf.held, sid)
		return p.peers[sid] == nil
	}
	if p.deaf.held[sid] == nil {
		p.deaf.order = append(p.deaf.order, sid)
	}
	p.deaf.held[sid] = now
	return true
}
