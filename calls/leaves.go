package calls

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
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
	// beginsAnew is how soon somebody is back that said farewell only since its client begins anew: see startsOver. Who hangs up ends its membership itself.
	beginsAnew = 2 * time.Second
	orphaned   = 15 * time.Second
	// longestWait is how long somebody is waited for who has handed a leave over and not come, and how long a leave is sent
	// again and again to a homeserver that does not take it.
	longestWait = time.Hour
	// leavesPerUser and leavesPerServer bound what the foci look after: of one user, and of another server's users. leavesOfOthers is
	// for all the other servers together: our own users' leaves always find their place among leavesMost.
	leavesPerUser   = 100
	leavesPerServer = 2000
	leavesOfOthers  = leavesMost / 2
	// ownAtOnce and othersAtOnce are how many questions wait for an answer at once, from our timers and from another server.
	ownAtOnce    = 64
	othersAtOnce = 8
	// restartShare is the part of the delay after which it is restarted.
	restartShare = 0.8
	// restartLeast is how often it is restarted at most: a caller says what the delay is, and none that is shorter is of use.
	restartLeast = 4 * time.Second
	firstRetry   = 2 * time.Second
	longestRetry = time.Minute
	actTime      = 20 * time.Second
)

// leaves looks after the delayed leaves. Its goroutine, run, owns what is below the line.
type leaves struct {
	focus *Focus
	house *house
	left  chan goodbye
	added chan *storage.CallLeave

	jobs   map[[2]string]*leaveJob
	asked  map[string]*asking // by the server
	done   chan leaveOutcome
	loaded time.Time
	saw    time.Time
	log    zerolog.Logger // of rows that cannot be read
}

// goodbye tells that a participant's session has ended.
type goodbye struct {
	call, identity string
	user           id.UserID
	device         id.DeviceID
	came           time.Time     // since when it was in the call
	grace          time.Duration // it may come back for so long
}

// leaveJob is one delayed leave. Its Seen is as the row has it; other processes' clocks are not compared with ours. What is timed here
// goes on evenly, whatever becomes of the host's clock.
type leaveJob struct {
	*storage.CallLeave
	known   time.Time     // since when we know of it
	since   time.Time     // since when it waits, by the row
	restart time.Time     // when it is restarted next, while the participant is here
	stirred time.Time     // when we last found that another process had the participant
	present bool          // this focus has the participant
	named   bool          // it has had one of exactly this name: the device no longer stands for it
	here    bool          // it was the last that had
	away    time.Time     // since when it has not; zero while it has
	grace   time.Duration // how long it may be away
	busy    bool          // something is being asked, or waits to be
	retry   time.Time     // not before
	pause   time.Duration
	tried   bus.DelayedAction // what was last asked in vain,
	failing time.Time         // and since when; zero: nothing
}

// asking is what one server is asked: so much at once, and the rest after it.
type asking struct {
	running int
	waiting []*leaveJob
}

type leaveOutcome struct {
	job    *leaveJob
	action bus.DelayedAction
	err    error
}

func newLeaves(f *Focus, h *house) *leaves {
	return &leaves{
		focus: f, house: h, left: make(chan goodbye, 4096), added: make(chan *storage.CallLeave, 256),
		jobs: map[[2]string]*leaveJob{}, asked: map[string]*asking{}, done: make(chan leaveOutcome, 64),
	}
}

// leftCall notes that p's session has ended. It never blocks: what does not fit is found when the rows are next looked at.
func (l *leaves) leftCall(p *Participant) {
	d := goodbye{call: p.room.name, identity: p.identity, user: p.user, device: p.device, came: p.came}
	switch p.because.reason {
	case signal.DisconnectReason_DUPLICATE_IDENTITY:
		d.grace = comeBack
	case signal.DisconnectReason_CLIENT_INITIATED:
		d.grace = beginsAnew
	case signal.DisconnectReason_CONNECTION_TIMEOUT: // it has had its time
	default:
		if p.because.action == signal.Leave_RECONNECT && !p.because.silent {
			d.grace = comeBack
		}
	}
	select {
	case l.left <- d:
	default:
	}
}

// run looks after the leaves until ctx ends.
func (l *leaves) run(ctx context.Context) error {
	l.log = seldom(ctx)
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
			l.take(row, time.Now())
			l.visit(ctx, time.Now())
		case o := <-l.done:
			l.settle(ctx, o, time.Now())
			l.next(ctx, o.job.UserID.Homeserver(), time.Now())
		case now := <-tick.C:
			l.visit(ctx, now)
		}
	}
}

func (j *leaveJob) key() [2]string { return [2]string{j.Call, j.Identity} }

