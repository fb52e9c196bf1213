package calls

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// road is how a client's media are to travel.
type road int32

const (
	anyRoad road = iota
	tcpRoad
	relayRoad // through the TURN server alone
)

// roads remembers for which identities UDP does not serve: a client that asked for another road, or whose media could not travel, gets only
// candidates of that when it joins anew.
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

// leads says whether one of our candidates is on the road: a relay reaches us by UDP.
func (r road) leads(c *webrtc.ICECandidate) bool {
	return r == anyRoad || (r == tcpRoad) == (c.Protocol == webrtc.ICEProtocolTCP)
}

// configuration is what a client is told of its road.
func (r road) configuration() *signal.ClientConfiguration {
	if r != relayRoad {
		return nil
	}
	return &signal.ClientConfiguration{ForceRelay: signal.ClientConfiguration_ENABLED}
}

// servers are those of all STUN and TURN servers that lead to the road: it ends with a relay because UDP was of no use.
func (r road) servers(all []*signal.ICEServer) []*signal.ICEServer {
	if r != relayRoad {
		return all
	}
	var kept []*signal.ICEServer
	for _, s := range all {
		tcp := slices.DeleteFunc(slices.Clone(s.Urls), func(url string) bool { return !byTCP(url) })
		if len(tcp) > 0 {
			kept = append(kept, &signal.ICEServer{Urls: tcp, Username: s.Username, Credential: s.Credential})
		}
	}
	if len(kept) == 0 {
		return all
	}
	return kept
}

// byTCP says whether a URL leads to a TURN server by TCP: TLS does unless it says otherwise (RFC 7065, section 3.2).
func byTCP(url string) bool {
	server, transport, _ := strings.Cut(strings.ToLower(url), "?transport=")
	return strings.HasPrefix(server, "turn") && transport == "tcp" || strings.HasPrefix(server, "turns:") && transport == ""
}

// next is the road to try after one on which media could not travel.
func (r road) next(tcp, relays bool) road {
	switch {
	case r == anyRoad && tcp:
		return tcpRoad
	case r != relayRoad && relays:
		return relayRoad
	}
	return anyRoad
}

const (
	spokeLately = 2 * pingInterval * time.Second // ago: the client's signalling is well
	stoodShort  = time.Minute                    // a connection that was given up so soon, with the grace that it had
)

// blameRoad gives the client another road for its next session, if its signalling travels and its media do not: between two that answer each
// other's checks something may let no more than those through. A connection that stood for long is not at fault.
func (p *Participant) blameRoad(now time.Time) {
	f := p.room.focus
	if now.Sub(p.spokeAt) < spokeLately && (p.stoodAt.IsZero() || now.Sub(p.stoodAt) < stoodShort+f.config.Grace) {
		f.roads.set(p, p.road.next(f.config.TCPPort >= 0, f.relays()))
	}
}
