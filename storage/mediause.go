package storage

import (
	"context"
	"fmt"
	"strings"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// MediaOrder says by what a user's files are listed.
type MediaOrder string

// The orders of a user's files, each with the media ID behind it.
const (
	MediaByCreated     MediaOrder = "created"
	MediaByAccessed    MediaOrder = "accessed"
	MediaByID          MediaOrder = "media_id"
	MediaByName        MediaOrder = "file_name"
	MediaBySize        MediaOrder = "size"
	MediaByType        MediaOrder = "content_type"
	MediaByQuarantined MediaOrder = "quarantined_by"
	MediaByProtected   MediaOrder = "protected"
)

var mediaOrders = map[MediaOrder]string{
	MediaByCreated: "created", MediaByAccessed: "accessed", MediaByID: "media_id", MediaByName: "file_name", MediaBySize: "size",
	MediaByType: "content_type", MediaByQuarantined: "COALESCE(quarantined_by, '')", MediaByProtected: "protected",
}

// MediaPage is a page of a list of files.
type MediaPage struct {
	Order       MediaOrder // empty: MediaByCreated
	Descending  bool
	Skip, Limit int
}

// OfUser gives a page of what the user has uploaded, and how many files there are in all.
func (t *Media) OfUser(ctx context.Context, user id.UserID, page MediaPage) (files []*File, total int64, err error) {
	order, ok := mediaOrders[page.Order]
	if !ok {
		order = mediaOrders[MediaByCreated]
	}
	direction := ""
	if page.Descending {
		direction = " DESC"
	}
	if total, _, err = t.Usage(ctx, user); err != nil {
		return nil, 0, err
	}
	files, err = all(ctx, t.s, scanFile, "SELECT "+mediaColumns+" FROM media WHERE user_id = $1 AND hash IS NOT NULL ORDER BY "+
		order+direction+", media_id"+direction+" LIMIT $2 OFFSET $3", user, page.Limit, page.Skip)
	return files, total, err
}

// Usage gives how many files the user has uploaded, and their bytes.
func (t *Media) Usage(ctx context.Context, user id.UserID) (files, bytes int64, err error) {
	err = t.s.queryRow(ctx, "SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM media WHERE user_id = $1 AND hash IS NOT NULL", user).
		Scan(&files, &bytes)
	return files, bytes, err
}

// UserMedia is what one user has uploaded, in figures.
type UserMedia struct {
	User id.UserID
	// Displayname is the profile's field, JSON as it is stored; nil if there is none.
	Displayname []byte
	Files       int64
	Bytes       int64
}

// UserMediaOrder says by what users are listed.
type UserMediaOrder string

// The orders of users' figures, each with the user ID behind it.
const (
	UsersByID          UserMediaOrder = "user_id"
	UsersByDisplayname UserMediaOrder = "displayname"
	UsersByBytes       UserMediaOrder = "bytes"
	UsersByFiles       UserMediaOrder = "files"
)

// MediaStatistics asks for figures by user.
type MediaStatistics struct {
	// From and Until bound when the files were uploaded, in ms since 1970; Until 0 is no bound.
	From, Until int64
	// Search is a part of user ID or display name, in any case; empty for all.
	Search      string
	Order       UserMediaOrder // empty: UsersByID
	Descending  bool
	Skip, Limit int
}

// Statistics gives a page of figures by user, and how many users there are in all.
func (t *Media) Statistics(ctx context.Context, q MediaStatistics) (users []UserMedia, total int64, err error) {
	name := "CAST(p.value AS TEXT)"
	if t.s.Postgres() {
		name = "convert_from(p.value, 'UTF8')"
	}
	order := map[UserMediaOrder]string{UsersByDisplayname: "COALESCE(" + name + ", '')", UsersByBytes: "bytes", UsersByFiles: "files"}[q.Order]
	if order == "" {
		order = "m.user_id"
	}
	if q.Descending {
		order += " DESC"
	}
	until := q.Until
	if until == 0 {
		until = 1 << 62
	}
	from := ` FROM media m LEFT JOIN profiles p ON p.user_id = m.user_id AND p.field = 'displayname'
		WHERE m.user_id <> '' AND m.hash IS NOT NULL AND m.created >= $1 AND m.created <= $2
		AND ($3 = '' OR LOWER(m.user_id) LIKE $3 ESCAPE '!' OR LOWER(` + name + `) LIKE $3 ESCAPE '!')`
	args := []any{q.From, until, likePart(q.Search)}
	if total, err = one(ctx, t.s, column[int64], "SELECT COUNT(DISTINCT m.user_id)"+from, args...); err != nil {
		return nil, 0, fmt.Errorf("count users of media: %w", err)
	}
	users, err = all(ctx, t.s, func(row dbutil.Scannable) (u UserMedia, err error) {
		err = row.Scan(&u.User, &u.Displayname, &u.Files, &u.Bytes)
		return u, err
	}, "SELECT m.user_id, p.value, COUNT(*) AS files, CAST(COALESCE(SUM(m.size), 0) AS BIGINT) AS bytes"+from+
		" GROUP BY m.user_id, p.value ORDER BY "+order+", m.user_id LIMIT $4 OFFSET $5", append(args, q.Limit, q.Skip)...)
	return users, total, err
}

// likePart makes a LIKE pattern that finds the text anywhere; empty stays empty.
func likePart(text string) string {
	if text == "" {
		return ""
	}
	return "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(text)) + "%"
}
