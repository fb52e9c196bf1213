package syncing

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// slideKey names a connection as its client does.
type slideKey struct {
	user   id.UserID
	device id.DeviceID
	name   string
}

// slide is a connection: what a client was told, as of the last answer that it is known to have got, and what the one
// after that changed.
type slide struct {
	key slideKey
	id  string // ours, anew with each first request

	turn chan struct{} // holds one token: whoever takes it makes the next answer

	// mu guards what follows. Only who has the turn writes it, and needs no lock to read it.
	mu    sync.Mutex
	base  *slideMark // the answer from which the client goes on; nil at its first request
	next  *slideMark // the answer that was given last; the client may not have got it
	rooms map[id.RoomID]*slideRoom
	last  int64 // the highest sequence given out
	// blind is the position after which the client may have been told of rooms, or not, for all that we know: it is told of
	// each that the user left since.
	blind storage.Position

	// Guarded by slides.mu.
	used   time.Time
	ending func() // ends the request that waits
	asked  int64  // counts requests: the newest alone goes on
	dirty  bool   // what the row says is too old
	saved  time.Time
}

// slideMark is one answer.
type slideMark struct {
	pos      string
	token    storage.Token
	sequence int64
	// text is what of the request chose rooms, wants the rooms that it chose, counts how many each list holds in all.
	text  string
	parts map[string]string
	ext   *slideExtensions // nil where it is not known
	// unstuck: a client that gave no token for sticky events was told of none.
	unstuck bool
	// more: there were too many rooms for one answer.
	more   bool
	wants  map[id.RoomID]*slideWant
	counts map[string]int
	notes  *notes
	// changes are the rooms of which the answer told something; nil for one that is forgotten.
	changes map[id.RoomID]*slideRoom
}

// slideRoom is what a connection was told of a room. It is never changed.
type slideRoom struct {
	// upTo is the position up to which it was told. While the room is among an answer's wants, the answer's position says that.
	upTo storage.Position
	// held is how many of the newest events, at least, the client holds without a gap.
	held int
	// state is what it wanted of the state, membership how the user stood to the room, dm whether it was shown as a direct one.
	state      *wishes
	membership event.Membership
	dm         bool
}

// wholeTimeline is held of a room whose history the client has to its beginning.
const wholeTimeline = 1 << 30

// slideWant is what a request wants of a room.
type slideWant struct {
	limit      int
	state      *wishes
	lists      []string
	subscribed bool
}

