package admin

import (
	"context"
	"encoding/json"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// purging is what an administrator wishes to go of a room's history.
type purging struct {
	Before storage.Place `json:"before"`
	Local  bool          `json:"local"`
}

// PurgeHistory handles POST /_synapse/admin/v1/purge_history/{roomId} and .../{eventId}: what is shown before the event, or was
// sent before the time, goes; state and, unless that is wished, what our own users sent stays, unseen.
func (h *Handlers) PurgeHistory(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Local   bool       `json:"delete_local_events"`
		EventID id.EventID `json:"purge_up_to_event_id"`
		Time    *int64     `json:"purge_up_to_ts"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if path := r.Path("eventId"); path != "" {
		body.EventID = id.EventID(path)
	}
	wish := purging{Local: body.Local}
	switch {
	case body.EventID != "":
		wish.Before, err = h.placeOf(r.Context(), room.ID, body.EventID)
	case body.Time != nil:
		wish.Before, err = h.placeAt(r.Context(), room.ID, *body.Time)
	default:
		err = missing.WithMessage("purge_up_to_event_id or purge_up_to_ts is missing")
	}
	if err != nil {
		return nil, err
	}
	earlier, err := h.store.Jobs.About(r.Context(), storage.JobPurgeHistory, string(room.ID), 100)
	if err != nil {
		return nil, err
	}
	for _, job := range earlier {
		if job.Finished == 0 {
			return nil, mautrix.MUnknown.WithStatus(400).WithMessage("History of this room is being purged already")
		}
	}
	job := &storage.Job{ID: newJobID(), Kind: storage.JobPurgeHistory, Subject: string(room.ID), By: r.By.User}
	return map[string]string{"purge_id": job.ID}, h.begin(r.Context(), job, wish)
}

func (h *Handlers) placeOf(ctx context.Context, room id.RoomID, event id.EventID) (storage.Place, error) {
	e, err := h.store.Events.ByID(ctx, event)
	switch {
	case err != nil:
		return 0, err
	case e == nil:
		return 0, mautrix.MNotFound.WithMessage("There is no such event")
	case e.RoomID != room:
		return 0, invalid("The event is in another room")
	case e.Place == 0:
		return 0, invalid("The event is not part of the shown history")
	}
	return e.Place, nil
}

// placeAt is the place of the first event that was sent at the time or after it.
func (h *Handlers) placeAt(ctx context.Context, room id.RoomID, ms int64) (storage.Place, error) {
	earlier, err := h.store.Events.NearTime(ctx, room, ms, false, 1)
	if err != nil {
		return 0, err
	}
	if len(earlier) == 0 {
		return 0, mautrix.MNotFound.WithMessage("Nothing was sent before that time")
	}
	later, err := h.store.Events.NearTime(ctx, room, ms, true, 1)
	if err != nil {
		return 0, err
	}
	if len(later) == 0 {
		return earlier[0].Place, nil // the newest event stays
	}
	return later[0].Place, nil
}

// purgeHistory does the job.
func (h *Handlers) purgeHistory(ctx context.Context, job *storage.Job) error {
	var wish purging
	if err := json.Unmarshal(job.Wish, &wish); err != nil {
		return err
	}
	removed, err := h.slices(ctx, func(ctx context.Context) (bus.Outcome, error) {
		return h.ask(ctx, id.RoomID(job.Subject), bus.RoomQuestion{Purge: &bus.Purge{Before: int64(wish.Before), Local: wish.Local}})
	})
	if err == nil {
		zerolog.Ctx(ctx).Info().Int("events", removed).Msg("History purged")
	}
	return err
}

// PurgeStatus handles GET /_synapse/admin/v1/purge_history_status/{purgeId}.
func (h *Handlers) PurgeStatus(r *rest.Request) (any, error) {
	job, err := h.job(r, "purgeId", storage.JobPurgeHistory)
	if err != nil {
		return nil, err
	}
	status := job.Status
	if status == storage.JobScheduled {
		status = storage.JobActive // the tools know three words here
	}
	answer := map[string]string{"status": status}
	if job.Error != "" {
		answer["error"] = job.Error
	}
	return answer, nil
}
