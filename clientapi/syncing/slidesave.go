package syncing

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const (
	// slideSaves is how often the rows of connections are written, at most.
	slideSaves = 10 * time.Second
	// slideBatch bounds how many are written at once, and slideRows how many each time.
	slideBatch, slideRows = 50, 500
	// slideAge is how long a row is kept that nobody uses.
	slideAge = 30 * 24 * time.Hour
)

// slideRow is what a row remembers of the rooms.
type slideRow struct {
	States []string                     `json:"s"`
	Rooms  map[id.RoomID]slideRowOfRoom `json:"r"`
}

type slideRowOfRoom struct {
	UpTo       storage.Position `json:"u"`
	Wanted     bool             `json:"w,omitempty"`
	Held       int              `json:"h"`
	State      int              `json:"s"`
	Membership event.Membership `json:"m"`
	DM         bool             `json:"d,omitempty"`
}

// row writes down the connection as the client is known to hold it; nil if there is nothing yet. It has the turn.
func (x *slide) row(now time.Time) (*storage.SlidingConnection, error) {
	if x.base == nil {
		return nil, nil
	}
	row := slideRow{Rooms: make(map[id.RoomID]slideRowOfRoom, len(x.rooms))}
	states := map[string]int{}
	for room, r := range x.rooms {
		n, ok := states[r.state.text]
		if !ok {
			n = len(row.States)
			states[r.state.text] = n
			row.States = append(row.States, r.state.text)
		}
		row.Rooms[room] = slideRowOfRoom{
			UpTo: x.upTo(room, r), Wanted: x.base.wants[room] != nil, Held: r.held, State: n, Membership: r.membership, DM: r.dm,
		}
	}
	state, err := json.Marshal(row)
	return &storage.SlidingConnection{
		UserID: x.key.user, DeviceID: x.key.device, Name: x.key.name, Connection: x.id,
		Sequence: x.base.sequence, Position: x.base.token.Position, Used: now, State: state,
	}, err
}

// restoreSlide makes a connection of its row. What has changed since the row was written may have been told or not: such
// rooms come anew. So does everything where there is no row yet, because the process ended before it wrote one.
func (s *Syncing) restoreSlide(ctx context.Context, key slideKey, pos *storage.SlidingPos, text string) (*slide, error) {
	x := newSlide(key, pos.Connection)
	x.last = pos.Sequence
	x.base = &slideMark{pos: text, token: pos.Token, sequence: pos.Sequence, wants: map[id.RoomID]*slideWant{}}
	stored, err := s.store.Sliding.Of(ctx, key.user, key.device, key.name)
	if err != nil {
		return nil, err
	}
	switch {
	case stored == nil && pos.Process == s.process:
		return nil, errUnknownPos // one too many: dropped
	case stored == nil:
		begun, err := strconv.ParseInt(pos.Connection[min(10, len(pos.Connection)):], 10, 64)
		if err != nil {
			return nil, errUnknownPos
		}
		x.blind = storage.Position(begun)
		return x, nil
	case stored.Connection != pos.Connection || stored.Sequence > pos.Sequence || stored.Position > pos.Position:
		return nil, errUnknownPos
	}
	var row slideRow
	if err := json.Unmarshal(stored.State, &row); err != nil {
		x.blind = 0
		return x, nil // written by another version: all comes anew
	}
	changed := map[id.RoomID]bool{}
	if stored.Sequence != pos.Sequence {
		x.blind = stored.Position
		if changed, err = s.changedRooms(ctx, key.user, stored.Position); err != nil {
			return nil, err
		}
	}
	x.rooms = row.restored(stored.Sequence == pos.Sequence, pos.Position, changed)
	return x, nil
}

// restored gives what of the row still holds.
func (row *slideRow) restored(exact bool, position storage.Position, changed map[id.RoomID]bool) map[id.RoomID]*slideRoom {
	states := make([]*wishes, len(row.States))
	for i, text := range row.States {
		states[i] = restoredWishes(text)
	}
	rooms := make(map[id.RoomID]*slideRoom, len(row.Rooms))
	for room, r := range row.Rooms {
		if r.State < 0 || r.State >= len(states) || (!exact && (changed[room] || !r.Wanted)) {
			continue
		}
		if r.Wanted {
			r.UpTo = position
		}
		rooms[room] = &slideRoom{upTo: r.UpTo, held: r.Held, state: states[r.State], membership: r.Membership, dm: r.DM}
	}
	return rooms
}

