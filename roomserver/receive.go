package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// receive takes in PDUs from outside, in their order. The receiver has checked form, hashes and signatures.
func (r *room) receive(ctx context.Context, in bus.Received) ([]bus.Outcome, error) {
	if !r.exists || !r.head.Joined {
		return r.receiveOutside(ctx, in)
	}
	var given *moment
	if in.Snapshot != 0 {
		m, err := r.takeSnapshot(ctx, in.Snapshot)
		var lack *missingError
		if errors.As(err, &lack) {
			return lack.outcomes(r.version, in.PDUs), nil
		}
		if err != nil {
			return nil, err
		}
		given = &m
	}
	if in.Backfill {
		return r.backfill(ctx, in, given)
	}
	outcomes := make([]bus.Outcome, len(in.PDUs))
	for i, raw := range in.PDUs {
		var before []string
		if in.Onward {
			before = r.servers()
		}
		o, err := r.receiveOne(ctx, raw, given, slices.Contains(in.Unapproved, i))
		if err != nil {
			return nil, err
		}
		if in.Onward && o.Verdict == bus.Accepted && !o.Already {
			r.sendOn(o.EventID, in.Origin, before)
		}
		verdicts.WithLabelValues(string(o.Verdict)).Inc()
		outcomes[i] = o
	}
	return outcomes, r.knit(ctx)
}

// sendOn puts an event of another server into the turn for those servers that it does not reach by itself.
func (r *room) sendOn(event id.EventID, origin string, servers []string) {
	raw := r.events.get(event).ev.JSON()
	for _, server := range servers {
		if server != r.s.signer.ServerName && server != origin {
			r.turn.rows.Outbound = append(r.turn.rows.Outbound, &storage.Outbound{Server: server, Content: raw})
		}
	}
}

// arrival is one PDU from outside, on its way through the checks.
type arrival struct {
	*held
	auth    []*held
	parents []*held
	// missing are parents that we do not hold, where the state before was given.
	missing []id.EventID
	// risen: it was stored before, as an outlier.
	risen bool
}

// receiveOne puts one PDU through the checks that need the room.
// Spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
func (r *room) receiveOne(ctx context.Context, raw []byte, given *moment, unapproved bool) (bus.Outcome, error) {
	a, outcome, err := r.arrive(ctx, raw, given != nil)
	if err != nil || a == nil {
		return outcome, err
	}
	// 4. Passes authorisation rules based on the event's auth events, otherwise it is rejected.
	if err := r.checkAuthEvents(a); err != nil {
		return r.reject(ctx, a, given, err)
	}
	before, err := r.stateBefore(ctx, a, given)
	if err != nil {
		return outcome, err
	}
	// 5. Passes authorisation rules based on the state before the event, otherwise it is rejected.
	if err := r.check(ctx, a.ev, before.diff); err != nil {
		return r.reject(ctx, a, given, err)
	}
	// 6. Passes authorisation rules based on the current state of the room, otherwise it is soft failed.
	if len(before.diff) > 0 {
		if err := r.check(ctx, a.ev, nil); err != nil {
			return r.softFail(ctx, a, before, err)
		}
	}
	// 7. Is validated by the policy server, if the room has one, otherwise it is soft failed. The receiver has asked.
	if unapproved {
		return r.softFail(ctx, a, before, &pdu.AuthError{Rule: "policy server", Reason: "the room's policy server does not recommend it"})
	}
	return outcome, r.accept(ctx, a, before)
}

// arrive reads a PDU and finds what it stands on. A nil arrival means that the outcome is already known.
func (r *room) arrive(ctx context.Context, raw []byte, haveState bool) (*arrival, bus.Outcome, error) {
	// Parsed once more: a room's history is too dear to rest on the receiver's care, and the bus rewrites JSON's escapes.
	ev, err := pdu.Parse(r.version, raw)
	if err != nil {
		return nil, bus.Outcome{Verdict: bus.Rejected, Reason: err.Error()}, nil
	}
	eventID := id.EventID(ev.EventID())
	outcome := bus.Outcome{EventID: eventID, Verdict: bus.Accepted}
	reject := func(reason string) (*arrival, bus.Outcome, error) {
		return nil, bus.Outcome{EventID: eventID, Verdict: bus.Rejected, Reason: reason}, nil
	}
	if pdu.RoomIDOf(ev) != r.id {
		return reject("the event belongs to another room")
	}
	known, err := r.get(ctx, []id.EventID{eventID})
	if err != nil {
		return nil, outcome, err
	}
	a := &arrival{}
	if h := known[eventID]; h != nil {
		if h.row.Standing != storage.Outlier {
			return nil, standing(h.row), nil
		}
		row := *h.row
		row.StickyUntil = stickyUntil(h.ev, r.s.now())
		a.held, a.risen = &held{h.ev, &row}, true
	} else {
		taken, err := r.takenElsewhere(ctx, eventID)
		if err != nil {
			return nil, outcome, err
		}
		if taken {
			return reject("another room has an event of that ID")
		}
		row, err := r.stored(ctx, ev)
		if err != nil {
			return nil, outcome, err
		}
		a.held = &held{ev, row}
	}
	missing, err := r.gather(ctx, a, haveState)
	if err != nil {
		return nil, outcome, err
	}
	if len(missing) > 0 {
		outcome.Verdict, outcome.Missing = bus.Missing, missing
		return nil, outcome, nil
	}
	return a, outcome, nil
}

