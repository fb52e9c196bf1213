// Package sender sends what happens here to the servers that it concerns: events, to-device messages, device lists, receipts,
// typing, presence.
//
// One follower reads the stream and gives each piece of news to the destinations concerned; each destination has a goroutine
// while it has work, and one transaction under way. What a reader must not break:
//   - the stream's cursor is saved only up to where every destination has what came before, or has a row that says what it lacks:
//     so a crash loses nothing, and a destination that keeps up costs no row;
//   - events of one room go to a destination in the order of their positions;
//   - a transaction is repeated unchanged until it is answered;
//   - a destination that fails holds up nobody else.
package sender

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"chancery/federation/remote"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// Config of the sender.
type Config struct {
	// Presence is told to other servers. Default: false.
	Presence bool `yaml:"presence"`
	// FirstRetry is the pause after a first failure; it doubles with each further one. Default: 500ms.
	FirstRetry time.Duration `yaml:"first_retry"`
	// LastRetry is the longest pause. A server that speaks to us is tried at once. Default: 1h.
	LastRetry time.Duration `yaml:"last_retry"`
	// Dialing is how many servers that failed before are tried at once; and twice as many of those not heard from since the start. Default: 32.
	Dialing int `yaml:"dialing"`
}

// DefaultConfig has the defaults named above.
func DefaultConfig() Config {
	return Config{FirstRetry: 500 * time.Millisecond, LastRetry: time.Hour, Dialing: 32}
}

var (
	sentTransactions = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_federation_sent_transactions_total", Help: "Transactions sent to other servers, by result.",
	}, []string{"result"})
	sentPDUs = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_federation_sent_pdus_total", Help: "Events that other servers have acknowledged.",
	})
	failing = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_federation_failing_destinations", Help: "Servers whose last transaction failed.",
	})
)

// Sender sends. Make it with New, then Run it once.
type Sender struct {
	cfg    Config
	name   string
	client *remote.Client
	store  *storage.Store
	bus    *bus.Bus
	view   *view.Reader
	now    func() time.Time

	spans *spans
	// handled is the position up to which the follower has handed the news on.
	handled atomic.Int64
	// wait counts the destinations' goroutines.
	wait sync.WaitGroup
	txns atomic.Int64
	// turns counts how often a destination's goroutine woke.
	turns atomic.Int64
	// failing and unheard are places for attempts at servers that failed before, and at those that never answered in this life:
	// dead ones, however many, hold up nobody who answers.
	failing, unheard chan struct{}

	mu           sync.Mutex
	destinations map[string]*destination
}

// New makes a sender. Nothing is sent before Run.
func New(cfg Config, client *remote.Client, store *storage.Store, b *bus.Bus) *Sender {
	if cfg.FirstRetry <= 0 {
		cfg.FirstRetry = DefaultConfig().FirstRetry
	}
	if cfg.LastRetry <= 0 {
		cfg.LastRetry = DefaultConfig().LastRetry
	}
	if cfg.Dialing <= 0 {
		cfg.Dialing = DefaultConfig().Dialing
	}
	s := &Sender{
		failing: make(chan struct{}, cfg.Dialing), unheard: make(chan struct{}, 2*cfg.Dialing),
		cfg: cfg, name: client.ServerName(), client: client, store: store, bus: b, view: view.New(store), now: time.Now,
		spans: newSpans(store), destinations: make(map[string]*destination),
	}
	s.txns.Store(time.Now().UnixMilli() * 1000) // names of transactions must not come again after a restart
	return s
}

// The lease by which one process alone sends, where there are several.
const (
	leaseName = "federation-sender"
	leaseSpan = 4 * time.Second
)

