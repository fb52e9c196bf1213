package rooms

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	// maxPage bounds the events of one answer, maxScanned those that are looked at for it.
	maxPage    = 1000
	maxScanned = 3000
	// maxBackfills bounds how often one request asks other servers for history.
	maxBackfills = 3
	// patience bounds what a client waits for other servers' history.
	patience = 20 * time.Second
)

// Beginning and end of all history.
var (
	firstPage = storage.Page{Place: -1 << 62}
	lastPage  = storage.Page{Place: 1 << 62}
)

// messagesAnswer is the body of /messages.
type messagesAnswer struct {
	Start string            `json:"start"`
	End   string            `json:"end,omitempty"`
	Chunk []json.RawMessage `json:"chunk"`
	State []json.RawMessage `json:"state,omitempty"`
}

// Messages handles GET /_matrix/client/v3/rooms/{roomId}/messages.
// Spec: client-server-api/#get_matrixclientv3roomsroomidmessages
func (h *Handlers) Messages(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	a, err := h.read(r.Context(), r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	return h.messages(r, a, "")
}

// messages answers with a page of a room; direction is where the client names none.
func (h *Handlers) messages(r *rest.Request, a *access, direction string) (any, error) {
	w, err := walkOf(r, a.room.ID, direction)
	if err != nil {
		return nil, err
	}
	w.limit = max(w.limit, 1) // a page without events would lead nowhere
	start := w.from
	w.within(a)
	if err := h.walk(r.Context(), a, w); err != nil {
		return nil, err
	}
	answer := messagesAnswer{Start: start.String()}
	if r.Query("from") != "" {
		answer.Start = r.Query("from")
	}
	// As elsewhere, the end of all history is told by an empty page: clients expect a token with each event.
	if w.more || len(w.found) > 0 {
		answer.End = w.next.String()
	}
	if answer.Chunk, err = h.view.Client(r.Context(), viewer(r), w.found); err != nil {
		return nil, err
	}
	if w.filter.LazyLoadMembers {
		answer.State, err = h.senders(r.Context(), viewer(r), w.found)
	}
	return answer, err
}

// walk is a walk through a room's history, and what it found.
type walk struct {
	room      id.RoomID
	user      id.UserID
	backwards bool
	from      storage.Page
	to        *storage.Page
	limit     int
	filter    *eventFilter
	// ignored are users whose messages are not shown.
	ignored map[id.UserID]bool
	// overseen: all is shown.
	overseen bool

	found []*storage.Event
	// next is where to go on, if there is more.
	next storage.Page
	more bool
}

// walkOf reads dir, from, to, limit and filter. Without from, a walk begins at one of the ends. An empty direction has to
// be given by the client.
func walkOf(r *rest.Request, roomID id.RoomID, direction string) (*walk, error) {
	w := &walk{room: roomID, user: r.By.User}
	if dir := r.Query("dir"); dir != "" {
		direction = dir
	}
	switch direction {
	case "b":
		w.backwards, w.from = true, lastPage
	case "f":
		w.from = firstPage
	case "":
		return nil, missingParam.WithMessage("dir is missing")
	default:
		return nil, mautrix.MInvalidParam.WithMessage("dir is neither b nor f")
	}
	var err error
	if from := r.Query("from"); from != "" {
		if w.from, err = storage.ParsePage(from); err != nil {
			return nil, badToken
		}
	}
	if to := r.Query("to"); to != "" {
		page, err := storage.ParsePage(to)
		if err != nil {
			return nil, badToken
		}
		w.to = &page
	}
	if w.filter, err = filterOf(r); err != nil {
		return nil, err
	}
	fallback := 10
	if w.filter.Limit > 0 {
		fallback = min(w.filter.Limit, maxPage)
	}
	w.limit, err = r.Int("limit", fallback, 0, maxPage)
	return w, err
}

// within keeps the walk of one who left to what was before that.
func (w *walk) within(a *access) {
	if a.left == nil {
		return
	}
	end := after(a.left)
	if w.backwards && before(end, w.from) {
		w.from = end
	}
	if !w.backwards && (w.to == nil || before(end, *w.to)) {
		w.to = &end
	}
}

// after is the page just after an event, seen from either side.
func after(e *storage.Event) storage.Page {
	return storage.Page{Place: e.Place, Number: e.Number + 1}
}

// before says whether page a comes before page b.
func before(a, b storage.Page) bool {
	return a.Place < b.Place || a.Place == b.Place && a.Number < b.Number
}

// walk fills in w.found with what the user may see and the filter lets through, as many as asked for. Where the history
// that we hold is torn, it is mended on the way.
func (h *Handlers) walk(ctx context.Context, a *access, w *walk) error {
	w.next, w.more = w.from, true
	var err error
	if w.overseen = a.overseen; !w.overseen {
		if w.ignored, err = h.ignored(ctx, w.user); err != nil {
			return err
		}
	}
	tears, err := h.tears(ctx, a, w)
	if err != nil {
		return err
	}
	asked := 0
	mend := func(place storage.Place) (again bool, err error) {
		delete(tears, place)
		if asked++; asked > maxBackfills || !h.backfill(ctx, w) {
			return false, nil
		}
		tears, err = h.tears(ctx, a, w)
		delete(tears, place) // one attempt for each
		return true, err
	}
	for scanned := 0; len(w.found) < w.limit && scanned < maxScanned; {
		if tears[w.next.Place] {
			if _, err := mend(w.next.Place); err != nil {
				return err
			}
		}
		rows, err := h.rows(ctx, w, min(2*w.limit+20, 500))
		if err != nil {
			return err
		}
		for i, e := range rows {
			if tears[e.Place] {
				rows = rows[:i+1]
				break
			}
		}
		scanned += len(rows)
		if done, err := h.take(ctx, w, rows); done || err != nil {
			return err
		}
		if len(rows) > 0 {
			continue
		}
		again := false
		for place := range tears {
			if again, err = mend(place); again || err != nil {
				break
			}
		}
		if !again || err != nil {
			w.more = false
			return err
		}
	}
	return nil
}

// rows reads the next part of the history.
func (h *Handlers) rows(ctx context.Context, w *walk, n int) ([]*storage.Event, error) {
	if w.backwards {
		return h.store.Events.Backwards(ctx, w.room, w.next, n)
	}
	return h.store.Events.Forwards(ctx, w.room, w.next, n)
}

// take goes over some rows. It is done when the walk has all that was asked for, or has come to where it ends.
func (h *Handlers) take(ctx context.Context, w *walk, rows []*storage.Event) (done bool, err error) {
	ended := false
	if w.to != nil {
		for i, e := range rows {
			// The event that a page names is within, whichever way it was come by.
			if w.backwards && before(e.PageOf(), *w.to) || !w.backwards && before(*w.to, e.PageOf()) {
				rows, ended = rows[:i], true
				break
			}
		}
	}
	seen, err := h.seen(ctx, w, rows)
	if err != nil {
		return false, err
	}
	var fitting []*storage.Event
	for _, e := range seen {
		if w.filter.allows(e) && (e.StateKey != nil || !w.ignored[e.Sender]) {
			fitting = append(fitting, e)
		}
	}
	if fitting, err = w.filter.among(ctx, h.store.Events, fitting); err != nil {
		return false, err
	}
	for _, e := range fitting {
		w.found = append(w.found, e)
		if len(w.found) == w.limit {
			w.next = e.PageOf()
			return true, nil
		}
	}
	if len(rows) > 0 {
		w.next = rows[len(rows)-1].PageOf()
	}
	if ended {
		w.more = false
	}
	return ended, nil
}

// tears are the places of events whose parents we lack, as far as a walk may come to them. Only for who is in the room
// they are mended.
func (h *Handlers) tears(ctx context.Context, a *access, w *walk) (map[storage.Place]bool, error) {
	found := map[storage.Place]bool{}
	if !w.backwards || !a.joined {
		return found, nil
	}
	edges, err := h.store.Rooms.Edges(ctx, w.room, 200)
	for _, e := range edges {
		if e.Place <= w.next.Place {
			found[e.Place] = true
		}
	}
	return found, err
}

// backfill asks other servers for history, and tells whether there is more of it now. That nobody answers is no fault of
// the asking client: it is shown what we hold.
func (h *Handlers) backfill(ctx context.Context, w *walk) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := h.federation(ctx, bus.FederationQuestion{Backfill: &bus.Backfill{RoomID: w.room, Limit: min(max(2*w.limit, 20), 100)}})
	if err != nil {
		zerolog.Ctx(ctx).Info().Err(err).Stringer("room_id", w.room).Msg("No history from other servers")
		return false
	}
	return answer.Events > 0
}

