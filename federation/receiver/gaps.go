package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// The bounds of filling one gap. Beyond them the state at the gap is fetched instead, and beyond that we give up.
const (
	missingPerRound = 20
	maxRounds       = 10
	asideAtOnce     = 100
	gapTime         = 5 * time.Minute
	maxOneByOne     = 50      // missing events of a state that are fetched one by one; more come in one answer
	maxState        = 200_000 // events of a state that we take
)

// gaps fetches what set-aside PDUs lack. Each room has at most one filler at a time.
type gaps struct {
	r    *Receiver
	jobs chan id.RoomID

	mu    sync.Mutex
	rooms map[id.RoomID]*filling
}

// filling is a room whose gaps are being filled, or wait for it.
type filling struct {
	done  chan struct{} // closed when all that was aside has been seen to
	again bool          // more was set aside meanwhile
	tries int           // how often in a row the room did not answer
}

// errSilent is wrapped where a room did not judge an event: it stays aside, and is offered again.
var errSilent = errors.New("the room does not answer")

const (
	firstPause, longestPause = 200 * time.Millisecond, time.Minute
	// maxFaults is how often an event is offered at which the room fails each time.
	maxFaults = 10
)

// fillers is how many rooms are filled at the same time.
const fillers = 16

func newGaps(r *Receiver) *gaps {
	return &gaps{r: r, jobs: make(chan id.RoomID, 10_000), rooms: make(map[id.RoomID]*filling)}
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
	ctx, cancel := context.WithTimeout(ctx, gapTime)
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
			if err := g.one(ctx, version, a); err != nil {
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

// one fetches what one event lacks and has the room take it in.
func (g *gaps) one(ctx context.Context, version id.RoomVersion, a storage.Aside) error {
	if version == "" {
		return errUnknownRoom
	}
	ev, err := pdu.Trusted(version, a.EventID, a.JSON)
	if err != nil {
		return err
	}
	missing, err := g.offer(ctx, a.Origin, version, ev, 0)
	if err != nil || len(missing) == 0 {
		return err
	}
	if lacksAuthOnly(ev, missing) {
		if err := g.authChain(ctx, version, a.Origin, ev); err != nil {
			return err
		}
		if missing, err = g.offer(ctx, a.Origin, version, ev, 0); err != nil || len(missing) == 0 {
			return err
		}
	}
	if err := g.events(ctx, version, a, ev); err != nil {
		return err
	}
	if missing, err = g.offer(ctx, a.Origin, version, ev, 0); err != nil || len(missing) == 0 {
		return err
	}
	// An origin that does not tell what its own event stands on could as well tell any state for it.
	return fmt.Errorf("%s does not tell the event's parents, %s among them", a.Origin, missing[0])
}

// lacksAuthOnly says whether the parents are all there.
func lacksAuthOnly(ev gomatrixserverlib.PDU, missing []id.EventID) bool {
	return !slices.ContainsFunc(missing, func(m id.EventID) bool { return slices.Contains(ev.PrevEventIDs(), string(m)) })
}

// authChain stores the event's auth chain as outliers.
// Spec: server-server-api/#get_matrixfederationv1event_authroomideventid
func (g *gaps) authChain(ctx context.Context, version id.RoomVersion, origin string, ev gomatrixserverlib.PDU) error {
	room := pdu.RoomIDOf(ev)
	var answer struct {
		Chain []json.RawMessage `json:"auth_chain"`
	}
	err := g.r.client.Ask(ctx, remote.Request{
		Server: origin, Method: http.MethodGet, Path: []string{"v1", "event_auth", string(room), ev.EventID()}, Limit: remote.LargeAnswer,
	}, &answer)
	if err != nil {
		return err
	}
	events, _ := g.r.ring.Believe(ctx, version, room, answer.Chain)
	_, err = remote.StoreOutliers(ctx, g.r.store, events)
	return err
}

// offer asks the room to take one event in, and gives what it still lacks. A rejection is an end like any other. The error of a
// room that did not judge the event wraps errSilent.
func (g *gaps) offer(ctx context.Context, origin string, version id.RoomVersion, ev gomatrixserverlib.PDU, snapshot int64) ([]id.EventID, error) {
	outcomes, err := g.r.receive(ctx, origin, version, pdu.RoomIDOf(ev), []gomatrixserverlib.PDU{ev}, snapshot)
	var refusal *bus.Refusal
	if errors.As(err, &refusal) && refusal.Status != http.StatusTooManyRequests {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSilent, err)
	}
	if o := outcomes[0]; o.Verdict == bus.Missing {
		if len(o.Missing) == 0 {
			return nil, errors.New("the room lacks something that it does not name")
		}
		return o.Missing, nil
	}
	return nil, nil
}

// events walks back from the event to what we have, with get_missing_events, and has the room take what it finds, the oldest
// first. It ends when the gap is closed, or the bounds are reached.
// Spec: server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (g *gaps) events(ctx context.Context, version id.RoomVersion, a storage.Aside, ev gomatrixserverlib.PDU) error {
	room, err := g.r.store.Rooms.ByID(ctx, a.RoomID)
	if err != nil || room == nil {
		return err
	}
	found := map[id.EventID]gomatrixserverlib.PDU{}
	latest := []id.EventID{a.EventID}
	for range maxRounds {
		events, err := g.missingEvents(ctx, version, a, room.Extremities, latest)
		if err != nil {
			return err
		}
		news := 0
		for _, ev := range events {
			if ev != nil && found[id.EventID(ev.EventID())] == nil && id.EventID(ev.EventID()) != a.EventID {
				found[id.EventID(ev.EventID())] = ev
				news++
			}
		}
		if news == 0 {
			break
		}
		if latest, err = g.edge(ctx, found); err != nil {
			return err
		}
		if len(latest) == 0 {
			break
		}
	}
	return g.takeFound(ctx, a.Origin, version, found)
}

