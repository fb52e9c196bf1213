package syncing

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// typists are who types in a room now. Guarded by Syncing.mu.
type typists struct {
	until map[id.UserID]int64 // ms since 1970
	timer *time.Timer
}

// maxTypists bounds who is shown as typing in one room.
const maxTypists = 200

func (t *typists) busy() bool { return t != nil && len(t.until) > 0 }

func (t *typists) list() []id.UserID {
	if t == nil {
		return nil
	}
	users := make([]id.UserID, 0, len(t.until))
	for user := range t.until {
		users = append(users, user)
	}
	slices.Sort(users)
	return users
}

// typed takes in that somebody types, or no longer does.
func (s *Syncing) typed(m bus.Typing) {
	woken := wake{}
	s.mu.Lock()
	t := s.typing[m.RoomID]
	if t == nil {
		t = &typists{until: map[id.UserID]int64{}}
		s.typing[m.RoomID] = t
	}
	now := s.now().UnixMilli()
	_, was := t.until[m.UserID]
	switch {
	case m.Typing && m.Until > now && (was || len(t.until) < maxTypists):
		t.until[m.UserID] = m.Until
		if !was {
			s.typingMoved(m.RoomID, woken)
		}
	case was:
		delete(t.until, m.UserID)
		s.typingMoved(m.RoomID, woken)
	}
	s.expireTyping(m.RoomID, t)
	s.mu.Unlock()
	woken.ring()
}

// typingMoved marks the room for all who are in it. mu is held.
func (s *Syncing) typingMoved(room id.RoomID, woken wake) {
	s.mark++
	if r := s.rooms[room]; r != nil {
		for u := range r.users {
			u.typed[room], u.marked = s.mark, s.mark
		}
		woken.room(r)
	}
}

// expireTyping sets the clock for the next who stops, or forgets the room. mu is held.
func (s *Syncing) expireTyping(room id.RoomID, t *typists) {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if len(t.until) == 0 {
		delete(s.typing, room)
		return
	}
	next := int64(0)
	for _, until := range t.until {
		if next == 0 || until < next {
			next = until
		}
	}
	wait := time.Duration(max(0, next-s.now().UnixMilli())+1) * time.Millisecond
	t.timer = time.AfterFunc(wait, func() { s.typingExpired(room) })
}

func (s *Syncing) typingExpired(room id.RoomID) {
	woken := wake{}
	s.mu.Lock()
	if t := s.typing[room]; t != nil {
		now := s.now().UnixMilli()
		before := len(t.until)
		for user, until := range t.until {
			if until <= now {
				delete(t.until, user)
			}
		}
		if len(t.until) != before {
			s.typingMoved(room, woken)
		}
		s.expireTyping(room, t)
	}
	s.mu.Unlock()
	woken.ring()
}

// maxReceiptsRead bounds the receipts of one room in one answer.
const maxReceiptsRead = 1000

// ephemeral writes the room's ephemeral events; own: the user's own receipt moved, and with it the counts.
func (a *answer) ephemeral(ctx context.Context, p *roomPlan, fresh bool) (b []byte, own bool, err error) {
	part := &a.q.filter.Room.Ephemeral
	if !part.room(p.id) {
		return nil, false, nil
	}
	if (p.typed || fresh && len(p.typing) > 0) && part.kind("m.typing", "") {
		b = append(b, `{"type":"m.typing","content":{"user_ids":[`...)
		n := 0
		for _, user := range p.typing {
			if a.ignored[user] {
				continue
			}
			if n > 0 {
				b = append(b, ',')
			}
			b = appendText(b, string(user))
			n++
		}
		b = append(b, `]}}`...)
	}
	from := a.since
	if fresh {
		if !part.kind("m.receipt", "") {
			return b, false, nil
		}
		from = 0
	}
	receipts, err := a.receipts(ctx, p, from)
	if err != nil {
		return nil, false, err
	}
	for _, r := range receipts {
		own = own || r.UserID == a.u.id
	}
	if len(receipts) == 0 || !part.kind("m.receipt", "") {
		return b, own, nil
	}
	content, err := receiptContent(receipts)
	if err != nil {
		return nil, false, err
	}
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = append(append(b, `{"type":"m.receipt","content":`...), content...)
	return append(b, '}'), own, nil
}

