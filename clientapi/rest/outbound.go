package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"chancery/roomserver/policy"
)

// OutboundConfig says what the client API's own requests may reach: push gateways, application services, pages to
// preview, identity providers. Other servers are federation's affair.
type OutboundConfig struct {
	// AllowedNetworks are private or loopback networks (CIDR) that may be reached. Default: none; public addresses only.
	AllowedNetworks []string `yaml:"allowed_networks"`
	// DeniedNetworks are networks (CIDR) never connected to. Default: none beyond the private ones.
	DeniedNetworks []string `yaml:"denied_networks"`
	// Proxy is the URL of the proxy through which all such requests go ("http://gateway:3128"). Names are then resolved
	// there, and its rules hold. Default none.
	Proxy string `yaml:"proxy"`
	// Resolver looks names up; nil is the system's. Tests have one of their own.
	Resolver *net.Resolver `yaml:"-"`
}

// ErrAddressRefused says that policy forbids connecting to an address.
var ErrAddressRefused = errors.New("rest: this address may not be connected to")

const maxRedirects = 5

// NewOutbound makes the client that all requests of the client API to the outside go through. Each connection, also
// after a redirect, is judged by the address that the name came to, just before it is opened. Deadlines are the
// caller's, and so are bounds on what is read.
func NewOutbound(cfg OutboundConfig) (*http.Client, error) {
	addresses, err := policy.NewAddresses(cfg.AllowedNetworks, cfg.DeniedNetworks)
	if err != nil {
		return nil, fmt.Errorf("outbound: %w", err)
	}
	transport := &http.Transport{
		DialContext:            dialer(addresses, cfg.Resolver).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		IdleConnTimeout:        60 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	if cfg.Proxy != "" {
		proxy, err := url.Parse(cfg.Proxy)
		if err != nil || proxy.Host == "" {
			return nil, fmt.Errorf("outbound: %q is no proxy's URL", cfg.Proxy)
		}
		// The operator's own proxy may stand on a private address.
		transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
		transport.Proxy = func(r *http.Request) (*url.URL, error) {
			if addr, err := netip.ParseAddr(r.URL.Hostname()); err == nil && !addresses.Allows(addr) {
				return nil, ErrAddressRefused
			}
			return proxy, nil
		}
	}
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}, nil
}

// dialer asks policy after the name is resolved, for each address that is tried.
func dialer(addresses policy.Addresses, names *net.Resolver) *net.Dialer {
	return &net.Dialer{
		Timeout:  10 * time.Second,
		Resolver: names,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !addresses.Allows(to.Addr()) {
				return ErrAddressRefused
			}
			return nil
		},
	}
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errors.New("rest: too many redirects")
	}
	if r.URL.Scheme != "https" && r.URL.Scheme != "http" {
		return fmt.Errorf("rest: redirect to scheme %q", r.URL.Scheme)
	}
	if r.URL.Scheme == "http" && via[len(via)-1].URL.Scheme == "https" {
		return errors.New("rest: redirect from https to http")
	}
	return nil
}
