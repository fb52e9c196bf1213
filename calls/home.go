package calls

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"chancery/calls/signal"
	"chancery/calls/turn"
	"chancery/storage"
	"chancery/storage/bus"
)

// homes knows on which of this server's focus processes each call lives. There is none where there is one process.
//
// What holds:
//   - a call has one home: a row, given by one statement, worth nothing once its process is buried;
//   - a process beats once a second; the others bury it when its beat has stood still for three, or at once when its door
//     refuses them; it learns that at its next beat, sends everybody away to join anew, and goes on under a new name;
//   - whoever cannot reach the database buries nobody and gives nothing up: nobody else can either.
type homes struct {
	focus   *Focus
	rows    *storage.Foci
	bus     *bus.Bus
	address string // where the others reach our signalling
	own     []bus.FocusMedia
	roads   *http.Transport

	mu         sync.Mutex
	process    string // our name, since the last burial
	hush       func() // ends the answering under that name
	draining   bool
	moving     *time.Timer           // when our calls move away, while draining
	claimed    map[string]time.Time  // calls that we took and nobody has joined yet
	neighbours map[string]*neighbour // the other processes
}

// neighbour is another focus process, as far as we know.
type neighbour struct {
	beat    int64
	risen   time.Time // when we last saw the beat rise
	refused bool      // by its door, since then

	heard    time.Time // its last news
	load     int
	draining bool
	media    []bus.FocusMedia

	sockets map[*context.CancelFunc]struct{} // what we relay to it
}

const (
	beatEvery = time.Second
	lookEvery = beatEvery / 2
	// leaseSpan is how long a beat may stand still; refusedSpan, if the process's door refuses connections as well.
	leaseSpan   = 3 * time.Second
	refusedSpan = 1500 * time.Millisecond
	// homePatience bounds how long somebody who joins waits for a home to be found.
	homePatience = 10 * time.Second
	// homePause is between two looks, while a home dies or moves.
	homePause    = 50 * time.Millisecond
	takePatience = time.Second
	// claimLife is how long a call that nobody has joined keeps its home.
	claimLife = time.Minute
)

// openHomes makes this process known to the others. Run does the rest.
func openHomes(ctx context.Context, f *Focus, store *storage.Store, messages *bus.Bus) (*homes, error) {
	h := &homes{
		focus: f, rows: store.Foci, bus: messages, address: strings.TrimRight(f.config.RelayAddress, "/"), roads: relayTransport(),
		claimed: map[string]time.Time{}, neighbours: map[string]*neighbour{},
	}
	for _, m := range f.ownMedia() {
		h.own = append(h.own, bus.FocusMedia{Told: m.Told, At: m.At})
	}
	stop, err := bus.Listen(messages, bus.FociNews, func(_ string, n bus.FocusNews) { h.hear(n, time.Now()) })
	if err != nil {
		return nil, err
	}
	if err := h.begin(ctx); err != nil {
		stop()
		return nil, err
	}
	context.AfterFunc(f.ctx, stop)
	return h, nil
}

// begin takes a name and answers under it.
func (h *homes) begin(ctx context.Context) error {
	process := newID("FO_")
	if err := h.rows.Begin(ctx, process, h.address); err != nil {
		return err
	}
	hush, err := bus.Answer(h.focus.ctx, h.bus, bus.FocusDo(process), func(ctx context.Context, _ string, q bus.FocusQuestion) (bus.FocusAnswer, error) {
		return h.answer(ctx, q)
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	old := h.hush
	h.process, h.hush = process, hush
	clear(h.claimed)
	h.mu.Unlock()
	if old != nil {
		old()
	}
	return nil
}

// name is what this process is called among the foci.
func (h *homes) name() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process
}

// run beats until ctx ends, and then gives all calls up.
func (h *homes) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	h.tell(false)
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			h.farewell(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			if err := h.beat(ctx, turn%2 == 0); err != nil && ctx.Err() == nil {
				zerolog.Ctx(ctx).Warn().Err(err).Msg("Focus did not beat, will try again")
			}
		}
	}
}

