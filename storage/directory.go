package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Acquaintance is somebody whom a user may find: a member of a room that both are in, or of one in the directory.
type Acquaintance struct {
	UserID id.UserID
	// Event is the number of the newest of the membership events by which the user may be known.
	Event int64
}

// Acquaintances gives up to limit users whom the user may find, in the order of their IDs.
func (t *Memberships) Acquaintances(ctx context.Context, user id.UserID, limit int) ([]Acquaintance, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (a Acquaintance, err error) {
		err = row.Scan(&a.UserID, &a.Event)
		return a, err
	}, `SELECT user_id, MAX(event) FROM memberships
		WHERE membership = 'join' AND user_id <> $1 AND (
			room_id IN (SELECT room_id FROM memberships WHERE user_id = $1 AND membership = 'join')
			OR room_id IN (SELECT room_id FROM rooms WHERE listed))
		GROUP BY user_id ORDER BY user_id LIMIT $2`, user, limit)
}

// CountInCommon tells how many rooms both users are joined to.
func (t *Memberships) CountInCommon(ctx context.Context, a, b id.UserID) (int, error) {
	return one(ctx, t.s, column[int], `SELECT COUNT(*) FROM memberships a JOIN memberships b ON a.room_id = b.room_id
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id = $2 AND b.membership = 'join'`, a, b)
}

// RoomsInCommon gives up to limit rooms that both users are joined to, after the room ID, in their order.
func (t *Memberships) RoomsInCommon(ctx context.Context, a, b id.UserID, after id.RoomID, limit int) ([]id.RoomID, error) {
	return all(ctx, t.s, column[id.RoomID], `SELECT a.room_id FROM memberships a JOIN memberships b ON a.room_id = b.room_id
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id = $2 AND b.membership = 'join' AND a.room_id > $3
		ORDER BY a.room_id LIMIT $4`, a, b, after, limit)
}
