// Package state resolves a room's state where its history forks, in all three
// versions of the algorithm: v1 (room version 1), v2 (room versions 2 to 11)
// and v2.1 (room version 12). The steps bear the numbers of the spec.
//
// Truths a reader must not break:
//   - The result depends on nothing but the set of states: not on their order,
//     not on the order of a map, not on what a Resolver has seen before.
//   - What is the same in all states is neither loaded nor copied. A fork comes
//     as a common state and small differences, and the answer is a difference.
//   - An event that is needed and cannot be had is an error that names it
//     (MissingError), never a guess and never a panic.
//   - A Resolver belongs to one room and one goroutine.
package state

import (
	"context"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// Map is a whole state: the event at each key.
type Map map[pdu.Key]id.EventID

// Diff is what differs from a state: the event at each key, and the empty
// string where the key is absent.
type Diff map[pdu.Key]id.EventID

// Base is the state that the states of a fork have in common. A Map is one; a
// stored snapshot is another.
type Base interface {
	// At answers the events at the given keys; absent keys are absent from the answer.
	At(ctx context.Context, keys []pdu.Key) (Map, error)
	// Each visits the whole state. It is asked only when an event was cited on
	// one side of the fork alone.
	Each(ctx context.Context, visit func(pdu.Key, id.EventID)) error
}

// At implements Base.
func (m Map) At(_ context.Context, keys []pdu.Key) (Map, error) {
	found := make(Map, len(keys))
	for _, key := range keys {
		if ev, ok := m[key]; ok {
			found[key] = ev
		}
	}
	return found, nil
}

// Each implements Base.
func (m Map) Each(_ context.Context, visit func(pdu.Key, id.EventID)) error {
	for key, ev := range m {
		visit(key, ev)
	}
	return nil
}

// Fork is the states that meet at an event, one for each of its previous
// events: a common state, and for each of them what differs from it. A state
// that does not name a key has there what Common has.
type Fork struct {
	Common Base
	States []Diff
}

// Event is an event as resolution sees it.
type Event struct {
	PDU gomatrixserverlib.PDU
	// Rejected tells that the event failed its authorisation here. Such an event
	// may stand in a state, but is not fetched from auth_events to judge others.
	Rejected bool
}

// Link is an event's place in the graph of auth events.
type Link struct {
	// Auth is the event's auth_events. For room version 12 the create event may
	// be among them or not.
	Auth []id.EventID
	// PowerLevels tells that the event is the m.room.power_levels with the empty state key.
	PowerLevels bool
}

// Source answers questions about events of one room. It is asked in batches,
// and leaves out of its answer what it does not hold.
type Source interface {
	// Events answers the events themselves.
	Events(ctx context.Context, ids []id.EventID) (map[id.EventID]Event, error)
	// Links answers how the events are linked. It may add the links of events
	// further up the auth chain, which spares it later questions.
	Links(ctx context.Context, ids []id.EventID) (map[id.EventID]Link, error)
}

// MissingError tells that the Source does not hold an event that is needed.
type MissingError struct {
	EventID id.EventID
}

func (e *MissingError) Error() string { return "state: event " + e.EventID.String() + " is missing" }
