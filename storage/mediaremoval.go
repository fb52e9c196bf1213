package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"go.mau.fi/util/dbutil"
)

// Delete removes files with their thumbnails, and gives those that were there. Whoever asks for one of them finds nothing from
// now on; what they leave behind on disk goes a little later, if nothing else has the same content.
func (t *Media) Delete(ctx context.Context, files []MXC) (deleted []MXC, err error) {
	for slice := range slices.Chunk(files, mediaSlice) {
		var done []MXC
		err := t.s.Do(ctx, func(ctx context.Context) error {
			done = done[:0]
			for _, f := range slice {
				there, err := t.remove(ctx, f)
				if err != nil {
					return fmt.Errorf("delete %s: %w", f, err)
				}
				if there {
					done = append(done, f)
				}
			}
			return nil
		})
		if err != nil {
			return deleted, err
		}
		deleted = append(deleted, done...)
	}
	return deleted, nil
}

// remove takes one file's rows away, inside Do, and notes their blobs for the sweep.
func (t *Media) remove(ctx context.Context, f MXC) (there bool, err error) {
	for _, table := range []string{"thumbnails", "media"} {
		hashes, err := all(ctx, t.s, column[string], "SELECT hash FROM "+table+" WHERE server = $1 AND media_id = $2 AND hash IS NOT NULL", f.Server, f.MediaID)
		if err != nil {
			return false, err
		}
		for _, hash := range hashes {
			if err := t.discard(ctx, hash); err != nil {
				return false, err
			}
		}
		result, err := t.s.exec(ctx, "DELETE FROM "+table+" WHERE server = $1 AND media_id = $2", f.Server, f.MediaID)
		if err != nil {
			return false, err
		}
		if table == "media" {
			n, err := result.RowsAffected()
			return n > 0, err
		}
	}
	return false, nil
}

// OldMedia says which files are removed for their age.
type OldMedia struct {
	// Own is our server's name. Remote means others' files, else ours.
	Own    string
	Remote bool
	// Before: last asked for before then, in ms since 1970.
	Before int64
	// LargerThan: of more bytes than this.
	LargerThan int64
	// Guarded leaves quarantined and protected files. A quarantined copy of another server's file always stays: it would only be
	// fetched anew.
	Guarded bool
	// Pictures: only those of previews, which no user uploaded.
	Pictures bool
	// Keep are files that stay (Avatars, say).
	Keep map[MXC]bool
}

// DeleteOld removes what is old, in slices, and gives what is gone.
func (t *Media) DeleteOld(ctx context.Context, old OldMedia) (deleted []MXC, err error) {
	whose := "server = $1"
	if old.Remote {
		whose = "server <> $1"
	}
	if old.Remote || old.Guarded {
		whose += " AND quarantined_by IS NULL"
	}
	if old.Guarded {
		whose += " AND NOT protected"
	}
	if old.Pictures {
		whose += " AND user_id = ''"
	}
	type row struct {
		MXC
		accessed int64
	}
	last := row{accessed: -1}
	for {
		rows, err := all(ctx, t.s, func(from dbutil.Scannable) (r row, err error) {
			err = from.Scan(&r.Server, &r.MediaID, &r.accessed)
			return r, err
		}, "SELECT server, media_id, accessed FROM media WHERE "+whose+` AND accessed < $2 AND size > $3 AND hash IS NOT NULL
			AND (accessed > $4 OR (accessed = $4 AND (server > $5 OR (server = $5 AND media_id > $6))))
			ORDER BY accessed, server, media_id LIMIT $7`,
			old.Own, old.Before, old.LargerThan, last.accessed, last.Server, last.MediaID, mediaSlice)
		if err != nil || len(rows) == 0 {
			return deleted, err
		}
		last = rows[len(rows)-1]
		var files []MXC
		for _, r := range rows {
			if !old.Keep[r.MXC] {
				files = append(files, r.MXC)
			}
		}
		gone, err := t.Delete(ctx, files)
		deleted = append(deleted, gone...)
		if err != nil {
			return deleted, err
		}
	}
}

// DeleteReservations removes reservations that ended before then, a slice at a time; it gives how many.
func (t *Media) DeleteReservations(ctx context.Context, before int64) (int, error) {
	files, err := all(ctx, t.s, scanMXC, "SELECT server, media_id FROM media WHERE hash IS NULL AND expires < $1 LIMIT $2", before, mediaSlice)
	if err != nil {
		return 0, err
	}
	err = t.s.Do(ctx, func(ctx context.Context) error {
		for _, f := range files {
			if _, err := t.s.exec(ctx, "DELETE FROM media WHERE server = $1 AND media_id = $2 AND hash IS NULL", f.Server, f.MediaID); err != nil {
				return err
			}
		}
		return nil
	})
	return len(files), err
}

// Avatars gives the files that are avatars of our users or of rooms.
func (t *Media) Avatars(ctx context.Context) (map[MXC]bool, error) {
	avatars := map[MXC]bool{}
	keep := func(uri string) {
		if f, ok := ParseMXC(uri); ok {
			avatars[f] = true
		}
	}
	values, err := all(ctx, t.s, column[[]byte], "SELECT value FROM profiles WHERE field = 'avatar_url'")
	if err != nil {
		return nil, err
	}
	for _, v := range values {
		var uri string
		if json.Unmarshal(v, &uri) == nil {
			keep(uri)
		}
	}
	events, err := all(ctx, t.s, column[[]byte], `SELECT json FROM events WHERE number IN
		(SELECT event FROM state_entries WHERE type = 'm.room.avatar' AND state_key = '')`)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		for _, f := range named(e) {
			avatars[f] = true
		}
	}
	return avatars, nil
}

// discard notes, inside Do, that a row that named the blob is gone or was never made.
func (t *Media) discard(ctx context.Context, hash string) error {
	_, err := t.s.exec(ctx, "INSERT INTO unused_blobs (hash) VALUES ($1) ON CONFLICT (hash) DO NOTHING", hash)
	return err
}

// Discard notes blobs that may belong to nobody.
func (t *Media) Discard(ctx context.Context, hashes ...string) error {
	if len(hashes) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		for _, hash := range hashes {
			if err := t.discard(ctx, hash); err != nil {
				return err
			}
		}
		return nil
	})
}

// Discarded gives up to limit blobs that may belong to nobody, in their order, after this one.
func (t *Media) Discarded(ctx context.Context, after string, limit int) ([]string, error) {
	return all(ctx, t.s, column[string], "SELECT hash FROM unused_blobs WHERE hash > $1 ORDER BY hash LIMIT $2", after, limit)
}

// Used gives those of the blobs that a file or a thumbnail still has.
func (t *Media) Used(ctx context.Context, hashes []string) (map[string]bool, error) {
	in := list(1, len(hashes))
	used, err := all(ctx, t.s, column[string], "SELECT hash FROM media WHERE hash IN "+in+" UNION SELECT hash FROM thumbnails WHERE hash IN "+in, anys(hashes)...)
	set := make(map[string]bool, len(used))
	for _, hash := range used {
		set[hash] = true
	}
	return set, err
}

// Swept forgets blobs that Discarded gave: they are off the disk, or have an owner again.
func (t *Media) Swept(ctx context.Context, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "DELETE FROM unused_blobs WHERE hash IN "+list(1, len(hashes)), anys(hashes)...)
		return err
	})
}
