package rooms

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// delayParam is the parameter of send and state that makes an event a delayed one.
const delayParam = "org.matrix.msc4140.delay"

// delayOf is the delay that a request to send asks for; false if it asks for none.
// Spec: MSC4140
func (h *Handlers) delayOf(r *rest.Request) (time.Duration, bool, error) {
	text := r.Query(delayParam)
	if text == "" {
		return 0, false, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms <= 0 {
		return 0, true, badDelay
	}
	if ms > h.cfg.MaxDelay.Milliseconds() {
		return 0, true, mautrix.MUnknown.WithStatus(http.StatusBadRequest).WithMessage("The delay is too long").
			WithExtraField("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED").
			WithExtraField("org.matrix.msc4140.max_delay", h.cfg.MaxDelay.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, true, nil
}

var badDelay = mautrix.MInvalidParam.WithMessage("The delay is no positive number of milliseconds")

// Delay handles PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}: the form of the
// merged proposal, beside the delay as a parameter of send and state, which clients of 2026 use.
// Spec: MSC4140
func (h *Handlers) Delay(r *rest.Request) (any, error) {
	roomID, p, err := h.proposal(r, "PUT delayed "+r.Path("eventType"))
	if err != nil {
		return nil, err
	}
	if p.Sticky, err = stickyOf(r); err != nil {
		return nil, err
	}
	var body later
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch {
	case len(body.Content) == 0:
		return nil, missingParam.WithMessage("content is missing")
	case body.Content[0] != '{':
		return nil, mautrix.MBadJSON.WithMessage("content is not an object")
	case body.StateKey != nil && len(*body.StateKey) > maxName:
		return nil, mautrix.MTooLarge.WithMessage("The state key is too long")
	case body.Delay <= 0:
		return nil, badDelay
	case body.Delay > h.cfg.MaxDelay.Milliseconds():
		return nil, mautrix.RespError{ErrCode: "ORG.MATRIX.MSC4140_MAX_DELAY_EXCEEDED", Err: "The delay is too long", StatusCode: http.StatusBadRequest}.
			WithExtraField("org.matrix.msc4140.max_delay", h.cfg.MaxDelay.Milliseconds())
	}
	if p.StateKey, p.Content = body.StateKey, body.Content; p.StateKey != nil {
		p.Sticky = 0
	}
	return h.schedule(r, roomID, p, time.Duration(body.Delay)*time.Millisecond)
}

// later is the body of Delay.
type later struct {
	Delay    int64           `json:"delay"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// delayAnswer names a delayed event.
type delayAnswer struct {
	DelayID string `json:"delay_id"`
}

func newDelayID() string { return "d" + strings.ToLower(rand.Text()) }

// addedPatience is how long the client waits until the timers have heard of an event.
const addedPatience = 5 * time.Second

// schedule keeps an event for later. Whether its sender may send it is asked now, and again when its time comes.
// Spec: MSC4140
func (h *Handlers) schedule(r *rest.Request, roomID id.RoomID, p bus.Proposal, delay time.Duration) (any, error) {
	ctx := r.Context()
	if answer, err := h.scheduled(ctx, roomID, p); answer != nil || err != nil {
		return answer, err
	}
	if p.Content == nil {
		var err error
		if p.Content, err = r.Object(); err != nil {
			return nil, err
		}
	}
	waiting, err := h.store.DelayedEvents.Count(ctx, p.Sender)
	if err != nil {
		return nil, err
	}
	if waiting >= h.cfg.MaxDelayed { // counted again as it is written
		return h.forestalled(ctx, roomID, p)
	}
	if err := h.mustBeJoined(ctx, p.Sender, roomID); err != nil {
		return nil, err
	}
	if _, err := h.draft(ctx, roomID, p); err != nil {
		return nil, err
	}
	now := h.now().UnixMilli()
	d := &storage.DelayedEvent{
		ID: newDelayID(), UserID: p.Sender, DeviceID: p.Device, RoomID: roomID, Type: p.Type, StateKey: p.StateKey, Content: p.Content,
		Path: p.Path, TransactionID: p.TransactionID, Sticky: p.Sticky, Delay: delay.Milliseconds(), Since: now, Due: now + delay.Milliseconds(),
	}
	added, err := h.store.DelayedEvents.Add(ctx, d, h.cfg.MaxDelayed)
	if err != nil {
		return nil, err
	}
	if !added {
		return h.forestalled(ctx, roomID, p)
	}
	// It is written, whatever becomes of this: a holder of the timers that does not hear of it reads the row when it looks the next time.
	ctx, cancel := context.WithTimeout(ctx, addedPatience)
	defer cancel()
	if _, err := bus.Ask[bus.DelayedQuestion, bus.DelayedAnswer](ctx, h.bus, bus.DelayedDo, bus.DelayedQuestion{ID: d.ID, Added: true}); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Timers not told of a delayed event, will read of it")
	}
	return delayAnswer{d.ID}, nil
}

// scheduled is the answer to a request that has made its event already; nil if it has not.
func (h *Handlers) scheduled(ctx context.Context, roomID id.RoomID, p bus.Proposal) (any, error) {
	if p.TransactionID == "" {
		return nil, nil
	}
	known, err := h.store.DelayedEvents.ByTransaction(ctx, p.Sender, p.Device, roomID, p.Path, p.TransactionID)
	if known == nil || err != nil {
		return nil, err
	}
	return delayAnswer{known.ID}, nil
}

// forestalled is the answer where others of the user's requests came first: the same one, meanwhile, or as many as may wait.
func (h *Handlers) forestalled(ctx context.Context, roomID id.RoomID, p bus.Proposal) (any, error) {
	if answer, err := h.scheduled(ctx, roomID, p); answer != nil || err != nil {
		return answer, err
	}
	next, err := h.store.DelayedEvents.Next(ctx, p.Sender)
	if err != nil {
		return nil, err
	}
	refusal := rest.LimitExceeded(time.UnixMilli(next).Sub(h.now()))
	refusal.Err = "Too many of your events wait to be sent"
	return nil, refusal.WithExtraField("org.matrix.msc4140.errcode", "M_MAX_DELAYED_EVENTS_EXCEEDED")
}

// delayedItem is a delayed event as its owner sees it.
type delayedItem struct {
	DelayID  string          `json:"delay_id"`
	RoomID   id.RoomID       `json:"room_id"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Delay    int64           `json:"delay"`
	Since    int64           `json:"running_since"`
	Content  json.RawMessage `json:"content"`

	Outcome  string          `json:"outcome,omitempty"`
	EventID  id.EventID      `json:"event_id,omitempty"`
	Finished int64           `json:"origin_server_ts,omitempty"`
	Error    json.RawMessage `json:"error,omitempty"`
}

func item(d *storage.DelayedEvent) delayedItem {
	return delayedItem{
		DelayID: d.ID, RoomID: d.RoomID, Type: d.Type, StateKey: d.StateKey, Delay: d.Delay, Since: d.Since, Content: d.Content,
		Outcome: d.Outcome, EventID: d.EventID, Finished: d.Finished, Error: d.Error,
	}
}

// DelayedEvents handles GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events. What ended is listed where status or outcome
// asks for it.
// Spec: MSC4140
func (h *Handlers) DelayedEvents(r *rest.Request) (any, error) {
	q, err := h.listing(r)
	if err != nil {
		return nil, err
	}
	var rows []*storage.DelayedEvent
	for _, ended := range q.ended {
		part, err := h.store.DelayedEvents.ByUser(r.Context(), r.By.User, ended, maxFinished)
		if err != nil {
			return nil, err
		}
		rows = append(rows, part...)
	}
	return q.page(rows), nil
}

// DelayedEvent handles GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}.
// Spec: MSC4140
func (h *Handlers) DelayedEvent(r *rest.Request) (any, error) {
	d, err := h.store.DelayedEvents.ByID(r.Context(), r.Path("delayId"))
	if err != nil {
		return nil, err
	}
	if d == nil || d.UserID != r.By.User {
		return nil, noSuchDelay
	}
	return item(d), nil
}

var noSuchDelay = mautrix.MNotFound.WithMessage("No such event waits to be sent")

// UpdateDelayed handles POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}. Whoever knows
// the ID may do it: the call focus does it for clients that vanished.
// Spec: MSC4140
func (h *Handlers) UpdateDelayed(r *rest.Request) (any, error) {
	action := bus.DelayedAction(r.Path("action"))
	if !known(action) {
		return nil, mautrix.MUnrecognized.WithStatus(http.StatusNotFound).WithMessage("There is no such action")
	}
	return h.update(r, action)
}

// UpdateDelayedByBody handles POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}, the older form,
// which clients on the Rust SDK of 2026 use.
// Spec: MSC4140
func (h *Handlers) UpdateDelayedByBody(r *rest.Request) (any, error) {
	var body struct {
		Action bus.DelayedAction `json:"action"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch {
	case body.Action == "":
		return nil, missingParam.WithMessage("action is missing")
	case !known(body.Action):
		return nil, mautrix.MInvalidParam.WithMessage("There is no such action")
	}
	return h.update(r, body.Action)
}

func known(action bus.DelayedAction) bool {
	return action == bus.DelayedRestart || action == bus.DelayedCancel || action == bus.DelayedSend
}

// update has a limit for each event, and one of the caller for those that are not there: a focus, or a ministry behind one address, restarts
// the events of hundreds, each every few seconds. Only events that wait are the timers' business: one goroutine holds those of all.
func (h *Handlers) update(r *rest.Request, action bus.DelayedAction) (any, error) {
	q := bus.DelayedQuestion{ID: r.Path("delayId"), Action: action}
	outcome, found, err := h.store.DelayedEvents.Outcome(r.Context(), q.ID)
	switch {
	case err != nil:
		return nil, err
	case !found, outcome != "" && outcome != string(action):
		if err := r.Limits.Take(rest.LimitGeneral, r.Address()); err != nil {
			return nil, err
		}
		return nil, noSuchDelay
	}
	if err := r.Limits.Take(rest.LimitCall, "delayed "+q.ID); err != nil {
		return nil, err
	}
	if outcome != "" { // it has ended so already
		return rest.Empty, nil
	}
	_, err = bus.Ask[bus.DelayedQuestion, bus.DelayedAnswer](r.Context(), h.bus, bus.DelayedDo, q)
	return rest.Empty, err
}
