package remote

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Peer is what this process has learned of another server by asking it.
type Peer struct {
	// Answered is when it last answered anything, Failed when it last did not, and Failure why. Zero for never.
	Answered, Failed time.Time
	Failure          string
	// Skew is how far its clock is ahead of ours, to about a second; HasSkew says whether it ever told the time.
	Skew    time.Duration
	HasSkew bool
	// Certificate is until when its certificate is good.
	Certificate time.Time
}

// peers remembers what becomes of questions.
type peers struct {
	mu    sync.Mutex
	known map[string]Peer
}

func newPeers() *peers { return &peers{known: make(map[string]Peer)} }

// Peers gives what is known of all servers that were ever asked since the start.
func (c *Client) Peers() map[string]Peer {
	c.peers.mu.Lock()
	defer c.peers.mu.Unlock()
	all := make(map[string]Peer, len(c.peers.known))
	for server, p := range c.peers.known {
		all[server] = p
	}
	return all
}

// Answered is when that server last answered anything; zero if it never did since the start.
func (c *Client) Answered(server string) time.Time {
	c.peers.mu.Lock()
	defer c.peers.mu.Unlock()
	return c.peers.known[server].Answered
}

func (p *peers) change(server string, change func(*Peer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, ok := p.known[server]
	if !ok && len(p.known) >= maxTargets {
		for name := range p.known { // any one: what matters comes back
			delete(p.known, name)
			break
		}
	}
	change(&peer)
	p.known[server] = peer
}

// note learns from the end of a question that began at a time.
func (p *peers) note(ctx context.Context, server string, began time.Time, resp *http.Response, err error) {
	now := time.Now()
	if err != nil {
		if context.Cause(ctx) == context.Canceled {
			return // whoever asked has gone away
		}
		p.change(server, func(peer *Peer) { peer.Failed, peer.Failure = now, brief(err) })
		return
	}
	date, dateErr := http.ParseTime(resp.Header.Get("Date"))
	p.change(server, func(peer *Peer) {
		peer.Answered = now
		if dateErr == nil {
			// The header has whole seconds, of a time between our asking and the answer.
			middle := began.Add(now.Sub(began) / 2)
			peer.Skew, peer.HasSkew = (date.Add(500 * time.Millisecond)).Sub(middle), true
		}
		if end := certificateEnd(resp.TLS); !end.IsZero() {
			peer.Certificate = end
		}
	})
}

// certificateEnd is when the first certificate of the chain ends that ends.
func certificateEnd(state *tls.ConnectionState) (end time.Time) {
	if state == nil {
		return end
	}
	for _, cert := range state.PeerCertificates {
		if end.IsZero() || cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}

// brief is what operators are told of a failure.
func brief(err error) string {
	const most = 300
	text := err.Error()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
