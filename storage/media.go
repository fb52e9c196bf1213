package storage

import (
	"context"
	"database/sql"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Media remembers media files, ours and copies of others'; their content lies in blobs.
type Media struct{ s *Store }

// File is one media file.
type File struct {
	Server      string
	MediaID     string
	User        id.UserID // who uploaded it; none for a copy
	ContentType string
	Name        string
	Size        int64
	// Hash names the blob; empty while it is reserved and not yet uploaded.
	Hash    string
	Created int64
	// Expires is until when a reservation may be filled, in ms since 1970.
	Expires     int64
	Quarantined bool
}

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

const mediaColumns = "server, media_id, user_id, content_type, file_name, size, hash, created, expires, quarantined"

func scanFile(row dbutil.Scannable) (*File, error) {
	f := &File{}
	var hash sql.NullString
	var expires sql.NullInt64
	err := row.Scan(&f.Server, &f.MediaID, &f.User, &f.ContentType, &f.Name, &f.Size, &hash, &f.Created, &expires, &f.Quarantined)
	f.Hash, f.Expires = hash.String, expires.Int64
	f.Name = unescape(f.Name)
	return f, err
}

// ByID gives a file, or nil.
func (t *Media) ByID(ctx context.Context, server, mediaID string) (*File, error) {
	f, err := one(ctx, t.s, scanFile, "SELECT "+mediaColumns+" FROM media WHERE server = $1 AND media_id = $2", server, mediaID)
	return f, err
}

// Add remembers a file or a reservation. A copy that is there already stays as it is.
func (t *Media) Add(ctx context.Context, f *File) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "INSERT INTO media ("+mediaColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			ON CONFLICT (server, media_id) DO NOTHING`, f.Server, f.MediaID, f.User, f.ContentType, escape(f.Name), f.Size,
			nullable(f.Hash), f.Created, nullable(f.Expires), f.Quarantined)
		return err
	})
}

// Fill completes a reservation; false if it was filled before.
func (t *Media) Fill(ctx context.Context, f *File) (filled bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, `UPDATE media SET content_type = $3, file_name = $4, size = $5, hash = $6, expires = NULL
			WHERE server = $1 AND media_id = $2 AND hash IS NULL`, f.Server, f.MediaID, f.ContentType, escape(f.Name), f.Size, f.Hash)
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

// AddThumbnail remembers a thumbnail.
func (t *Media) AddThumbnail(ctx context.Context, n Thumbnail) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, `INSERT INTO thumbnails (server, media_id, width, height, method, animated, content_type, size, hash)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (server, media_id, width, height, method, animated) DO NOTHING`,
			n.Server, n.MediaID, n.Width, n.Height, n.Method, n.Animated, n.ContentType, n.Size, n.Hash)
		return err
	})
}