// takenElsewhere tells whether an event of another room bears the ID: where IDs are no hashes, anybody can repeat one.
func (r *room) takenElsewhere(ctx context.Context, event id.EventID) (bool, error) {
	if r.version != id.RoomV1 && r.version != id.RoomV2 {
		return false, nil
	}
	known, err := r.s.store.Events.Known(ctx, []id.EventID{event})
	return len(known) > 0, err
}

func standing(row *storage.Event) bus.Outcome {
	o := bus.Outcome{EventID: row.ID, Verdict: bus.Accepted, Already: true, Reason: row.Rule}
	switch row.Standing {
	case storage.SoftFailed:
		o.Verdict = bus.SoftFailed
	case storage.Rejected:
		o.Verdict = bus.Rejected
	}
	return o
}

// gather finds the auth events and the parents; it gives those that we lack and cannot do without.
func (r *room) gather(ctx context.Context, a *arrival, haveState bool) (missing []id.EventID, err error) {
	authIDs := eventIDs(a.ev.AuthEventIDs())
	if err := r.judge(ctx, authIDs); err != nil {
		var lack *missingError
		if !errors.As(err, &lack) {
			return nil, err
		}
		missing = append(missing, lack.ids...)
	}
	parentIDs := eventIDs(a.ev.PrevEventIDs())
	found, err := r.get(ctx, append(slices.Clone(authIDs), parentIDs...))
	if err != nil {
		return nil, err
	}
	for _, event := range authIDs {
		if h := found[event]; h != nil {
			a.auth = append(a.auth, h)
		}
	}
	for _, event := range parentIDs {
		h := found[event]
		// A parent without a snapshot cannot tell the state after it.
		if h != nil && h.row.After != (storage.Snapshot{}) {
			a.parents = append(a.parents, h)
		} else if haveState {
			a.missing = append(a.missing, event)
		} else if !slices.Contains(missing, event) {
			missing = append(missing, event)
		}
	}
	return missing, nil
}

func eventIDs(ids []string) []id.EventID {
	list := make([]id.EventID, len(ids))
	for i, s := range ids {
		list[i] = id.EventID(s)
	}
	return list
}

// checkAuthEvents applies the rules about the auth events, and all rules by the state that they make.
func (r *room) checkAuthEvents(a *arrival) error {
	return r.judgeBy(a.ev, a.auth)
}

func (r *room) judgeBy(ev gomatrixserverlib.PDU, authEvents []*held) error {
	events := make([]gomatrixserverlib.PDU, len(authEvents))
	rejected := map[id.EventID]bool{}
	for i, h := range authEvents {
		events[i] = h.ev
		if h.row.Standing == storage.Rejected {
			rejected[h.row.ID] = true
		}
	}
	if err := auth.CheckAuthEvents(r.version, ev, events, func(event id.EventID) bool { return rejected[event] }); err != nil {
		return err
	}
	return auth.Check(r.version, ev, auth.EventsOf(events...))
}

// check applies the rules by a state that differs so from the current one.
func (r *room) check(ctx context.Context, ev gomatrixserverlib.PDU, diff map[pdu.Key]id.EventID) error {
	state := &over{now: now{ctx: ctx, r: r}, diff: diff}
	err := auth.Check(r.version, ev, state)
	if state.err != nil {
		return state.err
	}
	return err
}

// stateBefore finds the state before an arrival: the one given, or what its parents say.
func (r *room) stateBefore(ctx context.Context, a *arrival, given *moment) (moment, error) {
	if given != nil && len(a.missing) > 0 {
		return *given, nil
	}
	return r.before(ctx, a.parents)
}

