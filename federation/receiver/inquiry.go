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

// The bounds of filling one gap.
const (
	missingPerRound = 20
	fullRound       = 10 // an answer with fewer holds all that there is to tell; some give no more at once than these
	maxRounds       = 10
	maxFound        = missingPerRound * maxRounds
	maxStates       = 20       // missing parents that are taken in with the state before them
	maxOneByOne     = 50       // missing events of a state that are fetched one by one; more come in one answer
	maxState        = 200_000  // events of a state that we take
	gapAnswer       = 64 << 20 // bytes of one answer
	gapBytes        = 96 << 20 // bytes of all answers
	maxSources      = 4        // servers that are asked the same
	askTime         = 20 * time.Second
)

var (
	errNobody  = errors.New("no server tells it")
	errTooMuch = errors.New("the gap is larger than we fill")
)

// inquiry is the filling of one gap: whom it asks, and what it may still cost.
type inquiry struct {
	r       *Receiver
	version id.RoomVersion
	room    id.RoomID
	origin  string

	mu sync.Mutex
	// sources are asked in their order; one that cannot be reached is asked no more.
	sources []string
	bytes   int
	states  int
}

// inquire begins to fill a gap that an event of the origin shows. If the origin cannot be reached, other servers in the room are
// asked in its place.
func (g *gaps) inquire(ctx context.Context, version id.RoomVersion, room id.RoomID, origin string) (*inquiry, error) {
	servers, err := g.r.store.Rooms.ServersNow(ctx, room)
	if err != nil {
		return nil, err
	}
	sources := []string{origin}
	for _, server := range g.r.others(servers) {
		if server != origin && len(sources) < maxSources && g.r.client.Allows(server) {
			sources = append(sources, server)
		}
	}
	return &inquiry{r: g.r, version: version, room: room, origin: origin, sources: sources, bytes: gapBytes, states: maxStates}, nil
}

// without is the same inquiry with one source less, nil if none is left.
func (q *inquiry) without(server string) *inquiry {
	q.mu.Lock()
	defer q.mu.Unlock()
	sources := slices.DeleteFunc(slices.Clone(q.sources), func(s string) bool { return s == server })
	if len(sources) == 0 {
		return nil
	}
	return &inquiry{r: q.r, version: q.version, room: q.room, origin: q.origin, sources: sources, bytes: q.bytes, states: q.states}
}

