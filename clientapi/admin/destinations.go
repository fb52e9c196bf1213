package admin

import (
	"cmp"
	"slices"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// shownDestination is another server as Synapse's tools read it. How far it has been sent the stream is not kept by server:
// those that keep up share one cursor.
type shownDestination struct {
	Destination string            `json:"destination"`
	RetryLast   int64             `json:"retry_last_ts"`
	Interval    int64             `json:"retry_interval"`
	Failure     *int64            `json:"failure_ts"`
	Sent        *storage.Position `json:"last_successful_stream_ordering"`
}

func interval(d *storage.Destination) int64 { return max(0, d.RetryAt-d.FailedAt) }

func showDestination(d *storage.Destination) shownDestination {
	s := shownDestination{Destination: d.Server}
	if d.Failures > 0 {
		s.RetryLast, s.Interval, s.Failure = d.FailedAt, interval(d), &d.FailsSince
	}
	return s
}

var destinationOrders = map[string]func(a, b *storage.Destination) int{
	"destination":                     func(a, b *storage.Destination) int { return 0 },
	"retry_last_ts":                   func(a, b *storage.Destination) int { return cmp.Compare(a.FailedAt, b.FailedAt) },
	"retry_interval":                  func(a, b *storage.Destination) int { return cmp.Compare(interval(a), interval(b)) },
	"failure_ts":                      func(a, b *storage.Destination) int { return cmp.Compare(a.FailsSince, b.FailsSince) },
	"last_successful_stream_ordering": func(a, b *storage.Destination) int { return 0 },
}

// Destinations handles GET /_synapse/admin/v1/federation/destinations.
func (h *Handlers) Destinations(r *rest.Request) (any, error) {
	backward, offset, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	by := r.Query("order_by")
	if by == "" {
		by = "destination"
	}
	compare := destinationOrders[by]
	if compare == nil {
		return nil, invalid("Destinations cannot be put in order by %q", by)
	}
	list, err := h.store.Destinations.All(r.Context(), h.server)
	if err != nil {
		return nil, err
	}
	if part := strings.ToLower(r.Query("destination")); part != "" {
		list = slices.DeleteFunc(list, func(d *storage.Destination) bool { return !strings.Contains(strings.ToLower(d.Server), part) })
	}
	slices.SortStableFunc(list, compare)
	if backward {
		slices.Reverse(list)
	}
	shown := []shownDestination{}
	for _, d := range cut(list, offset, limit) {
		shown = append(shown, showDestination(d))
	}
	return paged(map[string]any{"destinations": shown, "total": len(list)}, offset, len(shown), len(list), true), nil
}

// cut takes a page out of a list.
func cut[T any](list []T, offset, limit int) []T {
	offset = min(offset, len(list))
	return list[offset:min(offset+limit, len(list))]
}

// destination finds {destination}: a server that we have to do with.
func (h *Handlers) destination(r *rest.Request) (*storage.Destination, error) {
	name := r.Path("destination")
	d, err := h.store.Destinations.ByName(r.Context(), name)
	if err != nil || d != nil {
		return d, err
	}
	spans, err := h.store.Rooms.SpansOf(r.Context(), name)
	if err == nil && (len(spans) == 0 || name == h.server) {
		err = mautrix.MNotFound.WithMessage("We have nothing to do with such a server")
	}
	return &storage.Destination{Server: name}, err
}

// Destination handles GET /_synapse/admin/v1/federation/destinations/{destination}.
func (h *Handlers) Destination(r *rest.Request) (any, error) {
	d, err := h.destination(r)
	if err != nil {
		return nil, err
	}
	return showDestination(d), nil
}

// DestinationRooms handles GET /_synapse/admin/v1/federation/destinations/{destination}/rooms.
func (h *Handlers) DestinationRooms(r *rest.Request) (any, error) {
	d, err := h.destination(r)
	if err != nil {
		return nil, err
	}
	backward, offset, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	spans, err := h.store.Rooms.SpansOf(r.Context(), d.Server)
	if err != nil {
		return nil, err
	}
	type sharing struct {
		RoomID id.RoomID        `json:"room_id"`
		Since  storage.Position `json:"stream_ordering"`
	}
	list := []sharing{}
	for _, s := range spans {
		if s.Until == 0 {
			list = append(list, sharing{s.RoomID, s.Since})
		}
	}
	slices.SortFunc(list, func(a, b sharing) int { return cmp.Compare(a.RoomID, b.RoomID) })
	if backward {
		slices.Reverse(list)
	}
	shown := cut(list, offset, limit)
	return paged(map[string]any{"rooms": shown, "total": len(list)}, offset, len(shown), len(list), true), nil
}

// ResetDestination handles POST /_synapse/admin/v1/federation/destinations/{destination}/reset_connection: it is tried at once.
func (h *Handlers) ResetDestination(r *rest.Request) (any, error) {
	d, err := h.destination(r)
	if err != nil {
		return nil, err
	}
	if d.Failures == 0 {
		return nil, mautrix.MUnknown.WithStatus(400).WithMessage("The last attempt to reach this server went well")
	}
	if err := h.bus.Away(); err != nil {
		return nil, err
	}
	return rest.Empty, bus.Tell(h.bus, bus.Alive(d.Server), d.Server)
}
