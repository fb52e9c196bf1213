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
	keys, err := chunked(servers, func(part []spec.ServerName) ([]serverKey, error) {
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
