package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Upgrade is the replacement of a room by a new one, between the commit that makes the new room and the end of what follows.
type Upgrade struct {
	Old, New id.RoomID
	By       id.UserID
}

// Upgrades are those that have begun and not ended. The room server writes them with the new room.
type Upgrades struct{ s *Store }

const upgradeColumns = "old_room, new_room, by_user"

func scanUpgrade(row dbutil.Scannable) (*Upgrade, error) {
	u := &Upgrade{}
	err := row.Scan(&u.Old, &u.New, &u.By)
	return u, err
}

// Of gives the room's upgrade that has begun, or nil.
func (t *Upgrades) Of(ctx context.Context, old id.RoomID) (*Upgrade, error) {
	return one(ctx, t.s, scanUpgrade, "SELECT "+upgradeColumns+" FROM upgrades WHERE old_room = $1", old)
}

// Unfinished gives up to limit upgrades that have begun, the oldest first.
func (t *Upgrades) Unfinished(ctx context.Context, limit int) ([]*Upgrade, error) {
	return all(ctx, t.s, scanUpgrade, "SELECT "+upgradeColumns+" FROM upgrades ORDER BY begun LIMIT $1", limit)
}

// End notes that all is done that follows.
func (t *Upgrades) End(ctx context.Context, old id.RoomID) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "DELETE FROM upgrades WHERE old_room = $1", old)
		return err
	})
}
