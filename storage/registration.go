package storage

import (
	"context"
	"time"

	"go.mau.fi/util/dbutil"
)

// RegistrationToken lets people register on a server that is not open to all.
type RegistrationToken struct {
	Token string
	// Allowed is how many may register with it; negative: any number.
	Allowed   int64
	Pending   int64
	Completed int64
	Expires   time.Time // zero: never
}

// Valid says whether one more may register with it.
func (t *RegistrationToken) Valid(now time.Time) bool {
	return (t.Allowed < 0 || t.Pending+t.Completed < t.Allowed) && (t.Expires.IsZero() || now.Before(t.Expires))
}

// RegistrationTokens are the tokens and nonces with which accounts are made.
type RegistrationTokens struct{ s *Store }

const (
	registrationColumns = "token, allowed, pending, completed, expires"
	registrationByToken = "SELECT " + registrationColumns + " FROM registration_tokens WHERE token = $1"
	registrationPage    = "SELECT " + registrationColumns + " FROM registration_tokens WHERE token > $1 ORDER BY token LIMIT $2"
	registrationPut     = `INSERT INTO registration_tokens (token, allowed, expires) VALUES ($1, $2, $3)
		ON CONFLICT (token) DO UPDATE SET allowed = excluded.allowed, expires = excluded.expires`
	registrationAny    = "SELECT COUNT(*) FROM (SELECT 1 FROM registration_tokens LIMIT 1) AS first"
	registrationCount  = "UPDATE registration_tokens SET pending = pending + $2, completed = completed + $3 WHERE token = $1"
	registrationDelete = "DELETE FROM registration_tokens WHERE token = $1"

	nonceInsert = "INSERT INTO nonces (nonce, expires) VALUES ($1, $2)"
	nonceTake   = "DELETE FROM nonces WHERE nonce = $1 RETURNING expires"
	nonceSweep  = "DELETE FROM nonces WHERE expires < $1"
)

func scanRegistrationToken(row dbutil.Scannable) (*RegistrationToken, error) {
	var t RegistrationToken
	var allowed, expires *int64
	if err := row.Scan(&t.Token, &allowed, &t.Pending, &t.Completed, &expires); err != nil {
		return nil, err
	}
	t.Allowed = -1
	if allowed != nil {
		t.Allowed = *allowed
	}
	if expires != nil {
		t.Expires = time.UnixMilli(*expires)
	}
	return &t, nil
}

// ByToken is the registration token of this text, or nil.
func (r *RegistrationTokens) ByToken(ctx context.Context, token string) (*RegistrationToken, error) {
	return one(ctx, r.s, scanRegistrationToken, registrationByToken, token)
}

// Any says whether somebody has made a token, good or not (any more).
func (r *RegistrationTokens) Any(ctx context.Context) (bool, error) {
	n, err := one(ctx, r.s, column[int], registrationAny)
	return n > 0, err
}

// Page lists the tokens in their order, after this one.
func (r *RegistrationTokens) Page(ctx context.Context, after string, limit int) ([]*RegistrationToken, error) {
	return all(ctx, r.s, scanRegistrationToken, registrationPage, after, limit)
}

// Put makes or changes a token, inside Do; its counts stay.
func (r *RegistrationTokens) Put(ctx context.Context, t RegistrationToken) error {
	var allowed, expires *int64
	if t.Allowed >= 0 {
		allowed = &t.Allowed
	}
	if !t.Expires.IsZero() {
		ms := t.Expires.UnixMilli()
		expires = &ms
	}
	_, err := r.s.exec(ctx, registrationPut, t.Token, allowed, expires)
	return err
}

// Delete takes a token away, inside Do.
func (r *RegistrationTokens) Delete(ctx context.Context, token string) error {
	_, err := r.s.exec(ctx, registrationDelete, token)
	return err
}

// Reserve counts a session that has shown the token, inside Do; false if it is not valid (any more).
func (r *RegistrationTokens) Reserve(ctx context.Context, token string) (bool, error) {
	t, err := r.ByToken(ctx, token)
	if err != nil || t == nil || !t.Valid(r.s.now()) {
		return false, err
	}
	_, err = r.s.exec(ctx, registrationCount, token, 1, 0)
	return true, err
}

// Use turns a reservation into a registration, inside Do.
func (r *RegistrationTokens) Use(ctx context.Context, token string) error {
	_, err := r.s.exec(ctx, registrationCount, token, -1, 1)
	return err
}

// PutNonce stores a number that is good once.
func (r *RegistrationTokens) PutNonce(ctx context.Context, nonce string, expires time.Time) error {
	return r.s.Do(ctx, func(ctx context.Context) error {
		if _, err := r.s.exec(ctx, nonceSweep, r.s.now().UnixMilli()); err != nil {
			return err
		}
		_, err := r.s.exec(ctx, nonceInsert, nonce, expires.UnixMilli())
		return err
	})
}

// TakeNonce says whether the number was given out and is still good, and forgets it.
func (r *RegistrationTokens) TakeNonce(ctx context.Context, nonce string) (bool, error) {
	good := false
	err := r.s.Do(ctx, func(ctx context.Context) error {
		expires, err := one(ctx, r.s, column[int64], nonceTake, nonce)
		good = expires > r.s.now().UnixMilli()
		return err
	})
	return good, err
}
