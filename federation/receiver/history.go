package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// The bounds of asking for history.
const (
	maxBackfill     = 100
	maxEdges        = 20
	backfillServers = 5
)

// Backfill fetches history before what we hold of a room, and tells how many events came in. It is none if nobody has any.
// Spec: server-server-api/#backfilling-and-retrieving-missing-events
func (r *Receiver) Backfill(ctx context.Context, roomID id.RoomID, limit int) (int, error) {
	if limit <= 0 || limit > maxBackfill {
		limit = maxBackfill
	}
	version, err := r.view.Version(ctx, roomID)
	if err != nil {
		return 0, err
	}
	edges, err := r.store.Rooms.Edges(ctx, roomID, maxEdges)
	if err != nil || len(edges) == 0 || version == "" {
		return 0, err
	}
	servers, err := r.store.Rooms.ServersNow(ctx, roomID)
	if err != nil {
		return 0, err
	}
	var last error
	for i, server := range r.others(servers) {
		if i >= backfillServers || ctx.Err() != nil {
			break
		}
		n, err := r.backfillFrom(ctx, server, version, roomID, edges, limit)
		if err == nil && n > 0 {
			return n, nil
		}
		if last = err; err != nil {
			zerolog.Ctx(ctx).Info().Err(err).Str("server", server).Stringer("room_id", roomID).Msg("No history from this server")
		}
	}
	return 0, last
}

func (r *Receiver) others(servers []string) []string {
	return slices.DeleteFunc(slices.Clone(servers), func(s string) bool { return s == r.client.ServerName() })
}

func (r *Receiver) backfillFrom(ctx context.Context, server string, version id.RoomVersion, room id.RoomID, edges []storage.Edge, limit int) (int, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, e := range edges {
		if !slices.Contains(query["v"], string(e.Missing)) {
			query.Add("v", string(e.Missing))
		}
	}
	var answer struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	err := r.client.Ask(ctx, remote.Request{Server: server, Method: http.MethodGet, Path: []string{"v1", "backfill", string(room)}, Query: query}, &answer)
	if err != nil {
		return 0, err
	}
	if len(answer.PDUs) > 2*maxBackfill {
		return 0, fmt.Errorf("%d events for a question for %d", len(answer.PDUs), limit)
	}
	believed, _ := r.ring.Believe(ctx, version, room, answer.PDUs)
	events := slices.DeleteFunc(believed, func(ev gomatrixserverlib.PDU) bool { return ev == nil })
	if len(events) == 0 {
		return 0, nil
	}
	slices.SortStableFunc(events, func(x, y gomatrixserverlib.PDU) int { return int(min(max(x.Depth()-y.Depth(), -1), 1)) })
	return r.takeHistory(ctx, server, version, room, events)
}

// takeHistory hands events of the past to the room, the oldest first, with the state before the oldest.
func (r *Receiver) takeHistory(ctx context.Context, server string, version id.RoomVersion, room id.RoomID, events []gomatrixserverlib.PDU) (int, error) {
	var snapshot int64
	if len(events[0].PrevEventIDs()) > 0 {
		var err error
		if snapshot, err = r.only(server, version, room).stateBefore(ctx, events[0]); err != nil {
			return 0, fmt.Errorf("state before the history: %w", err)
		}
	}
	taken := 0
	for len(events) > 0 {
		n, size := 0, 0
		q := &bus.Received{Origin: server, Version: version, Snapshot: snapshot, Backfill: true}
		for n < len(events) && (n == 0 || size+len(events[n].JSON()) <= runBytes) {
			size += len(events[n].JSON())
			q.PDUs = append(q.PDUs, events[n].JSON())
			n++
		}
		events = events[n:]
		answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, r.bus, bus.RoomDo(room), bus.RoomQuestion{Receive: q})
		if err != nil {
			return taken, fmt.Errorf("ask room %s: %w", room, err)
		}
		for _, o := range answer.Outcomes {
			if o.Verdict == bus.Accepted && !o.Already {
				taken++
			}
		}
	}
	return taken, nil
}

// FetchEvent fetches one event of a room as an outlier, and tells whether it came (1) or not (0).
func (r *Receiver) FetchEvent(ctx context.Context, q *bus.FetchEvent) (int, error) {
	version, err := r.view.Version(ctx, q.RoomID)
	if err != nil || version == "" || !pdu.ValidEventID(version, string(q.EventID)) {
		return 0, err
	}
	servers := q.Servers
	if len(servers) == 0 {
		if servers, err = r.store.Rooms.ServersNow(ctx, q.RoomID); err != nil {
			return 0, err
		}
	}
	for i, server := range r.others(servers) {
		if i >= backfillServers || ctx.Err() != nil {
			break
		}
		raws := r.only(server, version, q.RoomID).oneByOne(ctx, []id.EventID{q.EventID})
		events, _ := r.ring.Believe(ctx, version, q.RoomID, raws)
		if len(events) != 1 || events[0] == nil || id.EventID(events[0].EventID()) != q.EventID {
			continue
		}
		_, err := remote.StoreOutliers(ctx, r.store, events)
		return 1, err
	}
	return 0, nil
}

// only makes an inquiry that asks one server alone.
func (r *Receiver) only(server string, version id.RoomVersion, room id.RoomID) *inquiry {
	return &inquiry{r: r, version: version, room: room, origin: server, sources: []string{server}, bytes: gapBytes, states: maxStates}
}
