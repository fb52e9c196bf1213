package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// CallLeave is a delayed event, by which somebody leaves a call, that the foci look after. Times are ms since 1970.
type CallLeave struct {
	// Call and Identity are the names of the call and of the participant on the foci.
	Call, Identity string
	RoomID         id.RoomID
	UserID         id.UserID
	// DeviceID is by which the participant is known too, where it calls itself otherwise; or empty.
	DeviceID id.DeviceID
	DelayID  string
	// Timeout is the event's delay in ms, Since when it was handed over.
	Timeout, Since int64
	// Seen is when a focus last had the participant; 0: never yet.
	Seen int64
	// Restart is when the event is to be restarted next.
	Restart int64
}

// CallLeaves are the delayed leaves that the foci look after.
type CallLeaves struct{ s *Store }

const (
	callLeaveColumns = "call, identity, room_id, user_id, device_id, delay_id, timeout, since, seen, restart"
	callLeavePut     = "INSERT INTO call_leaves (" + callLeaveColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (call, identity) DO UPDATE SET room_id = excluded.room_id, user_id = excluded.user_id, device_id = excluded.device_id, delay_id = excluded.delay_id,
			timeout = excluded.timeout, since = excluded.since, seen = excluded.seen, restart = excluded.restart`
	callLeaveAll   = "SELECT " + callLeaveColumns + " FROM call_leaves ORDER BY restart LIMIT $1"
	callLeaveOf    = "SELECT " + callLeaveColumns + " FROM call_leaves WHERE call = $1 AND identity = $2"
	callLeaveCount = `SELECT COUNT(CASE WHEN user_id = $1 THEN 1 END), COUNT(CASE WHEN user_id LIKE $2 THEN 1 END), COUNT(CASE WHEN user_id NOT LIKE $3 THEN 1 END)
		FROM call_leaves WHERE NOT (call = $4 AND identity = $5)`
	callLeaveSaw    = "UPDATE call_leaves SET seen = $3 WHERE call = $1 AND identity = $2"
	callLeaveAgain  = "UPDATE call_leaves SET restart = $4 WHERE call = $1 AND identity = $2 AND delay_id = $3"
	callLeaveDelete = "DELETE FROM call_leaves WHERE call = $1 AND identity = $2 AND delay_id = $3"
)

func scanCallLeave(row dbutil.Scannable) (*CallLeave, error) {
	l := &CallLeave{}
	err := row.Scan(&l.Call, &l.Identity, &l.RoomID, &l.UserID, &l.DeviceID, &l.DelayID, &l.Timeout, &l.Since, &l.Seen, &l.Restart)
	l.Identity, l.DelayID, l.DeviceID = unescape(l.Identity), unescape(l.DelayID), id.DeviceID(unescape(string(l.DeviceID)))
	return l, err
}

// Put takes a delayed leave over, in place of an older one of the same participant.
func (t *CallLeaves) Put(ctx context.Context, l *CallLeave) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, callLeavePut, l.Call, escape(l.Identity), l.RoomID, l.UserID, escape(string(l.DeviceID)), escape(l.DelayID), l.Timeout, l.Since, l.Seen, l.Restart)
		return err
	})
}

// All gives up to limit of them, those first that are to be restarted first.
func (t *CallLeaves) All(ctx context.Context, limit int) ([]*CallLeave, error) {
	return all(ctx, t.s, scanCallLeave, callLeaveAll, limit)
}

// CallLeaveCounts says how many there are of one user, of the users of one server, and of all servers' but ours.
type CallLeaveCounts struct{ User, Server, Others int }

// Count counts those beside l, for l's user; ours is the name of our server.
func (t *CallLeaves) Count(ctx context.Context, l *CallLeave, ours string) (n CallLeaveCounts, err error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (n CallLeaveCounts, err error) {
		err = row.Scan(&n.User, &n.Server, &n.Others)
		return n, err
	}, callLeaveCount, l.UserID, "%:"+l.UserID.Homeserver(), "%:"+ours, l.Call, escape(l.Identity))
}

// Of gives a participant's, or nil.
func (t *CallLeaves) Of(ctx context.Context, call, identity string) (*CallLeave, error) {
	return one(ctx, t.s, scanCallLeave, callLeaveOf, call, escape(identity))
}

// Saw notes that a focus has these participants now: pairs of call and identity.
func (t *CallLeaves) Saw(ctx context.Context, now int64, participants [][2]string) error {
	if len(participants) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		for _, p := range participants {
			if _, err := t.s.exec(ctx, callLeaveSaw, p[0], escape(p[1]), now); err != nil {
				return err
			}
		}
		return nil
	})
}

// Again notes when the event is to be restarted next.
func (t *CallLeaves) Again(ctx context.Context, l *CallLeave) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, callLeaveAgain, l.Call, escape(l.Identity), escape(l.DelayID), l.Restart)
		return err
	})
}

// Delete forgets one, unless a newer one has taken its place.
func (t *CallLeaves) Delete(ctx context.Context, l *CallLeave) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, callLeaveDelete, l.Call, escape(l.Identity), escape(l.DelayID))
		return err
	})
}
