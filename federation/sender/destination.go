package sender

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxPending bounds the events that wait in memory for one destination; beyond it the destination lags, in rows.
const maxPending = 1000

// lag is what a destination lacks of a room: our events from a position on.
type lag struct {
	from storage.Position
	// skipped is the latest event that was left to the lag.
	skipped storage.Position
	// stored: there is a row for it.
	stored bool
}

// pending is an event that waits in memory.
type pending struct {
	position storage.Position
	room     id.RoomID
	json     json.RawMessage
}

type receiptKey struct {
	room   id.RoomID
	user   id.UserID
	thread string
}

type typingKey struct {
	room id.RoomID
	user id.UserID
}

// destination is a server that we send to. Others add to it; its goroutine, while there is one, takes from it and sends.
type destination struct {
	s    *Sender
	name string
	wake chan struct{}

	mu      sync.Mutex
	running bool
	// newest is the position of the last event added.
	newest storage.Position
	// waiting are events in their order; what is under way stays in flight until it is answered or has a row.
	waiting, flight []pending
	lags            map[id.RoomID]*lag
	// outbound: there may be rows for it.
	outbound bool
	receipts map[receiptKey]*storage.Receipt
	typing   map[typingKey]bus.Typing
	presence map[id.UserID]bus.Presence
	failures int
	retryAt  time.Time
	// tried is the last attempt, answered the last that went well in this life, cause why the last failure came about.
	tried, answered time.Time
	cause           string
	// unanswered: a transaction waits in storage to be repeated. refusals counts how often it was refused as malformed.
	unanswered bool
	refusals   int
}

func newDestination(s *Sender, name string) *destination {
	return &destination{
		s: s, name: name, wake: make(chan struct{}, 1), lags: make(map[id.RoomID]*lag), receipts: make(map[receiptKey]*storage.Receipt),
		typing: make(map[typingKey]bus.Typing), presence: make(map[id.UserID]bus.Presence),
	}
}

func (d *destination) resumeFailing(row *storage.Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures, d.retryAt = row.Failures, time.UnixMilli(row.RetryAt)
	if d.failures > 0 {
		failing.Inc()
	}
}

func (d *destination) resumeUnanswered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unanswered = true
}

func (d *destination) resumeLag(l storage.Lag) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lags[l.RoomID] = &lag{from: l.Position, stored: true}
}

// addEvent adds an event. Where the destination fails, or is too far behind for memory, its room lags; fell says that rows have
// to be written for that (unwritten tells which).
func (d *destination) addEvent(e *storage.Event) (fell bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Position <= d.newest {
		return false // the follower reads again what it has read before, where it was disturbed
	}
	d.newest = e.Position
	if l := d.lags[e.RoomID]; l != nil {
		l.skipped = e.Position
		return false
	}
	if d.failures == 0 && len(d.waiting) < maxPending {
		d.waiting = append(d.waiting, pending{e.Position, e.RoomID, e.JSON})
		return false
	}
	d.waiting = append(d.waiting, pending{e.Position, e.RoomID, nil})
	d.lagBehind()
	return true
}

func (d *destination) addOutbound() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outbound = true
}

// Receipts, typing and presence are worth nothing when they are late: a destination that fails gets none.

func (d *destination) addReceipt(r *storage.Receipt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures == 0 {
		d.receipts[receiptKey{r.RoomID, r.UserID, r.Thread}] = r
	}
}

func (d *destination) addTyping(t bus.Typing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures == 0 {
		d.typing[typingKey{t.RoomID, t.UserID}] = t
	}
}

func (d *destination) addPresence(p bus.Presence) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures == 0 {
		d.presence[p.UserID] = p
	}
}

// aliveSpacing is the shortest time between two attempts, however often the other server speaks to us.
const aliveSpacing = time.Second

// alive says that the server has just spoken to us: no use in waiting longer.
func (d *destination) alive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures == 0 {
		return
	}
	if soon := d.tried.Add(aliveSpacing); soon.Before(d.retryAt) {
		d.retryAt = soon
		d.ring()
	}
}

// oldest is the position of the first event that only memory knows to be unsent; 0 if there is none.
func (d *destination) oldest() storage.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := storage.Position(0)
	note := func(p storage.Position) {
		if first == 0 || p < first {
			first = p
		}
	}
	for _, list := range [][]pending{d.flight, d.waiting} {
		for _, p := range list {
			note(p.position)
		}
	}
	for _, l := range d.lags {
		if !l.stored {
			note(l.from)
		}
	}
	return first
}

// start makes sure that the destination's goroutine is at work.
func (d *destination) start(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if !d.running {
		d.running = true
		d.s.wait.Go(func() { d.run(ctx) })
	} else if d.failures > 0 && time.Now().Before(d.retryAt) {
		return // its timer wakes it
	}
	d.ring()
}

