package appservice

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// Bounds of what is kept of typing and presence until it is told.
const (
	maxTypingRooms = 10_000
	maxPresences   = 20_000
)

// passing is what only the bus carries: who types, who is there. It is gone if the service is not there to hear it.
type passing struct {
	mu       sync.Mutex
	typing   map[id.RoomID]map[id.UserID]int64 // until when, ms since 1970
	moved    map[id.RoomID]bool                // rooms whose typing is to be told
	presence map[id.UserID]bus.Presence        // to be told
	ring     chan struct{}
}

// listen hears typing and presence for services that ask for them.
func (d *deliverer) listen() (stop func(), err error) {
	d.passing = &passing{
		typing: map[id.RoomID]map[id.UserID]int64{}, moved: map[id.RoomID]bool{}, presence: map[id.UserID]bus.Presence{},
		ring: make(chan struct{}, 1),
	}
	if !d.Ephemeral && !d.OldEphemeral {
		return func() {}, nil
	}
	stopTyping, err := bus.Listen(d.all.bus, bus.AllTyping, func(_ string, m bus.Typing) { d.passing.typed(m, d.all.now()) })
	if err != nil {
		return nil, err
	}
	stopPresence, err := bus.Listen(d.all.bus, bus.AllPresence, func(_ string, m bus.Presence) { d.passing.appeared(m) })
	if err != nil {
		stopTyping()
		return nil, err
	}
	return func() { stopTyping(); stopPresence() }, nil
}

func (p *passing) typed(m bus.Typing, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	users := p.typing[m.RoomID]
	_, was := users[m.UserID]
	is := m.Typing && m.Until > now.UnixMilli()
	switch {
	case is && users == nil:
		if len(p.typing) >= maxTypingRooms {
			return
		}
		p.typing[m.RoomID] = map[id.UserID]int64{m.UserID: m.Until}
	case is:
		users[m.UserID] = m.Until
	default:
		delete(users, m.UserID)
	}
	if is != was {
		p.moved[m.RoomID] = true
		p.rings()
	}
}

// expire drops who types no longer, though nobody said so.
func (p *passing) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, users := range p.typing {
		for user, until := range users {
			if until <= now.UnixMilli() {
				delete(users, user)
				p.moved[room] = true
				p.rings()
			}
		}
		if len(users) == 0 && !p.moved[room] {
			delete(p.typing, room)
		}
	}
}

func (p *passing) appeared(m bus.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.presence[m.UserID]; !ok && len(p.presence) >= maxPresences {
		return
	}
	p.presence[m.UserID] = m
	p.rings()
}

// rings wakes the deliverer. mu is held.
func (p *passing) rings() {
	select {
	case p.ring <- struct{}{}:
	default: // it has been rung already
	}
}

// take takes what is to be told, at most about a transaction's worth; what is left rings again.
func (p *passing) take() (typing map[id.RoomID][]id.UserID, present []bus.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	typing = map[id.RoomID][]id.UserID{}
	for room := range p.moved {
		if len(typing) >= maxEvents {
			break
		}
		users := make([]id.UserID, 0, len(p.typing[room]))
		for user := range p.typing[room] {
			users = append(users, user)
		}
		slices.Sort(users)
		typing[room] = users
		delete(p.moved, room)
	}
	for user, m := range p.presence {
		if len(present) >= maxEvents {
			break
		}
		present = append(present, m)
		delete(p.presence, user)
	}
	if len(p.moved)+len(p.presence) > 0 {
		p.rings()
	}
	return typing, present
}

type ephemeralEvent struct {
	Type    string    `json:"type"`
	RoomID  id.RoomID `json:"room_id,omitempty"`
	Sender  id.UserID `json:"sender,omitempty"`
	Content any       `json:"content"`
}

// passed writes the typing and the presence that concern the service.
// Spec: application-service-api/#pushing-ephemeral-data
func (d *deliverer) passed(ctx context.Context) ([]json.RawMessage, error) {
	typing, present := d.passing.take()
	var list []json.RawMessage
	for room, users := range typing {
		concerns, err := d.interest.room(ctx, room, nil)
		if err != nil {
			return nil, err
		}
		if concerns {
			list = append(list, object(ephemeralEvent{Type: "m.typing", RoomID: room, Content: map[string]any{"user_ids": users}}))
		}
	}
	for _, m := range present {
		shares, err := d.interest.shares(ctx, m.UserID)
		if err != nil {
			return nil, err
		}
		if shares {
			list = append(list, object(ephemeralEvent{Type: "m.presence", Sender: m.UserID, Content: presenceContent(m, d.all.now())}))
		}
	}
	return list, nil
}

func presenceContent(m bus.Presence, now time.Time) map[string]any {
	content := map[string]any{"presence": m.Presence, "currently_active": m.CurrentlyActive}
	if m.LastActive != 0 {
		content["last_active_ago"] = max(0, now.UnixMilli()-m.LastActive)
	}
	if m.StatusMessage != "" {
		content["status_msg"] = m.StatusMessage
	}
	return content
}

// addReceipt adds a receipt, a private one for its own user's service only.
func (f *feeder) addReceipt(ctx context.Context, p *parcel, r *storage.Receipt) error {
	if r.Type == storage.ReceiptReadPrivate && !f.Owns(r.UserID) {
		return nil
	}
	concerns, err := f.interest.room(ctx, r.RoomID, nil)
	if err != nil || !concerns {
		return err
	}
	data := map[string]any{"ts": r.Timestamp}
	if r.Thread != "" {
		data["thread_id"] = r.Thread
	}
	raw := object(ephemeralEvent{Type: "m.receipt", RoomID: r.RoomID, Content: map[id.EventID]any{
		r.EventID: map[string]any{r.Type: map[id.UserID]any{r.UserID: data}},
	}})
	p.ephemeral = append(p.ephemeral, raw)
	p.bytes += len(raw)
	return nil
}

// object encodes what is known to be encodable: structs and maps of plain values.
func object(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}
