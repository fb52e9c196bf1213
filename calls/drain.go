package calls

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"chancery/calls/signal"
)

// Drain lets this process take no new calls, where another one can; calls that run may end by themselves within a while,
// and then move. undo takes it back.
func (f *Focus) Drain(within time.Duration, undo bool) error {
	if f.homes == nil {
		return errors.New("there is no other focus process: stopping this one sends its participants away to come back")
	}
	f.homes.drain(within, undo)
	if log := zerolog.Ctx(f.ctx); undo {
		log.Info().Msg("New calls are taken again")
	} else {
		log.Info().Stringer("within", within).Msg("No new calls are taken, those that run longer move")
	}
	return nil
}

// drain takes no new calls from now on; those that run may end by themselves for a while, and then move. undo takes it back.
func (h *homes) drain(within time.Duration, undo bool) {
	h.mu.Lock()
	h.draining = !undo
	drainedNow.Set(0)
	if h.moving != nil {
		h.moving.Stop()
		h.moving = nil
	}
	if !undo {
		drainedNow.Set(1)
		clear(h.claimed) // whoever was about to begin a call begins it elsewhere
		h.moving = time.AfterFunc(within, h.move)
	}
	h.mu.Unlock()
	h.tell(false)
}

// move sends all calls of this process to others: their clients join anew. It waits while nobody else could take them.
func (h *homes) move() {
	if !h.leaving() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.draining && h.focus.ctx.Err() == nil {
			h.moving = time.AfterFunc(beatEvery, h.move)
		}
		return
	}
	for _, r := range h.focus.liveRooms() {
		r.end(signal.DisconnectReason_MIGRATION, signal.Leave_RECONNECT)
	}
	ctx, cancel := context.WithTimeout(h.focus.ctx, takePatience)
	defer cancel()
	// Whoever is back before that finds that the call is not here, and gives it up too.
	if err := h.rows.ReleaseAll(ctx, h.name()); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Calls are not given up, the next beat will")
	}
}
