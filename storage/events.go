package storage

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"go.mau.fi/util/dbutil"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"
)

// Standing says how an event stands with us.
type Standing int8

// The standings of events.
const (
	Outlier Standing = iota
	Accepted
	SoftFailed
	Rejected
)

// Event is a stored PDU with what we know of it.
type Event struct {
	// Number is its key in the tables: never changed, never reused.
	Number int64
	ID     id.EventID
	RoomID id.RoomID
	// Position: when it became news; 0 where it is none.
	Position Position
	// Place: where it is paged; 0 where it is not.
	Place    Place
	Standing Standing

	Type      string
	StateKey  *string
	Sender    id.UserID
	Depth     int64
	Timestamp int64 // origin_server_ts

	// Before is the snapshot before the event (zero for outliers), After the one after it.
	Before, After Snapshot

	RedactedBy id.EventID
	RelatesTo  id.EventID
	RelType    string

	// DeviceID, Path and TransactionID of a local event that was sent with them.
	DeviceID      id.DeviceID
	Path          string
	TransactionID string

	// Rule by which it was rejected.
	Rule string
	// StickyUntil is the end of a sticky event's stickiness, in ms since 1970 by our clock; 0 where it never was sticky.
	// Spec: MSC4354
	StickyUntil int64
	// JSON of the PDU in federation format. Shared: read only.
	JSON []byte

	// livePlace: the place follows from the position, and is given again if the commit is repeated.
	livePlace bool
}

// Events reads events. They are written by the room server (RoomWriter), and
// outliers by federation (AddOutliers).
type Events struct{ s *Store }

const eventColumns = `number, event_id, room_id, position, place, standing, type, state_key, sender, depth, timestamp,
	chain, sequence, after_chain, after_sequence, redacted_by, relates_to, rel_type, device_id, path, transaction_id, rule, json, sticky_until`

func scanEvent(row dbutil.Scannable) (*Event, error) {
	e := &Event{}
	var position, place, chain, sequence, afterChain, afterSequence, sticky sql.NullInt64
	var stateKey, redactedBy, relatesTo, relType, device, path, txn, rule sql.NullString
	err := row.Scan(&e.Number, &e.ID, &e.RoomID, &position, &place, &e.Standing, &e.Type, &stateKey, &e.Sender, &e.Depth, &e.Timestamp,
		&chain, &sequence, &afterChain, &afterSequence, &redactedBy, &relatesTo, &relType, &device, &path, &txn, &rule, &e.JSON, &sticky)
	if err != nil {
		return nil, err
	}
	e.Position, e.Place = Position(position.Int64), Place(place.Int64)
	e.Before = Snapshot{chain.Int64, sequence.Int64}
	e.After, e.StickyUntil = e.Before, sticky.Int64
	if afterChain.Valid {
		e.After = Snapshot{afterChain.Int64, afterSequence.Int64}
	}
	e.Type = unescape(e.Type)
	if stateKey.Valid {
		key := unescape(stateKey.String)
		e.StateKey = &key
	}
	e.RedactedBy, e.RelatesTo, e.RelType = id.EventID(redactedBy.String), id.EventID(relatesTo.String), relType.String
	e.DeviceID, e.Path, e.TransactionID, e.Rule = id.DeviceID(device.String), path.String, txn.String, rule.String
	return e, nil
}

func (e *Event) row() []any {
	var stateKey any
	if e.StateKey != nil {
		stateKey = escape(*e.StateKey)
	}
	var afterChain, afterSequence any
	if e.After != e.Before {
		afterChain, afterSequence = e.After.Chain, e.After.Sequence
	}
	var chain, sequence any
	if e.Before != (Snapshot{}) || e.After != e.Before {
		chain, sequence = e.Before.Chain, e.Before.Sequence
	}
	var device any
	if e.TransactionID != "" {
		device = e.DeviceID // part of the unique index, even when empty
	}
	var path any
	if e.TransactionID != "" {
		path = e.Path
	}
	return []any{e.Number, e.ID, e.RoomID, nullable(e.Position), nullable(e.Place), e.Standing, escape(e.Type), stateKey, e.Sender, e.Depth, e.Timestamp,
		chain, sequence, afterChain, afterSequence, nullable(e.RedactedBy), nullable(e.RelatesTo), nullable(escape(e.RelType)),
		device, path, nullable(e.TransactionID), nullable(e.Rule), e.JSON, nullable(e.StickyUntil)}
}

