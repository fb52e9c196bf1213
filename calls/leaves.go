package calls

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/storage"
	"chancery/storage/bus"
)

// A client that is in a call has its leave wait at its homeserver as a delayed event, and hands it over to the focus, which
// knows better than the client's network whether it is still there: while it is, the event is restarted; once it is not, it
// is sent. The rows outlive a focus, and whichever process finds one forsaken sends it.

const (
	leavesEvery  = 500 * time.Millisecond
	leavesReload = 5 * time.Second
	leavesMost   = 20_000
	// sawEvery is how often it is written that participants are still there.
	sawEvery = 5 * time.Second
	// comeBack is how long somebody may be away who was told to come back, or whose focus is no more.
	comeBack = 12 * time.Second
	orphaned = 15 * time.Second
	// longestWait is how long somebody is waited for who has handed a leave over and not come.
	longestWait = time.Hour
	// restartShare is the part of the delay after which it is restarted.
	restartShare = 0.8
	firstRetry   = 2 * time.Second
	longestRetry = time.Minute
	actTime      = 20 * time.Second
)

// leaves looks after the delayed leaves. Its goroutine, run, owns what is below the line.
type leaves struct {
	focus *Focus
	house *house
	began time.Time
	left  chan goodbye
	added chan *storage.CallLeave

	jobs   map[[2]string]*leaveJob
	done   chan leaveOutcome
	loaded time.Time
	saw    time.Time
}

// goodbye tells that a participant's session has ended.
type goodbye struct {
	call, identity string
	user           id.UserID
	device         id.DeviceID
	returns        bool // it was told to come back
}

// leaveJob is one delayed leave.
type leaveJob struct {
	*storage.CallLeave
	present bool      // this focus has the participant
	here    bool      // it has, or had
	away    time.Time // since when it has not; zero while it has
	soon    bool      // it left for good
	busy    bool      // something is being asked
	retry   time.Time // not before
	pause   time.Duration
}

type leaveOutcome struct {
	job    *leaveJob
	action bus.DelayedAction
	err    error
}

func newLeaves(f *Focus, h *house) *leaves {
	return &leaves{
		focus: f, house: h, left: make(chan goodbye, 4096), added: make(chan *storage.CallLeave, 256),
		jobs: map[[2]string]*leaveJob{}, done: make(chan leaveOutcome, 64),
	}
}

// leftCall notes that p's session has ended. It never blocks: what does not fit is found when the rows are next looked at.
func (l *leaves) leftCall(p *Participant) {
	d := goodbye{call: p.room.name, identity: p.identity, user: p.user, device: p.device}
	switch p.because.reason {
	case signal.DisconnectReason_DUPLICATE_IDENTITY:
		d.returns = true
	case signal.DisconnectReason_CONNECTION_TIMEOUT: // it has had its time
	default:
		d.returns = p.because.action == signal.Leave_RECONNECT && !p.because.silent
	}
	select {
	case l.left <- d:
	default:
	}
}

// run looks after the leaves until ctx ends.
func (l *leaves) run(ctx context.Context) error {
	l.began = time.Now()
	tick := time.NewTicker(leavesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.saw = time.Time{} // whoever comes after us knows who was here
			l.witness(context.WithoutCancel(ctx), time.Now())
			return nil
		case d := <-l.left:
			l.departed(ctx, d)
		case row := <-l.added:
			l.take(row)
			l.visit(ctx, time.Now())
		case o := <-l.done:
			l.settle(ctx, o)
		case now := <-tick.C:
			l.visit(ctx, now)
		}
	}
}

func (l *leaves) take(row *storage.CallLeave) {
	key := [2]string{row.Call, row.Identity}
	if known := l.jobs[key]; known == nil || known.DelayID != row.DelayID {
		l.jobs[key] = &leaveJob{CallLeave: row}
	} else {
		known.Seen = max(known.Seen, row.Seen)
	}
}

