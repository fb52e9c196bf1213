package syncing

import (
	"context"
	"maps"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// roomHead is where the newest news of a room stands, as of a position. Never changed.
type roomHead struct {
	at, active, bump storage.Position
}

// after gives the head as of a later position, of the events in between.
func (h roomHead) after(events []*entry, to storage.Position) roomHead {
	for _, x := range within(events, h.at, to, entryPosition) {
		h.active = max(h.active, x.position)
		if storage.Bumps(x.row().Type) {
			h.bump = max(h.bump, x.position)
		}
	}
	h.at = max(h.at, to)
	return h
}

// readHeads fills in where the rooms stand: from the memory, and in one query where it does not know.
func (a *slideAnswer) readHeads(ctx context.Context, list []*candidate) error {
	var missing []id.RoomID
	byID := map[id.RoomID]*candidate{}
	a.s.mu.RLock()
	for _, c := range list {
		if c.room == nil || !c.joined() {
			continue
		}
		known := c.room.head
		switch {
		case known.at == 0 || (known.at < c.room.eventsFrom && c.touched > known.at):
			missing = append(missing, c.id)
			byID[c.id] = c
		case c.touched <= known.at:
			c.head = known
		default:
			c.head = known.after(c.room.events, a.to)
		}
	}
	a.s.mu.RUnlock()
	if len(missing) == 0 {
		return nil
	}
	heads, err := a.s.store.Sliding.Heads(ctx, missing)
	if err != nil {
		return err
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	for _, h := range heads {
		c := byID[h.RoomID]
		// What it says of news behind this answer is found again in the ring.
		c.head = roomHead{at: a.to, active: h.Active, bump: h.Bump}
		if c.room.head.at < c.head.at {
			c.room.head = c.head
		}
	}
	return nil
}

// facts are what lists and rooms' names ask of a room's state, as of a position. Never changed.
type facts struct {
	at                        storage.Position
	name, avatar, alias, kind string
	encrypted                 bool
}

var factKeys = []pdu.Key{{Type: "m.room.create"}, {Type: "m.room.name"}, {Type: "m.room.avatar"}, {Type: "m.room.canonical_alias"}, {Type: "m.room.encryption"}}

// take takes in one event of the state.
func (f *facts) take(typ string, content gjson.Result) {
	switch typ {
	case "m.room.create":
		f.kind = content.Get("type").Str
	case "m.room.name":
		f.name = content.Get("name").Str
	case "m.room.avatar":
		f.avatar = content.Get("url").Str
	case "m.room.canonical_alias":
		f.alias = content.Get("alias").Str
	case "m.room.encryption":
		f.encrypted = content.Get("algorithm").Type == gjson.String
	}
}

// fresh tells whether none of the changes touches what the facts say.
func (f *facts) fresh(p *room, to storage.Position) bool {
	if f == nil || f.at < p.changesFrom {
		return false
	}
	for _, c := range within(p.changes, f.at, to, changePosition) {
		if slices.Contains(factKeys, c.Key) {
			return false
		}
	}
	return true
}

// readFacts fills in what filters ask of the rooms.
func (a *slideAnswer) readFacts(ctx context.Context, list []*candidate) error {
	var missing []*candidate
	a.s.mu.RLock()
	for _, c := range list {
		switch {
		case c.facts != nil:
		case c.room != nil && c.joined() && c.room.facts.fresh(c.room, a.to):
			c.facts = c.room.facts
		default:
			missing = append(missing, c)
		}
	}
	a.s.mu.RUnlock()
	if len(missing) == 0 {
		return nil
	}
	var rooms []id.RoomID
	for _, c := range missing {
		c.facts = &facts{at: a.to}
		if len(c.stay.stripped) > 0 && !c.joined() {
			for _, raw := range c.stay.stripped {
				e := gjson.ParseBytes(raw)
				if e.Get("state_key").Str == "" {
					c.facts.take(e.Get("type").Str, e.Get("content"))
				}
			}
			continue
		}
		rooms = append(rooms, c.id)
	}
	snapshots, err := a.s.store.Rooms.Snapshots(ctx, rooms)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(missing, 40) { // the keys of forty rooms are one query
		if err := a.readFactsOf(ctx, part, snapshots); err != nil {
			return err
		}
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	for _, c := range missing {
		if c.room != nil && c.joined() && (c.room.facts == nil || c.room.facts.at < c.facts.at) {
			c.room.facts = c.facts
		}
	}
	return nil
}

func (a *slideAnswer) readFactsOf(ctx context.Context, list []*candidate, snapshots map[id.RoomID]storage.Snapshot) error {
	var asked []storage.Lookup
	var of []*candidate
	for _, c := range list {
		at, ok := snapshots[c.id]
		if c.gone() {
			// As it was: what came later is none of theirs.
			found, err := a.s.byNumbers(ctx, []int64{c.stay.event})
			if err != nil {
				return err
			}
			if ok = found[c.stay.event] != nil; ok {
				at = found[c.stay.event].row().After
			}
		}
		if !ok {
			continue
		}
		for _, key := range factKeys {
			asked, of = append(asked, storage.Lookup{At: at, Key: key}), append(of, c)
		}
	}
	numbers, err := a.s.store.State.Lookups(ctx, asked)
	if err != nil {
		return err
	}
	found, err := a.s.byNumbers(ctx, slices.DeleteFunc(slices.Clone(numbers), func(n int64) bool { return n == 0 }))
	if err != nil {
		return err
	}
	for i, n := range numbers {
		if x := found[n]; x != nil {
			e := x.row()
			of[i].facts.take(e.Type, gjson.GetBytes(e.JSON, "content"))
		}
	}
	return nil
}

// notes are what lists ask of the user's own account data. Never changed.
type notes struct {
	at     storage.Position
	direct map[id.RoomID]bool
	tags   map[id.RoomID][]string
	// directAt is when m.direct last changed.
	directAt storage.Position
}

// readNotes gives them as of the answer, from the memory where it holds them.
func (a *slideAnswer) readNotes(ctx context.Context) (*notes, error) {
	a.s.mu.RLock()
	known, account, from := a.u.notes, a.u.account, a.u.accountFrom
	a.s.mu.RUnlock()
	if known != nil && known.at >= from {
		news := within(account, known.at, a.to, func(d *storage.AccountData) storage.Position { return d.Position })
		if len(news) == 0 {
			return known, nil
		}
		made := &notes{at: known.at, direct: known.direct, tags: maps.Clone(known.tags), directAt: known.directAt}
		for _, d := range news {
			made.take(d)
		}
		made.at = a.to
		a.keepNotes(made)
		return made, nil
	}
	made := &notes{direct: map[id.RoomID]bool{}, tags: map[id.RoomID][]string{}}
	for _, typ := range []string{event.AccountDataDirectChats.Type, "m.tag"} {
		list, err := a.s.store.AccountData.OfType(ctx, a.u.id, typ)
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			made.take(d)
		}
	}
	made.at = a.to
	a.keepNotes(made)
	return made, nil
}

func (a *slideAnswer) keepNotes(made *notes) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if a.u.notes == nil || a.u.notes.at < made.at {
		a.u.notes = made
	}
}

func (n *notes) take(d *storage.AccountData) {
	switch {
	case d.RoomID == "" && d.Type == event.AccountDataDirectChats.Type:
		n.direct, n.directAt = map[id.RoomID]bool{}, d.Position
		gjson.ParseBytes(d.Content).ForEach(func(_, rooms gjson.Result) bool {
			rooms.ForEach(func(_, room gjson.Result) bool {
				n.direct[id.RoomID(room.Str)] = true
				return true
			})
			return true
		})
	case d.RoomID != "" && d.Type == "m.tag":
		var tags []string
		gjson.GetBytes(d.Content, "tags").ForEach(func(tag, _ gjson.Result) bool {
			tags = append(tags, tag.Str)
			return true
		})
		n.tags[d.RoomID] = tags
	}
}
