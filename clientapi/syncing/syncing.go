// Package syncing tells clients what is new: one engine that makes an answer out of a token, and the waiters of long polls.
//
// It owns, in the memory of this process, what waiting users need: for each user with a session here where they stand to
// their rooms, for each room with such a user a ring of its last events, already rendered, and its last changes of state.
// One goroutine (watch.go) reads the tail and writes this memory; answers read it. Truths to keep:
//
//   - the memory is filled only from the tail: it holds everything after its `from`, and nothing is answered from it that lies before;
//   - an answer reaches to the position that the watcher had applied when it was planned, no further, and never lower than its token;
//   - no database, no rendering and no client is waited for while mu is held;
//   - what one viewer may see differs from another's only by view's rules, unsigned.transaction_id, unsigned.membership and ignored users;
//   - nothing-new costs a look into the memory and no query.
package syncing

import (
	"context"
	"crypto/rand"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

var (
	waiting = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_sync_waiting", Help: "Syncs that wait for news.",
	})
	answers = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_sync_answers_total", Help: "Answers given to syncs.",
	}, []string{"kind"})
)

// Config is what an operator may say about syncing.
type Config struct {
	// Presence shows who is online. Default true; without it large houses are quieter, and clients do as well.
	Presence bool `yaml:"presence"`
	// MaxWait bounds how long a sync may wait for news. Default 60s.
	MaxWait time.Duration `yaml:"max_wait"`
	// Idle is how long a user who no longer syncs stays in memory. Default 10m.
	Idle time.Duration `yaml:"idle"`
	// RingEvents is how many of a room's newest events are kept at hand while somebody in it syncs. Default 128.
	RingEvents int `yaml:"ring_events"`
	// RingBytes bounds the memory of all rooms' rings together: those of the rooms that were silent longest go. Default 64 MiB.
	RingBytes int `yaml:"ring_bytes"`
	// CacheBytes bounds the memory of rendered events and of states, besides the rings. Default 64 MiB.
	CacheBytes int `yaml:"cache_bytes"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{Presence: true, MaxWait: time.Minute, Idle: 10 * time.Minute, RingEvents: 128, RingBytes: 64 << 20, CacheBytes: 64 << 20}
}

// Syncing answers syncs, and keeps typing and presence.
type Syncing struct {
	cfg   Config
	store *storage.Store
	bus   *bus.Bus
	view  *view.Reader
	now   func() time.Time
	// process tells tokens of this process from others': they alone understand its ephemeral marks.
	process string

	parsed   parsed
	rendered *rendered
	states   *states
	sent     *sentMembers
	later    chan *later // counts to be finished
	slides   *slides
	walked   pages
	// quick and slow are the turns of answers from memory, and of those that are read from the tables.
	quick, slow *gate

	applied atomic.Int64 // the position up to which the memory below is filled

	mu       sync.RWMutex
	reached  chan struct{} // closed and replaced when applied moves
	users    map[id.UserID]*user
	rooms    map[id.RoomID]*room
	ringed   int   // bytes in all rings
	mark     int64 // counts changes of typing and presence
	typing   map[id.RoomID]*typists
	presence map[id.UserID]*presence
}

// New makes the engine, complete; Run keeps it going.
func New(cfg Config, store *storage.Store, b *bus.Bus, reader *view.Reader) *Syncing {
	standard := DefaultConfig()
	if cfg.MaxWait <= 0 {
		cfg.MaxWait = standard.MaxWait
	}
	if cfg.Idle <= 0 {
		cfg.Idle = standard.Idle
	}
	if cfg.RingEvents <= 0 {
		cfg.RingEvents = standard.RingEvents
	}
	if cfg.RingBytes <= 0 {
		cfg.RingBytes = standard.RingBytes
	}
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = standard.CacheBytes
	}
	s := &Syncing{
		cfg: cfg, store: store, bus: b, view: reader, now: time.Now,
		process:  strings.ToLower(rand.Text()[:6]),
		rendered: newRendered(cfg.CacheBytes / 2),
		states:   newStates(cfg.CacheBytes / 2),
		sent:     newSentMembers(),
		later:    make(chan *later, maxLater),
		slides:   newSlides(),
		quick:    newGate(4 * runtime.GOMAXPROCS(0)),
		slow:     newGate(2 * runtime.GOMAXPROCS(0)),
		reached:  make(chan struct{}),
		users:    map[id.UserID]*user{},
		rooms:    map[id.RoomID]*room{},
		typing:   map[id.RoomID]*typists{},
		presence: map[id.UserID]*presence{},
	}
	s.applied.Store(int64(store.Head()))
	return s
}

// Run keeps the memory filled until ctx ends, and then returns nil.
func (s *Syncing) Run(ctx context.Context) error {
	stopTyping, err := bus.Listen(s.bus, bus.AllTyping, func(_ string, m bus.Typing) { s.typed(m) })
	if err != nil {
		return err
	}
	defer stopTyping()
	stopPresence, err := bus.Listen(s.bus, bus.AllPresence, func(_ string, m bus.Presence) { s.appeared(m) })
	if err != nil {
		return err
	}
	defer stopPresence()
	var tidying sync.WaitGroup
	tidying.Go(func() { s.tidy(ctx) })
	tidying.Go(func() { s.finishCounts(ctx) })
	tidying.Go(func() { s.relieve(ctx) })
	tidying.Go(func() { s.keepSlides(ctx) })
	defer tidying.Wait()
	return s.watch(ctx)
}

// reach waits until the memory holds everything up to the position.
func (s *Syncing) reach(ctx context.Context, to storage.Position) error {
	for s.applied.Load() < int64(to) {
		s.mu.RLock()
		reached := s.reached
		s.mu.RUnlock()
		if s.applied.Load() >= int64(to) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-reached:
		}
	}
	return nil
}
