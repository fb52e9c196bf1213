package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Report is a complaint of a user about an event, a room or another user.
type Report struct {
	Number   int64
	By       id.UserID
	RoomID   id.RoomID  // empty where a user is reported
	EventID  id.EventID // empty where a room or a user is reported
	UserID   id.UserID  // the one who is reported
	Reason   string
	Score    *int64
	Received int64
}

// Reports are kept for administrators.
type Reports struct{ s *Store }

const reportColumns = "number, by_user, room_id, event_id, user_id, reason, score, received"

// Add keeps a report.
func (t *Reports) Add(ctx context.Context, r *Report) error {
	number, err := t.s.Numbers(ctx, 1)
	if err != nil {
		return err
	}
	r.Number, r.Received = number, t.s.now().UnixMilli()
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "INSERT INTO reports ("+reportColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
			r.Number, r.By, r.RoomID, r.EventID, r.UserID, escape(r.Reason), r.Score, r.Received)
		return err
	})
}

// Before gives up to limit reports older than the number, the newest first; 0 begins at the newest.
func (t *Reports) Before(ctx context.Context, number int64, limit int) ([]*Report, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (*Report, error) {
		r := &Report{}
		err := row.Scan(&r.Number, &r.By, &r.RoomID, &r.EventID, &r.UserID, &r.Reason, &r.Score, &r.Received)
		r.Reason = unescape(r.Reason)
		return r, err
	}, "SELECT "+reportColumns+" FROM reports WHERE number < $1 OR $1 = 0 ORDER BY number DESC LIMIT $2", number, limit)
}
