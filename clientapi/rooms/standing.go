package rooms

import (
	"context"
	"crypto/rand"
	"encoding/base64"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage/bus"
)

// Acts are what others notice of this chapter's requests, by what is answered: an event's ID, nothing, or what came of it.
type Acts struct {
	// Event is sending, now or later: suspended accounts may redact what they said themselves, and leave.
	Event *rest.Act
	// Later is the same for the one route whose body says what is to be sent later.
	Later *rest.Act
	// Silent is what is answered with an empty object: inviting, kicking.
	Silent *rest.Act
	// Room is what a suspended account may not do, and a shadow-banned one may: joining, making rooms. There is nobody to
	// hear them there.
	Room *rest.Act
}

// Acts gives them.
func (h *Handlers) Acts() Acts {
	return Acts{
		Event:  &rest.Act{Despite: h.despite, Pretend: pretendedEvent},
		Later:  &rest.Act{Despite: h.despiteLater, Pretend: pretendedDelay},
		Silent: &rest.Act{Pretend: func(*rest.Request) any { return rest.Empty }},
		Room:   &rest.Act{},
	}
}

// pretendedEvent looks like the answer to an event that was sent, or that waits to be.
func pretendedEvent(r *rest.Request) any {
	if r.Query(delayParam) != "" {
		return pretendedDelay(r)
	}
	hash := make([]byte, 32)
	_, _ = rand.Read(hash) // never fails
	return eventAnswer{id.EventID("$" + base64.RawURLEncoding.EncodeToString(hash))}
}

// pretendedDelay looks like the answer to an event that waits to be sent.
func pretendedDelay(*rest.Request) any { return delayAnswer{newDelayID()} }

// despite says whether a suspended account may send nevertheless what this request has in its path and body.
func (h *Handlers) despite(r *rest.Request) (bool, error) {
	if target := id.EventID(r.Path("eventId")); target != "" { // the path of redactions names no type
		return h.own(r.Context(), r.By.User, target)
	}
	body, err := r.Body()
	if err != nil {
		return false, err
	}
	p := bus.Proposal{Sender: r.By.User, Type: r.Path("eventType"), Content: body}
	if key := r.Path("stateKey"); r.Path("txnId") == "" {
		p.StateKey = &key
	}
	return h.mayNevertheless(r.Context(), p)
}

// despiteLater is despite for what Delay handles.
func (h *Handlers) despiteLater(r *rest.Request) (bool, error) {
	var body later
	if err := r.JSON(&body); err != nil {
		return false, err
	}
	return h.mayNevertheless(r.Context(), bus.Proposal{Sender: r.By.User, Type: r.Path("eventType"), StateKey: body.StateKey, Content: body.Content})
}

// mayNevertheless says whether a suspended account may send this event: a redaction of its own, or its leaving.
// Spec: client-server-api/#account-suspension
func (h *Handlers) mayNevertheless(ctx context.Context, p bus.Proposal) (bool, error) {
	switch {
	case p.Type == event.EventRedaction.Type && p.StateKey == nil:
		return h.own(ctx, p.Sender, id.EventID(gjson.GetBytes(p.Content, "redacts").Str))
	case p.Type == event.StateMember.Type && p.StateKey != nil && *p.StateKey == string(p.Sender):
		return gjson.GetBytes(p.Content, "membership").Str == string(event.MembershipLeave), nil
	}
	return false, nil
}

// own says whether the user sent the event.
func (h *Handlers) own(ctx context.Context, user id.UserID, target id.EventID) (bool, error) {
	e, err := h.store.Events.ByID(ctx, target)
	return e != nil && e.Sender == user, err
}
