package storage

import (
	"context"
	"database/sql"
	"fmt"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// CallRecord tells that somebody was in a call: who, when, and by which rule, without a word of what was said. Times are ms since 1970.
type CallRecord struct {
	// Session is the participant's name on the focus, CallSID that of one run of the call, Call the call's lasting name.
	Session  string      `json:"session"`
	CallSID  string      `json:"call_sid"`
	Call     string      `json:"call"`
	RoomID   id.RoomID   `json:"room_id"`
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
	// Focus is the process where it was.
	Focus  string `json:"focus"`
	Joined int64  `json:"joined_ts"`
	// Ended is 0 while it lasts; Reason says why it ended.
	Ended  int64  `json:"ended_ts,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Rule is by which it was let in; Kinds are the kinds of tracks that were published, with commas between.
	Rule  string `json:"rule"`
	Kinds string `json:"kinds,omitempty"`
}

// CallRecords are who was in which call.
type CallRecords struct{ s *Store }

const (
	callRecordColumns = "session, call_sid, call, room_id, user_id, device_id, focus, joined, ended, reason, rule, kinds"
	callRecordInsert  = "INSERT INTO call_records (" + callRecordColumns + ") VALUES"
	callRecordAfter   = ` ON CONFLICT (session) DO UPDATE SET ended = excluded.ended, reason = excluded.reason, kinds = excluded.kinds
		WHERE call_records.ended IS NULL`
	callRecordFind    = "SELECT " + callRecordColumns + " FROM call_records WHERE joined >= $1 AND joined < $2"
	callRecordPage    = " ORDER BY joined DESC, session LIMIT $3 OFFSET $4"
	callRecordOrphans = "UPDATE call_records SET ended = $1, reason = 'FOCUS_ENDED' WHERE ended IS NULL AND focus NOT IN (SELECT process FROM foci)"
	callRecordOpen    = "UPDATE call_records SET ended = $1, reason = 'FOCUS_ENDED' WHERE ended IS NULL"
	callRecordSweep   = "DELETE FROM call_records WHERE joined < $1 AND (ended IS NULL OR ended < $1)"
)

func scanCallRecord(row dbutil.Scannable) (*CallRecord, error) {
	r := &CallRecord{}
	var ended sql.NullInt64
	err := row.Scan(&r.Session, &r.CallSID, &r.Call, &r.RoomID, &r.UserID, &r.DeviceID, &r.Focus, &r.Joined, &ended, &r.Reason, &r.Rule, &r.Kinds)
	r.Ended, r.DeviceID = ended.Int64, id.DeviceID(unescape(string(r.DeviceID)))
	return r, err
}

// Put writes how somebody's session is now, from its beginning to its end, each session once; writing it again does no harm. What has ended stays
// as it is.
func (t *CallRecords) Put(ctx context.Context, records ...*CallRecord) error {
	rows := make([][]any, len(records))
	for n, r := range records {
		rows[n] = []any{r.Session, r.CallSID, r.Call, r.RoomID, r.UserID, escape(string(r.DeviceID)), r.Focus, r.Joined, nullable(r.Ended), r.Reason, r.Rule, r.Kinds}
	}
	return t.s.Do(ctx, func(ctx context.Context) error { return t.s.insert(ctx, callRecordInsert, rows, callRecordAfter) })
}

// CallSearch narrows records down; what is empty or 0 does not. Times are ms since 1970.
type CallSearch struct {
	RoomID        id.RoomID
	UserID        id.UserID
	From, To      int64
	Limit, Offset int
}

// Find gives records, the latest first.
func (t *CallRecords) Find(ctx context.Context, q CallSearch) ([]*CallRecord, error) {
	question, args := q.question()
	return all(ctx, t.s, scanCallRecord, question, args...)
}

// question names what narrows the search down and nothing else: the index of that is used.
func (q CallSearch) question() (question string, args []any) {
	if q.To == 0 {
		q.To = 1<<63 - 1
	}
	question, args = callRecordFind, []any{q.From, q.To, q.Limit, q.Offset}
	if q.RoomID != "" {
		args = append(args, q.RoomID)
		question += fmt.Sprintf(" AND room_id = $%d", len(args))
	}
	if q.UserID != "" {
		args = append(args, q.UserID)
		question += fmt.Sprintf(" AND user_id = $%d", len(args))
	}
	return question + callRecordPage, args
}

// Orphans ends what foci left open that are no more; with everything, whatever is open: where there is one process, and it has just begun.
func (t *CallRecords) Orphans(ctx context.Context, everything bool) error {
	do := callRecordOrphans
	if everything {
		do = callRecordOpen
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, do, t.s.now().UnixMilli())
		return err
	})
}

// Sweep forgets those who came before the time, in ms since 1970, and have gone since, or never will.
func (t *CallRecords) Sweep(ctx context.Context, before int64) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, callRecordSweep, before)
		return err
	})
}
