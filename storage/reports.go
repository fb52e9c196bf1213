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

func scanReport(row dbutil.Scannable) (*Report, error) {
	r := &Report{}
	err := row.Scan(&r.Number, &r.By, &r.RoomID, &r.EventID, &r.UserID, &r.Reason, &r.Score, &r.Received)
	r.Reason = unescape(r.Reason)
	return r, err
}

// ByNumber gives a report, or nil.
func (t *Reports) ByNumber(ctx context.Context, number int64) (*Report, error) {
	return one(ctx, t.s, scanReport, "SELECT "+reportColumns+" FROM reports WHERE number = $1", number)
}

// Delete forgets a report.
func (t *Reports) Delete(ctx context.Context, number int64) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "DELETE FROM reports WHERE number = $1", number)
		return err
	})
}

// Before gives up to limit reports older than the number, the newest first; 0 begins at the newest.
func (t *Reports) Before(ctx context.Context, number int64, limit int) ([]*Report, error) {
	return all(ctx, t.s, scanReport, "SELECT "+reportColumns+" FROM reports WHERE number < $1 OR $1 = 0 ORDER BY number DESC LIMIT $2", number, limit)
}

// ReportQuery asks for reports of events.
type ReportQuery struct {
	// By and Room are parts of the reporter's and of the room's ID; Sender is the one whose event was reported. Empty: all.
	By, Room string
	Sender   id.UserID
	// Forward: the oldest first, and not the newest.
	Forward       bool
	Offset, Limit int
}

// Find gives reports of events, and says how many there are in all.
func (t *Reports) Find(ctx context.Context, q ReportQuery) ([]*Report, int, error) {
	const where = ` FROM reports WHERE event_id <> '' AND ($1 = '' OR LOWER(by_user) LIKE $1 ESCAPE '!') AND ($2 = '' OR LOWER(room_id) LIKE $2 ESCAPE '!')
		AND ($3 = '' OR user_id = $3)`
	args := []any{likePart(q.By), likePart(q.Room), q.Sender}
	total, err := one(ctx, t.s, column[int], "SELECT COUNT(*)"+where, args...)
	if err != nil {
		return nil, 0, err
	}
	order := "DESC"
	if q.Forward {
		order = "ASC"
	}
	list, err := all(ctx, t.s, scanReport, "SELECT "+reportColumns+where+" ORDER BY number "+order+" LIMIT $4 OFFSET $5", append(args, q.Limit, q.Offset)...)
	return list, total, err
}