// Run sends until ctx ends. Where another process sends already, it stands by.
func (s *Sender) Run(ctx context.Context) error {
	if s.bus.Embedded() {
		return s.send(ctx)
	}
	holder := fmt.Sprintf("%s-%d", s.name, s.now().UnixNano())
	for ctx.Err() == nil {
		lease, err := s.store.Leases.Take(ctx, leaseName, holder, leaseSpan)
		if err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Lease of the sender not taken")
		}
		if lease != nil {
			if err := s.sendWith(ctx, lease); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// sendWith sends while the lease holds.
func (s *Sender) sendWith(ctx context.Context, lease *storage.Lease) error {
	held, stop := context.WithCancel(ctx)
	defer stop()
	group, held := errgroup.WithContext(held)
	group.Go(func() error { defer stop(); return s.send(held) })
	group.Go(func() error {
		defer stop()
		tick := time.NewTicker(leaseSpan / 4)
		defer tick.Stop()
		for {
			select {
			case <-held.Done():
				return nil
			case <-tick.C:
			}
			renewed, err := s.store.Leases.Take(held, lease.Name, lease.Holder, leaseSpan)
			if held.Err() == nil && (err != nil || renewed == nil || renewed.Epoch != lease.Epoch) {
				zerolog.Ctx(ctx).Warn().Err(err).Msg("Lease of the sender lost")
				return nil
			}
		}
	})
	err := group.Wait()
	if releaseErr := s.store.Leases.Release(context.WithoutCancel(ctx), lease); err == nil {
		err = releaseErr
	}
	return err
}

// send goes on where a former life ended, and follows the stream.
func (s *Sender) send(ctx context.Context) error {
	s.mu.Lock()
	s.destinations = make(map[string]*destination)
	s.mu.Unlock()
	defer s.wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at, err := s.store.Cursor(ctx, leaseName)
	if err != nil {
		return err
	}
	s.handled.Store(int64(at))
	if err := s.resume(ctx); err != nil {
		return fmt.Errorf("resume sending: %w", err)
	}
	stop, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	return s.store.Follow(ctx, storage.Follower{
		Name: leaseName,
		Kinds: []storage.Kind{
			storage.EventNews, storage.StateNews, storage.OutboundNews, storage.ReceiptNews, storage.DeviceListNews,
		},
		Handle: func(ctx context.Context, news []storage.Change, to storage.Position) error {
			return s.handle(ctx, news, to)
		},
		Settled: s.settled,
	})
}

// resume wakes the destinations that lack something.
func (s *Sender) resume(ctx context.Context) error {
	lags, err := s.store.Destinations.Lags(ctx)
	if err != nil {
		return err
	}
	bad, err := s.store.Destinations.Failing(ctx)
	if err != nil {
		return err
	}
	waiting, err := s.store.Outbound.Servers(ctx)
	if err != nil {
		return err
	}
	unanswered, err := s.store.Destinations.WithUnanswered(ctx)
	if err != nil {
		return err
	}
	for _, server := range unanswered {
		s.to(server).resumeUnanswered()
	}
	for _, b := range bad {
		s.to(b.Server).resumeFailing(b)
	}
	for _, l := range lags {
		s.to(l.Server).resumeLag(l)
	}
	for _, server := range waiting {
		s.to(server).addOutbound()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.destinations {
		d.start(ctx)
	}
	return nil
}

// to gives the destination of that name.
func (s *Sender) to(server string) *destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destinations[server]
	if d == nil {
		d = newDestination(s, server)
		s.destinations[server] = d
	}
	return d
}

// settled is the position up to which nothing is left that only memory knows.
func (s *Sender) settled() storage.Position {
	at := storage.Position(s.handled.Load())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.destinations {
		if first := d.oldest(); first != 0 {
			at = min(at, first-1)
		}
	}
	return at
}

// worthy says whether a server is one to send to at all.
func (s *Sender) worthy(server string) bool {
	return server != s.name && server != "" && s.client.Allows(server)
}

// Status tells what waits for a destination, and how it stands with it.
type Status struct {
	// Queue counts the events and ephemeral messages that wait in memory; Lagging the rooms whose events wait in rows.
	Queue, Lagging int
	// Failures in a row, when to try again, and why the last attempt failed.
	Failures int
	RetryAt  time.Time
	Cause    string
	// Answered is when a transaction was last answered, zero for not since the start.
	Answered time.Time
}

// Destinations tells of all servers that something was for since the start.
func (s *Sender) Destinations() map[string]Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Status, len(s.destinations))
	for name, d := range s.destinations {
		all[name] = d.status()
	}
	return all
}

func (d *destination) status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := Status{
		Queue:   len(d.waiting) + len(d.flight) + len(d.receipts) + len(d.typing) + len(d.presence),
		Lagging: len(d.lags), Failures: d.failures, Cause: d.cause, Answered: d.answered,
	}
	if d.failures > 0 {
		st.RetryAt = d.retryAt
	}
	return st
}

// dial takes a place for an attempt, where the destination is not one that has just answered.
func (s *Sender) dial(ctx context.Context, d *destination) (leave func(), err error) {
	d.mu.Lock()
	failures, answered := d.failures, d.answered
	d.mu.Unlock()
	places := s.unheard
	switch {
	case failures > 0:
		places = s.failing
	case !answered.IsZero():
		return func() {}, nil
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// writeLags writes rows for destinations that have just begun to lag, all in one commit.
func (s *Sender) writeLags(ctx context.Context, fell map[string]*destination) error {
	var rows []storage.Lag
	for _, d := range fell {
		rows = append(rows, d.unwritten()...)
	}
	if len(rows) == 0 {
		return nil
	}
	if err := s.store.Destinations.AddLags(ctx, rows); err != nil {
		return fmt.Errorf("write what destinations lack: %w", err)
	}
	for _, d := range fell {
		d.written(rows)
	}
	return nil
}