// ByID gives one event, or nil.
func (t *Events) ByID(ctx context.Context, event id.EventID) (*Event, error) {
	return one(ctx, t.s, scanEvent, "SELECT "+eventColumns+" FROM events WHERE event_id = $1", event)
}

// ByIDs gives those of the events that we have, in no order.
func (t *Events) ByIDs(ctx context.Context, events []id.EventID) ([]*Event, error) {
	return chunked(ctx, events, func(part []id.EventID) ([]*Event, error) {
		return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+" FROM events WHERE event_id IN "+list(1, len(part)), anys(part)...)
	})
}

// ByNumbers gives those of the events that we have, in no order.
func (t *Events) ByNumbers(ctx context.Context, numbers []int64) ([]*Event, error) {
	return chunked(ctx, numbers, func(part []int64) ([]*Event, error) {
		return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+" FROM events WHERE number IN "+list(1, len(part)), anys(part)...)
	})
}

// Links gives what links those of the room's events that we have: ID, type, state
// key and JSON are filled in, nothing else. It is for auth chains, which are long.
func (t *Events) Links(ctx context.Context, room id.RoomID, events []id.EventID) ([]Event, error) {
	return chunked(ctx, events, func(part []id.EventID) ([]Event, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (e Event, err error) {
			var stateKey sql.NullString
			if err = row.Scan(&e.ID, &e.Type, &stateKey, &e.JSON); stateKey.Valid {
				key := unescape(stateKey.String)
				e.StateKey = &key
			}
			e.Type = unescape(e.Type)
			return e, err
		}, "SELECT event_id, type, state_key, json FROM events WHERE room_id = $1 AND event_id IN "+list(2, len(part)), append([]any{room}, anys(part)...)...)
	})
}

