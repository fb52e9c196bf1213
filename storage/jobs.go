package storage

import (
	"context"
	"database/sql"
	"encoding/json"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// Kinds of jobs.
const (
	JobDeleteRoom   = "delete_room"
	JobPurgeHistory = "purge_history"
	JobRedactUser   = "redact_user"
)

// How jobs stand.
const (
	JobScheduled = "scheduled"
	JobActive    = "active"
	JobComplete  = "complete"
	JobFailed    = "failed"
)

// Job is something that an administrator has set going and that takes a while. Times are ms since 1970.
type Job struct {
	ID   string
	Kind string
	// Subject is the room or the user that it is about.
	Subject string
	By      id.UserID
	// Wish is what was asked for, Result what has been done so far: JSON objects.
	Wish, Result json.RawMessage
	Status       string
	// Error says why it failed.
	Error    string
	Created  int64
	Finished int64 // 0 while it is not
}

// Jobs are remembered until a day after their end, and go on after a restart.
type Jobs struct{ s *Store }

const (
	jobColumns = "job_id, kind, subject, by_user, wish, result, status, error, created, finished"
	jobInsert  = "INSERT INTO jobs (" + jobColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
	jobUpdate  = "UPDATE jobs SET result = $2, status = $3, error = $4, finished = $5 WHERE job_id = $1"
)

func scanJob(row dbutil.Scannable) (*Job, error) {
	j := &Job{}
	var wish, result []byte
	var finished sql.NullInt64
	err := row.Scan(&j.ID, &j.Kind, &j.Subject, &j.By, &wish, &result, &j.Status, &j.Error, &j.Created, &finished)
	j.Wish, j.Result, j.Finished, j.Error = wish, result, finished.Int64, unescape(j.Error)
	return j, err
}

// Add writes a new job, inside Do; it fills in Created, Status and, where that is empty, Result.
func (t *Jobs) Add(ctx context.Context, j *Job) error {
	j.Created, j.Status = t.s.now().UnixMilli(), JobScheduled
	if len(j.Result) == 0 {
		j.Result = json.RawMessage("{}")
	}
	_, err := t.s.exec(ctx, jobInsert, j.ID, j.Kind, j.Subject, j.By, []byte(j.Wish), []byte(j.Result), j.Status, "", j.Created, nil)
	return err
}

// ByID gives a job, or nil.
func (t *Jobs) ByID(ctx context.Context, job string) (*Job, error) {
	return one(ctx, t.s, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE job_id = $1", job)
}

// About gives up to limit jobs of this kind about a room or a user, the oldest first.
func (t *Jobs) About(ctx context.Context, kind, subject string, limit int) ([]*Job, error) {
	return all(ctx, t.s, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE subject = $1 AND kind = $2 ORDER BY created, job_id LIMIT $3", subject, kind, limit)
}

// Open gives up to limit jobs that have not ended, the oldest first.
func (t *Jobs) Open(ctx context.Context, limit int) ([]*Job, error) {
	return all(ctx, t.s, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE finished IS NULL ORDER BY created, job_id LIMIT $1", limit)
}

// Save writes how far a job has come: Result, Status and Error. With a status that is an end, it is ended.
func (t *Jobs) Save(ctx context.Context, j *Job) error {
	if j.Finished == 0 && (j.Status == JobComplete || j.Status == JobFailed) {
		j.Finished = t.s.now().UnixMilli()
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, jobUpdate, j.ID, []byte(j.Result), j.Status, escape(j.Error), nullable(j.Finished))
		return err
	})
}

// Sweep forgets, inside Do, jobs that ended before this time, in ms since 1970.
func (t *Jobs) Sweep(ctx context.Context, before int64) error {
	_, err := t.s.exec(ctx, "DELETE FROM jobs WHERE finished < $1", before)
	return err
}
