package storage

import (
	"context"
	"crypto/sha256"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Session is who holds an access token, and how their account stands.
type Session struct {
	UserID    id.UserID
	DeviceID  id.DeviceID
	Expires   time.Time // zero: never
	Admin     bool
	Locked    bool
	Suspended bool
	Shadowed  bool
	// Until is when the account expires; zero: never.
	Until time.Time
	// Rate is the user's own rate limit, or nil.
	Rate *Rate
	// Seen is when the device was last written down as active.
	Seen time.Time
	// OAuth: the token was given to a client of the OAuth 2.0 API.
	OAuth bool
	// Fresh: the token has never been used, and replaces another that its first use ends (see Confirm).
	Fresh bool
}

// Tokens are access and refresh tokens. The database holds only hashes of them.
type Tokens struct {
	s     *Store
	cache sessionCache
}

const (
	tokenSession = `SELECT t.user_id, t.device_id, t.expires, a.admin, a.locked, a.suspended, a.shadowed, v.until, d.seen, t.replaces IS NOT NULL, t.client_id <> '',
		o.per_second, o.burst
		FROM tokens t JOIN accounts a ON a.user_id = t.user_id JOIN devices d ON d.user_id = t.user_id AND d.device_id = t.device_id
		LEFT JOIN rate_overrides o ON o.user_id = t.user_id LEFT JOIN validity v ON v.user_id = t.user_id AND v.enforced
		WHERE t.access_hash = $1 AND NOT t.spent AND NOT a.deactivated`
	tokenInsert = `INSERT INTO tokens (access_hash, refresh_hash, user_id, device_id, created, expires, replaces, client_id, scope)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	tokenRefreshable = `SELECT t.access_hash, t.user_id, t.device_id, t.spent, t.replaces, t.client_id FROM tokens t
		JOIN accounts a ON a.user_id = t.user_id WHERE t.refresh_hash = $1 AND NOT a.deactivated`
	tokenGrant       = "SELECT t.user_id, t.device_id, t.client_id, t.scope, t.created, t.expires, t.spent FROM tokens t JOIN accounts a ON a.user_id = t.user_id WHERE NOT a.deactivated AND "
	tokenReplaced    = "SELECT user_id, device_id, replaces FROM tokens WHERE access_hash = $1"
	tokenSpend       = "UPDATE tokens SET spent = true WHERE access_hash = $1"
	tokenConfirm     = "UPDATE tokens SET replaces = NULL WHERE access_hash = $1"
	tokenSuccessors  = "DELETE FROM tokens WHERE user_id = $1 AND device_id = $2 AND replaces = $3"
	tokenEndOfDevice = "DELETE FROM tokens WHERE user_id = $1 AND device_id = $2"
	tokenSweep       = "DELETE FROM tokens WHERE spent AND created < $1"

	passInsert = "INSERT INTO passes (hash, purpose, user_id, device_id, expires) VALUES ($1, $2, $3, $4, $5)"
	passUser   = "SELECT user_id, device_id FROM passes WHERE hash = $1 AND purpose = $2 AND expires > $3"
	passTake   = "DELETE FROM passes WHERE hash = $1 AND purpose = $2 RETURNING user_id, expires"
	passSweep  = "DELETE FROM passes WHERE expires < $1"
)

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Session is who holds this access token, not to be changed; nil for one that is unknown, spent, or of a closed account. An expired one is
// still given: the caller looks at Expires.
func (t *Tokens) Session(ctx context.Context, access string) (*Session, error) {
	hash := sha256.Sum256([]byte(access))
	// Where other processes write too, nobody would tell the cache of it in time.
	if t.s.bus == nil || !t.s.bus.Embedded() {
		return t.read(ctx, hash[:])
	}
	found, read := t.cache.find(hash)
	if found != nil {
		return found, nil
	}
	session, err := t.read(ctx, hash[:])
	if err == nil && session != nil {
		t.cache.keep(hash, session, read)
	}
	return session, err
}

func (t *Tokens) read(ctx context.Context, hash []byte) (*Session, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*Session, error) {
		var s Session
		var expires, until, perSecond, burst *int64
		var seen int64
		err := row.Scan(&s.UserID, &s.DeviceID, &expires, &s.Admin, &s.Locked, &s.Suspended, &s.Shadowed, &until, &seen, &s.Fresh, &s.OAuth, &perSecond, &burst)
		if err != nil {
			return nil, err
		}
		if perSecond != nil && burst != nil {
			s.Rate = &Rate{PerSecond: *perSecond, Burst: *burst}
		}
		s.Seen = time.UnixMilli(seen)
		if until != nil {
			s.Until = time.UnixMilli(*until)
		}
		if expires != nil {
			s.Expires = time.UnixMilli(*expires)
		}
		return &s, nil
	}, tokenSession, hash)
}

// Expired says whether the account's time is over.
func (s *Session) Expired(now time.Time) bool { return !s.Until.IsZero() && !now.Before(s.Until) }

// forget drops a device's tokens from the cache, once what ctx's transaction does is on disk.
func (t *Tokens) forget(ctx context.Context, user id.UserID, device id.DeviceID) {
	t.s.After(ctx, func() { t.cache.drop(user, device) })
}

// Pair is an access token, and perhaps a refresh token, to be given to a device.
type Pair struct {
	Access  string
	Refresh string    // empty: none
	Expires time.Time // of the access token; zero: never
	// ClientID and Scope are the OAuth 2.0 client's to which it is given; empty where a device logs in without one.
	ClientID string
	Scope    string
}

// Grant is what a token was given for, whether access or refresh token.
type Grant struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	ClientID string
	Scope    string
	Created  time.Time
	Expires  time.Time // of the access token; zero: never
	Spent    bool      // replaced by a pair that has been used
}

// Put makes this the device's only pair, inside Do: older tokens of the device die.
func (t *Tokens) Put(ctx context.Context, user id.UserID, device id.DeviceID, pair Pair) error {
	t.forget(ctx, user, device)
	if _, err := t.s.exec(ctx, tokenEndOfDevice, user, device); err != nil {
		return err
	}
	return t.insert(ctx, user, device, pair, nil)
}

func (t *Tokens) insert(ctx context.Context, user id.UserID, device id.DeviceID, pair Pair, replaces []byte) error {
	var refresh []byte
	if pair.Refresh != "" {
		refresh = hashToken(pair.Refresh)
	}
	var expires *int64
	if !pair.Expires.IsZero() {
		ms := pair.Expires.UnixMilli()
		expires = &ms
	}
	_, err := t.s.exec(ctx, tokenInsert, hashToken(pair.Access), refresh, user, device, t.s.now().UnixMilli(), expires, replaces, pair.ClientID, pair.Scope)
	return err
}

// Refresh trades a refresh token for a new pair, inside Do; false if it is not known. The old pair lives until the new
// one is used, since the answer may be lost. A refresh token that comes back after that has been stolen, by whoever
// came first or by whoever comes now: all tokens of the device die. What an OAuth 2.0 client was given it alone trades, and only for its own.
func (t *Tokens) Refresh(ctx context.Context, refresh string, pair Pair) (bool, error) {
	type row struct {
		access   []byte
		user     id.UserID
		device   id.DeviceID
		spent    bool
		replaces []byte
		client   string
	}
	old, err := one(ctx, t.s, func(r dbutil.Scannable) (*row, error) {
		var v row
		err := r.Scan(&v.access, &v.user, &v.device, &v.spent, &v.replaces, &v.client)
		return &v, err
	}, tokenRefreshable, hashToken(refresh))
	if err != nil || old == nil || old.client != pair.ClientID {
		return false, err
	}
	t.forget(ctx, old.user, old.device)
	if old.spent {
		_, err := t.s.exec(ctx, tokenEndOfDevice, old.user, old.device)
		return false, err
	}
	if old.replaces != nil {
		// Using the refresh token is a use of the pair as well.
		if err := t.confirm(ctx, old.access, old.replaces); err != nil {
			return false, err
		}
	}
	if _, err := t.s.exec(ctx, tokenSuccessors, old.user, old.device, old.access); err != nil {
		return false, err
	}
	return true, t.insert(ctx, old.user, old.device, pair, old.access)
}

// Given is what a token was given for, be it an access token or a refresh token; nil for one that is unknown. It may have expired, or be spent.
func (t *Tokens) Given(ctx context.Context, token string) (*Grant, error) {
	for _, column := range []string{"t.access_hash = $1", "t.refresh_hash = $1"} {
		g, err := one(ctx, t.s, scanGrant, tokenGrant+column, hashToken(token))
		if err != nil || g != nil {
			return g, err
		}
	}
	return nil, nil
}

// GivenToRefresh is what a refresh token was given for, or nil.
func (t *Tokens) GivenToRefresh(ctx context.Context, refresh string) (*Grant, error) {
	return one(ctx, t.s, scanGrant, tokenGrant+"t.refresh_hash = $1", hashToken(refresh))
}

func scanGrant(row dbutil.Scannable) (*Grant, error) {
	var g Grant
	var created int64
	var expires *int64
	err := row.Scan(&g.UserID, &g.DeviceID, &g.ClientID, &g.Scope, &created, &expires, &g.Spent)
	g.Created = time.UnixMilli(created)
	if expires != nil {
		g.Expires = time.UnixMilli(*expires)
	}
	return &g, err
}

// Confirm notes the first use of a fresh access token, inside Do: the pair that it replaces dies.
func (t *Tokens) Confirm(ctx context.Context, access string) error {
	type row struct {
		user     id.UserID
		device   id.DeviceID
		replaces []byte
	}
	pair, err := one(ctx, t.s, func(r dbutil.Scannable) (row, error) {
		var v row
		err := r.Scan(&v.user, &v.device, &v.replaces)
		return v, err
	}, tokenReplaced, hashToken(access))
	if err != nil || pair.replaces == nil {
		return err
	}
	t.forget(ctx, pair.user, pair.device)
	return t.confirm(ctx, hashToken(access), pair.replaces)
}

func (t *Tokens) confirm(ctx context.Context, access, replaces []byte) error {
	if _, err := t.s.exec(ctx, tokenSpend, replaces); err != nil {
		return err
	}
	_, err := t.s.exec(ctx, tokenConfirm, access)
	return err
}

// Purpose is what a pass is good for.
type Purpose string

const (
	LoginPass  Purpose = "login"  // one login with m.login.token
	OpenIDPass Purpose = "openid" // proving to others who one is
)

// PutPass stores a token for one purpose, inside Do. It ends with this device, if one is named.
func (t *Tokens) PutPass(ctx context.Context, purpose Purpose, token string, user id.UserID, device id.DeviceID, expires time.Time) error {
	_, err := t.s.exec(ctx, passInsert, hashToken(token), purpose, user, device, expires.UnixMilli())
	return err
}

// PassUser is whose token this is, and with which device it ends; empty for one that is unknown, expired, or for something else.
func (t *Tokens) PassUser(ctx context.Context, purpose Purpose, token string) (user id.UserID, device id.DeviceID, err error) {
	user, err = one(ctx, t.s, func(row dbutil.Scannable) (user id.UserID, err error) {
		err = row.Scan(&user, &device)
		return user, err
	}, passUser, hashToken(token), purpose, t.s.now().UnixMilli())
	return user, device, err
}

// TakePass is PassUser for tokens that are good once, inside Do.
func (t *Tokens) TakePass(ctx context.Context, purpose Purpose, token string) (id.UserID, error) {
	now := t.s.now().UnixMilli()
	return one(ctx, t.s, func(row dbutil.Scannable) (id.UserID, error) {
		var user id.UserID
		var expires int64
		if err := row.Scan(&user, &expires); err != nil || expires <= now {
			return "", err
		}
		return user, nil
	}, passTake, hashToken(token), purpose)
}

// Sweep forgets, inside Do, expired passes, and spent pairs made before this time.
func (t *Tokens) Sweep(ctx context.Context, spentBefore time.Time) error {
	if _, err := t.s.exec(ctx, tokenSweep, spentBefore.UnixMilli()); err != nil {
		return err
	}
	_, err := t.s.exec(ctx, passSweep, t.s.now().UnixMilli())
	return err
}
