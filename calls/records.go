package calls

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"chancery/calls/signal"
	"chancery/storage"
)

// A call is written down: who was in it, when, by which rule, and what kinds of tracks; never a word of it. The rows are
// written beside the call, and nobody in it waits for them.

const (
	// recordsMost is how many sessions may wait to be written down. Who comes when it is reached is not recorded; who was
	// recorded before is to the end.
	recordsMost  = 1 << 16
	recordsBatch = 200
	recordTime   = 10 * time.Second
	sweepEvery   = time.Hour
	// recordsAgain is when is tried again what could not be written.
	recordsAgain = 2 * time.Second
	// orphansEvery is how often is looked for records of foci that are no more.
	orphansEvery = 10 * time.Second
)

// recorder writes what befalls participants. A session that changes again before it was written is written once, as it is
// then; what cannot be written waits.
type recorder struct {
	store *storage.Store
	own   string // this process, where it is the only focus
	keep  time.Duration
	now   func() time.Time
	wake  chan struct{} // holds one when there is something to write

	mu      sync.Mutex
	waiting map[string]storage.CallRecord // by session
}

func newRecorder(store *storage.Store, keep time.Duration, now func() time.Time) *recorder {
	return &recorder{
		store: store, own: newID("FO_"), keep: keep, now: now,
		wake: make(chan struct{}, 1), waiting: map[string]storage.CallRecord{},
	}
}

// note has a session written down as it is now. It is false if there is no room for one that is new.
func (r *recorder) note(row storage.CallRecord, isNew bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isNew && len(r.waiting) >= recordsMost {
		recordsLost.Inc()
		return false
	}
	r.waiting[row.Session] = row
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// run writes until ctx ends. many: there are other foci, which may end without a word.
func (r *recorder) run(ctx context.Context, many bool) error {
	if !many { // what is open was cut off
		r.orphans(ctx, true)
	}
	sweep, orphans, again := time.NewTicker(sweepEvery), time.NewTicker(orphansEvery), time.NewTicker(recordsAgain)
	defer sweep.Stop()
	defer orphans.Stop()
	defer again.Stop()
	r.sweep(ctx)
	for {
		select {
		case <-r.wake:
			r.write(ctx)
		case <-again.C:
			r.write(ctx)
		case <-sweep.C:
			r.sweep(ctx)
		case <-orphans.C:
			if many {
				r.orphans(ctx, false)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// finish writes what is left when nobody adds to it any more.
func (r *recorder) finish(ctx context.Context) {
	r.write(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	recordsLost.Add(float64(len(r.waiting)))
}

// write writes all that waits, until something fails.
func (r *recorder) write(ctx context.Context) {
	for batch := r.take(); len(batch) > 0; batch = r.take() {
		if err := r.put(ctx, batch); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Int("records", len(batch)).Msg("Call records not written, will try again")
			r.putBack(batch)
			return
		}
	}
}

func (r *recorder) put(ctx context.Context, batch []*storage.CallRecord) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	return r.store.CallRecords.Put(ctx, batch...)
}

// take gives some of what waits.
func (r *recorder) take() (batch []*storage.CallRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for session, row := range r.waiting {
		if len(batch) == recordsBatch {
			break
		}
		batch = append(batch, &row)
		delete(r.waiting, session)
	}
	return batch
}

// putBack keeps what could not be written, unless something newer waits.
func (r *recorder) putBack(batch []*storage.CallRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range batch {
		if _, newer := r.waiting[row.Session]; !newer {
			r.waiting[row.Session] = *row
		}
	}
}

func (r *recorder) orphans(ctx context.Context, everything bool) {
	if err := r.store.CallRecords.Orphans(ctx, everything); err != nil && ctx.Err() == nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Call records of foci that are no more not ended")
	}
}

func (r *recorder) sweep(ctx context.Context) {
	if r.keep <= 0 {
		return
	}
	if err := r.store.CallRecords.Sweep(ctx, r.now().Add(-r.keep).UnixMilli()); err != nil && ctx.Err() == nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Old call records not forgotten")
	}
}

// enters writes that p has come in.
func (p *Participant) enters() {
	if r := p.room.focus.records; r != nil {
		p.record = storage.CallRecord{
			Session: p.sid, CallSID: p.room.sid, Call: p.room.name, RoomID: p.matrixRoom, UserID: p.user, DeviceID: p.device,
			Focus: p.room.focus.name(), Joined: p.info.JoinedAtMs, Rule: p.ruled(),
		}
		p.recorded = r.note(p.record, true)
	}
}

// leaves writes that p has gone.
func (p *Participant) leaves() {
	if p.recorded {
		r := p.room.focus.records
		p.record.Ended, p.record.Reason = max(r.now().UnixMilli(), 1), p.because.reason.String()
		r.note(p.record, false)
	}
}

// publishes writes which kind of track p has begun to publish, the first time.
func (p *Participant) publishes(t *publication) {
	kind := kindOf(t.info)
	if !p.recorded || slices.Contains(p.kinds, kind) {
		return
	}
	p.kinds = append(p.kinds, kind)
	slices.Sort(p.kinds)
	p.record.Kinds = strings.Join(p.kinds, ",")
	p.room.focus.records.note(p.record, false)
}

// kindOf names a kind of track as operators read it.
func kindOf(t *signal.Track) string {
	switch t.Source {
	case signal.TrackSource_CAMERA:
		return "camera"
	case signal.TrackSource_MICROPHONE:
		return "microphone"
	case signal.TrackSource_SCREEN_SHARE:
		return "screen"
	case signal.TrackSource_SCREEN_SHARE_AUDIO:
		return "screen audio"
	}
	if t.Type == signal.TrackType_VIDEO {
		return "video"
	}
	return "audio"
}