func restoredWishes(text string) *wishes {
	var parts []*required
	for _, line := range strings.Split(text, "\n") {
		r := &required{text: line}
		if line != "" && json.Unmarshal([]byte(line), &[]any{&r.include, &r.exclude, &r.lazy}) != nil {
			r = &required{}
		}
		parts = append(parts, r)
	}
	return wishesOf(parts)
}

// changedRooms gives the user's rooms of which there may be news since the position.
func (s *Syncing) changedRooms(ctx context.Context, user id.UserID, since storage.Position) (map[id.RoomID]bool, error) {
	changed := map[id.RoomID]bool{}
	touched, err := s.store.Rooms.Touched(ctx, user, since)
	if err != nil {
		return nil, err
	}
	for _, room := range touched {
		changed[room] = true
	}
	states, err := s.store.State.ChangedFor(ctx, user, since, s.store.Head())
	if err != nil {
		return nil, err
	}
	for _, c := range states {
		changed[c.RoomID] = true
	}
	stays, err := s.store.Memberships.ByUser(ctx, user)
	for _, m := range stays {
		if m.Position > since {
			changed[m.RoomID] = true
		}
	}
	return changed, err
}

// keepSlides writes down now and then what connections were told, and at the end everything.
func (s *Syncing) keepSlides(ctx context.Context) {
	log := zerolog.Ctx(ctx)
	if err := s.store.Do(ctx, func(ctx context.Context) error { return s.store.Sliding.Sweep(ctx, s.now().Add(-slideAge)) }); err != nil && ctx.Err() == nil {
		log.Error().Err(err).Msg("Old sliding connections were not swept")
	}
	tick := time.NewTicker(slideSaves)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), slideSaves)
			defer stop()
			if err := s.saveSlides(ctx, 1<<30); err != nil {
				log.Error().Err(err).Msg("Sliding connections were not written down, some rooms will be sent anew")
			}
			return
		case <-tick.C:
			if err := s.saveSlides(ctx, slideRows); err != nil && ctx.Err() == nil {
				log.Error().Err(err).Msg("Sliding connections were not written down, will try again")
			}
			s.dropIdleSlides()
		}
	}
}

// saveSlides writes the rows that are too old, those first that waited longest.
func (s *Syncing) saveSlides(ctx context.Context, most int) error {
	due := s.slides.due(most)
	for len(due) > 0 {
		n := min(slideBatch, len(due))
		var rows []*storage.SlidingConnection
		for _, x := range due[:n] {
			row, err := s.rowOf(x)
			if err != nil {
				return err
			}
			if row != nil {
				rows = append(rows, row)
			}
		}
		err := s.store.Do(ctx, func(ctx context.Context) error {
			for _, row := range rows {
				if err := s.store.Sliding.Put(ctx, row); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			s.slides.soil(due)
			return err
		}
		due = due[n:]
	}
	return nil
}

func (s *Syncing) rowOf(x *slide) (*storage.SlidingConnection, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.row(s.now())
}

// due takes the connections whose rows are too old, at most so many.
func (c *slides) due(most int) []*slide {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []*slide
	for _, x := range c.of {
		if x.dirty {
			due = append(due, x)
		}
	}
	slices.SortFunc(due, func(a, b *slide) int { return a.saved.Compare(b.saved) })
	due = due[:min(most, len(due))]
	now := time.Now()
	for _, x := range due {
		x.dirty, x.saved = false, now
	}
	return due
}

// soil puts connections back whose rows were not written.
func (c *slides) soil(list []*slide) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range list {
		x.dirty = true
	}
}

// dropIdleSlides forgets connections that nobody uses any more: their rows say the same.
func (s *Syncing) dropIdleSlides() {
	now := s.now()
	s.slides.mu.Lock()
	defer s.slides.mu.Unlock()
	for _, x := range s.slides.of {
		if !x.dirty && x.ending == nil && now.Sub(x.used) > s.cfg.Idle {
			s.slides.drop(x)
		}
	}
}