// ask puts a question to the sources, until one answers.
func (q *inquiry) ask(ctx context.Context, question remote.Request) (json.RawMessage, error) {
	q.mu.Lock()
	sources, left := slices.Clone(q.sources), q.bytes
	q.mu.Unlock()
	if left <= 0 {
		return nil, errTooMuch
	}
	if question.Limit == 0 {
		question.Limit = gapAnswer
	}
	question.Limit = min(question.Limit, int64(left))
	if question.Timeout == 0 {
		question.Timeout = askTime
	}
	failed := errNobody
	for _, question.Server = range sources {
		var raw json.RawMessage
		err := q.r.client.Ask(ctx, question, &raw)
		q.mu.Lock()
		q.bytes -= len(raw)
		if _, answered := remote.Refused(err); err != nil && !answered && len(q.sources) > 1 {
			q.sources = slices.DeleteFunc(q.sources, func(s string) bool { return s == question.Server })
		}
		q.mu.Unlock()
		if err == nil {
			return raw, nil
		}
		if failed = err; ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// offer asks the room to take one event in, and gives what it still lacks. A rejection is an end like any other. The error of a
// room that did not judge the event wraps errSilent.
func (q *inquiry) offer(ctx context.Context, ev gomatrixserverlib.PDU, snapshot int64) ([]id.EventID, error) {
	events := []gomatrixserverlib.PDU{ev}
	if err := q.r.vet(ctx, q.room, events); err != nil {
		return nil, fmt.Errorf("%w: %w", errSilent, err)
	}
	outcomes, err := q.r.receive(ctx, q.origin, q.version, q.room, events, snapshot)
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

// authChain stores the event's auth chain as outliers.
// Spec: server-server-api/#get_matrixfederationv1event_authroomideventid
func (q *inquiry) authChain(ctx context.Context, ev gomatrixserverlib.PDU) error {
	raw, err := q.ask(ctx, remote.Request{Method: http.MethodGet, Path: []string{"v1", "event_auth", string(q.room), ev.EventID()}})
	if err != nil {
		return err
	}
	var answer struct {
		Chain []json.RawMessage `json:"auth_chain"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	return q.keep(ctx, answer.Chain)
}

// keep stores those of the events that can be believed, as outliers.
func (q *inquiry) keep(ctx context.Context, raws []json.RawMessage) error {
	if len(raws) > maxState {
		return fmt.Errorf("%w: %d events", errTooMuch, len(raws))
	}
	events, _ := q.r.ring.Believe(ctx, q.version, q.room, raws)
	_, err := remote.StoreOutliers(ctx, q.r.store, events)
	return err
}

// walkBack walks back from the event to what we have, with get_missing_events, and has the room take what it finds, the oldest
// first. It ends when the gap is closed, or the bounds are reached.
// Spec: server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (q *inquiry) walkBack(ctx context.Context, ev gomatrixserverlib.PDU) error {
	room, err := q.r.store.Rooms.ByID(ctx, q.room)
	if err != nil || room == nil {
		return err
	}
	found := map[id.EventID]gomatrixserverlib.PDU{}
	latest := []id.EventID{id.EventID(ev.EventID())}
	for range maxRounds {
		events, err := q.missingEvents(ctx, room.Extremities, latest)
		if err != nil {
			return err
		}
		last := len(events) < fullRound
		news := 0
		for _, e := range events {
			if e != nil && found[id.EventID(e.EventID())] == nil && e.EventID() != ev.EventID() && len(found) < maxFound {
				found[id.EventID(e.EventID())] = e
				news++
			}
		}
		if news == 0 || last {
			break
		}
		if latest, err = q.edge(ctx, found); err != nil {
			return err
		}
		if len(latest) == 0 {
			break
		}
	}
	return q.takeFound(ctx, found)
}

func (q *inquiry) missingEvents(ctx context.Context, earliest, latest []id.EventID) ([]gomatrixserverlib.PDU, error) {
	body := struct {
		Earliest []id.EventID `json:"earliest_events"`
		Latest   []id.EventID `json:"latest_events"`
		Limit    int          `json:"limit"`
	}{append([]id.EventID{}, earliest...), latest, missingPerRound}
	raw, err := q.ask(ctx, remote.Request{Method: http.MethodPost, Path: []string{"v1", "get_missing_events", string(q.room)}, Body: body})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, err
	}
	if len(answer.Events) > 5*missingPerRound {
		return nil, fmt.Errorf("%d events for a question for %d", len(answer.Events), missingPerRound)
	}
	events, _ := q.r.ring.Believe(ctx, q.version, q.room, answer.Events)
	return events, nil
}

// edge gives those of the found events that have parents which we neither have nor found.
func (q *inquiry) edge(ctx context.Context, found map[id.EventID]gomatrixserverlib.PDU) ([]id.EventID, error) {
	var parents []id.EventID
	for _, ev := range found {
		for _, p := range ev.PrevEventIDs() {
			if found[id.EventID(p)] == nil {
				parents = append(parents, id.EventID(p))
			}
		}
	}
	known, err := q.r.store.Events.Known(ctx, parents)
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

// takeFound hands found events to the room, the shallowest first. If the oldest still lack their parents, these are taken in with
// the state before them. What cannot be taken in is passed over: whoever stands on it will say so.
func (q *inquiry) takeFound(ctx context.Context, found map[id.EventID]gomatrixserverlib.PDU) error {
	events := make([]gomatrixserverlib.PDU, 0, len(found))
	for _, ev := range found {
		events = append(events, ev)
	}
	slices.SortFunc(events, func(x, y gomatrixserverlib.PDU) int { return int(min(max(x.Depth()-y.Depth(), -1), 1)) })
	var lacks error
	for _, ev := range events {
		missing, err := q.offer(ctx, ev, 0)
		if err == nil && len(missing) > 0 {
			err = q.parents(ctx, ev, missing)
		}
		if errors.Is(err, errSilent) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Str("event_id", ev.EventID()).Msg("Missing event passed over")
			lacks = err
		}
	}
	return lacks
}

// parents takes an event's missing parents in, each with the state before it, and then the event.
// Spec: server-server-api/#checks-performed-on-receipt-of-a-pdu (the state before an event is that after its parents, resolved)
func (q *inquiry) parents(ctx context.Context, ev gomatrixserverlib.PDU, missing []id.EventID) error {
	for _, parent := range missing {
		if !slices.Contains(ev.PrevEventIDs(), string(parent)) {
			continue // an auth event; it comes with its parents' state, or not at all
		}
		if q.states--; q.states < 0 {
			return fmt.Errorf("%w: the state at more than %d events", errTooMuch, maxStates)
		}
		if err := q.withState(ctx, parent); err != nil {
			return fmt.Errorf("parent %s: %w", parent, err)
		}
	}
	missing, err := q.offer(ctx, ev, 0)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d events are missing still, %s among them", len(missing), missing[0])
	}
	return err
}

// withState fetches an event and the state before it, and has the room take it in so: history goes no further there.
func (q *inquiry) withState(ctx context.Context, eventID id.EventID) error {
	events, _ := q.r.ring.Believe(ctx, q.version, q.room, q.oneByOne(ctx, []id.EventID{eventID}))
	if len(events) != 1 || events[0] == nil || id.EventID(events[0].EventID()) != eventID {
		return errNobody
	}
	missing, err := q.offer(ctx, events[0], 0)
	if err != nil || len(missing) == 0 {
		return err
	}
	chain, err := q.stateBefore(ctx, events[0])
	if err != nil {
		return err
	}
	missing, err = q.offer(ctx, events[0], chain)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d events are missing from its state, %s among them", len(missing), missing[0])
	}
	return err
}

// stateBefore fetches the state before an event, and keeps it as an unattached snapshot; it gives the number of its chain.
// Spec: server-server-api/#get_matrixfederationv1state_idsroomid
func (q *inquiry) stateBefore(ctx context.Context, ev gomatrixserverlib.PDU) (int64, error) {
	raw, err := q.ask(ctx, remote.Request{
		Method: http.MethodGet, Path: []string{"v1", "state_ids", string(q.room)}, Query: url.Values{"event_id": {ev.EventID()}},
	})
	if err != nil {
		return 0, err
	}
	var answer struct {
		State []id.EventID `json:"pdu_ids"`
		Chain []id.EventID `json:"auth_chain_ids"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return 0, err
	}
	if len(answer.State)+len(answer.Chain) > maxState {
		return 0, fmt.Errorf("%w: a state of %d events with a chain of %d", errTooMuch, len(answer.State), len(answer.Chain))
	}
	wanted := append(append(append([]id.EventID{}, answer.State...), answer.Chain...), pdu.AuthEvents(ev)...)
	if err := q.fetch(ctx, ev, wanted); err != nil {
		return 0, err
	}
	rows, err := q.r.store.Events.ByIDs(ctx, answer.State)
	if err != nil {
		return 0, err
	}
	keys := make(map[pdu.Key]int64, len(rows))
	for _, row := range rows {
		if row.RoomID == q.room && row.StateKey != nil && row.Standing != storage.Rejected {
			keys[pdu.Key{Type: row.Type, StateKey: *row.StateKey}] = row.Number
		}
	}
	return q.r.store.State.WriteUnattached(ctx, q.room, keys)
}

// fetch stores those of the events that we lack as outliers: one by one if they are few, or with the whole state before ev.
func (q *inquiry) fetch(ctx context.Context, ev gomatrixserverlib.PDU, wanted []id.EventID) error {
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	known, err := q.r.store.Events.Known(ctx, wanted)
	if err != nil {
		return err
	}
	wanted = slices.DeleteFunc(wanted, func(e id.EventID) bool { _, have := known[e]; return have })
	if len(wanted) == 0 {
		return nil
	}
	if len(wanted) <= maxOneByOne {
		return q.keep(ctx, q.oneByOne(ctx, wanted))
	}
	raws, err := q.wholeState(ctx, ev)
	if err != nil {
		return err
	}
	return q.keep(ctx, raws)
}

// wholeState asks for the state before an event and its auth chain, with all events.
// Spec: server-server-api/#get_matrixfederationv1stateroomid
func (q *inquiry) wholeState(ctx context.Context, ev gomatrixserverlib.PDU) ([]json.RawMessage, error) {
	raw, err := q.ask(ctx, remote.Request{
		Method: http.MethodGet, Path: []string{"v1", "state", string(q.room)}, Query: url.Values{"event_id": {ev.EventID()}}, Timeout: eventTime,
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		PDUs  []json.RawMessage `json:"pdus"`
		Chain []json.RawMessage `json:"auth_chain"`
	}
	err = json.Unmarshal(raw, &answer)
	return append(answer.Chain, answer.PDUs...), err
}

// oneByOne asks for single events, a few at a time. What cannot be had is left out.
// Spec: server-server-api/#get_matrixfederationv1eventeventid
func (q *inquiry) oneByOne(ctx context.Context, wanted []id.EventID) []json.RawMessage {
	var mu sync.Mutex
	var raws []json.RawMessage
	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, eventID := range wanted {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			raw, err := q.ask(ctx, remote.Request{Method: http.MethodGet, Path: []string{"v1", "event", string(eventID)}})
			var answer struct {
				PDUs []json.RawMessage `json:"pdus"`
			}
			if err != nil || json.Unmarshal(raw, &answer) != nil || len(answer.PDUs) != 1 {
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