// senders gives the membership events of those who sent the events.
// Spec: client-server-api/#lazy-loading-room-members
func (h *Handlers) senders(ctx context.Context, v view.Viewer, events []*storage.Event) ([]json.RawMessage, error) {
	members, err := h.senderEvents(ctx, events)
	if err != nil {
		return nil, err
	}
	return h.view.Client(ctx, v, members)
}

// senderEvents are the membership events of those who sent the events, each as it was at the sender's newest.
func (h *Handlers) senderEvents(ctx context.Context, events []*storage.Event) ([]*storage.Event, error) {
	newest := map[id.UserID]*storage.Event{}
	for _, e := range events {
		if known := newest[e.Sender]; known == nil || before(known.PageOf(), e.PageOf()) {
			newest[e.Sender] = e
		}
	}
	asked := make([]storage.Lookup, 0, len(newest))
	for sender, e := range newest {
		asked = append(asked, storage.Lookup{At: e.After, Key: pdu.Key{Type: event.StateMember.Type, StateKey: string(sender)}})
	}
	numbers, err := h.store.State.Lookups(ctx, asked)
	if err != nil {
		return nil, err
	}
	return h.numbered(ctx, numbers)
}

// ignored are the users whom a user does not want to hear of.
// Spec: client-server-api/#ignoring-users
func (h *Handlers) ignored(ctx context.Context, user id.UserID) (map[id.UserID]bool, error) {
	data, err := h.store.AccountData.ByType(ctx, user, "", event.AccountDataIgnoredUserList.Type)
	if err != nil || data == nil {
		return nil, err
	}
	list := map[id.UserID]bool{}
	for name := range gjson.GetBytes(data.Content, "ignored_users").Map() {
		list[id.UserID(name)] = true
	}
	delete(list, user)
	return list, nil
}
