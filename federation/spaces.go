package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxChildren bounds the children of a space that are told.
const maxChildren = 500

// spaceRoom is a room of a hierarchy.
type spaceRoom struct {
	*view.Summary
	Children []json.RawMessage `json:"children_state"`
}

// hierarchy handles GET /_matrix/federation/v1/hierarchy/{roomId}.
// Spec: server-server-api/#get_matrixfederationv1hierarchyroomid
func (f *Federation) hierarchy(r *request) (any, error) {
	room, err := f.spaceRoom(r, r.roomID())
	if err != nil {
		return nil, err
	}
	if room == nil {
		return nil, mautrix.MNotFound.WithMessage("Unknown room, or one that you may not see")
	}
	answer := struct {
		Room         *spaceRoom   `json:"room"`
		Children     []*spaceRoom `json:"children"`
		Inaccessible []id.RoomID  `json:"inaccessible_children"`
	}{room, []*spaceRoom{}, []id.RoomID{}}
	for i, child := range room.Children {
		if i >= maxChildren {
			break
		}
		if r.query.Get("suggested_only") == "true" && !gjson.GetBytes(child, "content.suggested").Bool() {
			continue
		}
		childID := id.RoomID(gjson.GetBytes(child, "state_key").Str)
		known, err := f.store.Rooms.ByID(r.Context(), childID)
		if err != nil {
			return nil, err
		}
		if known == nil || !known.Joined {
			continue // the asker has to ask others
		}
		seen, err := f.spaceRoom(r, childID)
		if err != nil {
			return nil, err
		}
		if seen == nil {
			answer.Inaccessible = append(answer.Inaccessible, childID)
			continue
		}
		answer.Children = append(answer.Children, seen)
	}
	return answer, nil
}

// spaceRoom gives a room of ours as the asking server may see it, nil if it may not.
func (f *Federation) spaceRoom(r *request, roomID id.RoomID) (*spaceRoom, error) {
	room, err := f.store.Rooms.ByID(r.Context(), roomID)
	if err != nil || room == nil || !room.Joined {
		return nil, err
	}
	summary, err := f.view.Summary(r.Context(), roomID)
	if err != nil || summary == nil {
		return nil, err
	}
	if ok, err := f.maySee(r, summary); err != nil || !ok {
		return nil, err
	}
	children, err := f.store.State.OfType(r.Context(), room.State, "m.space.child")
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, n := range children {
		numbers = append(numbers, n)
	}
	events, err := f.store.Events.ByNumbers(r.Context(), numbers)
	if err != nil {
		return nil, err
	}
	out := &spaceRoom{summary, []json.RawMessage{}}
	for _, e := range events {
		if !gjson.GetBytes(e.JSON, "content.via").IsArray() {
			continue // a child that was taken out
		}
		raw, err := strippedChild(e)
		if err != nil {
			return nil, err
		}
		out.Children = append(out.Children, raw)
	}
	return out, nil
}

func strippedChild(e *storage.Event) (json.RawMessage, error) {
	return json.Marshal(struct {
		Type      string          `json:"type"`
		StateKey  string          `json:"state_key"`
		Sender    id.UserID       `json:"sender"`
		Timestamp int64           `json:"origin_server_ts"`
		Content   json.RawMessage `json:"content"`
	}{e.Type, *e.StateKey, e.Sender, e.Timestamp, json.RawMessage(gjson.GetBytes(e.JSON, "content").Raw)})
}

// maySee says whether a server's users could join the room, knock on it or read it; or are in it, or in one that opens it.
func (f *Federation) maySee(r *request, s *view.Summary) (bool, error) {
	if f.checkACL(r.Context(), s.RoomID, r.origin) != nil {
		return false, nil
	}
	if s.Public() || s.Knockable() || s.WorldReadable {
		return true, nil
	}
	for _, room := range append([]id.RoomID{s.RoomID}, s.AllowedRooms...) {
		in, err := f.store.Rooms.HasServer(r.Context(), room, r.origin)
		if err != nil || in {
			return in, err
		}
	}
	return false, nil
}

// askHierarchy asks for a space's children, one server after another.
func (f *Federation) askHierarchy(ctx context.Context, q *bus.Hierarchy) (json.RawMessage, error) {
	return f.askAny(ctx, q.Servers, remote.Request{
		Method: http.MethodGet, Path: []string{"v1", "hierarchy", string(q.RoomID)}, Query: url.Values{"suggested_only": {strconv.FormatBool(q.SuggestedOnly)}},
	})
}

// timestampToEvent handles GET /_matrix/federation/v1/timestamp_to_event/{roomId}.
// Spec: server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (f *Federation) timestampToEvent(r *request) (any, error) {
	room, err := f.room(r, r.roomID())
	if err != nil {
		return nil, err
	}
	ts, err := strconv.ParseInt(r.query.Get("ts"), 10, 64)
	dir := r.query.Get("dir")
	if err != nil || dir != "f" && dir != "b" {
		return nil, mautrix.MInvalidParam.WithMessage("ts must be a number, dir f or b")
	}
	found, err := f.store.Events.NearTime(r.Context(), room.ID, ts, dir == "f", 1)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, mautrix.MNotFound.WithMessage("No event on that side of the time")
	}
	return map[string]any{"event_id": found[0].ID, "origin_server_ts": found[0].Timestamp}, nil
}

// askTimestamp asks for the event nearest to a time, one server after another.
func (f *Federation) askTimestamp(ctx context.Context, q *bus.TimestampToEvent) (json.RawMessage, error) {
	dir := "b"
	if q.Forwards {
		dir = "f"
	}
	return f.askAny(ctx, q.Servers, remote.Request{
		Method: http.MethodGet, Path: []string{"v1", "timestamp_to_event", string(q.RoomID)},
		Query: url.Values{"ts": {strconv.FormatInt(q.Timestamp, 10)}, "dir": {dir}},
	})
}

// maxTried bounds how many servers are asked the same.
const maxTried = 5

// askAny asks servers in turn until one answers.
func (f *Federation) askAny(ctx context.Context, servers []string, q remote.Request) (json.RawMessage, error) {
	last := error(bus.Refuse(http.StatusNotFound, "M_NOT_FOUND", "No server is known that could answer"))
	for i, server := range servers {
		if i >= maxTried || ctx.Err() != nil {
			break
		}
		if server == f.name {
			continue
		}
		q.Server = server
		raw, err := f.ask(ctx, q)
		if err == nil {
			return raw, nil
		}
		last = err
	}
	return nil, last
}
