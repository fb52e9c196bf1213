package state

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// Resolver resolves the forks of one room, and remembers the room's auth chains
// from one to the next. It is not for use by two goroutines at once.
type Resolver struct {
	version id.RoomVersion
	events  Source
	graph   *graph
}

// NewResolver makes a Resolver for a room of the given version.
func NewResolver(version id.RoomVersion, events Source) *Resolver {
	return &Resolver{version: version, events: events, graph: newGraph()}
}

// Resolve answers the resolution of a fork as what differs from its common
// state. After an error the Resolver may be used again.
// Spec: rooms/v12/#state-resolution
func (r *Resolver) Resolve(ctx context.Context, fork Fork) (Diff, error) {
	if !r.version.IsKnown() {
		return nil, fmt.Errorf("state: unknown room version %q", r.version)
	}
	s, err := split(ctx, fork)
	if err != nil {
		return nil, err
	}
	if len(s.conflicted) == 0 {
		return s.agreed, nil
	}
	if broken {
		return s.firstOf(), nil
	}
	if r.version == id.RoomV1 {
		return r.resolveV1(ctx, s)
	}
	return r.resolveV2(ctx, s)
}

// states is a fork taken apart into the unconflicted state map and the
// conflicted state set. The unconflicted state map is agreed over common.
type states struct {
	common Base
	// agreed is where all states differ from common in the same way.
	agreed Diff
	// conflicted holds, for each key in conflict, the event in each state.
	conflicted map[pdu.Key][]id.EventID
	// count is how many states there are.
	count int
}

func split(ctx context.Context, fork Fork) (*states, error) {
	s := &states{common: fork.Common, agreed: Diff{}, conflicted: map[pdu.Key][]id.EventID{}, count: len(fork.States)}
	named := map[pdu.Key]int{}
	for _, diff := range fork.States {
		for key := range diff {
			named[key]++
		}
	}
	var partial []pdu.Key
	for key, times := range named {
		if times < s.count {
			partial = append(partial, key)
		}
	}
	common := Map{}
	if len(partial) > 0 {
		var err error
		if common, err = fork.Common.At(ctx, partial); err != nil {
			return nil, fmt.Errorf("common state: %w", err)
		}
	}
	for key := range named {
		values := make([]id.EventID, s.count)
		same := true
		for i, diff := range fork.States {
			value, ok := diff[key]
			if !ok {
				value = common[key]
			}
			values[i] = value
			same = same && value == values[0]
		}
		if same {
			s.agreed[key] = values[0]
		} else {
			s.conflicted[key] = values
		}
	}
	return s, nil
}

// firstOf takes what the first state has wherever there is a conflict. No sound build asks for it.
func (s *states) firstOf() Diff {
	first := maps.Clone(s.agreed)
	for key, values := range s.conflicted {
		first[key] = values[0]
	}
	return first
}

// unconflictedAt looks up keys in the unconflicted state map.
func (s *states) unconflictedAt(ctx context.Context, keys []pdu.Key) (Map, error) {
	found := Map{}
	var rest []pdu.Key
	for _, key := range keys {
		if _, ok := s.conflicted[key]; ok {
			continue
		}
		if ev, ok := s.agreed[key]; !ok {
			rest = append(rest, key)
		} else if ev != "" {
			found[key] = ev
		}
	}
	if len(rest) == 0 {
		return found, nil
	}
	common, err := s.common.At(ctx, rest)
	if err != nil {
		return nil, fmt.Errorf("common state: %w", err)
	}
	maps.Copy(found, common)
	return found, nil
}

// unconflicted lists the events of the whole unconflicted state map.
func (s *states) unconflicted(ctx context.Context) ([]id.EventID, error) {
	var ids []id.EventID
	err := s.common.Each(ctx, func(key pdu.Key, ev id.EventID) {
		if _, ok := s.conflicted[key]; ok {
			return
		}
		if _, ok := s.agreed[key]; !ok {
			ids = append(ids, ev)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("common state: %w", err)
	}
	for _, ev := range s.agreed {
		if ev != "" {
			ids = append(ids, ev)
		}
	}
	return ids, nil
}

// conflictedIn lists the events in conflict that stand in the state of the given number.
func (s *states) conflictedIn(state int) []id.EventID {
	ids := make([]id.EventID, 0, len(s.conflicted))
	for _, values := range s.conflicted {
		if ev := values[state]; ev != "" {
			ids = append(ids, ev)
		}
	}
	return ids
}

// conflictedSet lists the events of the conflicted state set, each once.
func (s *states) conflictedSet() []id.EventID {
	ids := make([]id.EventID, 0, len(s.conflicted)*2)
	for _, values := range s.conflicted {
		for _, ev := range values {
			if ev != "" {
				ids = append(ids, ev)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// fetch loads the given events into known, and fails if one cannot be had.
func (r *Resolver) fetch(ctx context.Context, ids []id.EventID, known map[id.EventID]Event) error {
	wanted := slices.DeleteFunc(slices.Clone(ids), func(ev id.EventID) bool {
		_, ok := known[ev]
		return ok
	})
	if len(wanted) == 0 {
		return nil
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	found, err := r.events.Events(ctx, wanted)
	if err != nil {
		return fmt.Errorf("events of a fork: %w", err)
	}
	for _, wantedID := range wanted {
		ev, ok := found[wantedID]
		if !ok || ev.PDU == nil {
			return &MissingError{EventID: wantedID}
		}
		known[wantedID] = ev
	}
	return nil
}
