package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// fullyRead is the kind of marker that is account data, and no receipt.
const fullyRead = "m.fully_read"

// Receipt handles POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}.
// Spec: client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (h *Handlers) Receipt(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	kind := r.Path("receiptType")
	if !slices.Contains([]string{storage.ReceiptRead, storage.ReceiptReadPrivate, fullyRead}, kind) {
		return nil, mautrix.MInvalidParam.WithMessage("There is no such kind of receipt")
	}
	var body struct {
		Thread json.RawMessage `json:"thread_id"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	thread, err := threadOf(body.Thread)
	if err != nil {
		return nil, err
	}
	if thread != "" && kind == fullyRead {
		return nil, mautrix.MInvalidParam.WithMessage("m.fully_read knows no threads")
	}
	return rest.Empty, h.mark(r.Context(), r.By.User, roomID, []mark{{kind, eventID, thread}})
}

// threadOf reads a receipt's thread: the root of one, "main", or none.
func threadOf(raw json.RawMessage) (string, error) {
	v := gjson.ParseBytes(raw)
	if !v.Exists() || v.Type == gjson.Null {
		return "", nil
	}
	if v.Type != gjson.String || v.Str == "" || len(v.Str) > maxName || v.Str != "main" && v.Str[0] != '$' {
		return "", mautrix.MInvalidParam.WithMessage("thread_id is neither main nor an event ID")
	}
	return v.Str, nil
}

// ReadMarkers handles POST /_matrix/client/v3/rooms/{roomId}/read_markers.
// Spec: client-server-api/#post_matrixclientv3roomsroomidread_markers
func (h *Handlers) ReadMarkers(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	body := map[string]json.RawMessage{}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	var marks []mark
	for _, kind := range []string{fullyRead, storage.ReceiptRead, storage.ReceiptReadPrivate} {
		v := gjson.ParseBytes(body[kind])
		switch {
		case !v.Exists() || v.Type == gjson.Null:
		case v.Type != gjson.String:
			return nil, mautrix.MBadJSON.WithMessage("%s is not an event ID", kind)
		default:
			marks = append(marks, mark{kind, id.EventID(v.Str), ""})
		}
	}
	return rest.Empty, h.mark(r.Context(), r.By.User, roomID, marks)
}

// mark is a place that a user has read up to.
type mark struct {
	kind   string
	event  id.EventID
	thread string
}

// mark moves the user's marks in a room, all in one commit.
func (h *Handlers) mark(ctx context.Context, user id.UserID, roomID id.RoomID, marks []mark) error {
	if err := h.mustBeJoined(ctx, user, roomID); err != nil {
		return err
	}
	for _, m := range marks {
		e, err := h.store.Events.ByID(ctx, m.event)
		if err != nil {
			return err
		}
		if e == nil || e.RoomID != roomID {
			return noSuchEvent
		}
	}
	now := h.now().UnixMilli()
	return h.store.Do(ctx, func(ctx context.Context) error {
		for _, m := range marks {
			var err error
			if m.kind == fullyRead {
				err = h.store.AccountData.Put(ctx, storage.AccountData{
					UserID: user, RoomID: roomID, Type: fullyRead, Content: object(map[string]any{"event_id": m.event}),
				})
			} else {
				_, err = h.store.Receipts.Put(ctx, &storage.Receipt{
					RoomID: roomID, UserID: user, Type: m.kind, Thread: m.thread, EventID: m.event, Timestamp: now,
				})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	// defaultTyping is how long somebody types who gave no time; maxTyping bounds it.
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
)

// Typing handles PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}.
// Spec: client-server-api/#put_matrixclientv3roomsroomidtypinguserid
func (h *Handlers) Typing(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	var body struct {
		Typing  bool   `json:"typing"`
		Timeout *int64 `json:"timeout"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if err := h.mustBeJoined(r.Context(), user, roomID); err != nil {
		return nil, err
	}
	span := defaultTyping
	if body.Timeout != nil {
		span = min(max(time.Duration(*body.Timeout)*time.Millisecond, 0), maxTyping)
	}
	return rest.Empty, bus.Tell(h.bus, bus.TypingIn(roomID), bus.Typing{
		RoomID: roomID, UserID: user, Typing: body.Typing, Until: h.now().Add(span).UnixMilli(),
	})
}
