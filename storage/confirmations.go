package storage

import (
	"context"
	"strings"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Confirmation is a session of user-interactive authentication.
type Confirmation struct {
	Session string
	// UserID, DeviceID and Operation are for whom and for what it is good.
	UserID    id.UserID
	DeviceID  id.DeviceID
	Operation string
	// Bound is the hash of what must not change between the stages; nil until it is fixed.
	Bound  []byte
	Passed []string
	// Token is the registration token that was shown and reserved, or empty.
	Token string
	// Validation is the proof of an e-mail address that was shown, and Address what it proves; or both are empty.
	Validation string
	Address    string
	Created    time.Time
}

// Confirmations are the sessions of user-interactive authentication.
type Confirmations struct{ s *Store }

const (
	confirmationColumns   = "session, user_id, device_id, operation, bound, passed, token, validation, address, created"
	confirmationBySession = "SELECT " + confirmationColumns + " FROM confirmations WHERE session = $1"
	confirmationPut       = `INSERT INTO confirmations (` + confirmationColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (session) DO UPDATE SET bound = excluded.bound, passed = excluded.passed, token = excluded.token,
		validation = excluded.validation, address = excluded.address`
	confirmationDelete = "DELETE FROM confirmations WHERE session = $1"
	confirmationOld    = "SELECT " + confirmationColumns + " FROM confirmations WHERE created < $1 LIMIT 1000"
)

func scanConfirmation(row dbutil.Scannable) (*Confirmation, error) {
	var c Confirmation
	var passed string
	var created int64
	if err := row.Scan(&c.Session, &c.UserID, &c.DeviceID, &c.Operation, &c.Bound, &passed, &c.Token, &c.Validation, &c.Address, &created); err != nil {
		return nil, err
	}
	c.Passed, c.Created = strings.Fields(passed), time.UnixMilli(created)
	return &c, nil
}

// BySession is the session of this name, or nil.
func (c *Confirmations) BySession(ctx context.Context, session string) (*Confirmation, error) {
	return one(ctx, c.s, scanConfirmation, confirmationBySession, session)
}

// Put makes or changes a session, inside Do.
func (c *Confirmations) Put(ctx context.Context, v *Confirmation) error {
	_, err := c.s.exec(ctx, confirmationPut, v.Session, v.UserID, v.DeviceID, v.Operation, v.Bound,
		strings.Join(v.Passed, " "), v.Token, v.Validation, v.Address, v.Created.UnixMilli())
	return err
}

// Delete ends a session, inside Do; false if another did so before.
func (c *Confirmations) Delete(ctx context.Context, session string) (bool, error) {
	done, err := c.s.exec(ctx, confirmationDelete, session)
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Sweep ends, inside Do, sessions that began before this time, and gives back what they had reserved.
func (c *Confirmations) Sweep(ctx context.Context, before time.Time) error {
	old, err := all(ctx, c.s, scanConfirmation, confirmationOld, before.UnixMilli())
	if err != nil {
		return err
	}
	for _, v := range old {
		if _, err := c.Delete(ctx, v.Session); err != nil {
			return err
		}
		if v.Token != "" {
			if _, err := c.s.exec(ctx, registrationCount, v.Token, -1, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
