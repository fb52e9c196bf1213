package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix"
)

// clientBases remembers where servers' client APIs are.
type clientBases struct {
	given map[string]string // by the configuration
	mu    sync.Mutex
	known map[string]clientBase
}

type clientBase struct {
	url   string
	until time.Time
}

const (
	clientBaseAge   = time.Hour
	maxClientBases  = 10_000
	maxClientAnswer = 64 << 10
)

// ClientBase is the address of a server's client API, without a slash at the end: what its .well-known says, or its own name.
// Spec: client-server-api/#well-known-uris
func (c *Client) ClientBase(ctx context.Context, server string) (string, error) {
	if !c.Allows(server) || server == c.name {
		return "", fmt.Errorf("client API of %s: %w", server, ErrNotAllowed)
	}
	if base := c.clients.given[server]; base != "" {
		return strings.TrimRight(base, "/"), nil
	}
	c.clients.mu.Lock()
	found := c.clients.known[server]
	c.clients.mu.Unlock()
	if time.Now().Before(found.until) {
		return found.url, nil
	}
	base, err := c.findClientBase(ctx, server)
	if err != nil {
		return "", fmt.Errorf("client API of %s: %w", server, err)
	}
	c.clients.mu.Lock()
	defer c.clients.mu.Unlock()
	if c.clients.known == nil || len(c.clients.known) >= maxClientBases {
		c.clients.known = map[string]clientBase{}
	}
	c.clients.known[server] = clientBase{base, time.Now().Add(clientBaseAge)}
	return base, nil
}

func (c *Client) findClientBase(ctx context.Context, server string) (string, error) {
	if !ValidServerName(server) {
		return "", fmt.Errorf("%q is no server name", server)
	}
	host, _, _ := strings.Cut(server, ":")
	where := url.URL{Scheme: "https", Host: host, Path: "/.well-known/matrix/client"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := c.external.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return "https://" + host, nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnown+1))
	if err != nil {
		return "", err
	}
	var known struct {
		Homeserver struct {
			URL string `json:"base_url"`
		} `json:"m.homeserver"`
	}
	if resp.StatusCode != http.StatusOK || len(raw) > maxWellKnown || json.Unmarshal(raw, &known) != nil {
		return "", fmt.Errorf(".well-known answers %d, and nothing that can be used", resp.StatusCode)
	}
	base, err := url.Parse(known.Homeserver.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" {
		return "", fmt.Errorf(".well-known names %q, not an https address", known.Homeserver.URL)
	}
	return strings.TrimRight(base.String(), "/"), nil
}

// PostClient posts an empty object to a path of a server's client API, without credentials: path are the segments after
// /_matrix/client, unescaped. What the server refuses is a RespError, with retry_after_ms if the answer says when to come again.
func (c *Client) PostClient(ctx context.Context, server string, path ...string) error {
	base, err := c.ClientBase(ctx, server)
	if err != nil {
		return err
	}
	for i, segment := range path {
		path[i] = url.PathEscape(segment)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/_matrix/client/"+strings.Join(path, "/"), bytes.NewReader([]byte("{}")))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.external.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	refusal := mautrix.MUnknown
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxClientAnswer))
	if err != nil || json.Unmarshal(raw, &refusal) != nil || refusal.ErrCode == "" {
		refusal = mautrix.MUnknown.WithMessage("The other server answers %d", resp.StatusCode)
	}
	refusal.StatusCode = resp.StatusCode
	const wait = "retry_after_ms"
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 && refusal.ExtraData[wait] == nil {
		refusal = refusal.WithExtraField(wait, float64(seconds)*1000)
	}
	return refusal
}
