// Package remote speaks to other servers: it finds them, opens TLS connections to addresses that policy allows, signs requests,
// bounds answers, and keeps the ring of keys by which what they say is believed.
//
// It owns this server's signing keys (Keys), the outgoing client (Client) and the key ring (Ring). The truths to keep:
//   - no request leaves for a server that policy does not allow; no connection is opened to an address that policy refuses;
//   - a key is believed only if the server that it belongs to named itself and signed the answer, or a configured notary and that
//     server both signed it; a good key is never displaced by another one under the same ID while it is valid;
//   - every question has a deadline and every answer a bound.
//
// The federation client of mautrix is imported here and nowhere else.
package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	"go.mau.fi/util/exhttp"
	"maunium.net/go/mautrix/federation"

	"chancery/roomserver/policy"
)

// Config is how this server reaches others.
type Config struct {
	// CAFiles are PEM files of certificate authorities trusted beside the system's own. Default: none.
	CAFiles []string `yaml:"ca_files"`
	// AllowedNetworks are private or loopback networks (CIDR) that other servers may live in. Default: none; public addresses only.
	AllowedNetworks []string `yaml:"allowed_networks"`
	// DeniedNetworks are networks (CIDR) never connected to. Default: none beyond the private ones.
	DeniedNetworks []string `yaml:"denied_networks"`
	// AllowedServers closes the federation: only these servers are spoken with; "*.example.org" names all below. Default: none, open.
	AllowedServers []string `yaml:"allowed_servers"`
	// Hosts says where servers are ("finance.example": "10.1.2.3:8448"), in place of .well-known and DNS: for networks that
	// have neither. The certificate is still checked against the server's name. Default: none.
	Hosts map[string]string `yaml:"hosts"`
	// ClientURLs says where the client APIs of servers are ("finance.example": "https://matrix.finance.example"), in place of
	// their .well-known: the leave of their users who vanish from a call here is sent there. Default: none.
	ClientURLs map[string]string `yaml:"client_urls"`
	// Notaries are servers asked for the keys of others that do not answer themselves. Default: none.
	Notaries []string `yaml:"notaries"`
	// PinnedKeys are the signing keys of servers, as they told them by another road ("finance.example": {"ed25519:a": "base64"}).
	// Those servers' keys are never asked for, and no others of theirs are believed. Default: none, keys are fetched.
	PinnedKeys map[string]map[string]string `yaml:"pinned_keys"`
	// DeniedKeys are signing keys (base64) that have leaked: nothing that they signed is believed. Default: those known to the program.
	DeniedKeys []string `yaml:"denied_keys"`
	// Timeout ends a question without an answer. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
}

// DefaultConfig is an open federation over public addresses.
func DefaultConfig() Config {
	return Config{Timeout: 30 * time.Second}
}

// Client asks other servers. It is safe for concurrent use.
type Client struct {
	name      string
	keys      *Keys
	servers   policy.Servers
	addresses policy.Addresses
	pins      pins
	timeout   time.Duration
	fed       *federation.Client
	external  *http.Client
	discovery *discovery
	peers     *peers
	clients   clientBases
}

// New makes the client of the server with these keys.
func New(cfg Config, keys *Keys) (*Client, error) {
	addresses, err := policy.NewAddresses(cfg.AllowedNetworks, cfg.DeniedNetworks)
	if err != nil {
		return nil, err
	}
	roots, err := roots(cfg.CAFiles)
	if err != nil {
		return nil, err
	}
	pins, err := newPins(cfg.PinnedKeys, cfg.DeniedKeys)
	if err != nil {
		return nil, err
	}
	c := &Client{
		pins:      pins,
		name:      keys.ServerName,
		keys:      keys,
		servers:   policy.NewServers(cfg.AllowedServers),
		addresses: addresses,
		timeout:   cfg.Timeout,
		clients:   clientBases{given: cfg.ClientURLs},
	}
	if c.timeout <= 0 {
		c.timeout = DefaultConfig().Timeout
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, ControlContext: c.control}
	tlsConfig := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(256)}
	c.external = &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: tlsConfig.Clone(), TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConns: 32, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: checkRedirect,
	}
	c.discovery = newDiscovery(c.external, net.DefaultResolver, cfg.Hosts)
	c.fed = federation.NewClient(c.name, keys.signingKey(), nil, exhttp.ClientSettings{})
	c.peers = newPeers()
	c.fed.HTTP.Transport = newTransport(c.discovery, c.peers, dialer, tlsConfig)
	c.fed.UserAgent = "Chancery"
	return c, nil
}

// ServerName is the name of this server.
func (c *Client) ServerName() string { return c.name }

// Keys are this server's own keys.
func (c *Client) Keys() *Keys { return c.keys }

// Allows says whether policy lets this server speak with the other one, in either direction. The inbound gate asks it too.
func (c *Client) Allows(server string) bool {
	return server == c.name || c.servers.Allows(server)
}

// Pinned says whether the server's keys are given by the configuration, so that it is never asked for them.
func (c *Client) Pinned(server string) bool { return c.pins.has(server) }

// ErrRefusedAddress is what dialling an address gives that policy refuses.
var ErrRefusedAddress = errors.New("remote: address refused by policy")

// control is asked by the dialer after the name is resolved, once for each address.
func (c *Client) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %q: %w", address, err)
	}
	if !c.addresses.Allows(addr.Addr()) {
		return fmt.Errorf("%w: %s", ErrRefusedAddress, addr.Addr())
	}
	return nil
}

// checkRedirect keeps redirects on https and few.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != "https" {
		return fmt.Errorf("redirect to %s, not https", req.URL.Scheme)
	}
	if len(via) >= 5 {
		return errors.New("more than five redirects")
	}
	return nil
}

func roots(files []string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, name := range files {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read certificate authority: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read certificate authority %s: no certificate in it", name)
		}
	}
	return pool, nil
}
