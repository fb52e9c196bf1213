package storage

import (
	"context"
	"fmt"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// The types of receipts.
const (
	ReceiptRead        = "m.read"
	ReceiptReadPrivate = "m.read.private"
)

// Receipt says how far a user has read a room, or a thread of it.
type Receipt struct {
	RoomID id.RoomID
	UserID id.UserID
	// Type is m.read, or m.read.private, which only its owner is told of.
	Type string
	// Thread is empty for an unthreaded receipt, "main", or the root of a thread.
	Thread  string
	EventID id.EventID
	// Timestamp in ms since 1970.
	Timestamp int64
	// Place of the event; 0 where we do not have it.
	Place    Place
	Position Position
}

// Receipts are the newest receipts: one per room, user, type and thread.
type Receipts struct{ s *Store }

const (
	receiptColumns = "room_id, user_id, type, thread, event_id, timestamp, place, position"
	receiptOne     = "SELECT " + receiptColumns + " FROM receipts WHERE room_id = $1 AND user_id = $2 AND type = $3 AND thread = $4"
	receiptOf      = "SELECT " + receiptColumns + " FROM receipts WHERE room_id = $1 AND user_id = $2"
	receiptAllOf   = "SELECT " + receiptColumns + " FROM receipts WHERE user_id = $1"
	receiptIn      = "SELECT " + receiptColumns + ` FROM receipts
		WHERE room_id = $1 AND position > $2 AND position <= $3 AND (type <> 'm.read.private' OR user_id = $4) ORDER BY position DESC LIMIT $5`
	receiptSince = "SELECT " + receiptColumns + " FROM receipts WHERE position > $1 AND position <= $2"
	receiptPut   = `INSERT INTO receipts (` + receiptColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room_id, user_id, type, thread) DO UPDATE SET event_id = excluded.event_id, timestamp = excluded.timestamp,
		place = excluded.place, position = excluded.position`
)

func scanReceipt(row dbutil.Scannable) (*Receipt, error) {
	r := &Receipt{}
	err := row.Scan(&r.RoomID, &r.UserID, &r.Type, &r.Thread, &r.EventID, &r.Timestamp, &r.Place, &r.Position)
	r.Thread = unescape(r.Thread)
	return r, err
}

// Newest is the position of the user's newest receipt; 0 if there is none.
func (t *Receipts) Newest(ctx context.Context, user id.UserID) (Position, error) {
	return one(ctx, t.s, column[Position], "SELECT COALESCE(MAX(position), 0) FROM receipts WHERE user_id = $1", user)
}

// Put writes a receipt, inside Do, and tells of it; it fills in Place and Position. A receipt never goes back: false means
// that the one we have is as far, or farther.
func (t *Receipts) Put(ctx context.Context, r *Receipt) (bool, error) {
	place, err := one(ctx, t.s, column[Place], "SELECT COALESCE(place, 0) FROM events WHERE event_id = $1 AND room_id = $2", r.EventID, r.RoomID)
	if err != nil {
		return false, fmt.Errorf("place of %s: %w", r.EventID, err)
	}
	old, err := one(ctx, t.s, scanReceipt, receiptOne, r.RoomID, r.UserID, r.Type, escape(r.Thread))
	if err != nil {
		return false, err
	}
	if old != nil && (old.EventID == r.EventID || (place != 0 && old.Place >= place)) {
		return false, nil
	}
	r.Place, r.Position = place, t.s.Next(ctx, 1)
	if _, err := t.s.exec(ctx, receiptPut, r.RoomID, r.UserID, r.Type, escape(r.Thread), r.EventID, r.Timestamp, r.Place, r.Position); err != nil {
		return false, err
	}
	written := *r // the caller may run twice, and keeps its own
	t.s.note(ctx, written.news())
	return true, nil
}

// Of gives the user's own receipts in the room.
func (t *Receipts) Of(ctx context.Context, room id.RoomID, user id.UserID) ([]*Receipt, error) {
	return all(ctx, t.s, scanReceipt, receiptOf, room, user)
}

// AllOf gives the user's own receipts in all rooms.
func (t *Receipts) AllOf(ctx context.Context, user id.UserID) ([]*Receipt, error) {
	return all(ctx, t.s, scanReceipt, receiptAllOf, user)
}

// In gives the room's receipts with from < position <= to that the viewer may see, newest first, at most limit.
func (t *Receipts) In(ctx context.Context, room id.RoomID, viewer id.UserID, from, to Position, limit int) ([]*Receipt, error) {
	return all(ctx, t.s, scanReceipt, receiptIn, room, from, to, viewer, limit)
}

// InAll is In for many rooms at once; the limit is each room's.
func (t *Receipts) InAll(ctx context.Context, rooms []id.RoomID, viewer id.UserID, from, to Position, limit int) ([]*Receipt, error) {
	return chunked(ctx, rooms, func(part []id.RoomID) ([]*Receipt, error) {
		return all(ctx, t.s, scanReceipt, "SELECT "+receiptColumns+" FROM (SELECT "+receiptColumns+`,
			ROW_NUMBER() OVER (PARTITION BY room_id ORDER BY position DESC) AS nth FROM receipts
			WHERE position > $1 AND position <= $2 AND (type <> 'm.read.private' OR user_id = $3) AND room_id IN `+list(5, len(part))+`
			) AS ranked WHERE nth <= $4 ORDER BY position DESC`, append([]any{from, to, viewer, limit}, anys(part)...)...)
	})
}

func (r *Receipt) news() Change {
	return Change{Position: r.Position, Kind: ReceiptNews, RoomID: r.RoomID, UserID: r.UserID, Row: r}
}

func (t *Receipts) changes(ctx context.Context, from, to Position) ([]Change, error) {
	rows, err := all(ctx, t.s, scanReceipt, receiptSince, from, to)
	changes := make([]Change, len(rows))
	for i, r := range rows {
		changes[i] = r.news()
	}
	return changes, err
}
