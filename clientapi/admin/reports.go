package admin

import (
	"encoding/json"
	"strconv"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

type shownReport struct {
	ID       int64           `json:"id"`
	Received int64           `json:"received_ts"`
	RoomID   id.RoomID       `json:"room_id"`
	EventID  id.EventID      `json:"event_id"`
	By       id.UserID       `json:"user_id"`
	Reason   string          `json:"reason"`
	Score    *int64          `json:"score"`
	Sender   id.UserID       `json:"sender"`
	Name     *string         `json:"name"`
	Alias    *string         `json:"canonical_alias"`
	Event    json.RawMessage `json:"event_json,omitempty"`
}

func (h *Handlers) showReports(r *rest.Request, reports []*storage.Report) ([]shownReport, error) {
	shown := make([]shownReport, len(reports))
	names := map[id.RoomID]*shownRoom{}
	for i, p := range reports {
		room, known := names[p.RoomID]
		if !known {
			found, err := h.store.Rooms.ByID(r.Context(), p.RoomID)
			if err != nil {
				return nil, err
			}
			if found != nil {
				described, err := h.describe(r.Context(), []*storage.Room{found})
				if err != nil {
					return nil, err
				}
				room = described[0]
			}
			names[p.RoomID] = room
		}
		shown[i] = shownReport{ID: p.Number, Received: p.Received, RoomID: p.RoomID, EventID: p.EventID, By: p.By, Reason: p.Reason, Score: p.Score, Sender: p.UserID}
		if room != nil {
			shown[i].Name, shown[i].Alias = room.Name, room.Alias
		}
	}
	return shown, nil
}

// EventReports handles GET /_synapse/admin/v1/event_reports, the newest first.
func (h *Handlers) EventReports(r *rest.Request) (any, error) {
	backward, offset, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	q := storage.ReportQuery{
		Forward: !backward && r.Query("dir") != "", Offset: offset, Limit: limit,
		By: r.Query("user_id"), Room: r.Query("room_id"), Sender: id.UserID(r.Query("sender_user_id")),
	}
	found, total, err := h.store.Reports.Find(r.Context(), q)
	if err != nil {
		return nil, err
	}
	shown, err := h.showReports(r, found)
	return paged(map[string]any{"event_reports": shown, "total": total}, offset, len(shown), total, false), err
}

// report finds {reportId}.
func (h *Handlers) report(r *rest.Request) (*storage.Report, error) {
	number, err := strconv.ParseInt(r.Path("reportId"), 10, 64)
	if err != nil || number < 0 {
		return nil, invalid("The ID of a report is a number")
	}
	p, err := h.store.Reports.ByNumber(r.Context(), number)
	if err == nil && p == nil {
		err = mautrix.MNotFound.WithMessage("There is no such report")
	}
	return p, err
}

// EventReport handles GET /_synapse/admin/v1/event_reports/{reportId}.
func (h *Handlers) EventReport(r *rest.Request) (any, error) {
	p, err := h.report(r)
	if err != nil {
		return nil, err
	}
	shown, err := h.showReports(r, []*storage.Report{p})
	if err != nil {
		return nil, err
	}
	e, err := h.store.Events.ByID(r.Context(), p.EventID)
	if e != nil {
		shown[0].Event = e.JSON
	}
	return shown[0], err
}

// DeleteEventReport handles DELETE /_synapse/admin/v1/event_reports/{reportId}.
func (h *Handlers) DeleteEventReport(r *rest.Request) (any, error) {
	p, err := h.report(r)
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.store.Reports.Delete(r.Context(), p.Number)
}
