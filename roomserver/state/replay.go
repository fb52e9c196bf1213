package state

import (
	"context"
	"maps"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
)

// prepare fetches all that the replay may ask for: the full conflicted set, the
// events it cites, and (v2) what the unconflicted state map has at the keys by
// which its events are authorised.
func (r *resolution) prepare(ctx context.Context, full marks) error {
	var ids []id.EventID
	full.sweepUp(func(n node) { ids = append(ids, r.graph.ids[n]) })
	if err := r.fetch(ctx, ids, r.known); err != nil {
		return err
	}
	var cited []id.EventID
	needed := map[pdu.Key]struct{}{keyCreate: {}, keyPowerLevels: {}, keyJoinRules: {}}
	for _, evID := range ids {
		ev := r.known[evID].PDU
		for _, auth := range ev.AuthEventIDs() {
			cited = append(cited, id.EventID(auth))
		}
		if r.fromEmpty {
			continue
		}
		for _, key := range auth.NeededBy(ev) {
			needed[key] = struct{}{}
		}
	}
	if !r.fromEmpty {
		var err error
		if r.start, err = r.states.unconflictedAt(ctx, slices.Collect(maps.Keys(needed))); err != nil {
			return err
		}
		cited = slices.AppendSeq(cited, maps.Values(r.start))
	}
	return r.fetch(ctx, cited, r.known)
}

// replay is the iterative auth checks algorithm: it applies each event to the
// state if that state allows it.
// Spec: rooms/v2/#definitions, "Iterative auth checks"
func (r *resolution) replay(ordered []node) {
	for _, n := range ordered {
		ev := r.at(n)
		stateKey := ev.StateKey()
		if stateKey == nil {
			continue
		}
		if auth.Check(r.version, ev, &stateFor{resolution: r, ev: ev}) == nil {
			r.resolved[pdu.Key{Type: ev.Type(), StateKey: *stateKey}] = r.graph.ids[n]
		}
	}
}

// stateFor is the state in which one event is judged during the replay.
type stateFor struct {
	*resolution
	ev gomatrixserverlib.PDU
}

// Event implements auth.State: what has been resolved so far, else what the
// replay started from, else the event's own auth event if that is not rejected.
func (s *stateFor) Event(key pdu.Key) gomatrixserverlib.PDU {
	if ev, ok := s.resolved[key]; ok {
		return s.known[ev].PDU
	}
	if ev, ok := s.start[key]; ok {
		return s.known[ev].PDU
	}
	for _, cited := range s.ev.AuthEventIDs() {
		ev := s.known[id.EventID(cited)]
		if ev.Rejected || ev.PDU == nil {
			continue
		}
		if stateKey := ev.PDU.StateKey(); stateKey != nil && *stateKey == key.StateKey && ev.PDU.Type() == key.Type {
			return ev.PDU
		}
	}
	return nil
}

// senderLevels answers the power level of an event's sender according to the
// event's own auth events, parsing each power levels event once.
type senderLevels struct {
	run    *resolution
	levels map[[2]string]*auth.Levels
}

func (r *resolution) newSenderLevels() *senderLevels {
	return &senderLevels{run: r, levels: map[[2]string]*auth.Levels{}}
}

func (s *senderLevels) of(ev gomatrixserverlib.PDU) auth.Level {
	var create, powerLevels gomatrixserverlib.PDU
	var cite [2]string
	for _, cited := range ev.AuthEventIDs() {
		other := s.run.known[id.EventID(cited)].PDU
		if other == nil || !other.StateKeyEquals("") {
			continue
		}
		switch {
		case other.Type() == keyCreate.Type && create == nil:
			create, cite[0] = other, cited
		case other.Type() == keyPowerLevels.Type && powerLevels == nil:
			powerLevels, cite[1] = other, cited
		}
	}
	if create == nil {
		create = s.run.known[s.run.start[keyCreate]].PDU
	}
	levels, ok := s.levels[cite]
	if !ok {
		// What cannot be read gives the defaults: it has failed its own checks before.
		var err error
		if levels, err = auth.ParsePowerLevels(s.run.version, create, powerLevels); err != nil {
			levels, _ = auth.ParsePowerLevels(s.run.version, create, nil)
		}
		s.levels[cite] = levels
	}
	if levels == nil {
		return 0
	}
	return levels.User(pdu.Sender(ev))
}
