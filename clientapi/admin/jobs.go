package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	// jobLease is what one process alone holds, where several could do the jobs.
	jobLease = "admin jobs"
	// jobsAtOnce bounds the jobs that are done side by side; the others are scheduled.
	jobsAtOnce = 4
	// jobAge is how long a job is remembered after its end.
	jobAge = 24 * time.Hour
	// jobPause is how long a job rests that could not go on, and how often jobs are looked for that other processes were given.
	jobPause = 2 * time.Second
)

// newJobID draws the name of a job.
func newJobID() string { return rand.Text() }

// begin writes a job down, and rings for those who do them.
func (h *Handlers) begin(ctx context.Context, job *storage.Job, wish any) error {
	var err error
	if job.Wish, err = json.Marshal(wish); err != nil {
		return err
	}
	if err := h.store.Do(ctx, func(ctx context.Context) error { return h.store.Jobs.Add(ctx, job) }); err != nil {
		return err
	}
	select {
	case h.begun <- struct{}{}:
	default: // it has been rung already
	}
	return nil
}

// Run does what administrators have set going, until ctx ends. What a crash cut off goes on where it stood.
func (h *Handlers) Run(ctx context.Context) error {
	err := h.store.Leases.Hold(ctx, jobLease, h.work)
	if ctx.Err() != nil {
		return nil // what failed, failed because it was told to stop
	}
	return err
}

// work does jobs, a few at a time, the oldest first. Two about the same room or user never meet.
func (h *Handlers) work(ctx context.Context) error {
	var mu sync.Mutex
	busy := map[string]bool{}
	group := errgroup.Group{}
	group.SetLimit(jobsAtOnce)
	defer func() { _ = group.Wait() }() // jobs report to their rows
	tick := time.NewTicker(jobPause)
	defer tick.Stop()
	for ctx.Err() == nil {
		jobs, err := h.store.Jobs.Open(ctx, 100)
		if err == nil {
			err = h.store.Do(ctx, func(ctx context.Context) error { return h.store.Jobs.Sweep(ctx, time.Now().Add(-jobAge).UnixMilli()) })
		}
		if err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Administrators' jobs are not found, will look again")
		}
		for _, job := range jobs {
			mu.Lock()
			taken := busy[job.Subject]
			if !taken {
				busy[job.Subject] = true
			}
			mu.Unlock()
			if taken {
				continue
			}
			free := func() {
				mu.Lock()
				defer mu.Unlock()
				delete(busy, job.Subject)
			}
			if !group.TryGo(func() error { defer free(); h.do(ctx, job); return nil }) {
				free()
			}
		}
		select {
		case <-ctx.Done():
		case <-h.begun:
		case <-tick.C:
		}
	}
	return nil
}

// do does a job, or as much of it as can be done now. Only a refusal is its end: all else may be better in a while.
func (h *Handlers) do(ctx context.Context, job *storage.Job) {
	log := zerolog.Ctx(ctx).With().Str("job", job.Kind).Str("job_id", job.ID).Str("about", job.Subject).Logger()
	ctx = log.WithContext(ctx)
	job.Status = storage.JobActive
	err := h.store.Jobs.Save(ctx, job)
	if err == nil {
		switch job.Kind {
		case storage.JobDeleteRoom:
			err = h.deleteRoom(ctx, job)
		case storage.JobPurgeHistory:
			err = h.purgeHistory(ctx, job)
		case storage.JobRedactUser:
			err = h.redactUser(ctx, job)
		}
	}
	switch {
	case ctx.Err() != nil:
		return // it goes on after the restart
	case err == nil:
		job.Status = storage.JobComplete
	case refused(err):
		job.Status, job.Error = storage.JobFailed, err.Error()
	default:
		log.Warn().Err(err).Msg("Administrator's job could not go on, will try again")
		select {
		case <-ctx.Done():
		case <-time.After(jobPause):
		}
		return
	}
	if err := h.store.Jobs.Save(ctx, job); err != nil {
		log.Warn().Err(err).Msg("End of an administrator's job is not written down")
		return
	}
	log.Info().Str("status", job.Status).Str("error", job.Error).Stringer("by", job.By).Msg("Administrator's job ended")
}

func refused(err error) bool {
	var refusal *bus.Refusal
	var answer mautrix.RespError
	return errors.As(err, &refusal) || errors.As(err, &answer)
}

// save writes down how far a job has come.
func (h *Handlers) save(ctx context.Context, job *storage.Job, result any) error {
	var err error
	if job.Result, err = json.Marshal(result); err != nil {
		return err
	}
	return h.store.Jobs.Save(ctx, job)
}

// ended waits for a job's end.
func (h *Handlers) ended(ctx context.Context, id string) (*storage.Job, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		job, err := h.store.Jobs.ByID(ctx, id)
		if err != nil || job == nil || job.Finished != 0 {
			return job, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// job finds the job that a path names.
func (h *Handlers) job(r *rest.Request, name, kind string) (*storage.Job, error) {
	job, err := h.store.Jobs.ByID(r.Context(), r.Path(name))
	if err == nil && (job == nil || job.Kind != kind) {
		err = mautrix.MNotFound.WithMessage("There is no such job, or it ended long ago")
	}
	return job, err
}

// slices asks a room to purge until there is no more.
func (h *Handlers) slices(ctx context.Context, ask func(context.Context) (bus.Outcome, error)) (removed int, err error) {
	for {
		o, err := ask(ctx)
		if removed += o.Removed; err != nil || !o.More {
			return removed, err
		}
		if ctx.Err() != nil {
			return removed, ctx.Err()
		}
	}
}

// BackgroundUpdates handles GET /_synapse/admin/v1/background_updates/status. Tables are brought up to date at the start, and
// before anybody comes in: nothing goes on behind.
func (h *Handlers) BackgroundUpdates(*rest.Request) (any, error) {
	return map[string]any{"enabled": true, "current_updates": map[string]any{}}, nil
}

// BackgroundUpdatesEnabled handles GET and POST /_synapse/admin/v1/background_updates/enabled.
func (h *Handlers) BackgroundUpdatesEnabled(r *rest.Request) (any, error) {
	if r.HTTP.Method == "POST" {
		enabled, err := wanted(r, "enabled")
		if err != nil {
			return nil, err
		}
		if !enabled {
			return nil, invalid("There is nothing that could be held up: tables are brought up to date at the start")
		}
	}
	return map[string]bool{"enabled": true}, nil
}
