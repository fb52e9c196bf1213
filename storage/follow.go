package storage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"
)

// Follower is somebody who reads the stream at its own pace.
type Follower struct {
	// Name of the cursor. Empty: none is kept; the follower begins at the head.
	Name string
	// FromStart lets a new name begin with all that is there, not at the head.
	FromStart bool
	// Started is told where the follower begins. Nil: nobody.
	Started func(at Position)
	// Kinds of news that it wants. None: all.
	Kinds []Kind
	// Handle takes one run of news, in order, up to and including the position.
	// news may be empty. It is called again with the same news if it fails, after a pause.
	// The slice is shared: read only.
	Handle func(ctx context.Context, news []Change, upTo Position) error
	// Patience is how long the pause after a failure becomes at most. 0: ten seconds.
	Patience time.Duration
	// Settled says up to where the news need not come again after a crash, for a follower that hands its work on. It is asked
	// before the cursor is saved. Nil: what was handled is settled.
	Settled func() Position
}

// settled is the position that may be saved for a follower that has handled everything up to at.
func (f *Follower) settled(at Position) Position {
	if f.Settled == nil {
		return at
	}
	return min(at, f.Settled())
}

const (
	// saveEvery is how often a cursor is written at most.
	saveEvery = time.Second
	// firstPause is that after a follower's first failure; it doubles until longestPause.
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

// Follow reads the stream for f until ctx ends, and then returns nil. News comes at least
// once: after a crash the last second may come again. A new name begins at the head.
func (s *Store) Follow(ctx context.Context, f Follower) error {
	at, err := s.cursor(ctx, f.Name, f.FromStart)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("follower %s: %w", f.Name, err)
	}
	if f.Started != nil {
		f.Started(at)
	}
	saved, savedAt := at, time.Now()
	save := func(ctx context.Context) {
		to := f.settled(at)
		if f.Name == "" || to <= saved {
			return
		}
		if err := s.saveCursor(ctx, f.Name, to); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Str("follower", f.Name).Msg("Cursor not saved")
			return
		}
		saved, savedAt = to, time.Now()
	}
	// At a stop the cursor is saved though ctx has ended.
	defer func() { save(context.WithoutCancel(ctx)) }()
	pause := firstPause
	for ctx.Err() == nil {
		head, moved := s.Moved()
		if at >= head {
			wake := time.NewTimer(saveEvery)
			select {
			case <-ctx.Done():
			case <-moved:
			case <-wake.C:
				save(ctx)
			}
			wake.Stop()
			continue
		}
		news, to, err := s.news(ctx, at, f.Kinds)
		if err == nil {
			err = f.handle(ctx, news, to)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			zerolog.Ctx(ctx).Error().Err(err).Str("follower", f.Name).Int64("after", int64(at)).Msg("Follower stumbled, will try again")
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, cmp.Or(f.Patience, longestPause))
			continue
		}
		pause = firstPause
		at = to
		if time.Since(savedAt) > saveEvery {
			save(ctx)
		}
	}
	return nil
}

func (f *Follower) handle(ctx context.Context, news []Change, to Position) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f.Handle(ctx, news, to)
}

// news gives the wanted changes after the position: from the tail, or from the tables when it does not reach back.
func (s *Store) news(ctx context.Context, after Position, kinds []Kind) ([]Change, Position, error) {
	changes, to, ok := s.tail.since(after)
	if !ok {
		to = min(to, after+readSpan)
		var err error
		if changes, err = s.Changes(ctx, after, to); err != nil {
			return nil, 0, err
		}
	}
	if len(kinds) == 0 {
		return changes, to, nil
	}
	var wanted []Change
	for _, c := range changes {
		if slices.Contains(kinds, c.Kind) {
			wanted = append(wanted, c)
		}
	}
	return wanted, to, nil
}

// Cursor gives how far the follower of that name has read. One that is new begins at the head.
func (s *Store) Cursor(ctx context.Context, name string) (Position, error) {
	return s.cursor(ctx, name, false)
}

// Saved gives the cursor that a follower has saved; 0 if there is none.
func (s *Store) Saved(ctx context.Context, name string) (Position, error) {
	return one(ctx, s, column[Position], "SELECT position FROM cursors WHERE name = $1", name)
}

func (s *Store) cursor(ctx context.Context, name string, fromStart bool) (Position, error) {
	head := s.Head()
	if name == "" {
		return head, nil
	}
	at, err := one(ctx, s, column[*Position], "SELECT position FROM cursors WHERE name = $1", name)
	if err != nil {
		return 0, err
	}
	if at == nil && fromStart {
		return 0, s.saveCursor(ctx, name, 0)
	}
	if at == nil {
		return head, s.saveCursor(ctx, name, head)
	}
	return min(*at, head), nil
}

func (s *Store) saveCursor(ctx context.Context, name string, at Position) error {
	return s.Do(ctx, func(ctx context.Context) error {
		_, err := s.exec(ctx, `INSERT INTO cursors (name, position) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET position = excluded.position`, name, at)
		return err
	})
}