// chunked asks for many values a few hundred at a time; outside a transaction, for the pieces of very many side by side.
func chunked[K, V any](ctx context.Context, keys []K, ask func([]K) ([]V, error)) ([]V, error) {
	const size, atOnce = 500, 3
	if len(keys) <= size {
		return ask(keys)
	}
	parts := slices.Collect(slices.Chunk(keys, size))
	found := make([][]V, len(parts))
	var asking errgroup.Group
	if asking.SetLimit(atOnce); transactionOf(ctx) != nil {
		asking.SetLimit(1)
	}
	for i, part := range parts {
		asking.Go(func() (err error) {
			found[i], err = ask(part)
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}

// IDs gives the event IDs that bear these numbers.
func (t *Events) IDs(ctx context.Context, numbers []int64) (map[int64]id.EventID, error) {
	type pair struct {
		number int64
		id     id.EventID
	}
	pairs, err := chunked(ctx, numbers, func(part []int64) ([]pair, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (p pair, err error) {
			err = row.Scan(&p.number, &p.id)
			return p, err
		}, "SELECT number, event_id FROM events WHERE number IN "+list(1, len(part)), anys(part)...)
	})
	ids := make(map[int64]id.EventID, len(pairs))
	for _, p := range pairs {
		ids[p.number] = p.id
	}
	return ids, err
}

// Known tells how those of the events stand that we have.
func (t *Events) Known(ctx context.Context, events []id.EventID) (map[id.EventID]Standing, error) {
	type pair struct {
		id       id.EventID
		standing Standing
	}
	pairs, err := chunked(ctx, events, func(part []id.EventID) ([]pair, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (p pair, err error) {
			err = row.Scan(&p.id, &p.standing)
			return p, err
		}, "SELECT event_id, standing FROM events WHERE event_id IN "+list(1, len(part)), anys(part)...)
	})
	known := make(map[id.EventID]Standing, len(pairs))
	for _, p := range pairs {
		known[p.id] = p.standing
	}
	return known, err
}

// ByTransaction gives the event that the device sent to the room with this transaction, or nil.
func (t *Events) ByTransaction(ctx context.Context, room id.RoomID, sender id.UserID, device id.DeviceID, path, transaction string) (*Event, error) {
	return one(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE sender = $1 AND device_id = $2 AND transaction_id = $3 AND room_id = $4 AND path = $5`, sender, device, transaction, room, path)
}

// Transactions gives those of the room's newest events, so many of them, that were sent with a transaction: ID, sender, device, path
// and transaction are filled in, nothing else.
func (t *Events) Transactions(ctx context.Context, room id.RoomID, newest int) ([]Event, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (e Event, err error) {
		err = row.Scan(&e.ID, &e.Sender, &e.DeviceID, &e.Path, &e.TransactionID)
		return e, err
	}, `SELECT event_id, sender, device_id, path, transaction_id FROM
		(SELECT * FROM events WHERE room_id = $1 AND place IS NOT NULL ORDER BY place DESC, number DESC LIMIT $2) AS newest
		WHERE transaction_id IS NOT NULL ORDER BY place`, room, newest)
}

// Backwards gives up to limit events of the room's history before the page, newest first.
func (t *Events) Backwards(ctx context.Context, room id.RoomID, before Page, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND place IS NOT NULL AND (place < $2 OR (place = $2 AND number < $3))
		ORDER BY place DESC, number DESC LIMIT $4`, room, before.Place, before.Number, limit)
}

// Forwards gives up to limit events of the room's history after the page, oldest first.
func (t *Events) Forwards(ctx context.Context, room id.RoomID, after Page, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND place IS NOT NULL AND (place > $2 OR (place = $2 AND number > $3))
		ORDER BY place, number LIMIT $4`, room, after.Place, after.Number, limit)
}

// BySender gives up to limit events of the room's shown history that the user sent, the newest first.
func (t *Events) BySender(ctx context.Context, room id.RoomID, sender id.UserID, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND place IS NOT NULL AND sender = $2 ORDER BY place DESC, number DESC LIMIT $3`, room, sender, limit)
}

// SentBy gives up to limit events of the room that became news at the position or later and whose sender is a user of the server:
// the oldest first, or the newest first. For the federation's sender, when a destination lags.
func (t *Events) SentBy(ctx context.Context, room id.RoomID, server string, from Position, newest bool, limit int) ([]*Event, error) {
	order := "place, number"
	if newest {
		order = "place DESC, number DESC"
	}
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE room_id = $1 AND place >= $2 AND position IS NOT NULL AND sender LIKE $3
		ORDER BY `+order+` LIMIT $4`, room, from.Place(), "%:"+server, limit)
}

// Relations gives up to limit events that relate to the event and come before the page, newest first.
// An empty relType stands for all.
func (t *Events) Relations(ctx context.Context, event id.EventID, relType string, before Page, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE relates_to = $1 AND ($2 = '' OR rel_type = $2) AND place IS NOT NULL AND standing = 1
		AND (place < $3 OR (place = $3 AND number < $4))
		ORDER BY place DESC, number DESC LIMIT $5`, event, escape(relType), before.Place, before.Number, limit)
}

