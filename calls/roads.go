package calls

import (
	"sync"
	"time"

	"github.com/pion/webrtc/v4"
)

// road is how a client's media are to travel.
type road int32

const (
	anyRoad road = iota
	tcpRoad
	tlsRoad // through the TURN server alone
)

// roads remembers for which identities UDP does not serve: a client that asked for another road gets only candidates of
// that when it joins anew.
type roads struct {
	mu    sync.Mutex
	known map[string]roadNote
}

type roadNote struct {
	road  road
	until time.Time
}

const roadFor = 10 * time.Minute

func (r *roads) set(p *Participant, wanted road) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxRemembered {
		r.known = map[string]roadNote{}
	}
	r.known[p.room.name+" "+p.identity] = roadNote{wanted, time.Now().Add(roadFor)}
}

func (r *roads) of(p *Participant) road {
	r.mu.Lock()
	defer r.mu.Unlock()
	note, ok := r.known[p.room.name+" "+p.identity]
	if !ok || time.Now().After(note.until) {
		return anyRoad
	}
	return note.road
}

// leads says whether one of our candidates is on the road.
func (r road) leads(c *webrtc.ICECandidate) bool {
	switch r {
	case tcpRoad:
		return c.Protocol == webrtc.ICEProtocolTCP
	case tlsRoad:
		return false
	}
	return true
}
