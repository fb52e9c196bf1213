package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// ExternalID is who a user is at an identity provider.
type ExternalID struct {
	Provider   string
	ExternalID string
}

// ExternalIDs are who users are at identity providers.
type ExternalIDs struct{ s *Store }

// Of gives who the user is elsewhere.
func (t *ExternalIDs) Of(ctx context.Context, user id.UserID) ([]ExternalID, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (e ExternalID, err error) {
		err = row.Scan(&e.Provider, &e.ExternalID)
		return ExternalID{unescape(e.Provider), unescape(e.ExternalID)}, err
	}, "SELECT provider, external_id FROM external_ids WHERE user_id = $1 ORDER BY provider, external_id LIMIT 1000", user)
}

// User gives who is known by this at the provider; empty if nobody is.
func (t *ExternalIDs) User(ctx context.Context, e ExternalID) (id.UserID, error) {
	return one(ctx, t.s, column[id.UserID], "SELECT user_id FROM external_ids WHERE provider = $1 AND external_id = $2", escape(e.Provider), escape(e.ExternalID))
}

// Link says that the user is known by this at the provider, inside Do; false if somebody else is, and then nothing changed.
func (t *ExternalIDs) Link(ctx context.Context, user id.UserID, e ExternalID) (bool, error) {
	other, err := t.User(ctx, e)
	if err != nil || other != "" {
		return other == user, err
	}
	_, err = t.s.exec(ctx, "INSERT INTO external_ids (provider, external_id, user_id) VALUES ($1, $2, $3)", escape(e.Provider), escape(e.ExternalID), user)
	return true, err
}

// Unlink forgets, inside Do, who the user is at one provider.
func (t *ExternalIDs) Unlink(ctx context.Context, user id.UserID, provider string) error {
	_, err := t.s.exec(ctx, "DELETE FROM external_ids WHERE user_id = $1 AND provider = $2", user, escape(provider))
	return err
}

// Replace says anew who the user is elsewhere, inside Do; false if one of these is somebody else, and then nothing is to be
// committed.
func (t *ExternalIDs) Replace(ctx context.Context, user id.UserID, ids []ExternalID) (bool, error) {
	if _, err := t.s.exec(ctx, "DELETE FROM external_ids WHERE user_id = $1", user); err != nil {
		return false, err
	}
	for _, e := range ids {
		other, err := t.User(ctx, e)
		if err != nil || other != "" && other != user {
			return false, err
		}
		if other == user { // named twice
			continue
		}
		_, err = t.s.exec(ctx, "INSERT INTO external_ids (provider, external_id, user_id) VALUES ($1, $2, $3)", escape(e.Provider), escape(e.ExternalID), user)
		if err != nil {
			return false, err
		}
	}
	return true, nil
}
