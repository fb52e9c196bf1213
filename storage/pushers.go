package storage

import (
	"context"
	"encoding/json"
	"time"

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
	// Mail is how far an e-mail pusher is.
	Mail MailState
}

// MailState is what an e-mail pusher remembers.
type MailState struct {
	// Cursor is up to where the stream has been mailed, or was read.
	Cursor Position
	// Due is when the next mail shall be looked into, Sent when the last one left; zero: not, never.
	Due, Sent time.Time
	// Pause is how long is waited at least after the last one.
	Pause time.Duration
}

// Pushers are the pushers of this server's users.
type Pushers struct{ s *Store }

const (
	pusherColumns = `user_id, app_id, push_key, device_id, kind, app_display_name, device_display_name, profile_tag, lang, data, enabled, created,
		mail_cursor, mail_due, mail_sent, mail_pause`
	pusherOf  = "SELECT " + pusherColumns + " FROM pushers WHERE user_id = $1 ORDER BY created, app_id, push_key LIMIT 1000"
	pusherPut = `INSERT INTO pushers (` + pusherColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, 0, 0)
		ON CONFLICT (user_id, app_id, push_key) DO UPDATE SET device_id = excluded.device_id, kind = excluded.kind,
		app_display_name = excluded.app_display_name, device_display_name = excluded.device_display_name,
		profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data, enabled = excluded.enabled`
	pusherDelete = "DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND push_key = $3"
	pusherOthers = "DELETE FROM pushers WHERE user_id <> $1 AND app_id = $2 AND push_key = $3"
	pusherUsers  = "SELECT DISTINCT user_id FROM pushers WHERE kind IN ('http', 'email') AND enabled"
	pusherDue    = "SELECT " + pusherColumns + " FROM pushers WHERE mail_due > 0 AND mail_due <= $1 AND kind = 'email' AND enabled ORDER BY mail_due LIMIT $2"
	pusherMail   = "UPDATE pushers SET mail_cursor = $4, mail_due = $5, mail_sent = $6, mail_pause = $7 WHERE user_id = $1 AND app_id = $2 AND push_key = $3"
)

func scanPusher(row dbutil.Scannable) (*Pusher, error) {
	p := &Pusher{}
	var data []byte
	var due, sent, pause int64
	err := row.Scan(&p.UserID, &p.AppID, &p.PushKey, &p.DeviceID, &p.Kind, &p.AppDisplayName, &p.DeviceDisplayName, &p.ProfileTag, &p.Lang, &data, &p.Enabled, &p.Created,
		&p.Mail.Cursor, &due, &sent, &pause)
	p.Mail.Due, p.Mail.Sent, p.Mail.Pause = millis(due), millis(sent), time.Duration(pause)*time.Millisecond
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
		p.ProfileTag, p.Lang, []byte(p.Data), p.Enabled, t.s.now().UnixMilli(), t.s.Head())
	return err
}

// Due gives e-mail pushers whose time has come, the longest due first.
func (t *Pushers) Due(ctx context.Context, now time.Time, limit int) ([]*Pusher, error) {
	return all(ctx, t.s, scanPusher, pusherDue, now.UnixMilli(), limit)
}

// PutMail writes how far an e-mail pusher is, inside Do.
func (t *Pushers) PutMail(ctx context.Context, p *Pusher) error {
	_, err := t.s.exec(ctx, pusherMail, p.UserID, escape(p.AppID), escape(p.PushKey), p.Mail.Cursor, inMillis(p.Mail.Due), inMillis(p.Mail.Sent), p.Mail.Pause.Milliseconds())
	return err
}

// millis is a time that may be none, which is written as 0.
func millis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func inMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Delete removes a pusher, inside Do. One that does not exist is no error.
func (t *Pushers) Delete(ctx context.Context, user id.UserID, appID, pushKey string) error {
	_, err := t.s.exec(ctx, pusherDelete, user, escape(appID), escape(pushKey))
	return err
}