// ring is called with the lock held.
func (d *destination) ring() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// idle is how long a destination's goroutine waits for more.
const idle = time.Minute

// run sends what there is to send, until there has been nothing for a while or ctx ends.
func (d *destination) run(ctx context.Context) {
	log := zerolog.Ctx(ctx).With().Str("destination", d.name).Logger()
	ctx = log.WithContext(ctx)
	var t *transaction
	for ctx.Err() == nil {
		d.s.turns.Add(1)
		if pause := d.pause(); pause > 0 {
			d.await(ctx, pause)
			continue
		}
		if t == nil {
			var err error
			if t, err = d.next(ctx); err != nil && ctx.Err() == nil {
				log.Error().Err(err).Msg("Cannot gather what is to be sent")
				d.failed(ctx, nil, err)
				continue
			}
		}
		if t == nil {
			if woken := d.await(ctx, idle); !woken && d.rest() {
				return
			}
			continue
		}
		if d.deliver(ctx, t) {
			t = nil
		}
	}
}

// await waits for something to do, and says whether there is.
func (d *destination) await(ctx context.Context, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.wake:
		return true
	case <-timer.C:
	}
	return false
}

// next is the transaction that has to be repeated, or a new one; nil if there is nothing to send.
func (d *destination) next(ctx context.Context) (*transaction, error) {
	d.mu.Lock()
	repeat := d.unanswered
	d.mu.Unlock()
	if !repeat {
		return d.gather(ctx)
	}
	u, err := d.s.store.Destinations.Unanswered(ctx, d.name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		d.mu.Lock()
		d.unanswered = false
		d.mu.Unlock()
		return d.gather(ctx)
	}
	return &transaction{id: u.ID, body: u.Body, events: u.PDUs, ephemera: u.EDUs, outbound: u.Outbound, reached: u.Reached, stored: true}, nil
}

// pause is how long the destination is left alone after a failure.
func (d *destination) pause() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures == 0 {
		return 0
	}
	return time.Until(d.retryAt)
}

// rest ends the goroutine, unless something came in at the last moment.
func (d *destination) rest() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.wake) > 0 {
		return false
	}
	d.running = false
	return true
}

// deliver sends a transaction once, and says whether it is out of our hands: answered, or kept to be repeated.
func (d *destination) deliver(ctx context.Context, t *transaction) bool {
	leave, err := d.s.dial(ctx, d)
	if err == nil {
		err = d.put(ctx, t)
		leave()
	}
	switch {
	case err == nil:
		sentTransactions.WithLabelValues("ok").Inc()
		sentPDUs.Add(float64(t.events))
		d.succeeded(ctx, t)
		return true
	case ctx.Err() != nil:
		// We stop: it comes again after the start, as it is.
		d.keep(context.WithoutCancel(ctx), t)
		d.fallBehind(context.WithoutCancel(ctx))
		return false
	case d.hopeless(err):
		// Refused for ever, it must not hold up what comes after it.
		sentTransactions.WithLabelValues("refused").Inc()
		zerolog.Ctx(ctx).Warn().Err(err).Int("pdus", t.events).Int("edus", t.ephemera).Msg("Transaction refused for good, and dropped")
		d.succeeded(ctx, t)
		return true
	}
	sentTransactions.WithLabelValues("failed").Inc()
	zerolog.Ctx(ctx).Debug().Err(err).Msg("Transaction failed")
	d.failed(ctx, t, err)
	return t.stored
}

// keep writes a transaction down, to be repeated as it is; and how the attempt went.
func (d *destination) keep(ctx context.Context, t *transaction) {
	d.mu.Lock()
	failures, retryAt := d.failures, d.retryAt
	d.mu.Unlock()
	at := int64(0)
	if failures > 0 {
		at = retryAt.UnixMilli()
	}
	var err error
	if t == nil || t.stored {
		err = d.s.store.Destinations.Attempted(ctx, d.name, failures, at)
	} else {
		err = d.s.store.Destinations.PutUnanswered(ctx, &storage.Unanswered{
			Server: d.name, ID: t.id, Body: t.body, PDUs: t.events, EDUs: t.ephemera, Outbound: t.outbound, Reached: t.reached,
		}, failures, at)
		t.stored = err == nil
	}
	if err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Failure not written down")
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unanswered = d.unanswered || t != nil
}

