package rooms

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
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
	return eventAnswer{pretendedID()}
}

func pretendedID() id.EventID {
	hash := make([]byte, 32)
	_, _ = rand.Read(hash) // never fails
	return id.EventID("$" + base64.RawURLEncoding.EncodeToString(hash))
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

// maySpeak refuses an event, scheduled when its sender's account stood otherwise, that the account may not send now. Shadowed: nobody is
// to hear it. That somebody has left a call may always be said: the others would see them there for ever.
func (h *Handlers) maySpeak(ctx context.Context, p bus.Proposal) (shadowed bool, err error) {
	if leavesCall(p) {
		return false, nil
	}
	account, err := h.store.Accounts.ByID(ctx, p.Sender)
	if err != nil {
		return false, err
	}
	expired, err := h.store.Validity.Expired(ctx, []id.UserID{p.Sender})
	switch {
	case err != nil:
		return false, err
	case expired[p.Sender]:
		return false, rest.ErrExpired
	case account == nil: // an application service's own user
		return false, nil
	case account.Locked || account.Deactivated:
		return false, mautrix.MForbidden.WithMessage("The account was locked or closed meanwhile")
	case account.Suspended:
		if may, err := h.mayNevertheless(ctx, p); err != nil || !may {
			return false, cmp.Or(err, error(mautrix.MForbidden.WithMessage("The account was suspended meanwhile")))
		}
	}
	return account.Shadowed, nil
}

// stickyKeys name what is sticky, of today and of tomorrow. Spec: MSC4354
var stickyKeys = []string{"msc4354_sticky_key", "sticky_key"}

// leavesCall says whether the event only says that a device is in a call no more: a membership with nothing in it but its key.
func leavesCall(p bus.Proposal) bool {
	if !slices.Contains(callMembers, p.Type) {
		return false
	}
	empty := true
	gjson.ParseBytes(p.Content).ForEach(func(name, _ gjson.Result) bool {
		empty = p.StateKey == nil && slices.Contains(stickyKeys, name.Str)
		return empty
	})
	return empty
}
