package storage

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Leases says which process alone may do a thing: write rooms, send, push, keep timers.
// Time is the database server's or, on SQLite, the only process's.
type Leases struct{ s *Store }

// Lease is a right that ends by itself unless it is renewed.
type Lease struct {
	Name, Holder string
	// Epoch rises with each new holder.
	Epoch int64
	Until time.Time
}

// Take takes or renews the lease for the span, and gives nil if somebody else holds it.
func (t *Leases) Take(ctx context.Context, name, holder string, span time.Duration) (*Lease, error) {
	l := &Lease{Name: name, Holder: holder}
	now := t.s.now()
	l.Until = now.Add(span)
	taken := false
	err := t.s.Do(ctx, func(ctx context.Context) error {
		// A holder who comes back after another keeps no old epoch: it rises unless the row is still the holder's own.
		rows, err := t.s.query(ctx, `INSERT INTO leases (name, holder, epoch, until) VALUES ($1, $2, 1, $3)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,
				epoch = CASE WHEN leases.holder = excluded.holder THEN leases.epoch ELSE leases.epoch + 1 END
			WHERE leases.holder = excluded.holder OR leases.until < $4
			RETURNING epoch`, name, holder, l.Until.UnixMilli(), now.UnixMilli())
		if err != nil {
			return fmt.Errorf("take lease %s: %w", name, err)
		}
		defer rows.Close()
		if taken = rows.Next(); taken {
			return rows.Scan(&l.Epoch)
		}
		return rows.Err()
	})
	if err != nil || !taken {
		return nil, err
	}
	return l, nil
}

// Release gives the lease up, so that another need not wait for its end.
func (t *Leases) Release(ctx context.Context, l *Lease) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "UPDATE leases SET until = 0 WHERE name = $1 AND holder = $2 AND epoch = $3", l.Name, l.Holder, l.Epoch)
		return err
	})
}

// leaseSpan is how long a lease lasts that Hold does not renew any more.
const leaseSpan = 10 * time.Second

// Hold runs fn while this process holds the lease, and waits for it where another one does, until ctx ends. fn's context
// ends when the lease is lost; it may then be called again. With an embedded bus there is no other process, and no lease.
func (t *Leases) Hold(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	if t.s.bus == nil || t.s.bus.Embedded() {
		return fn(ctx)
	}
	holder := rand.Text()
	for ctx.Err() == nil {
		l, err := t.Take(ctx, name, holder, leaseSpan)
		if err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Str("lease", name).Msg("Lease not taken, will try again")
		}
		if l == nil {
			pause(ctx, leaseSpan/10)
			continue
		}
		if err := t.held(ctx, l, fn); err != nil {
			return err
		}
	}
	return nil
}

func (t *Leases) held(ctx context.Context, l *Lease, fn func(ctx context.Context) error) error {
	held, lost := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		defer lost()
		for pause(held, leaseSpan/4) {
			renewed, err := t.Take(held, l.Name, l.Holder, leaseSpan)
			if err != nil || renewed == nil || renewed.Epoch != l.Epoch {
				return
			}
		}
	})
	err := fn(held)
	lost()
	renewing.Wait()
	if released := t.Release(context.WithoutCancel(ctx), l); released != nil {
		zerolog.Ctx(ctx).Debug().Err(released).Str("lease", l.Name).Msg("Lease not released; it ends by itself")
	}
	return err
}

// pause says false when ctx ended first.
func pause(ctx context.Context, span time.Duration) bool {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
