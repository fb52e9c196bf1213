package syncing

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// gate lets so many answers be made at once, in the order in which they came: but those who wait for little go before the crowd
// of a great room, so that it does not keep a small one waiting. One in so many is the crowd's even then.
type gate struct {
	mu      sync.Mutex
	free    int
	express queue
	crowd   queue
	turn    int
	size    int
}

// queue holds who waits, in order.
type queue []chan struct{}

// crowdsTurn is which of the turns is the crowd's, whoever else waits.
const crowdsTurn = 8

func newGate(size int) *gate { return &gate{free: size, size: size} }

// enter waits for a turn, which [gate.leave] gives back.
func (g *gate) enter(ctx context.Context, express bool) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	if express {
		g.express = append(g.express, mine)
	} else {
		g.crowd = append(g.crowd, mine)
	}
	g.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	gone := g.express.remove(mine) || g.crowd.remove(mine)
	g.mu.Unlock()
	if !gone {
		g.leave() // the turn came just then
	}
	return ctx.Err()
}

// leave gives the turn to the next.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn++
	next := &g.express
	if len(g.express) == 0 || g.turn%crowdsTurn == 0 && len(g.crowd) > 0 {
		next = &g.crowd
	}
	if len(*next) == 0 {
		g.free++
		return
	}
	close((*next)[0])
	(*next)[0] = nil
	*next = (*next)[1:]
}

func (q *queue) remove(one chan struct{}) bool {
	for i, other := range *q {
		if other == one {
			*q = append((*q)[:i:i], (*q)[i+1:]...)
			return true
		}
	}
	return false
}

// turns gives how many turns have ended, and whether none is being taken.
func (g *gate) turns() (ended int, still bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.turn, g.free == g.size
}

const (
	// aStorm is how many answers read from the tables leave memory behind that is worth giving back.
	aStorm = 200
	// afterStorm is how long it must have been still.
	afterStorm = 250 * time.Millisecond
)

// relieve gives memory back to the system when many first syncs, or all clients after a restart, have been answered: what their
// answers took is not needed again soon, and what waits afterwards is small.
func (s *Syncing) relieve(ctx context.Context) {
	tick := time.NewTicker(afterStorm)
	defer tick.Stop()
	relieved, last := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ended, still := s.slow.turns()
		if still && ended == last && ended-relieved >= aStorm {
			// Each look for garbage halves stacks that are mostly empty, no more.
			runtime.GC()
			runtime.GC()
			debug.FreeOSMemory()
			relieved = ended
		}
		last = ended
	}
}
