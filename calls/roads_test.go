package calls

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
	"chancery/calls/turn"
)

// TestNextRoad: UDP, TCP, TURN, and from the beginning; what the focus has not is left out.
func TestNextRoad(t *testing.T) {
	for _, c := range []struct {
		from        road
		tcp, relays bool
		want        road
	}{
		{anyRoad, true, true, tcpRoad},
		{tcpRoad, true, true, relayRoad},
		{relayRoad, true, true, anyRoad},
		{anyRoad, false, true, relayRoad},
		{anyRoad, false, false, anyRoad},
		{tcpRoad, true, false, anyRoad},
	} {
		if got := c.from.next(c.tcp, c.relays); got != c.want {
			t.Errorf("after %v with tcp %v, relays %v: got %v, want %v", c.from, c.tcp, c.relays, got, c.want)
		}
	}
}

// TestServersOfARoad: where UDP is of no use only TURN servers that are reached by TCP are told, an operator's own among them.
func TestServersOfARoad(t *testing.T) {
	all := []*signal.ICEServer{
		{Urls: []string{"stun:focus.example:3478"}},
		{Urls: []string{"turn:focus.example:3478?transport=udp", "turn:focus.example:3478?transport=tcp"}, Username: "a", Credential: "b"},
		{Urls: []string{"turns:turn.example:443", "turn:turn.example", "turns:turn.example:5349?transport=udp", "TURNS:other.example", "turns:third.example?transport=TCP"}, Username: "c"},
	}
	var got []string
	for _, s := range relayRoad.servers(all) {
		got = append(got, s.Username)
		got = append(got, s.Urls...)
	}
	want := []string{"a", "turn:focus.example:3478?transport=tcp", "c", "turns:turn.example:443", "TURNS:other.example", "turns:third.example?transport=TCP"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, r := range []road{anyRoad, tcpRoad} {
		if n := len(r.servers(all)); n != len(all) {
			t.Errorf("road %v: got %d servers, want all", r, n)
		}
	}
	if n := len(relayRoad.servers(all[:1])); n != 1 {
		t.Errorf("got %d servers where none is reached by TCP, want what there is", n)
	}
}

// TestAnOperatorsRelaysAreARoad: where ours does not relay, another may.
func TestAnOperatorsRelaysAreARoad(t *testing.T) {
	for url, want := range map[string]bool{"": false, "stun:stun.example": false, "turn:turn.example": true, "TURNS:turn.example:443": true} {
		f := &Focus{turn: &turn.Server{}}
		if url != "" {
			f.config.ICEServers = []ICEServer{{URLs: []string{"stun:other.example", url}}}
		}
		if got := f.relays(); got != want {
			t.Errorf("with %q: got %v, want %v", url, got, want)
		}
	}
}

// road offers, and gives the protocols of the candidates that the client is told, and whether it is to use relays alone.
func (s *solo) road() (udp, tcp, relay bool) {
	s.t.Helper()
	s.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: offerTaking(s.kinds), Id: 1}}})
	s.next("the last candidate", func(res *signal.Response) bool {
		trickle := res.GetTrickle()
		var init webrtc.ICECandidateInit
		if trickle == nil || json.Unmarshal([]byte(trickle.CandidateInit), &init) != nil {
			return false
		}
		c, err := ice.UnmarshalCandidate(init.Candidate)
		if err != nil {
			s.t.Errorf("candidate %q: %v", init.Candidate, err)
			return trickle.Final
		}
		udp, tcp = udp || c.NetworkType().IsUDP(), tcp || c.NetworkType().IsTCP()
		return trickle.Final
	})
	return udp, tcp, s.joined.GetClientConfiguration().GetForceRelay() == signal.ClientConfiguration_ENABLED
}

// TestRoadsAfterFailures: a client whose media cannot travel while its signalling does gets another road with each session.
func TestRoadsAfterFailures(t *testing.T) {
	_, base := newTestFocus(t, func(c *Config) { c.Grace = 100 * time.Millisecond })
	for _, c := range []struct {
		name            string
		udp, tcp, relay bool
	}{
		{"at first", true, true, false},
		{"after a failure", false, true, false},
		{"after two", true, false, true},
		{"after three", true, true, false},
	} {
		ann := joinSolo(t, base, "ann", false)
		if udp, tcp, relay := ann.road(); udp != c.udp || tcp != c.tcp || relay != c.relay {
			t.Errorf("%s: got UDP %v, TCP %v, relays alone %v, want %v, %v, %v", c.name, udp, tcp, relay, c.udp, c.tcp, c.relay)
		}
		_ = ann.ws.SetReadDeadline(time.Now().Add(patience))
		for {
			res, err := readResponse(ann.ws)
			if err != nil {
				t.Fatalf("%s: %v, want to be sent away", c.name, err)
			}
			if leave := res.GetLeave(); leave != nil {
				if leave.Reason != signal.DisconnectReason_CONNECTION_TIMEOUT || leave.Action != signal.Leave_RECONNECT {
					t.Errorf("%s: got %v, want to be asked to join anew", c.name, leave)
				}
				break
			}
		}
	}
}
