package rooms

import (
	"context"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// overseen is how far an administrator reads a room: all of it that is held here, in it or not.
func (h *Handlers) overseen(r *rest.Request) (*access, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	room, err := h.store.Rooms.ByID(r.Context(), roomID)
	if err != nil {
		return nil, err
	}
	if room == nil {
		return nil, mautrix.MNotFound.WithMessage("There is no such room")
	}
	return &access{room: room, state: room.State, overseen: true}, nil
}

// OverseenMessages handles GET /_synapse/admin/v1/rooms/{roomId}/messages.
func (h *Handlers) OverseenMessages(r *rest.Request) (any, error) {
	a, err := h.overseen(r)
	if err != nil {
		return nil, err
	}
	return h.messages(r, a, "f")
}

// OverseenContext handles GET /_synapse/admin/v1/rooms/{roomId}/context/{eventId}.
func (h *Handlers) OverseenContext(r *rest.Request) (any, error) {
	a, err := h.overseen(r)
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	e, err := h.store.Events.ByID(r.Context(), eventID)
	if err != nil {
		return nil, err
	}
	if e == nil || e.RoomID != a.room.ID || e.Place == 0 {
		return nil, noSuchEvent
	}
	return h.context(r, a, e)
}

// OverseenNearTime handles GET /_synapse/admin/v1/rooms/{roomId}/timestamp_to_event.
func (h *Handlers) OverseenNearTime(r *rest.Request) (any, error) {
	a, err := h.overseen(r)
	if err != nil {
		return nil, err
	}
	if r.Query("ts") == "" {
		return nil, missingParam.WithMessage("ts is missing")
	}
	ms, err := r.Int("ts", 0, 0, 1<<53)
	if err != nil {
		return nil, err
	}
	found, err := h.store.Events.NearTime(r.Context(), a.room.ID, int64(ms), r.Query("dir") != "b", 1)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, mautrix.MNotFound.WithMessage("There is no event on that side of the time")
	}
	return map[string]any{"event_id": found[0].ID, "origin_server_ts": found[0].Timestamp}, nil
}

// seen keeps what the walk's reader may see.
func (h *Handlers) seen(ctx context.Context, w *walk, rows []*storage.Event) ([]*storage.Event, error) {
	if !w.overseen {
		return h.view.Visible(ctx, w.user, rows)
	}
	var shown []*storage.Event
	for _, e := range rows {
		if e.Standing == storage.Accepted {
			shown = append(shown, e)
		}
	}
	return shown, nil
}
