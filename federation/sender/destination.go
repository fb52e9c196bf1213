package sender

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

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
}

func (d *destination) resumeLag(l storage.Lag) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lags[l.RoomID] = &lag{from: l.Position, stored: true}
}

func (d *destination) addEvent(e *storage.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lags[e.RoomID]; l != nil {
		l.skipped = e.Position
		return
	}
	d.waiting = append(d.waiting, pending{e.Position, e.RoomID, e.JSON})
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

// alive says that the server has just spoken to us: no use in waiting longer.
func (d *destination) alive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures > 0 {
		d.retryAt = time.Time{}
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
	for {
		if pause := d.pause(); pause > 0 {
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			case <-d.wake:
				timer.Stop()
			}
			continue
		}
		if t == nil {
			var err error
			if t, err = d.gather(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				log.Error().Err(err).Msg("Cannot gather what is to be sent")
				d.failed(ctx, nil)
				continue
			}
		}
		if t == nil {
			timer := time.NewTimer(idle)
			select {
			case <-ctx.Done():
			case <-d.wake:
				timer.Stop()
				continue
			case <-timer.C:
			}
			timer.Stop()
			if d.rest() || ctx.Err() != nil {
				return
			}
			continue
		}
		if d.deliver(ctx, t) {
			t = nil
		}
		if ctx.Err() != nil {
			return
		}
	}
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

// deliver sends a transaction once, and says whether it is done with.
func (d *destination) deliver(ctx context.Context, t *transaction) bool {
	err := d.put(ctx, t)
	switch {
	case err == nil:
		sentTransactions.WithLabelValues("ok").Inc()
		sentPDUs.Add(float64(len(t.pdus)))
		d.succeeded(ctx, t)
		return true
	case ctx.Err() != nil:
		// We stop: what was under way comes again after the start, from the cursor or from rows.
		return false
	case t.hopeless(err):
		// Refused for ever, it must not hold up what comes after it.
		sentTransactions.WithLabelValues("refused").Inc()
		zerolog.Ctx(ctx).Warn().Err(err).Int("pdus", len(t.pdus)).Int("edus", len(t.edus)).Msg("Transaction refused for good, and dropped")
		d.succeeded(ctx, t)
		return true
	}
	sentTransactions.WithLabelValues("failed").Inc()
	zerolog.Ctx(ctx).Debug().Err(err).Msg("Transaction failed")
	d.failed(ctx, t)
	return false
}

// failed writes down what the destination lacks, and when to try again.
func (d *destination) failed(ctx context.Context, t *transaction) {
	d.mu.Lock()
	d.failures++
	if d.failures == 1 {
		failing.Inc()
	}
	pause := d.s.cfg.LastRetry
	if n := d.failures - 1; n < 30 {
		pause = min(d.s.cfg.FirstRetry<<n, d.s.cfg.LastRetry)
	}
	pause += time.Duration(rand.Int64N(int64(pause)/4 + 1)) // so that not all come back at once
	d.retryAt = time.Now().Add(pause)
	failures, retryAt := d.failures, d.retryAt
	clear(d.receipts)
	clear(d.typing)
	clear(d.presence)
	d.mu.Unlock()
	if err := d.s.store.Destinations.Attempted(ctx, d.name, failures, retryAt.UnixMilli()); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Failure not written down")
	}
	d.fallBehind(ctx)
}

// fallBehind turns all events that wait in memory into rows that say what is lacking.
func (d *destination) fallBehind(ctx context.Context) {
	d.mu.Lock()
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
	var rows []storage.Lag
	for room, l := range d.lags {
		if !l.stored {
			rows = append(rows, storage.Lag{Server: d.name, RoomID: room, Position: l.from})
		}
	}
	d.mu.Unlock()
	if len(rows) == 0 {
		return
	}
	if err := d.s.store.Destinations.AddLags(ctx, rows); err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("What the destination lacks is not written down yet")
		return // oldest keeps the cursor back until the next try
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, row := range rows {
		if l := d.lags[row.RoomID]; l != nil {
			l.stored = true
		}
	}
}

// succeeded takes away what was acknowledged.
func (d *destination) succeeded(ctx context.Context, t *transaction) {
	d.mu.Lock()
	recovered := d.failures > 0
	d.failures = 0
	d.flight = nil
	d.mu.Unlock()
	if recovered {
		failing.Dec()
		if err := d.s.store.Destinations.Attempted(ctx, d.name, 0, 0); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Recovery not written down")
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
