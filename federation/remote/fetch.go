package remote

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"
)

const (
	maxKeyAnswer     = 256 << 10
	maxKeysPerServer = 64
	maxKeyValidity   = 7 * 24 * time.Hour
	keyTimeout       = 15 * time.Second
	parallelFetches  = 32  // for one batch of signatures
	allFetches       = 128 // for all
)

// CheckServerKeys reads a server's answer to the question which keys it has. The answer must name the server that was asked, and
// be signed by each key that it offers; keys that did not sign it are left out. No key is believed for more than seven days.
// Spec: server-server-api/#publishing-keys
func CheckServerKeys(server string, raw []byte, now time.Time) (map[keyRequest]keyResult, error) {
	var fields gomatrixserverlib.ServerKeyFields
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("keys of %s: %w", server, err)
	}
	if string(fields.ServerName) != server {
		return nil, fmt.Errorf("keys of %s: the answer is made out to %q", server, fields.ServerName)
	}
	if len(fields.VerifyKeys)+len(fields.OldVerifyKeys) > maxKeysPerServer {
		return nil, fmt.Errorf("keys of %s: more than %d", server, maxKeysPerServer)
	}
	until := min(fields.ValidUntilTS, spec.AsTimestamp(now.Add(maxKeyValidity)))
	out := make(map[keyRequest]keyResult)
	signed := false
	for keyID, key := range fields.VerifyKeys {
		if !validKeyID(keyID) || len(key.Key) != ed25519.PublicKeySize {
			continue
		}
		if gomatrixserverlib.VerifyJSON(server, keyID, ed25519.PublicKey(key.Key), raw) != nil {
			continue
		}
		signed = true
		out[keyRequest{ServerName: fields.ServerName, KeyID: keyID}] = keyResult{VerifyKey: key, ValidUntilTS: until}
	}
	if !signed {
		return nil, fmt.Errorf("keys of %s: the answer is not signed by any key in it", server)
	}
	for keyID, key := range fields.OldVerifyKeys {
		req := keyRequest{ServerName: fields.ServerName, KeyID: keyID}
		if _, current := out[req]; current || !validKeyID(keyID) || key.ExpiredTS == 0 || len(key.Key) != ed25519.PublicKeySize {
			continue
		}
		out[req] = keyResult{VerifyKey: key.VerifyKey, ExpiredTS: key.ExpiredTS}
	}
	return out, nil
}

// ServerKeys asks a server for its keys, and gives its answer, checked, with the IDs of the keys that can be believed of it.
func (c *Client) ServerKeys(ctx context.Context, server string, now time.Time) (answer json.RawMessage, keyIDs []string, err error) {
	if c.Pinned(server) {
		return nil, nil, fmt.Errorf("keys of %s: they are pinned", server)
	}
	err = c.Ask(ctx, Request{
		Server: server, Method: http.MethodGet, Path: []string{"v2", "server"}, Key: true, Unsigned: true, Limit: maxKeyAnswer, Timeout: keyTimeout,
	}, &answer)
	if err != nil {
		return nil, nil, err
	}
	keys, err := CheckServerKeys(server, answer, now)
	if err != nil {
		return nil, nil, err
	}
	had := len(keys)
	if c.pins.clean(keys); len(keys) < had {
		return nil, nil, fmt.Errorf("keys of %s: one among them has leaked", server)
	}
	for req := range keys {
		keyIDs = append(keyIDs, string(req.KeyID))
	}
	return answer, keyIDs, nil
}

// validKeyID takes more than the spec's letters, digits and underscores, since there are servers with more, but nothing that
// cannot be kept or printed.
func validKeyID(keyID gomatrixserverlib.KeyID) bool {
	version, ok := strings.CutPrefix(string(keyID), "ed25519:")
	return ok && version != "" && len(version) <= 128 && strings.IndexFunc(version, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// directFetcher asks each server for its own keys. A server is asked once at a time, and not again right after it failed or
// after it has just told all its keys.
type directFetcher struct {
	client *Client
	now    func() time.Time
	flight singleflight.Group
	// slots bounds how many servers are asked at the same time, whoever wants it.
	slots chan struct{}

	mu   sync.Mutex
	last map[string]attempt
}

// attempt is what came of asking a server.
type attempt struct {
	at       time.Time
	failures int
	keys     map[keyRequest]keyResult // nil after a failure
}

// pause is how long a server is left alone after an attempt.
func (a attempt) pause() time.Duration {
	if a.failures == 0 {
		return 5 * time.Second
	}
	return min(2*time.Second<<min(a.failures, 12), time.Hour)
}

var errAskedJustNow = errors.New("asked just now")

// FetcherName is gomatrixserverlib.KeyFetcher's.
func (f *directFetcher) FetcherName() string { return "direct" }

// FetchKeys is gomatrixserverlib.KeyFetcher's. What could not be had is left out.
func (f *directFetcher) FetchKeys(ctx context.Context, requests map[keyRequest]spec.Timestamp) (map[keyRequest]keyResult, error) {
	servers := make(map[string]bool)
	for req := range requests {
		if name := string(req.ServerName); name != f.client.name {
			servers[name] = true
		}
	}
	all := make(map[keyRequest]keyResult)
	var mu sync.Mutex
	var wait sync.WaitGroup
	slots := make(chan struct{}, parallelFetches)
	for server := range servers {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			keys, err := f.fetch(ctx, server)
			if err != nil {
				zerolog.Ctx(ctx).Debug().Err(err).Str("server", server).Msg("No keys from server")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for req, res := range keys {
				all[req] = res
			}
		})
	}
	wait.Wait()
	return all, nil
}

func (f *directFetcher) fetch(ctx context.Context, server string) (map[keyRequest]keyResult, error) {
	if keys, just := f.justAsked(server); just {
		if keys == nil {
			return nil, errAskedJustNow
		}
		return keys, nil
	}
	answer := f.flight.DoChan(server, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTimeout)
		defer cancel()
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		case <-ctx.Done():
			return map[keyRequest]keyResult(nil), ctx.Err()
		}
		var raw json.RawMessage
		err := f.client.Ask(ctx, Request{
			Server: server, Method: http.MethodGet, Path: []string{"v2", "server"}, Key: true, Unsigned: true, Limit: maxKeyAnswer,
		}, &raw)
		var keys map[keyRequest]keyResult
		if err == nil {
			keys, err = CheckServerKeys(server, raw, f.now())
		}
		f.note(server, keys, err)
		return keys, err
	})
	select {
	case res := <-answer:
		return res.Val.(map[keyRequest]keyResult), res.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *directFetcher) justAsked(server string) (map[keyRequest]keyResult, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.last[server]
	return a.keys, ok && f.now().Sub(a.at) < a.pause()
}

