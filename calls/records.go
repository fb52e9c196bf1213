package calls

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"chancery/calls/signal"
	"chancery/storage"
)

// A call is written down: who was in it, when, by which rule, and what kinds of tracks; never a word of it. The rows are
// written beside the call, in their order, and nobody in it waits for them.

const (
	recordQueue = 1024
	recordTime  = 10 * time.Second
	sweepEvery  = time.Hour
	// orphansEvery is how often is looked for records of foci that are no more.
	orphansEvery = 10 * time.Second
)

// recorder writes what befalls participants.
type recorder struct {
	store *storage.Store
	own   string // this process, where it is the only focus
	keep  time.Duration
	queue chan storage.CallRecord
	now   func() time.Time
}

func newRecorder(store *storage.Store, keep time.Duration, now func() time.Time) *recorder {
	return &recorder{store: store, own: newID("FO_"), keep: keep, queue: make(chan storage.CallRecord, recordQueue), now: now}
}

// note hands a row over; what a database that stands still cannot take is lost, and counted.
func (r *recorder) note(row storage.CallRecord) {
	select {
	case r.queue <- row:
	default:
		recordsLost.Inc()
	}
}

// run writes until ctx ends. many: there are other foci, which may end without a word.
func (r *recorder) run(ctx context.Context, many bool) error {
	if !many { // what is open was cut off
		r.orphans(ctx, true)
	}
	sweep, orphans := time.NewTicker(sweepEvery), time.NewTicker(orphansEvery)
	defer sweep.Stop()
	defer orphans.Stop()
	r.sweep(ctx)
	for {
		select {
		case row := <-r.queue:
			r.write(ctx, &row)
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
	for {
		select {
		case row := <-r.queue:
			r.write(ctx, &row)
		default:
			return
		}
	}
}

func (r *recorder) write(ctx context.Context, row *storage.CallRecord) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	do := r.store.CallRecords.Begin
	if row.Ended != 0 {
		do = r.store.CallRecords.End
	}
	if err := do(ctx, row); err != nil {
		recordsLost.Inc()
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Call record not written")
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
		r.note(storage.CallRecord{
			Session: p.sid, CallSID: p.room.sid, Call: p.room.name, RoomID: p.matrixRoom, UserID: p.user, DeviceID: p.device,
			Focus: p.room.focus.name(), Joined: p.info.JoinedAtMs, Rule: p.ruling.rule,
		})
	}
}

// leaves writes that p has gone.
func (p *Participant) leaves() {
	if r := p.room.focus.records; r != nil {
		r.note(storage.CallRecord{
			Session: p.sid, Ended: max(r.now().UnixMilli(), 1), Reason: p.because.reason.String(), Kinds: strings.Join(p.kinds, ","),
		})
	}
}

// publishes notes which kind of track p has begun to publish.
func (p *Participant) publishes(t *publication) {
	if kind := kindOf(t.info); !slices.Contains(p.kinds, kind) {
		p.kinds = append(p.kinds, kind)
		slices.Sort(p.kinds)
	}
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
