package view

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/event"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// strippedKeys is what of a room's state is shown to those who are not in it.
// Spec: client-server-api/#stripped-state
var strippedKeys = []pdu.Key{
	{Type: event.StateCreate.Type},
	{Type: event.StateRoomName.Type},
	{Type: event.StateRoomAvatar.Type},
	{Type: event.StateTopic.Type},
	{Type: event.StateJoinRules.Type},
	{Type: event.StateCanonicalAlias.Type},
	{Type: event.StateEncryption.Type},
}

// Stripped gives the event as it is shown to those who are not in the room: type, state key, content and sender alone.
func Stripped(e *storage.Event) (json.RawMessage, error) {
	dst := append(make([]byte, 0, len(e.JSON)), `{"content":`...)
	dst = append(dst, contentOf(e.JSON)...)
	dst = appendText(append(dst, `,"sender":`...), string(e.Sender))
	key := ""
	if e.StateKey != nil {
		key = *e.StateKey
	}
	dst = appendText(append(dst, `,"state_key":`...), key)
	dst = appendText(append(dst, `,"type":`...), e.Type)
	return append(dst, '}'), nil
}

// StrippedState gives the events of a state that are shown to those who are not
// in the room, and those at further keys (the inviter's membership, say).
// Redacted ones are pruned. They are to be written by Stripped, or whole where the specification wants PDUs.
func (r *Reader) StrippedState(ctx context.Context, at storage.Snapshot, further ...pdu.Key) ([]*storage.Event, error) {
	return r.pieces(ctx, at, slices.Concat(strippedKeys, further))
}

// pieces gives the events at some keys of a state, redacted ones pruned.
func (r *Reader) pieces(ctx context.Context, at storage.Snapshot, keys []pdu.Key) ([]*storage.Event, error) {
	asked := make([]storage.Lookup, len(keys))
	for i, key := range keys {
		asked[i] = storage.Lookup{At: at, Key: key}
	}
	held, err := r.lookups(ctx, asked)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, q := range asked {
		if held[q] != 0 {
			numbers = append(numbers, held[q])
		}
	}
	events, err := r.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, fmt.Errorf("pieces of state: %w", err)
	}
	for i, e := range events {
		if e.RedactedBy == "" {
			continue
		}
		pruned := *e
		if pruned.JSON, err = r.Federation(ctx, e); err != nil {
			return nil, err
		}
		events[i] = &pruned
	}
	return events, nil
}
