package storage

import (
	"context"
	"crypto/sha256"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Validity is until when an account is good.
type Validity struct {
	UserID id.UserID
	Until  time.Time
	// Reminders are mailed.
	Reminders bool
	// Reminded is how long before the end the newest reminder was due that was mailed; 0: none since the last renewal.
	Reminded time.Duration
}

// Expired says whether the account's time is over.
func (v *Validity) Expired(now time.Time) bool { return v != nil && !now.Before(v.Until) }

// Status is how an account stands, as others may know it.
type Status struct {
	Expired     bool `json:"expired"`
	Deactivated bool `json:"deactivated"`
}

// Validities are until when the accounts of this server are good. Whoever has none is good for ever. Those that do not
// count now (Enforce) are as if they were not there, but for Dates.
type Validities struct{ s *Store }

const (
	validityColumns = "user_id, until, reminders, reminded"
	validityOf      = "SELECT " + validityColumns + " FROM validity WHERE user_id = $1 AND enforced"
	validityPut     = `INSERT INTO validity (user_id, until, enforced, reminders, reminded, used, position) VALUES ($1, $2, true, $3, 0, false, $4)
		ON CONFLICT (user_id) DO UPDATE SET until = excluded.until, enforced = true, reminders = excluded.reminders, reminded = 0, position = excluded.position`
	validityExpired = "SELECT user_id FROM validity WHERE enforced AND until <= $1 AND user_id IN "
	validityDue     = `SELECT v.user_id, v.until, v.reminders, v.reminded FROM validity v JOIN accounts a ON a.user_id = v.user_id
		WHERE v.enforced AND v.reminders AND v.until <= $1 AND (v.reminded = 0 OR v.reminded > $2) AND NOT a.deactivated
		ORDER BY v.until, v.user_id LIMIT $3`
	validityOver = `SELECT v.user_id FROM validity v JOIN accounts a ON a.user_id = v.user_id
		WHERE v.enforced AND v.until <= $1 AND NOT a.deactivated ORDER BY v.until, v.user_id LIMIT $2`
	validityNone = `SELECT user_id FROM accounts a WHERE NOT deactivated AND service_id = '' AND user_id > $1
		AND NOT EXISTS (SELECT 1 FROM validity v WHERE v.user_id = a.user_id) ORDER BY user_id LIMIT $2`
	validityPage     = "SELECT user_id, enforced FROM validity WHERE user_id > $1 ORDER BY user_id LIMIT $2"
	validityReminded = "UPDATE validity SET reminded = $2 WHERE user_id = $1"
	validityToken    = "UPDATE validity SET token_hash = $2, used = false WHERE user_id = $1 AND enforced"
	validityByToken  = "SELECT user_id, used FROM validity WHERE token_hash = $1 AND enforced"
	validityUsed     = "UPDATE validity SET used = true WHERE user_id = $1"
	validityChanges  = "SELECT position, " + validityColumns + " FROM validity WHERE position > $1 AND position <= $2 AND enforced"
)

func scanValidity(row dbutil.Scannable) (*Validity, error) {
	var v Validity
	var until, reminded int64
	err := row.Scan(&v.UserID, &until, &v.Reminders, &reminded)
	v.Until, v.Reminded = time.UnixMilli(until), time.Duration(reminded)*time.Millisecond
	return &v, err
}

// Of is until when the account is good; nil: for ever.
func (t *Validities) Of(ctx context.Context, user id.UserID) (*Validity, error) {
	return one(ctx, t.s, scanValidity, validityOf, user)
}

// Expired gives those of these users whose accounts have expired.
func (t *Validities) Expired(ctx context.Context, users []id.UserID) (map[id.UserID]bool, error) {
	now := t.s.now().UnixMilli()
	found, err := chunked(ctx, users, func(part []id.UserID) ([]id.UserID, error) {
		return all(ctx, t.s, column[id.UserID], validityExpired+list(2, len(part)), append([]any{now}, anys(part)...)...)
	})
	expired := make(map[id.UserID]bool, len(found))
	for _, user := range found {
		expired[user] = true
	}
	return expired, err
}

// Put says until when an account is good, inside Do, and tells of it. What was mailed before counts as not mailed.
func (t *Validities) Put(ctx context.Context, v Validity) error {
	t.s.After(ctx, t.s.Tokens.cache.clear)
	position := t.s.Next(ctx, 1)
	if _, err := t.s.exec(ctx, validityPut, v.UserID, v.Until.UnixMilli(), v.Reminders, position); err != nil {
		return err
	}
	t.s.note(ctx, Change{Position: position, Kind: ValidityNews, UserID: v.UserID, Row: &v})
	return nil
}

// Begin gives accounts that have no end one, inside Do. Who has one keeps it. Nobody hears of it: it does not end soon.
func (t *Validities) Begin(ctx context.Context, dates map[id.UserID]time.Time) error {
	rows := make([][]any, 0, len(dates))
	for user, until := range dates {
		rows = append(rows, []any{user, until.UnixMilli(), 0})
	}
	t.s.After(ctx, t.s.Tokens.cache.clear)
	return t.s.insert(ctx, "INSERT INTO validity (user_id, until, position) VALUES", rows, "ON CONFLICT (user_id) DO NOTHING")
}

// Endless lists accounts that are good for ever for want of a date, in the order of their names, after this one. Closed
// ones and those of application services are left out.
func (t *Validities) Endless(ctx context.Context, after id.UserID, limit int) ([]id.UserID, error) {
	return all(ctx, t.s, column[id.UserID], validityNone, after, limit)
}

// Dated is an account that has a date, and whether it counts.
type Dated struct {
	UserID   id.UserID
	Enforced bool
}

// Dates lists the accounts with a date, whether it counts or not, in the order of their names, after this one.
func (t *Validities) Dates(ctx context.Context, after id.UserID, limit int) ([]Dated, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (d Dated, err error) {
		err = row.Scan(&d.UserID, &d.Enforced)
		return d, err
	}, validityPage, after, limit)
}

