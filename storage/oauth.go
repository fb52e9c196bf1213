package storage

import (
	"context"
	"encoding/json"
	"time"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// OAuth is what the authorization server remembers: programs that registered themselves, codes that were given out, and
// devices that wait to be let in. Tokens are where all tokens are.
type OAuth struct{ s *Store }

// Code is an authorization code, and what it will be traded for.
type Code struct {
	ClientID    string
	UserID      id.UserID
	DeviceID    id.DeviceID
	RedirectURI string
	Scope       string
	Challenge   string
	// Upstream is the session at an identity provider with which the user signed in, or empty.
	Upstream string
	Expires  time.Time
	Used     bool
}

// DeviceGrant is a device that waits for somebody to let it in.
type DeviceGrant struct {
	ClientID string
	Scope    string
	DeviceID id.DeviceID
	// Address and Agent are those of whoever asked.
	Address, Agent string
	State          GrantState
	// UserID is who let it in, and Upstream the session at an identity provider with which they had signed in; empty until then.
	UserID   id.UserID
	Upstream string
	Polled   time.Time
	Expires  time.Time
}

// GrantState is how far a device has come.
type GrantState string

const (
	GrantPending GrantState = "pending"
	GrantAllowed GrantState = "allowed"
	GrantDenied  GrantState = "denied"
)

const (
	clientPut = `INSERT INTO oauth_clients (client_id, metadata, seen) VALUES ($1, $2, $3)
		ON CONFLICT (client_id) DO UPDATE SET seen = excluded.seen`
	clientByID  = "SELECT metadata FROM oauth_clients WHERE client_id = $1"
	clientSweep = `DELETE FROM oauth_clients WHERE seen < $1
		AND NOT EXISTS (SELECT 1 FROM tokens t WHERE t.client_id = oauth_clients.client_id)
		AND NOT EXISTS (SELECT 1 FROM oauth_codes c WHERE c.client_id = oauth_clients.client_id)
		AND NOT EXISTS (SELECT 1 FROM oauth_device_grants g WHERE g.client_id = oauth_clients.client_id)`

	codeColumns = "client_id, user_id, redirect_uri, scope, device_id, challenge, upstream, expires, used"
	codeInsert  = "INSERT INTO oauth_codes (hash, " + codeColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, false)"
	codeByHash  = "SELECT " + codeColumns + " FROM oauth_codes WHERE hash = $1"
	codeUse     = "UPDATE oauth_codes SET used = true WHERE hash = $1"
	codeSweep   = "DELETE FROM oauth_codes WHERE expires < $1"

	grantColumns = "client_id, scope, device_id, address, agent, state, user_id, upstream, polled, expires"
	grantInsert  = "INSERT INTO oauth_device_grants (hash, user_code, " + grantColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', $9, $10)
		ON CONFLICT (user_code) DO NOTHING`
	grantByHash     = "SELECT " + grantColumns + " FROM oauth_device_grants WHERE hash = $1"
	grantByUserCode = "SELECT " + grantColumns + " FROM oauth_device_grants WHERE user_code = $1 AND expires > $2"
	grantPolled     = "UPDATE oauth_device_grants SET polled = $2 WHERE hash = $1"
	grantDecide     = "UPDATE oauth_device_grants SET state = $2, user_id = $3, upstream = $4 WHERE user_code = $1 AND state = 'pending' AND expires > $5"
	grantDelete     = "DELETE FROM oauth_device_grants WHERE hash = $1"
	grantSweep      = "DELETE FROM oauth_device_grants WHERE expires < $1"
)

// PutClient notes, inside Do, that a program registered itself (again) with this metadata.
func (o *OAuth) PutClient(ctx context.Context, clientID string, metadata json.RawMessage) error {
	_, err := o.s.exec(ctx, clientPut, clientID, []byte(metadata), o.s.now().UnixMilli())
	return err
}

// Client is what a program said of itself; nil if it is not known.
func (o *OAuth) Client(ctx context.Context, clientID string) (json.RawMessage, error) {
	return one(ctx, o.s, func(row dbutil.Scannable) (json.RawMessage, error) {
		var raw []byte
		err := row.Scan(&raw)
		return raw, err
	}, clientByID, clientID)
}

// PutCode stores a new code, inside Do.
func (o *OAuth) PutCode(ctx context.Context, code string, c Code) error {
	_, err := o.s.exec(ctx, codeInsert, hashToken(code), c.ClientID, c.UserID, c.RedirectURI, c.Scope, c.DeviceID, c.Challenge, c.Upstream, c.Expires.UnixMilli())
	return err
}

// Code is what a code was given out for, used or too old though it may be; nil if it is not known.
func (o *OAuth) Code(ctx context.Context, code string) (*Code, error) {
	return one(ctx, o.s, func(row dbutil.Scannable) (*Code, error) {
		var c Code
		var expires int64
		err := row.Scan(&c.ClientID, &c.UserID, &c.RedirectURI, &c.Scope, &c.DeviceID, &c.Challenge, &c.Upstream, &expires, &c.Used)
		c.Expires = time.UnixMilli(expires)
		return &c, err
	}, codeByHash, hashToken(code))
}

// UseCode notes, inside Do, that a code was traded.
func (o *OAuth) UseCode(ctx context.Context, code string) error {
	_, err := o.s.exec(ctx, codeUse, hashToken(code))
	return err
}

func scanDeviceGrant(row dbutil.Scannable) (*DeviceGrant, error) {
	var g DeviceGrant
	var polled, expires int64
	err := row.Scan(&g.ClientID, &g.Scope, &g.DeviceID, &g.Address, &g.Agent, &g.State, &g.UserID, &g.Upstream, &polled, &expires)
	g.Polled, g.Expires = time.UnixMilli(polled), time.UnixMilli(expires)
	return &g, err
}

// PutDeviceGrant stores a device that waits, inside Do; false if another has the same user code just now.
func (o *OAuth) PutDeviceGrant(ctx context.Context, deviceCode, userCode string, g DeviceGrant) (bool, error) {
	done, err := o.s.exec(ctx, grantInsert, hashToken(deviceCode), hashToken(userCode), g.ClientID, g.Scope, g.DeviceID, g.Address, g.Agent,
		GrantPending, g.Polled.UnixMilli(), g.Expires.UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// DeviceGrant is the device that waits with this code, too late though it may be; nil if there is none.
func (o *OAuth) DeviceGrant(ctx context.Context, deviceCode string) (*DeviceGrant, error) {
	return one(ctx, o.s, scanDeviceGrant, grantByHash, hashToken(deviceCode))
}

// DeviceGrantByUserCode is the device whose user was shown this code; nil if there is none, or not any more.
func (o *OAuth) DeviceGrantByUserCode(ctx context.Context, userCode string) (*DeviceGrant, error) {
	return one(ctx, o.s, scanDeviceGrant, grantByUserCode, hashToken(userCode), o.s.now().UnixMilli())
}

// PolledDeviceGrant notes, inside Do, that the device asked just now.
func (o *OAuth) PolledDeviceGrant(ctx context.Context, deviceCode string) error {
	_, err := o.s.exec(ctx, grantPolled, hashToken(deviceCode), o.s.now().UnixMilli())
	return err
}

// DecideDeviceGrant lets the device in as this user, or refuses it, inside Do; false if that was decided before, or is too late.
func (o *OAuth) DecideDeviceGrant(ctx context.Context, userCode string, state GrantState, user id.UserID, upstream string) (bool, error) {
	done, err := o.s.exec(ctx, grantDecide, hashToken(userCode), state, user, upstream, o.s.now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// DeleteDeviceGrant forgets the device, inside Do: it is in, or told why not.
func (o *OAuth) DeleteDeviceGrant(ctx context.Context, deviceCode string) error {
	_, err := o.s.exec(ctx, grantDelete, hashToken(deviceCode))
	return err
}

// Sweep forgets, inside Do, codes and devices whose time was over before `over`, and programs that registered before `registered` and
// through which nobody is signed in.
func (o *OAuth) Sweep(ctx context.Context, over, registered time.Time) error {
	for _, q := range []string{codeSweep, grantSweep} {
		if _, err := o.s.exec(ctx, q, over.UnixMilli()); err != nil {
			return err
		}
	}
	_, err := o.s.exec(ctx, clientSweep, registered.UnixMilli())
	return err
}
