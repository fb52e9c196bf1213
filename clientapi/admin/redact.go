package admin

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// redaction is what an administrator wishes to be redacted of what a user sent.
type redaction struct {
	Rooms    []id.RoomID `json:"rooms"`
	Reason   string      `json:"reason,omitempty"`
	Limit    int         `json:"limit,omitempty"`
	UseAdmin bool        `json:"use_admin,omitempty"`
	After    int64       `json:"after_ts,omitempty"`
	Before   int64       `json:"before_ts,omitempty"`
}

// redacted is what could not be.
type redacted struct {
	Failed map[id.EventID]string `json:"failed_redactions"`
}

// maxRedacted bounds the events of one room that are looked at.
const maxRedacted = 1000

// RedactUser handles POST /_synapse/admin/v1/user/{userId}/redact. The user redacts their own events, if they are one of ours and
// it is not wished otherwise; else the administrator does.
func (h *Handlers) RedactUser(r *rest.Request) (any, error) {
	user, err := r.UserID()
	if err != nil {
		return nil, err
	}
	var wish redaction
	if err := r.JSON(&wish); err != nil {
		return nil, err
	}
	if wish.Rooms == nil {
		return nil, missing.WithMessage("rooms is missing")
	}
	if wish.Limit < 0 {
		return nil, invalid("limit is negative")
	}
	for _, room := range wish.Rooms {
		known, err := h.store.Rooms.ByID(r.Context(), room)
		if err != nil {
			return nil, err
		}
		if known == nil {
			return nil, noSuchRoom
		}
	}
	if wish.Limit == 0 {
		wish.Limit = maxRedacted
	}
	wish.UseAdmin = wish.UseAdmin || user.Homeserver() != h.server
	job := &storage.Job{ID: newJobID(), Kind: storage.JobRedactUser, Subject: string(user), By: r.By.User}
	return map[string]string{"redact_id": job.ID}, h.begin(r.Context(), job, wish)
}

// redactUser does the job. What an earlier attempt has redacted is not met again.
func (h *Handlers) redactUser(ctx context.Context, job *storage.Job) error {
	var wish redaction
	if err := json.Unmarshal(job.Wish, &wish); err != nil {
		return err
	}
	user := id.UserID(job.Subject)
	rooms := wish.Rooms
	if len(rooms) == 0 {
		list, err := h.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
		if err != nil {
			return err
		}
		for _, m := range list {
			rooms = append(rooms, m.RoomID)
		}
	}
	done := redacted{Failed: map[id.EventID]string{}}
	for _, room := range rooms {
		events, err := h.store.Events.BySender(ctx, room, user, wish.Limit)
		if err != nil {
			return err
		}
		for _, e := range events {
			if !redactable(e, &wish) {
				continue
			}
			if err := h.redact(ctx, job, &wish, e); refused(err) {
				done.Failed[e.ID] = err.Error()
			} else if err != nil {
				return err
			}
		}
		if err := h.save(ctx, job, done); err != nil {
			return err
		}
	}
	return nil
}

// redactable says whether an event holds anything that a redaction would take away and that nobody else needs: not state, but
// for a name and a picture in a membership.
func redactable(e *storage.Event, wish *redaction) bool {
	switch {
	case e.RedactedBy != "", e.Type == event.EventRedaction.Type:
		return false
	case wish.After != 0 && e.Timestamp < wish.After, wish.Before != 0 && e.Timestamp > wish.Before:
		return false
	}
	return e.StateKey == nil || e.Type == event.StateMember.Type && id.UserID(*e.StateKey) == e.Sender
}

func (h *Handlers) redact(ctx context.Context, job *storage.Job, wish *redaction, e *storage.Event) error {
	content := map[string]any{}
	if wish.Reason != "" {
		content["reason"] = wish.Reason
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	by := e.Sender
	if wish.UseAdmin {
		by = job.By
	}
	_, err = h.propose(ctx, e.RoomID, bus.Proposal{Sender: by, Type: event.EventRedaction.Type, Content: raw, Redacts: e.ID})
	return err
}

// RedactStatus handles GET /_synapse/admin/v1/user/redact_status/{redactId}.
func (h *Handlers) RedactStatus(r *rest.Request) (any, error) {
	job, err := h.job(r, "redactId", storage.JobRedactUser)
	if err != nil {
		return nil, err
	}
	var done redacted
	if err := json.Unmarshal(job.Result, &done); err != nil {
		return nil, err
	}
	if done.Failed == nil {
		done.Failed = map[id.EventID]string{}
	}
	answer := map[string]any{"status": job.Status, "failed_redactions": done.Failed}
	if job.Error != "" {
		answer["error"] = job.Error
	}
	return answer, nil
}