// callDevice is a device in a call: it stands for a participant whose leave was handed over by another name than its session has.
// Where a row has the session's name the device stands for no other: those are of sessions that were before, or are still to come.
type callDevice struct {
	call   string
	user   id.UserID
	device id.DeviceID
}

// by is the device that may stand for the participant, if there is one.
func (j *leaveJob) by() (d callDevice, ok bool) {
	return callDevice{j.Call, j.UserID, j.DeviceID}, j.DeviceID != "" && !j.named
}

// take notes a row. A Seen that we did not write is another process's word that the participant is there.
func (l *leaves) take(row *storage.CallLeave, now time.Time) {
	fresh := &leaveJob{CallLeave: row, known: now, stirred: now, grace: comeBack, since: now.Add(time.UnixMilli(row.Since).Sub(now.Round(0)))}
	known := l.jobs[fresh.key()]
	switch {
	case known == nil || known.DelayID != row.DelayID:
		fresh.named = known != nil && known.named
		l.jobs[fresh.key()] = fresh
	case row.Seen != 0 && row.Seen != known.Seen:
		known.Seen, known.stirred = row.Seen, now
		if !known.present {
			known.here, known.grace, known.away = false, comeBack, time.Time{}
		}
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
			l.log.Warn().Err(err).Msg("Delayed leaves of calls not read, will try again")
		}
		for _, job := range l.jobs {
			job.stirred = now // whether another process has it could not be seen
		}
		return
	}
	l.loaded = now
	there := make(map[[2]string]bool, len(rows))
	for _, row := range rows {
		there[[2]string{row.Call, row.Identity}] = true
		l.take(row, now)
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
		l.act(ctx, job, now)
	}
}

// witness notes which of the participants are here, in memory and now and then in the rows.
func (l *leaves) witness(ctx context.Context, now time.Time) {
	l.find()
	var saw, came [][2]string
	for key, job := range l.jobs {
		switch {
		case job.present:
			if !job.here {
				job.here, job.restart = true, now
				came = append(came, key)
			}
			job.away, job.grace = time.Time{}, comeBack
			saw = append(saw, key)
		case job.here && job.away.IsZero():
			job.away = now
		}
	}
	if now.Sub(l.saw) < sawEvery {
		saw = came // who had them before hears of it in time
	} else {
		l.saw = now
	}
	if err := l.house.store.CallLeaves.Saw(ctx, now.UnixMilli(), saw); err != nil {
		if ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Not written who is in calls")
		}
		return
	}
	for _, key := range saw {
		l.jobs[key].Seen = now.UnixMilli()
	}
}

