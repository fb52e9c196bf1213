// Package calls is the MatrixRTC focus: the place where the media of a call meet. It gives out tokens, lets their
// bearers into call rooms, negotiates with them and decides who hears whom; sfu moves the packets.
//
// It owns rooms and participants, each with one goroutine that owns its state. What holds here:
//   - who may be in a call is asked when the token is given, when the socket opens, at each resume and each token
//     refresh, and followed in between: membership withdrawn ends the session within a second;
//   - only tokens that we signed open a room, whose name is otherwise public;
//   - a room never waits for a participant: one that does not keep up is closed and may come back;
//   - others hear of a participant before they get its media;
//   - clients are told our own STUN and TURN servers and those of the configuration, never none: some would ask public ones.
package calls

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"chancery/calls/sfu"
	"chancery/calls/signal"
	"chancery/calls/turn"
)

// admission says who may be in a call. The homeserver's rules are one, a focus alone has another.
type admission interface {
	// admit says whether the bearer may be in its room now, and what it may do there; otherwise the error is ErrNotAdmitted.
	admit(ctx context.Context, c *Claims) (ruling, error)
}

// ErrNotAdmitted says that a good token's bearer may not be in the room now.
var ErrNotAdmitted = errors.New("calls: not admitted")

// Focus is the call focus of one process.
type Focus struct {
	config    Config
	engine    *sfu.Engine
	turn      *turn.Server
	tokens    tokens
	admit     admission
	house     *house        // nil in a focus alone
	service   *tokenService // as well
	handler   http.Handler
	door      doorLimit
	roads     roads
	refused   sentAway
	attention attention
	guests    guests
	places    places
	leaves    *leaves       // likewise
	hooks     *hooks        // nil where nobody is told
	ending    chan struct{} // closed when the focus begins to shut
	began     time.Time
	// closeAfter is how long after somebody's last session what a crashed client left is closed.
	closeAfter time.Duration
	// refreshEvery is how often those inside get a new token, and are asked about anew.
	refreshEvery time.Duration
	// mostSent is how many tracks of others one client gets at once.
	mostSent int
	records  *recorder       // nil in a focus alone
	ctx      context.Context // of all calls; ends with the focus
	cancel   context.CancelFunc
	live     sync.WaitGroup
	homes    *homes // nil where there is no other focus process
	reach    atomic.Pointer[turn.Foci]
	crowd    atomic.Int64 // participants of all calls
	onCrowd  func(participants int)

	mu      sync.Mutex
	rooms   map[string]*Room
	closing bool
}

// OnCrowd has fn told how many are in calls here, whenever somebody comes or goes; it must not block. It is called before Run.
func (f *Focus) OnCrowd(fn func(participants int)) { f.onCrowd = fn }

// crowded counts who has come or gone.
func (f *Focus) crowded(by int64) {
	participantsLive.Add(float64(by))
	if n := f.crowd.Add(by); f.onCrowd != nil {
		f.onCrowd(int(n))
	}
}

// newFocus opens the ports and makes a focus without calls.
func newFocus(ctx context.Context, config Config, admit admission) (*Focus, error) {
	secret := []byte(config.Secret)
	if len(secret) == 0 {
		secret = []byte(rand.Text() + rand.Text())
	}
	ports := sfu.Ports{
		UDP: config.UDPPort, TCP: config.TCPPort, Loopback: config.Loopback,
		Listen: parseIPs(config.Listen), Public: parseIPs(config.PublicIPs),
	}
	signal.Prepare()
	engine, err := sfu.NewEngine(ports)
	if err != nil {
		return nil, fmt.Errorf("calls: %w", err)
	}
	f := &Focus{
		config: config, engine: engine, admit: admit, rooms: map[string]*Room{},
		tokens: tokens{key: config.Key, secret: secret, now: time.Now},
		ending: make(chan struct{}), closeAfter: closeAfter, refreshEvery: refreshEvery, mostSent: mostSent, began: time.Now(),
	}
	if err := f.openTURN(ports); err != nil {
		return nil, errors.Join(fmt.Errorf("calls: %w", err), engine.Close())
	}
	f.hooks = newHooks(config, f.serviceKeys())
	f.ctx, f.cancel = context.WithCancel(zerolog.Ctx(ctx).WithContext(context.WithoutCancel(ctx)))
	return f, nil
}

// Handler serves everything of the focus under its path of the configuration.
func (f *Focus) Handler() http.Handler { return f.handler }

// Run works until ctx ends, and then sends the participants away to come back to another process, or to this one anew.
func (f *Focus) Run(ctx context.Context) error {
	if f.hooks != nil { // until the last session has ended
		told := make(chan struct{})
		telling, stop := context.WithCancel(context.WithoutCancel(ctx))
		go func() { defer close(told); _ = f.hooks.run(telling) }()
		defer func() { f.hooks.drain(telling, hookTime/5); stop(); <-told }()
	}
	if f.config.Standalone {
		zerolog.Ctx(ctx).Warn().Msg("The call focus runs without a homeserver's rules: every bearer of a signed token is let in")
	}
	if f.house == nil {
		<-ctx.Done()
	} else if err := f.serveHouse(ctx); err != nil {
		return errors.Join(err, f.shut())
	}
	return f.shut()
}

// shut sends everybody away and frees the ports.
func (f *Focus) shut() error {
	f.mu.Lock()
	if !f.closing {
		close(f.ending)
	}
	f.closing = true
	rooms := make([]*Room, 0, len(f.rooms))
	for _, r := range f.rooms {
		rooms = append(rooms, r)
	}
	f.mu.Unlock()
	for _, r := range rooms {
		r.end(signal.DisconnectReason_SERVER_SHUTDOWN, signal.Leave_RECONNECT)
	}
	done := make(chan struct{})
	go func() { f.live.Wait(); close(done) }()
	patience := time.NewTimer(shutPatience)
	defer patience.Stop()
	var late error
	select {
	case <-done:
	case <-patience.C:
		late = errors.New("calls: sessions are still open")
	}
	if f.records != nil {
		f.records.finish(f.ctx)
	}
	f.cancel()
	return errors.Join(late, f.turn.Close(), f.engine.Close())
}

var (
	errNoRoom  = errors.New("requested room does not exist")
	errTaken   = errors.New("the identity is another user's")
	errFull    = errors.New("the room is full")
	errClosing = errors.New("the focus is shutting down")
)

// room gives the room of that name, and makes it if create says so.
func (f *Focus) room(name string, create bool) (*Room, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return nil, errClosing
	}
	if r := f.rooms[name]; r != nil && !r.over() {
		return r, nil
	}
	if !create {
		return nil, errNoRoom
	}
	if f.homes != nil {
		f.homes.began(name)
	}
	r := newRoom(f, name)
	f.rooms[name] = r
	roomsLive.Inc()
	f.hooks.tell("room_started", r.described(nil), nil, nil)
	f.live.Go(func() {
		r.run()
		f.hooks.tell("room_finished", r.described(nil), nil, nil)
		roomsLive.Dec()
		f.mu.Lock()
		if f.rooms[name] == r {
			delete(f.rooms, name)
		}
		f.mu.Unlock()
	})
	return r, nil
}

// shutPatience bounds how long the participants may take to go.
const shutPatience = 4 * time.Second

// liveRooms gives the rooms with these names, or all.
func (f *Focus) liveRooms(names ...string) []*Room {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rooms []*Room
	for _, r := range f.rooms {
		if !r.over() && (len(names) == 0 || slices.Contains(names, r.name)) {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

// newID makes an identifier with the prefix that clients look for.
func newID(prefix string) string { return prefix + rand.Text()[:14] }
