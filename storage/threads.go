package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Thread is a thread of a room: its root, and where its latest event stands.
type Thread struct {
	Root   id.EventID
	Latest Place
}

// Threads gives up to limit threads of the room whose latest event stands before the place, the latest first. With a
// user named, those alone that the user began or wrote in.
func (t *Events) Threads(ctx context.Context, room id.RoomID, participant id.UserID, before Place, limit int) ([]Thread, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (th Thread, err error) {
		err = row.Scan(&th.Root, &th.Latest)
		return th, err
	}, `SELECT e.relates_to, MAX(e.place) FROM events e
		WHERE e.room_id = $1 AND e.rel_type = 'm.thread' AND `+relating+`
		AND ($2 = '' OR EXISTS (SELECT 1 FROM events o WHERE o.event_id = e.relates_to AND o.sender = $2)
			OR EXISTS (SELECT 1 FROM events o WHERE o.relates_to = e.relates_to AND o.rel_type = 'm.thread' AND o.sender = $2))
		GROUP BY e.relates_to HAVING MAX(e.place) < $3 ORDER BY 2 DESC LIMIT $4`, room, string(participant), before, limit)
}

// Children gives up to limit events of the room that relate to one of the events, in the order of the room.
func (t *Events) Children(ctx context.Context, room id.RoomID, parents []id.EventID, limit int) ([]*Event, error) {
	return chunked(ctx, parents, func(part []id.EventID) ([]*Event, error) {
		args := append([]any{room, limit}, anys(part)...)
		return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
			WHERE relates_to IN `+list(3, len(part))+` AND room_id = $1 AND place IS NOT NULL AND standing = 1
			ORDER BY place, number LIMIT $2`, args...)
	})
}

// Annotations gives the annotations of one type that the user has given to the event, redacted ones left out.
func (t *Events) Annotations(ctx context.Context, parent id.EventID, sender id.UserID, typ string) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE relates_to = $1 AND rel_type = 'm.annotation' AND sender = $2 AND type = $3 AND redacted_by IS NULL LIMIT 200`, parent, sender, escape(typ))
}

// NearTime gives up to limit events of the room's history whose origin_server_ts is at the time or before it (or after it,
// forwards), the nearest first; among equal ones, backwards the latest first and forwards the earliest.
func (t *Events) NearTime(ctx context.Context, room id.RoomID, ms int64, forwards bool, limit int) ([]*Event, error) {
	order := "timestamp <= $2 ORDER BY timestamp DESC, place DESC, number DESC"
	if forwards {
		order = "timestamp >= $2 ORDER BY timestamp, place, number"
	}
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND place IS NOT NULL AND standing = 1 AND `+order+" LIMIT $3", room, ms, limit)
}

// InThreads gives up to limit events of the room's history that belong to threads and stand before the page, newest first.
func (t *Events) InThreads(ctx context.Context, room id.RoomID, before Page, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND place IS NOT NULL AND rel_type = 'm.thread' AND (place < $2 OR (place = $2 AND number < $3))
		ORDER BY place DESC, number DESC LIMIT $4`, room, before.Place, before.Number, limit)
}
