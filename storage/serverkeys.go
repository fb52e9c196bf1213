package storage

import (
	"context"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"go.mau.fi/util/dbutil"
)

// ServerKeys remembers other servers' signing keys. It is a gomatrixserverlib.KeyDatabase. Only federation/remote writes it.
type ServerKeys struct{ s *Store }

type serverKey struct {
	request gomatrixserverlib.PublicKeyLookupRequest
	result  gomatrixserverlib.PublicKeyLookupResult
}

func scanServerKey(row dbutil.Scannable) (k serverKey, err error) {
	var key []byte
	err = row.Scan(&k.request.ServerName, &k.request.KeyID, &key, &k.result.ValidUntilTS, &k.result.ExpiredTS)
	k.result.Key = spec.Base64Bytes(key)
	return k, err
}

// FetcherName is gomatrixserverlib.KeyFetcher's.
func (t *ServerKeys) FetcherName() string { return "storage" }

// FetchKeys gives those of the keys that we have, expired ones too.
func (t *ServerKeys) FetchKeys(ctx context.Context, requests map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp) (map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult, error) {
	seen := make(map[spec.ServerName]bool)
	var servers []spec.ServerName
	for req := range requests {
		if !seen[req.ServerName] {
			seen[req.ServerName] = true
			servers = append(servers, req.ServerName)
		}
	}
	keys, err := chunked(ctx, servers, func(part []spec.ServerName) ([]serverKey, error) {
		return all(ctx, t.s, scanServerKey, "SELECT server, key_id, key, valid_until, expired FROM server_keys WHERE server IN "+list(1, len(part)), anys(part)...)
	})
	if err != nil {
		return nil, fmt.Errorf("read server keys: %w", err)
	}
	found := make(map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult, len(requests))
	for _, k := range keys {
		if _, wanted := requests[k.request]; wanted {
			found[k.request] = k.result
		}
	}
	return found, nil
}

// StoreKeys writes keys over what was known of them.
func (t *ServerKeys) StoreKeys(ctx context.Context, results map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult) error {
	rows := make([][]any, 0, len(results))
	for req, res := range results {
		rows = append(rows, []any{req.ServerName, req.KeyID, []byte(res.Key), int64(res.ValidUntilTS), int64(res.ExpiredTS)})
	}
	err := t.s.Do(ctx, func(ctx context.Context) error {
		return t.s.insert(ctx, "INSERT INTO server_keys (server, key_id, key, valid_until, expired) VALUES", rows,
			`ON CONFLICT (server, key_id) DO UPDATE SET key = excluded.key, valid_until = excluded.valid_until, expired = excluded.expired`)
	})
	if err != nil {
		return fmt.Errorf("store server keys: %w", err)
	}
	return nil
}

// KeyAnswer is what a server said of its keys, as it said it.
type KeyAnswer struct {
	KeyID string
	JSON  []byte
	// Fetched in ms since 1970.
	Fetched int64
}

// Answers gives the latest answers of a server, by key.
func (t *ServerKeys) Answers(ctx context.Context, server string) ([]KeyAnswer, error) {
	const most = 256
	return all(ctx, t.s, func(row dbutil.Scannable) (a KeyAnswer, err error) {
		err = row.Scan(&a.KeyID, &a.JSON, &a.Fetched)
		return a, err
	}, "SELECT key_id, answer, fetched FROM server_key_answers WHERE server = $1 ORDER BY fetched DESC LIMIT $2", server, most)
}

// PutAnswer remembers an answer of a server, which holds these keys.
func (t *ServerKeys) PutAnswer(ctx context.Context, server string, keyIDs []string, answer []byte, fetched int64) error {
	rows := make([][]any, len(keyIDs))
	for i, keyID := range keyIDs {
		rows[i] = []any{server, keyID, answer, fetched}
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		return t.s.insert(ctx, "INSERT INTO server_key_answers (server, key_id, answer, fetched) VALUES", rows,
			"ON CONFLICT (server, key_id) DO UPDATE SET answer = excluded.answer, fetched = excluded.fetched")
	})
}
