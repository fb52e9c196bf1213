package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// stack runs the components of a process bottom up, and stops them in the reverse order: what stands on something
// has ended before that something is told to. It is used by one goroutine.
type stack struct {
	ctx    context.Context // carries the logger; its end is not the floors' end
	floors []*floor
	failed chan error
}

// floor is one component that runs, or one thing that is closed at the end.
type floor struct {
	name    string
	stop    func()
	stopped chan struct{}
}

func newStack(ctx context.Context) *stack {
	return &stack{ctx: context.WithoutCancel(ctx), failed: make(chan error, 64)}
}

// run starts a component in a goroutine of its own. If it returns before it is told to stop, the stack has failed.
func (s *stack) run(name string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(s.ctx)
	f := &floor{name: name, stop: cancel, stopped: make(chan struct{})}
	s.floors = append(s.floors, f)
	go func() {
		defer close(f.stopped)
		err := run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			s.failed <- fmt.Errorf("%s: %w", name, err)
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			zerolog.Ctx(s.ctx).Warn().Err(err).Str("component", name).Msg("Component stopped with an error")
		}
	}()
}

// closes adds what needs no goroutine, only an end.
func (s *stack) closes(name string, end func()) {
	f := &floor{name: name, stopped: make(chan struct{})}
	f.stop = sync.OnceFunc(func() {
		go func() { defer close(f.stopped); end() }()
	})
	s.floors = append(s.floors, f)
}

// wait blocks until ctx ends (nil) or a floor fails (its error).
func (s *stack) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// stop ends the floors top down. A floor that does not end is waited for until the patience of all is used up; from
// then on each gets a moment only.
func (s *stack) stop(patience time.Duration) {
	deadline := time.Now().Add(patience)
	for i := len(s.floors) - 1; i >= 0; i-- {
		f := s.floors[i]
		f.stop()
		timer := time.NewTimer(max(time.Until(deadline), 100*time.Millisecond))
		select {
		case <-f.stopped:
		case <-timer.C:
			zerolog.Ctx(s.ctx).Error().Str("component", f.name).Msg("Component did not stop in time")
		}
		timer.Stop()
	}
	s.floors = nil
}
