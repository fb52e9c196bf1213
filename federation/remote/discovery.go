package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix/federation"
)

// target is where a server is reached.
type target struct {
	// host is the Host header and the name, or address, that the certificate must be made out to; a port may follow.
	host string
	// addrs are host:port pairs to dial, the best first.
	addrs []string
	// delegated remembers what .well-known said, "" if there is none.
	delegated string
	resolved  time.Time
	expires   time.Time
}

// The times for which discovery is remembered.
const (
	wellKnownDefault = 24 * time.Hour
	wellKnownMin     = time.Hour
	wellKnownMax     = 48 * time.Hour
	wellKnownAbsent  = time.Hour        // the server answered, and has none
	wellKnownFailed  = 10 * time.Minute // the server did not answer
	srvLifetime      = time.Hour
	retryAfter       = 30 * time.Second // a target that could not be dialled is looked up anew after this

	maxWellKnown = 50 << 10
	maxTargets   = 20_000
)

// discovery finds servers by name and remembers where they are.
// Spec: server-server-api/#resolving-server-names
type discovery struct {
	client   *http.Client
	resolver *net.Resolver
	hosts    map[string]string // addresses by configuration, which nothing overrules
	now      func() time.Time
	flight   singleflight.Group

	mu    sync.Mutex
	known map[string]target
}

func newDiscovery(client *http.Client, resolver *net.Resolver, hosts map[string]string) *discovery {
	return &discovery{client: client, resolver: resolver, hosts: hosts, now: time.Now, known: make(map[string]target)}
}

// find says where the server is. Equal questions at the same time are asked once.
func (d *discovery) find(ctx context.Context, server string) (target, error) {
	if addr, ok := d.hosts[server]; ok {
		return target{host: server, addrs: []string{addr}}, nil
	}
	d.mu.Lock()
	old, ok := d.known[server]
	d.mu.Unlock()
	if ok && d.now().Before(old.expires) {
		return old, nil
	}
	answer := d.flight.DoChan(server, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		t, err := d.resolve(ctx, server, old)
		if err == nil {
			d.remember(server, t)
		}
		return t, err
	})
	select {
	case res := <-answer:
		return res.Val.(target), res.Err
	case <-ctx.Done():
		return target{}, ctx.Err()
	}
}

func (d *discovery) remember(server string, t target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxTargets {
		for name := range d.known { // any one: the map has no order, and what is needed comes back
			delete(d.known, name)
			break
		}
	}
	d.known[server] = t
}

// unreachable is told when none of a target's addresses could be dialled: the next question looks it up anew.
func (d *discovery) unreachable(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok := d.known[server]; ok && d.now().Sub(t.resolved) > retryAfter {
		t.expires = time.Time{}
		d.known[server] = t
	}
}

// ErrServerName is what a malformed server name gives; nothing is looked up for it.
var ErrServerName = errors.New("remote: malformed server name")

// ValidServerName says whether a name follows the grammar of server names.
func ValidServerName(server string) bool {
	_, _, ok := federation.ParseServerName(server)
	return ok && (!strings.Contains(server, ":") || !strings.HasSuffix(server, ":"))
}

func (d *discovery) resolve(ctx context.Context, server string, old target) (target, error) {
	now := d.now()
	t := target{host: server, resolved: now, expires: now.Add(wellKnownMax)}
	if !ValidServerName(server) {
		return t, fmt.Errorf("%w: %q", ErrServerName, server)
	}
	host, port, _ := federation.ParseServerName(server)
	// Steps 1 and 2: an IP literal, or an explicit port.
	if net.ParseIP(host) != nil || port != 0 {
		t.addrs = []string{hostPort(host, port)}
		return t, nil
	}
	// Step 3: .well-known.
	delegated, lifetime, err := d.wellKnown(ctx, host)
	if err != nil && old.delegated != "" {
		delegated = old.delegated // it was there an hour ago: a failure now is likelier than its removal
	}
	t.expires = now.Add(lifetime)
	if delegated != "" {
		t.delegated, t.host = delegated, delegated
		host, port, _ = federation.ParseServerName(delegated)
		// Steps 3.1 and 3.2.
		if net.ParseIP(host) != nil || port != 0 {
			t.addrs = []string{hostPort(host, port)}
			return t, nil
		}
	}
	// Steps 3.3, 3.4, 4 and 5: SRV records.
	srvCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if records, err := federation.RequestSRV(srvCtx, d.resolver, host); err == nil && len(records) > 0 {
		for _, r := range records {
			t.addrs = append(t.addrs, net.JoinHostPort(strings.TrimRight(r.Target, "."), strconv.Itoa(int(r.Port))))
		}
		if soon := now.Add(srvLifetime); soon.Before(t.expires) {
			t.expires = soon
		}
		return t, nil
	}
	// Steps 3.5 and 6: the default port.
	t.addrs = []string{hostPort(host, 0)}
	return t, nil
}

func hostPort(host string, port uint16) string {
	if port == 0 {
		port = 8448
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// wellKnown asks a host whom it delegates to, "" if to nobody. The duration says how long to believe it, for errors too.
// Spec: server-server-api/#getwell-knownmatrixserver
func (d *discovery) wellKnown(ctx context.Context, host string) (string, time.Duration, error) {
	u := url.URL{Scheme: "https", Host: host, Path: "/.well-known/matrix/server"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", wellKnownAbsent, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return "", wellKnownFailed, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 500 {
		return "", wellKnownFailed, fmt.Errorf("status %d", resp.StatusCode)
	}
	if resp.StatusCode != http.StatusOK {
		return "", wellKnownAbsent, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnown+1))
	if err != nil {
		return "", wellKnownFailed, err
	}
	var answer struct {
		Server string `json:"m.server"`
	}
	if len(body) > maxWellKnown || json.Unmarshal(body, &answer) != nil || !ValidServerName(answer.Server) {
		return "", wellKnownAbsent, nil
	}
	return answer.Server, lifetime(resp.Header), nil
}

// lifetime reads the cache headers, within our bounds.
func lifetime(h http.Header) time.Duration {
	for _, part := range strings.Split(strings.ToLower(h.Get("Cache-Control")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "no-store", "no-cache":
			return wellKnownMin
		case "max-age":
			if seconds, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil {
				return min(max(time.Duration(min(seconds, 1<<20))*time.Second, wellKnownMin), wellKnownMax)
			}
		}
	}
	return wellKnownDefault
}