// NewsFor gives up to limit events with after < position < before that others sent to rooms in which the user is joined now, newest
// first. The caller keeps the span bounded.
func (t *Events) NewsFor(ctx context.Context, user id.UserID, after, before Position, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events
		WHERE position > $1 AND position < $2 AND sender <> $3
		AND room_id IN (SELECT room_id FROM memberships WHERE user_id = $3 AND membership = 'join')
		ORDER BY position DESC LIMIT $4`, after, before, user, limit)
}

// Spoke says where a user said something last in each room, since a position. The caller keeps the span bounded.
func (t *Events) Spoke(ctx context.Context, user id.UserID, since Position) (map[id.RoomID]Place, error) {
	type last struct {
		room  id.RoomID
		place Place
	}
	rows, err := all(ctx, t.s, func(row dbutil.Scannable) (l last, err error) {
		err = row.Scan(&l.room, &l.place)
		return l, err
	}, "SELECT room_id, MAX(place) FROM events WHERE position > $1 AND sender = $2 AND state_key IS NULL GROUP BY room_id", since, user)
	places := make(map[id.RoomID]Place, len(rows))
	for _, l := range rows {
		places[l.room] = l.place
	}
	return places, err
}

// SaidBy gives what a user sent to a room, in the order of its history, after a page's edge.
func (t *Events) SaidBy(ctx context.Context, room id.RoomID, user id.UserID, after Page, limit int) ([]*Event, error) {
	return all(ctx, t.s, scanEvent, "SELECT "+eventColumns+` FROM events WHERE room_id = $1 AND sender = $2 AND place IS NOT NULL
		AND (place > $3 OR (place = $3 AND number > $4)) ORDER BY place, number LIMIT $5`, room, user, after.Place, after.Number, limit)
}

// PageOf gives the page that ends just at the event: Backwards from it begins with the one before, Forwards with the one after.
func (e *Event) PageOf() Page { return Page{e.Place, e.Number} }

// AddOutliers stores events that belong to nobody yet; those that we have stay as they are.
// Number is filled in for every event, new or known. At most 1,000 at a time.
func (t *Events) AddOutliers(ctx context.Context, events []*Event) error {
	if len(events) == 0 {
		return nil
	}
	first, err := t.s.Numbers(ctx, len(events))
	if err != nil {
		return err
	}
	byID := make(map[id.EventID]*Event, len(events))
	rows := make([][]any, 0, len(events))
	ids := make([]id.EventID, 0, len(events))
	for i, e := range events {
		e.Number = first + int64(i)
		if byID[e.ID] != nil {
			continue
		}
		byID[e.ID] = e
		ids = append(ids, e.ID)
		rows = append(rows, e.row())
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		err := t.s.insert(ctx, "INSERT INTO events ("+eventColumns+") VALUES", rows, "ON CONFLICT (event_id) DO NOTHING")
		if err != nil {
			return fmt.Errorf("store outliers: %w", err)
		}
		numbers, err := t.Numbers(ctx, ids)
		for _, e := range events {
			e.Number = numbers[e.ID]
		}
		return err
	})
}

// Numbers gives the numbers of those of the events that we have.
func (t *Events) Numbers(ctx context.Context, events []id.EventID) (map[id.EventID]int64, error) {
	type pair struct {
		id     id.EventID
		number int64
	}
	pairs, err := chunked(ctx, events, func(part []id.EventID) ([]pair, error) {
		return all(ctx, t.s, func(row dbutil.Scannable) (p pair, err error) {
			err = row.Scan(&p.id, &p.number)
			return p, err
		}, "SELECT event_id, number FROM events WHERE event_id IN "+list(1, len(part)), anys(part)...)
	})
	numbers := make(map[id.EventID]int64, len(pairs))
	for _, p := range pairs {
		numbers[p.id] = p.number
	}
	return numbers, err
}

func (t *Events) changes(ctx context.Context, from, to Position) ([]Change, error) {
	events, err := all(ctx, t.s, scanEvent, "SELECT "+eventColumns+" FROM events WHERE position > $1 AND position <= $2", from, to)
	changes := make([]Change, len(events))
	for i, e := range events {
		changes[i] = e.news()
	}
	return changes, err
}

func (e *Event) news() Change {
	return Change{Position: e.Position, Kind: EventNews, RoomID: e.RoomID, UserID: e.Sender, Event: e}
}
