package remote

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
)

type (
	keyRequest = gomatrixserverlib.PublicKeyLookupRequest
	keyResult  = gomatrixserverlib.PublicKeyLookupResult
)

// Ring checks signatures of all servers, this one included. It is a gomatrixserverlib.JSONVerifier and safe for concurrent use.
type Ring struct {
	keyring gomatrixserverlib.KeyRing
}

// NewRing makes the ring over the table of known keys. Keys that are missing there are asked from their servers, and, failing
// that, from the notaries.
func NewRing(client *Client, db gomatrixserverlib.KeyDatabase, notaries []string) *Ring {
	cache := &keyCache{own: client.keys, db: db, pins: client.pins, now: time.Now, known: make(map[keyRequest]keyResult)}
	direct := &directFetcher{client: client, now: time.Now, slots: make(chan struct{}, allFetches), last: make(map[string]attempt)}
	fetchers := []gomatrixserverlib.KeyFetcher{sieve{direct, client.pins}}
	for _, name := range notaries {
		fetchers = append(fetchers, sieve{&notaryFetcher{client: client, notary: name, keys: cache, now: time.Now}, client.pins})
	}
	return &Ring{keyring: gomatrixserverlib.KeyRing{KeyFetchers: fetchers, KeyDatabase: cache}}
}

// Prepare sees to it that one of these keys of the server is at hand, and says whether it is: so that nothing else need be done
// for a server whose keys cannot be had.
func (r *Ring) Prepare(ctx context.Context, server string, keyIDs []string) bool {
	asked := make(map[keyRequest]spec.Timestamp, len(keyIDs))
	now := spec.AsTimestamp(time.Now())
	for _, keyID := range keyIDs {
		asked[keyRequest{ServerName: spec.ServerName(server), KeyID: gomatrixserverlib.KeyID(keyID)}] = now
	}
	known, err := r.keyring.KeyDatabase.FetchKeys(ctx, asked)
	if err != nil || len(known) > 0 {
		return err == nil // whether one is still good is the check's own business
	}
	for _, fetcher := range r.keyring.KeyFetchers {
		found, err := fetcher.FetchKeys(ctx, asked)
		if err != nil || len(found) == 0 {
			continue
		}
		if r.keyring.KeyDatabase.StoreKeys(ctx, found) != nil {
			return false
		}
		for req := range asked {
			if _, ok := found[req]; ok {
				return true
			}
		}
	}
	return false
}

// quiet keeps the library's own log lines out of ours; what matters is in the results.
var quiet = logrus.NewEntry(&logrus.Logger{Out: io.Discard, Formatter: new(logrus.TextFormatter), Level: logrus.PanicLevel})

// VerifyJSONs implements gomatrixserverlib.JSONVerifier. Great batches are shared out over the processors.
func (r *Ring) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	ctx = util.ContextWithLogger(ctx, quiet)
	const worthwhile = 32
	workers := min(runtime.GOMAXPROCS(0), len(requests)/worthwhile)
	if workers <= 1 {
		return r.keyring.VerifyJSONs(ctx, requests)
	}
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	group, ctx := errgroup.WithContext(ctx)
	size := (len(requests) + workers - 1) / workers
	for from := 0; from < len(requests); from += size {
		to := min(from+size, len(requests))
		group.Go(func() error {
			part, err := r.keyring.VerifyJSONs(ctx, requests[from:to])
			copy(results[from:to], part)
			return err
		})
	}
	return results, group.Wait()
}

// keyCache stands before the table of keys: it answers for our own server, remembers what it has seen, and writes only news.
type keyCache struct {
	own  *Keys
	db   gomatrixserverlib.KeyDatabase
	pins pins
	now  func() time.Time

	mu    sync.Mutex
	known map[keyRequest]keyResult
}

const maxKnownKeys = 50_000

// FetcherName is gomatrixserverlib.KeyFetcher's.
func (c *keyCache) FetcherName() string { return "database" }

// FetchKeys is gomatrixserverlib.KeyFetcher's.
func (c *keyCache) FetchKeys(ctx context.Context, requests map[keyRequest]spec.Timestamp) (map[keyRequest]keyResult, error) {
	found := make(map[keyRequest]keyResult, len(requests))
	missing := make(map[keyRequest]spec.Timestamp)
	c.mu.Lock()
	for req, ts := range requests {
		if string(req.ServerName) == c.own.ServerName {
			if res, ok := c.own.lookup(req.KeyID, c.now()); ok {
				found[req] = res
			}
		} else if c.pins.has(string(req.ServerName)) {
			if res, ok := c.pins.lookup(req, spec.AsTimestamp(c.now())); ok {
				found[req] = res
			}
		} else if res, ok := c.known[req]; ok {
			found[req] = res
		} else {
			missing[req] = ts
		}
	}
	c.mu.Unlock()
	if len(missing) == 0 {
		return found, nil
	}
	stored, err := c.db.FetchKeys(ctx, missing)
	if err != nil {
		return nil, err
	}
	c.pins.clean(stored)
	c.mu.Lock()
	defer c.mu.Unlock()
	for req, res := range stored {
		found[req] = res
		c.remember(req, res)
	}
	return found, nil
}

// StoreKeys is gomatrixserverlib.KeyDatabase's. What is known already is not written again; another key under the ID of one
// that is still valid is refused.
func (c *keyCache) StoreKeys(ctx context.Context, results map[keyRequest]keyResult) error {
	asked := make(map[keyRequest]spec.Timestamp, len(results))
	for req := range results {
		asked[req] = 0
	}
	if _, err := c.FetchKeys(ctx, asked); err != nil { // so that what the table knows counts too
		return err
	}
	news := make(map[keyRequest]keyResult)
	now := spec.AsTimestamp(c.now())
	c.mu.Lock()
	for req, res := range results {
		if string(req.ServerName) == c.own.ServerName || c.pins.has(string(req.ServerName)) || c.pins.denied[string(res.Key)] {
			continue
		}
		old, ok := c.known[req]
		if ok && same(old, res) || ok && !bytes.Equal(old.Key, res.Key) && old.ExpiredTS == 0 && old.ValidUntilTS > now {
			continue
		}
		news[req] = res
		c.remember(req, res)
	}
	c.mu.Unlock()
	if len(news) == 0 {
		return nil
	}
	return c.db.StoreKeys(ctx, news)
}

func same(a, b keyResult) bool {
	return bytes.Equal(a.Key, b.Key) && a.ExpiredTS == b.ExpiredTS && a.ValidUntilTS == b.ValidUntilTS
}

// remember is called with the lock held.
func (c *keyCache) remember(req keyRequest, res keyResult) {
	if len(c.known) >= maxKnownKeys {
		for name := range c.known { // any one: it is in the table still
			delete(c.known, name)
			break
		}
	}
	c.known[req] = res
}
