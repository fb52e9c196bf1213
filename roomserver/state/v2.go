package state

import (
	"context"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// resolution is one run of the algorithm v2 or v2.1.
type resolution struct {
	*Resolver
	states *states
	// fromEmpty tells that this is v2.1: the replay starts from the empty state
	// map, and the full conflicted set takes in the conflicted state subgraph.
	fromEmpty bool
	known     map[id.EventID]Event
	// start is that part of the state from which the replay starts which may be asked for.
	start    Map
	resolved Map
}

// resolveV2 is the algorithm of room versions 2 to 11 (v2), and of 12 (v2.1).
// Spec: rooms/v2/#algorithm, rooms/v12/#algorithm
func (r *Resolver) resolveV2(ctx context.Context, s *states) (Diff, error) {
	run := &resolution{
		Resolver:  r,
		states:    s,
		fromEmpty: r.version == id.RoomV12,
		known:     map[id.EventID]Event{},
		start:     Map{},
		resolved:  Map{},
	}
	full, err := run.fullConflictedSet(ctx)
	if err != nil {
		return nil, err
	}
	if err = run.prepare(ctx, full); err != nil {
		return nil, err
	}
	// 1. Select the power events X of the full conflicted set, and those of the
	// full conflicted set in their auth chains. Sort X by the reverse
	// topological power ordering.
	power := run.powerEvents(full)
	levels := run.newSenderLevels()
	ordered := r.graph.powerOrder(power, func(n node) rank {
		ev := run.at(n)
		return rank{node: n, level: levels.of(ev), ts: int64(ev.OriginServerTS()), id: r.graph.ids[n]}
	})
	// 2. Replay them, from the unconflicted state map (v2) or from the empty
	// one (v2.1), to get a partially resolved state.
	run.replay(ordered)
	// 3. Order the remaining events by the mainline based on the power levels
	// in the partially resolved state.
	var rest []node
	full.without(power)
	full.sweepUp(func(n node) { rest = append(rest, n) })
	line := r.graph.mainlineOf(run.powerLevels())
	line.order(rest, func(n node) int64 { return int64(run.at(n).OriginServerTS()) })
	// 4. Replay them on the partially resolved state.
	run.replay(rest)
	// 5. The unconflicted state map wins where it has an event.
	return run.result(ctx)
}

// fullConflictedSet is the union of the conflicted state set, the auth
// difference, and (v2.1) the conflicted state subgraph.
// Spec: rooms/v12/#definitions
func (r *resolution) fullConflictedSet(ctx context.Context) (marks, error) {
	conflicted := r.states.conflictedSet()
	powers, err := r.unconflictedPowers(ctx)
	if err != nil {
		return nil, err
	}
	if err = r.graph.load(ctx, r.events, slices.Concat(conflicted, powers)); err != nil {
		return nil, err
	}
	difference, err := r.authDifference(ctx, powers)
	if err != nil {
		return nil, err
	}
	// Only now has the graph got its size.
	full := r.graph.set(conflicted)
	if r.fromEmpty {
		full.join(r.graph.subgraph(full))
	}
	full.join(difference)
	return full, nil
}

// subgraph is the conflicted state subgraph: every event on a path of auth
// events from one of the given events to another, both included.
func (g *graph) subgraph(conflicted marks) marks {
	below := g.chain(conflicted)
	below.join(conflicted)
	return g.above(conflicted, below)
}

// authDifference is every event that is in the auth chains of some states but not of all.
//
// The chain of a state is that of its unconflicted events, which all states
// share, and that of its conflicted ones. What the latter have not all in common
// is in the difference unless an unconflicted event has it in its chain too.
// Mostly nothing remains to be asked of the unconflicted ones; and if something
// does, the few that authorise others are likely to have it.
func (r *resolution) authDifference(ctx context.Context, powers []id.EventID) (marks, error) {
	var union, meet marks
	for i := range r.states.count {
		chain := r.graph.chain(r.graph.set(r.states.conflictedIn(i)))
		if union == nil {
			union, meet = chain, chain.clone()
			continue
		}
		union.join(chain)
		meet.meet(chain)
	}
	difference := union
	difference.without(meet)
	difference.without(r.graph.chain(r.graph.set(powers)))
	if difference.empty() {
		return difference, nil
	}
	unconflicted, err := r.states.unconflicted(ctx)
	if err != nil {
		return nil, err
	}
	if err = r.graph.load(ctx, r.events, unconflicted); err != nil {
		return nil, err
	}
	difference = difference.grown(len(r.graph.ids))
	difference.without(r.graph.chain(r.graph.set(unconflicted)))
	return difference, nil
}

// unconflictedPowers lists the unconflicted power levels and join rules.
func (r *resolution) unconflictedPowers(ctx context.Context) ([]id.EventID, error) {
	found, err := r.states.unconflictedAt(ctx, []pdu.Key{keyPowerLevels, keyJoinRules})
	if err != nil {
		return nil, err
	}
	ids := make([]id.EventID, 0, len(found))
	for _, ev := range found {
		ids = append(ids, ev)
	}
	return ids, nil
}

var (
	keyCreate      = pdu.Key{Type: event.StateCreate.Type}
	keyPowerLevels = pdu.Key{Type: event.StatePowerLevels.Type}
	keyJoinRules   = pdu.Key{Type: event.StateJoinRules.Type}
)

// powerEvents is the power events among the given ones, and those among them
// that are in the auth chain of such.
func (r *resolution) powerEvents(full marks) marks {
	power := newMarks(len(r.graph.ids))
	full.sweepUp(func(n node) {
		if isPowerEvent(r.at(n)) {
			power.add(n)
		}
	})
	chain := r.graph.chain(power)
	chain.meet(full)
	power.join(chain)
	return power
}

// isPowerEvent tells whether an event is one that might remove someone's
// ability to do something in the room.
// Spec: rooms/v2/#definitions, "Power events"
func isPowerEvent(ev gomatrixserverlib.PDU) bool {
	stateKey := ev.StateKey()
	if stateKey == nil {
		return false
	}
	switch ev.Type() {
	case event.StatePowerLevels.Type, event.StateJoinRules.Type:
		// With another state key they rule nothing.
		return *stateKey == ""
	case event.StateMember.Type:
		membership, err := ev.Membership()
		if err != nil || membership != "leave" && membership != "ban" {
			return false
		}
		return string(ev.SenderID()) != *stateKey
	}
	return false
}

// at is an event of the full conflicted set, all of which prepare has fetched.
func (r *resolution) at(n node) gomatrixserverlib.PDU { return r.known[r.graph.ids[n]].PDU }

// powerLevels is the power levels event in the partially resolved state.
func (r *resolution) powerLevels() node {
	ev, ok := r.resolved[keyPowerLevels]
	if !ok {
		ev, ok = r.start[keyPowerLevels]
	}
	if !ok {
		return none
	}
	return r.graph.nodes[ev]
}

// result is the resolved state as what differs from the common one.
func (r *resolution) result(ctx context.Context) (Diff, error) {
	changes := make(Diff, len(r.states.agreed)+len(r.states.conflicted))
	for key, ev := range r.states.agreed {
		changes[key] = ev
	}
	for key := range r.states.conflicted {
		changes[key] = ""
	}
	var beside []pdu.Key
	for key, ev := range r.resolved {
		if _, ok := r.states.conflicted[key]; ok {
			changes[key] = ev
		} else {
			beside = append(beside, key)
		}
	}
	if len(beside) == 0 {
		return changes, nil
	}
	unconflicted, err := r.states.unconflictedAt(ctx, beside)
	if err != nil {
		return nil, fmt.Errorf("unconflicted state: %w", err)
	}
	for _, key := range beside {
		if _, ok := unconflicted[key]; !ok {
			changes[key] = r.resolved[key]
		}
	}
	return changes, nil
}