// edge gives those of the found events that have parents which we neither have nor found.
func (g *gaps) edge(ctx context.Context, found map[id.EventID]gomatrixserverlib.PDU) ([]id.EventID, error) {
	var parents []id.EventID
	for _, ev := range found {
		for _, p := range ev.PrevEventIDs() {
			if found[id.EventID(p)] == nil {
				parents = append(parents, id.EventID(p))
			}
		}
	}
	known, err := g.r.store.Events.Known(ctx, parents)
	if err != nil {
		return nil, err
	}
	var edge []id.EventID
	for eventID, ev := range found {
		for _, p := range ev.PrevEventIDs() {
			standing, have := known[id.EventID(p)]
			if found[id.EventID(p)] == nil && (!have || standing == storage.Outlier) {
				edge = append(edge, eventID)
				break
			}
		}
	}
	return edge, nil
}

// takeFound hands found events to the room, the shallowest first. If the oldest still lack their parents, they are taken in with
// the state before them.
func (g *gaps) takeFound(ctx context.Context, origin string, version id.RoomVersion, found map[id.EventID]gomatrixserverlib.PDU) error {
	events := make([]gomatrixserverlib.PDU, 0, len(found))
	for _, ev := range found {
		events = append(events, ev)
	}
	slices.SortFunc(events, func(x, y gomatrixserverlib.PDU) int { return int(min(max(x.Depth()-y.Depth(), -1), 1)) })
	for _, ev := range events {
		missing, err := g.offer(ctx, origin, version, ev, 0)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			continue
		}
		if err := g.withState(ctx, version, origin, ev); err != nil {
			return err
		}
	}
	return nil
}

func (g *gaps) missingEvents(ctx context.Context, version id.RoomVersion, a storage.Aside, earliest, latest []id.EventID) ([]gomatrixserverlib.PDU, error) {
	body := struct {
		Earliest []id.EventID `json:"earliest_events"`
		Latest   []id.EventID `json:"latest_events"`
		Limit    int          `json:"limit"`
	}{append([]id.EventID{}, earliest...), latest, missingPerRound}
	var answer struct {
		Events []json.RawMessage `json:"events"`
	}
	err := g.r.client.Ask(ctx, remote.Request{
		Server: a.Origin, Method: http.MethodPost, Path: []string{"v1", "get_missing_events", string(a.RoomID)}, Body: body,
	}, &answer)
	if err != nil {
		return nil, err
	}
	if len(answer.Events) > 5*missingPerRound {
		return nil, fmt.Errorf("%d events for a question for %d", len(answer.Events), missingPerRound)
	}
	events, _ := g.r.ring.Believe(ctx, version, a.RoomID, answer.Events)
	return events, nil
}

// withState takes an event in whose parents cannot be had: with the state before it, as the origin tells it.
func (g *gaps) withState(ctx context.Context, version id.RoomVersion, origin string, ev gomatrixserverlib.PDU) error {
	chain, err := g.stateBefore(ctx, version, origin, ev)
	if err != nil {
		return err
	}
	missing, err := g.offer(ctx, origin, version, ev, chain)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d events are missing still, %s among them", len(missing), missing[0])
	}
	return err
}

