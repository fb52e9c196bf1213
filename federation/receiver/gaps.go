package receiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	asideAtOnce = 100
	// roomTime bounds one visit to a room, eventTime what one of its events may take of it.
	roomTime  = 5 * time.Minute
	eventTime = time.Minute
)

// gaps fetches what set-aside PDUs lack. Each room has at most one filler at a time.
type gaps struct {
	r    *Receiver
	jobs chan id.RoomID

	mu    sync.Mutex
	rooms map[id.RoomID]*filling
	// busy counts the gaps that each origin makes us fill at this moment.
	busy map[string]int
}

// filling is a room whose gaps are being filled, or wait for it.
type filling struct {
	done  chan struct{} // closed when all that was aside has been seen to
	again bool          // more was set aside meanwhile
	tries int           // how often in a row the room did not answer
}

// errBusy says that enough is being filled already for the origin of the room's oldest event that waits.
var errBusy = errors.New("other gaps of the origin come first")

// errSilent is wrapped where a room did not judge an event: it stays aside, and is offered again.
var errSilent = errors.New("the room does not answer")

const (
	firstPause, longestPause = 200 * time.Millisecond, time.Minute
	// maxFaults is how often an event is offered at which the room fails each time.
	maxFaults = 10
)

// fillers is how many rooms are filled at the same time, and perOrigin how many of them for the same origin: one that drips its
// answers holds up its own gaps and nobody else's.
const (
	fillers   = 16
	perOrigin = 4
)

func newGaps(r *Receiver) *gaps {
	return &gaps{r: r, jobs: make(chan id.RoomID, 10_000), rooms: make(map[id.RoomID]*filling), busy: make(map[string]int)}
}

// fill wants a room's gaps filled; the channel is closed when that is done, or was given up. It does not block: where too many
// rooms wait, the room is taken up by the next PDU or after a restart.
func (g *gaps) fill(room id.RoomID) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.rooms[room]; f != nil {
		f.again = true
		return f.done
	}
	f := &filling{done: make(chan struct{})}
	select {
	case g.jobs <- room:
		g.rooms[room] = f
	default:
		close(f.done)
	}
	return f.done
}

// run fills gaps until ctx ends; those that a crash or a stop left open first.
func (g *gaps) run(ctx context.Context) error {
	rooms, err := g.r.store.Received.RoomsAside(ctx)
	if err != nil {
		return fmt.Errorf("read PDUs set aside: %w", err)
	}
	for _, room := range rooms {
		g.fill(room)
	}
	var wait sync.WaitGroup
	for range fillers {
		wait.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case room := <-g.jobs:
					g.work(ctx, room)
				}
			}
		})
	}
	wait.Wait()
	return nil
}

func (g *gaps) work(ctx context.Context, room id.RoomID) {
	log := zerolog.Ctx(ctx).With().Stringer("room_id", room).Logger()
	for {
		g.mu.Lock()
		f := g.rooms[room]
		f.again = false
		g.mu.Unlock()
		err := g.room(log.WithContext(ctx), room, f)
		if errors.Is(err, errBusy) && ctx.Err() == nil {
			g.again(ctx, room, firstPause)
			return
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Int("tries", f.tries).Msg("Gap in the room's history not filled")
		}
		if errors.Is(err, errSilent) && ctx.Err() == nil {
			g.later(ctx, room, f)
			return
		}
		g.mu.Lock()
		if !f.again || ctx.Err() != nil {
			delete(g.rooms, room)
			close(f.done)
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
	}
}

// later takes the room up again after a pause. Nobody waits for it meanwhile but who waits for the room anyway.
func (g *gaps) later(ctx context.Context, room id.RoomID, f *filling) {
	pause := min(firstPause<<min(f.tries, 16), longestPause)
	f.tries++
	g.again(ctx, room, pause)
}

func (g *gaps) again(ctx context.Context, room id.RoomID, pause time.Duration) {
	time.AfterFunc(pause, func() {
		select {
		case g.jobs <- room:
		case <-ctx.Done():
		}
	})
}

// room sees to all that is aside in the room, the oldest first.
func (g *gaps) room(ctx context.Context, room id.RoomID, f *filling) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, roomTime)
	defer cancel()
	version, err := g.r.roomVersion(ctx, room)
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	for {
		aside, err := g.r.store.Received.AsideIn(ctx, room, asideAtOnce)
		if err != nil {
			return fmt.Errorf("%w: %w", errSilent, err)
		}
		if len(aside) == 0 {
			return nil
		}
		for _, a := range aside {
			leave, ok := g.enter(a.Origin)
			if !ok {
				return errBusy
			}
			err := g.one(ctx, version, a)
			leave()
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err() // it stays aside
				}
				if errors.Is(err, errSilent) && (f.tries < maxFaults || !errors.Is(err, bus.ErrFault)) {
					return err
				}
				zerolog.Ctx(ctx).Info().Err(err).Stringer("event_id", a.EventID).Str("origin", a.Origin).Msg("Event given up: what it stands on cannot be had")
			}
			f.tries = 0
			if err := g.r.store.Received.NoLongerAside(ctx, []id.EventID{a.EventID}); err != nil {
				return fmt.Errorf("%w: %w", errSilent, err)
			}
		}
	}
}

// enter takes one of the origin's places.
func (g *gaps) enter(origin string) (leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[origin] >= perOrigin {
		return nil, false
	}
	g.busy[origin]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.busy[origin]--; g.busy[origin] == 0 {
			delete(g.busy, origin)
		}
	}, true
}

// one fetches what one event lacks and has the room take it in.
func (g *gaps) one(ctx context.Context, version id.RoomVersion, a storage.Aside) error {
	if version == "" {
		return errUnknownRoom
	}
	ev, err := pdu.Trusted(version, a.EventID, a.JSON)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, eventTime)
	defer cancel()
	q, err := g.inquire(ctx, version, a.RoomID, a.Origin)
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	missing, err := q.offer(ctx, ev, 0)
	if err != nil || len(missing) == 0 {
		return err
	}
	if lacksAuthOnly(ev, missing) {
		if err := q.authChain(asking, ev); err != nil {
			return err
		}
		if missing, err = q.offer(ctx, ev, 0); err != nil || len(missing) == 0 {
			return err
		}
	}
	lack := q.walkBack(asking, ev)
	if errors.Is(lack, errSilent) && asking.Err() == nil {
		return lack
	}
	if missing, err = q.offer(ctx, ev, 0); err != nil || len(missing) == 0 {
		return err
	}
	// A server that does not tell what its own event stands on could as well tell any state for it. Others who have the parents
	// may tell.
	if others := q.without(a.Origin); others != nil {
		if err := others.parents(asking, ev, missing); err == nil || errors.Is(err, errSilent) && asking.Err() == nil {
			return err
		}
	}
	return errors.Join(fmt.Errorf("the event's parents are not told, %s among them", missing[0]), lack)
}

// lacksAuthOnly says whether the parents are all there.
func lacksAuthOnly(ev gomatrixserverlib.PDU, missing []id.EventID) bool {
	return !slices.ContainsFunc(missing, func(m id.EventID) bool { return slices.Contains(ev.PrevEventIDs(), string(m)) })
}
