package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Relation tells how many events relate to another in one way. Redacted ones do not count.
type Relation struct {
	To   id.EventID
	Type string
	// Count of the events, and whether the user who was named sent one of them.
	Count  int
	ByUser bool
}

const relating = "e.place IS NOT NULL AND e.standing = 1 AND e.redacted_by IS NULL"

// RelationsOf counts what relates to the events, by type of relation.
func (t *Events) RelationsOf(ctx context.Context, events []id.EventID, user id.UserID) ([]Relation, error) {
	return chunked(ctx, events, func(part []id.EventID) ([]Relation, error) {
		args := append([]any{user}, anys(part)...)
		return all(ctx, t.s, func(row dbutil.Scannable) (r Relation, err error) {
			var own int
			err = row.Scan(&r.To, &r.Type, &r.Count, &own)
			r.Type, r.ByUser = unescape(r.Type), own > 0
			return r, err
		}, `SELECT e.relates_to, e.rel_type, COUNT(*), SUM(CASE WHEN e.sender = $1 THEN 1 ELSE 0 END) FROM events e
			WHERE e.relates_to IN `+list(2, len(part))+" AND e.rel_type IS NOT NULL AND "+relating+" GROUP BY e.relates_to, e.rel_type", args...)
	})
}

// Related gives, for each of the events, the newest few that relate to it in the
// given way, the latest place first.
func (t *Events) Related(ctx context.Context, events []id.EventID, relType string, few int) ([]*Event, error) {
	return chunked(ctx, events, func(part []id.EventID) ([]*Event, error) {
		args := append([]any{escape(relType), few}, anys(part)...)
		return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM (
			SELECT e.number AS chosen, ROW_NUMBER() OVER (PARTITION BY e.relates_to ORDER BY e.place DESC, e.number DESC) AS nth FROM events e
			WHERE e.relates_to IN `+list(3, len(part))+" AND e.rel_type = $1 AND "+relating+`
		) AS ranked JOIN events ON number = chosen WHERE nth <= $2 ORDER BY relates_to, nth`, args...)
	})
}

// Edits gives, for each of the events, the newest few that would replace it: of
// the same sender and type, not state, the latest origin_server_ts first, equal
// ones by event ID, the greater first. What they contain is for the caller to check.
// Spec: client-server-api/#validity-of-replacement-events
func (t *Events) Edits(ctx context.Context, events []id.EventID, few int) ([]*Event, error) {
	return chunked(ctx, events, func(part []id.EventID) ([]*Event, error) {
		args := append([]any{few}, anys(part)...)
		return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM (
			SELECT e.number AS chosen, ROW_NUMBER() OVER (PARTITION BY e.relates_to ORDER BY e.timestamp DESC, e.event_id DESC) AS nth
			FROM events e JOIN events o ON o.event_id = e.relates_to AND o.room_id = e.room_id AND o.sender = e.sender AND o.type = e.type
			WHERE e.relates_to IN `+list(2, len(part))+` AND e.rel_type = 'm.replace' AND e.state_key IS NULL AND o.state_key IS NULL
			AND (o.rel_type IS NULL OR o.rel_type <> 'm.replace') AND `+relating+`
		) AS ranked JOIN events ON number = chosen WHERE nth <= $1 ORDER BY relates_to, nth`, args...)
	})
}

// RelatedBy gives those of the events to which another relates in one of the ways, sent by one of the senders; an empty list stands for
// any. Redacted events do not count.
func (t *Events) RelatedBy(ctx context.Context, events []id.EventID, relTypes []string, senders []id.UserID) (map[id.EventID]bool, error) {
	found, err := chunked(ctx, events, func(part []id.EventID) ([]id.EventID, error) {
		args := anys(part)
		q := "SELECT DISTINCT e.relates_to FROM events e WHERE e.relates_to IN " + list(1, len(part)) + " AND " + relating
		if len(relTypes) > 0 {
			q += " AND e.rel_type IN " + list(len(args)+1, len(relTypes))
			for _, relType := range relTypes {
				args = append(args, escape(relType))
			}
		}
		if len(senders) > 0 {
			q += " AND e.sender IN " + list(len(args)+1, len(senders))
			args = append(args, anys(senders)...)
		}
		return all(ctx, t.s, column[id.EventID], q, args...)
	})
	related := make(map[id.EventID]bool, len(found))
	for _, event := range found {
		related[event] = true
	}
	return related, err
}
