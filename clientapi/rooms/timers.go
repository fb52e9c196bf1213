package rooms

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	timersLease   = "delayed"
	upgradesLease = "upgrades"
	// maxWaiting bounds the events whose timers are held in memory at once; later ones are read when these are done.
	maxWaiting = 100_000
	// keepFinished is how long one may ask about an event that was sent or cancelled.
	keepFinished = 7 * 24 * time.Hour
	// maxFinished bounds how many of them are kept for one user.
	maxFinished = 1000
	// lookEvery is how often rows are read anew: for those that were added without our hearing of it.
	lookEvery = 30 * time.Second
)

// Run holds the timers of delayed events and feeds the search index, until ctx ends. Where other processes could do the
// same, one of them does, and the others stand by.
func (h *Handlers) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.store.Leases.Hold(ctx, timersLease, h.hold) })
	group.Go(func() error { return h.index.run(ctx) })
	group.Go(func() error { return h.store.Leases.Hold(ctx, upgradesLease, h.finishUpgrades) })
	return group.Wait()
}

type delayedQuestion = bus.Question[bus.DelayedQuestion, bus.DelayedAnswer]

// timers belong to one goroutine, that of hold.
type timers struct {
	*Handlers
	waiting map[string]*timer
	// sent brings back what became of events that were sent.
	sent chan sent
	out  int
}

// timer is one event that waits.
type timer struct {
	*storage.DelayedEvent
	// due, in memory. The row says the same until the first restart; from then on it says a fifth of the delay more than
	// its own start would: restarts within that fifth are not written, and after a crash nothing may fire early. It is a
	// time that goes on evenly, whatever becomes of the host's clock.
	due time.Time
	// written is when the start of the delay was last written, zero for not since this process holds the timer.
	written time.Time
	sending bool
	askers  []*delayedQuestion
	// failing is since when it could be neither sent nor refused for good, zero if it was not tried; pause is how long it waited last.
	failing time.Time
	pause   time.Duration
}

// vain says whether it has been tried for long enough: the next refusal is the last, of whatever kind.
func (w *timer) vain(now time.Time) bool {
	return !w.failing.IsZero() && now.Sub(w.failing) >= tryFor
}

type sent struct {
	*timer
	err error
}

// newTimer is the timer of a row, as long from now as the row says.
func newTimer(d *storage.DelayedEvent, now time.Time) *timer {
	return &timer{DelayedEvent: d, due: now.Add(time.Duration(d.Due-now.UnixMilli()) * time.Millisecond)}
}