// farewell lets the others take over what we have.
func (h *homes) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := h.rows.Bury(ctx, h.name(), -1); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Focus not signed off; the others will notice")
	}
	h.tell(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	if h.moving != nil {
		h.moving.Stop()
	}
	h.hush()
}

// beat says that we live and compares our calls with what the rows say, or only looks who else lives.
func (h *homes) beat(ctx context.Context, aloud bool) error {
	ctx, cancel := context.WithTimeout(ctx, leaseSpan)
	defer cancel()
	if aloud {
		h.tell(false)
		alive, err := h.rows.Beat(ctx, h.name())
		if err != nil {
			return err
		}
		if !alive {
			return h.reborn(ctx)
		}
	}
	all, err := h.rows.All(ctx)
	if err != nil {
		return err
	}
	for _, dead := range h.compare(all, time.Now()) {
		if err := h.bury(ctx, dead); err != nil {
			return err
		}
	}
	if !aloud {
		return nil
	}
	return h.reconcile(ctx)
}

// reborn is what remains for a process that was taken for dead: its calls may be elsewhere.
func (h *homes) reborn(ctx context.Context) error {
	zerolog.Ctx(ctx).Warn().Msg("The other foci took this one for dead: its calls begin anew")
	rebirths.Inc()
	rooms := h.focus.liveRooms()
	if err := h.begin(ctx); err != nil {
		return err
	}
	for _, r := range rooms {
		r.end(signal.DisconnectReason_MIGRATION, signal.Leave_RECONNECT)
	}
	return nil
}

// compare takes what the rows say, and gives those whose beat has stood still for too long.
func (h *homes) compare(all []*storage.FocusProcess, now time.Time) (dead []*storage.FocusProcess) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := map[string]bool{}
	for _, p := range all {
		if p.Process == h.process {
			continue
		}
		known[p.Process] = true
		if _, expired := h.standing(p, now); expired {
			dead = append(dead, p)
		}
	}
	for process, n := range h.neighbours {
		if !known[process] && now.Sub(n.heard) > leaseSpan {
			h.forget(process)
		}
	}
	return dead
}

// standing says whether a process may be asked, or is to be buried; h.mu is held.
func (h *homes) standing(p *storage.FocusProcess, now time.Time) (trusted, expired bool) {
	n := h.neighbour(p.Process)
	if p.Beat != n.beat || n.risen.IsZero() {
		n.beat, n.risen, n.refused = p.Beat, now, false
	}
	still := now.Sub(n.risen)
	if n.heard.After(n.risen) {
		still = now.Sub(n.heard)
	}
	if n.refused {
		return false, still >= refusedSpan
	}
	return still < leaseSpan, still >= leaseSpan
}

// neighbour is what we know of a process; h.mu is held.
func (h *homes) neighbour(process string) *neighbour {
	n := h.neighbours[process]
	if n == nil {
		n = &neighbour{sockets: map[*context.CancelFunc]struct{}{}}
		h.neighbours[process] = n
	}
	return n
}

// forget ends what we relay to a process that is no more; h.mu is held.
func (h *homes) forget(process string) {
	n := h.neighbours[process]
	if n == nil {
		return
	}
	delete(h.neighbours, process)
	for cut := range n.sockets {
		(*cut)()
	}
	h.reach()
	fociLive.Set(float64(1 + len(h.neighbours)))
}

// bury ends a process that looks dead, unless it has beaten since.
func (h *homes) bury(ctx context.Context, p *storage.FocusProcess) error {
	buried, err := h.rows.Bury(ctx, p.Process, p.Beat)
	if err != nil || !buried {
		return err
	}
	zerolog.Ctx(ctx).Warn().Str("focus", p.Process).Str("address", p.Address).Msg("Focus is gone, its calls go to others")
	burials.Inc()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(p.Process)
	return nil
}

