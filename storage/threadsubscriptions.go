package storage

import (
	"context"
	"strconv"
	"strings"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// ThreadSubscription is how a user stands to a thread. Who never said anything of a thread has none.
// Spec: MSC4306
type ThreadSubscription struct {
	UserID id.UserID
	RoomID id.RoomID
	Root   id.EventID
	// Subscribed, or no longer.
	Subscribed bool
	// Automatic: a client subscribed, not its user.
	Automatic bool
	// Position of the last change, which clients know as its bump stamp.
	Position Position
}

// ThreadSubscriptions are the threads that this server's users follow.
//
// Sync tells of what changed between two positions: [ThreadSubscriptions.Between], or ThreadNews in the tail, whose Row
// is the subscription as it then was.
type ThreadSubscriptions struct{ s *Store }

const (
	subscriptionColumns = "user_id, room_id, root_id, subscribed, automatic, position"
	subscriptionOne     = "SELECT " + subscriptionColumns + " FROM thread_subscriptions WHERE user_id = $1 AND room_id = $2 AND root_id = $3"
	subscriptionBetween = "SELECT " + subscriptionColumns + ` FROM thread_subscriptions
		WHERE user_id = $1 AND position > $2 AND position <= $3 ORDER BY position DESC LIMIT $4`
	subscriptionSince = "SELECT " + subscriptionColumns + " FROM thread_subscriptions WHERE position > $1 AND position <= $2"
	subscriptionPut   = "INSERT INTO thread_subscriptions (" + subscriptionColumns + `) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id, room_id, root_id) DO UPDATE SET subscribed = excluded.subscribed, automatic = excluded.automatic, position = excluded.position`
)

func scanSubscription(row dbutil.Scannable) (*ThreadSubscription, error) {
	t := &ThreadSubscription{}
	return t, row.Scan(&t.UserID, &t.RoomID, &t.Root, &t.Subscribed, &t.Automatic, &t.Position)
}

// Of gives how the user stands to the thread, or nil for one of whom the user never said anything. Inside Do it reads
// what the transaction sees.
func (t *ThreadSubscriptions) Of(ctx context.Context, user id.UserID, room id.RoomID, root id.EventID) (*ThreadSubscription, error) {
	return one(ctx, t.s, scanSubscription, subscriptionOne, user, room, root)
}

// Between gives up to limit of the user's subscriptions that changed last with from < position <= to, the latest first;
// those that were left too.
func (t *ThreadSubscriptions) Between(ctx context.Context, user id.UserID, from, to Position, limit int) ([]*ThreadSubscription, error) {
	return all(ctx, t.s, scanSubscription, subscriptionBetween, user, from, to, limit)
}

// Put writes a subscription, inside Do, and tells of it.
func (t *ThreadSubscriptions) Put(ctx context.Context, sub ThreadSubscription) error {
	sub.Position = t.s.Next(ctx, 1)
	if _, err := t.s.exec(ctx, subscriptionPut, sub.UserID, sub.RoomID, sub.Root, sub.Subscribed, sub.Automatic, sub.Position); err != nil {
		return err
	}
	t.s.note(ctx, sub.news())
	return nil
}

func (sub *ThreadSubscription) news() Change {
	return Change{Position: sub.Position, Kind: ThreadNews, RoomID: sub.RoomID, UserID: sub.UserID, Row: sub}
}

func (t *ThreadSubscriptions) changes(ctx context.Context, from, to Position) ([]Change, error) {
	rows, err := all(ctx, t.s, scanSubscription, subscriptionSince, from, to)
	changes := make([]Change, len(rows))
	for i, sub := range rows {
		changes[i] = sub.news()
	}
	return changes, err
}

// Followed are the threads of which a user has said something, and whether they are followed.
type Followed map[id.RoomID]map[id.EventID]bool

// In tells which of the room's threads are followed; nil where the user never said anything of any thread.
func (f Followed) In(room id.RoomID) func(root id.EventID) bool {
	if len(f) == 0 {
		return nil
	}
	return func(root id.EventID) bool { return f[room][root] }
}

// maxFollowed bounds how many threads push rules know of for one user: those of which something was said last.
const maxFollowed = 10_000

// Followed gives the user's threads, for push rules.
func (t *ThreadSubscriptions) Followed(ctx context.Context, user id.UserID) (Followed, error) {
	list, err := t.Between(ctx, user, 0, 1<<62, maxFollowed)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	followed := Followed{}
	for _, sub := range list {
		if followed[sub.RoomID] == nil {
			followed[sub.RoomID] = map[id.EventID]bool{}
		}
		followed[sub.RoomID][sub.Root] = sub.Subscribed
	}
	return followed, nil
}

// ThreadToken says that a walk back through the subscriptions goes on with the one that changed at the position. Sliding
// sync gives it out as prev_batch.
// Spec: MSC4308
func ThreadToken(from Position) string { return "t" + strconv.FormatInt(int64(from), 10) }

// ParseThreadToken reads a ThreadToken.
func ParseThreadToken(text string) (Position, error) {
	digits, ok := strings.CutPrefix(text, "t")
	if !ok || len(digits) > maxToken {
		return 0, ErrBadToken
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, ErrBadToken
	}
	return Position(n), nil
}
