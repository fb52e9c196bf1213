package syncing

import (
	"context"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// candidate is a room that may stand in a list.
type candidate struct {
	id      id.RoomID
	stay    *stay
	touched storage.Position // the newest news of it, as far as the memory reaches
	room    *room            // nil where the user is not joined
	head    roomHead
	facts   *facts // filled in where a filter asks
	kicked  bool   // thrown out of the room
}

// joined tells whether the user is in the room.
func (c *candidate) joined() bool { return c.stay.membership == event.MembershipJoin }

// gone tells whether the user was in the room, or might have come.
func (c *candidate) gone() bool {
	return c.stay.membership == event.MembershipLeave || c.stay.membership == event.MembershipBan
}

// bump is what clients sort by.
func (c *candidate) bump() storage.Position {
	if !c.joined() || c.head.bump == 0 {
		return c.stay.position
	}
	return c.head.bump
}

// order is where the room stands in lists. The unstable shape sorts by what bumps, the merged one by whatever happens. A room
// into which the user has just come stands on top, though nobody spoke in it.
func (c *candidate) order(sh shape) storage.Position {
	at := c.bump()
	if sh == mergedShape && c.joined() {
		at = max(at, c.head.active)
	}
	if c.stay.exact {
		at = max(at, c.stay.since)
	}
	return at
}

// candidates gathers the rooms that may stand in the user's lists, or that the connection is to hear of once more.
func (a *slideAnswer) candidates(ctx context.Context) ([]*candidate, error) {
	a.s.mu.RLock()
	list := make([]*candidate, 0, len(a.u.stays))
	for roomID, st := range a.u.stays {
		if st.position > a.to {
			continue
		}
		list = append(list, &candidate{id: roomID, stay: st, touched: a.u.touched[roomID], room: a.s.rooms[roomID]})
	}
	a.s.mu.RUnlock()
	kept := list[:0]
	for _, c := range list {
		ok, err := a.offeredTo(ctx, c)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, c)
		}
	}
	return kept, a.readHeads(ctx, kept)
}

// offeredTo tells whether the user has the room in lists at all.
func (a *slideAnswer) offeredTo(ctx context.Context, c *candidate) (bool, error) {
	switch c.stay.membership {
	case event.MembershipJoin, event.MembershipKnock:
		return true, nil
	case event.MembershipInvite:
		if a.ignored[c.stay.sender] {
			return false, nil
		}
		hidden, err := a.unwelcome(ctx, c.stay.sender)
		return !hidden, err
	}
	// Who left knows it, who was kicked may not.
	var err error
	if c.stay.sender != a.u.id {
		if c.kicked, err = a.wasKicked(ctx, c); err != nil {
			return false, err
		}
	}
	return c.kicked || a.x.rooms[c.id] != nil || c.stay.position > a.x.blind, nil
}

// wasKicked tells whether the user was in the room before this leave or ban, and has not forgotten it.
func (a *slideAnswer) wasKicked(ctx context.Context, c *candidate) (bool, error) {
	a.s.mu.RLock()
	verdict, ok := a.u.kicked[c.stay.event]
	a.s.mu.RUnlock()
	if !ok {
		found, err := a.s.byNumbers(ctx, []int64{c.stay.event})
		if err != nil {
			return false, err
		}
		if e := found[c.stay.event]; e != nil {
			was, err := a.membershipBefore(ctx, e.row())
			if err != nil {
				return false, err
			}
			verdict = was == string(event.MembershipJoin)
		}
		a.s.mu.Lock()
		if a.u.kicked == nil || len(a.u.kicked) > 10_000 {
			a.u.kicked = map[int64]bool{}
		}
		a.u.kicked[c.stay.event] = verdict
		a.s.mu.Unlock()
	}
	if !verdict || a.x.rooms[c.id] != nil {
		return verdict, nil
	}
	now, err := a.s.store.Memberships.Of(ctx, c.id, a.u.id)
	return now != nil && !now.Forgotten, err
}

// windows finds which rooms the request wants: those in the ranges of its lists, and those that it subscribes to.
func (a *slideAnswer) windows(ctx context.Context, all []*candidate) (wants map[id.RoomID]*slideWant, counts map[string]int, err error) {
	wants, counts = map[id.RoomID]*slideWant{}, map[string]int{}
	gathered := map[id.RoomID][]*required{}
	want := func(c *candidate, config *slideConfig) *slideWant {
		w := wants[c.id]
		if w == nil {
			w = &slideWant{}
			wants[c.id] = w
		}
		w.limit = max(w.limit, config.limit)
		gathered[c.id] = append(gathered[c.id], config.state)
		return w
	}
	if len(a.ask.lists) > 0 {
		slices.SortFunc(all, func(x, y *candidate) int {
			if d := y.order(a.ask.shape) - x.order(a.ask.shape); d != 0 {
				return int(max(-1, min(1, d)))
			}
			return strings.Compare(string(x.id), string(y.id))
		})
	}
	for _, l := range a.ask.lists {
		n := 0
		chosen, err := a.filtered(ctx, all, &l.filter)
		if err != nil {
			return nil, nil, err
		}
		for _, c := range chosen {
			if l.within(n) {
				w := want(c, l.config)
				w.lists = append(w.lists, l.name)
			}
			n++
		}
		counts[l.name] = n
	}
	if len(a.ask.rooms) > 0 {
		for _, c := range all {
			if config := a.ask.rooms[c.id]; config != nil {
				want(c, config).subscribed = true
			}
		}
	}
	a.combine(wants, gathered)
	return wants, counts, nil
}