// hold keeps the timers, and answers on delayed.do.
func (h *Handlers) hold(ctx context.Context) error {
	t := &timers{Handlers: h, waiting: map[string]*timer{}, sent: make(chan sent, 16)}
	if err := t.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	questions := make(chan *delayedQuestion, 1024)
	stop, err := bus.Serve(h.bus, bus.DelayedDo, func(q *delayedQuestion) {
		select {
		case questions <- q:
		default:
			q.Respond(bus.DelayedAnswer{}, bus.Refuse(429, "M_LIMIT_EXCEEDED", "Too many requests about delayed events"))
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		next := time.NewTimer(t.next())
		select {
		case <-ctx.Done():
			next.Stop()
			t.end(context.WithoutCancel(ctx))
			return nil
		case q := <-questions:
			t.answer(ctx, q)
		case s := <-t.sent:
			t.settle(ctx, s)
		case <-next.C:
			t.fire(ctx, t.ripe())
		case <-look.C:
			if err := t.load(ctx); err != nil {
				zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed events not read")
			}
		}
		next.Stop()
	}
}

// load reads the rows that wait.
func (t *timers) load(ctx context.Context) error {
	rows, err := t.store.DelayedEvents.Waiting(ctx, maxWaiting)
	if err != nil {
		return err
	}
	for _, d := range rows {
		if t.waiting[d.ID] == nil {
			t.waiting[d.ID] = newTimer(d, t.now())
		}
	}
	return t.store.DelayedEvents.Sweep(ctx, t.now().Add(-keepFinished).UnixMilli(), maxFinished)
}

// next is how long nothing is due.
func (t *timers) next() time.Duration {
	now, wait := t.now(), lookEvery
	for _, w := range t.waiting {
		if !w.sending {
			wait = min(wait, w.due.Sub(now))
		}
	}
	return max(0, wait)
}

// ripe are the events that are due, in the order of their times.
func (t *timers) ripe() []*timer {
	now := t.now()
	var due []*timer
	for _, w := range t.waiting {
		if !w.sending && !w.due.After(now) {
			due = append(due, w)
		}
	}
	slices.SortFunc(due, func(a, b *timer) int { return a.due.Compare(b.due) })
	return due
}

// sendAtOnce is for how many rooms events are sent at once.
const sendAtOnce = 16

// fire sends the events, those of each room one after another, without holding the timers up: a room may have to wait for its policy server,
// and the others need not.
func (t *timers) fire(ctx context.Context, due []*timer) {
	if len(due) == 0 {
		return
	}
	for _, w := range due {
		w.sending = true
	}
	t.out += len(due)
	// It goes on though ctx may end: an event that was sent shall be noted as sent.
	ctx = context.WithoutCancel(ctx)
	byRoom := map[id.RoomID][]*timer{}
	for _, w := range due {
		byRoom[w.RoomID] = append(byRoom[w.RoomID], w)
	}
	go func() {
		var group errgroup.Group
		group.SetLimit(sendAtOnce)
		for _, list := range byRoom {
			group.Go(func() error {
				for _, w := range list {
					t.sent <- sent{w, t.send(ctx, w.DelayedEvent, w.vain(t.now()))}
				}
				return nil
			})
		}
		_ = group.Wait() // none of them fails: what came of each event is told apart
	}()
}

// send has the room make the event, and notes what came of it. The event's delay ID is its transaction ID: sent
// twice, it is one event. A refusal that may pass is an error, and the event goes on waiting, unless this is the last try.
func (h *Handlers) send(ctx context.Context, d *storage.DelayedEvent, last bool) error {
	p := bus.Proposal{
		Sender: d.UserID, Type: d.Type, StateKey: d.StateKey, Content: d.Content, Device: d.DeviceID, Path: view.DelayedPath, TransactionID: d.ID, Sticky: d.Sticky,
	}
	eventID, err := h.sendScheduled(ctx, d.RoomID, p)
	done := *d
	done.Finished = h.now().UnixMilli()
	var refusal *bus.Refusal
	var denied mautrix.RespError
	switch {
	case err == nil:
		done.Outcome, done.EventID = storage.DelayedSent, eventID
	case errors.As(err, &refusal) && (last || !passing(refusal.Status)):
		done.Outcome, done.Error = storage.DelayedFailed, object(map[string]any{"errcode": refusal.Code, "error": refusal.Message})
	case errors.As(err, &denied) && (last || !passing(denied.StatusCode)):
		done.Outcome, done.Error = storage.DelayedFailed, object(map[string]any{"errcode": denied.ErrCode, "error": denied.Err})
	default:
		return err
	}
	return h.store.DelayedEvents.Finish(ctx, &done)
}

// sendScheduled has the room make the event, if its sender may still speak. Who is shadow-banned is told that it was made.
func (h *Handlers) sendScheduled(ctx context.Context, roomID id.RoomID, p bus.Proposal) (id.EventID, error) {
	if shadowed, err := h.maySpeak(ctx, p); err != nil {
		return "", err
	} else if shadowed {
		return pretendedID(), nil
	}
	if p.StateKey != nil {
		return h.sendState(ctx, roomID, p)
	}
	return h.sendMessage(ctx, roomID, p)
}

// passing says whether a refusal is one of the moment: another server that is asked about the event is away, or there is too much to do.
func passing(status int) bool {
	return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
}

const (
	// retryAfter is how soon an event is tried again that could neither be sent nor refused; then after twice as long, up to retryMost.
	retryAfter, retryMost = 2 * time.Second, time.Minute
	// tryFor is how long it is tried.
	tryFor = time.Hour
)

// settle takes note of an event that was sent, or could not be.
func (t *timers) settle(ctx context.Context, s sent) {
	t.out--
	s.sending = false
	if s.err == nil {
		delete(t.waiting, s.ID)
	} else {
		zerolog.Ctx(ctx).Warn().Err(s.err).Stringer("room_id", s.RoomID).Msg("Delayed event not sent, will try again")
		now := t.now()
		if s.failing.IsZero() {
			s.failing = now
		}
		s.pause = min(max(2*s.pause, retryAfter), retryMost)
		s.due = now.Add(s.pause)
	}
	for _, q := range s.askers {
		q.Respond(bus.DelayedAnswer{}, s.err)
	}
	s.askers = nil
}

// answer does what is asked about one event.
func (t *timers) answer(ctx context.Context, q *delayedQuestion) {
	w, err := t.find(ctx, q.Body)
	if w == nil || err != nil {
		q.Respond(bus.DelayedAnswer{}, err)
		return
	}
	now := t.now()
	switch {
	case q.Body.Added:
		q.Respond(bus.DelayedAnswer{}, nil)
	case w.sending && q.Body.Action == bus.DelayedSend:
		w.askers = append(w.askers, q)
	case w.sending:
		q.Respond(bus.DelayedAnswer{}, gone)
	case q.Body.Action == bus.DelayedSend:
		w.askers = append(w.askers, q)
		t.fire(ctx, []*timer{w})
	case q.Body.Action == bus.DelayedCancel:
		done := *w.DelayedEvent
		done.Outcome, done.Finished = storage.DelayedCancelled, now.UnixMilli()
		err := t.store.DelayedEvents.Finish(ctx, &done)
		if err == nil {
			delete(t.waiting, w.ID)
		}
		q.Respond(bus.DelayedAnswer{}, err)
	case q.Body.Action == bus.DelayedRestart:
		delay := time.Duration(w.Delay) * time.Millisecond
		w.Since, w.due, w.failing, w.pause = now.UnixMilli(), now.Add(delay), time.Time{}, 0
		var err error
		if w.written.IsZero() || now.Sub(w.written) >= delay/5 {
			if err = t.store.DelayedEvents.Run(ctx, w.ID, w.Since, w.Since+w.Delay+w.Delay/5); err == nil {
				w.written = now
			}
		}
		q.Respond(bus.DelayedAnswer{}, err)
	default:
		q.Respond(bus.DelayedAnswer{}, errors.New("no such action"))
	}
}

var gone = bus.Refuse(noSuchDelay.StatusCode, noSuchDelay.ErrCode, noSuchDelay.Err)

// find gives the timer of an event, made now if the event was just written. It gives none for one that has ended in the
// very way that is asked for.
func (t *timers) find(ctx context.Context, q bus.DelayedQuestion) (*timer, error) {
	if w := t.waiting[q.ID]; w != nil {
		return w, nil
	}
	d, err := t.store.DelayedEvents.ByID(ctx, q.ID)
	switch {
	case err != nil:
		return nil, err
	case d == nil:
		return nil, gone
	case d.Outcome != "" && (d.Outcome == string(q.Action) || q.Added):
		return nil, nil
	case d.Outcome != "":
		return nil, gone
	}
	w := newTimer(d, t.now())
	t.waiting[d.ID] = w
	return w, nil
}

// end waits for what is under way, and writes when the delays began that were restarted since.
func (t *timers) end(ctx context.Context) {
	for t.out > 0 {
		t.settle(ctx, <-t.sent)
	}
	for _, w := range t.waiting {
		if w.written.IsZero() {
			continue
		}
		if err := t.store.DelayedEvents.Run(ctx, w.ID, w.Since, w.Since+w.Delay); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Delayed event not written")
		}
	}
}
