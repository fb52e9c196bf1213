package storage

import (
	"context"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// UpstreamKind is what a pass of Upstream is good for.
type UpstreamKind string

const (
	UpstreamBegun   UpstreamKind = "begun"   // a sign-in that is at the provider now
	UpstreamDone    UpstreamKind = "done"    // one that came back
	UpstreamLogin   UpstreamKind = "login"   // the session that a login token belongs to
	UpstreamLeaving UpstreamKind = "leaving" // where a browser goes on that is leaving its provider
	UpstreamLogout  UpstreamKind = "logout"  // a provider's word that a session ended, not to be heard twice
)

// UpstreamPass is good once.
type UpstreamPass struct {
	Kind   UpstreamKind
	Secret string
	// Browser is the secret of the browser that alone may use it, or empty.
	Browser string
	// Content is JSON.
	Content []byte
	Expires time.Time
}

// UpstreamSession is a session at an identity provider, from which sessions of ours came.
type UpstreamSession struct {
	Session  string
	Provider string
	Subject  string
	SID      string // empty where the provider does not say
	UserID   id.UserID
	IDToken  string
	Created  time.Time
}

// Upstream is what is kept of sign-ins with identity providers.
type Upstream struct{ s *Store }

const (
	upstreamPassPut = `INSERT INTO upstream_passes (hash, kind, browser, content, expires) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (hash) DO NOTHING`
	upstreamPassRead  = "SELECT content FROM upstream_passes WHERE hash = $1 AND kind = $2 AND browser = $3 AND expires > $4"
	upstreamPassTake  = "DELETE FROM upstream_passes WHERE hash = $1 AND kind = $2 AND browser = $3 AND expires > $4 RETURNING content"
	upstreamPassSweep = "DELETE FROM upstream_passes WHERE expires < $1"

	upstreamColumns = "session, provider, subject, sid, user_id, id_token, created"
	upstreamPut     = "INSERT INTO upstream_sessions (" + upstreamColumns + ", browser) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
	upstreamByID    = "SELECT " + upstreamColumns + " FROM upstream_sessions WHERE session = $1"
	upstreamNewest  = "SELECT " + upstreamColumns + " FROM upstream_sessions WHERE browser = $1 ORDER BY created DESC LIMIT 1"
	upstreamOf      = "SELECT " + upstreamColumns + " FROM upstream_sessions WHERE provider = $1 AND subject = $2 LIMIT 10000"
	upstreamBySID   = "SELECT " + upstreamColumns + " FROM upstream_sessions WHERE provider = $1 AND sid = $2 LIMIT 10000"
	upstreamDelete  = "DELETE FROM upstream_sessions WHERE session = $1"
	// Sessions of which no device is left.
	upstreamSweep = `DELETE FROM upstream_sessions WHERE created < $1
		AND NOT EXISTS (SELECT 1 FROM upstream_devices d WHERE d.session = upstream_sessions.session)
		AND NOT EXISTS (SELECT 1 FROM browser_sessions b WHERE b.upstream = upstream_sessions.session)`

	upstreamAttach = `INSERT INTO upstream_devices (user_id, device_id, session) SELECT user_id, $2, session FROM upstream_sessions
		WHERE user_id = $1 AND session = $3 ON CONFLICT (user_id, device_id) DO UPDATE SET session = excluded.session`
	upstreamDevices = "SELECT device_id FROM upstream_devices WHERE session = $1 AND user_id = $2"
	upstreamDevice  = "SELECT session FROM upstream_devices WHERE user_id = $1 AND device_id = $2"
)

// browserHash is how a browser's secret is kept.
func browserHash(browser string) []byte {
	if browser == "" {
		return []byte{}
	}
	return hashToken(browser)
}

// PutPass keeps a pass, inside Do; false if there was one of this secret already.
func (u *Upstream) PutPass(ctx context.Context, p UpstreamPass) (bool, error) {
	if p.Content == nil {
		p.Content = []byte{}
	}
	done, err := u.s.exec(ctx, upstreamPassPut, hashToken(p.Secret), p.Kind, browserHash(p.Browser), p.Content, p.Expires.UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Pass is the content of a pass, which stays; nil for one that is unknown, used, expired, or another browser's.
func (u *Upstream) Pass(ctx context.Context, kind UpstreamKind, secret, browser string) ([]byte, error) {
	return one(ctx, u.s, column[[]byte], upstreamPassRead, hashToken(secret), kind, browserHash(browser), u.s.now().UnixMilli())
}

// TakePass is Pass, and uses it up, inside Do.
func (u *Upstream) TakePass(ctx context.Context, kind UpstreamKind, secret, browser string) ([]byte, error) {
	return one(ctx, u.s, column[[]byte], upstreamPassTake, hashToken(secret), kind, browserHash(browser), u.s.now().UnixMilli())
}

func scanUpstreamSession(row dbutil.Scannable) (*UpstreamSession, error) {
	var v UpstreamSession
	var created int64
	err := row.Scan(&v.Session, &v.Provider, &v.Subject, &v.SID, &v.UserID, &v.IDToken, &created)
	v.Subject, v.SID, v.Created = unescape(v.Subject), unescape(v.SID), time.UnixMilli(created)
	return &v, err
}

// Put keeps a new session, inside Do.
func (u *Upstream) Put(ctx context.Context, v UpstreamSession, browser string) error {
	_, err := u.s.exec(ctx, upstreamPut, v.Session, v.Provider, escape(v.Subject), escape(v.SID), v.UserID, v.IDToken, u.s.now().UnixMilli(), browserHash(browser))
	return err
}

// Session is the session of this name, or nil.
func (u *Upstream) Session(ctx context.Context, session string) (*UpstreamSession, error) {
	return one(ctx, u.s, scanUpstreamSession, upstreamByID, session)
}

// Newest is the session that began last in this browser, or nil.
func (u *Upstream) Newest(ctx context.Context, browser string) (*UpstreamSession, error) {
	if browser == "" {
		return nil, nil
	}
	return one(ctx, u.s, scanUpstreamSession, upstreamNewest, browserHash(browser))
}

// OfSubject are the sessions of somebody at a provider.
func (u *Upstream) OfSubject(ctx context.Context, provider, subject string) ([]*UpstreamSession, error) {
	return all(ctx, u.s, scanUpstreamSession, upstreamOf, provider, escape(subject))
}

// BySID are the sessions that a provider calls so. Usually it is one; who signs in twice without leaving has two.
func (u *Upstream) BySID(ctx context.Context, provider, sid string) ([]*UpstreamSession, error) {
	if sid == "" {
		return nil, nil
	}
	return all(ctx, u.s, scanUpstreamSession, upstreamBySID, provider, escape(sid))
}

// Attach notes, inside Do, that a device of the user came of a session; false if the session has ended.
func (u *Upstream) Attach(ctx context.Context, session string, user id.UserID, device id.DeviceID) (bool, error) {
	done, err := u.s.exec(ctx, upstreamAttach, user, device, session)
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Detach forgets, inside Do, from which session a device came: it has come in anew by another way.
func (u *Upstream) Detach(ctx context.Context, user id.UserID, device id.DeviceID) error {
	_, err := u.s.exec(ctx, "DELETE FROM upstream_devices WHERE user_id = $1 AND device_id = $2", user, device)
	return err
}

// OfDevice is the session from which a device came, or nil.
func (u *Upstream) OfDevice(ctx context.Context, user id.UserID, device id.DeviceID) (*UpstreamSession, error) {
	session, err := one(ctx, u.s, column[string], upstreamDevice, user, device)
	if err != nil || session == "" {
		return nil, err
	}
	return u.Session(ctx, session)
}

// End ends a session, inside Do, and all devices that came of it; it gives how many those were.
func (u *Upstream) End(ctx context.Context, v *UpstreamSession) (int, error) {
	devices, err := all(ctx, u.s, column[id.DeviceID], upstreamDevices, v.Session, v.UserID)
	if err != nil {
		return 0, err
	}
	for _, device := range devices {
		if err := u.s.Devices.End(ctx, v.UserID, device); err != nil {
			return 0, err
		}
	}
	if err := u.s.Browsers.endUpstream(ctx, v.Session); err != nil {
		return 0, err
	}
	_, err = u.s.exec(ctx, upstreamDelete, v.Session)
	return len(devices), err
}

// Sweep forgets, inside Do, passes that are over, and sessions from before this time of which no device is left.
func (u *Upstream) Sweep(ctx context.Context, before time.Time) error {
	if _, err := u.s.exec(ctx, upstreamPassSweep, u.s.now().UnixMilli()); err != nil {
		return err
	}
	_, err := u.s.exec(ctx, upstreamSweep, before.UnixMilli())
	return err
}
