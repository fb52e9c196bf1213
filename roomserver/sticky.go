package roomserver

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// maxOnTrial bounds the soft-failed sticky events of a room that are judged again when its state changes.
const maxOnTrial = 200

// stickyUntil is the end of an event's stickiness that came now, in ms since 1970; 0 for one that is not sticky. It begins when the
// event was made or, where that lies ahead, when it came.
// Spec: MSC4354
func stickyUntil(ev gomatrixserverlib.PDU, now time.Time) int64 {
	if !bytes.Contains(ev.JSON(), []byte(`"msc4354_sticky"`)) {
		return 0
	}
	duration := gjson.GetBytes(ev.JSON(), "msc4354_sticky.duration_ms")
	if duration.Type != gjson.Number || duration.Num < 0 || duration.Num != float64(int64(duration.Num)) {
		return 0
	}
	start := min(now.UnixMilli(), int64(ev.OriginServerTS()))
	until := start + min(int64(duration.Num), pdu.MaxSticky)
	if until <= now.UnixMilli() {
		return 0
	}
	return until
}

// findOnTrial finds the soft-failed events that still are sticky, when the room is read into memory.
func (r *room) findOnTrial(ctx context.Context) error {
	rows, err := r.s.store.Events.StickySoftFailed(ctx, r.id, r.s.now().UnixMilli(), maxOnTrial)
	for _, e := range rows {
		r.onTrial[e.ID] = e.StickyUntil
	}
	return err
}

// reconsider judges the soft-failed sticky events anew, if this turn has changed the room's state: those that the rules now allow
// become news. State is left as it was judged: it has had its effect on what came after it.
// Spec: MSC4354
func (r *room) reconsider(ctx context.Context) error {
	if len(r.onTrial) == 0 || len(r.turn.rows.Entries) == 0 {
		return nil
	}
	now := r.s.now().UnixMilli()
	ids := make([]id.EventID, 0, len(r.onTrial))
	for event, until := range r.onTrial {
		if until <= now {
			delete(r.onTrial, event)
			continue
		}
		ids = append(ids, event)
	}
	found, err := r.get(ctx, ids)
	if err != nil {
		return err
	}
	for _, event := range ids {
		h := found[event]
		if h == nil || h.row.Standing != storage.SoftFailed || h.ev.StateKey() != nil {
			delete(r.onTrial, event)
			continue
		}
		err := r.check(ctx, h.ev, nil)
		if rule := (*pdu.AuthError)(nil); errors.As(err, &rule) {
			continue
		}
		if err != nil {
			return err
		}
		row := *h.row
		row.Standing, row.Rule = storage.Accepted, ""
		r.turn.rows.Risen = append(r.turn.rows.Risen, &row)
		r.turn.rows.RisenNews = append(r.turn.rows.RisenNews, true)
		r.events.fly(&held{h.ev, &row})
		delete(r.onTrial, event)
		zerolog.Ctx(ctx).Info().Stringer("event_id", event).Msg("Sticky event allowed after all")
	}
	return nil
}
