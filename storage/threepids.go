package storage

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// ThreePID is an address outside of Matrix that belongs to a user.
type ThreePID struct {
	UserID  id.UserID
	Medium  string // email, or msisdn
	Address string // in its canonical form: that is the caller's care
	// Validated is when the user proved to have it, Added when it became the account's.
	Validated time.Time
	Added     time.Time
}

// ThreePIDs are the addresses of this server's users. An address belongs to one account at most.
type ThreePIDs struct{ s *Store }

const (
	threePIDColumns   = "user_id, medium, address, validated, added"
	threePIDByAddress = "SELECT " + threePIDColumns + " FROM threepids WHERE medium = $1 AND address = $2"
	threePIDOf        = "SELECT " + threePIDColumns + " FROM threepids WHERE user_id = $1 ORDER BY medium, address LIMIT 1000"
	threePIDPut       = `INSERT INTO threepids (` + threePIDColumns + `) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (medium, address) DO UPDATE SET validated = excluded.validated WHERE threepids.user_id = excluded.user_id`
	threePIDDelete = "DELETE FROM threepids WHERE user_id = $1 AND medium = $2 AND address = $3"
)

func scanThreePID(row dbutil.Scannable) (*ThreePID, error) {
	var t ThreePID
	var validated, added int64
	err := row.Scan(&t.UserID, &t.Medium, &t.Address, &validated, &added)
	t.Validated, t.Added = time.UnixMilli(validated), time.UnixMilli(added)
	return &t, err
}

// ByAddress is whose address this is, or nil.
func (t *ThreePIDs) ByAddress(ctx context.Context, medium, address string) (*ThreePID, error) {
	return one(ctx, t.s, scanThreePID, threePIDByAddress, medium, address)
}

// Of are a user's addresses.
func (t *ThreePIDs) Of(ctx context.Context, user id.UserID) ([]*ThreePID, error) {
	return all(ctx, t.s, scanThreePID, threePIDOf, user)
}

// Put gives the user an address that was proved, inside Do; false if it is somebody else's.
func (t *ThreePIDs) Put(ctx context.Context, p ThreePID) (bool, error) {
	done, err := t.s.exec(ctx, threePIDPut, p.UserID, p.Medium, p.Address, p.Validated.UnixMilli(), t.s.now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Delete takes an address away from its user, inside Do, and the pusher that writes to it; false if it was not theirs.
func (t *ThreePIDs) Delete(ctx context.Context, user id.UserID, medium, address string) (bool, error) {
	done, err := t.s.exec(ctx, threePIDDelete, user, medium, address)
	if err != nil {
		return false, err
	}
	if n, err := done.RowsAffected(); n == 0 || err != nil {
		return false, err
	}
	_, err = t.s.exec(ctx, "DELETE FROM pushers WHERE user_id = $1 AND kind = $2 AND push_key = $3", user, medium, escape(address))
	return true, err
}

// Validation is the proof, under way or done, that somebody reads what is sent to an address.
type Validation struct {
	SID     string
	Purpose string
	Medium  string
	Address string
	// UserID is who asks; empty where nobody is logged in.
	UserID   id.UserID
	NextLink string
	Begun    time.Time
	// Validated is when the token came back; zero: not yet.
	Validated time.Time
}

// Validations are proofs of addresses. Client secrets and tokens are kept as hashes.
type Validations struct{ s *Store }

const (
	validationColumns = "sid, purpose, medium, address, user_id, next_link, begun, validated, secret_hash, token_hash, attempt"
	validationBySID   = "SELECT " + validationColumns + " FROM validations WHERE sid = $1"
	validationSame    = "SELECT " + validationColumns + ` FROM validations
		WHERE secret_hash = $1 AND purpose = $2 AND medium = $3 AND address = $4 AND user_id = $5`
	validationPut = `INSERT INTO validations (` + validationColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (sid) DO UPDATE SET token_hash = excluded.token_hash, attempt = excluded.attempt, next_link = excluded.next_link, begun = excluded.begun`
	validationDone   = "UPDATE validations SET validated = $2 WHERE sid = $1 AND validated IS NULL"
	validationDelete = "DELETE FROM validations WHERE sid = $1"
	validationSweep  = "DELETE FROM validations WHERE begun < $1"
)

type validationRow struct {
	Validation
	secret, token []byte
	attempt       int64
}

func scanValidation(row dbutil.Scannable) (*validationRow, error) {
	var v validationRow
	var begun int64
	var validated *int64
	err := row.Scan(&v.SID, &v.Purpose, &v.Medium, &v.Address, &v.UserID, &v.NextLink, &begun, &validated, &v.secret, &v.token, &v.attempt)
	v.Begun = time.UnixMilli(begun)
	if validated != nil {
		v.Validated = time.UnixMilli(*validated)
	}
	return &v, err
}

// Begin opens a proof, inside Do, or finds the one that this client secret opened for the same address and purpose. send
// says whether the token is to be sent: not where the client has only repeated its attempt. A new token ends the one before.
func (t *Validations) Begin(ctx context.Context, v Validation, secret, token string, attempt int64) (sid string, send bool, err error) {
	hash := hashToken(secret)
	known, err := one(ctx, t.s, scanValidation, validationSame, hash, v.Purpose, v.Medium, v.Address, v.UserID)
	if err != nil {
		return "", false, err
	}
	v.SID = rand.Text()
	if known != nil {
		v.SID = known.SID
		if attempt <= known.attempt || !known.Validated.IsZero() {
			return v.SID, false, nil
		}
	}
	_, err = t.s.exec(ctx, validationPut, v.SID, v.Purpose, v.Medium, v.Address, v.UserID, v.NextLink, t.s.now().UnixMilli(), nil,
		hash, hashToken(token), attempt)
	return v.SID, true, err
}

// BySID is the proof of this name if this is its client secret, or nil. How old it is, the caller judges.
func (t *Validations) BySID(ctx context.Context, sid, secret string) (*Validation, error) {
	v, err := one(ctx, t.s, scanValidation, validationBySID, sid)
	if err != nil || v == nil || subtle.ConstantTimeCompare(v.secret, hashToken(secret)) != 1 {
		return nil, err
	}
	return &v.Validation, nil
}

// ByToken is the proof of this name if this is the token that was sent for it last, or nil. How old it is, the caller judges.
func (t *Validations) ByToken(ctx context.Context, sid, token string) (*Validation, error) {
	v, err := one(ctx, t.s, scanValidation, validationBySID, sid)
	if err != nil || v == nil || subtle.ConstantTimeCompare(v.token, hashToken(token)) != 1 {
		return nil, err
	}
	return &v.Validation, nil
}

// Done notes, inside Do, that the token has come back.
func (t *Validations) Done(ctx context.Context, sid string) error {
	_, err := t.s.exec(ctx, validationDone, sid, t.s.now().UnixMilli())
	return err
}

// End forgets a proof that was used, inside Do; false if another was quicker.
func (t *Validations) End(ctx context.Context, sid string) (bool, error) {
	done, err := t.s.exec(ctx, validationDelete, sid)
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Sweep forgets, inside Do, proofs that began before this time.
func (t *Validations) Sweep(ctx context.Context, before time.Time) error {
	_, err := t.s.exec(ctx, validationSweep, before.UnixMilli())
	return err
}
