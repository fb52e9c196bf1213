package storage

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

// Kind says what sort of news a change is.
type Kind uint8

// The kinds of news. Followers name those they want.
const (
	// EventNews: an event was shown in a room's timeline (Change.Event).
	EventNews Kind = iota
	// StateNews: a room's current state changed, by an event or by a resolution (Change.State).
	StateNews
	// MembershipNews: a user's membership changed, also by invites to rooms that we are not in (Change.Membership).
	MembershipNews
	// ReceiptNews (Change.RoomID, UserID, Row *Receipt).
	ReceiptNews
	// AccountDataNews (Change.UserID, RoomID or none, Row *AccountData).
	AccountDataNews
	// ToDeviceNews: a message waits for a device (Change.UserID, DeviceID).
	ToDeviceNews
	// DeviceListNews: a user's devices or keys changed (Change.UserID, DeviceID or none).
	DeviceListNews
	// DeviceEndedNews: a device and its tokens are gone (Change.UserID, DeviceID).
	DeviceEndedNews
	// ProfileNews: a user's profile changed (Change.UserID).
	ProfileNews
	// ThreadNews: a user subscribed to a thread, or left it (Change.RoomID, UserID, Row *ThreadSubscription).
	ThreadNews
	// OutboundNews: an EDU waits for another server (Change.Row).
	OutboundNews
	// ValidityNews: somebody said until when an account is good (Change.UserID, Row *Validity). That its time is over is no news.
	ValidityNews
)

// Change is one piece of news: a row that has a position.
type Change struct {
	Position Position
	Kind     Kind
	RoomID   id.RoomID
	UserID   id.UserID
	DeviceID id.DeviceID

	Event      *Event
	State      *StateChange
	Membership *Membership
	// Row is the noun's own struct, for the other kinds. Not to be changed by readers.
	Row any
}

// size estimates the memory that a change holds, in bytes.
func (c *Change) size() int {
	n := 200
	if c.Event != nil {
		n += 300 + len(c.Event.JSON)
	}
	return n
}

// source is a noun whose rows have positions.
type source interface {
	// changes gives the noun's news with from < position <= to, in any order.
	changes(ctx context.Context, from, to Position) ([]Change, error)
}

// tail is the newest part of the stream, in memory: contiguous up to head.
type tail struct {
	mu      sync.Mutex
	changes []Change // ascending by position
	from    Position // everything after this position is in changes
	head    Position
	bytes   int
	limit   int
	moved   chan struct{} // closed and replaced when head moves
	wanted  chan struct{} // asks the reader to look at the tables
	seen    time.Time     // when the head was last known to be the database's
}

func newTail(head Position, limit int) *tail {
	if limit <= 0 {
		limit = DefaultConfig().TailBytes
	}
	return &tail{from: head, head: head, limit: limit, moved: make(chan struct{}), wanted: make(chan struct{}, 1), seen: time.Now()}
}

// add takes in the changes of the positions first to last; false if positions before first are still unknown.
func (t *tail) add(first, last Position, changes []Change) bool {
	sort.SliceStable(changes, func(i, j int) bool { return changes[i].Position < changes[j].Position })
	t.mu.Lock()
	defer t.mu.Unlock()
	if first > t.head+1 {
		return false
	}
	if last <= t.head {
		return true
	}
	for _, c := range changes {
		if c.Position > t.head {
			t.changes = append(t.changes, c)
			t.bytes += c.size()
		}
	}
	t.head = last
	t.seen = time.Now()
	t.trim()
	close(t.moved)
	t.moved = make(chan struct{})
	return true
}

// trim drops the oldest quarter when there is more than the limit, whole positions at a time: so seldom that a commit does not feel it.
func (t *tail) trim() {
	if t.bytes <= t.limit {
		return
	}
	drop := 0
	for t.bytes > t.limit-t.limit/4 && drop < len(t.changes)-1 {
		p := t.changes[drop].Position
		for drop < len(t.changes) && t.changes[drop].Position == p {
			t.bytes -= t.changes[drop].size()
			drop++
		}
		t.from = p
	}
	if drop > 0 {
		t.changes = append([]Change(nil), t.changes[drop:]...)
	}
}

// since gives the changes after the position, and how far they reach; ok is false if the tail no longer holds them all.
// The slice is shared: read only.
func (t *tail) since(after Position) (changes []Change, head Position, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if after < t.from {
		return nil, t.head, false
	}
	i := sort.Search(len(t.changes), func(i int) bool { return t.changes[i].Position > after })
	return t.changes[i:len(t.changes):len(t.changes)], t.head, true
}

func (t *tail) poke() {
	select {
	case t.wanted <- struct{}{}:
	default:
	}
}

// Head is the newest position that this process knows.
func (s *Store) Head() Position {
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	return s.tail.head
}

// Moved gives the head, and a channel that is closed when it moves.
func (s *Store) Moved() (Position, <-chan struct{}) {
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	return s.tail.head, s.tail.moved
}

// Since gives the news after the position from memory, and how far it reaches;
// ok is false when the tail does not reach back so far: then ask [Store.Changes]. Read only.
func (s *Store) Since(after Position) (changes []Change, head Position, ok bool) {
	return s.tail.since(after)
}

// Fresh reports whether the tail has been confirmed within the age; with an
// embedded bus it always is. Caches of what must be known now ask it.
func (s *Store) Fresh(age time.Duration) bool {
	if s.bus == nil || s.bus.Embedded() {
		return true
	}
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	return time.Since(s.tail.seen) < age
}

// Changes reads the news with from < position <= to from the tables, in the order of positions.
// The caller keeps the span short.
func (s *Store) Changes(ctx context.Context, from, to Position) ([]Change, error) {
	var list []Change
	for _, src := range s.sources() {
		part, err := src.changes(ctx, from, to)
		if err != nil {
			return nil, err
		}
		list = append(list, part...)
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Position < list[j].Position })
	return list, nil
}

// readSpan bounds how many positions are read from the tables at once.
const readSpan = 1000

// readTail keeps the tail of a process that is not the only writer: it reads
// the tables once per advance, and each second in case one was lost.
func (s *Store) readTail(ctx context.Context) error {
	stop, err := bus.Listen(s.bus, bus.Advance, func(_ string, to Position) {
		if to > s.Head() {
			s.tail.poke()
		}
	})
	if err != nil {
		return err
	}
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		defer stop()
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		log := zerolog.Ctx(ctx).Sample(&zerolog.BurstSampler{Burst: 1, Period: 10 * time.Second}) // a database that is away is so for each try
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.tail.wanted:
			case <-tick.C:
			}
			if err := s.catchUp(ctx); err != nil && ctx.Err() == nil {
				log.Warn().Err(err).Msg("Cannot read the stream")
			}
		}
	}()
	return nil
}

// catchUp reads the tables up to the counter's position into the tail.
func (s *Store) catchUp(ctx context.Context) error {
	to, err := s.counterPosition(ctx)
	if err != nil {
		return err
	}
	for from := s.Head(); from < to; from = s.Head() {
		end := min(to, from+readSpan)
		changes, err := s.Changes(ctx, from, end)
		if err != nil {
			return err
		}
		s.tail.add(from+1, end, changes)
	}
	s.tail.mu.Lock()
	s.tail.seen = time.Now()
	s.tail.mu.Unlock()
	return nil
}
