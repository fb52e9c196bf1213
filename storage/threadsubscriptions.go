package storage

import (
	"context"

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
