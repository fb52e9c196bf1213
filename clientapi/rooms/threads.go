package rooms

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// The refusals of MSC4306.
var (
	notInThread = mautrix.RespError{ErrCode: "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", StatusCode: http.StatusBadRequest,
		Err: "The event that is named as the cause is not in the thread"}
	conflictingUnsubscription = mautrix.RespError{ErrCode: "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", StatusCode: http.StatusConflict,
		Err: "The thread was left after that event came"}
)

// notSubscribed answers where there is no subscription.
var notSubscribed = mautrix.MNotFound.WithMessage("You do not follow this thread")

// ThreadSubscription handles GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription.
// Spec: MSC4306
func (h *Handlers) ThreadSubscription(r *rest.Request) (any, error) {
	root, err := h.threadRoot(r)
	if err != nil {
		return nil, err
	}
	sub, err := h.store.ThreadSubscriptions.Of(r.Context(), r.By.User, root.RoomID, root.ID)
	if err != nil {
		return nil, err
	}
	if sub == nil || !sub.Subscribed {
		return nil, notSubscribed
	}
	return map[string]bool{"automatic": sub.Automatic}, nil
}

// SubscribeThread handles PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription.
// Spec: MSC4306
func (h *Handlers) SubscribeThread(r *rest.Request) (any, error) {
	var body struct {
		// Automatic names the latest event for which a client subscribes by itself; users' own wishes have none.
		Automatic *id.EventID `json:"automatic"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	root, err := h.threadRoot(r)
	if err != nil {
		return nil, err
	}
	sub := storage.ThreadSubscription{UserID: r.By.User, RoomID: root.RoomID, Root: root.ID, Subscribed: true, Automatic: body.Automatic != nil}
	var cause *storage.Event
	if sub.Automatic {
		if cause, err = h.cause(r.Context(), r.By.User, root, *body.Automatic); err != nil {
			return nil, err
		}
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		was, err := h.store.ThreadSubscriptions.Of(ctx, sub.UserID, sub.RoomID, sub.Root)
		switch {
		case err != nil:
			return err
		case was != nil && was.Subscribed && (sub.Automatic || !was.Automatic):
			return nil // what the user wished stands above what a client does
		case was != nil && !was.Subscribed && sub.Automatic && cause.Place <= was.Position.Place():
			return conflictingUnsubscription
		}
		return h.store.ThreadSubscriptions.Put(ctx, sub)
	})
}

// UnsubscribeThread handles DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription.
// Spec: MSC4306
func (h *Handlers) UnsubscribeThread(r *rest.Request) (any, error) {
	root, err := h.threadRoot(r)
	if err != nil {
		return nil, err
	}
	sub := storage.ThreadSubscription{UserID: r.By.User, RoomID: root.RoomID, Root: root.ID}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		was, err := h.store.ThreadSubscriptions.Of(ctx, sub.UserID, sub.RoomID, sub.Root)
		if err != nil || was == nil || !was.Subscribed {
			return err
		}
		return h.store.ThreadSubscriptions.Put(ctx, sub)
	})
}

// threadRoot gives the event that the path names as a thread's root; M_NOT_FOUND where the user may not see it, or not
// read the room.
func (h *Handlers) threadRoot(r *rest.Request) (*storage.Event, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID()
	if err != nil {
		return nil, err
	}
	return h.visibleEvent(r.Context(), r.By.User, roomID, eventID)
}

// cause gives the event for which a client subscribes, once it is sure that it is in the thread and the user may see it.
func (h *Handlers) cause(ctx context.Context, user id.UserID, root *storage.Event, eventID id.EventID) (*storage.Event, error) {
	if eventID == "" || eventID[0] != '$' {
		return nil, mautrix.MInvalidParam.WithMessage("automatic is not an event ID")
	}
	e, err := h.store.Events.ByID(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if e == nil || e.RoomID != root.RoomID || e.RelType != "m.thread" || e.RelatesTo != root.ID {
		return nil, notInThread
	}
	seen, err := h.view.Visible(ctx, user, []*storage.Event{e})
	if err == nil && len(seen) == 0 {
		err = notInThread
	}
	return e, err
}

// maxSubscriptions bounds a page of thread subscriptions.
const maxSubscriptions = 100

// threadChange is what became of a subscription; left threads have no word on how they were subscribed to.
type threadChange struct {
	Automatic *bool            `json:"automatic,omitempty"`
	BumpStamp storage.Position `json:"bump_stamp"`
}

type threadChanges map[id.RoomID]map[id.EventID]threadChange

func (c threadChanges) add(sub *storage.ThreadSubscription) {
	change := threadChange{BumpStamp: sub.Position}
	if sub.Subscribed {
		change.Automatic = &sub.Automatic
	}
	if c[sub.RoomID] == nil {
		c[sub.RoomID] = map[id.EventID]threadChange{}
	}
	c[sub.RoomID][sub.Root] = change
}

// ThreadSubscriptions handles GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions.
// Spec: MSC4308
func (h *Handlers) ThreadSubscriptions(r *rest.Request) (any, error) {
	if dir := r.Query("dir"); dir != "" && dir != "b" {
		return nil, mautrix.MInvalidParam.WithMessage("dir can be b alone")
	}
	// from is the newest change that is wanted, to is where the client has been told of everything.
	from, to := h.store.Head(), storage.Position(0)
	var err error
	if token := r.Query("from"); token != "" {
		if from, err = subscriptionToken(token); err != nil {
			return nil, err
		}
	}
	if token := r.Query("to"); token != "" {
		if to, err = subscriptionToken(token); err != nil {
			return nil, err
		}
	}
	limit, err := r.Int("limit", maxSubscriptions, 0, maxSubscriptions)
	if err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, mautrix.MInvalidParam.WithMessage("limit has to be greater than zero")
	}
	list, err := h.store.ThreadSubscriptions.Between(r.Context(), r.By.User, to, from, limit+1)
	if err != nil {
		return nil, err
	}
	answer := struct {
		Subscribed   threadChanges `json:"subscribed,omitempty"`
		Unsubscribed threadChanges `json:"unsubscribed,omitempty"`
		End          string        `json:"end,omitempty"`
	}{threadChanges{}, threadChanges{}, ""}
	for i, sub := range list {
		switch {
		case i == limit:
			answer.End = storage.ThreadToken(sub.Position)
		case sub.Subscribed:
			answer.Subscribed.add(sub)
		default:
			answer.Unsubscribed.add(sub)
		}
	}
	return answer, nil
}

// subscriptionToken reads where a walk goes on, or how far a sync went: a token of ours, of sync, or a position of sliding sync.
func subscriptionToken(text string) (storage.Position, error) {
	if at, err := storage.ParseThreadToken(text); err == nil {
		return at, nil
	}
	if pos, err := storage.ParseSlidingPos(text); err == nil {
		return pos.Token.Position, nil
	}
	token, err := storage.ParseToken(text)
	if err != nil {
		return 0, badToken
	}
	return token.Position, nil
}
