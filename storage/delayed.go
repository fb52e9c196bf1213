package storage

import (
	"context"
	"database/sql"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// What became of a delayed event.
const (
	DelayedSent      = "send"
	DelayedCancelled = "cancel"
	DelayedFailed    = "error"
)

// DelayedEvent is an event that is to be sent later. Times are ms since 1970.
// Spec: MSC4140
type DelayedEvent struct {
	ID       string
	UserID   id.UserID
	DeviceID id.DeviceID
	RoomID   id.RoomID
	Type     string
	StateKey *string
	Content  json.RawMessage
	// Path and TransactionID of the request that made it; no transaction for state.
	Path          string
	TransactionID string
	// Sticky is for how many ms the event is to be sticky once it is sent.
	Sticky int64

	Delay int64
	// Since when the delay runs, and when it ends, as last written.
	Since, Due int64

	// Outcome is empty while the event waits. Then when and how it ended.
	Outcome  string
	Finished int64
	EventID  id.EventID
	Error    json.RawMessage
}

// DelayedEvents are the events that wait, and for a while those that did.
type DelayedEvents struct{ s *Store }

const (
	delayedColumns = `delay_id, user_id, device_id, room_id, type, state_key, content, path, transaction_id, delay, since, due,
		outcome, finished, event_id, error, sticky`
	delayedInsert = "INSERT INTO delayed_events (" + delayedColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)" +
		" ON CONFLICT (user_id, device_id, room_id, path, transaction_id) WHERE transaction_id IS NOT NULL DO NOTHING"
	delayedByID          = "SELECT " + delayedColumns + " FROM delayed_events WHERE delay_id = $1"
	delayedOutcome       = "SELECT COALESCE(outcome, ''), true FROM delayed_events WHERE delay_id = $1"
	delayedByTransaction = "SELECT " + delayedColumns + ` FROM delayed_events
		WHERE user_id = $1 AND device_id = $2 AND room_id = $3 AND path = $4 AND transaction_id = $5`
	delayedByUser = "SELECT " + delayedColumns + " FROM delayed_events WHERE user_id = $1 AND (outcome IS NOT NULL) = $2 ORDER BY since DESC, delay_id LIMIT $3"
	delayedWaits  = "SELECT " + delayedColumns + " FROM delayed_events WHERE outcome IS NULL ORDER BY due LIMIT $1"
	delayedCount  = "SELECT COUNT(*) FROM delayed_events WHERE user_id = $1 AND outcome IS NULL"
	delayedRun    = "UPDATE delayed_events SET since = $2, due = $3 WHERE delay_id = $1 AND outcome IS NULL"
	delayedFinish = "UPDATE delayed_events SET outcome = $2, finished = $3, event_id = $4, error = $5 WHERE delay_id = $1 AND outcome IS NULL"
	delayedSweep  = `DELETE FROM delayed_events WHERE finished < $1 OR delay_id IN (SELECT delay_id FROM
		(SELECT delay_id, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY finished DESC) AS nth FROM delayed_events WHERE finished IS NOT NULL) AS ended
		WHERE nth > $2)`
	delayedNext = "SELECT COALESCE(MIN(due), 0) FROM delayed_events WHERE user_id = $1 AND outcome IS NULL"
)

func scanDelayed(row dbutil.Scannable) (*DelayedEvent, error) {
	d := &DelayedEvent{}
	var stateKey, txn, outcome, event sql.NullString
	var finished sql.NullInt64
	var content, failure []byte
	err := row.Scan(&d.ID, &d.UserID, &d.DeviceID, &d.RoomID, &d.Type, &stateKey, &content, &d.Path, &txn, &d.Delay, &d.Since, &d.Due,
		&outcome, &finished, &event, &failure, &d.Sticky)
	if err != nil {
		return nil, err
	}
	if stateKey.Valid {
		key := unescape(stateKey.String)
		d.StateKey = &key
	}
	d.Type = unescape(d.Type)
	d.Content, d.Error = content, failure
	d.TransactionID, d.Outcome, d.Finished, d.EventID = txn.String, outcome.String, finished.Int64, id.EventID(event.String)
	return d, nil
}