// accept writes an event that passed, as news.
func (r *room) accept(ctx context.Context, a *arrival, before moment) error {
	if before.at == r.head.State && len(a.missing) == 0 && r.upon(a.parents) && r.coversExtremities(a) {
		news, err := r.receiveRedaction(ctx, a.held, before.diff)
		if err != nil {
			return err
		}
		return r.acceptAtHead(ctx, a, news)
	}
	r.events.fly(a.held)
	after, err := r.after(ctx, before, a.held)
	if err != nil {
		return err
	}
	news, err := r.receiveRedaction(ctx, a.held, before.diff)
	if err != nil {
		return err
	}
	a.row.Standing, a.row.Before, a.row.After = storage.Accepted, before.at, after.at
	newest := r.extend(a.held)
	r.enter(a, news)
	r.edgesOf(a)
	if newest {
		if err := r.reconcile(ctx, a.held, after); err != nil {
			return err
		}
	}
	return r.awaited(ctx, a.held)
}

// coversExtremities tells whether the event names every extremity as parent, so that it stands alone after it.
func (r *room) coversExtremities(a *arrival) bool {
	named := a.ev.PrevEventIDs()
	for _, x := range r.head.Extremities {
		if !slices.Contains(named, string(x)) {
			return false
		}
	}
	return true
}

func (r *room) acceptAtHead(ctx context.Context, a *arrival, news bool) error {
	a.row.Standing, a.row.Before = storage.Accepted, r.head.State
	if key, ok := pdu.KeyOf(a.ev); ok {
		r.advance(key, a.held)
	}
	a.row.After = r.head.State
	r.extend(a.held)
	r.enter(a, news)
	r.edgesOf(a)
	return r.awaited(ctx, a.held)
}

// enter adds an arrival to the turn: a new row, or a stored one that rises.
func (r *room) enter(a *arrival, news bool) {
	if !a.risen {
		r.write(a.held, news)
		return
	}
	r.turn.rows.Risen = append(r.turn.rows.Risen, a.row)
	r.turn.rows.RisenNews = append(r.turn.rows.RisenNews, news)
	r.events.fly(a.held)
}

// edgesOf notes where history ends with this event, and where it closes.
func (r *room) edgesOf(a *arrival) {
	for _, missing := range a.missing {
		e := storage.Edge{RoomID: r.id, Missing: missing, EventID: a.row.ID, Place: a.row.Place}
		r.turn.rows.EdgesAdded = append(r.turn.rows.EdgesAdded, e)
		r.edges[missing] = append(r.edges[missing], e)
	}
	if _, ok := r.edges[a.row.ID]; ok {
		r.turn.rows.EdgesClosed = append(r.turn.rows.EdgesClosed, a.row.ID)
		delete(r.edges, a.row.ID)
	}
}

// reject stores an event that the rules refuse: it is never shown, but may be somebody's parent.
func (r *room) reject(ctx context.Context, a *arrival, given *moment, cause error) (bus.Outcome, error) {
	var rule *pdu.AuthError
	if !errors.As(cause, &rule) {
		return bus.Outcome{}, cause
	}
	zerolog.Ctx(ctx).Info().Stringer("event_id", a.row.ID).Str("rule", rule.Rule).Str("reason", rule.Reason).Msg("Event rejected")
	before, err := r.stateBefore(ctx, a, given)
	if err != nil {
		return bus.Outcome{}, err
	}
	a.row.Standing, a.row.Rule = storage.Rejected, rule.Error()
	a.row.Before, a.row.After = before.at, before.at
	r.enter(a, false)
	return bus.Outcome{EventID: a.row.ID, Verdict: bus.Rejected, Rule: rule.Rule, Reason: rule.Reason}, nil
}

// softFail stores an event that was allowed where it was sent, and is not any more: it is not shown and
// nothing of ours will stand upon it.
// Spec: server-server-api/#soft-failure
func (r *room) softFail(ctx context.Context, a *arrival, before moment, cause error) (bus.Outcome, error) {
	var rule *pdu.AuthError
	if !errors.As(cause, &rule) {
		return bus.Outcome{}, cause
	}
	zerolog.Ctx(ctx).Info().Stringer("event_id", a.row.ID).Str("rule", rule.Rule).Str("reason", rule.Reason).Msg("Event soft-failed")
	r.events.fly(a.held)
	after, err := r.after(ctx, before, a.held)
	if err != nil {
		return bus.Outcome{}, err
	}
	a.row.Standing, a.row.Rule = storage.SoftFailed, rule.Error()
	a.row.Before, a.row.After = before.at, after.at
	r.enter(a, false)
	if a.row.StickyUntil != 0 && len(r.onTrial) < maxOnTrial {
		r.onTrial[a.row.ID] = a.row.StickyUntil
	}
	return bus.Outcome{EventID: a.row.ID, Verdict: bus.SoftFailed, Rule: rule.Rule, Reason: rule.Reason}, nil
}

// missingError says that events are needed which we do not hold.
type missingError struct{ ids []id.EventID }

func (e *missingError) Error() string { return fmt.Sprintf("events are missing: %v", e.ids) }