func (f *directFetcher) note(server string, keys map[keyRequest]keyResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.last) >= maxTargets {
		clear(f.last) // rare, and costs only a few questions asked too early
	}
	a := attempt{at: f.now(), keys: keys}
	if err != nil {
		a.failures = f.last[server].failures + 1
	}
	f.last[server] = a
}

// notaryFetcher asks one notary for the keys of servers that do not answer themselves. The notary must have signed its answer
// with a key that we have from itself, and the server in question must have signed it too.
// Spec: server-server-api/#querying-keys-through-another-server
type notaryFetcher struct {
	client *Client
	notary string
	keys   *keyCache
	now    func() time.Time
}

// FetcherName is gomatrixserverlib.KeyFetcher's.
func (f *notaryFetcher) FetcherName() string { return "notary" }

// FetchKeys is gomatrixserverlib.KeyFetcher's.
func (f *notaryFetcher) FetchKeys(ctx context.Context, requests map[keyRequest]spec.Timestamp) (map[keyRequest]keyResult, error) {
	query := gomatrixserverlib.PublicKeyNotaryLookupRequest{
		ServerKeys: make(map[spec.ServerName]map[gomatrixserverlib.KeyID]gomatrixserverlib.PublicKeyNotaryQueryCriteria),
	}
	for req, ts := range requests {
		if string(req.ServerName) == f.notary || string(req.ServerName) == f.client.name {
			continue
		}
		if query.ServerKeys[req.ServerName] == nil {
			query.ServerKeys[req.ServerName] = make(map[gomatrixserverlib.KeyID]gomatrixserverlib.PublicKeyNotaryQueryCriteria)
		}
		query.ServerKeys[req.ServerName][req.KeyID] = gomatrixserverlib.PublicKeyNotaryQueryCriteria{MinimumValidUntilTS: ts}
	}
	if len(query.ServerKeys) == 0 {
		return nil, nil
	}
	notaryKeys, err := f.notaryKeys(ctx)
	if err != nil {
		return nil, err
	}
	var answer struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}
	err = f.client.Ask(ctx, Request{
		Server: f.notary, Method: http.MethodPost, Path: []string{"v2", "query"}, Key: true, Unsigned: true, Body: query, Timeout: keyTimeout,
	}, &answer)
	if err != nil {
		return nil, err
	}
	all := make(map[keyRequest]keyResult)
	for _, raw := range answer.ServerKeys {
		var named struct {
			ServerName spec.ServerName `json:"server_name"`
		}
		if json.Unmarshal(raw, &named) != nil || query.ServerKeys[named.ServerName] == nil || !f.signed(raw, notaryKeys) {
			continue
		}
		keys, err := CheckServerKeys(string(named.ServerName), raw, f.now())
		if err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Str("notary", f.notary).Msg("Notary gave keys that cannot be believed")
			continue
		}
		for req, res := range keys {
			if _, asked := requests[req]; asked { // it has no say about keys that we have already
				all[req] = res
			}
		}
	}
	return all, nil
}

// notaryKeys asks the notary for its own keys.
func (f *notaryFetcher) notaryKeys(ctx context.Context) (map[keyRequest]keyResult, error) {
	var raw json.RawMessage
	err := f.client.Ask(ctx, Request{
		Server: f.notary, Method: http.MethodGet, Path: []string{"v2", "server"}, Key: true, Unsigned: true, Limit: maxKeyAnswer, Timeout: keyTimeout,
	}, &raw)
	if err != nil {
		return nil, err
	}
	keys, err := CheckServerKeys(f.notary, raw, f.now())
	if err != nil {
		return nil, err
	}
	return keys, f.keys.StoreKeys(ctx, keys)
}

func (f *notaryFetcher) signed(raw []byte, keys map[keyRequest]keyResult) bool {
	for req, res := range keys {
		if gomatrixserverlib.VerifyJSON(f.notary, req.KeyID, ed25519.PublicKey(res.Key), raw) == nil {
			return true
		}
	}
	return false
}
