package sfu

import (
	"net"
	"testing"

	"github.com/pion/webrtc/v4"
)

// tcpOnly keeps a client from UDP.
func tcpOnly(s *webrtc.SettingEngine) {
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
}

// TestMediaByTCPAtEachAddress: the port is open where media are taken, and nowhere else; clients get in also where it is not the first.
func TestMediaByTCPAtEachAddress(t *testing.T) {
	at := []net.IP{net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 1)} // the second is an interface's own, which clients are told
	e, err := NewEngine(Ports{Listen: at, Loopback: true})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	g := join(t, e, tcpOnly, false, func(g guest) {
		_, err := g.pc.CreateDataChannel("x", nil)
		must(t, err)
	})
	pair, err := g.peer.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	must(t, err)
	if pair.Local.Protocol != webrtc.ICEProtocolTCP || pair.Local.Address != "127.0.0.1" {
		t.Errorf("got %v, want TCP at 127.0.0.1", pair.Local)
	}
	for last, open := range map[byte]bool{1: true, 2: true, 3: false} {
		conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, last), Port: int(pair.Local.Port)})
		if (err == nil) != open {
			t.Errorf("127.0.0.%d: got %v, want it open: %v", last, err, open)
		}
		if err == nil {
			must(t, conn.Close())
		}
	}
}

// A port that is taken on one address is refused, and the others are free again.
func TestPortTakenOnOneAddress(t *testing.T) {
	at := []net.IP{net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 3)}
	taken, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at[1]})
	must(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	if d, err := listenTCP(at, port); err == nil {
		t.Errorf("got %v, want a refusal", d.Addr())
	}
	free, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at[0], Port: port})
	must(t, err)
	must(t, free.Close())
}
