// Package rest is the plumbing of the client API: it turns a function that takes a [Request] and returns a value
// or an error into an HTTP endpoint.
//
// It owns authentication (devices and application services), user-interactive authentication, rate limits, JSON in
// and out, CORS, metrics and the log line of each request. What must not be broken:
//
//   - Handlers return errors; nobody but this package writes them. An error that is a mautrix.RespError, or a
//     refusal that came over the bus, is what the client reads; any other is a 500 with its cause logged.
//   - Every answer carries the CORS headers: errors, unknown paths and preflights too.
//   - No body is read beyond its bound, and none is decoded before the strict check of json.go has passed it.
//   - Tokens, passwords and message bodies are never logged.
package rest

import (
	"net/http"
	"time"
)

// Handler answers one request. The value becomes the JSON body of a 200, unless it is a [Status], an [Answer] or nil
// (an empty object).
type Handler func(r *Request) (any, error)

// Auth says who may come through a route's door.
type Auth int

const (
	// Open routes need no token and do not look at one.
	Open Auth = iota
	// Optional routes need none; but one that is given has to be good.
	Optional
	// Glimpsed routes need none, and take a bad one for none: but whoever is known by it to have expired is told so. Clients
	// ask there whether it is over.
	Glimpsed
	// User routes need the token of a device, or of an application service that acts for one of its users.
	User
	// Service routes are for an application service itself.
	Service
	// Admin routes need the token of an administrator of this server.
	Admin
)

// Route is one line of the table in clientapi/server.go.
type Route struct {
	Method  string
	Path    string // a net/http pattern without method; v3 paths are served under r0 as well
	Handler Handler
	Auth    Auth
	Limit   Kind          // the bucket a request is counted in; empty for none
	MaxBody int64         // bytes of the body that are read; 0 means 1 MiB, negative leaves the body to the handler
	Timeout time.Duration // after which the request's context ends; 0 means 60 s, negative none (long polls)
	Act     *Act          // what others notice of it; nil for what nobody does
	Locked  bool          // who is locked out may do this nevertheless
	Expired bool          // and this who has expired
}

// Act is what others notice: a message, a join, a new name. Suspended accounts are refused it, and shadow-banned ones are only
// told that it was done.
// Spec: client-server-api/#account-suspension
type Act struct {
	// Despite says what a suspended account may do nevertheless: leave a room, redact what it said. Nil: nothing.
	Despite func(r *Request) (bool, error)
	// Pretend is the answer to a shadow-banned account, instead of doing it. Nil: it is done.
	Pretend func(r *Request) any
}

const (
	defaultMaxBody = 1 << 20
	defaultTimeout = 60 * time.Second
)

// Config is what an operator may say about the client API's plumbing.
type Config struct {
	// QueryTokens accepts access tokens in the query string, where logs and proxies can see them. Default false;
	// turned on for very old clients only.
	QueryTokens bool `yaml:"query_tokens"`
	// TrustForwardedFor takes the client's address from the last entry of X-Forwarded-For. Default false; turn it on
	// only when a reverse proxy of yours is the one who talks to this listener. The token service of calls goes by it too.
	TrustForwardedFor bool `yaml:"trust_forwarded_for"`
	// Limits are the rate limits.
	Limits LimitsConfig `yaml:"limits"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{Limits: DefaultLimits()}
}

// Status is an answer with a status of its own.
type Status struct {
	Code int
	Body any // as JSON; nil is an empty object
}

// Answer writes a response that is not JSON: a file, a redirect, a page. The CORS headers are set already.
type Answer func(w http.ResponseWriter, r *http.Request)

// Redirect sends the client elsewhere with a 302.
func Redirect(url string) Answer {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusFound) }
}

// Empty is the answer of endpoints that have nothing to say.
var Empty = struct{}{}
