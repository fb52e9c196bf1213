package roomserver

import (
	"context"
	"errors"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// turn is what the room writes at once, with those who wait for it.
type turn struct {
	rows    storage.RoomRows
	replies []reply
}

// reply is an answer that leaves when what it tells of is on disk.
type reply struct {
	to       *question
	outcomes []bus.Outcome
}

// reply lets the answers go: what was written, or why it was not.
func (t *turn) reply(err error) {
	for _, r := range t.replies {
		r.to.Respond(bus.RoomAnswer{Outcomes: r.outcomes}, err)
	}
}

func (t *turn) empty() bool {
	r := &t.rows
	return len(r.Events)+len(r.Risen)+len(r.Chains)+len(r.Entries)+len(r.Memberships)+len(r.EdgesClosed)+len(r.Waited)+len(r.Attach)+len(r.Outbound) == 0 &&
		r.Head == nil && r.AliasAdded == nil && r.AliasRemoved == "" && r.Forgotten == "" && r.Erasure == nil
}

// handOver gives the turn to the committer and goes on without waiting.
// The replies leave when it is on disk.
func (r *room) handOver() {
	t := r.turn
	r.turn = &turn{}
	if t == nil {
		return
	}
	empty := t.empty()
	// An answer that wrote nothing may still tell of what is in flight ("you sent that already"): it waits for that.
	if empty && (r.out == 0 || len(t.replies) == 0) {
		t.reply(nil)
		return
	}
	t.rows.Line, t.rows.Room = r.line, r.id
	if r.exists && t.rows.Head == nil && !empty {
		head := r.head
		t.rows.Head = &head
	}
	r.ahead += len(t.rows.Events)
	r.out++
	r.s.writer.Write(&t.rows, func(err error) {
		if !errors.Is(err, storage.ErrRepeated) { // then they are asked again
			t.reply(err)
		}
		r.committed <- commit{t, err}
	})
}

// stored makes the row of an event.
func (r *room) stored(ctx context.Context, ev gomatrixserverlib.PDU) (*storage.Event, error) {
	number, err := r.s.store.Numbers(ctx, 1)
	if err != nil {
		return nil, err
	}
	row := Row(ev, number)
	row.RoomID = r.id
	row.StickyUntil = stickyUntil(ev, r.s.now())
	return row, nil
}

// Row makes the row of an event that has the given number, as an outlier.
func Row(ev gomatrixserverlib.PDU, number int64) *storage.Event {
	row := &storage.Event{
		Number: number, ID: id.EventID(ev.EventID()), RoomID: pdu.RoomIDOf(ev), Type: ev.Type(), StateKey: ev.StateKey(), Sender: pdu.Sender(ev),
		Depth: ev.Depth(), Timestamp: int64(ev.OriginServerTS()), JSON: ev.JSON(),
	}
	if relates := gjson.GetBytes(ev.Content(), `m\.relates_to`); relates.IsObject() {
		to, rel := relates.Get("event_id"), relates.Get("rel_type")
		if to.Type == gjson.String && rel.Type == gjson.String && len(to.Str) <= pdu.MaxIDLength && len(rel.Str) <= pdu.MaxIDLength {
			row.RelatesTo, row.RelType = id.EventID(to.Str), rel.Str
		}
	}
	return row
}

// write adds an event to the turn.
func (r *room) write(h *held, news bool) {
	r.turn.rows.Events = append(r.turn.rows.Events, h.row)
	r.turn.rows.News = append(r.turn.rows.News, news)
	r.events.fly(h)
}

// advance appends one change to the current state: key now holds h's event, or nothing.
// The head's chain grows by an entry that is news.
func (r *room) advance(key pdu.Key, h *held) {
	old := r.current[key]
	r.head.State.Sequence++
	entry := storage.Entry{Chain: r.head.State.Chain, Sequence: r.head.State.Sequence, Key: key, Old: old.number, News: true}
	if h == nil {
		delete(r.current, key)
	} else {
		entry.Event = h.row.Number
		r.current[key] = ref{h.row.Number, h.row.ID}
	}
	r.turn.rows.Entries = append(r.turn.rows.Entries, entry)
	if key.Type == event.StateMember.Type {
		r.advanceMember(id.UserID(key.StateKey), h)
	}
}

// advanceMember keeps memberships and servers equal to the current state.
func (r *room) advanceMember(user id.UserID, h *held) {
	was, is := r.members[user], event.MembershipLeave
	m := &storage.Membership{RoomID: r.id, UserID: user, News: true}
	if h != nil {
		is = event.Membership(gjson.GetBytes(h.ev.Content(), "membership").Str)
		m.EventID, m.Event, m.Sender = h.row.ID, h.row.Number, h.row.Sender
	}
	m.Membership = is
	r.members[user] = is
	r.turn.rows.Memberships = append(r.turn.rows.Memberships, m)
	server := user.Homeserver()
	switch {
	case was != event.MembershipJoin && is == event.MembershipJoin:
		if r.joined[server]++; r.joined[server] == 1 {
			r.turn.rows.Servers = append(r.turn.rows.Servers, storage.ServerMove{Server: server, In: true})
		}
	case was == event.MembershipJoin && is != event.MembershipJoin:
		if r.joined[server]--; r.joined[server] == 0 {
			delete(r.joined, server)
			r.turn.rows.Servers = append(r.turn.rows.Servers, storage.ServerMove{Server: server})
		}
	}
	r.head.Joined = r.joined[r.s.signer.ServerName] > 0
}

// extend makes h the newest event: it takes the place of those extremities that it names. It is none itself, and extend
// says so, if it fills a gap: events that we hold stand upon it.
func (r *room) extend(h *held) (newest bool) {
	names := map[id.EventID]bool{}
	for _, prev := range h.ev.PrevEventIDs() {
		names[id.EventID(prev)] = true
	}
	kept := make([]id.EventID, 0, len(r.head.Extremities)+1)
	for _, x := range r.head.Extremities {
		if !names[x] {
			kept = append(kept, x)
		}
	}
	if len(r.edges[h.row.ID]) > 0 && len(kept) > 0 {
		r.head.Extremities = kept
		return false
	}
	r.head.Extremities = append(kept, h.row.ID)
	r.head.Depth = max(r.head.Depth, h.row.Depth)
	return true
}
