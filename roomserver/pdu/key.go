package pdu

import "github.com/matrix-org/gomatrixserverlib"

// Key names one piece of a room's state: event type and state key. It is the same type as storage.Key, since
// both are names of one struct: storage lies beneath and imports nothing of the room server.
type Key = struct{ Type, StateKey string }

// KeyOf is the piece of state that ev sets; false when it is no state event.
func KeyOf(ev gomatrixserverlib.PDU) (Key, bool) {
	sk := ev.StateKey()
	if sk == nil {
		return Key{}, false
	}
	return Key{ev.Type(), *sk}, true
}
