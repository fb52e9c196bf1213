package rooms

import (
	"context"
	"encoding/json"
	"math"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	// maxRecursion is how deep relations of relations are followed.
	maxRecursion = 3
	// maxRelated bounds the relations that are looked through for one answer.
	maxRelated = 5000
)

// Relations handles GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}, and its forms with a type of relation and
// a type of event.
// Spec: client-server-api/#get_matrixclientv1roomsroomidrelationseventid
func (h *Handlers) Relations(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	w, err := walkOf(r, roomID, "b")
	if err != nil {
		return nil, err
	}
	recurse, err := r.Bool("recurse")
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if _, err := h.read(ctx, r.By.User, roomID); err != nil {
		return nil, err
	}
	if _, err := h.visibleEvent(ctx, r.By.User, roomID, eventID); err != nil {
		return nil, err
	}
	depth := 1
	if recurse {
		depth = maxRecursion
	}
	related, err := h.related(ctx, roomID, eventID, depth)
	if err != nil {
		return nil, err
	}
	rows := related[:0]
	for _, e := range related {
		if rel := r.Path("relType"); rel != "" && e.RelType != rel {
			continue
		}
		if typ := r.Path("eventType"); typ != "" && e.Type != typ {
			continue
		}
		rows = append(rows, e)
	}
	if err := h.pageOf(ctx, w, rows); err != nil {
		return nil, err
	}
	answer := struct {
		Chunk []json.RawMessage `json:"chunk"`
		Next  string            `json:"next_batch,omitempty"`
		Prev  string            `json:"prev_batch,omitempty"`
		Depth int               `json:"recursion_depth,omitempty"`
	}{Prev: r.Query("from")}
	if w.more {
		answer.Next = w.next.String()
	}
	if recurse {
		answer.Depth = maxRecursion
	}
	answer.Chunk, err = h.view.Client(ctx, viewer(r), w.found)
	answer.Chunk = emptied(answer.Chunk)
	return answer, err
}

// related gathers what relates to the event, and to that, down to a depth, in the order of the room.
func (h *Handlers) related(ctx context.Context, roomID id.RoomID, eventID id.EventID, depth int) ([]*storage.Event, error) {
	parents, known := []id.EventID{eventID}, map[id.EventID]bool{eventID: true}
	var related []*storage.Event
	for ; depth > 0 && len(parents) > 0 && len(related) < maxRelated; depth-- {
		children, err := h.store.Events.Children(ctx, roomID, parents, maxRelated)
		if err != nil {
			return nil, err
		}
		parents = parents[:0]
		for _, e := range children {
			if !known[e.ID] {
				known[e.ID] = true
				parents, related = append(parents, e.ID), append(related, e)
			}
		}
	}
	slices.SortFunc(related, func(a, b *storage.Event) int {
		if before(a.PageOf(), b.PageOf()) {
			return -1
		}
		return 1
	})
	return related, nil
}

// pageOf takes from rows, which stand in the order of the room, what the walk asks for.
func (h *Handlers) pageOf(ctx context.Context, w *walk, rows []*storage.Event) error {
	if w.backwards {
		slices.Reverse(rows)
	}
	var ahead []*storage.Event
	for _, e := range rows {
		if w.backwards && before(e.PageOf(), w.from) || !w.backwards && before(w.from, e.PageOf()) {
			ahead = append(ahead, e)
		}
	}
	w.limit = max(w.limit, 1)
	done, err := h.take(ctx, w, ahead)
	w.more = done && len(w.found) == w.limit && w.found[w.limit-1] != ahead[len(ahead)-1]
	return err
}

// Threads handles GET /_matrix/client/v1/rooms/{roomId}/threads.
// Spec: client-server-api/#get_matrixclientv1roomsroomidthreads
func (h *Handlers) Threads(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	var participant id.UserID
	switch r.Query("include") {
	case "", "all":
	case "participated":
		participant = r.By.User
	default:
		return nil, mautrix.MInvalidParam.WithMessage("include is neither all nor participated")
	}
	from := storage.Page{Place: math.MaxInt64}
	if token := r.Query("from"); token != "" {
		if from, err = storage.ParsePage(token); err != nil {
			return nil, badToken
		}
	}
	limit, err := r.Int("limit", 20, 1, 100)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if _, err := h.read(ctx, r.By.User, roomID); err != nil {
		return nil, err
	}
	threads, err := h.store.Events.Threads(ctx, roomID, participant, from.Place, limit)
	if err != nil {
		return nil, err
	}
	roots, err := h.rootsOf(ctx, r.By.User, roomID, threads)
	if err != nil {
		return nil, err
	}
	answer := struct {
		Chunk []json.RawMessage `json:"chunk"`
		Next  string            `json:"next_batch,omitempty"`
	}{}
	if len(threads) == limit {
		answer.Next = storage.Page{Place: threads[limit-1].Latest}.String()
	}
	answer.Chunk, err = h.view.Client(ctx, viewer(r), roots)
	answer.Chunk = emptied(answer.Chunk)
	return answer, err
}

