// Package admin is the administrators' chapter: accounts, rooms, media, registration tokens, reports, other servers and server
// notices in the shape that Synapse's tools expect, and what the specification itself gives administrators.
//
// Each of its routes is behind rest.Admin: an account with the administrator's flag. What takes a while is written down as a
// job, and done beside requests, by one process. Truths to keep:
//
//   - passwords are hashed by the account chapter, and rooms are written by the room server, asked over the bus: there is
//     no second way to do either;
//   - an administrator cannot lock or suspend another, nor themselves;
//   - a job's every step finds what an earlier attempt has done: a crash costs a repeated step, no more;
//   - nothing here shows a password or a token of a session.
package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// Accounts is what this chapter needs of the account chapter.
type Accounts interface {
	// Make makes an account, and gives the user; a RespError says why not. No password: nobody can log in with one.
	Make(ctx context.Context, name, password, displayName string, admin bool) (id.UserID, error)
	// ResetPassword gives the account another password, and ends all its sessions if that is wanted.
	ResetPassword(ctx context.Context, user id.UserID, password string, logout bool) error
	// SetProfile writes a string into the user's profile, and into the rooms; the empty one takes the field away.
	SetProfile(ctx context.Context, user id.UserID, field, value string) error
	// LoginAs opens a session of the user, with a device of this name, and gives its token. Zero until: it has no end.
	LoginAs(ctx context.Context, user id.UserID, device string, until time.Time) (string, error)
	// Validate says until when an account is good; the zero time: as long as one that is renewed. It gives what holds now.
	Validate(ctx context.Context, user id.UserID, until time.Time, reminders bool) (time.Time, error)
	// Close closes the account for ever; its user leaves all rooms.
	Close(ctx context.Context, user id.UserID, erase bool) error
}

// Handlers are the endpoints of this chapter.
type Handlers struct {
	server   string
	store    *storage.Store
	bus      *bus.Bus
	view     *view.Reader
	accounts Accounts

	begun    chan struct{} // rings when a job was written down
	noticing sync.Mutex    // one notice at a time: a user has one room for them
}

// New makes the handlers.
func New(serverName string, store *storage.Store, b *bus.Bus, v *view.Reader, accounts Accounts) *Handlers {
	return &Handlers{server: serverName, store: store, bus: b, view: v, accounts: accounts, begun: make(chan struct{}, 1)}
}

var missing = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}

var noSuchUser = mautrix.MNotFound.WithMessage("There is no such user")

// userID reads {userId}, who has to be one of ours, by form.
func (h *Handlers) userID(r *rest.Request) (id.UserID, error) {
	user, err := r.UserID()
	if err == nil && user.Homeserver() != h.server {
		err = mautrix.MInvalidParam.WithMessage("This user belongs to another server")
	}
	return user, err
}

// account reads {userId} and finds the account, closed or not.
func (h *Handlers) account(r *rest.Request) (*storage.Account, error) {
	user, err := h.userID(r)
	if err != nil {
		return nil, err
	}
	account, err := h.store.Accounts.ByID(r.Context(), user)
	if err == nil && account == nil {
		err = noSuchUser
	}
	return account, err
}

// Version handles GET /_synapse/admin/v1/server_version, for tools that ask before they begin.
func (h *Handlers) Version(*rest.Request) (any, error) {
	return map[string]string{"server_version": "Chancery"}, nil
}

// Available handles GET /_synapse/admin/v1/username_available.
func (h *Handlers) Available(r *rest.Request) (any, error) {
	name := strings.ToLower(r.Query("username"))
	user := id.NewUserID(name, h.server)
	if !rest.ValidUserID(user) {
		return nil, mautrix.MInvalidUsername.WithMessage("This cannot be a username")
	}
	account, err := h.store.Accounts.ByID(r.Context(), user)
	if err == nil && account != nil {
		err = mautrix.MUserInUse.WithMessage("This username is taken")
	}
	return map[string]bool{"available": true}, err
}

// orNull is a JSON value that may not be there.
func orNull(raw []byte) json.RawMessage {
	if raw == nil {
		return json.RawMessage("null")
	}
	return raw
}
