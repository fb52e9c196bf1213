package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// maxName bounds event types, state keys and transaction IDs that come in paths.
const maxName = 255

// Send handles PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}.
// Spec: client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid
func (h *Handlers) Send(r *rest.Request) (any, error) {
	roomID, p, err := h.proposal(r, "PUT "+r.Path("eventType"))
	if err != nil {
		return nil, err
	}
	if p.Sticky, err = stickyOf(r); err != nil {
		return nil, err
	}
	if delay, ok, err := h.delayOf(r); err != nil {
		return nil, err
	} else if ok {
		return h.schedule(r, roomID, p, delay)
	}
	if p.Content, err = r.Object(); err != nil {
		return nil, err
	}
	eventID, err := h.sendMessage(r.Context(), roomID, p)
	if err != nil {
		return nil, err
	}
	return eventAnswer{eventID}, nil
}

// sendMessage has the room make an event that is no state, once its content has been looked at.
func (h *Handlers) sendMessage(ctx context.Context, roomID id.RoomID, p bus.Proposal) (id.EventID, error) {
	if err := h.checkAnnotation(ctx, roomID, p); err != nil {
		return "", err
	}
	if p.Type == event.EventRedaction.Type {
		p.Redacts = id.EventID(gjson.GetBytes(p.Content, "redacts").Str)
	}
	return h.propose(ctx, roomID, p)
}

// proposal begins a proposal with what the request's path and query say.
func (h *Handlers) proposal(r *rest.Request, path string) (id.RoomID, bus.Proposal, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return "", bus.Proposal{}, err
	}
	p := bus.Proposal{Sender: r.By.User, Type: r.Path("eventType"), Device: r.By.Device, Path: path, TransactionID: r.Path("txnId")}
	if len(p.Type) > maxName {
		return "", p, mautrix.MTooLarge.WithMessage("The event type is too long")
	}
	if len(p.TransactionID) > maxName {
		return "", p, mautrix.MInvalidParam.WithMessage("The transaction ID is too long")
	}
	p.Timestamp, err = h.timestampOf(r)
	return roomID, p, err
}

// stickyOf is for how many milliseconds the event is to be sticky; what is longer than an hour is cut.
// Spec: MSC4354
func stickyOf(r *rest.Request) (int64, error) {
	text := r.Query("org.matrix.msc4354.sticky_duration_ms")
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 {
		return 0, mautrix.MInvalidParam.WithMessage("org.matrix.msc4354.sticky_duration_ms is no number of milliseconds")
	}
	return min(ms, pdu.MaxSticky), nil
}

// timestampOf is the time that an application service gives an event.
// Spec: application-service-api/#timestamp-massaging
func (h *Handlers) timestampOf(r *rest.Request) (int64, error) {
	if r.By.Service == nil || r.Query("ts") == "" {
		return 0, nil
	}
	ts, err := r.Int("ts", 0, 0, 1<<53-1)
	return int64(ts), err
}

// checkAnnotation refuses a reaction that its sender has given already.
// Spec: client-server-api/#avoiding-duplicate-annotations
func (h *Handlers) checkAnnotation(ctx context.Context, roomID id.RoomID, p bus.Proposal) error {
	relates := gjson.GetBytes(p.Content, `m\.relates_to`)
	if relates.Get("rel_type").Str != string(event.RelAnnotation) {
		return nil
	}
	parent, key := id.EventID(relates.Get("event_id").Str), relates.Get("key").Str
	same, err := h.store.Events.Annotations(ctx, parent, p.Sender, p.Type)
	if err != nil {
		return err
	}
	for _, e := range same {
		if e.RoomID != roomID || gjson.GetBytes(e.JSON, `content.m\.relates_to.key`).Str != key {
			continue
		}
		if p.TransactionID != "" && e.TransactionID == p.TransactionID && e.DeviceID == p.Device && e.Path == p.Path {
			return nil // the same request again: the room answers as before
		}
		return mautrix.RespError{ErrCode: "M_DUPLICATE_ANNOTATION", Err: "You have reacted in this way already", StatusCode: 400}
	}
	return nil
}

// Redact handles PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}.
// Spec: client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
func (h *Handlers) Redact(r *rest.Request) (any, error) {
	target, err := r.EventID()
	if err != nil {
		return nil, err
	}
	roomID, p, err := h.proposal(r, "PUT redact "+string(target))
	if err != nil {
		return nil, err
	}
	content := json.RawMessage("{}")
	if body, err := r.Body(); err != nil {
		return nil, err
	} else if len(body) > 0 {
		if content, err = r.Object(); err != nil {
			return nil, err
		}
	}
	if err := h.mustBeJoined(r.Context(), r.By.User, roomID); err != nil {
		return nil, err
	}
	e, err := h.store.Events.ByID(r.Context(), target)
	if err != nil {
		return nil, err
	}
	// What we do not have may be there for others: the redaction waits for its target.
	if e != nil && e.RoomID != roomID {
		return nil, noSuchEvent
	}
	related, content, err := withRelations(content)
	if err != nil {
		return nil, err
	}
	p.Type, p.Content, p.Redacts = event.EventRedaction.Type, content, target
	eventID, err := h.propose(r.Context(), roomID, p)
	if err != nil {
		return nil, err
	}
	if len(related) > 0 && e != nil {
		if err := h.redactRelated(r.Context(), roomID, p, related); err != nil {
			return nil, err
		}
	}
	return eventAnswer{eventID}, nil
}

// withRelations takes out of a redaction which related events are to be redacted with it. Spec: MSC3912
func withRelations(content json.RawMessage) (types []string, kept json.RawMessage, err error) {
	for _, name := range []string{"org.matrix.msc3912.with_relations", "with_rel_types"} {
		list := gjson.GetBytes(content, strings.ReplaceAll(name, ".", `\.`))
		if !list.Exists() {
			continue
		}
		if !list.IsArray() {
			return nil, nil, mautrix.MInvalidParam.WithMessage("%s is not a list", name)
		}
		for _, v := range list.Array() {
			types = append(types, v.String())
		}
		if content, err = sjson.DeleteBytes(content, strings.ReplaceAll(name, ".", `\.`)); err != nil {
			return nil, nil, err
		}
	}
	return types, content, nil
}

// redactRelated redacts what relates to the target in one of the ways ("*": in any), as far as the sender may. Each event's
// ID is its redaction's transaction, so that a request that comes again redacts once.
// Spec: MSC3912
func (h *Handlers) redactRelated(ctx context.Context, roomID id.RoomID, p bus.Proposal, types []string) error {
	children, err := h.store.Events.Children(ctx, roomID, []id.EventID{p.Redacts}, maxRelated)
	if err != nil {
		return err
	}
	for _, e := range children {
		if e.RedactedBy != "" || !slices.Contains(types, e.RelType) && !slices.Contains(types, "*") {
			continue
		}
		p.Redacts, p.Path, p.TransactionID = e.ID, "redact related", string(e.ID)
		_, err := h.propose(ctx, roomID, p)
		if refusal := (*bus.Refusal)(nil); err != nil && !errors.As(err, &refusal) {
			return err
		}
	}
	return nil
}
