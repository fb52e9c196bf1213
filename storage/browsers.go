package storage

import (
	"context"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Browser is a browser in which somebody is signed in to the account pages.
type Browser struct {
	UserID id.UserID
	// Upstream is the session at an identity provider with which they signed in, or empty.
	Upstream string
	// Proved is when the user last showed who they are.
	Proved time.Time
	// Seen is when a page was last asked for; a few minutes late.
	Seen           time.Time
	Address, Agent string
}

// Browsers are the browsers in which users are signed in to the account pages. The database holds only hashes of their cookies.
type Browsers struct{ s *Store }

const (
	browserByHash = `SELECT b.user_id, b.upstream, b.proved, b.seen, b.address, b.agent FROM browser_sessions b JOIN accounts a ON a.user_id = b.user_id
		WHERE b.hash = $1 AND NOT a.deactivated AND NOT a.locked`
	browserOf  = "SELECT user_id, upstream, proved, seen, address, agent FROM browser_sessions WHERE user_id = $1 ORDER BY seen LIMIT 10000"
	browserPut = `INSERT INTO browser_sessions (hash, user_id, upstream, proved, seen, address, agent) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (hash) DO UPDATE SET user_id = excluded.user_id, upstream = excluded.upstream, proved = excluded.proved, seen = excluded.seen,
		address = excluded.address, agent = excluded.agent`
	browserSaw    = "UPDATE browser_sessions SET seen = $2 WHERE hash = $1"
	browserDelete = "DELETE FROM browser_sessions WHERE hash = $1"
	browserEndAll = "DELETE FROM browser_sessions WHERE user_id = $1"
	browserSweep  = "DELETE FROM browser_sessions WHERE seen < $1"

	approvalPut = `INSERT INTO approvals (user_id, action, expires) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, action) DO UPDATE SET expires = excluded.expires`
	approvalTake  = "DELETE FROM approvals WHERE user_id = $1 AND action = $2 AND expires > $3"
	approvalSweep = "DELETE FROM approvals WHERE expires < $1"
)

// ByCookie is who is signed in with this cookie; nil if nobody is, or the account is closed or locked.
func (b *Browsers) ByCookie(ctx context.Context, cookie string) (*Browser, error) {
	return one(ctx, b.s, scanBrowser, browserByHash, hashToken(cookie))
}

func scanBrowser(row dbutil.Scannable) (*Browser, error) {
	var v Browser
	var proved, seen int64
	err := row.Scan(&v.UserID, &v.Upstream, &proved, &seen, &v.Address, &v.Agent)
	v.Proved, v.Seen = time.UnixMilli(proved), time.UnixMilli(seen)
	return &v, err
}

// Of are the browsers in which the user is signed in, that which was seen longest ago first.
func (b *Browsers) Of(ctx context.Context, user id.UserID) ([]*Browser, error) {
	return all(ctx, b.s, scanBrowser, browserOf, user)
}

// Put signs a user in, inside Do, who has just shown who they are: Proved and Seen are now.
func (b *Browsers) Put(ctx context.Context, cookie string, v Browser) error {
	now := b.s.now().UnixMilli()
	_, err := b.s.exec(ctx, browserPut, hashToken(cookie), v.UserID, v.Upstream, now, now, v.Address, v.Agent)
	return err
}

// Saw notes that a page was asked for, inside Do.
func (b *Browsers) Saw(ctx context.Context, cookie string) error {
	_, err := b.s.exec(ctx, browserSaw, hashToken(cookie), b.s.now().UnixMilli())
	return err
}

// End signs one browser out, inside Do.
func (b *Browsers) End(ctx context.Context, cookie string) error {
	_, err := b.s.exec(ctx, browserDelete, hashToken(cookie))
	return err
}

// EndAll signs a user out in every browser, inside Do.
func (b *Browsers) EndAll(ctx context.Context, user id.UserID) error {
	_, err := b.s.exec(ctx, browserEndAll, user)
	return err
}

// endUpstream signs browsers out, inside Do, whose user had signed in with this session at an identity provider.
func (b *Browsers) endUpstream(ctx context.Context, session string) error {
	_, err := b.s.exec(ctx, "DELETE FROM browser_sessions WHERE upstream = $1", session)
	return err
}

// Approve lets the user do this once, until then, without further confirmation; inside Do.
func (b *Browsers) Approve(ctx context.Context, user id.UserID, action string, until time.Time) error {
	_, err := b.s.exec(ctx, approvalPut, user, action, until.UnixMilli())
	return err
}

// TakeApproval uses the approval up, inside Do; false if there is none, or not any more.
func (b *Browsers) TakeApproval(ctx context.Context, user id.UserID, action string) (bool, error) {
	done, err := b.s.exec(ctx, approvalTake, user, action, b.s.now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Sweep forgets, inside Do, browsers that were not seen since then, and approvals that are over.
func (b *Browsers) Sweep(ctx context.Context, seen time.Time) error {
	if _, err := b.s.exec(ctx, browserSweep, seen.UnixMilli()); err != nil {
		return err
	}
	_, err := b.s.exec(ctx, approvalSweep, b.s.now().UnixMilli())
	return err
}