// reconcile brings rows and calls together: a live call has its home here, a row without a call is given up.
func (h *homes) reconcile(ctx context.Context) error {
	process := h.name()
	rows, err := h.rows.Calls(ctx, process)
	if err != nil {
		return err
	}
	live := map[string]*Room{}
	for _, r := range h.focus.liveRooms() {
		live[r.name] = r
	}
	for _, call := range rows {
		if live[call] == nil {
			if err := h.giveUp(ctx, call, process); err != nil {
				return err
			}
		}
		delete(live, call)
	}
	for call, r := range live { // moved away, or its row was lost
		home, err := h.rows.Home(ctx, call)
		if err != nil {
			return err
		}
		if home != nil && home.Process != process {
			r.end(signal.DisconnectReason_MIGRATION, signal.Leave_RECONNECT)
		} else if _, err := h.rows.Claim(ctx, call, process); err != nil {
			return err
		}
	}
	return nil
}

// giveUp takes its row from a call that is not here, and that nobody is about to join. It asks in that order: where a
// call begins, it is a room and no longer expected at once, for whoever asks for rooms last.
func (h *homes) giveUp(ctx context.Context, call, process string) error {
	if h.expected(call) || len(h.focus.liveRooms(call)) > 0 {
		return nil
	}
	return h.rows.Release(ctx, call, process)
}

// expected says whether somebody may be about to join a call that we took.
func (h *homes) expected(call string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok := h.claimed[call]
	if ok && time.Since(since) < claimLife {
		return true
	}
	delete(h.claimed, call)
	return false
}

// tell lets the others know how we are.
func (h *homes) tell(gone bool) {
	h.mu.Lock()
	news := bus.FocusNews{Process: h.process, Load: len(h.claimed), Draining: h.draining, Gone: gone, Media: h.own}
	h.mu.Unlock()
	news.Seal = h.focus.tokens.seal(news.Process)
	news.Load += h.focus.load()
	if err := bus.Tell(h.bus, bus.FociNews, news); err != nil {
		zerolog.Ctx(h.focus.ctx).Debug().Err(err).Msg("Focus not announced")
	}
}

// hear takes news of another process, and greets one that has just begun: it knows nobody.
func (h *homes) hear(news bus.FocusNews, now time.Time) {
	fresh, first := h.heard(news, now)
	if first && news.Seal != "" && news.Seal != h.focus.tokens.seal(news.Process) {
		zerolog.Ctx(h.focus.ctx).Error().Str("focus", news.Process).
			Msg("Another focus process signs tokens with another calls.key or calls.secret: calls fail until all have the same")
	}
	if fresh {
		h.tell(false)
	}
}

// heard notes news. fresh: of who was not known; first: of who had said nothing yet, though its beat may have been seen.
func (h *homes) heard(news bus.FocusNews, now time.Time) (fresh, first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case news.Process == "" || news.Process == h.process:
		return false, false
	case news.Gone:
		h.forget(news.Process)
		return false, false
	}
	fresh = h.neighbours[news.Process] == nil
	n := h.neighbour(news.Process)
	first = n.heard.IsZero()
	n.heard, n.load, n.draining = now, news.Load, news.Draining
	if len(n.media) == 0 && len(news.Media) > 0 {
		n.media = news.Media
		h.reach()
	}
	fociLive.Set(float64(1 + len(h.neighbours)))
	return fresh, first
}

// reach tells our TURN server where media are: ours and the neighbours'; h.mu is held.
func (h *homes) reach() {
	all := h.focus.ownMedia()
	for _, n := range h.neighbours {
		for _, m := range n.media {
			all = append(all, turn.Media{Told: m.Told, At: m.At})
		}
	}
	h.focus.reach.Store(turn.NewFoci(all))
}

// load is how much this process carries.
func (f *Focus) load() (participants int) {
	for _, r := range f.liveRooms() {
		participants += 1 + len(*r.everyone.Load())
	}
	return participants
}

