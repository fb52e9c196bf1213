package state

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// Whole states are easier to write and to compare than a common one with differences.

// newFork writes whole states as a Fork.
func newFork(states []Map) Fork {
	if len(states) == 0 {
		return Fork{Common: Map{}}
	}
	smallest := states[0]
	for _, s := range states {
		if len(s) < len(smallest) {
			smallest = s
		}
	}
	fork := Fork{Common: smallest, States: make([]Diff, len(states))}
	for i, s := range states {
		diff := Diff{}
		met := 0
		for key, ev := range s {
			other, ok := smallest[key]
			if ok {
				met++
			}
			if !ok || other != ev {
				diff[key] = ev
			}
		}
		if met < len(smallest) {
			for key := range smallest {
				if _, ok := s[key]; !ok {
					diff[key] = ""
				}
			}
		}
		fork.States[i] = diff
	}
	return fork
}

// resolve is the resolution of whole states. Spec: rooms/v12/#state-resolution
func resolve(ctx context.Context, version id.RoomVersion, states []map[pdu.Key]id.EventID, events Source) (map[pdu.Key]id.EventID, error) {
	maps := make([]Map, len(states))
	for i, s := range states {
		maps[i] = s
	}
	fork := newFork(maps)
	changes, err := NewResolver(version, events).Resolve(ctx, fork)
	if err != nil {
		return nil, err
	}
	common := Map{}
	if err := fork.Common.Each(ctx, func(key pdu.Key, ev id.EventID) { common[key] = ev }); err != nil {
		return nil, fmt.Errorf("common state: %w", err)
	}
	return over(changes, common), nil
}

// over is the state that the difference makes of another one, as a new map.
func over(d Diff, state Map) Map {
	whole := make(Map, len(state)+len(d))
	for key, ev := range state {
		whole[key] = ev
	}
	for key, ev := range d {
		if ev == "" {
			delete(whole, key)
		} else {
			whole[key] = ev
		}
	}
	return whole
}
