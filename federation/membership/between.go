package membership

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// What is said in a room between a server's make_join and its join: the join does not stand on it, so that the state which the server
// is given does not have it, and it is older than the server's being in the room, so that the sender has no reason to send it. Each
// side has its part in that: who lets in sends it afterwards, and who comes in lets what arrives too early wait.

// mostBetween bounds what a joining server is sent; of more, the newest, and it asks for what these stand on.
const mostBetween = 50

// tellBetween puts our own events on which a server's join does not stand into the queue for that server.
// Spec: server-server-api/#joining-rooms
func (m *Membership) tellBetween(ctx context.Context, origin string, join *storage.Event, ev gomatrixserverlib.PDU) error {
	if join.Position == 0 {
		return nil
	}
	ids := make([]id.EventID, 0, len(ev.PrevEventIDs()))
	for _, prev := range ev.PrevEventIDs() {
		ids = append(ids, id.EventID(prev))
	}
	parents, err := m.store.Events.ByIDs(ctx, ids)
	if err != nil {
		return fmt.Errorf("parents of a join: %w", err)
	}
	// A parent's ancestors were news before it. What was news after all of them is none of their ancestors.
	var last storage.Position
	for _, parent := range parents {
		last = max(last, parent.Position)
	}
	if last == 0 {
		return nil
	}
	events, err := m.store.Events.SentBy(ctx, join.RoomID, m.name, last+1, true, mostBetween)
	if err != nil {
		return fmt.Errorf("events before a join: %w", err)
	}
	slices.Reverse(events)
	var rows []*storage.Outbound
	for _, e := range events {
		if e.Position >= join.Position {
			continue
		}
		raw, err := m.view.Federation(ctx, e)
		if err != nil {
			return err
		}
		rows = append(rows, &storage.Outbound{Server: origin, Content: raw})
	}
	return m.store.Outbound.Add(ctx, rows)
}

// entrances are the rooms that we are about to enter.
type entrances struct {
	mu    sync.Mutex
	rooms map[id.RoomID]*entrance
}

type entrance struct {
	joins int
	over  chan struct{} // closed when none of them goes on
}

// enter notes that a join is under way until left is called.
func (e *entrances) enter(room id.RoomID) (left func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rooms == nil {
		e.rooms = map[id.RoomID]*entrance{}
	}
	at := e.rooms[room]
	if at == nil {
		at = &entrance{over: make(chan struct{})}
		e.rooms[room] = at
	}
	at.joins++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if at.joins--; at.joins == 0 {
			delete(e.rooms, room)
			close(at.over)
		}
	}
}

// entryPatience bounds how long another server's transaction is held while we join a room of it: it waits for an answer about a minute.
const entryPatience = 30 * time.Second

// Entered waits while a user of ours is joining the room through another server: what comes for the room meanwhile cannot be
// taken in yet. It does not wait for ever.
func (m *Membership) Entered(ctx context.Context, room id.RoomID) {
	m.entrances.mu.Lock()
	at := m.entrances.rooms[room]
	m.entrances.mu.Unlock()
	if at == nil {
		return
	}
	if r, err := m.store.Rooms.ByID(ctx, room); err == nil && r != nil && r.Joined {
		return // only another user comes in
	}
	timer := time.NewTimer(entryPatience)
	defer timer.Stop()
	select {
	case <-at.over:
	case <-timer.C:
	case <-ctx.Done():
	}
}
