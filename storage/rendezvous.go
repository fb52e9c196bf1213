package storage

import (
	"context"
	"time"

	"go.mau.fi/util/dbutil"
)

// Rendezvous is a meeting place of two devices, of which one lets the other in. It holds one message.
type Rendezvous struct {
	ID       string
	Content  []byte
	Sequence int64 // counts the messages
	Changed  time.Time
	Expires  time.Time
}

// Rendezvouses are the meeting places.
type Rendezvouses struct{ s *Store }

const (
	rendezvousColumns = "id, content, sequence, changed, expires"
	rendezvousByID    = "SELECT " + rendezvousColumns + " FROM rendezvous WHERE id = $1 AND expires > $2"
	rendezvousInsert  = "INSERT INTO rendezvous (id, content, sequence, created, changed, expires) VALUES ($1, $2, $3, $4, $4, $5)"
	rendezvousUpdate  = "UPDATE rendezvous SET content = $3, sequence = sequence + 1, changed = $4 WHERE id = $1 AND sequence = $2 AND expires > $4"
	rendezvousDelete  = "DELETE FROM rendezvous WHERE id = $1 AND expires > $2"
	rendezvousSweep   = "DELETE FROM rendezvous WHERE expires <= $1"
	// The oldest go first, so that a flood ends itself and not the server.
	rendezvousCrowd = "DELETE FROM rendezvous WHERE id IN (SELECT id FROM rendezvous ORDER BY created DESC, id LIMIT 1000 OFFSET $1)"
)

// ByID is the meeting place, or nil if there is none, or not any more.
func (r *Rendezvouses) ByID(ctx context.Context, name string) (*Rendezvous, error) {
	return one(ctx, r.s, func(row dbutil.Scannable) (*Rendezvous, error) {
		var v Rendezvous
		var changed, expires int64
		err := row.Scan(&v.ID, &v.Content, &v.Sequence, &changed, &expires)
		v.Changed, v.Expires = time.UnixMilli(changed), time.UnixMilli(expires)
		return &v, err
	}, rendezvousByID, name, r.s.now().UnixMilli())
}

// Create opens a meeting place, inside Do. There are at most so many at once: the oldest give way.
func (r *Rendezvouses) Create(ctx context.Context, v Rendezvous, most int) error {
	now := r.s.now().UnixMilli()
	if _, err := r.s.exec(ctx, rendezvousSweep, now); err != nil {
		return err
	}
	if _, err := r.s.exec(ctx, rendezvousInsert, v.ID, v.Content, v.Sequence, now, v.Expires.UnixMilli()); err != nil {
		return err
	}
	_, err := r.s.exec(ctx, rendezvousCrowd, most)
	return err
}

// Replace puts another message in the place of the one that has this number, inside Do; false if that is not the message which is there.
func (r *Rendezvouses) Replace(ctx context.Context, name string, sequence int64, content []byte) (bool, error) {
	done, err := r.s.exec(ctx, rendezvousUpdate, name, sequence, content, r.s.now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Delete closes a meeting place, inside Do; false if there is none.
func (r *Rendezvouses) Delete(ctx context.Context, name string) (bool, error) {
	done, err := r.s.exec(ctx, rendezvousDelete, name, r.s.now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}
