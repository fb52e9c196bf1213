// Package roomserver is the only writer of rooms: one goroutine per live room builds,
// authorises, orders and stores that room's events.
//
// Questions come in over the bus (`room.<key>.do`, `rooms.create`); it never asks the network.
// If parents are missing it says so, and whoever asked goes for them. Truths to keep:
//
//   - what a room knows in memory belongs to its goroutine; nothing is locked;
//   - an answer leaves only after the commit of what it tells;
//   - the loop builds upon what it has handed to the committer, but reads snapshots from storage only when nothing is in flight (settle);
//   - the current state is the head of one chain: only advance appends to it, and each entry that it appends is news;
//   - if a commit fails, the room forgets its memory, refuses all in flight and reads itself anew.
package roomserver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

var (
	liveRooms = promauto.NewGauge(prometheus.GaugeOpts{Name: "chancery_rooms_live", Help: "Rooms that have a goroutine now."})
	verdicts  = promauto.NewCounterVec(prometheus.CounterOpts{Name: "chancery_room_events_total", Help: "Events judged, by verdict."}, []string{"verdict"})
	refusals  = promauto.NewCounter(prometheus.CounterOpts{Name: "chancery_room_refusals_total", Help: "Local proposals refused by rule."})
)

// Config of the room server.
type Config struct {
	// Inbox bounds the questions that wait for one room; beyond it callers get 429. Default 1024.
	Inbox int `yaml:"inbox"`
	// IdleAfter is how long a room without questions stays in memory. Default 5m.
	IdleAfter time.Duration `yaml:"idle_after"`
}

// DefaultConfig has the defaults named above.
func DefaultConfig() Config { return Config{Inbox: 1024, IdleAfter: 5 * time.Minute} }

// Server runs the rooms. Make it with New, then Run it once.
type Server struct {
	cfg    Config
	store  *storage.Store
	bus    *bus.Bus
	signer pdu.Signer
	now    func() time.Time

	writer *storage.RoomWriter
	lease  atomic.Pointer[storage.Lease]

	mu    sync.Mutex
	rooms map[id.RoomID]*room
	// running counts the rooms' goroutines, so that Run can wait for them.
	running sync.WaitGroup
}

// New makes a room server that signs its events with signer, in the name of signer.ServerName.
func New(cfg Config, store *storage.Store, b *bus.Bus, signer pdu.Signer) *Server {
	return &Server{cfg: cfg, store: store, bus: b, signer: signer, now: time.Now, rooms: map[id.RoomID]*room{}}
}

// leaseSpan is how long another process waits before it takes over from one that died.
const leaseSpan = 4 * time.Second

// Run answers questions to rooms until ctx ends. Where other processes could do the same, it first
// waits for the lease, and ends with an error when it loses it.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var lease func() *storage.Lease
	if !s.bus.Embedded() {
		if err := s.takeLease(ctx); err != nil {
			return err
		}
		defer func() {
			if l := s.lease.Load(); l != nil {
				_ = s.store.Leases.Release(context.WithoutCancel(ctx), l)
			}
		}()
		go s.keepLease(ctx, cancel)
		lease = s.lease.Load
	}
	s.writer = s.store.RoomWriter(lease)
	stopRooms, err := bus.Serve(s.bus, bus.AllRooms, func(q *question) { s.route(ctx, q) })
	if err != nil {
		return err
	}
	stopCreate, err := bus.Answer(ctx, s.bus, bus.CreateRoom, func(ctx context.Context, _ string, c bus.Create) (bus.Created, error) {
		return s.create(ctx, c)
	})
	if err != nil {
		stopRooms()
		return err
	}
	s.sweep(ctx)
	stopRooms()
	stopCreate()
	s.running.Wait()
	if cause := context.Cause(ctx); cause != context.Canceled {
		return cause
	}
	return nil
}

// unattachedFor is how long a fetched state waits for its room.
const unattachedFor = time.Hour

// sweep removes fetched states that nobody took in, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(unattachedFor / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.store.State.SweepUnattached(ctx, s.now().Add(-unattachedFor).UnixMilli()); err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Fetched states that nobody took in are not removed")
		}
	}
}

func (s *Server) takeLease(ctx context.Context) error {
	holder := fmt.Sprintf("%d", s.now().UnixNano())
	for {
		l, err := s.store.Leases.Take(ctx, "rooms", holder, leaseSpan)
		if err != nil {
			return err
		}
		if l != nil {
			s.lease.Store(l)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (s *Server) keepLease(ctx context.Context, lost context.CancelCauseFunc) {
	tick := time.NewTicker(leaseSpan / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		held := s.lease.Load()
		l, err := s.store.Leases.Take(ctx, held.Name, held.Holder, leaseSpan)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Lease of the rooms not renewed")
		case l == nil || l.Epoch != held.Epoch:
			lost(storage.ErrLease)
			return
		default:
			s.lease.Store(l)
		}
	}
}

type question = bus.Question[bus.RoomQuestion, bus.RoomAnswer]

// route gives a question to its room, waking the room if it sleeps. It does not block.
func (s *Server) route(ctx context.Context, q *question) {
	roomID := bus.RoomOf(q.Subject)
	if roomID == "" {
		q.Respond(bus.RoomAnswer{}, fmt.Errorf("no room in subject %s", q.Subject))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[roomID]
	if r == nil {
		if ctx.Err() != nil {
			q.Respond(bus.RoomAnswer{}, ctx.Err())
			return
		}
		r = s.newRoom(roomID)
		s.rooms[roomID] = r
		s.running.Add(1)
		liveRooms.Inc()
		go func() {
			defer s.running.Done()
			defer liveRooms.Dec()
			r.live(ctx)
		}()
	}
	select {
	case r.inbox <- q:
	default:
		q.Respond(bus.RoomAnswer{}, bus.Refuse(429, "M_LIMIT_EXCEEDED", "Too many requests wait for this room"))
	}
}

// retire takes an idle room out of the map; false if a question came meanwhile.
func (s *Server) retire(r *room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(r.inbox) > 0 {
		return false
	}
	delete(s.rooms, r.id)
	return true
}

func refuse(status int, code mautrix.RespError, message string) *bus.Refusal {
	refusals.Inc()
	return bus.Refuse(status, code.ErrCode, message)
}
