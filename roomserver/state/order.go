package state

import (
	"cmp"
	"container/heap"
	"slices"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
)

// rank is what an event is compared by while power events are ordered.
type rank struct {
	node  node
	level auth.Level
	ts    int64
	id    id.EventID
}

// before is the comparison relation of the reverse topological power ordering.
func (x rank) before(y rank) bool {
	// 1. x's sender has greater power level than y's sender
	if x.level != y.level {
		return x.level > y.level
	}
	// 2. x's origin_server_ts is less than y's
	if x.ts != y.ts {
		return x.ts < y.ts
	}
	// 3. x's event_id is less than y's
	return x.id < y.id
}

// ranks is a heap, the smallest rank on top.
type ranks []rank

func (r ranks) Len() int           { return len(r) }
func (r ranks) Less(i, j int) bool { return r[i].before(r[j]) }
func (r ranks) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ranks) Push(x any)        { *r = append(*r, x.(rank)) }
func (r *ranks) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

// powerOrder is the reverse topological power ordering of the given events. An
// event comes after those in its auth chain, also where the way between the two
// leads through events that are not to be ordered.
// Spec: rooms/v2/#definitions, "Reverse topological power ordering"
func (g *graph) powerOrder(events marks, rankOf func(node) rank) []node {
	within := g.chain(events)
	within.join(events)
	within = g.above(events, within)

	waits := map[node]int{}
	citedBy := map[node][]node{}
	ready := &ranks{}
	var passing, ordered []node
	// free takes up an event all of whose cited events have been dealt with.
	free := func(n node) {
		if events.has(n) {
			heap.Push(ready, rankOf(n))
		} else {
			passing = append(passing, n)
		}
	}
	within.sweepUp(func(n node) {
		for _, cited := range g.auth[n] {
			if within.has(cited) {
				waits[n]++
				citedBy[cited] = append(citedBy[cited], n)
			}
		}
		if waits[n] == 0 {
			free(n)
		}
	})
	for {
		var n node
		switch {
		case len(passing) > 0:
			n, passing = passing[len(passing)-1], passing[:len(passing)-1]
		case ready.Len() > 0:
			n = heap.Pop(ready).(rank).node
			ordered = append(ordered, n)
		default:
			return ordered
		}
		for _, next := range citedBy[n] {
			if waits[next]--; waits[next] == 0 {
				free(next)
			}
		}
	}
}

// mainline is the position of each power levels event in the mainline of one.
type mainline struct {
	graph    *graph
	position map[node]int
}

// beyond is the mainline position of an event whose power levels never meet the mainline.
const beyond = int(^uint(0) >> 1)

// mainlineOf is the mainline of the given m.room.power_levels event, or of nothing (none).
// Spec: rooms/v2/#definitions, "Mainline ordering"
func (g *graph) mainlineOf(powerLevels node) mainline {
	m := mainline{graph: g, position: map[node]int{}}
	for i, p := 0, powerLevels; p != none; i, p = i+1, g.power[p] {
		m.position[p] = i
	}
	return m
}

// of is the mainline position of an event: that of the nearest power levels
// event above it that belongs to the mainline. The event itself does not count.
func (m mainline) of(n node) int {
	var way []node
	position := beyond
	for e := m.graph.power[n]; e != none; e = m.graph.power[e] {
		if i, ok := m.position[e]; ok {
			position = i
			break
		}
		way = append(way, e)
	}
	for _, e := range way {
		m.position[e] = position
	}
	return position
}

// order sorts events by the mainline ordering.
func (m mainline) order(events []node, ts func(node) int64) {
	type place struct {
		node     node
		position int
		ts       int64
		id       id.EventID
	}
	places := make([]place, len(events))
	for i, n := range events {
		places[i] = place{node: n, position: m.of(n), ts: ts(n), id: m.graph.ids[n]}
	}
	slices.SortFunc(places, func(x, y place) int {
		return cmp.Or(
			// 1. the mainline position of x is greater than that of y
			cmp.Compare(y.position, x.position),
			// 2. x's origin_server_ts is less than y's
			cmp.Compare(x.ts, y.ts),
			// 3. x's event_id is less than y's
			cmp.Compare(x.id, y.id),
		)
	})
	for i, p := range places {
		events[i] = p.node
	}
}
