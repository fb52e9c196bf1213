package federation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// Bounds of what one question may ask.
const (
	maxBackfill      = 100
	maxMissing       = 20
	defaultMissing   = 10
	maxStartingFrom  = 50
	maxEventsToReach = 50
)

// transaction is the form in which some answers wrap PDUs.
func (f *Federation) transaction(pdus []json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"origin":%q,"origin_server_ts":%d,"pdus":`, f.name, time.Now().UnixMilli())
	array(&b, pdus)
	b.WriteByte('}')
	return b.Bytes()
}

// getEvent handles GET /_matrix/federation/v1/event/{eventId}.
// Spec: server-server-api/#get_matrixfederationv1eventeventid
func (f *Federation) getEvent(r *request) (any, error) {
	ev, err := f.store.Events.ByID(r.Context(), r.eventID())
	if err != nil {
		return nil, err
	}
	if ev == nil || ev.Standing == storage.Rejected {
		return nil, mautrix.MNotFound.WithMessage("Unknown event")
	}
	if _, err := f.room(r, ev.RoomID); err != nil {
		return nil, err
	}
	pdus, err := f.view.ForServer(r.Context(), r.origin, []*storage.Event{ev})
	if err != nil {
		return nil, err
	}
	return f.transaction(pdus), nil
}

// getState handles GET /_matrix/federation/v1/state/{roomId}.
// Spec: server-server-api/#get_matrixfederationv1stateroomid
func (f *Federation) getState(r *request) (any, error) {
	state, chain, err := f.stateBefore(r)
	if err != nil {
		return nil, err
	}
	pdus, err := f.bodies(r.Context(), state)
	if err != nil {
		return nil, err
	}
	auth, err := f.bodies(r.Context(), chain)
	if err != nil {
		return nil, err
	}
	return lists("pdus", pdus, "auth_chain", auth), nil
}

// getStateIDs handles GET /_matrix/federation/v1/state_ids/{roomId}.
// Spec: server-server-api/#get_matrixfederationv1state_idsroomid
func (f *Federation) getStateIDs(r *request) (any, error) {
	state, chain, err := f.stateBefore(r)
	if err != nil {
		return nil, err
	}
	return map[string][]id.EventID{"pdu_ids": ids(state), "auth_chain_ids": ids(chain)}, nil
}

func (f *Federation) stateBefore(r *request) (state, chain []*storage.Event, err error) {
	room, err := f.room(r, r.roomID())
	if err != nil {
		return nil, nil, err
	}
	ev, err := f.event(r.Context(), room.ID, id.EventID(r.query.Get("event_id")))
	if err != nil {
		return nil, nil, err
	}
	if state, err = f.stateAt(r.Context(), ev.Before); err != nil {
		return nil, nil, err
	}
	chain, err = f.view.AuthChain(r.Context(), room.Version, state)
	return state, chain, err
}

// getEventAuth handles GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}.
// Spec: server-server-api/#get_matrixfederationv1event_authroomideventid
func (f *Federation) getEventAuth(r *request) (any, error) {
	room, err := f.room(r, r.roomID())
	if err != nil {
		return nil, err
	}
	ev, err := f.store.Events.ByID(r.Context(), r.eventID())
	if err != nil {
		return nil, err
	}
	if ev == nil || ev.RoomID != room.ID || ev.Standing == storage.Rejected {
		return nil, mautrix.MNotFound.WithMessage("Unknown event")
	}
	chain, err := f.view.AuthChain(r.Context(), room.Version, []*storage.Event{ev})
	if err != nil {
		return nil, err
	}
	auth, err := f.bodies(r.Context(), chain)
	if err != nil {
		return nil, err
	}
	return lists("auth_chain", auth), nil
}

// getBackfill handles GET /_matrix/federation/v1/backfill/{roomId}.
// Spec: server-server-api/#get_matrixfederationv1backfillroomid
func (f *Federation) getBackfill(r *request) (any, error) {
	room, err := f.room(r, r.roomID())
	if err != nil {
		return nil, err
	}
	from := eventIDs(r.query["v"], maxStartingFrom)
	if len(from) == 0 {
		return nil, mMissingParam.WithMessage("v is missing")
	}
	events, err := f.ancestry(r.Context(), room.ID, from, true, r.limit("limit", maxBackfill, maxBackfill), never)
	if err != nil {
		return nil, err
	}
	pdus, err := f.view.ForServer(r.Context(), r.origin, events)
	if err != nil {
		return nil, err
	}
	return f.transaction(pdus), nil
}

func never(*storage.Event) bool { return false }

// getMissingEvents handles POST /_matrix/federation/v1/get_missing_events/{roomId}.
// Spec: server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (f *Federation) getMissingEvents(r *request) (any, error) {
	room, err := f.room(r, r.roomID())
	if err != nil {
		return nil, err
	}
	q := struct {
		Earliest []string `json:"earliest_events"`
		Latest   []string `json:"latest_events"`
		Limit    int      `json:"limit"`
		MinDepth int64    `json:"min_depth"`
	}{Limit: defaultMissing}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = defaultMissing
	}
	earliest := eventIDs(q.Earliest, maxEventsToReach)
	stop := func(e *storage.Event) bool { return e.Depth < q.MinDepth || slices.Contains(earliest, e.ID) }
	events, err := f.ancestry(r.Context(), room.ID, eventIDs(q.Latest, maxEventsToReach), false, min(q.Limit, maxMissing), stop)
	if err != nil {
		return nil, err
	}
	slices.Reverse(events)
	pdus, err := f.view.ForServer(r.Context(), r.origin, events)
	if err != nil {
		return nil, err
	}
	return lists("events", pdus), nil
}

// eventIDs takes at most so many.
func eventIDs(list []string, most int) []id.EventID {
	out := make([]id.EventID, min(len(list), most))
	for i := range out {
		out[i] = id.EventID(list[i])
	}
	return out
}
