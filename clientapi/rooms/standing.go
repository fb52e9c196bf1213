package rooms

import (
	"crypto/rand"
	"encoding/base64"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
)

// Acts are what others notice of this chapter's requests, by what is answered: an event's ID, nothing, or what came of it.
type Acts struct {
	// Event is sending: suspended accounts may redact what they said themselves, and leave.
	Event *rest.Act
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
		Silent: &rest.Act{Pretend: func() any { return rest.Empty }},
		Room:   &rest.Act{},
	}
}

// pretendedEvent looks like the answer to an event that was sent.
func pretendedEvent() any {
	hash := make([]byte, 32)
	_, _ = rand.Read(hash) // never fails
	return eventAnswer{id.EventID("$" + base64.RawURLEncoding.EncodeToString(hash))}
}

// despite says whether a suspended account may send this event nevertheless: a redaction of its own, or its leaving.
// Spec: client-server-api/#account-suspension
func (h *Handlers) despite(r *rest.Request) (bool, error) {
	switch typ := r.Path("eventType"); typ {
	case "": // the path of redactions names no type
		return h.own(r, id.EventID(r.Path("eventId")))
	case event.EventRedaction.Type:
		body, err := r.Body()
		if err != nil {
			return false, err
		}
		return h.own(r, id.EventID(gjson.GetBytes(body, "redacts").Str))
	case event.StateMember.Type:
		body, err := r.Body()
		return r.Path("stateKey") == string(r.By.User) && gjson.GetBytes(body, "membership").Str == string(event.MembershipLeave), err
	}
	return false, nil
}

// own says whether the asking user sent the event.
func (h *Handlers) own(r *rest.Request, target id.EventID) (bool, error) {
	e, err := h.store.Events.ByID(r.Context(), target)
	return e != nil && e.Sender == r.By.User, err
}
