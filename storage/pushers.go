package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Pusher says where a user's notifications are sent.
type Pusher struct {
	UserID  id.UserID
	AppID   string
	PushKey string
	// DeviceID that made it, and with which it ends.
	DeviceID          id.DeviceID
	Kind              string
	AppDisplayName    string
	DeviceDisplayName string
	ProfileTag        string
	Lang              string
	Data              json.RawMessage // an object
	// Enabled: it is not switched off (MSC3881).
	Enabled bool
	// Created in ms since 1970: the gateway's pushkey_ts.
	Created int64
}

// Pushers are the pushers of this server's users.
type Pushers struct{ s *Store }

const (
	pusherColumns = `user_id, app_id, push_key, device_id, kind, app_display_name, device_display_name, profile_tag, lang, data, enabled, created`
	pusherOf      = "SELECT " + pusherColumns + " FROM pushers WHERE user_id = $1 ORDER BY created, app_id, push_key LIMIT 1000"
	pusherPut     = `INSERT INTO pushers (` + pusherColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (user_id, app_id, push_key) DO UPDATE SET device_id = excluded.device_id, kind = excluded.kind,
		app_display_name = excluded.app_display_name, device_display_name = excluded.device_display_name,
		profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data, enabled = excluded.enabled`
	pusherDelete = "DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND push_key = $3"
	pusherOthers = "DELETE FROM pushers WHERE user_id <> $1 AND app_id = $2 AND push_key = $3"
	pusherUsers  = "SELECT DISTINCT user_id FROM pushers WHERE kind = 'http' AND enabled"
)

func scanPusher(row dbutil.Scannable) (*Pusher, error) {
	p := &Pusher{}
	var data []byte
	err := row.Scan(&p.UserID, &p.AppID, &p.PushKey, &p.DeviceID, &p.Kind, &p.AppDisplayName, &p.DeviceDisplayName, &p.ProfileTag, &p.Lang, &data, &p.Enabled, &p.Created)
	p.AppID, p.PushKey, p.Data = unescape(p.AppID), unescape(p.PushKey), data
	return p, err
}

// Of gives the user's pushers.
func (t *Pushers) Of(ctx context.Context, user id.UserID) ([]*Pusher, error) {
	return all(ctx, t.s, scanPusher, pusherOf, user)
}

// Users gives those who have a pusher that is on. There is a row for each phone, so the list is bounded by the accounts.
func (t *Pushers) Users(ctx context.Context) ([]id.UserID, error) {
	return all(ctx, t.s, column[id.UserID], pusherUsers)
}

// Put writes a pusher, inside Do; the same app and key of the same user is rewritten. With alone, others lose theirs.
func (t *Pushers) Put(ctx context.Context, p *Pusher, alone bool) error {
	if alone {
		if _, err := t.s.exec(ctx, pusherOthers, p.UserID, escape(p.AppID), escape(p.PushKey)); err != nil {
			return err
		}
	}
	_, err := t.s.exec(ctx, pusherPut, p.UserID, escape(p.AppID), escape(p.PushKey), p.DeviceID, p.Kind, p.AppDisplayName, p.DeviceDisplayName,
		p.ProfileTag, p.Lang, []byte(p.Data), p.Enabled, t.s.now().UnixMilli())
	return err
}

// Delete removes a pusher, inside Do. One that does not exist is no error.
func (t *Pushers) Delete(ctx context.Context, user id.UserID, appID, pushKey string) error {
	_, err := t.s.exec(ctx, pusherDelete, user, escape(appID), escape(pushKey))
	return err
}