// find says of each job whether its participant is here: by its name, or else by a session of its device that no row names.
func (l *leaves) find() {
	unnamed := map[callDevice]bool{}
	for _, job := range l.jobs {
		job.present = false
	}
	for _, r := range l.focus.liveRooms() {
		for _, p := range *r.everyone.Load() {
			if p.ended() { // the room has yet to hear of it
				continue
			}
			if job := l.jobs[[2]string{r.name, p.identity}]; job != nil {
				job.present, job.named = true, true
			} else {
				unnamed[callDevice{r.name, p.user, p.device}] = true
			}
		}
	}
	for _, job := range l.jobs {
		if device, ok := job.by(); ok {
			job.present = unnamed[device]
		}
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
	wait := min(job.timeout(), longestWait)
	switch {
	case job.present && !now.Before(job.restart):
		return bus.DelayedRestart
	case job.present:
		return ""
	case job.here:
		if now.Sub(job.away) >= job.grace {
			return bus.DelayedSend
		}
	case job.Seen != 0:
		if now.Sub(job.stirred) >= orphaned { // its focus is no more
			return bus.DelayedSend
		}
	case now.Sub(job.since) >= wait && now.Sub(job.known) >= min(wait, orphaned):
		return bus.DelayedSend
	}
	return ""
}

func (j *leaveJob) timeout() time.Duration { return time.Duration(j.Timeout) * time.Millisecond }

// patience is how long an action is tried again: by then the homeserver, had it been there, would have sent the leave by itself.
func (j *leaveJob) patience(action bus.DelayedAction) time.Duration {
	if action == bus.DelayedRestart {
		return j.timeout()
	}
	return min(j.timeout(), longestWait)
}

// departed takes a session's end: who left for good is gone at once. A leave that was handed over during the session may be the next one's,
// which has yet to come: it is waited for as one that may come back.
func (l *leaves) departed(ctx context.Context, d goodbye) {
	now := time.Now()
	for _, job := range l.of(d) {
		job.here, job.grace = true, d.grace
		if job.away.IsZero() {
			job.away = now
		}
		if d.came.Before(job.known) {
			job.grace = max(d.grace, job.known.Add(comeBack).Sub(job.away))
		}
	}
	l.visit(ctx, now)
}

// of gives whom a session's end concerns: whom it names, or else those for whom its device stands.
func (l *leaves) of(d goodbye) (jobs []*leaveJob) {
	if job := l.jobs[[2]string{d.call, d.identity}]; job != nil {
		return []*leaveJob{job}
	}
	for _, job := range l.jobs {
		if device, ok := job.by(); ok && device == (callDevice{d.call, d.user, d.device}) {
			jobs = append(jobs, job)
		}
	}
	return jobs
}

// act does what a leave's time has come for, as soon as its server has answered others' questions.
func (l *leaves) act(ctx context.Context, job *leaveJob, now time.Time) {
	action := l.due(job, now)
	if action == "" || job.busy || now.Before(job.retry) {
		return
	}
	server := job.UserID.Homeserver()
	way := l.asked[server]
	if way == nil {
		way = &asking{}
		l.asked[server] = way
	}
	job.busy = true
	if way.running >= l.atOnce(server) {
		way.waiting = append(way.waiting, job)
		return
	}
	way.running++
	l.ask(ctx, job, action)
}

func (l *leaves) atOnce(server string) int {
	if server == l.house.name {
		return ownAtOnce
	}
	return othersAtOnce
}

// next follows an answer of the server with what waits for it, if that still is to be done.
func (l *leaves) next(ctx context.Context, server string, now time.Time) {
	way := l.asked[server]
	way.running--
	for len(way.waiting) > 0 && way.running < l.atOnce(server) {
		job := way.waiting[0]
		way.waiting = way.waiting[1:]
		if job.busy = false; l.jobs[job.key()] == job {
			l.act(ctx, job, now)
		}
	}
	if way.running == 0 {
		delete(l.asked, server)
	}
}

// ask asks the timers' holder, ours or the other server's.
func (l *leaves) ask(ctx context.Context, job *leaveJob, action bus.DelayedAction) {
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
func (l *leaves) settle(ctx context.Context, o leaveOutcome, now time.Time) {
	job := o.job
	job.busy = false
	var refusal *bus.Refusal
	gone := errors.As(o.err, &refusal) && refusal.Status == http.StatusNotFound && refusal.Code != mautrix.MUnrecognized.ErrCode // that has no such route, today
	outcome := "ok"
	switch {
	case gone, o.err == nil && o.action == bus.DelayedSend:
		if gone {
			outcome = "gone"
		}
		l.forget(ctx, job)
	case o.err == nil:
		job.pause, job.retry, job.failing = 0, time.Time{}, time.Time{}
		job.restart = now.Add(max(time.Duration(float64(job.Timeout)*restartShare)*time.Millisecond, restartLeast))
		job.Restart = job.restart.UnixMilli()
		if err := l.house.store.CallLeaves.Again(ctx, job.CallLeave); err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed leave of a call not written")
		}
	case job.vain(o.action, now):
		outcome = "given_up"
		zerolog.Ctx(ctx).Warn().Err(o.err).Str("action", string(o.action)).Str("server", job.UserID.Homeserver()).Msg("Delayed leave of a call given up")
		l.forget(ctx, job)
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

// vain notes that an action failed, and says whether it has been tried for long enough.
func (j *leaveJob) vain(action bus.DelayedAction, now time.Time) bool {
	if j.failing.IsZero() || j.tried != action {
		j.tried, j.failing = action, now
	}
	return now.Sub(j.failing) >= j.patience(action)
}

func (l *leaves) forget(ctx context.Context, job *leaveJob) {
	if l.jobs[job.key()] == job {
		delete(l.jobs, job.key())
	}
	if err := l.house.store.CallLeaves.Delete(ctx, job.CallLeave); err != nil && ctx.Err() == nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed leave of a call not forgotten") // it is asked for again
	}
}

var errTooManyLeaves = mautrix.MLimitExceeded.WithMessage("Too many delayed leaves wait already").WithStatus(http.StatusTooManyRequests)

// fits says whether there is room for one more leave of this user: nobody's crowd out the others'.
func (l *leaves) fits(ctx context.Context, row *storage.CallLeave) error {
	n, err := l.house.store.CallLeaves.Count(ctx, row, l.house.name)
	if err != nil {
		return wrap(err, "count delayed leaves")
	}
	if n.User >= leavesPerUser || row.UserID.Homeserver() != l.house.name && (n.Server >= leavesPerServer || n.Others >= leavesOfOthers) {
		return errTooManyLeaves
	}
	return nil
}

// hand takes a delayed leave over for a participant.
func (l *leaves) hand(ctx context.Context, row *storage.CallLeave) error {
	if err := l.fits(ctx, row); err != nil {
		return err
	}
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