// rootsOf gives the roots of the threads that the user may see, in their order.
func (h *Handlers) rootsOf(ctx context.Context, user id.UserID, roomID id.RoomID, threads []storage.Thread) ([]*storage.Event, error) {
	ids := make([]id.EventID, len(threads))
	for i, t := range threads {
		ids[i] = t.Root
	}
	events, err := h.store.Events.ByIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[id.EventID]*storage.Event, len(events))
	for _, e := range events {
		byID[e.ID] = e
	}
	var roots []*storage.Event
	for _, root := range ids {
		if e := byID[root]; e != nil && e.RoomID == roomID {
			roots = append(roots, e)
		}
	}
	return h.view.Visible(ctx, user, roots)
}

// TimestampToEvent handles GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event.
// Spec: client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
func (h *Handlers) TimestampToEvent(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	ts, err := r.Int("ts", -1, 0, math.MaxInt)
	if err != nil {
		return nil, err
	}
	dir := r.Query("dir")
	if ts < 0 || dir != "f" && dir != "b" {
		return nil, mautrix.MInvalidParam.WithMessage("ts and dir (f or b) are needed")
	}
	ctx := r.Context()
	a, err := h.read(ctx, r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	near, err := h.store.Events.NearTime(ctx, roomID, int64(ts), dir == "f", 50)
	if err != nil {
		return nil, err
	}
	seen, err := h.view.Visible(ctx, r.By.User, near)
	if err != nil {
		return nil, err
	}
	var found *nearest
	if len(seen) > 0 {
		found = &nearest{seen[0].ID, seen[0].Timestamp}
	}
	if a.joined {
		found = h.nearestElsewhere(ctx, roomID, int64(ts), dir == "f", found)
	}
	if found == nil {
		return nil, mautrix.MNotFound.WithMessage("There is no event on that side of the time")
	}
	return found, nil
}

// nearest is the event nearest to a time.
type nearest struct {
	EventID   id.EventID `json:"event_id"`
	Timestamp int64      `json:"origin_server_ts"`
}

// nearestElsewhere asks the room's other servers where our history is torn, and gives theirs if it is nearer.
func (h *Handlers) nearestElsewhere(ctx context.Context, roomID id.RoomID, ts int64, forwards bool, ours *nearest) *nearest {
	edges, err := h.store.Rooms.Edges(ctx, roomID, 1)
	if err != nil || len(edges) == 0 {
		return ours
	}
	servers, err := h.store.Rooms.ServersNow(ctx, roomID)
	if err != nil {
		return ours
	}
	servers = h.others(servers)
	if len(servers) == 0 {
		return ours
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := h.federation(ctx, bus.FederationQuestion{Timestamp: &bus.TimestampToEvent{RoomID: roomID, Servers: servers, Timestamp: ts, Forwards: forwards}})
	if err != nil {
		return ours
	}
	var theirs nearest
	if json.Unmarshal(answer.Body, &theirs) != nil || theirs.EventID == "" {
		return ours
	}
	distance := func(n *nearest) int64 { return max(n.Timestamp-ts, ts-n.Timestamp) }
	if ours != nil && distance(ours) <= distance(&theirs) {
		return ours
	}
	h.reach(ctx, roomID, theirs.EventID)
	return &theirs
}

// reach fetches history until it holds the event, so that the client can look around it; it gives up after a while.
// Spec: server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (h *Handlers) reach(ctx context.Context, roomID id.RoomID, eventID id.EventID) {
	for range maxBackfills {
		e, err := h.store.Events.ByID(ctx, eventID)
		if err != nil || e != nil && e.Place != 0 || !h.backfill(ctx, &walk{room: roomID, limit: maxPage}) {
			return
		}
	}
}
