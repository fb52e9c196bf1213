package federation

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/view"
	"chancery/storage"
)

// stateAt gives the state's events at a snapshot.
func (f *Federation) stateAt(ctx context.Context, at storage.Snapshot) ([]*storage.Event, error) {
	state, err := f.store.State.At(ctx, at)
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, 0, len(state))
	for _, n := range state {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return f.store.Events.ByNumbers(ctx, numbers)
}

// deepest is a heap of events, the deepest on top.
type deepest []*storage.Event

func (d deepest) Len() int           { return len(d) }
func (d deepest) Less(i, j int) bool { return d[i].Depth > d[j].Depth }
func (d deepest) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deepest) Push(e any)        { *d = append(*d, e.(*storage.Event)) }
func (d *deepest) Pop() any {
	old := *d
	e := old[len(old)-1]
	*d = old[:len(old)-1]
	return e
}

// ancestry walks from the events back through their parents, the deepest first, and gives at most limit events of the room
// that have their place in it. stop says where not to go on; the events to begin with are given if first is set.
func (f *Federation) ancestry(ctx context.Context, room id.RoomID, from []id.EventID, first bool, limit int, stop func(*storage.Event) bool) ([]*storage.Event, error) {
	start, err := f.store.Events.ByIDs(ctx, from)
	if err != nil {
		return nil, err
	}
	seen := make(map[id.EventID]bool)
	begin := make(map[id.EventID]bool, len(from))
	queue := &deepest{}
	add := func(events []*storage.Event) {
		for _, e := range events {
			fits := e.RoomID == room && (e.Standing == storage.Accepted || e.Standing == storage.SoftFailed)
			if !seen[e.ID] && fits && (begin[e.ID] || !stop(e)) {
				heap.Push(queue, e)
			}
			seen[e.ID] = true
		}
	}
	for _, e := range start {
		begin[e.ID] = true
	}
	add(start)
	var out []*storage.Event
	for queue.Len() > 0 && len(out) < limit {
		e := heap.Pop(queue).(*storage.Event)
		if first || !begin[e.ID] {
			out = append(out, e)
		}
		var parents []id.EventID
		for _, p := range view.References(e.JSON, "prev_events") {
			if !seen[p] {
				parents = append(parents, p)
			}
		}
		events, err := f.store.Events.ByIDs(ctx, parents)
		if err != nil {
			return nil, err
		}
		add(events)
	}
	return out, nil
}

// ids lists the events' IDs.
func ids(events []*storage.Event) []id.EventID {
	out := make([]id.EventID, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

// bodies lists the events' PDUs as other servers get them, redacted ones pruned.
func (f *Federation) bodies(ctx context.Context, events []*storage.Event) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		raw, err := f.view.Federation(ctx, e)
		if err != nil {
			return nil, err
		}
		out[i] = raw
	}
	return out, nil
}

// array writes PDUs as a JSON array, without looking into them again.
func array(b *bytes.Buffer, items []json.RawMessage) {
	b.WriteByte('[')
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(item)
	}
	b.WriteByte(']')
}

// lists writes an object whose members are arrays of PDUs, in the given order of name and list.
func lists(pairs ...any) json.RawMessage {
	var b bytes.Buffer
	for i := 0; i < len(pairs); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&b, "%q:", pairs[i])
		array(&b, pairs[i+1].([]json.RawMessage))
	}
	b.WriteByte('}')
	return b.Bytes()
}
