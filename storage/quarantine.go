package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// mediaSlice bounds the rows that one transaction touches.
const mediaSlice = 200

// Quarantine takes files out of sight, with all others of the same content; protected ones stay. It gives how many are
// now out of sight that were not before.
func (t *Media) Quarantine(ctx context.Context, by id.UserID, files []MXC) (n int64, err error) {
	for slice := range slices.Chunk(files, mediaSlice) {
		var done int64
		err := t.s.Do(ctx, func(ctx context.Context) error {
			done = 0
			for _, f := range slice {
				result, err := t.s.exec(ctx, `UPDATE media SET quarantined_by = $3 WHERE quarantined_by IS NULL AND NOT protected
					AND ((server = $1 AND media_id = $2) OR hash = (SELECT hash FROM media WHERE server = $1 AND media_id = $2))`,
					f.Server, f.MediaID, by)
				if err != nil {
					return fmt.Errorf("quarantine %s: %w", f, err)
				}
				more, err := result.RowsAffected()
				if err != nil {
					return err
				}
				done += more
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += done
	}
	return n, nil
}

// QuarantineUser takes all that the user has uploaded out of sight.
func (t *Media) QuarantineUser(ctx context.Context, by, user id.UserID) (int64, error) {
	files, err := all(ctx, t.s, scanMXC, "SELECT server, media_id FROM media WHERE user_id = $1 AND quarantined_by IS NULL AND NOT protected", user)
	if err != nil {
		return 0, err
	}
	return t.Quarantine(ctx, by, files)
}

// QuarantineRoom takes all that is named in the room's history out of sight, as far as we have it.
func (t *Media) QuarantineRoom(ctx context.Context, by id.UserID, room id.RoomID) (int64, error) {
	files, err := t.InRoom(ctx, room)
	if err != nil {
		return 0, err
	}
	return t.Quarantine(ctx, by, files)
}

// Unquarantine brings a file, and all others of the same content, back into sight. False if it was not out of sight.
func (t *Media) Unquarantine(ctx context.Context, f MXC) (changed bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, `UPDATE media SET quarantined_by = NULL WHERE quarantined_by IS NOT NULL
			AND ((server = $1 AND media_id = $2) OR hash = (SELECT hash FROM media WHERE server = $1 AND media_id = $2))`, f.Server, f.MediaID)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		changed = n > 0
		return err
	})
	return changed, err
}

// Protect keeps a file from quarantine, or no longer. False if there is no such file.
func (t *Media) Protect(ctx context.Context, f MXC, protected bool) (found bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, "UPDATE media SET protected = $3 WHERE server = $1 AND media_id = $2", f.Server, f.MediaID, protected)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		found = n > 0
		return err
	})
	return found, err
}

// InRoom gives the files that events of the room's history name, ours and others', each once, the newest first. Files of
// encrypted rooms are named where no server can read.
func (t *Media) InRoom(ctx context.Context, room id.RoomID) ([]MXC, error) {
	type line struct {
		page Page
		json []byte
	}
	const page = 500
	var files []MXC
	seen := map[MXC]bool{}
	before := Page{Place: 1 << 62}
	for {
		lines, err := all(ctx, t.s, func(row dbutil.Scannable) (l line, err error) {
			err = row.Scan(&l.page.Place, &l.page.Number, &l.json)
			return l, err
		}, `SELECT place, number, json FROM events WHERE room_id = $1 AND place IS NOT NULL AND (place < $2 OR (place = $2 AND number < $3))
			ORDER BY place DESC, number DESC LIMIT $4`, room, before.Place, before.Number, page)
		if err != nil {
			return nil, fmt.Errorf("read media of %s: %w", room, err)
		}
		for _, l := range lines {
			for _, f := range named(l.json) {
				if !seen[f] {
					seen[f] = true
					files = append(files, f)
				}
			}
		}
		if len(lines) < page {
			return files, nil
		}
		before = lines[len(lines)-1].page
	}
}

// named gives the files that an event's content names.
func named(event []byte) []MXC {
	if !strings.Contains(string(event), "mxc://") {
		return nil
	}
	var files []MXC
	for _, v := range gjson.GetManyBytes(event, "content.url", "content.file.url", "content.info.thumbnail_url",
		"content.info.thumbnail_file.url", "content.avatar_url") {
		if f, ok := ParseMXC(v.Str); ok {
			files = append(files, f)
		}
	}
	return files
}

// ParseMXC reads "mxc://server/media ID". The parts are not looked at.
func ParseMXC(uri string) (MXC, bool) {
	rest, ok := strings.CutPrefix(uri, "mxc://")
	if !ok || strings.Contains(rest, "\x00") {
		return MXC{}, false
	}
	server, media, ok := strings.Cut(rest, "/")
	return MXC{server, media}, ok && server != "" && media != ""
}

func scanMXC(row dbutil.Scannable) (f MXC, err error) {
	err = row.Scan(&f.Server, &f.MediaID)
	return f, err
}
