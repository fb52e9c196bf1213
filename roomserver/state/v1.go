package state

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
)

// resolutionV1 is one run of room version 1's algorithm.
type resolutionV1 struct {
	version id.RoomVersion
	known   map[id.EventID]Event
	// state is the results so far (R in the spec), as far as they may be asked for.
	state Map
}

// resolveV1 is the algorithm of room version 1.
// Spec: rooms/v1/#state-resolution
func (r *Resolver) resolveV1(ctx context.Context, s *states) (Diff, error) {
	run := &resolutionV1{version: r.version, known: map[id.EventID]Event{}}
	changes := make(Diff, len(s.agreed)+len(s.conflicted))
	for key, ev := range s.agreed {
		changes[key] = ev
	}
	candidates := map[pdu.Key][]id.EventID{}
	for key, values := range s.conflicted {
		values = slices.Clone(values)
		slices.Sort(values)
		values = slices.DeleteFunc(slices.Compact(values), func(ev id.EventID) bool { return ev == "" })
		// In this version a state without the key does not contradict one that has it.
		if len(values) == 1 {
			changes[key] = values[0]
		} else {
			candidates[key] = values
		}
	}
	if err := run.prepare(ctx, r, s, candidates, changes); err != nil {
		return nil, err
	}
	for _, eventType := range []string{event.StatePowerLevels.Type, event.StateJoinRules.Type, event.StateMember.Type} {
		passed := Map{}
		for key, ids := range candidates {
			if key.Type == eventType {
				passed[key] = run.last(key, run.byDepth(ids))
				delete(candidates, key)
			}
		}
		for key, ev := range passed {
			run.state[key] = ev
			changes[key] = ev
		}
	}
	for key, ids := range candidates {
		changes[key] = run.highest(run.byDepth(ids))
	}
	return changes, nil
}

// prepare fetches the events in conflict, and from the results so far what they are judged by.
func (r *resolutionV1) prepare(ctx context.Context, resolver *Resolver, s *states, candidates map[pdu.Key][]id.EventID, settled Diff) error {
	var ids []id.EventID
	for _, values := range candidates {
		ids = append(ids, values...)
	}
	if err := resolver.fetch(ctx, ids, r.known); err != nil {
		return err
	}
	needed := map[pdu.Key]struct{}{}
	for _, ev := range ids {
		for _, key := range auth.NeededBy(r.known[ev].PDU) {
			needed[key] = struct{}{}
		}
	}
	keys := make([]pdu.Key, 0, len(needed))
	for key := range needed {
		keys = append(keys, key)
	}
	var err error
	if r.state, err = s.unconflictedAt(ctx, keys); err != nil {
		return err
	}
	var judges []id.EventID
	for key := range needed {
		if ev := settled[key]; ev != "" {
			r.state[key] = ev
		}
		if ev, ok := r.state[key]; ok {
			judges = append(judges, ev)
		}
	}
	return resolver.fetch(ctx, judges, r.known)
}

// byDepth sorts events by ascending depth, then descending sha1 of the event ID.
func (r *resolutionV1) byDepth(ids []id.EventID) []id.EventID {
	type place struct {
		id    id.EventID
		depth int64
		hash  [sha1.Size]byte
	}
	places := make([]place, len(ids))
	for i, ev := range ids {
		places[i] = place{id: ev, depth: r.known[ev].PDU.Depth(), hash: sha1.Sum([]byte(ev))}
	}
	slices.SortFunc(places, func(x, y place) int {
		return cmp.Or(cmp.Compare(x.depth, y.depth), bytes.Compare(y.hash[:], x.hash[:]))
	})
	sorted := make([]id.EventID, len(ids))
	for i, p := range places {
		sorted[i] = p.id
	}
	return sorted
}

// last is the last of the events that is reached when each must be allowed
// after the one before it; the first is taken as it is.
func (r *resolutionV1) last(key pdu.Key, sorted []id.EventID) id.EventID {
	best := sorted[0]
	for _, ev := range sorted[1:] {
		if !r.allowed(ev, key, best) {
			break
		}
		best = ev
	}
	return best
}

// highest is the event with the highest depth and lowest sha1 that is allowed, or none.
func (r *resolutionV1) highest(sorted []id.EventID) id.EventID {
	for _, ev := range slices.Backward(sorted) {
		if r.allowed(ev, pdu.Key{}, "") {
			return ev
		}
	}
	return ""
}

func (r *resolutionV1) allowed(ev id.EventID, key pdu.Key, before id.EventID) bool {
	return auth.Check(r.version, r.known[ev].PDU, &stateV1{resolutionV1: r, key: key, before: before}) == nil
}

// stateV1 is the results so far, with another event put in at one key.
type stateV1 struct {
	*resolutionV1
	key    pdu.Key
	before id.EventID
}

// Event implements auth.State.
func (s *stateV1) Event(key pdu.Key) gomatrixserverlib.PDU {
	if key == s.key && s.before != "" {
		return s.known[s.before].PDU
	}
	ev, ok := s.state[key]
	if !ok {
		return nil
	}
	return s.known[ev].PDU
}
