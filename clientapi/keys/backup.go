package keys

import (
	"context"
	"encoding/json"
	"strconv"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

var errNoBackup = mautrix.MNotFound.WithMessage("You have no such backup")

// backupInfo is a backup as its user sees it.
type backupInfo struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`
}

func info(v *storage.BackupVersion) backupInfo {
	return backupInfo{v.Algorithm, v.AuthData, v.Count, strconv.FormatInt(v.ETag, 10), strconv.FormatInt(v.Version, 10)}
}

// backup is the user's backup of this version; M_NOT_FOUND if there is none.
func (h *Handlers) backup(ctx context.Context, r *rest.Request, version string) (*storage.BackupVersion, error) {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return nil, errNoBackup
	}
	v, err := h.store.Backups.ByVersion(ctx, r.By.User, n)
	if err == nil && v == nil {
		err = errNoBackup
	}
	return v, err
}

type backupBody struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

func decodeBackup(r *rest.Request) (*backupBody, error) {
	var body backupBody
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Algorithm == "" || len(body.AuthData) == 0 {
		return nil, errMissing.WithMessage("algorithm and auth_data are needed")
	}
	if body.AuthData[0] != '{' {
		return nil, mautrix.MBadJSON.WithMessage("auth_data has to be an object")
	}
	return &body, nil
}

// CreateBackup handles POST /_matrix/client/v3/room_keys/version.
// Spec: client-server-api/#post_matrixclientv3room_keysversion
func (h *Handlers) CreateBackup(r *rest.Request) (any, error) {
	body, err := decodeBackup(r)
	if err != nil {
		return nil, err
	}
	var version int64
	err = h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		version, err = h.store.Backups.Create(ctx, r.By.User, body.Algorithm, body.AuthData)
		return err
	})
	return map[string]string{"version": strconv.FormatInt(version, 10)}, err
}

// NewestBackup handles GET /_matrix/client/v3/room_keys/version.
// Spec: client-server-api/#get_matrixclientv3room_keysversion
func (h *Handlers) NewestBackup(r *rest.Request) (any, error) {
	v, err := h.store.Backups.Newest(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, errNoBackup
	}
	return info(v), nil
}

// Backup handles GET /_matrix/client/v3/room_keys/version/{version}.
// Spec: client-server-api/#get_matrixclientv3room_keysversionversion
func (h *Handlers) Backup(r *rest.Request) (any, error) {
	v, err := h.backup(r.Context(), r, r.Path("version"))
	if err != nil {
		return nil, err
	}
	return info(v), nil
}

// PutBackup handles PUT /_matrix/client/v3/room_keys/version/{version}.
// Spec: client-server-api/#put_matrixclientv3room_keysversionversion
func (h *Handlers) PutBackup(r *rest.Request) (any, error) {
	body, err := decodeBackup(r)
	if err != nil {
		return nil, err
	}
	v, err := h.backup(r.Context(), r, r.Path("version"))
	if err != nil {
		return nil, err
	}
	if body.Algorithm != v.Algorithm {
		return nil, mautrix.MInvalidParam.WithMessage("A backup's algorithm cannot change")
	}
	if body.Version != "" && body.Version != r.Path("version") {
		return nil, mautrix.MInvalidParam.WithMessage("The body names another version than the path")
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Backups.SetAuth(ctx, r.By.User, v.Version, body.AuthData)
	})
}

// DeleteBackup handles DELETE /_matrix/client/v3/room_keys/version/{version}.
// Spec: client-server-api/#delete_matrixclientv3room_keysversionversion
func (h *Handlers) DeleteBackup(r *rest.Request) (any, error) {
	v, err := h.backup(r.Context(), r, r.Path("version"))
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Backups.Delete(ctx, r.By.User, v.Version)
	})
}
