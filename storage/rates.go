package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Rate is a user's own rate limit, in place of the general ones. Both 0: none.
type Rate struct {
	PerSecond, Burst int64
}

// Rates are the rate limits that administrators have given single users.
type Rates struct{ s *Store }

// Of gives the user's own rate limit, or nil.
func (t *Rates) Of(ctx context.Context, user id.UserID) (*Rate, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*Rate, error) {
		r := &Rate{}
		return r, row.Scan(&r.PerSecond, &r.Burst)
	}, "SELECT per_second, burst FROM rate_overrides WHERE user_id = $1", user)
}

// Put gives the user a rate limit, inside Do; nil takes it away.
func (t *Rates) Put(ctx context.Context, user id.UserID, rate *Rate) error {
	t.s.After(ctx, t.s.Tokens.cache.clear)
	if rate == nil {
		_, err := t.s.exec(ctx, "DELETE FROM rate_overrides WHERE user_id = $1", user)
		return err
	}
	_, err := t.s.exec(ctx, `INSERT INTO rate_overrides (user_id, per_second, burst) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET per_second = excluded.per_second, burst = excluded.burst`, user, rate.PerSecond, rate.Burst)
	return err
}