// stateBefore fetches the state before an event as the origin tells it, and keeps it as an unattached snapshot; it gives the
// number of its chain.
// Spec: server-server-api/#get_matrixfederationv1state_idsroomid
func (g *gaps) stateBefore(ctx context.Context, version id.RoomVersion, origin string, ev gomatrixserverlib.PDU) (int64, error) {
	room := pdu.RoomIDOf(ev)
	var answer struct {
		State []id.EventID `json:"pdu_ids"`
		Chain []id.EventID `json:"auth_chain_ids"`
	}
	query := url.Values{"event_id": {ev.EventID()}}
	err := g.r.client.Ask(ctx, remote.Request{
		Server: origin, Method: http.MethodGet, Path: []string{"v1", "state_ids", string(room)}, Query: query, Limit: remote.LargeAnswer,
	}, &answer)
	if err != nil {
		return 0, err
	}
	if len(answer.State)+len(answer.Chain) > maxState {
		return 0, fmt.Errorf("a state of %d events with a chain of %d", len(answer.State), len(answer.Chain))
	}
	wanted := append(append(append([]id.EventID{}, answer.State...), answer.Chain...), pdu.AuthEvents(ev)...)
	if err := g.fetch(ctx, version, origin, room, ev, wanted); err != nil {
		return 0, err
	}
	rows, err := g.r.store.Events.ByIDs(ctx, answer.State)
	if err != nil {
		return 0, err
	}
	keys := make(map[pdu.Key]int64, len(rows))
	for _, row := range rows {
		if row.RoomID == room && row.StateKey != nil && row.Standing != storage.Rejected {
			keys[pdu.Key{Type: row.Type, StateKey: *row.StateKey}] = row.Number
		}
	}
	return g.r.store.State.WriteUnattached(ctx, room, keys)
}

// fetch stores those of the events that we lack as outliers: one by one if they are few, or with the whole state before ev.
func (g *gaps) fetch(ctx context.Context, version id.RoomVersion, origin string, room id.RoomID, ev gomatrixserverlib.PDU, wanted []id.EventID) error {
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	known, err := g.r.store.Events.Known(ctx, wanted)
	if err != nil {
		return err
	}
	wanted = slices.DeleteFunc(wanted, func(e id.EventID) bool { _, have := known[e]; return have })
	if len(wanted) == 0 {
		return nil
	}
	var raws []json.RawMessage
	if len(wanted) > maxOneByOne {
		if raws, err = g.wholeState(ctx, origin, room, ev); err != nil {
			return err
		}
	} else {
		raws = g.oneByOne(ctx, origin, wanted)
	}
	events, _ := g.r.ring.Believe(ctx, version, room, raws)
	_, err = remote.StoreOutliers(ctx, g.r.store, events)
	return err
}

// wholeState asks for the state before an event and its auth chain, with all events.
// Spec: server-server-api/#get_matrixfederationv1stateroomid
func (g *gaps) wholeState(ctx context.Context, origin string, room id.RoomID, ev gomatrixserverlib.PDU) ([]json.RawMessage, error) {
	var answer struct {
		PDUs  []json.RawMessage `json:"pdus"`
		Chain []json.RawMessage `json:"auth_chain"`
	}
	err := g.r.client.Ask(ctx, remote.Request{
		Server: origin, Method: http.MethodGet, Path: []string{"v1", "state", string(room)}, Query: url.Values{"event_id": {ev.EventID()}},
		Limit: remote.LargeAnswer, Timeout: 2 * time.Minute,
	}, &answer)
	return append(answer.Chain, answer.PDUs...), err
}

// oneByOne asks for single events, a few at a time. What cannot be had is left out.
// Spec: server-server-api/#get_matrixfederationv1eventeventid
func (g *gaps) oneByOne(ctx context.Context, origin string, wanted []id.EventID) []json.RawMessage {
	var mu sync.Mutex
	var raws []json.RawMessage
	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, eventID := range wanted {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			var answer struct {
				PDUs []json.RawMessage `json:"pdus"`
			}
			err := g.r.client.Ask(ctx, remote.Request{
				Server: origin, Method: http.MethodGet, Path: []string{"v1", "event", string(eventID)},
			}, &answer)
			if err != nil || len(answer.PDUs) != 1 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			raws = append(raws, answer.PDUs[0])
		})
	}
	wait.Wait()
	return raws
}
