package storage

import (
	"context"
	"database/sql"
	"strings"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Media remembers media files, ours and copies of others'; their content lies in blobs.
type Media struct{ s *Store }

// MXC names a media file: mxc://server/media ID.
type MXC struct{ Server, MediaID string }

func (m MXC) String() string { return "mxc://" + m.Server + "/" + m.MediaID }

// File is one media file.
type File struct {
	Server      string
	MediaID     string
	User        id.UserID // who uploaded it; none for a copy, and for a preview's picture
	ContentType string
	Name        string
	Size        int64
	// Hash names the blob; empty while it is reserved and not yet uploaded.
	Hash    string
	Created int64
	// Expires is until when a reservation may be filled, in ms since 1970.
	Expires int64
	// Accessed is when it was last asked for, within an hour; Add takes Created where it is 0.
	Accessed int64
	// Authenticated: served to those with a token only.
	Authenticated bool
	// QuarantinedBy is who took it out of sight; empty: nobody.
	QuarantinedBy id.UserID
	// Protected files are not quarantined.
	Protected bool
}

// Quarantined says whether the file is out of sight.
func (f *File) Quarantined() bool { return f.QuarantinedBy != "" }

// Thumbnail is a smaller picture made of a file.
type Thumbnail struct {
	Server, MediaID string
	Width, Height   int
	Method          string
	Animated        bool
	ContentType     string
	Size            int64
	Hash            string
}

const mediaColumns = `server, media_id, user_id, content_type, file_name, size, hash, created, expires, accessed, authenticated,
	quarantined_by, protected`

func scanFile(row dbutil.Scannable) (*File, error) {
	f := &File{}
	var hash, by sql.NullString
	var expires sql.NullInt64
	err := row.Scan(&f.Server, &f.MediaID, &f.User, &f.ContentType, &f.Name, &f.Size, &hash, &f.Created, &expires, &f.Accessed,
		&f.Authenticated, &by, &f.Protected)
	f.Hash, f.Expires, f.QuarantinedBy = hash.String, expires.Int64, id.UserID(by.String)
	f.Name = unescape(f.Name)
	return f, err
}

// ByID gives a file, or nil.
func (t *Media) ByID(ctx context.Context, server, mediaID string) (*File, error) {
	f, err := one(ctx, t.s, scanFile, "SELECT "+mediaColumns+" FROM media WHERE server = $1 AND media_id = $2", server, mediaID)
	return f, err
}

// quarantinedLike is who took a file of the same content, with the hash $7, out of sight.
const quarantinedLike = "(SELECT MAX(same.quarantined_by) FROM media same WHERE same.hash = $7)"

// Add remembers a file or a reservation. A copy that is there already stays as it is; added is then false. What has the content
// of a quarantined file is out of sight too.
func (t *Media) Add(ctx context.Context, f *File) (added bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		accessed := f.Accessed
		if accessed == 0 {
			accessed = f.Created
		}
		result, err := t.s.exec(ctx, "INSERT INTO media ("+mediaColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, COALESCE($12, `+quarantinedLike+`), $13)
			ON CONFLICT (server, media_id) DO NOTHING`, f.Server, f.MediaID, f.User, f.ContentType, escape(f.Name), f.Size,
			nullable(f.Hash), f.Created, nullable(f.Expires), accessed, f.Authenticated, nullable(f.QuarantinedBy), f.Protected)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		added = n == 1
		return err
	})
	return added, err
}

// Fill completes a reservation; false if it was filled before, or is no longer there.
func (t *Media) Fill(ctx context.Context, f *File) (filled bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, `UPDATE media SET content_type = $3, file_name = $4, size = $5, hash = $6, authenticated = $7,
			accessed = $8, expires = NULL, quarantined_by = COALESCE(quarantined_by, `+strings.ReplaceAll(quarantinedLike, "$7", "$6")+`) WHERE server = $1 AND media_id = $2 AND hash IS NULL`,
			f.Server, f.MediaID, f.ContentType, escape(f.Name), f.Size, f.Hash, f.Authenticated, f.Created)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		filled = n == 1
		return err
	})
	return filled, err
}

// Reserved counts the user's reservations that may yet be filled.
func (t *Media) Reserved(ctx context.Context, user id.UserID) (int, error) {
	return one(ctx, t.s, column[int], "SELECT COUNT(*) FROM media WHERE user_id = $1 AND hash IS NULL AND expires > $2", user, t.s.now().UnixMilli())
}

// Touch remembers when files were last asked for. At most a few hundred at once.
func (t *Media) Touch(ctx context.Context, accessed map[MXC]int64) error {
	if len(accessed) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		for file, at := range accessed {
			if _, err := t.s.exec(ctx, "UPDATE media SET accessed = $3 WHERE server = $1 AND media_id = $2 AND accessed < $3",
				file.Server, file.MediaID, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// Thumbnail gives a thumbnail made before, or nil.
func (t *Media) Thumbnail(ctx context.Context, want Thumbnail) (*Thumbnail, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*Thumbnail, error) {
		found := want
		err := row.Scan(&found.ContentType, &found.Size, &found.Hash)
		return &found, err
	}, `SELECT content_type, size, hash FROM thumbnails
		WHERE server = $1 AND media_id = $2 AND width = $3 AND height = $4 AND method = $5 AND animated = $6`,
		want.Server, want.MediaID, want.Width, want.Height, want.Method, want.Animated)
}

// Thumbnails gives all thumbnails that were made of a file, the smallest first.
func (t *Media) Thumbnails(ctx context.Context, server, mediaID string) ([]Thumbnail, error) {
	return all(ctx, t.s, func(row dbutil.Scannable) (Thumbnail, error) {
		n := Thumbnail{Server: server, MediaID: mediaID}
		err := row.Scan(&n.Width, &n.Height, &n.Method, &n.Animated, &n.ContentType, &n.Size, &n.Hash)
		return n, err
	}, `SELECT width, height, method, animated, content_type, size, hash FROM thumbnails
		WHERE server = $1 AND media_id = $2 ORDER BY width, height, method LIMIT 100`, server, mediaID)
}

// AddThumbnail remembers a thumbnail, if its file is still there.
func (t *Media) AddThumbnail(ctx context.Context, n Thumbnail) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		there, err := t.ByID(ctx, n.Server, n.MediaID)
		if err != nil {
			return err
		}
		if there == nil {
			return t.discard(ctx, n.Hash)
		}
		_, err = t.s.exec(ctx, `INSERT INTO thumbnails (server, media_id, width, height, method, animated, content_type, size, hash)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (server, media_id, width, height, method, animated) DO NOTHING`,
			n.Server, n.MediaID, n.Width, n.Height, n.Method, n.Animated, n.ContentType, n.Size, n.Hash)
		return err
	})
}
