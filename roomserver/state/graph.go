package state

import (
	"context"
	"fmt"
	"math/bits"

	"maunium.net/go/mautrix/id"
)

const (
	// linksAtOnce is how many events' links are asked for in one question.
	linksAtOnce = 10_000
	// maxGraph bounds how many events a room's auth chains may hold.
	maxGraph = 1 << 20
)

// node is an event in the graph.
type node int32

const none node = -1

// graph is the graph of auth events of one room, as numbers. It only grows, and
// what it holds stays true, since an event's auth_events never change.
//
// A node's auth events have smaller numbers than the node itself, so every walk
// along a chain is one sweep from high to low, without recursion.
type graph struct {
	nodes map[id.EventID]node
	ids   []id.EventID
	auth  [][]node
	// power is the m.room.power_levels event among a node's auth events, or none.
	power         []node
	isPowerLevels []bool
}

func newGraph() *graph {
	return &graph{nodes: map[id.EventID]node{}}
}

// load takes in the given events with their whole auth chains.
func (g *graph) load(ctx context.Context, events Source, ids []id.EventID) error {
	fresh := map[id.EventID]Link{}
	offered := map[id.EventID]Link{}
	asked := map[id.EventID]struct{}{}
	var wanted []id.EventID
	// want follows an event and what it cites as far as links are known already.
	want := func(start id.EventID) {
		todo := []id.EventID{start}
		for len(todo) > 0 {
			ev := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if _, known := g.nodes[ev]; known {
				continue
			}
			if _, known := fresh[ev]; known {
				continue
			}
			if link, ok := offered[ev]; ok {
				fresh[ev] = link
				todo = append(todo, link.Auth...)
				continue
			}
			if _, known := asked[ev]; !known {
				asked[ev] = struct{}{}
				wanted = append(wanted, ev)
			}
		}
	}
	for _, ev := range ids {
		if _, known := g.nodes[ev]; !known {
			want(ev)
		}
	}
	for len(wanted) > 0 {
		batch := wanted[:min(len(wanted), linksAtOnce)]
		wanted = wanted[len(batch):]
		links, err := events.Links(ctx, batch)
		if err != nil {
			return fmt.Errorf("auth chain: %w", err)
		}
		for ev, link := range links {
			offered[ev] = link
		}
		for _, ev := range batch {
			if _, ok := offered[ev]; !ok {
				return &MissingError{EventID: ev}
			}
			want(ev)
		}
		if len(g.ids)+len(fresh) > maxGraph {
			return fmt.Errorf("state: auth chains of more than %d events", maxGraph)
		}
	}
	return g.insert(fresh)
}

// insert numbers the given events, each after those it cites.
func (g *graph) insert(fresh map[id.EventID]Link) error {
	const open = none // being walked, not yet numbered
	type step struct {
		ev   id.EventID
		next int
	}
	for start := range fresh {
		if _, done := g.nodes[start]; done {
			continue
		}
		g.nodes[start] = open
		stack := []step{{ev: start}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			link := fresh[top.ev]
			if top.next == len(link.Auth) {
				g.add(top.ev, link)
				stack = stack[:len(stack)-1]
				continue
			}
			cited := link.Auth[top.next]
			top.next++
			n, met := g.nodes[cited]
			if met && n == open {
				g.forget()
				return fmt.Errorf("state: event %s cites itself through its auth events", cited)
			}
			if !met {
				g.nodes[cited] = open
				stack = append(stack, step{ev: cited})
			}
		}
	}
	return nil
}

func (g *graph) add(ev id.EventID, link Link) {
	auth := make([]node, len(link.Auth))
	power := none
	for i, cited := range link.Auth {
		auth[i] = g.nodes[cited]
		if power == none && g.isPowerLevels[auth[i]] {
			power = auth[i]
		}
	}
	g.nodes[ev] = node(len(g.ids))
	g.ids = append(g.ids, ev)
	g.auth = append(g.auth, auth)
	g.power = append(g.power, power)
	g.isPowerLevels = append(g.isPowerLevels, link.PowerLevels)
}

// forget empties the graph.
func (g *graph) forget() { *g = *newGraph() }

// set makes a set of the given events, which are loaded.
func (g *graph) set(ids []id.EventID) marks {
	s := newMarks(len(g.ids))
	for _, ev := range ids {
		s.add(g.nodes[ev])
	}
	return s
}

// chain is the union of the auth chains of the given events. These themselves
// are in it only if another of them cites them.
func (g *graph) chain(from marks) marks {
	chain := newMarks(len(g.ids))
	todo := from.clone()
	todo.sweepDown(func(n node) {
		for _, cited := range g.auth[n] {
			chain.add(cited)
			todo.add(cited)
		}
	})
	return chain
}

// above is the given events and those of the graph that have one of them in
// their auth chain, as far as they lie within the given bounds.
func (g *graph) above(from, within marks) marks {
	above := from.clone()
	within.sweepUp(func(n node) {
		for _, cited := range g.auth[n] {
			if above.has(cited) {
				above.add(n)
				return
			}
		}
	})
	return above
}

// marks is a set of nodes. Two sets that are put together have the same size.
type marks []uint64

func newMarks(size int) marks { return make(marks, (size+63)/64) }

func (m marks) add(n node)      { m[n>>6] |= 1 << (n & 63) }
func (m marks) has(n node) bool { return m[n>>6]&(1<<(n&63)) != 0 }

func (m marks) clone() marks { return append(marks(nil), m...) }

// grown is the set with room for more nodes.
func (m marks) grown(size int) marks {
	if more := (size+63)/64 - len(m); more > 0 {
		return append(m.clone(), make(marks, more)...)
	}
	return m
}

func (m marks) join(other marks) {
	for i, word := range other {
		m[i] |= word
	}
}

func (m marks) meet(other marks) {
	for i, word := range other {
		m[i] &= word
	}
}

func (m marks) without(other marks) {
	for i, word := range other {
		m[i] &^= word
	}
}

func (m marks) empty() bool {
	for _, word := range m {
		if word != 0 {
			return false
		}
	}
	return true
}

// sweepDown visits the set from high to low. Lower nodes that are added on the
// way are visited too.
func (m marks) sweepDown(visit func(node)) {
	for i := len(m) - 1; i >= 0; i-- {
		// below masks the bits not yet visited, since the word may grow under the visit.
		below := ^uint64(0)
		for m[i]&below != 0 {
			bit := bits.Len64(m[i]&below) - 1
			below = 1<<bit - 1
			visit(node(i<<6 | bit))
		}
	}
}

// sweepUp visits the set from low to high.
func (m marks) sweepUp(visit func(node)) {
	for i, word := range m {
		for word != 0 {
			bit := bits.TrailingZeros64(word)
			word &= word - 1
			visit(node(i<<6 | bit))
		}
	}
}
