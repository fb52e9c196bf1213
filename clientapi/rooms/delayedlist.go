package rooms

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// delayedPage bounds a page of delayed events.
const delayedPage = 100

// delayedListing is what a client asks of its delayed events.
// Spec: MSC4140
type delayedListing struct {
	// ended: those that wait, those that ended, or both.
	ended               []bool
	room, kind, outcome string
	key                 func(*storage.DelayedEvent) int64
	backwards           bool
	// from is the last one that the client has seen; or where, in time, the list begins.
	from  *delayedPlace
	since *int64
}

// delayedPlace is where one stands in the list.
type delayedPlace struct {
	key int64
	id  string
}

// listing reads the parameters of a list. Without any, it lists what waits: clients know a list of that alone.
func (h *Handlers) listing(r *rest.Request) (*delayedListing, error) {
	q := &delayedListing{ended: []bool{false}, room: r.Query("room_id"), kind: r.Query("type"), outcome: r.Query("outcome")}
	bad := func(name string) error {
		return mautrix.MInvalidParam.WithMessage("%s has no value that is known", name)
	}
	switch r.Query("status") {
	case "", "scheduled":
	case "finalised":
		q.ended = []bool{true}
	default:
		return nil, bad("status")
	}
	switch q.outcome {
	case "":
	case storage.DelayedSent, storage.DelayedCancelled, storage.DelayedFailed:
		q.ended = []bool{true}
	default:
		return nil, bad("outcome")
	}
	due := func(d *storage.DelayedEvent) int64 { return d.Since + d.Delay }
	switch r.Query("order_by") {
	case "", "send_ts":
		q.key = due
	case "running_since":
		q.key = func(d *storage.DelayedEvent) int64 { return d.Since }
	case "origin_server_ts":
		q.key = func(d *storage.DelayedEvent) int64 { return cmp.Or(d.Finished, due(d)) }
	default:
		return nil, bad("order_by")
	}
	switch r.Query("dir") {
	case "", "f":
	case "b":
		q.backwards = true
	default:
		return nil, bad("dir")
	}
	if text := r.Query("since_ts"); text != "" && text != "end" {
		ts, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, bad("since_ts")
		}
		q.since = &ts
	}
	if text := r.Query("from"); text != "" {
		key, delay, ok := strings.Cut(text, "_")
		n, err := strconv.ParseInt(key, 10, 64)
		if !ok || err != nil {
			return nil, badToken
		}
		q.from = &delayedPlace{n, delay}
	}
	return q, nil
}

func (q *delayedListing) place(d *storage.DelayedEvent) delayedPlace {
	return delayedPlace{q.key(d), d.ID}
}

// compare orders two places as the list goes.
func (q *delayedListing) compare(a, b delayedPlace) int {
	c := cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.id, b.id))
	if q.backwards {
		return -c
	}
	return c
}

// wants tells whether the list holds the event.
func (q *delayedListing) wants(d *storage.DelayedEvent) bool {
	if q.room != "" && string(d.RoomID) != q.room || q.kind != "" && d.Type != q.kind || q.outcome != "" && d.Outcome != q.outcome {
		return false
	}
	if q.from != nil {
		return q.compare(q.place(d), *q.from) > 0
	}
	return q.since == nil || q.key(d) == *q.since || (q.key(d) > *q.since) != q.backwards
}

// page makes the answer of the user's events.
func (q *delayedListing) page(rows []*storage.DelayedEvent) any {
	rows = slices.DeleteFunc(rows, func(d *storage.DelayedEvent) bool { return !q.wants(d) })
	slices.SortFunc(rows, func(a, b *storage.DelayedEvent) int { return q.compare(q.place(a), q.place(b)) })
	answer := struct {
		Events []delayedItem `json:"delayed_events"`
		Next   string        `json:"next_batch,omitempty"`
		Prev   string        `json:"prev_batch,omitempty"`
	}{Events: []delayedItem{}}
	for i, d := range rows {
		if i == delayedPage {
			last := q.place(rows[i-1])
			token := strconv.FormatInt(last.key, 10) + "_" + last.id
			if q.backwards {
				answer.Prev = token
			} else {
				answer.Next = token
			}
			break
		}
		answer.Events = append(answer.Events, item(d))
	}
	return answer
}
