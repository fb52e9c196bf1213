package sfu

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/ice/v4"
)

func candidate(t *testing.T, network, address string, port int) ice.Candidate {
	t.Helper()
	c, err := ice.NewCandidatePeerReflexive(&ice.CandidatePeerReflexiveConfig{Network: network, Address: address, Port: port, Component: 1})
	must(t, err)
	return c
}

// An address is whose it was verified for last, until that client has gone or has been at too many others since, or has not asked from there for
// a while and another has.
func TestWaysOfClients(t *testing.T) {
	now := time.Now()
	w, media := newWays(), append([]byte{0x80, 96}, make([]byte, 20)...)
	v4, v6 := newSocket(w, listen(t, "127.0.0.1:0")), newSocket(w, listen(t, "[::1]:0"))
	w.add(v4)
	w.add(v6)
	ann, ben := &wire{}, &wire{}
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	is := func(when string, tcp bool, addr string, want *wire) {
		t.Helper()
		if got := w.of(tcp, at(addr), media); got != want {
			t.Errorf("%s: %s is another's, want %p, got %p", when, addr, want, got)
		}
	}
	w.verified(candidate(t, "udp", "192.0.2.1", 1000), ann, now)
	w.verified(candidate(t, "udp", "2001:db8::1", 1000), ann, now)
	w.verified(candidate(t, "tcp", "192.0.2.1", 1001), ben, now)
	is("on UDP", false, "192.0.2.1:1000", ann)
	is("on IPv6", false, "[2001:db8::1]:1000", ann)
	is("on TCP", true, "192.0.2.1:1001", ben)
	is("another transport", false, "192.0.2.1:1001", nil)
	is("another port", false, "192.0.2.1:1002", nil)
	for name, p := range map[string][]byte{"STUN": {0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "DTLS": {22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "short": media[:11]} {
		if w.of(false, at("192.0.2.1:1000"), p) != nil {
			t.Errorf("%s is taken from Pion", name)
		}
	}
	for addr, want := range map[string]*socket{"192.0.2.1:1000": v4, "[2001:db8::1]:1000": v6} {
		if by := w.find(place{false, at(addr)}).by.Load(); by == nil || by.socket != want {
			t.Errorf("%s: nothing leads there", addr)
		}
	}
	if by := w.find(place{true, at("192.0.2.1:1001")}).by.Load(); by != nil {
		t.Error("something leads to a TCP address before Pion has shown what")
	}
	soon, late := now.Add(heldFor/2), now.Add(heldFor*3/2)
	w.verified(candidate(t, "udp", "192.0.2.1", 1000), ann, soon)
	for _, at := range []time.Time{soon, late.Add(-2 * time.Millisecond)} {
		w.verified(candidate(t, "udp", "192.0.2.1", 1000), ben, at)
		is("after another's proof, who may have faked the address", false, "192.0.2.1:1000", ann)
	}
	w.verified(candidate(t, "udp", "192.0.2.1", 1000), ben, late)
	is("after another's proof", false, "192.0.2.1:1000", ben)
	w.forget(ann)
	is("after ann has gone", false, "192.0.2.1:1000", ben)
	is("after ann has gone", false, "[2001:db8::1]:1000", nil)
	w.verified(candidate(t, "udp", "192.0.2.9", 1), ann, now)
	is("of one who has gone", false, "192.0.2.9:1", nil)
	for port := range maxWays {
		w.verified(candidate(t, "udp", "192.0.2.7", 2000+port), ben, now)
	}
	is("the oldest of too many", true, "192.0.2.1:1001", nil)
	is("the newest", false, "192.0.2.7:2031", ben)
	w.forget(ben)
	if len(w.at) != 0 {
		t.Errorf("%d addresses are left when all have gone", len(w.at))
	}
}