// receipts gives the room's receipts after the position that the user may see.
func (a *answer) receipts(ctx context.Context, p *roomPlan, from storage.Position) ([]*storage.Receipt, error) {
	var list []*storage.Receipt
	if p.live && from >= p.receiptsFrom {
		for _, r := range within(p.receipts, from, a.to, receiptPosition) {
			if r.Type != storage.ReceiptReadPrivate || r.UserID == a.u.id {
				list = append(list, r)
			}
		}
	} else {
		var err error
		if list, err = a.readReceipts(ctx, p, from); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(list, func(r *storage.Receipt) bool { return a.ignored[r.UserID] }), nil
}

// readReceipts reads them, once for all rooms of the answer.
func (a *answer) readReceipts(ctx context.Context, p *roomPlan, from storage.Position) ([]*storage.Receipt, error) {
	if from != a.since || len(a.rooms) < 2 {
		return a.s.store.Receipts.In(ctx, p.id, a.u.id, from, a.to, maxReceiptsRead)
	}
	a.receiptsOnce.Do(func() {
		rooms := make([]id.RoomID, len(a.rooms))
		for i, room := range a.rooms {
			rooms[i] = room.id
		}
		var all []*storage.Receipt
		all, a.receiptsErr = a.s.store.Receipts.InAll(ctx, rooms, a.u.id, from, a.to, maxReceiptsRead)
		a.receiptsIn = byRoom(all)
	})
	return a.receiptsIn[p.id], a.receiptsErr
}

// ownReceipts gives the user's own receipts in the room: read once for all rooms where the answer has many.
func (a *answer) ownReceipts(ctx context.Context, p *roomPlan) ([]*storage.Receipt, error) {
	if len(a.rooms) < 10 {
		return a.s.store.Receipts.Of(ctx, p.id, a.u.id)
	}
	a.ownOnce.Do(func() {
		var all []*storage.Receipt
		all, a.ownErr = a.s.store.Receipts.AllOf(ctx, a.u.id)
		a.own = byRoom(all)
	})
	return a.own[p.id], a.ownErr
}

func byRoom(receipts []*storage.Receipt) map[id.RoomID][]*storage.Receipt {
	rooms := map[id.RoomID][]*storage.Receipt{}
	for _, r := range receipts {
		rooms[r.RoomID] = append(rooms[r.RoomID], r)
	}
	return rooms
}

type receiptData struct {
	Timestamp int64  `json:"ts"`
	Thread    string `json:"thread_id,omitempty"`
}

// receiptContent is the content of m.receipt. Where one user has an unthreaded and a threaded receipt at one event, the
// unthreaded one is told: it says more.
// Spec: client-server-api/#mreceipt, MSC4102
func receiptContent(receipts []*storage.Receipt) ([]byte, error) {
	content := map[id.EventID]map[string]map[id.UserID]receiptData{}
	for _, r := range receipts {
		types := content[r.EventID]
		if types == nil {
			types = map[string]map[id.UserID]receiptData{}
			content[r.EventID] = types
		}
		users := types[r.Type]
		if users == nil {
			users = map[id.UserID]receiptData{}
			types[r.Type] = users
		}
		if old, ok := users[r.UserID]; ok && old.Thread == "" {
			continue
		}
		users[r.UserID] = receiptData{Timestamp: r.Timestamp, Thread: r.Thread}
	}
	return json.Marshal(content)
}

func appendInt(b []byte, key string, n int) []byte {
	return strconv.AppendInt(append(b, key...), int64(n), 10)
}
