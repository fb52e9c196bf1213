package roomserver

import (
	"context"
	"errors"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
)

// redacts applies a local redaction: to a target that is here, at once; else when the target comes.
// Whoever may not is told so.
// Spec: client-server-api/#redactions
func (r *room) redacts(ctx context.Context, h *held, local bool) error {
	target, err := r.target(ctx, h)
	if err != nil || h.row.Type != event.EventRedaction.Type {
		return err
	}
	if target == nil {
		if event := id.EventID(h.ev.Redacts()); event != "" {
			r.wait(event, h)
		}
		return nil
	}
	entitled, err := r.entitled(ctx, h, target, nil)
	if err != nil {
		return err
	}
	if !entitled || (local && target.row.Sender != h.row.Sender && !r.hasRedactLevel(ctx, h)) {
		return refuse(403, mautrix.MForbidden, "You may not redact this event")
	}
	r.redact(target, h)
	return nil
}

// receiveRedaction applies another server's redaction, and tells whether it is news: one whose target is unknown,
// or whose sender is not entitled, is kept back. diff is how the state before it differs from the current one.
func (r *room) receiveRedaction(ctx context.Context, h *held, diff map[pdu.Key]id.EventID) (news bool, err error) {
	if h.row.Type != event.EventRedaction.Type {
		return true, nil
	}
	target, err := r.target(ctx, h)
	if err != nil {
		return false, err
	}
	if target == nil {
		if event := id.EventID(h.ev.Redacts()); event != "" {
			r.wait(event, h)
		}
		return false, nil
	}
	entitled, err := r.entitled(ctx, h, target, diff)
	if err != nil || !entitled {
		return false, err
	}
	r.redact(target, h)
	return true, nil
}

// target gives the event that a redaction names, if it is in this room and not an outlier.
func (r *room) target(ctx context.Context, h *held) (*held, error) {
	event := id.EventID(h.ev.Redacts())
	if event == "" {
		return nil, nil
	}
	found, err := r.get(ctx, []id.EventID{event})
	if err != nil || found[event] == nil || found[event].row.Standing == storage.Rejected {
		return nil, err
	}
	return found[event], nil
}

// entitled applies the rule for redactions: the redact level in the state before the redaction, which differs so from the current one, or
// a sender of the same server as the target's.
// Spec: rooms/v11/#handling-redactions
func (r *room) entitled(ctx context.Context, h, target *held, diff map[pdu.Key]id.EventID) (bool, error) {
	if h.row.Sender.Homeserver() == target.row.Sender.Homeserver() {
		return true, nil
	}
	state := &over{now: now{ctx: ctx, r: r}, diff: diff}
	levels, err := auth.ParsePowerLevels(r.version, state.Event(createKey), state.Event(levelsKey))
	if err = errors.Join(err, state.err); err != nil {
		return false, err
	}
	return levels.User(h.row.Sender) >= levels.Redact(), nil
}

// levelsBefore gives how the power levels before a stored event differ from the current ones.
func (r *room) levelsBefore(ctx context.Context, h *held) (map[pdu.Key]id.EventID, error) {
	if h.row.Before == (storage.Snapshot{}) || h.row.Before == r.head.State {
		return nil, nil
	}
	refs, err := r.s.store.State.RefsOf(ctx, h.row.Before, []pdu.Key{levelsKey})
	if err != nil || refs[levelsKey].ID == "" {
		return nil, err
	}
	return map[pdu.Key]id.EventID{levelsKey: refs[levelsKey].ID}, nil
}

func (r *room) hasRedactLevel(ctx context.Context, h *held) bool {
	levels, err := r.levels(ctx)
	return err == nil && levels.User(h.row.Sender) >= levels.Redact()
}

func (r *room) redact(target, h *held) {
	if target.row.RedactedBy != "" {
		return
	}
	row := *target.row
	row.RedactedBy = h.row.ID
	target.row = &row
	if r.turn.rows.Redactions == nil {
		r.turn.rows.Redactions = map[id.EventID]id.EventID{}
	}
	r.turn.rows.Redactions[row.ID] = h.row.ID
}

func (r *room) wait(target id.EventID, h *held) {
	if r.turn.rows.Waiting == nil {
		r.turn.rows.Waiting = map[id.EventID]id.EventID{}
	}
	r.turn.rows.Waiting[h.row.ID] = target
	if len(r.waiting) > memorySize && r.out == 0 {
		clear(r.waiting) // storage has them
	}
	r.waiting[target] = append(r.waiting[target], h.row.ID)
}

// awaited applies the redactions that came before their target: those that were kept back become news.
func (r *room) awaited(ctx context.Context, target *held) error {
	waiting, err := r.s.store.Rooms.WaitingRedactions(ctx, target.row.ID)
	if err != nil {
		return err
	}
	for _, redaction := range r.waiting[target.row.ID] { // these may not be on disk yet
		if !slices.Contains(waiting, redaction) {
			waiting = append(waiting, redaction)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	delete(r.waiting, target.row.ID)
	found, err := r.get(ctx, waiting)
	if err != nil {
		return err
	}
	for _, redaction := range waiting {
		h := found[redaction]
		if h == nil || h.row.RoomID != r.id {
			continue
		}
		// It has waited long enough to be judged by what holds now, should its own state not be at hand.
		diff, err := r.levelsBefore(ctx, h)
		if err != nil {
			return err
		}
		entitled, err := r.entitled(ctx, h, target, diff)
		if err != nil {
			return err
		}
		r.turn.rows.Waited = append(r.turn.rows.Waited, redaction)
		if !entitled {
			continue
		}
		r.redact(target, h)
		if h.row.Position == 0 && h.row.Place == 0 {
			row := *h.row
			h.row = &row
			r.turn.rows.Risen = append(r.turn.rows.Risen, &row)
			r.turn.rows.RisenNews = append(r.turn.rows.RisenNews, true)
		}
	}
	return nil
}