// reload reads the rows: some are other processes'.
func (l *leaves) reload(ctx context.Context, now time.Time) {
	if now.Sub(l.loaded) < leavesReload {
		return
	}
	rows, err := l.house.store.CallLeaves.All(ctx, leavesMost)
	if err != nil {
		if ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed leaves of calls not read, will try again")
		}
		return
	}
	l.loaded = now
	there := make(map[[2]string]bool, len(rows))
	for _, row := range rows {
		there[[2]string{row.Call, row.Identity}] = true
		l.take(row)
	}
	for key, job := range l.jobs {
		if !there[key] && !job.busy {
			delete(l.jobs, key) // another process is done with it
		}
	}
}

// visit does for each leave what its time has come for.
func (l *leaves) visit(ctx context.Context, now time.Time) {
	l.reload(ctx, now)
	if len(l.jobs) == 0 {
		return
	}
	l.witness(ctx, now)
	for _, job := range l.jobs {
		if action := l.due(job, now); action != "" && !job.busy && !now.Before(job.retry) {
			job.busy = true
			l.act(ctx, job, action)
		}
	}
}

// witness notes which of the participants are here, in memory and now and then in the rows.
func (l *leaves) witness(ctx context.Context, now time.Time) {
	present := map[[2]string]bool{}
	for _, r := range l.focus.liveRooms() {
		for _, p := range *r.everyone.Load() {
			if p.ended() { // the room has yet to hear of it
				continue
			}
			present[[2]string{r.name, p.identity}] = true
			present[[2]string{r.name, string(p.user) + " " + string(p.device)}] = true
		}
	}
	var saw [][2]string
	for key, job := range l.jobs {
		job.present = present[key] || job.DeviceID != "" && present[[2]string{job.Call, string(job.UserID) + " " + string(job.DeviceID)}]
		switch {
		case job.present:
			if !job.here {
				job.here, job.Restart = true, now.UnixMilli()
			}
			job.away, job.soon, job.Seen = time.Time{}, false, now.UnixMilli()
			saw = append(saw, key)
		case job.here && job.away.IsZero():
			job.away = now
		}
	}
	if now.Sub(l.saw) < sawEvery {
		return
	}
	l.saw = now
	if err := l.house.store.CallLeaves.Saw(ctx, now.UnixMilli(), saw); err != nil && ctx.Err() == nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Not written who is in calls")
	}
}

// ended says whether p's session is over, though its room may still hold it.
func (p *Participant) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// due says what is to be done about a leave now.
func (l *leaves) due(job *leaveJob, now time.Time) bus.DelayedAction {
	since := time.UnixMilli(job.Since)
	seen := time.UnixMilli(max(job.Seen, l.began.UnixMilli()))
	timeout := time.Duration(job.Timeout) * time.Millisecond
	switch {
	case job.present && now.UnixMilli() >= job.Restart:
		return bus.DelayedRestart
	case job.present:
		return ""
	case job.soon, job.here && now.Sub(job.away) >= comeBack:
		return bus.DelayedSend
	case job.Seen != 0 && !job.here && now.Sub(seen) >= orphaned: // its focus is no more
		return bus.DelayedSend
	case job.Seen == 0 && now.Sub(since) >= min(timeout, longestWait):
		return bus.DelayedSend
	}
	return ""
}

// departed takes a session's end: who left for good is gone at once.
func (l *leaves) departed(ctx context.Context, d goodbye) {
	now := time.Now()
	for _, job := range l.jobs {
		if job.Call != d.call || job.Identity != d.identity && (job.UserID != d.user || job.DeviceID != d.device) {
			continue
		}
		job.here, job.soon = true, !d.returns
		if job.away.IsZero() {
			job.away = now
		}
	}
	l.visit(ctx, now)
}

