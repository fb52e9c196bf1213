// Package pdu makes, checks, signs and redacts one PDU, in every room version.
// It owns the strict JSON check in front and the seam to gomatrixserverlib.
package pdu

// Key names one piece of a room's state: event type and state key.
type Key struct {
	Type, StateKey string
}

func (k Key) String() string { return k.Type + "|" + k.StateKey }
