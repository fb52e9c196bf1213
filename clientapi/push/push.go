// Package push is the chapter of notifications: the endpoints of push rules and pushers, and the follower that calls the
// gateways.
//
// A user's rules are one piece of account data, m.push_rules, in the form in which clients see them; changing one rule
// rewrites it, and so every device hears of it in its sync. Truths to keep:
//
//   - judging is clientapi/push/rules' alone, which sync uses too: what is counted and what is sent never differ;
//   - a gateway learns no more than the pusher asked for (event_id_only), and is reached through rest's outbound door alone;
//   - a slow gateway delays its own notifications only; what is old by then is dropped.
package push

import (
	"net/http"

	"maunium.net/go/mautrix"

	"chancery/roomserver/view"
	"chancery/storage"
)

// Handlers are the endpoints of the chapter.
type Handlers struct {
	store *storage.Store
	view  *view.Reader
	http  *http.Client
}

// New makes the chapter, complete. outbound is the door through which gateways are reached.
func New(store *storage.Store, reader *view.Reader, outbound *http.Client) *Handlers {
	return &Handlers{store: store, view: reader, http: outbound}
}

// missingParam is for requests that lack what they need; mautrix has no value for it.
var missingParam = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}