// locate says where a call lives: nil means here. With begin it finds a home for a call that has none, this process at once
// where it was asked as the home; otherwise that is errNoRoom. It waits while the home is being taken for dead. A process that is
// drained gives up what it has no room for; asked as the home, it says errMoved.
func (h *homes) locate(ctx context.Context, call string, begin, asHome bool) (*storage.FocusProcess, error) {
	if len(h.focus.liveRooms(call)) > 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, homePatience)
	defer cancel()
	for {
		home, err := h.rows.Home(ctx, call)
		settled := false
		if err == nil && home == nil {
			if !begin {
				return nil, errNoRoom
			}
			if asHome && h.leaving() {
				return nil, errMoved
			}
			home, err = h.settle(ctx, call, asHome)
			settled = true
		}
		if err != nil {
			return nil, err
		}
		if home != nil {
			if home.Process == h.name() {
				if settled || !h.leaving() {
					return nil, nil
				}
				if err := h.rows.Release(ctx, call, home.Process); err != nil {
					return nil, err
				}
				if asHome {
					return nil, errMoved
				}
				continue
			}
			h.mu.Lock()
			trusted, expired := h.standing(home, time.Now())
			h.mu.Unlock()
			if trusted {
				return home, nil
			}
			if expired {
				if err := h.bury(ctx, home); err != nil {
					return nil, err
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil, errNoHome
		case <-time.After(homePause): // until a burial or a beat
		}
	}
}

var (
	errNoHome   = errors.New("the call's focus does not answer")
	errMoved    = errors.New("the call has moved away")
	errReplaced = errors.New("another focus answers in its place")
	errLeaving  = errors.New("calls: this focus takes no new calls")
)

// leaving says whether this process gives its calls away, and somebody else could take them.
func (h *homes) leaving() bool {
	h.mu.Lock()
	draining := h.draining
	h.mu.Unlock()
	return draining && h.lightest(0) != ""
}

// settle gives a call to the process with the least load.
func (h *homes) settle(ctx context.Context, call string, asHome bool) (*storage.FocusProcess, error) {
	other := h.lightest(h.focus.load())
	if other == "" || asHome {
		return h.claim(ctx, call)
	}
	ask, cancel := context.WithTimeout(ctx, takePatience)
	defer cancel()
	if _, err := bus.Ask[bus.FocusQuestion, bus.FocusAnswer](ask, h.bus, bus.FocusDo(other), bus.FocusQuestion{Take: call}); err != nil {
		h.mu.Lock()
		if n := h.neighbours[other]; n != nil {
			n.heard = time.Time{} // until it says something again
		}
		h.mu.Unlock()
	}
	return h.rows.Home(ctx, call)
}

// lightest is the other process that has less to carry than we do; empty if we are to take a new call ourselves.
func (h *homes) lightest(own int) (process string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	own += len(h.claimed)
	found := false
	least := own
	for name, n := range h.neighbours {
		if time.Since(n.heard) >= leaseSpan || n.refused || n.draining {
			continue
		}
		if n.load < least || h.draining && !found {
			process, least, found = name, n.load, true
		}
	}
	return process
}

func (h *homes) claim(ctx context.Context, call string) (*storage.FocusProcess, error) {
	process := h.name()
	home, err := h.rows.Claim(ctx, call, process)
	if err == nil && home != nil && home.Process == process {
		h.mu.Lock()
		h.claimed[call] = time.Now()
		h.mu.Unlock()
	}
	return home, err
}

// began notes that a call which was claimed lives now.
func (h *homes) began(call string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claimed, call)
}

// answer serves the questions of the other processes.
func (h *homes) answer(ctx context.Context, q bus.FocusQuestion) (bus.FocusAnswer, error) {
	switch {
	case q.Take != "" && h.leaving(): // who asks has not heard yet
		return bus.FocusAnswer{}, errLeaving
	case q.Take != "":
		home, err := h.claim(ctx, q.Take)
		if err != nil || home == nil {
			return bus.FocusAnswer{}, err
		}
		return bus.FocusAnswer{Home: home.Process}, nil
	case q.Do != nil:
		return h.focus.perform(*q.Do)
	}
	return bus.FocusAnswer{}, errors.New("calls: unknown question to a focus")
}

// node is what this process is called among the foci.
func (f *Focus) node() string {
	if f.homes == nil {
		return "chancery"
	}
	return f.homes.name()
}
