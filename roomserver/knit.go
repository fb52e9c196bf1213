package roomserver

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/rs/zerolog"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxTips is how many extremities a room may have before we tie them together: each further event would
// have to resolve the states of all.
const maxTips = 10

// knitType is the type of the events that tie extremities together. They are news to nobody; other servers fetch
// them when they meet an event that names one. (The name is the one other servers use, and leave out likewise.)
const knitType = "org.matrix.dummy_event"

// knit ties the extremities together with an event of its own, if there are too many and a user of ours may send one.
func (r *room) knit(ctx context.Context) error {
	if len(r.head.Extremities) <= maxTips || !r.exists {
		return nil
	}
	sender, err := r.mightiest(ctx, func(l *auth.Levels) auth.Level { return l.Event(knitType, false) })
	if err != nil || sender == "" {
		return err
	}
	ev, err := r.build(ctx, &bus.Proposal{Sender: sender, Type: knitType, Content: json.RawMessage(`{}`)})
	if err != nil {
		return err
	}
	state := &now{ctx: ctx, r: r}
	if err := auth.Check(r.version, ev, state); err != nil || state.err != nil {
		if rule := (*pdu.AuthError)(nil); errors.As(err, &rule) && state.err == nil {
			return nil // it was worth a try
		}
		return errors.Join(err, state.err)
	}
	if ev, err = r.approved(ctx, ev); err != nil {
		return nil // as above
	}
	row, err := r.stored(ctx, ev)
	if err != nil {
		return err
	}
	zerolog.Ctx(ctx).Debug().Int("extremities", len(r.head.Extremities)).Msg("Extremities tied together")
	h := &held{ev, row}
	row.Standing, row.Before, row.After = storage.Accepted, r.head.State, r.head.State
	r.extend(h)
	r.write(h, false)
	return nil
}
