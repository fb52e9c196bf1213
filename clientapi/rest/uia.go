package rest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"maunium.net/go/mautrix"

	"chancery/storage"
)

// The stages of user-interactive authentication that this server knows.
const (
	StagePassword          = "m.login.password"
	StageDummy             = "m.login.dummy"
	StageRegistrationToken = "m.login.registration_token"
	StageTerms             = "m.login.terms"
	StageEmail             = "m.login.email.identity"
	// StageOAuth is done on the account pages. Clients of before Matrix 1.17 know it by the second name.
	StageOAuth    = "m.oauth"
	stageOldOAuth = "org.matrix.cross_signing_reset"
)

// confirmationAge is how long a session may be open.
const confirmationAge = 15 * time.Minute

// Stage judges what a client showed for one stage. A RespError with status 401 lets the client try again in the same
// session; any other error ends the request. The stage may note something in the session.
type Stage func(r *Request, session *storage.Confirmation, auth json.RawMessage) error

// UIA has users confirm what they are about to do.
// Spec: client-server-api/#user-interactive-authentication-api
type UIA struct {
	store  *storage.Store
	stages map[string]Stage
	pages  string
	now    func() time.Time
}

// NewUIA makes the engine. The dummy stage and the terms' are built in; stages holds the others. accountPages is the address of the
// account pages, where sessions of the OAuth 2.0 API confirm.
func NewUIA(store *storage.Store, stages map[string]Stage, accountPages string) *UIA {
	u := &UIA{store: store, stages: map[string]Stage{StageDummy: pass, StageTerms: pass}, pages: accountPages, now: time.Now}
	for name, stage := range stages {
		u.stages[name] = stage
	}
	return u
}

func pass(*Request, *storage.Confirmation, json.RawMessage) error { return nil }

// Operation is what is to be confirmed. Who asks, and method and path of the request, belong to it always: a session
// is good for nothing else.
type Operation struct {
	// Flows are the ways to confirm it: each a list of stages, all of which have to be passed.
	Flows [][]string
	// Params are what clients need to know for a stage, by its name.
	Params map[string]any
	// Bound is the part of the body that must not change between the stages; it is marshalled, and only a hash is kept.
	Bound any
	// Late binds from the first passed stage on, for clients that ask for the flows before they know the rest.
	Late bool
	// OnPage is the action of the account pages with which sessions of the OAuth 2.0 API confirm it; empty where they do the whole there.
	OnPage string
}

// Unconfirmed is the 401 that tells the client what to do.
type Unconfirmed struct {
	Flows     []flow         `json:"flows"`
	Params    map[string]any `json:"params"`
	Session   string         `json:"session"`
	Completed []string       `json:"completed,omitempty"`
	ErrCode   string         `json:"errcode,omitempty"`
	Message   string         `json:"error,omitempty"`
}

type flow struct {
	Stages []string `json:"stages"`
}

func (u *Unconfirmed) Error() string { return "user-interactive authentication needed" }

// authDict is what all stages have in common.
type authDict struct {
	Type    string `json:"type"`
	Session string `json:"session"`
}

// Confirm returns the session, which is over then, when the client has passed all stages of a flow. Otherwise it
// returns the error that says how to go on. auth is the body's "auth", empty if it had none.
func (u *UIA) Confirm(r *Request, op Operation, auth json.RawMessage) (*storage.Confirmation, error) {
	var given authDict
	if len(auth) > 0 && string(auth) != "null" {
		if err := Decode(auth, &given); err != nil {
			return nil, err
		}
	}
	if r.By.OAuth {
		return u.approved(r, op, given)
	}
	bound, err := hashOf(op.Bound)
	if err != nil {
		return nil, err
	}
	session, err := u.session(r, op, given.Session, bound)
	if err != nil {
		return nil, err
	}
	var reason *mautrix.RespError
	if given.Type != "" {
		if reason, err = u.pass(r, op, session, given.Type, auth, bound); err != nil {
			return nil, err
		}
	}
	if reason == nil && completes(op.Flows, session.Passed) {
		return session, u.end(r.Context(), session, given.Session != "")
	}
	err = u.store.Do(r.Context(), func(ctx context.Context) error { return u.store.Confirmations.Put(ctx, session) })
	if err != nil {
		return nil, err
	}
	return nil, unconfirmed(op, session, reason)
}

