// Package sfu forwards media: what one participant publishes is an UpTrack with up to three simulcast
// layers, and each subscriber reads it through a DownTrack on its own Downlink.
//
// It owns Pion's engine and its ports, the packets and the RTCP. Who may hear whom, and what was agreed
// in which offer, is decided in calls.
//
// What holds on the packet path (Layer.run, Sink.Push, DownTrack.forward):
//   - no allocation of ours, no log, no lock held across a send, no bus, no database;
//   - one goroutine per layer reads, one per subscriber writes; what passes between them is a number, not bytes;
//   - a subscriber that does not keep up loses its own packets and nobody else's;
//   - what the slow side tells the hot side is one atomic word.
package sfu

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/report"
	"github.com/pion/interceptor/pkg/twcc"
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
	api     *webrtc.API
	closers []io.Closer
}

// NewEngine opens the ports.
func NewEngine(ports Ports) (*Engine, error) {
	e := &Engine{}
	settings, err := e.settings(ports)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	media, err := mediaEngine()
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	registry, err := interceptors()
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	e.api = webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(registry))
	return e, nil
}

// NewPeer makes a peer connection without ICE servers of its own: the focus is reached, it does not reach out.
func (e *Engine) NewPeer() (*webrtc.PeerConnection, error) {
	return e.api.NewPeerConnection(webrtc.Configuration{BundlePolicy: webrtc.BundlePolicyMaxBundle})
}

// Close frees the ports. Peer connections are closed by whoever made them, before.
func (e *Engine) Close() error {
	var errs []error
	for _, c := range e.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (e *Engine) settings(ports Ports) (webrtc.SettingEngine, error) {
	var s webrtc.SettingEngine
	quiet := &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	s.LoggerFactory = quiet
	keep := func(ip net.IP) bool {
		if ip.IsLoopback() {
			return ports.Loopback && ip.To4() != nil
		}
		if len(ports.Listen) == 0 {
			return !ip.IsLinkLocalUnicast()
		}
		for _, l := range ports.Listen {
			if l.Equal(ip) {
				return true
			}
		}
		return false
	}
	networks := []webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6}
	udp, err := ice.NewMultiUDPMuxFromPort(ports.UDP, udpOptions(ports, keep)...)
	if err != nil {
		return s, fmt.Errorf("listen on UDP port %d: %w", ports.UDP, err)
	}
	e.closers = append(e.closers, udp)
	s.SetICEUDPMux(udp)
	if ports.TCP >= 0 {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: soleAddress(ports), Port: ports.TCP})
		if err != nil {
			return s, fmt.Errorf("listen on TCP port %d: %w", ports.TCP, err)
		}
		tcp := webrtc.NewICETCPMux(quiet.NewLogger("ice"), listener, 64)
		e.closers = append(e.closers, tcp)
		s.SetICETCPMux(tcp)
		networks = append(networks, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
	}
	s.SetNetworkTypes(networks)
	s.SetIPFilter(keep)
	s.SetIncludeLoopbackCandidate(ports.Loopback)
	s.DisableActiveTCP(true)
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	if err := rewriteAddresses(&s, ports.Public); err != nil {
		return s, err
	}
	// Clients with AES instructions take GCM, which costs a fraction of AES-CM with SHA-1.
	s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	s.SetSCTPMaxMessageSize(65535)
	s.SetReceiveMTU(receiveMTU)
	return s, nil
}

// receiveMTU is the largest packet that is read.
const receiveMTU = 1600

func udpOptions(ports Ports, keep func(net.IP) bool) []ice.UDPMuxFromPortOption {
	const buffer = 4 << 20 // of the kernel; it gives what it allows
	options := []ice.UDPMuxFromPortOption{
		ice.UDPMuxFromPortWithIPFilter(keep),
		ice.UDPMuxFromPortWithReadBufferSize(buffer),
		ice.UDPMuxFromPortWithWriteBufferSize(buffer),
	}
	if ports.Loopback {
		options = append(options, ice.UDPMuxFromPortWithLoopback())
	}
	return options
}

// soleAddress is the one address to listen on, or nil for all.
func soleAddress(ports Ports) net.IP {
	if len(ports.Listen) == 1 {
		return ports.Listen[0]
	}
	return nil
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

// interceptors are Pion's for what comes in; what goes out is ours alone.
func interceptors() (*interceptor.Registry, error) {
	registry := &interceptor.Registry{}
	reports, err := report.NewReceiverInterceptor()
	if err != nil {
		return nil, err
	}
	feedback, err := twcc.NewSenderInterceptor()
	if err != nil {
		return nil, err
	}
	registry.Add(reports)
	registry.Add(feedback)
	return registry, nil
}
