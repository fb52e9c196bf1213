package storage

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"

	"maunium.net/go/mautrix/id"
)

// FormerAddresses remember whose e-mail address it was when an account was closed. The addresses themselves are not kept, but hashes
// under a secret of this server's own: of an address it can be told whose it was, of an account not which it had.
type FormerAddresses struct{ s *Store }

func (t *FormerAddresses) hash(ctx context.Context, address string) ([]byte, error) {
	secret, err := t.s.Secrets.Shared(ctx, "former addresses")
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(address))
	return h.Sum(nil), nil
}

// Keep remembers the e-mail addresses of an account that is about to be closed, inside Do.
func (t *FormerAddresses) Keep(ctx context.Context, user id.UserID) error {
	had, err := t.s.ThreePIDs.Of(ctx, user)
	if err != nil {
		return err
	}
	for _, a := range had {
		if a.Medium != "email" {
			continue
		}
		hash, err := t.hash(ctx, a.Address)
		if err != nil {
			return err
		}
		if _, err := t.s.exec(ctx, "INSERT INTO former_addresses (hash, user_id, closed) VALUES ($1, $2, $3) ON CONFLICT (hash, user_id) DO UPDATE SET closed = excluded.closed",
			hash, user, t.s.now().UnixMilli()); err != nil {
			return err
		}
	}
	return nil
}

// Holder is whose address it was, of those accounts that are closed and could be opened again the one that was closed last; empty for
// nobody's. Erased and locked ones cannot.
func (t *FormerAddresses) Holder(ctx context.Context, address string) (id.UserID, error) {
	hash, err := t.hash(ctx, address)
	if err != nil {
		return "", err
	}
	return one(ctx, t.s, column[id.UserID], `SELECT f.user_id FROM former_addresses f JOIN accounts a ON a.user_id = f.user_id
		WHERE f.hash = $1 AND a.deactivated AND NOT a.erased AND NOT a.locked ORDER BY f.closed DESC, f.user_id LIMIT 1`, hash)
}

// forget takes a user's away, inside Do.
func (t *FormerAddresses) forget(ctx context.Context, user id.UserID) error {
	_, err := t.s.exec(ctx, "DELETE FROM former_addresses WHERE user_id = $1", user)
	return err
}
