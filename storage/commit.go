package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"

	"chancery/storage/bus"
)

var (
	commitSize = promauto.NewHistogram(prometheus.HistogramOpts{
		Name: "chancery_commit_jobs", Help: "Writes that shared one commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 9),
	})
	commitSeconds = promauto.NewHistogram(prometheus.HistogramOpts{
		Name: "chancery_commit_seconds", Help: "Time of one commit, with all its writes.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
	})
	headPosition = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_stream_position", Help: "The newest position this process knows.",
	})
)

// ErrClosed says that the store has ended.
var ErrClosed = errors.New("storage: closed")

// maxGroup bounds the writes that share one commit.
const maxGroup = 512

// job is one write that waits for the committer: a closure, or a room's rows.
type job struct {
	ctx  context.Context
	fn   func(context.Context) error
	rows *RoomRows
	done func(error)
}

// committer gathers what waits, while the previous commit is under way.
type committer struct {
	mu     sync.Mutex
	queue  []*job
	wake   chan struct{}
	closed bool
	lease  func() *Lease // of the room writer, if this process has one
}

func newCommitter() *committer { return &committer{wake: make(chan struct{}, 1)} }

func (c *committer) add(j *job) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.queue = append(c.queue, j)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

func (c *committer) take() (jobs []*job, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), maxGroup)
	jobs = c.queue[:n:n]
	c.queue = c.queue[n:]
	return jobs, c.closed
}

func (c *committer) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// transaction is what a context carries inside Do.
type transaction struct {
	next    Position // last position taken so far
	changes []Change
	after   []func()
}

type transactionKey struct{}

func transactionOf(ctx context.Context) *transaction {
	tx, _ := ctx.Value(transactionKey{}).(*transaction)
	return tx
}

// Do runs fn in a transaction that it may share with others, and returns when it is on disk
// (nil) or undone (an error). fn may run twice, changes nothing but the database,
// asks nothing of the bus or the network, and ends within milliseconds. Inside another Do it simply runs.
func (s *Store) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	if transactionOf(ctx) != nil {
		return fn(ctx)
	}
	done := make(chan error, 1)
	if err := s.committer.add(&job{ctx: ctx, fn: fn, done: func(err error) { done <- err }}); err != nil {
		return err
	}
	// Not cut short by ctx: whoever asked must know whether it happened.
	return <-done
}

// Next takes the next n positions, inside Do; it gives the first.
func (s *Store) Next(ctx context.Context, n int) Position {
	tx := transactionOf(ctx)
	if tx == nil {
		panic("storage: Next outside Do")
	}
	first := tx.next + 1
	tx.next += Position(n)
	return first
}

// note tells, after the commit, of a row that has a position.
func (s *Store) note(ctx context.Context, c Change) {
	tx := transactionOf(ctx)
	tx.changes = append(tx.changes, c)
}

// After runs fn once the transaction of ctx is on disk, before Do returns: for caches. It must not block.
func (s *Store) After(ctx context.Context, fn func()) {
	tx := transactionOf(ctx)
	tx.after = append(tx.after, fn)
}

func (s *Store) commitLoop(ctx context.Context) {
	for {
		jobs, closed := s.committer.take()
		if len(jobs) == 0 {
			if closed {
				return
			}
			<-s.committer.wake
			continue
		}
		s.commitGroup(ctx, jobs)
	}
}

// commitGroup runs all jobs in one transaction; if one fails, each by itself.
func (s *Store) commitGroup(ctx context.Context, jobs []*job) {
	start := time.Now()
	live := jobs[:0]
	for _, j := range jobs {
		if err := j.refused(); err != nil {
			j.done(err)
			continue
		}
		live = append(live, j)
	}
	if len(live) == 0 {
		return
	}
	err := s.commit(ctx, live)
	if err == nil || len(live) == 1 {
		finish(live, err)
	} else {
		zerolog.Ctx(ctx).Debug().Err(err).Int("jobs", len(live)).Msg("Commit failed, repeating one by one")
		for _, j := range live {
			if err := j.refused(); err != nil {
				j.done(err)
				continue
			}
			alone := []*job{j}
			finish(alone, s.commit(ctx, alone))
		}
	}
	commitSize.Observe(float64(len(live)))
	commitSeconds.Observe(time.Since(start).Seconds())
}

// refused says why a job need not be tried: its asker is gone before it began, or rows of the same line failed before it.
func (j *job) refused() error {
	if j.rows != nil {
		return j.rows.Line.err
	}
	return j.ctx.Err()
}

func finish(jobs []*job, err error) {
	for _, j := range jobs {
		if err != nil && j.rows != nil {
			j.rows.Line.err = fmt.Errorf("an earlier write of the room failed: %w", err)
		}
		j.done(err)
	}
}

// commit runs the jobs in one transaction: the counter first, then the rooms' rows in bulk, then the closures.
func (s *Store) commit(ctx context.Context, jobs []*job) error {
	tx := &transaction{}
	var first, last Position
	err := s.db.DoTxn(ctx, nil, func(ctx context.Context) error {
		*tx = transaction{}
		ctx = context.WithValue(ctx, transactionKey{}, tx)
		var rooms []*RoomRows
		for _, j := range jobs {
			if j.rows != nil {
				rooms = append(rooms, j.rows)
			}
		}
		need := positionsOf(rooms)
		// The counter is the first row that a transaction locks: no deadlocks, and positions in the order of commit.
		var head Position
		if err := s.db.QueryRow(ctx, "UPDATE counter SET position = position + $1 RETURNING position", need).Scan(&head); err != nil {
			return fmt.Errorf("take positions: %w", err)
		}
		tx.next = head - Position(need)
		first = tx.next + 1
		if err := s.writeRooms(ctx, rooms); err != nil {
			return err
		}
		for _, j := range jobs {
			if j.fn != nil {
				if err := s.run(ctx, j); err != nil {
					return err
				}
			}
		}
		// Rooms may have taken fewer positions than were set aside for them: what is left over stays empty.
		if last = max(tx.next, head); last > head {
			if _, err := s.db.Exec(ctx, "UPDATE counter SET position = $1", last); err != nil {
				return fmt.Errorf("set counter: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, fn := range tx.after {
		fn()
	}
	if last >= first {
		s.announce(ctx, first, last, tx.changes)
	}
	return nil
}

// run calls a job's closure with its own logger and values, but in the group's transaction.
func (s *Store) run(ctx context.Context, j *job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("storage: write panicked: %v", p)
		}
	}()
	return j.fn(zerolog.Ctx(j.ctx).WithContext(ctx))
}

// announce puts committed changes into the tail and tells the others how far the stream has come.
func (s *Store) announce(ctx context.Context, first, last Position, changes []Change) {
	if s.tail.add(first, last, changes) {
		headPosition.Set(float64(last))
	} else {
		// Another process committed in between: its rows are read first.
		s.tail.poke()
	}
	if s.bus != nil && !s.bus.Embedded() {
		if err := bus.Tell(s.bus, bus.Advance, last); err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Msg("Advance not told; others will look by themselves")
		}
	}
}