// approved is Confirm for sessions of the OAuth 2.0 API, which know no password: the user has approved it on the account pages, once.
// Spec: client-server-api/#oauth-authentication
func (u *UIA) approved(r *Request, op Operation, given authDict) (*storage.Confirmation, error) {
	if op.OnPage == "" {
		return nil, mautrix.MUnrecognized.WithStatus(http.StatusNotFound).WithMessage("Users of this client do this on their account page: %s", u.pages)
	}
	done := false
	err := u.store.Do(r.Context(), func(ctx context.Context) (err error) {
		done, err = u.store.Browsers.TakeApproval(ctx, r.By.User, op.OnPage)
		return err
	})
	if err != nil {
		return nil, err
	}
	session := &storage.Confirmation{Session: given.Session, UserID: r.By.User, DeviceID: r.By.Device}
	if session.Session == "" {
		session.Session = rand.Text()
	}
	if done {
		return session, nil
	}
	page := map[string]string{"url": u.pages + "?" + url.Values{"action": {op.OnPage}}.Encode()}
	op.Flows, op.Params = [][]string{{StageOAuth}, {stageOldOAuth}}, map[string]any{StageOAuth: page, stageOldOAuth: page}
	var reason *mautrix.RespError
	if given.Session != "" {
		refusal := mautrix.MForbidden.WithMessage("This was not approved on the account page yet")
		reason = &refusal
	}
	return nil, unconfirmed(op, session, reason)
}

// session finds the session, or opens one, which is not stored yet. One that was opened for something else is refused.
func (u *UIA) session(r *Request, op Operation, name string, bound []byte) (*storage.Confirmation, error) {
	operation := r.HTTP.Method + " " + r.HTTP.URL.Path
	if name == "" {
		session := &storage.Confirmation{Session: rand.Text(), UserID: r.By.User, DeviceID: r.By.Device, Operation: operation, Created: u.now()}
		if !op.Late {
			session.Bound = bound
		}
		return session, nil
	}
	session, err := u.store.Confirmations.BySession(r.Context(), name)
	if err != nil {
		return nil, err
	}
	if session == nil || u.now().Sub(session.Created) > confirmationAge {
		return nil, mautrix.MForbidden.WithMessage("This session is unknown, over, or too old")
	}
	same := session.UserID == r.By.User && session.DeviceID == r.By.Device && session.Operation == operation
	if !same || session.Bound != nil && subtle.ConstantTimeCompare(session.Bound, bound) != 1 {
		return nil, mautrix.MForbidden.WithMessage("This session was opened for something else")
	}
	return session, nil
}

// pass has the stage judged. A reason is why it was not passed, and may be tried again.
func (u *UIA) pass(r *Request, op Operation, session *storage.Confirmation, name string, auth json.RawMessage, bound []byte) (reason *mautrix.RespError, err error) {
	stage := u.stages[name]
	if stage == nil || !offered(op.Flows, name) {
		refusal := mautrix.MForbidden.WithMessage("This stage is not part of any flow")
		return &refusal, nil
	}
	if slices.Contains(session.Passed, name) {
		return nil, nil
	}
	if err := stage(r, session, auth); err != nil {
		var refusal mautrix.RespError
		if errors.As(err, &refusal) && refusal.StatusCode == http.StatusUnauthorized {
			return &refusal, nil
		}
		return nil, err
	}
	session.Passed = append(session.Passed, name)
	session.Bound = bound
	return nil, nil
}

// end closes the session, if it was ever stored; whoever comes second with it is refused.
func (u *UIA) end(ctx context.Context, session *storage.Confirmation, stored bool) error {
	if !stored {
		return nil
	}
	first := false
	err := u.store.Do(ctx, func(ctx context.Context) (err error) {
		first, err = u.store.Confirmations.Delete(ctx, session.Session)
		return err
	})
	if err == nil && !first {
		return mautrix.MForbidden.WithMessage("This session is over")
	}
	return err
}

func unconfirmed(op Operation, session *storage.Confirmation, reason *mautrix.RespError) error {
	u := &Unconfirmed{Flows: []flow{}, Params: op.Params, Session: session.Session, Completed: session.Passed}
	for _, stages := range op.Flows {
		u.Flows = append(u.Flows, flow{stages})
	}
	if u.Params == nil {
		u.Params = map[string]any{}
	}
	if reason != nil {
		u.ErrCode, u.Message = reason.ErrCode, reason.Err
	}
	return u
}

func offered(flows [][]string, stage string) bool {
	return slices.ContainsFunc(flows, func(stages []string) bool { return slices.Contains(stages, stage) })
}

// completes says whether all stages of a flow have been passed. No flow at all can never be completed.
func completes(flows [][]string, passed []string) bool {
	return slices.ContainsFunc(flows, func(stages []string) bool {
		return !slices.ContainsFunc(stages, func(stage string) bool { return !slices.Contains(passed, stage) })
	})
}

func hashOf(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return sum[:], nil
}
