package rooms

import (
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// maxReason bounds a report's text.
const maxReason = 2000

// report reads the body, and keeps the report for the administrators.
func (h *Handlers) report(r *rest.Request, report storage.Report) (any, error) {
	var body struct {
		Reason string `json:"reason"`
		Score  *int64 `json:"score"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if len(body.Reason) > maxReason {
		return nil, mautrix.MInvalidParam.WithMessage("The reason is too long")
	}
	report.By, report.Reason, report.Score = r.By.User, body.Reason, body.Score
	return rest.Empty, h.store.Reports.Add(r.Context(), &report)
}

// ReportEvent handles POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}.
// Spec: client-server-api/#post_matrixclientv3roomsroomidreporteventid
func (h *Handlers) ReportEvent(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	e, err := h.visibleEvent(r.Context(), r.By.User, roomID, eventID)
	if err != nil {
		return nil, err
	}
	return h.report(r, storage.Report{RoomID: roomID, EventID: eventID, UserID: e.Sender})
}

// ReportRoom handles POST /_matrix/client/v3/rooms/{roomId}/report. Whether there is such a room is not told.
// Spec: client-server-api/#post_matrixclientv3roomsroomidreport
func (h *Handlers) ReportRoom(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	return h.report(r, storage.Report{RoomID: roomID})
}

// ReportUser handles POST /_matrix/client/v3/users/{userId}/report. Whether there is such a user is not told.
// Spec: client-server-api/#post_matrixclientv3usersuseridreport
func (h *Handlers) ReportUser(r *rest.Request) (any, error) {
	user := id.UserID(r.Path("userId"))
	if !rest.ValidUserID(user) {
		return nil, mautrix.MInvalidParam.WithMessage("This is not a user ID")
	}
	return h.report(r, storage.Report{UserID: user})
}
