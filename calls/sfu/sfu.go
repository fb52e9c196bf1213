// Package sfu forwards media: what one participant publishes is an UpTrack with up to three simulcast
// layers, and each subscriber reads it through a DownTrack on its own Downlink.
//
// It owns Pion's engine and its ports, the packets and the RTCP. Who may hear whom, and what was agreed
// in which offer, is decided in calls.
//
// What holds on the packet path (socket, wire, rtpStream, Layer.receive, DownTrack.Push, outbox):
//   - no allocation of ours, no log, no bus, no database; no lock is shared by two subscribers for longer than a look, and none
//     that others wait for is held across a system call: the layer's own is, which nobody else takes once it has begun, and a
//     subscriber's, when it catches up with a key frame;
//   - the goroutine that reads a publisher's packets from the socket deciphers them, forwards them to all and enciphers them for
//     each; what it wrote leaves in a few system calls. No other goroutine is woken;
//   - nobody waits for a subscriber: UDP does not block, and TCP has a buffer that drops what is too much;
//   - what the slow side tells the hot side is one atomic word.
package sfu

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/webrtc/v4"
)

// Ports says where media come in.
type Ports struct {
	UDP      int      // the one UDP port; 0 takes a free one
	TCP      int      // port of passive TCP candidates; 0 takes a free one, less than 0 means none
	Listen   []net.IP // addresses to listen on; none means all of this host's
	Public   []net.IP // addresses told to clients in place of the host's own
	Loopback bool     // also offer 127.0.0.1, for tests and demonstrations on one machine
}

// Engine makes peer connections that share the focus's ports.
type Engine struct {
	settings webrtc.SettingEngine
	media    *webrtc.MediaEngine
	ways     *ways
	closers  []io.Closer
	udp      []netip.AddrPort

	mu           sync.Mutex           // guards what follows
	certificates []webrtc.Certificate // one for all: to make one for each costs more than the rest of a join
	certified    time.Time
}

// NewEngine opens the ports.
func NewEngine(ports Ports) (*Engine, error) {
	e := &Engine{ways: newWays()}
	var err error
	if e.settings, err = e.open(ports); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if e.media, err = mediaEngine(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close frees the ports. Peer connections are closed by whoever made them, before.
func (e *Engine) Close() error {
	var errs []error
	for _, c := range e.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// open opens the ports and says how Pion shall use them.
func (e *Engine) open(ports Ports) (webrtc.SettingEngine, error) {
	var s webrtc.SettingEngine
	quiet := &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	s.LoggerFactory = quiet
	addresses, err := ports.addresses()
	if err != nil {
		return s, err
	}
	udp, err := e.listenUDP(addresses, ports.UDP)
	if err != nil {
		return s, err
	}
	s.SetICEUDPMux(udp)
	networks := []webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6}
	if ports.TCP >= 0 {
		listener, err := listenTCP(addresses, ports.TCP, strangersWait)
		if err != nil {
			return s, err
		}
		e.ways.doors = listener
		tcp := ice.NewTCPMuxDefault(ice.TCPMuxParams{
			Listener: listener, Logger: quiet.NewLogger("ice"), ReadBufferSize: 64, WriteBufferSize: tcpBuffer,
		})
		e.closers = append(e.closers, tcp)
		s.SetICETCPMux(&tcpMux{TCPMux: tcp, ways: e.ways})
		networks = append(networks, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
	}
	s.SetNetworkTypes(networks)
	s.SetIPFilter(func(ip net.IP) bool { return slices.ContainsFunc(addresses, ip.Equal) })
	s.SetIncludeLoopbackCandidate(slices.ContainsFunc(addresses, net.IP.IsLoopback))
	s.DisableActiveTCP(true)
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	if err := rewriteAddresses(&s, ports.Public); err != nil {
		return s, err
	}
	// Clients with AES instructions take GCM, which costs a fraction of AES-CM with SHA-1.
	s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	// The client begins the handshake: of one in which we answer, the wire hears the keys. That it is where it says it is, ICE has shown.
	if err := s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer); err != nil {
		return s, err
	}
	s.SetDTLSInsecureSkipHelloVerify(true)
	s.SetSCTPMaxMessageSize(65535)
	s.SetReceiveMTU(receiveMTU)
	s.SetICETimeouts(iceDisconnected, iceFailed, icePing)
	s.SetPrflxAcceptanceMinWait(iceChoice)
	return s, nil
}

const (
	iceDisconnected = 5 * time.Second // Pion's own, as the next
	iceFailed       = 25 * time.Second
	iceChoice       = 50 * time.Millisecond // where we choose the pair, for UDP to be there before TCP; Pion's own is a second
	icePing         = time.Second           // where nothing else comes: by its silence a client is known that has gone

	receiveMTU   = 1600    // the largest packet that is read
	tcpBuffer    = 1 << 20 // what may wait for one client on TCP; what comes on top is dropped
	kernelBuffer = 4 << 20 // wished for each UDP socket; the kernel gives what it allows
)

// Addresses are where media are taken: those of the settings, or this host's.
func (p *Ports) Addresses() ([]net.IP, error) { return p.addresses() }

// UDP are the addresses of the UDP port.
func (e *Engine) UDP() []netip.AddrPort { return e.udp }

// addresses are where media are taken: those of the settings, or this host's. A host with no other has its loopback.
func (p *Ports) addresses() ([]net.IP, error) {
	if len(p.Listen) > 0 {
		return p.Listen, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("this host's addresses: %w", err)
	}
	var found []net.IP
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			found = append(found, n.IP)
		}
	}
	if p.Loopback || len(found) == 0 {
		found = append(found, net.IPv4(127, 0, 0, 1))
	}
	return found, nil
}

// listenUDP opens one socket on each address, so that answers leave from where the question came.
func (e *Engine) listenUDP(addresses []net.IP, port int) (ice.UDPMux, error) {
	var muxes []ice.UDPMux
	for _, ip := range addresses {
		socket, err := listenSocket(&net.UDPAddr{IP: ip, Port: port}, e.ways)
		if err != nil {
			return nil, fmt.Errorf("listen on UDP port %d: %w", port, err)
		}
		e.udp = append(e.udp, socket.LocalAddr().(*net.UDPAddr).AddrPort())
		e.ways.add(socket)
		socket.start()
		mux := newUDPMux(socket)
		e.closers = append(e.closers, mux)
		muxes = append(muxes, mux)
	}
	return ice.NewMultiUDPMuxDefault(muxes...), nil
}

func rewriteAddresses(s *webrtc.SettingEngine, public []net.IP) error {
	if len(public) == 0 {
		return nil
	}
	rule := webrtc.ICEAddressRewriteRule{AsCandidateType: webrtc.ICECandidateTypeHost}
	for _, ip := range public {
		rule.External = append(rule.External, ip.String())
	}
	if err := s.SetICEAddressRewriteRules(rule); err != nil {
		return fmt.Errorf("public addresses: %w", err)
	}
	return nil
}

// certificateLife is how long new connections get the same certificate; Pion's own ends after a month.
const certificateLife = 24 * time.Hour

// certificate gives the focus's DTLS certificate, a new one each day. Clients know it by the fingerprint in their SDP.
func (e *Engine) certificate() ([]webrtc.Certificate, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.certificates != nil && time.Since(e.certified) < certificateLife {
		return e.certificates, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key for DTLS: %w", err)
	}
	c, err := webrtc.GenerateCertificate(key)
	if err != nil {
		return nil, fmt.Errorf("certificate for DTLS: %w", err)
	}
	e.certificates, e.certified = []webrtc.Certificate{*c}, time.Now()
	return e.certificates, nil
}
