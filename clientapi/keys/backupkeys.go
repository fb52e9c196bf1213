package keys

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// backedUp is a session's key in a backup. Pointers tell what is missing.
type backedUp struct {
	FirstMessageIndex *int64          `json:"first_message_index"`
	ForwardedCount    *int64          `json:"forwarded_count"`
	IsVerified        *bool           `json:"is_verified"`
	SessionData       json.RawMessage `json:"session_data"`
}

type backedUpRoom struct {
	Sessions map[id.SessionID]backedUp `json:"sessions"`
}

type backedUpRooms struct {
	Rooms map[id.RoomID]backedUpRoom `json:"rooms"`
}

func (b backedUp) key(room id.RoomID, session id.SessionID) (*storage.BackupKey, error) {
	if b.FirstMessageIndex == nil || b.ForwardedCount == nil || b.IsVerified == nil || len(b.SessionData) == 0 || b.SessionData[0] != '{' {
		return nil, mautrix.MBadJSON.WithMessage("A key needs first_message_index, forwarded_count, is_verified and session_data")
	}
	return &storage.BackupKey{
		RoomID: room, SessionID: session, FirstMessageIndex: *b.FirstMessageIndex, ForwardedCount: *b.ForwardedCount,
		IsVerified: *b.IsVerified, SessionData: b.SessionData,
	}, nil
}

func shown(k *storage.BackupKey) backedUp {
	return backedUp{&k.FirstMessageIndex, &k.ForwardedCount, &k.IsVerified, k.SessionData}
}

// PutBackupKeys handles PUT /_matrix/client/v3/room_keys/keys, and the same under /{roomId} and /{roomId}/{sessionId}.
// Spec: client-server-api/#put_matrixclientv3room_keyskeys
func (h *Handlers) PutBackupKeys(r *rest.Request) (any, error) {
	body, err := decodeBackupKeys(r)
	if err != nil {
		return nil, err
	}
	var keys []*storage.BackupKey
	for room, sessions := range body.Rooms {
		for session, b := range sessions.Sessions {
			key, err := b.key(room, session)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
	}
	return h.changeBackup(r, true, func(ctx context.Context, version int64) error {
		return h.store.Backups.PutKeys(ctx, r.By.User, version, keys)
	})
}

// decodeBackupKeys reads the body, whose depth is that of the path.
func decodeBackupKeys(r *rest.Request) (backedUpRooms, error) {
	room, session := id.RoomID(r.Path("roomId")), id.SessionID(r.Path("sessionId"))
	switch {
	case room == "":
		var body backedUpRooms
		err := r.JSON(&body)
		if err == nil && body.Rooms == nil {
			err = errMissing.WithMessage("rooms is missing")
		}
		return body, err
	case session == "":
		var body backedUpRoom
		err := r.JSON(&body)
		if err == nil && body.Sessions == nil {
			err = errMissing.WithMessage("sessions is missing")
		}
		return backedUpRooms{map[id.RoomID]backedUpRoom{room: body}}, err
	default:
		var body backedUp
		err := r.JSON(&body)
		return backedUpRooms{map[id.RoomID]backedUpRoom{room: {map[id.SessionID]backedUp{session: body}}}}, err
	}
}

// DeleteBackupKeys handles DELETE /_matrix/client/v3/room_keys/keys, and the same under /{roomId} and /{roomId}/{sessionId}.
// Spec: client-server-api/#delete_matrixclientv3room_keyskeys
func (h *Handlers) DeleteBackupKeys(r *rest.Request) (any, error) {
	return h.changeBackup(r, false, func(ctx context.Context, version int64) error {
		return h.store.Backups.DeleteKeys(ctx, r.By.User, version, id.RoomID(r.Path("roomId")), id.SessionID(r.Path("sessionId")))
	})
}

// changeBackup changes the keys of a backup; with newest, of no older one than the newest.
func (h *Handlers) changeBackup(r *rest.Request, newest bool, change func(ctx context.Context, version int64) error) (any, error) {
	if r.Query("version") == "" {
		return nil, errMissing.WithMessage("version is missing")
	}
	var after *storage.BackupVersion
	var refused error
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		refused = nil
		v, err := h.backup(ctx, r, r.Query("version"))
		if errors.Is(err, errNoBackup) {
			refused = err
			return nil
		}
		if err != nil {
			return err
		}
		if newest {
			current, err := h.store.Backups.Newest(ctx, r.By.User)
			if err != nil {
				return err
			}
			if current.Version != v.Version {
				refused = mautrix.MWrongRoomKeysVersion.WithMessage("There is a newer backup").
					WithExtraField("current_version", strconv.FormatInt(current.Version, 10))
				return nil
			}
		}
		if err := change(ctx, v.Version); err != nil {
			return err
		}
		after, err = h.store.Backups.ByVersion(ctx, r.By.User, v.Version)
		return err
	})
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, refused
	}
	return map[string]any{"count": after.Count, "etag": strconv.FormatInt(after.ETag, 10)}, nil
}

// BackupKeys handles GET /_matrix/client/v3/room_keys/keys, and the same under /{roomId} and /{roomId}/{sessionId}.
// Spec: client-server-api/#get_matrixclientv3room_keyskeys
func (h *Handlers) BackupKeys(r *rest.Request) (any, error) {
	if r.Query("version") == "" {
		return nil, errMissing.WithMessage("version is missing")
	}
	v, err := h.backup(r.Context(), r, r.Query("version"))
	if err != nil {
		return nil, err
	}
	room, session := id.RoomID(r.Path("roomId")), id.SessionID(r.Path("sessionId"))
	keys, err := h.store.Backups.Keys(r.Context(), r.By.User, v.Version, room, session)
	if err != nil {
		return nil, err
	}
	if session != "" {
		if len(keys) == 0 {
			return nil, mautrix.MNotFound.WithMessage("The backup has no such key")
		}
		return shown(keys[0]), nil
	}
	rooms := map[id.RoomID]backedUpRoom{}
	for _, k := range keys {
		if rooms[k.RoomID].Sessions == nil {
			rooms[k.RoomID] = backedUpRoom{Sessions: map[id.SessionID]backedUp{}}
		}
		rooms[k.RoomID].Sessions[k.SessionID] = shown(k)
	}
	if room == "" {
		return backedUpRooms{rooms}, nil
	}
	if _, ok := rooms[room]; !ok {
		return backedUpRoom{Sessions: map[id.SessionID]backedUp{}}, nil
	}
	return rooms[room], nil
}
