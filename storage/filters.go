package storage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// Filters are what users want to see of a sync, stored for repeated use.
type Filters struct{ s *Store }

const (
	filterByID = "SELECT json FROM filters WHERE user_id = $1 AND filter_id = $2"
	filterPut  = "INSERT INTO filters (user_id, filter_id, json) VALUES ($1, $2, $3) ON CONFLICT (user_id, filter_id) DO NOTHING"
)

// ByID is a filter as it was stored, or nil.
func (f *Filters) ByID(ctx context.Context, user id.UserID, filterID string) (json.RawMessage, error) {
	return one(ctx, f.s, column[[]byte], filterByID, user, filterID)
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
