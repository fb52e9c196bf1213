package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Profiles are what this server's users show of themselves: JSON values by field.
type Profiles struct{ s *Store }

const (
	profileAll   = "SELECT field, value FROM profiles WHERE user_id = $1 ORDER BY field LIMIT 1000"
	profileField = "SELECT value FROM profiles WHERE user_id = $1 AND field = $2"
	profilePut   = `INSERT INTO profiles (user_id, field, value) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value`
	profileDelete = "DELETE FROM profiles WHERE user_id = $1 AND field = $2"
)

// All are the fields of a user's profile; empty for users who have none or do not exist.
func (p *Profiles) All(ctx context.Context, user id.UserID) (map[string]json.RawMessage, error) {
	type entry struct {
		field string
		value []byte
	}
	entries, err := all(ctx, p.s, func(row dbutil.Scannable) (e entry, err error) {
		err = row.Scan(&e.field, &e.value)
		return e, err
	}, profileAll, user)
	fields := make(map[string]json.RawMessage, len(entries))
	for _, e := range entries {
		fields[e.field] = e.value
	}
	return fields, err
}

// Names are the display name and the avatar of each of the users, as JSON strings; nil for what somebody has not.
func (p *Profiles) Names(ctx context.Context, users []id.UserID) (map[id.UserID][2]json.RawMessage, error) {
	type entry struct {
		user  id.UserID
		field string
		value []byte
	}
	entries, err := chunked(ctx, users, func(part []id.UserID) ([]entry, error) {
		return all(ctx, p.s, func(row dbutil.Scannable) (e entry, err error) {
			err = row.Scan(&e.user, &e.field, &e.value)
			return e, err
		}, "SELECT user_id, field, value FROM profiles WHERE field IN ('displayname', 'avatar_url') AND user_id IN "+list(1, len(part)), anys(part)...)
	})
	names := make(map[id.UserID][2]json.RawMessage, len(users))
	for _, e := range entries {
		n := names[e.user]
		if e.field == "displayname" {
			n[0] = e.value
		} else {
			n[1] = e.value
		}
		names[e.user] = n
	}
	return names, err
}

// Field is one field of a user's profile, or nil.
func (p *Profiles) Field(ctx context.Context, user id.UserID, field string) (json.RawMessage, error) {
	value, err := one(ctx, p.s, column[[]byte], profileField, user, field)
	return value, err
}

// Put writes a field, inside Do.
func (p *Profiles) Put(ctx context.Context, user id.UserID, field string, value json.RawMessage) error {
	_, err := p.s.exec(ctx, profilePut, user, field, []byte(value))
	return err
}

// Delete takes a field away, inside Do.
func (p *Profiles) Delete(ctx context.Context, user id.UserID, field string) error {
	_, err := p.s.exec(ctx, profileDelete, user, field)
	return err
}
