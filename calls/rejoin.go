package calls

import (
	"time"

	"chancery/calls/signal"
)

// livekit-client, once it has joined anew by itself, says that it is connected as soon as its own tracks are out, and goes on for two
// seconds as one that reconnects. What it hears of others in between it keeps back from its application, and forgets: a track that
// comes then is never shown. So where two come back at once, as after the end of a focus, each would miss the other. Whoever joins
// anew is therefore told who was there when it came, and of what has changed since only when these seconds are over.
// (livekit-client 2.23.0: Room.emitWhenConnected, RTCEngine.waitForPCReconnected)

const (
	// deafFor is how long such a client hears nothing, from its first word after the welcome; its own timer may be late.
	deafFor = 2300 * time.Millisecond
	// deafMost is the same from the welcome on.
	deafMost = 3 * time.Second
)

// The kinds of livekit-client, as clients name themselves.
const (
	sdkJS          = 1
	sdkReactNative = 7
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
