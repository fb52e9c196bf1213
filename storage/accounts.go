package storage

import (
	"context"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Account is a user of this server.
type Account struct {
	UserID id.UserID
	// Password is its hash in text form; empty where nobody can log in with one.
	Password    string
	Created     time.Time
	Admin       bool
	Deactivated bool
	Erased      bool
	Locked      bool
	Suspended   bool
	// Shadowed: told that all is done what it asks for, while nothing is.
	Shadowed bool
	// Type is bot, support, or empty.
	Type string
	// ServiceID names the application service that made the account, or is empty.
	ServiceID string
}

// Accounts are the users of this server.
type Accounts struct {
	s    *Store
	gone erased
}

const (
	accountColumns = "user_id, password, created, admin, deactivated, erased, locked, suspended, shadowed, user_type, service_id"
	accountByID    = "SELECT " + accountColumns + " FROM accounts WHERE user_id = $1"
	accountPage    = "SELECT " + accountColumns + " FROM accounts WHERE user_id > $1 ORDER BY user_id LIMIT $2"
	accountInsert  = `INSERT INTO accounts (user_id, password, created, admin, service_id) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id) DO NOTHING`
	accountPassword   = "UPDATE accounts SET password = $2 WHERE user_id = $1"
	accountRenew      = "UPDATE accounts SET password = $3 WHERE user_id = $1 AND password = $2"
	accountDeactivate = "UPDATE accounts SET deactivated = true, password = '', erased = $2 WHERE user_id = $1"
	accountClosed     = `SELECT user_id FROM accounts a WHERE deactivated AND user_id > $1 AND EXISTS
		(SELECT 1 FROM memberships m WHERE m.user_id = a.user_id AND m.membership IN ('join', 'invite', 'knock')) ORDER BY user_id LIMIT $2`
	accountStanding = "UPDATE accounts SET admin = $2, locked = $3, suspended = $4, shadowed = $5, user_type = $6 WHERE user_id = $1"
	accountReopen   = "UPDATE accounts SET deactivated = false, erased = false WHERE user_id = $1"
)

// Barred gives those of these users whose accounts are closed, locked, suspended or expired. An application service's own user may have no
// account, and is not barred.
func (a *Accounts) Barred(ctx context.Context, users []id.UserID) ([]id.UserID, error) {
	now := a.s.now().UnixMilli()
	return chunked(ctx, users, func(part []id.UserID) ([]id.UserID, error) {
		in := "IN " + list(2, len(part))
		return all(ctx, a.s, column[id.UserID], "SELECT user_id FROM accounts WHERE (deactivated OR locked OR suspended) AND user_id "+in+
			" UNION SELECT user_id FROM validity WHERE enforced AND until <= $1 AND user_id "+in, append([]any{now}, anys(part)...)...)
	})
}

func scanAccount(row dbutil.Scannable) (*Account, error) {
	var a Account
	var created int64
	err := row.Scan(&a.UserID, &a.Password, &created, &a.Admin, &a.Deactivated, &a.Erased, &a.Locked, &a.Suspended, &a.Shadowed,
		&a.Type, &a.ServiceID)
	if err != nil {
		return nil, err
	}
	a.Created = time.UnixMilli(created)
	return &a, nil
}

// ByID is the account of this user, or nil.
func (a *Accounts) ByID(ctx context.Context, user id.UserID) (*Account, error) {
	return one(ctx, a.s, scanAccount, accountByID, user)
}

// Page lists accounts in the order of their names, after this one.
func (a *Accounts) Page(ctx context.Context, after id.UserID, limit int) ([]*Account, error) {
	return all(ctx, a.s, scanAccount, accountPage, after, limit)
}

// ClosedInRooms lists users of closed accounts that still are in a room, or invited to one, in the order of their names,
// after this one.
func (a *Accounts) ClosedInRooms(ctx context.Context, after id.UserID, limit int) ([]id.UserID, error) {
	return all(ctx, a.s, column[id.UserID], accountClosed, after, limit)
}

// Create makes the account, inside Do; false if the name is taken, for which a deactivated account suffices.
func (a *Accounts) Create(ctx context.Context, account *Account) (bool, error) {
	done, err := a.s.exec(ctx, accountInsert, account.UserID, account.Password, a.s.now().UnixMilli(), account.Admin, account.ServiceID)
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// AnImportedHash is the hash of some account that another server made (bcrypt's), or empty if there is none.
func (a *Accounts) AnImportedHash(ctx context.Context) (string, error) {
	return one(ctx, a.s, column[string], "SELECT password FROM accounts WHERE substr(password, 1, 2) = $1 LIMIT 1", "$2")
}

// SetPassword replaces the password's hash, inside Do. Browsers that were signed in to the account pages with the old one are not any more.
func (a *Accounts) SetPassword(ctx context.Context, user id.UserID, hash string) error {
	if _, err := a.s.exec(ctx, accountPassword, user, hash); err != nil {
		return err
	}
	return a.s.Browsers.EndAll(ctx, user)
}

// RenewPassword replaces the hash by another of the same password, inside Do, unless the password was changed meanwhile.
func (a *Accounts) RenewPassword(ctx context.Context, user id.UserID, old, hash string) error {
	_, err := a.s.exec(ctx, accountRenew, user, old, hash)
	return err
}

// SetStanding writes what an administrator may change, inside Do: Admin, Locked, Suspended, Shadowed and Type.
func (a *Accounts) SetStanding(ctx context.Context, account *Account) error {
	a.s.After(ctx, a.s.Tokens.cache.clear)
	_, err := a.s.exec(ctx, accountStanding, account.UserID, account.Admin, account.Locked, account.Suspended, account.Shadowed, account.Type)
	return err
}

// Reopen opens a closed account again, inside Do. What went when it was closed does not come back, nor does its password.
func (a *Accounts) Reopen(ctx context.Context, user id.UserID) error {
	if err := a.s.FormerAddresses.forget(ctx, user); err != nil {
		return err
	}
	_, err := a.s.exec(ctx, accountReopen, user)
	return err
}

// Deactivate closes the account for ever, inside Do: its devices end, its profile and private data go. Rooms are the caller's.
func (a *Accounts) Deactivate(ctx context.Context, user id.UserID, erase bool) error {
	a.s.After(ctx, a.s.Tokens.cache.clear)
	a.forgetErased(ctx)
	if _, err := a.s.exec(ctx, accountDeactivate, user, erase); err != nil {
		return err
	}
	if erase {
		if err := a.s.FormerAddresses.forget(ctx, user); err != nil {
			return err
		}
	}
	devices, err := a.s.Devices.All(ctx, user)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if err := a.s.Devices.End(ctx, user, d.DeviceID); err != nil {
			return err
		}
	}
	for _, q := range []string{
		"DELETE FROM profiles WHERE user_id = $1",
		"DELETE FROM validity WHERE user_id = $1",
		"DELETE FROM passes WHERE user_id = $1",
		"DELETE FROM upstream_sessions WHERE user_id = $1",
		"DELETE FROM confirmations WHERE user_id = $1",
		"DELETE FROM cross_signing_keys WHERE user_id = $1",
		"DELETE FROM key_signatures WHERE user_id = $1 OR signer_id = $1",
		"DELETE FROM backup_keys WHERE user_id = $1",
		"UPDATE backup_versions SET deleted = true WHERE user_id = $1",
		"DELETE FROM account_data WHERE user_id = $1",
		"DELETE FROM threepids WHERE user_id = $1",
		"DELETE FROM validations WHERE user_id = $1",
		"DELETE FROM pushers WHERE user_id = $1",
		"DELETE FROM filters WHERE user_id = $1",
		"DELETE FROM browser_sessions WHERE user_id = $1",
		"DELETE FROM approvals WHERE user_id = $1",
		"DELETE FROM oauth_codes WHERE user_id = $1",
		"DELETE FROM oauth_device_grants WHERE user_id = $1",
	} {
		if _, err := a.s.exec(ctx, q, user); err != nil {
			return err
		}
	}
	return nil
}