// slides are the connections of this process.
type slides struct {
	mu sync.Mutex
	of map[slideKey]*slide
	// byDevice counts them; beyond storage.MaxSliding the oldest goes.
	byDevice map[deviceKey]int
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

func newSlides() *slides {
	return &slides{of: map[slideKey]*slide{}, byDevice: map[deviceKey]int{}}
}

var errUnknownPos = mautrix.RespError{ErrCode: "M_UNKNOWN_POS", Err: "This pos is not known here: begin anew", StatusCode: 400}

// openSlide gives the connection of a request: a new one at the first request, or the one that its pos names.
func (s *Syncing) openSlide(ctx context.Context, ask *slideAsk) (*slide, error) {
	key := slideKey{ask.by.User, ask.by.Device, ask.name}
	if ask.pos == "" {
		// Where it begins is part of its name: all that is known of it after a restart that came too early.
		name := strings.ToLower(rand.Text()[:10]) + strconv.FormatInt(s.applied.Load(), 10)
		return s.slides.add(newSlide(key, name), s.now()), nil
	}
	pos, err := storage.ParseSlidingPos(ask.pos)
	if err != nil || pos.Owner != key.owner() || !s.store.Valid(pos.Token) {
		return nil, errUnknownPos
	}
	s.slides.mu.Lock()
	x := s.slides.of[key]
	s.slides.mu.Unlock()
	switch {
	case x == nil:
		return s.reopenSlide(ctx, ask)
	case x.id != pos.Connection:
		return nil, errUnknownPos // the client itself began anew
	}
	return x, nil
}

// reopenSlide makes a connection of what was written down of it. The pos is one that openSlide lets pass.
func (s *Syncing) reopenSlide(ctx context.Context, ask *slideAsk) (*slide, error) {
	key := slideKey{ask.by.User, ask.by.Device, ask.name}
	pos, err := storage.ParseSlidingPos(ask.pos)
	if err != nil {
		return nil, errUnknownPos
	}
	x, err := s.restoreSlide(ctx, key, &pos, ask.pos)
	if err != nil {
		return nil, err
	}
	return s.slides.add(x, s.now()), nil
}

// fromElsewhere tells whether another process gave the pos out, or this one in an earlier life.
func (s *Syncing) fromElsewhere(pos string) bool {
	p, err := storage.ParseSlidingPos(pos)
	return err == nil && p.Process != s.process
}

func newSlide(key slideKey, name string) *slide {
	x := &slide{key: key, id: name, blind: never, rooms: map[id.RoomID]*slideRoom{}, turn: make(chan struct{}, 1)}
	x.turn <- struct{}{}
	return x
}

// never is a position that will not be reached.
const never = storage.Position(1) << 62

// owner is a mark that tells one connection's pos from those of other users, devices and names.
func (k slideKey) owner() string {
	sum := sha256.Sum256([]byte(string(k.user) + "\x00" + string(k.device) + "\x00" + k.name))
	return hex.EncodeToString(sum[:4])
}

// add puts a connection in place of one with the same name.
func (c *slides) add(new *slide, now time.Time) *slide {
	new.used = now
	c.mu.Lock()
	defer c.mu.Unlock()
	device := deviceKey{new.key.user, new.key.device}
	if old := c.of[new.key]; old != nil {
		old.end()
	} else if c.byDevice[device]++; c.byDevice[device] > storage.MaxSliding {
		c.dropOldest(device)
	}
	c.of[new.key] = new
	return new
}

// dropOldest drops the connection of a device that was not used for the longest time. mu is held.
func (c *slides) dropOldest(device deviceKey) {
	var oldest *slide
	for key, x := range c.of {
		if key.user == device.user && key.device == device.device && (oldest == nil || x.used.Before(oldest.used)) {
			oldest = x
		}
	}
	if oldest != nil {
		oldest.end()
		c.drop(oldest)
	}
}

// drop forgets a connection. mu is held.
func (c *slides) drop(x *slide) {
	delete(c.of, x.key)
	device := deviceKey{x.key.user, x.key.device}
	if c.byDevice[device]--; c.byDevice[device] <= 0 {
		delete(c.byDevice, device)
	}
}

// end ends the request that waits on the connection, if one does. slides.mu is held.
func (x *slide) end() {
	if x.ending != nil {
		x.ending()
		x.ending = nil
	}
}

// takeTurn ends the request that waits on the connection, and waits for its turn. done gives it back. The context ends when a
// newer request comes.
func (s *Syncing) takeTurn(ctx context.Context, x *slide) (turn context.Context, done func(), err error) {
	turn, stop := context.WithCancel(ctx)
	s.slides.mu.Lock()
	x.end()
	x.asked++
	mine := x.asked
	x.ending = stop
	s.slides.mu.Unlock()
	select {
	case <-x.turn:
	case <-turn.Done():
		stop()
		return nil, nil, turn.Err()
	}
	return turn, func() {
		s.slides.mu.Lock()
		if x.asked == mine {
			x.ending = nil
		}
		x.used = s.now()
		s.slides.mu.Unlock()
		stop()
		x.turn <- struct{}{}
	}, nil
}

// proceed sets the connection to where the client is; news: it has got an answer with something in it. It has the turn.
func (x *slide) proceed(pos string) (news bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case pos == "":
		if x.base != nil || x.next != nil {
			return false, errUnknownPos
		}
	case x.next != nil && x.next.pos == pos:
		news = len(x.next.changes) > 0 || x.base == nil
		x.settle(x.next)
	case x.base != nil && x.base.pos == pos:
	default:
		return false, errUnknownPos
	}
	return news, nil
}

// answered notes an answer that was given. It has the turn.
func (x *slide) answered(mark *slideMark) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.next = mark
	x.last = max(x.last, mark.sequence)
}

// settle makes the last answer the one from which the client goes on. mu is held.
func (x *slide) settle(mark *slideMark) {
	for room, r := range mark.changes {
		if r == nil {
			delete(x.rooms, room)
		} else {
			x.rooms[room] = r
		}
	}
	mark.changes = nil
	x.base, x.next = mark, nil
}

// token is that of the answer from which the client goes on; zero at the first request.
func (x *slide) token() storage.Token {
	if x.base == nil {
		return storage.Token{}
	}
	return x.base.token
}

// upTo is the position up to which the client was told of a room that it knows.
func (x *slide) upTo(room id.RoomID, r *slideRoom) storage.Position {
	if x.base != nil && x.base.wants[room] != nil {
		return max(r.upTo, x.base.token.Position)
	}
	return r.upTo
}
