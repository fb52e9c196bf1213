package rest

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// Request is one request on its way through a handler.
type Request struct {
	// HTTP is the request underneath. Its body belongs to JSON and OptionalJSON, unless the route's MaxBody is negative.
	HTTP *http.Request
	// By is who asks; the zero value on open routes, and on optional ones without a token.
	By Requester
	// Limits are the server's rate limits, for what a handler counts itself.
	Limits *Limits

	writer  http.ResponseWriter
	cfg     *Config
	maxBody int64
	body    []byte
	read    bool
	query   url.Values // read once
}

// Requester is who a request comes from.
type Requester struct {
	User    id.UserID
	Device  id.DeviceID // empty for an application service that names none
	Admin   bool
	Service Application // the application service that asks, or nil
	OAuth   bool        // the token came by the OAuth 2.0 API: nothing is confirmed but on the account pages

	// How the account stands. The doors see to it: who is Locked comes nowhere but to log out, who is Expired nowhere but to renew.
	Locked, Suspended, Shadowed, Expired bool
	// Until is when the account expires; zero: never.
	Until time.Time
	// Rate is the user's own rate limit in place of the general ones, or nil.
	Rate *Rate
}

// Context ends when the client goes away, or after the route's timeout.
func (r *Request) Context() context.Context { return r.HTTP.Context() }

// Path is a part of the path, decoded: Path("roomId") for {roomId}.
func (r *Request) Path(name string) string { return r.HTTP.PathValue(name) }

// Query is the first value of a query parameter, or "".
func (r *Request) Query(name string) string { return r.values().Get(name) }

// Settle lets go of what was read of the request, for a handler that now waits for long.
func (r *Request) Settle() { r.query, r.body = nil, nil }

func (r *Request) values() url.Values {
	if r.query == nil {
		r.query = r.HTTP.URL.Query()
	}
	return r.query
}

// RoomID is {roomId}, checked for its form.
func (r *Request) RoomID() (id.RoomID, error) {
	v := r.Path("roomId")
	if !validID(v, '!') {
		return "", mautrix.MInvalidParam.WithMessage("%q is not a room ID", clip(v))
	}
	return id.RoomID(v), nil
}

// EventID is {eventId}, checked for its form.
func (r *Request) EventID() (id.EventID, error) {
	v := r.Path("eventId")
	if !validID(v, '$') {
		return "", mautrix.MInvalidParam.WithMessage("%q is not an event ID", clip(v))
	}
	return id.EventID(v), nil
}

// UserID is {userId}, checked for its form.
func (r *Request) UserID() (id.UserID, error) {
	v := r.Path("userId")
	if !ValidUserID(id.UserID(v)) {
		return "", mautrix.MInvalidParam.WithMessage("%q is not a user ID", clip(v))
	}
	return id.UserID(v), nil
}

// Own is {userId} where the path names the asking user; anybody else gets M_FORBIDDEN.
func (r *Request) Own() (id.UserID, error) {
	if r.Path("userId") != string(r.By.User) {
		return "", mautrix.MForbidden.WithMessage("You may do this for your own user only")
	}
	return r.By.User, nil
}

// Int is a query parameter that is a number, held between low and high; absent, it is the fallback.
func (r *Request) Int(name string, fallback, low, high int) (int, error) {
	v := r.Query(name)
	if v == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		if numErr, ok := err.(*strconv.NumError); !ok || numErr.Err != strconv.ErrRange {
			return 0, mautrix.MInvalidParam.WithMessage("%s is not a number", name)
		}
	}
	return int(max(int64(low), min(int64(high), n))), nil
}

// Bool is a query parameter that is true or false; absent, it is false.
func (r *Request) Bool(name string) (bool, error) {
	switch r.Query(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, mautrix.MInvalidParam.WithMessage("%s is neither true nor false", name)
}

// Address is the client's network address without port.
func (r *Request) Address() string {
	if r.cfg != nil && r.cfg.TrustForwardedFor {
		if all := r.HTTP.Header.Values("X-Forwarded-For"); len(all) > 0 {
			hops := strings.Split(all[len(all)-1], ",")
			if ip := net.ParseIP(strings.TrimSpace(hops[len(hops)-1])); ip != nil {
				return ip.String()
			}
		}
	}
	host, _, err := net.SplitHostPort(r.HTTP.RemoteAddr)
	if err != nil {
		return r.HTTP.RemoteAddr
	}
	return host
}

// KeepReading gives the client so long to send more of the body, after which reading it fails; 0 gives it for ever, as it was.
// For bodies that a handler reads itself, bit by bit.
func (r *Request) KeepReading(span time.Duration) {
	if r.writer == nil {
		return
	}
	var until time.Time
	if span > 0 {
		until = time.Now().Add(span)
	}
	// Not every server supports deadlines (a test's recorder does not); then there is none.
	_ = http.NewResponseController(r.writer).SetReadDeadline(until)
}

// Header is the answer's header, for a handler that has one to add.
func (r *Request) Header() http.Header { return r.writer.Header() }

// ValidUserID says whether this can be anybody's user ID, historical ones included.
func ValidUserID(user id.UserID) bool {
	local, server, err := user.Parse()
	return err == nil && local != "" && server != "" && validID(string(user), '@')
}

func validID(v string, sigil byte) bool {
	return len(v) > 1 && len(v) <= 255 && v[0] == sigil && validText(v)
}

// validText says whether this can be stored and sent again: UTF-8, and no NUL (which PostgreSQL refuses).
func validText(v string) bool {
	return utf8.ValidString(v) && !strings.ContainsRune(v, 0)
}

func clip(v string) string {
	if len(v) > 64 {
		return v[:64] + "…"
	}
	return v
}

// ServerUser is the server itself as a user: it sends the server's notices, and nobody can have its name.
func ServerUser(serverName string) id.UserID { return id.NewUserID("_server", serverName) }
