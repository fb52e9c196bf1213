package storage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"sync"

	"maunium.net/go/mautrix/id"
)

// Filters are what users want to see of a sync, stored for repeated use.
type Filters struct {
	s *Store

	mu sync.Mutex
	// known are filters that were asked for lately: they never change.
	known map[filterName]json.RawMessage
}

type filterName struct {
	user id.UserID
	id   string
}

// The bounds of the filters in memory: how many, and how long one may be.
const (
	maxFilters     = 10_000
	maxKnownFilter = 4 << 10
)

const (
	filterByID = "SELECT json FROM filters WHERE user_id = $1 AND filter_id = $2"
	filterPut  = "INSERT INTO filters (user_id, filter_id, json) VALUES ($1, $2, $3) ON CONFLICT (user_id, filter_id) DO NOTHING"
)

// ByID is a filter as it was stored, or nil. Shared: read only.
func (f *Filters) ByID(ctx context.Context, user id.UserID, filterID string) (json.RawMessage, error) {
	name := filterName{user, filterID}
	f.mu.Lock()
	filter := f.known[name]
	f.mu.Unlock()
	if filter != nil {
		return filter, nil
	}
	filter, err := one(ctx, f.s, column[[]byte], filterByID, user, filterID)
	if err != nil || filter == nil || len(filter) > maxKnownFilter {
		return filter, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || len(f.known) >= maxFilters {
		f.known = map[filterName]json.RawMessage{}
	}
	f.known[name] = filter
	return filter, nil
}

// Put stores a filter and gives its ID; the same filter has the same ID.
func (f *Filters) Put(ctx context.Context, user id.UserID, filter json.RawMessage) (string, error) {
	sum := sha256.Sum256(filter)
	filterID := base64.RawURLEncoding.EncodeToString(sum[:12])
	known, err := f.ByID(ctx, user, filterID)
	if err != nil || known != nil {
		return filterID, err
	}
	return filterID, f.s.Do(ctx, func(ctx context.Context) error {
		_, err := f.s.exec(ctx, filterPut, user, filterID, []byte(filter))
		return err
	})
}
