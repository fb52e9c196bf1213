// Package pdu makes, checks, signs and redacts one PDU, in every room version.
package pdu

// Key names one piece of a room's state: event type and state key.
type Key struct {
	Type, StateKey string
}

func (k Key) String() string { return k.Type + "|" + k.StateKey }