// combine gives each room what is wanted of it in all; rooms that are wanted alike share it.
func (a *slideAnswer) combine(wants map[id.RoomID]*slideWant, gathered map[id.RoomID][]*required) {
	type pair struct{ a, b *required }
	made := map[pair]*wishes{}
	shared := map[string]*wishes{}
	for room, parts := range gathered {
		short := pair{parts[0], nil}
		if len(parts) == 2 {
			short.b = parts[1]
		}
		w := made[short]
		if w == nil || len(parts) > 2 {
			w = wishesOf(slices.Clone(parts))
			if old := shared[w.text]; old != nil {
				w = old
			}
			shared[w.text] = w
			if len(parts) <= 2 {
				made[short] = w
			}
		}
		wants[room].state = w
	}
}

// filtered gives, in their order, those that a list's filter lets through.
func (a *slideAnswer) filtered(ctx context.Context, all []*candidate, f *slideFilter) ([]*candidate, error) {
	if f.asksState() {
		if err := a.readFacts(ctx, all); err != nil {
			return nil, err
		}
	}
	var inSpaces map[id.RoomID]bool
	if f.Spaces != nil {
		var err error
		if inSpaces, err = a.childrenOf(ctx, f.Spaces); err != nil {
			return nil, err
		}
	}
	var chosen []*candidate
	for _, c := range all {
		if c.gone() && !c.kicked {
			continue // it is told once more, and stands in no list
		}
		if f.Spaces != nil && !inSpaces[c.id] {
			continue
		}
		if a.admits(f, c) {
			chosen = append(chosen, c)
		}
	}
	return chosen, nil
}

// asksState tells whether the filter asks anything of the rooms' state.
func (f *slideFilter) asksState() bool {
	return f.IsEncrypted != nil || f.RoomTypes != nil || f.NotRoomTypes != nil || f.RoomNameLike != ""
}

func (a *slideAnswer) admits(f *slideFilter, c *candidate) bool {
	if f.IsInvite != nil && *f.IsInvite != (c.stay.membership == event.MembershipInvite) {
		return false
	}
	if f.IsDM != nil && *f.IsDM != a.notes.direct[c.id] {
		return false
	}
	tagged := func(tags []string) bool {
		return slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(a.notes.tags[c.id], tag) })
	}
	if (f.Tags != nil && !tagged(f.Tags)) || tagged(f.NotTags) {
		return false
	}
	if !f.asksState() {
		return true
	}
	if f.IsEncrypted != nil && *f.IsEncrypted != c.facts.encrypted {
		return false
	}
	if (f.RoomTypes != nil && !c.facts.isOf(f.RoomTypes)) || c.facts.isOf(f.NotRoomTypes) {
		return false
	}
	return f.RoomNameLike == "" || c.facts.named(f.RoomNameLike)
}

// isOf tells whether the room's type is one of these; null stands for a room without one.
func (f *facts) isOf(kinds []*string) bool {
	return slices.ContainsFunc(kinds, func(kind *string) bool {
		if kind == nil {
			return f.kind == ""
		}
		return *kind == f.kind && f.kind != ""
	})
}

func (f *facts) named(part string) bool {
	name := f.name
	if name == "" {
		name = f.alias
	}
	return strings.Contains(strings.ToLower(name), strings.ToLower(part))
}

// childrenOf gives the rooms that spaces name as theirs, of those spaces in which the user is.
func (a *slideAnswer) childrenOf(ctx context.Context, spaces []id.RoomID) (map[id.RoomID]bool, error) {
	children := map[id.RoomID]bool{}
	seen := map[id.RoomID]bool{}
	for _, space := range spaces {
		if seen[space] {
			continue
		}
		seen[space] = true
		list, ok := a.children[space]
		if !ok {
			var err error
			if list, err = a.childrenIn(ctx, space); err != nil {
				return nil, err
			}
			if a.children == nil {
				a.children = map[id.RoomID][]id.RoomID{}
			}
			a.children[space] = list
		}
		for _, room := range list {
			children[room] = true
		}
	}
	return children, nil
}

func (a *slideAnswer) childrenIn(ctx context.Context, space id.RoomID) ([]id.RoomID, error) {
	a.s.mu.RLock()
	st, r := a.u.stays[space], a.s.rooms[space]
	var p *roomPlan
	if st != nil && r != nil && st.membership == event.MembershipJoin {
		p = a.s.planRoom(a.u, space, st, false)
	}
	a.s.mu.RUnlock()
	if p == nil {
		return nil, nil
	}
	at, err := a.current(ctx, p)
	if err != nil {
		return nil, err
	}
	state, err := a.s.states.at(ctx, a.s.store, at)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for key, number := range state {
		if key.Type == "m.space.child" {
			numbers = append(numbers, number)
		}
	}
	found, err := a.s.byNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	var children []id.RoomID
	for _, x := range found {
		e := x.row()
		if gjson.GetBytes(e.JSON, "content.via.0").Exists() && e.RedactedBy == "" {
			children = append(children, id.RoomID(*e.StateKey))
		}
	}
	return children, nil
}