// outcomes says of each PDU that it must wait for the missing.
func (e *missingError) outcomes(version id.RoomVersion, pdus []json.RawMessage) []bus.Outcome {
	list := make([]bus.Outcome, len(pdus))
	for i, raw := range pdus {
		event, _ := pdu.EventID(version, raw) // what has no ID is named by its place
		list[i] = bus.Outcome{EventID: event, Verdict: bus.Missing, Missing: e.ids}
	}
	return list
}

// maxJudged bounds how many outliers are judged for one event: an auth chain longer than that is no honest one.
const maxJudged = 50_000

// judge makes sure that outliers among the events have passed the rules (or are marked as rejected), from the
// bottom of their auth chains up. It gives a missingError where the chains have holes.
func (r *room) judge(ctx context.Context, ids []id.EventID) error {
	wanted := slices.Clone(ids)
	chain := map[id.EventID]*held{}
	var missing []id.EventID
	for len(wanted) > 0 {
		found, err := r.get(ctx, wanted)
		if err != nil {
			return err
		}
		var next []id.EventID
		for _, event := range wanted {
			h := found[event]
			if h == nil {
				if !slices.Contains(missing, event) {
					missing = append(missing, event)
				}
				continue
			}
			if chain[event] != nil || !r.unjudged(h) {
				continue
			}
			chain[event] = h
			next = append(next, eventIDs(h.ev.AuthEventIDs())...)
		}
		if len(chain) > maxJudged {
			return fmt.Errorf("auth chain of more than %d events", maxJudged)
		}
		wanted = next
	}
	if len(missing) > 0 {
		return &missingError{missing}
	}
	return r.judgeAll(ctx, chain, nil)
}

// unjudged tells whether the event is an outlier that never passed the rules.
func (r *room) unjudged(h *held) bool {
	if h.row.Standing != storage.Outlier || r.judged[h.row.ID] {
		return false
	}
	if key, ok := pdu.KeyOf(h.ev); ok && r.current[key].id == h.row.ID {
		return false
	}
	return true
}

// judgeAll judges outliers whose auth events are among them, or judged before. An explicit stack: the
// depth of a stranger's chain is the stranger's choice. What cannot be judged, since an event of its chain is missing,
// is put into holes; without holes it is an error.
func (r *room) judgeAll(ctx context.Context, chain map[id.EventID]*held, holes map[id.EventID]bool) error {
	const open, done = 1, 2
	stage := make(map[id.EventID]int, len(chain))
	for root := range chain {
		stack := []id.EventID{root}
		for len(stack) > 0 {
			event := stack[len(stack)-1]
			h := chain[event]
			if stage[event] == done {
				stack = stack[:len(stack)-1]
				continue
			}
			if stage[event] == 0 {
				stage[event] = open
				for _, parent := range h.ev.AuthEventIDs() {
					if p := id.EventID(parent); chain[p] != nil && stage[p] == 0 {
						stack = append(stack, p)
					}
				}
				continue
			}
			stage[event] = done
			stack = stack[:len(stack)-1]
			err := r.judgeOutlier(ctx, h, chain, holes)
			if lack := (*missingError)(nil); holes != nil && errors.As(err, &lack) {
				holes[event] = true
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *room) judgeOutlier(ctx context.Context, h *held, chain map[id.EventID]*held, holes map[id.EventID]bool) error {
	authEvents := make([]*held, 0, 4)
	var wanted []id.EventID
	for _, event := range eventIDs(h.ev.AuthEventIDs()) {
		if holes[event] {
			return &missingError{[]id.EventID{event}}
		}
		if in := chain[event]; in != nil {
			authEvents = append(authEvents, in)
		} else {
			wanted = append(wanted, event)
		}
	}
	if len(wanted) > 0 {
		found, err := r.get(ctx, wanted)
		if err != nil {
			return err
		}
		for _, event := range wanted {
			if found[event] == nil {
				return &missingError{[]id.EventID{event}}
			}
			authEvents = append(authEvents, found[event])
		}
	}
	err := r.judgeBy(h.ev, authEvents)
	if err == nil {
		r.judged[h.row.ID] = true
		return nil
	}
	var rule *pdu.AuthError
	if !errors.As(err, &rule) {
		return err
	}
	zerolog.Ctx(ctx).Info().Stringer("event_id", h.row.ID).Str("rule", rule.Rule).Str("reason", rule.Reason).Msg("Outlier rejected")
	row := *h.row
	row.Standing, row.Rule = storage.Rejected, rule.Error()
	h.row = &row
	r.turn.rows.Risen = append(r.turn.rows.Risen, &row)
	r.turn.rows.RisenNews = append(r.turn.rows.RisenNews, false)
	r.events.fly(h)
	return nil
}
