package storage

import (
	"context"

	"maunium.net/go/mautrix/id"
)

// Sticky gives up to limit sticky events of the room that still are sticky at the time (ms since 1970) and that became news
// with from < position <= to, the oldest first. Redacted ones are no longer sticky.
//
// A sync hands out those between its two positions that its timeline does not show, and on from the last one that it had
// room for: whoever has just joined asks from 0. How long each still is, is StickyUntil less the time; clients know it as
// unsigned.msc4354_sticky_duration_ttl_ms. They are shown to whoever is joined, whatever the history visibility says.
// Spec: MSC4354
func (t *Events) Sticky(ctx context.Context, room id.RoomID, from, to Position, now int64, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND sticky_until > $2 AND position > $3 AND position <= $4 AND standing = 1 AND redacted_by IS NULL
		ORDER BY position LIMIT $5`, room, now, from, to, limit)
}

// StickyRooms gives those of the rooms that hold an event that is sticky at the time, and that became news after from and not after to.
func (t *Events) StickyRooms(ctx context.Context, rooms []id.RoomID, from, to Position, now int64) ([]id.RoomID, error) {
	return chunked(ctx, rooms, func(part []id.RoomID) ([]id.RoomID, error) {
		return all(ctx, t.s, column[id.RoomID], `SELECT DISTINCT room_id FROM events
			WHERE sticky_until > $1 AND position > $2 AND position <= $3 AND standing = 1 AND room_id IN `+list(4, len(part)),
			append([]any{now, from, to}, anys(part)...)...)
	})
}

// StickySoftFailed gives up to limit soft-failed events of the room that are sticky at the time: they are judged again
// whenever the room's state changes. Spec: MSC4354
func (t *Events) StickySoftFailed(ctx context.Context, room id.RoomID, now int64, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND sticky_until > $2 AND standing = 2 ORDER BY number LIMIT $3`, room, now, limit)
}
