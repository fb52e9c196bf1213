package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// AccountData is one of a user's private notes.
type AccountData struct {
	UserID id.UserID
	RoomID id.RoomID // empty for global account data
	Type   string
	// Content is an object; an empty one where the note was deleted.
	Content  json.RawMessage
	Deleted  bool
	Position Position
}

// AccountDatas are the private notes of this server's users.
type AccountDatas struct{ s *Store }

const (
	accountDataColumns = "user_id, room_id, type, content, deleted, position"
	accountDataOne     = "SELECT " + accountDataColumns + " FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3"
	accountDataAll     = "SELECT " + accountDataColumns + " FROM account_data WHERE user_id = $1 AND position > $2 AND position <= $3 ORDER BY position"
	accountDataSince   = "SELECT " + accountDataColumns + " FROM account_data WHERE position > $1 AND position <= $2"
	accountDataPut     = `INSERT INTO account_data (` + accountDataColumns + `) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, deleted = excluded.deleted, position = excluded.position`
)

func scanAccountData(row dbutil.Scannable) (*AccountData, error) {
	var d AccountData
	var content []byte
	if err := row.Scan(&d.UserID, &d.RoomID, &d.Type, &content, &d.Deleted, &d.Position); err != nil {
		return nil, err
	}
	d.Content = content
	return &d, nil
}

// ByType is one note, or nil; room is empty for global ones. A deleted note is given too.
func (a *AccountDatas) ByType(ctx context.Context, user id.UserID, room id.RoomID, typ string) (*AccountData, error) {
	return one(ctx, a.s, scanAccountData, accountDataOne, user, room, typ)
}

// Between are the user's notes, of all rooms and global, that were last written after from and not after to; deleted
// ones too.
func (a *AccountDatas) Between(ctx context.Context, user id.UserID, from, to Position) ([]*AccountData, error) {
	return all(ctx, a.s, scanAccountData, accountDataAll, user, from, to)
}

// Put writes a note, inside Do, and tells of it. With Deleted set, the note is taken away.
func (a *AccountDatas) Put(ctx context.Context, d AccountData) error {
	d.Position = a.s.Next(ctx, 1)
	if d.Deleted {
		d.Content = json.RawMessage("{}")
	}
	if _, err := a.s.exec(ctx, accountDataPut, d.UserID, d.RoomID, d.Type, []byte(d.Content), d.Deleted, d.Position); err != nil {
		return err
	}
	a.s.note(ctx, accountDataChange(&d))
	return nil
}

func accountDataChange(d *AccountData) Change {
	return Change{Position: d.Position, Kind: AccountDataNews, RoomID: d.RoomID, UserID: d.UserID, Row: d}
}

func (a *AccountDatas) changes(ctx context.Context, from, to Position) ([]Change, error) {
	return all(ctx, a.s, func(row dbutil.Scannable) (Change, error) {
		d, err := scanAccountData(row)
		if err != nil {
			return Change{}, err
		}
		return accountDataChange(d), nil
	}, accountDataSince, from, to)
}
