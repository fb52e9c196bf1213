package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// transport carries requests with the scheme matrix-federation: it finds the server that the URL names, and sends them there
// over https. Connections are kept open and shared by host.
type transport struct {
	discovery *discovery
	peers     *peers
	http      *http.Transport
}

type addrsKey struct{}

func newTransport(d *discovery, known *peers, dialer *net.Dialer, tlsConfig *tls.Config) *transport {
	return &transport{discovery: d, peers: known, http: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialAny(ctx, dialer, network)
		},
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           4096,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        5 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// dialAny tries the addresses of the request's target in their order.
func dialAny(ctx context.Context, dialer *net.Dialer, network string) (net.Conn, error) {
	addrs, _ := ctx.Value(addrsKey{}).([]string)
	var errs error
	for _, addr := range addrs {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err == nil {
			return conn, nil
		}
		errs = errors.Join(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if errs == nil {
		errs = errors.New("no address to dial")
	}
	return nil, errs
}

// RoundTrip is http.RoundTripper's.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := t.roundTrip(req)
	t.peers.note(req.Context(), req.URL.Host, began, resp, err)
	return resp, err
}

func (t *transport) roundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "matrix-federation" {
		return nil, fmt.Errorf("scheme %q is not matrix-federation", req.URL.Scheme)
	}
	server := req.URL.Host
	where, err := t.discovery.find(req.Context(), server)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", server, err)
	}
	out := req.Clone(context.WithValue(req.Context(), addrsKey{}, where.addrs))
	out.URL.Scheme, out.URL.Host, out.Host = "https", where.host, where.host
	if out.Method == http.MethodGet || out.Method == http.MethodPut {
		// PUTs of the federation may be repeated. Set to nothing, the header is not sent, but lets the transport repeat a request
		// whose kept connection turned out to be dead.
		out.Header["Idempotency-Key"] = nil
	}
	if out.Body != nil {
		out.Header.Set("Content-Type", "application/json")
	}
	resp, err := t.http.RoundTrip(out)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		t.discovery.unreachable(server)
	}
	return resp, err
}
