package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Backups are the users' encrypted copies of their room keys.
type Backups struct{ s *Store }

// BackupVersion is one backup of a user. Version and ETag only grow.
type BackupVersion struct {
	UserID    id.UserID
	Version   int64
	Algorithm string
	AuthData  json.RawMessage
	ETag      int64
	Count     int64
}

// BackupKey is the copy of one session's key.
type BackupKey struct {
	RoomID            id.RoomID
	SessionID         id.SessionID
	FirstMessageIndex int64
	ForwardedCount    int64
	IsVerified        bool
	SessionData       json.RawMessage
}

const (
	backupColumns = `b.user_id, b.version, b.algorithm, b.auth_data, b.etag,
		(SELECT COUNT(*) FROM backup_keys k WHERE k.user_id = b.user_id AND k.version = b.version)`
	backupByVersion = "SELECT " + backupColumns + " FROM backup_versions b WHERE b.user_id = $1 AND b.version = $2 AND NOT b.deleted"
	backupNewest    = "SELECT " + backupColumns + " FROM backup_versions b WHERE b.user_id = $1 AND NOT b.deleted ORDER BY b.version DESC LIMIT 1"
	backupHighest   = "SELECT COALESCE(MAX(version), 0) FROM backup_versions WHERE user_id = $1"
	backupInsert    = "INSERT INTO backup_versions (user_id, version, algorithm, auth_data, etag) VALUES ($1, $2, $3, $4, 0)"
	backupAuth      = "UPDATE backup_versions SET auth_data = $3 WHERE user_id = $1 AND version = $2"
	backupDelete    = "UPDATE backup_versions SET deleted = true WHERE user_id = $1 AND version = $2"
	backupETag      = "UPDATE backup_versions SET etag = etag + 1 WHERE user_id = $1 AND version = $2"

	backupKeyColumns = "room_id, session_id, first_message_index, forwarded_count, is_verified, session_data"
	backupKeyFilter  = " WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)"
	backupKeys       = "SELECT " + backupKeyColumns + " FROM backup_keys" + backupKeyFilter
	backupKeyPut     = `INSERT INTO backup_keys (user_id, version, ` + backupKeyColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET first_message_index = excluded.first_message_index,
		forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data`
	backupKeyDelete = "DELETE FROM backup_keys" + backupKeyFilter
)

func scanBackupVersion(row dbutil.Scannable) (*BackupVersion, error) {
	var v BackupVersion
	var auth []byte
	err := row.Scan(&v.UserID, &v.Version, &v.Algorithm, &auth, &v.ETag, &v.Count)
	v.AuthData = auth
	return &v, err
}

// ByVersion is one backup of the user, or nil.
func (b *Backups) ByVersion(ctx context.Context, user id.UserID, version int64) (*BackupVersion, error) {
	return one(ctx, b.s, scanBackupVersion, backupByVersion, user, version)
}

// Newest is the user's current backup, or nil.
func (b *Backups) Newest(ctx context.Context, user id.UserID) (*BackupVersion, error) {
	return one(ctx, b.s, scanBackupVersion, backupNewest, user)
}

// Create makes a new backup, inside Do, and gives its version.
func (b *Backups) Create(ctx context.Context, user id.UserID, algorithm string, auth json.RawMessage) (int64, error) {
	highest, err := one(ctx, b.s, column[int64], backupHighest, user)
	if err != nil {
		return 0, err
	}
	_, err = b.s.exec(ctx, backupInsert, user, highest+1, algorithm, []byte(auth))
	return highest + 1, err
}

// SetAuth replaces a backup's auth data, inside Do.
func (b *Backups) SetAuth(ctx context.Context, user id.UserID, version int64, auth json.RawMessage) error {
	_, err := b.s.exec(ctx, backupAuth, user, version, []byte(auth))
	return err
}

// Delete takes a backup away with its keys, inside Do. Its version is never given again.
func (b *Backups) Delete(ctx context.Context, user id.UserID, version int64) error {
	if _, err := b.s.exec(ctx, backupDelete, user, version); err != nil {
		return err
	}
	_, err := b.s.exec(ctx, backupKeyDelete, user, version, "", "")
	return err
}

// Keys are the keys of a backup; of one room, or one session, where these are not empty.
func (b *Backups) Keys(ctx context.Context, user id.UserID, version int64, room id.RoomID, session id.SessionID) ([]*BackupKey, error) {
	return all(ctx, b.s, func(row dbutil.Scannable) (*BackupKey, error) {
		var k BackupKey
		var data []byte
		err := row.Scan(&k.RoomID, &k.SessionID, &k.FirstMessageIndex, &k.ForwardedCount, &k.IsVerified, &data)
		k.SessionData = data
		return &k, err
	}, backupKeys, user, version, room, session)
}

// PutKeys adds keys to a backup, inside Do; one that is better than the new one stays.
// Spec: client-server-api/#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2
func (b *Backups) PutKeys(ctx context.Context, user id.UserID, version int64, keys []*BackupKey) error {
	changed := false
	for _, k := range keys {
		old, err := b.Keys(ctx, user, version, k.RoomID, k.SessionID)
		if err != nil {
			return err
		}
		if len(old) > 0 && !k.better(old[0]) {
			continue
		}
		_, err = b.s.exec(ctx, backupKeyPut, user, version, k.RoomID, k.SessionID, k.FirstMessageIndex, k.ForwardedCount,
			k.IsVerified, []byte(k.SessionData))
		if err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	_, err := b.s.exec(ctx, backupETag, user, version)
	return err
}

// better says whether k replaces old: verified before unverified, then the lower first index, then fewer forwards.
func (k *BackupKey) better(old *BackupKey) bool {
	if k.IsVerified != old.IsVerified {
		return k.IsVerified
	}
	if k.FirstMessageIndex != old.FirstMessageIndex {
		return k.FirstMessageIndex < old.FirstMessageIndex
	}
	return k.ForwardedCount < old.ForwardedCount
}

// DeleteKeys takes keys out of a backup, inside Do; which, as for Keys.
func (b *Backups) DeleteKeys(ctx context.Context, user id.UserID, version int64, room id.RoomID, session id.SessionID) error {
	done, err := b.s.exec(ctx, backupKeyDelete, user, version, room, session)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); n == 0 || err != nil {
		return err
	}
	_, err = b.s.exec(ctx, backupETag, user, version)
	return err
}