// Enforce says, inside Do, whether these users' dates count.
func (t *Validities) Enforce(ctx context.Context, users []id.UserID, count bool) error {
	if len(users) == 0 {
		return nil
	}
	t.s.After(ctx, t.s.Tokens.cache.clear)
	_, err := t.s.exec(ctx, "UPDATE validity SET enforced = $1 WHERE user_id IN "+list(2, len(users)), append([]any{count}, anys(users)...)...)
	return err
}

// Due lists accounts that end within the span and have not been reminded of that yet, those first that end first.
func (t *Validities) Due(ctx context.Context, now time.Time, within time.Duration, limit int) ([]*Validity, error) {
	return all(ctx, t.s, scanValidity, validityDue, now.Add(within).UnixMilli(), within.Milliseconds(), limit)
}

// Over lists open accounts that ended before this time, those first that ended first.
func (t *Validities) Over(ctx context.Context, before time.Time, limit int) ([]id.UserID, error) {
	return all(ctx, t.s, column[id.UserID], validityOver, before.UnixMilli(), limit)
}

// Remind notes, inside Do, that the reminder was mailed that is due so long before the end.
func (t *Validities) Remind(ctx context.Context, user id.UserID, before time.Duration) error {
	_, err := t.s.exec(ctx, validityReminded, user, before.Milliseconds())
	return err
}

// renewalHash is what is kept of a token. A code is one of few: it is good only together with its user.
func renewalHash(user id.UserID, token string) []byte {
	sum := sha256.Sum256([]byte("renew\x00" + string(user) + "\x00" + token))
	return sum[:]
}

// PutToken makes this the only token that renews the account, inside Do. With bound it takes its user to use it; false: the
// account has no end.
func (t *Validities) PutToken(ctx context.Context, user id.UserID, token string, bound bool) (bool, error) {
	whose := id.UserID("")
	if bound {
		whose = user
	}
	done, err := t.s.exec(ctx, validityToken, user, renewalHash(whose, token))
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// TakeToken is whose account the token renews, inside Do, and whether it has done so before; empty if it is nobody's.
// whose is the user to whom it is bound, or empty.
func (t *Validities) TakeToken(ctx context.Context, whose id.UserID, token string) (user id.UserID, used bool, err error) {
	type row struct {
		user id.UserID
		used bool
	}
	found, err := one(ctx, t.s, func(r dbutil.Scannable) (v row, err error) {
		err = r.Scan(&v.user, &v.used)
		return v, err
	}, validityByToken, renewalHash(whose, token))
	if err != nil || found.user == "" || found.used {
		return found.user, found.used, err
	}
	_, err = t.s.exec(ctx, validityUsed, found.user)
	return found.user, false, err
}

func (t *Validities) changes(ctx context.Context, from, to Position) ([]Change, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (Change, error) {
		var v Validity
		var until, reminded int64
		c := Change{Kind: ValidityNews, Row: &v}
		err := row.Scan(&c.Position, &v.UserID, &until, &v.Reminders, &reminded)
		v.Until, v.Reminded = time.UnixMilli(until), time.Duration(reminded)*time.Millisecond
		c.UserID = v.UserID
		return c, err
	}, validityChanges, from, to)
}

// Status says how these accounts stand. Those that are not there are left out.
func (a *Accounts) Status(ctx context.Context, users []id.UserID) (map[id.UserID]Status, error) {
	type row struct {
		user   id.UserID
		status Status
	}
	now := a.s.now().UnixMilli()
	rows, err := chunked(ctx, users, func(part []id.UserID) ([]row, error) {
		return all(ctx, a.s, func(r dbutil.Scannable) (v row, err error) {
			var until *int64
			err = r.Scan(&v.user, &v.status.Deactivated, &until)
			v.status.Expired = until != nil && *until <= now
			return v, err
		}, `SELECT a.user_id, a.deactivated, v.until FROM accounts a LEFT JOIN validity v ON v.user_id = a.user_id AND v.enforced
			WHERE a.user_id IN `+list(1, len(part)), anys(part)...)
	})
	found := make(map[id.UserID]Status, len(rows))
	for _, r := range rows {
		found[r.user] = r.status
	}
	return found, err
}
