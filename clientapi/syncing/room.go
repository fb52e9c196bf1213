package syncing

import (
	"slices"
	"sort"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// room is what this process holds of a room in which one of its users is joined. Only the watcher writes it, with mu held;
// the slices are never changed in place, so that an answer may keep them.
type room struct {
	id    id.RoomID
	users map[*user]struct{}

	// Everything after these positions is in the rings.
	eventsFrom, changesFrom, receiptsFrom storage.Position
	events                                []*entry              // ascending
	bytes                                 int                   // of events
	changes                               []storage.StateChange // ascending
	receipts                              []*storage.Receipt    // ascending, each key once

	// bottom: nothing of the room's history lies before the events above; sealed: something does that is no news, and stays out.
	bottom, sealed bool
	// reworked counts what happened to events that are older than their ring.
	reworked int
	filling  sync.Mutex // held while history is read; never together with Syncing.mu

	// snapshot is the current state, where no change is held above; zero where it is not known.
	snapshot storage.Snapshot

	// speakers are the member events of those who spoke, as of the change of membership at spokeAt.
	speakers map[id.UserID]int64
	spokeAt  storage.Position

	// members is the position of the newest change of membership, 0 if none was seen yet.
	members storage.Position
	summary *summary
	// head and facts are what sliding syncs sort and filter by, each as of a position of its own.
	head  roomHead
	facts *facts

	// rung is when receipts last woke the room; ringing: a later ring is set.
	rung    time.Time
	ringing bool
}

// maxRingBytes bounds the events held at hand for one room, beside their number.
const maxRingBytes = 2 << 20

// maxReceipts bounds the receipts held at hand for a room.
const maxReceipts = 512

func newRoom(roomID id.RoomID, from storage.Position) *room {
	return &room{id: roomID, users: map[*user]struct{}{}, eventsFrom: from, changesFrom: from, receiptsFrom: from}
}

func (r *room) touch(at storage.Position, woken wake) {
	for u := range r.users {
		u.touch(r.id, at)
	}
	woken.room(r)
}

// empty lets the ring go.
func (r *room) empty() {
	if n := len(r.events); n > 0 {
		r.eventsFrom = r.events[n-1].position
	}
	r.events, r.bytes, r.bottom, r.sealed = nil, 0, false, false
}

func (r *room) addEvent(x *entry, limit int) {
	if n := len(r.events); n > 0 && r.events[n-1].position >= x.position {
		return // read twice
	}
	// Cut to the half, and so seldom that adding stays cheap.
	if len(r.events) >= 2*limit || r.bytes > maxRingBytes {
		cut := len(r.events) / 2
		if cut > 0 {
			r.eventsFrom, r.bottom, r.sealed = r.events[cut-1].position, false, false
		}
		r.events = slices.Clone(r.events[cut:])
		r.bytes = 0
		for _, kept := range r.events {
			r.bytes += kept.size
		}
	}
	r.events = append(r.events, x)
	r.bytes += x.size
}

func (r *room) addChange(c storage.StateChange, limit int) {
	if n := len(r.changes); n > 0 && r.changes[n-1].Position >= c.Position {
		return
	}
	if len(r.changes) >= 2*limit {
		cut := len(r.changes) - limit
		r.changesFrom = r.changes[cut-1].Position
		r.changes = slices.Clone(r.changes[cut:])
	}
	r.changes = append(r.changes, c)
}

func (r *room) addReceipt(receipt *storage.Receipt) {
	kept := make([]*storage.Receipt, 0, len(r.receipts)+1)
	for _, old := range r.receipts {
		if old.UserID != receipt.UserID || old.Type != receipt.Type || old.Thread != receipt.Thread {
			kept = append(kept, old)
		}
	}
	if len(kept) >= maxReceipts {
		r.receiptsFrom = kept[0].Position
		kept = kept[1:]
	}
	r.receipts = append(kept, receipt)
}

// within gives the part of an ascending list with from < position <= to.
func within[T any](list []T, from, to storage.Position, at func(T) storage.Position) []T {
	i := sort.Search(len(list), func(i int) bool { return at(list[i]) > from })
	j := sort.Search(len(list), func(i int) bool { return at(list[i]) > to })
	if j < i {
		j = i
	}
	return list[i:j:j]
}

func entryPosition(x *entry) storage.Position               { return x.position }
func changePosition(c storage.StateChange) storage.Position { return c.Position }
func receiptPosition(r *storage.Receipt) storage.Position   { return r.Position }