// act asks the timers' holder, ours or the other server's.
func (l *leaves) act(ctx context.Context, job *leaveJob, action bus.DelayedAction) {
	row := *job.CallLeave
	l.focus.live.Go(func() {
		asking, cancel := context.WithTimeout(ctx, actTime)
		defer cancel()
		o := leaveOutcome{job, action, l.house.delayed(asking, row.UserID.Homeserver(), row.DelayID, action)}
		select {
		case l.done <- o:
		case <-ctx.Done():
		}
	})
}

// delayed does something with a delayed event at the server whose user made it.
func (h *house) delayed(ctx context.Context, server, delay string, action bus.DelayedAction) error {
	if server == h.name {
		_, err := bus.Ask[bus.DelayedQuestion, bus.DelayedAnswer](ctx, h.bus, bus.DelayedDo, bus.DelayedQuestion{ID: delay, Action: action})
		return err
	}
	_, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, bus.FederationQuestion{
		DelayedLeave: &bus.DelayedLeave{Server: server, DelayID: delay, Action: action},
	})
	return err
}

// settle takes what came of an action.
func (l *leaves) settle(ctx context.Context, o leaveOutcome) {
	job := o.job
	job.busy = false
	var refusal *bus.Refusal
	gone := errors.As(o.err, &refusal) && refusal.Status == http.StatusNotFound
	now := time.Now()
	outcome := "ok"
	switch {
	case gone, o.err == nil && o.action == bus.DelayedSend:
		if gone {
			outcome = "gone"
		}
		if l.jobs[[2]string{job.Call, job.Identity}] == job {
			delete(l.jobs, [2]string{job.Call, job.Identity})
		}
		if err := l.house.store.CallLeaves.Delete(ctx, job.CallLeave); err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed leave of a call not forgotten") // it is asked for again, and gone
		}
	case o.err == nil:
		job.pause, job.retry = 0, time.Time{}
		job.Restart = now.Add(time.Duration(float64(job.Timeout)*restartShare) * time.Millisecond).UnixMilli()
		if err := l.house.store.CallLeaves.Again(ctx, job.CallLeave); err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed leave of a call not written")
		}
	default:
		outcome = "failed"
		job.pause = min(max(2*job.pause, firstRetry), longestRetry)
		if refusal != nil && refusal.Status == http.StatusTooManyRequests {
			if ms, ok := refusal.Extra["retry_after_ms"].(float64); ok && ms > 0 {
				job.pause = min(time.Duration(ms)*time.Millisecond, longestRetry)
			}
		}
		job.retry = now.Add(job.pause)
		zerolog.Ctx(ctx).Warn().Err(o.err).Str("action", string(o.action)).Msg("Delayed leave of a call, will try again")
	}
	delegated.WithLabelValues(string(o.action), outcome).Inc()
}

// hand takes a delayed leave over for a participant.
func (l *leaves) hand(ctx context.Context, row *storage.CallLeave) error {
	now := time.Now()
	row.Since, row.Restart = now.UnixMilli(), now.UnixMilli()
	if err := l.house.store.CallLeaves.Put(ctx, row); err != nil {
		return err
	}
	select {
	case l.added <- row:
	default: // found when the rows are next read
	}
	return nil
}

// mayHandOver says whether a delayed event is the user's own, in this room: a row of ours, or one that only the other server knows.
func (h *house) mayHandOver(ctx context.Context, row *storage.CallLeave, strict bool) error {
	server := row.UserID.Homeserver()
	if server != h.name {
		_, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, bus.FederationQuestion{
			DelayedLeave: &bus.DelayedLeave{Server: server, Look: true},
		})
		if err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Str("server", server).Msg("Client API of another server not found")
			return errNoClientAPI
		}
		return nil
	}
	d, err := h.store.DelayedEvents.ByID(ctx, row.DelayID)
	switch {
	case err != nil:
		return wrap(err, "read delayed event")
	case d == nil || d.Outcome != "":
		if strict {
			return errNoDelay
		}
		return nil // it is gone: nothing is to be looked after
	case d.UserID != row.UserID || d.RoomID != row.RoomID:
		return errNoDelay
	}
	row.Timeout = d.Delay
	return nil
}