// Add writes a new one. If as many of the user's wait as most already, or the same request has made one, it writes nothing, and added is false.
func (t *DelayedEvents) Add(ctx context.Context, d *DelayedEvent, most int) (added bool, err error) {
	var stateKey any
	if d.StateKey != nil {
		stateKey = escape(*d.StateKey)
	}
	err = t.s.Do(ctx, func(ctx context.Context) error {
		added = false
		if waiting, err := t.Count(ctx, d.UserID); err != nil || waiting >= most {
			return err
		}
		result, err := t.s.exec(ctx, delayedInsert, d.ID, d.UserID, d.DeviceID, d.RoomID, escape(d.Type), stateKey, []byte(d.Content), d.Path,
			nullable(d.TransactionID), d.Delay, d.Since, d.Due, nullable(d.Outcome), nullable(d.Finished), nullable(d.EventID), []byte(d.Error), d.Sticky)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		added = n == 1
		return err
	})
	return added && err == nil, err
}

// ByID gives one, or nil.
func (t *DelayedEvents) ByID(ctx context.Context, delay string) (*DelayedEvent, error) {
	return one(ctx, t.s, scanDelayed, delayedByID, delay)
}

// Outcome tells how one ended, empty while it waits; found is false where there is none.
func (t *DelayedEvents) Outcome(ctx context.Context, delay string) (outcome string, found bool, err error) {
	outcome, err = one(ctx, t.s, func(row dbutil.Scannable) (outcome string, err error) {
		err = row.Scan(&outcome, &found)
		return outcome, err
	}, delayedOutcome, delay)
	return outcome, found, err
}

// ByTransaction gives the one that was made by this request, or nil.
func (t *DelayedEvents) ByTransaction(ctx context.Context, user id.UserID, device id.DeviceID, room id.RoomID, path, transaction string) (*DelayedEvent, error) {
	return one(ctx, t.s, scanDelayed, delayedByTransaction, user, device, room, path, transaction)
}

// ByUser gives up to limit of the user's delayed events, the latest first: those that wait, or those that ended.
func (t *DelayedEvents) ByUser(ctx context.Context, user id.UserID, ended bool, limit int) ([]*DelayedEvent, error) {
	return all(ctx, t.s, scanDelayed, delayedByUser, user, ended, limit)
}

// Waiting gives up to limit events that wait, the next one first.
func (t *DelayedEvents) Waiting(ctx context.Context, limit int) ([]*DelayedEvent, error) {
	return all(ctx, t.s, scanDelayed, delayedWaits, limit)
}

// Count tells how many of the user's events wait.
func (t *DelayedEvents) Count(ctx context.Context, user id.UserID) (int, error) {
	return one(ctx, t.s, column[int], delayedCount, user)
}

// Run lets the delay run anew.
func (t *DelayedEvents) Run(ctx context.Context, delay string, since, due int64) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, delayedRun, delay, since, due)
		return err
	})
}

// Finish notes how it ended: d's Outcome, Finished, EventID and Error. It does nothing to one that has ended already.
func (t *DelayedEvents) Finish(ctx context.Context, d *DelayedEvent) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, delayedFinish, d.ID, d.Outcome, d.Finished, nullable(d.EventID), []byte(d.Error))
		return err
	})
}

// Next tells when the first of the user's waiting events is due; 0 where none waits.
func (t *DelayedEvents) Next(ctx context.Context, user id.UserID) (int64, error) {
	return one(ctx, t.s, column[int64], delayedNext, user)
}

// Sweep removes what ended before the time, and of what one user has more than that which ended first.
func (t *DelayedEvents) Sweep(ctx context.Context, before int64, each int) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, delayedSweep, before, each)
		return err
	})
}