// failed writes down what the destination lacks, and when to try again.
func (d *destination) failed(ctx context.Context, t *transaction, cause error) {
	d.mu.Lock()
	d.failures++
	if d.failures == 1 {
		failing.Inc()
	}
	pause := d.s.cfg.LastRetry
	if n := d.failures - 1; n < 30 {
		pause = min(d.s.cfg.FirstRetry<<n, d.s.cfg.LastRetry)
	}
	if told := toldToWait(cause); told > pause {
		pause = told
	}
	pause += time.Duration(rand.Int64N(int64(pause)/4 + 1)) // so that not all come back at once
	d.tried = time.Now()
	d.retryAt, d.cause = d.tried.Add(pause), brief(cause)
	clear(d.receipts)
	clear(d.typing)
	clear(d.presence)
	d.mu.Unlock()
	d.keep(ctx, t)
	d.fallBehind(ctx)
}

// toldToWait is how long a server wants to be left alone that says it is asked too much.
func toldToWait(err error) time.Duration {
	said, ok := remote.Refused(err)
	if !ok || said.StatusCode != http.StatusTooManyRequests {
		return 0
	}
	ms, _ := said.ExtraData["retry_after_ms"].(float64)
	return time.Duration(min(max(ms, 0), float64(longestTold.Milliseconds()))) * time.Millisecond
}

// longestTold bounds what another server may tell us to wait.
const longestTold = 5 * time.Minute

// brief is what operators are told of a failure.
func brief(err error) string {
	const most = 300
	text := err.Error()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// lagBehind turns all events that wait in memory into lags. It is called with the lock held.
func (d *destination) lagBehind() {
	for _, p := range append(d.flight[:len(d.flight):len(d.flight)], d.waiting...) {
		l := d.lags[p.room]
		if l == nil {
			l = &lag{from: p.position}
			d.lags[p.room] = l
		}
		l.from = min(l.from, p.position)
		l.skipped = max(l.skipped, p.position)
	}
	d.flight, d.waiting = nil, nil
}

// unwritten gives the lags of which no row tells yet.
func (d *destination) unwritten() []storage.Lag {
	d.mu.Lock()
	defer d.mu.Unlock()
	var rows []storage.Lag
	for room, l := range d.lags {
		if !l.stored {
			rows = append(rows, storage.Lag{Server: d.name, RoomID: room, Position: l.from})
		}
	}
	return rows
}

// written notes that rows tell of these lags.
func (d *destination) written(rows []storage.Lag) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, row := range rows {
		if l := d.lags[row.RoomID]; l != nil && row.Server == d.name && row.Position <= l.from {
			l.stored = true
		}
	}
}

// fallBehind turns all events that wait in memory into rows that say what is lacking.
func (d *destination) fallBehind(ctx context.Context) {
	d.mu.Lock()
	d.lagBehind()
	d.mu.Unlock()
	rows := d.unwritten()
	if len(rows) == 0 {
		return
	}
	if err := d.s.store.Destinations.AddLags(ctx, rows); err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("What the destination lacks is not written down yet")
		return // oldest keeps the cursor back until the next try
	}
	d.written(rows)
}

// succeeded takes away what was acknowledged.
func (d *destination) succeeded(ctx context.Context, t *transaction) {
	d.mu.Lock()
	recovered := d.failures > 0
	d.failures, d.refusals, d.cause = 0, 0, ""
	d.tried = time.Now()
	d.answered = d.tried
	d.flight = nil
	d.mu.Unlock()
	if recovered {
		failing.Dec()
	}
	if recovered || t.stored {
		if err := d.s.store.Destinations.Answered(ctx, d.name); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Recovery not written down")
		} else {
			d.mu.Lock()
			d.unanswered = false
			d.mu.Unlock()
		}
	}
	if err := d.s.store.Outbound.Remove(ctx, t.outbound); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Acknowledged rows not removed; they go out again")
	}
	for room, next := range t.reached {
		d.caughtUp(ctx, room, next)
	}
}

// caughtUp moves a lag on: everything before the position was had.
func (d *destination) caughtUp(ctx context.Context, room id.RoomID, next storage.Position) {
	d.mu.Lock()
	l := d.lags[room]
	if l == nil || next <= l.from {
		d.mu.Unlock()
		return
	}
	l.from = next
	stored := l.stored
	d.mu.Unlock()
	if stored {
		if err := d.s.store.Destinations.MoveLag(ctx, storage.Lag{Server: d.name, RoomID: room, Position: next}); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Progress not written down")
		}
	}
}

// endLag forgets a lag of which nothing is left, if nothing was left to it after the head that was looked at.
func (d *destination) endLag(ctx context.Context, room id.RoomID, head storage.Position) error {
	d.mu.Lock()
	l := d.lags[room]
	if l == nil || l.skipped > head {
		d.mu.Unlock()
		return nil
	}
	delete(d.lags, room)
	d.mu.Unlock()
	return d.s.store.Destinations.MoveLag(ctx, storage.Lag{Server: d.name, RoomID: room})
}
