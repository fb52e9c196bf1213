package storage

import (
	"context"
	"encoding/json"

	"go.mau.fi/util/dbutil"
)

// Preview is what was found behind a link, in one span of time.
type Preview struct {
	URL string
	// Bucket numbers the span of time.
	Bucket int64
	// Expires is until when it may be given, in ms since 1970.
	Expires int64
	Answer  json.RawMessage
}

// Previews remembers what was found behind links, for a while.
type Previews struct{ s *Store }

// At gives the newest preview of the link whose span is this one or an earlier one, if it has not expired; else nil.
func (t *Previews) At(ctx context.Context, url string, bucket, now int64) (*Preview, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*Preview, error) {
		p := &Preview{}
		var answer []byte
		err := row.Scan(&p.URL, &p.Bucket, &p.Expires, &answer)
		p.Answer = answer
		return p, err
	}, `SELECT url, bucket, expires, answer FROM previews WHERE url = $1 AND bucket <= $2 AND expires > $3
		ORDER BY bucket DESC LIMIT 1`, url, bucket, now)
}

// Put remembers a preview; a newer one of the same span takes its place.
func (t *Previews) Put(ctx context.Context, p *Preview) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, `INSERT INTO previews (url, bucket, expires, answer) VALUES ($1, $2, $3, $4)
			ON CONFLICT (url, bucket) DO UPDATE SET expires = excluded.expires, answer = excluded.answer`, p.URL, p.Bucket, p.Expires, []byte(p.Answer))
		return err
	})
}

// Expire forgets up to limit previews that ended before then; it gives how many.
func (t *Previews) Expire(ctx context.Context, before int64, limit int) (n int64, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, `DELETE FROM previews WHERE expires IN
			(SELECT expires FROM previews WHERE expires < $1 ORDER BY expires LIMIT $2)`, before, limit)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return n, err
}
