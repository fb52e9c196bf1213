package storage

import (
	"context"
	"encoding/json"
	"sort"
	"strings"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Keys are what devices and users have published for end-to-end encryption: of this server's users, and copies of others'.
type Keys struct {
	s    *Store
	left keysLeft
}

const (
	deviceKeysAll = `SELECT k.user_id, k.device_id, k.json, COALESCE(d.display_name, k.display_name) FROM device_keys k
		LEFT JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id WHERE k.user_id = $1 ORDER BY k.device_id LIMIT 10000`
	deviceKeysOne = "SELECT json FROM device_keys WHERE user_id = $1 AND device_id = $2"
	deviceKeysPut = `INSERT INTO device_keys (user_id, device_id, json, display_name) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET json = excluded.json, display_name = excluded.display_name`
	deviceKeysDelete = "DELETE FROM device_keys WHERE user_id = $1 AND device_id = $2"
	deviceKeysForget = "DELETE FROM device_keys WHERE user_id = $1"

	oneTimeOne = "SELECT json FROM one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4"
	oneTimePut = `INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, json, added) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING`
	oneTimeCount = "SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm"
	oneTimeTake  = `DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id =
		(SELECT key_id FROM one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 ORDER BY added, key_id LIMIT 1)
		RETURNING key_id, json`

	fallbackPut = `INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, json, used) VALUES ($1, $2, $3, $4, $5, false)
		ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, json = excluded.json, used = false`
	fallbackOne    = "SELECT key_id, json FROM fallback_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3"
	fallbackTake   = "UPDATE fallback_keys SET used = true WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 RETURNING key_id, json"
	fallbackUnused = "SELECT algorithm FROM fallback_keys WHERE user_id = $1 AND device_id = $2 AND NOT used ORDER BY algorithm"

	crossSigningAll = "SELECT user_id, usage, key, json FROM cross_signing_keys WHERE user_id = $1"
	crossSigningPut = `INSERT INTO cross_signing_keys (user_id, usage, key, json) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, usage) DO UPDATE SET key = excluded.key, json = excluded.json`
	crossSigningForget = "DELETE FROM cross_signing_keys WHERE user_id = $1"

	signatureAll = `SELECT key_name, signer_id, signer_key, signature FROM key_signatures
		WHERE user_id = $1 AND (signer_id = $1 OR signer_id = $2) LIMIT 20000`
	signaturePut = `INSERT INTO key_signatures (user_id, key_name, signer_id, signer_key, signature) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, key_name, signer_id, signer_key) DO UPDATE SET signature = excluded.signature`
	signatureForget = "DELETE FROM key_signatures WHERE user_id = $1 AND key_name = $2"
)

// DeviceKeys are a device's identity keys.
type DeviceKeys struct {
	UserID      id.UserID
	DeviceID    id.DeviceID
	JSON        json.RawMessage // as the device signed them
	DisplayName string
}

func scanDeviceKeys(row dbutil.Scannable) (*DeviceKeys, error) {
	var k DeviceKeys
	var raw []byte
	err := row.Scan(&k.UserID, &k.DeviceID, &raw, &k.DisplayName)
	k.JSON = raw
	return &k, err
}

// Devices are the identity keys of all devices of a user that have any.
func (k *Keys) Devices(ctx context.Context, user id.UserID) ([]*DeviceKeys, error) {
	return all(ctx, k.s, scanDeviceKeys, deviceKeysAll, user)
}

// Device is one device's identity keys as it signed them, or nil.
func (k *Keys) Device(ctx context.Context, user id.UserID, device id.DeviceID) (json.RawMessage, error) {
	return one(ctx, k.s, column[[]byte], deviceKeysOne, user, device)
}

// PutDevice writes a device's identity keys, inside Do. Telling of the change is the caller's (DeviceLists.Change).
func (k *Keys) PutDevice(ctx context.Context, keys DeviceKeys) error {
	_, err := k.s.exec(ctx, deviceKeysPut, keys.UserID, keys.DeviceID, []byte(keys.JSON), keys.DisplayName)
	return err
}

// DropDevice takes away the copy of another server's device, inside Do.
func (k *Keys) DropDevice(ctx context.Context, user id.UserID, device id.DeviceID) error {
	_, err := k.s.exec(ctx, deviceKeysDelete, user, device)
	return err
}

// DropUser takes away all copies of another server's user's keys, inside Do.
func (k *Keys) DropUser(ctx context.Context, user id.UserID) error {
	for _, q := range []string{deviceKeysForget, crossSigningForget} {
		if _, err := k.s.exec(ctx, q, user); err != nil {
			return err
		}
	}
	return nil
}

// OneTimeKey is a key that is given to one asker only; a fallback key when there was none left.
type OneTimeKey struct {
	Algorithm string
	KeyID     string
	JSON      json.RawMessage // a string or an object
}

// Name is the key's name in requests and answers: "algorithm:id".
func (o OneTimeKey) Name() string { return o.Algorithm + ":" + o.KeyID }

// OneTime is a one-time key as it was uploaded, or nil.
func (k *Keys) OneTime(ctx context.Context, user id.UserID, device id.DeviceID, algorithm, keyID string) (json.RawMessage, error) {
	return one(ctx, k.s, column[[]byte], oneTimeOne, user, device, algorithm, keyID)
}

// PutOneTime adds one-time keys, inside Do; one whose ID exists stays as it is.
func (k *Keys) PutOneTime(ctx context.Context, user id.UserID, device id.DeviceID, keys []OneTimeKey) error {
	if len(keys) == 0 {
		return nil
	}
	k.forgetLeft(ctx, user, device)
	now := k.s.now().UnixMilli()
	for _, key := range keys {
		if _, err := k.s.exec(ctx, oneTimePut, user, device, key.Algorithm, key.KeyID, []byte(key.JSON), now); err != nil {
			return err
		}
	}
	return nil
}

// PutFallback replaces the device's fallback key of its algorithm, inside Do. The same key again stays as used as it was.
func (k *Keys) PutFallback(ctx context.Context, user id.UserID, device id.DeviceID, key OneTimeKey) error {
	known, err := one(ctx, k.s, scanOneTime, fallbackOne, user, device, key.Algorithm)
	if err != nil {
		return err
	}
	if known != nil && known.KeyID == key.KeyID && string(known.JSON) == string(key.JSON) {
		return nil
	}
	k.forgetLeft(ctx, user, device)
	_, err = k.s.exec(ctx, fallbackPut, user, device, key.Algorithm, key.KeyID, []byte(key.JSON))
	return err
}

func scanOneTime(row dbutil.Scannable) (*OneTimeKey, error) {
	var key OneTimeKey
	var raw []byte
	err := row.Scan(&key.KeyID, &raw)
	key.JSON = raw
	return &key, err
}

// OneTimeCounts says how many one-time keys of each algorithm are left.
func (k *Keys) OneTimeCounts(ctx context.Context, user id.UserID, device id.DeviceID) (map[string]int, error) {
	type count struct {
		algorithm string
		n         int
	}
	rows, err := all(ctx, k.s, func(row dbutil.Scannable) (c count, err error) {
		err = row.Scan(&c.algorithm, &c.n)
		return c, err
	}, oneTimeCount, user, device)
	counts := make(map[string]int, len(rows))
	for _, c := range rows {
		counts[c.algorithm] = c.n
	}
	return counts, err
}

// UnusedFallback lists the algorithms whose fallback key has not been given out.
func (k *Keys) UnusedFallback(ctx context.Context, user id.UserID, device id.DeviceID) ([]string, error) {
	return all(ctx, k.s, column[string], fallbackUnused, user, device)
}

// Claim asks for one key of a device.
type Claim struct {
	UserID    id.UserID
	DeviceID  id.DeviceID
	Algorithm string
}

// Claim gives out one key for each claim that can be met, each one-time key once in its life, the oldest first; a
// fallback key where none is left. It is on disk before it returns.
func (k *Keys) Claim(ctx context.Context, claims []Claim) (map[Claim]OneTimeKey, error) {
	sorted := append([]Claim(nil), claims...)
	sort.Slice(sorted, func(i, j int) bool {
		a, b := sorted[i], sorted[j]
		if a.UserID != b.UserID {
			return a.UserID < b.UserID
		}
		if a.DeviceID != b.DeviceID {
			return a.DeviceID < b.DeviceID
		}
		return a.Algorithm < b.Algorithm
	})
	var given map[Claim]OneTimeKey
	err := k.s.Do(ctx, func(ctx context.Context) error {
		given = make(map[Claim]OneTimeKey, len(sorted))
		for _, c := range sorted {
			k.forgetLeft(ctx, c.UserID, c.DeviceID)
			key, err := one(ctx, k.s, scanOneTime, oneTimeTake, c.UserID, c.DeviceID, c.Algorithm)
			if err == nil && key == nil {
				key, err = one(ctx, k.s, scanOneTime, fallbackTake, c.UserID, c.DeviceID, c.Algorithm)
			}
			if err != nil {
				return err
			}
			if key != nil {
				key.Algorithm = c.Algorithm
				given[c] = *key
			}
		}
		return nil
	})
	return given, err
}

// CrossSigningKey is one of the three keys with which a user vouches for devices and users.
type CrossSigningKey struct {
	UserID id.UserID
	Usage  string // master, self_signing, user_signing
	Key    string // the public key
	JSON   json.RawMessage
}

// CrossSigning are a user's cross-signing keys, by usage.
func (k *Keys) CrossSigning(ctx context.Context, user id.UserID) (map[string]*CrossSigningKey, error) {
	rows, err := all(ctx, k.s, func(row dbutil.Scannable) (*CrossSigningKey, error) {
		var key CrossSigningKey
		var raw []byte
		err := row.Scan(&key.UserID, &key.Usage, &key.Key, &raw)
		key.JSON = raw
		return &key, err
	}, crossSigningAll, user)
	keys := make(map[string]*CrossSigningKey, len(rows))
	for _, key := range rows {
		keys[key.Usage] = key
	}
	return keys, err
}

// PutCrossSigning writes a cross-signing key, inside Do: signatures that others gave its forerunner go.
func (k *Keys) PutCrossSigning(ctx context.Context, key CrossSigningKey) error {
	old, err := k.CrossSigning(ctx, key.UserID)
	if err != nil {
		return err
	}
	if before := old[key.Usage]; before != nil && before.Key != key.Key {
		if _, err := k.s.exec(ctx, signatureForget, key.UserID, before.Key); err != nil {
			return err
		}
	}
	_, err = k.s.exec(ctx, crossSigningPut, key.UserID, key.Usage, key.Key, []byte(key.JSON))
	return err
}

// Signature is one that came after the key it signs.
type Signature struct {
	UserID    id.UserID // whose key is signed
	KeyName   string    // a device ID, or the public part of a cross-signing key
	SignerID  id.UserID
	SignerKey string // "ed25519:..."
	Signature string
}

// PutSignature adds a signature, inside Do.
func (k *Keys) PutSignature(ctx context.Context, sig Signature) error {
	_, err := k.s.exec(ctx, signaturePut, sig.UserID, sig.KeyName, sig.SignerID, sig.SignerKey, sig.Signature)
	return err
}

// Signatures are those on a user's keys that viewer may see: the user's own, and the viewer's.
func (k *Keys) Signatures(ctx context.Context, user, viewer id.UserID) ([]Signature, error) {
	return all(ctx, k.s, func(row dbutil.Scannable) (Signature, error) {
		sig := Signature{UserID: user}
		err := row.Scan(&sig.KeyName, &sig.SignerID, &sig.SignerKey, &sig.Signature)
		return sig, err
	}, signatureAll, user, viewer)
}

// SplitKeyName parts "algorithm:id"; false if there is no algorithm or no ID.
func SplitKeyName(name string) (algorithm, keyID string, ok bool) {
	algorithm, keyID, ok = strings.Cut(name, ":")
	return algorithm, keyID, ok && algorithm != "" && keyID != ""
}
