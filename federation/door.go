package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/policy"
	"chancery/storage/bus"
)

var (
	answered = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_federation_requests_total",
		Help: "Requests of other servers, by endpoint and HTTP status.",
	}, []string{"endpoint", "code"})
	answerSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "chancery_federation_request_seconds",
		Help:    "How long other servers waited for an answer.",
		Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30},
	}, []string{"endpoint"})
)

// request is a request of another server whose signature was good, or of anybody on the few open routes.
type request struct {
	*http.Request
	// origin is the server that signed it; empty on open routes.
	origin string
	// body is the JSON object that came with it, nil if none.
	body []byte
	// query is the parsed query.
	query url.Values
}

func (r *request) roomID() id.RoomID   { return id.RoomID(r.PathValue("roomId")) }
func (r *request) eventID() id.EventID { return id.EventID(r.PathValue("eventId")) }
func (r *request) userID() id.UserID   { return id.UserID(r.PathValue("userId")) }

// decode reads the body into v.
func (r *request) decode(v any) error {
	if err := json.Unmarshal(r.body, v); err != nil {
		return mautrix.MBadJSON.WithMessage("The body does not have the form that this endpoint wants")
	}
	return nil
}

// limit reads a number from the query, within bounds.
func (r *request) limit(name string, byDefault, most int) int {
	n, err := strconv.Atoi(r.query.Get(name))
	if err != nil || n < 0 {
		n = byDefault
	}
	return min(n, most)
}

// handler answers a request with a value, which is marshalled (json.RawMessage goes out as it is), or an error: a RespError or a
// bus.Refusal is told to the other server, anything else becomes a 500 with its cause in the log. A stream writes itself.
type handler func(r *request) (any, error)

// stream is an answer that writes itself.
type stream func(w http.ResponseWriter)

// route is one line of the table in server.go.
type route struct {
	method, path string
	handle       handler
	// open routes need no signature.
	open bool
	// limit bounds the body; 0 takes defaultBody.
	limit int64
}

const (
	defaultBody = 1 << 20
	// sendBody holds 50 PDUs and 100 EDUs of the greatest size.
	sendBody = 16 << 20
)

// door authenticates, routes, answers.
type door struct {
	name   string
	remote *remote.Client
	ring   *remote.Ring
	log    zerolog.Logger
	mux    *http.ServeMux
	paths  map[string]map[string]route // by pattern, by method
	// allowed are globs of the paths that may be asked; none: all.
	allowed []string
	guests  *guests
	// heard is told of each server that spoke to us.
	heard func(server string)
}

func newDoor(client *remote.Client, ring *remote.Ring, cfg Config, log zerolog.Logger) *door {
	return &door{
		allowed: cfg.AllowedPaths,
		name:    client.ServerName(), remote: client, ring: ring, log: log,
		mux: http.NewServeMux(), paths: make(map[string]map[string]route), guests: newGuests(cfg),
	}
}

// serve makes the table's routes known.
func (d *door) serve(routes []route) {
	for _, rt := range routes {
		if d.paths[rt.path] == nil {
			d.paths[rt.path] = make(map[string]route)
			d.mux.HandleFunc(rt.path, func(w http.ResponseWriter, r *http.Request) { d.choose(w, r, d.paths[rt.path]) })
		}
		d.paths[rt.path][rt.method] = rt
	}
}

// ServeHTTP is http.Handler's.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p := r.URL.EscapedPath(); path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/" {
		// The mux would redirect, and signed requests do not follow redirects.
		writeError(w, mautrix.MUnrecognized.WithMessage("Unrecognized request"))
		return
	}
	if _, pattern := d.mux.Handler(r); pattern == "" || !d.open(r.URL.Path) {
		writeError(w, mautrix.MUnrecognized.WithMessage("Unrecognized request"))
		return
	}
	d.mux.ServeHTTP(w, r)
}

// open says whether the configuration lets other servers ask that path at all.
func (d *door) open(path string) bool {
	return len(d.allowed) == 0 || slices.ContainsFunc(d.allowed, func(glob string) bool { return policy.Glob(glob, path) })
}

func (d *door) choose(w http.ResponseWriter, r *http.Request, methods map[string]route) {
	rt, ok := methods[r.Method]
	if !ok {
		refusal := mautrix.MUnrecognized.WithMessage("Unrecognized method")
		refusal.StatusCode = http.StatusMethodNotAllowed
		writeError(w, refusal)
		return
	}
	start := time.Now()
	name := rt.name()
	status := d.answer(w, r, rt)
	answered.WithLabelValues(name, strconv.Itoa(status)).Inc()
	answerSeconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
}

// name is the last fixed segment of the path: what metrics call the endpoint.
func (rt route) name() string {
	name := ""
	for _, s := range strings.Split(rt.path, "/") {
		if s != "" && !strings.HasPrefix(s, "{") {
			name = s
		}
	}
	return name
}

func (d *door) answer(w http.ResponseWriter, r *http.Request, rt route) (status int) {
	log := d.log.With().Str("endpoint", rt.name()).Logger()
	defer func() {
		if p := recover(); p != nil {
			log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("Handler panicked")
			status = writeError(w, mautrix.MUnknown.WithMessage("Internal server error"))
		}
	}()
	req := &request{Request: r.WithContext(log.WithContext(r.Context())), query: r.URL.Query()}
	value, err := d.handle(w, req, rt)
	switch v := value.(type) {
	case stream:
		if err == nil {
			v(w)
			return http.StatusOK
		}
	default:
		if err == nil {
			return writeJSON(w, http.StatusOK, value)
		}
	}
	var refusal mautrix.RespError
	var refused *bus.Refusal
	switch {
	case errors.As(err, &refusal):
	case errors.As(err, &refused):
		refusal = mautrix.RespError{ErrCode: refused.Code, Err: refused.Message, StatusCode: refused.Status, ExtraData: refused.Extra}
	case errors.Is(err, context.DeadlineExceeded):
		refusal = mautrix.MUnknown.WithMessage("Timed out")
		refusal.StatusCode = http.StatusGatewayTimeout
	default:
		if r.Context().Err() == nil {
			log.Error().Err(err).Str("origin", req.origin).Msg("Request failed")
		}
		refusal = mautrix.MUnknown.WithMessage("Internal server error")
	}
	return writeError(w, refusal)
}

func (d *door) handle(w http.ResponseWriter, r *request, rt route) (any, error) {
	limit := rt.limit
	if limit == 0 {
		limit = defaultBody
	}
	var err error
	if rt.open {
		if r.Method != http.MethodGet {
			if r.body, err = readBody(r.Request, limit); err != nil {
				return nil, err
			}
		}
		return rt.handle(r)
	}
	if r.origin, r.body, err = d.authenticate(w, r.Request, limit); err != nil {
		return nil, err
	}
	leave, err := d.guests.enter(r.origin)
	if err != nil {
		return nil, err
	}
	defer leave()
	d.heard(r.origin)
	return rt.handle(r)
}

func writeJSON(w http.ResponseWriter, status int, value any) int {
	raw, ok := value.(json.RawMessage)
	if !ok {
		var err error
		if raw, err = json.Marshal(value); err != nil {
			return writeError(w, mautrix.MUnknown.WithMessage("Internal server error"))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw) // a reader who has gone away is not our fault
	return status
}

func writeError(w http.ResponseWriter, refusal mautrix.RespError) int {
	if refusal.StatusCode == 0 {
		refusal.StatusCode = http.StatusBadRequest
	}
	retryAfter(w, refusal)
	body := make(map[string]any, len(refusal.ExtraData)+2)
	for k, v := range refusal.ExtraData {
		body[k] = v
	}
	body["errcode"], body["error"] = refusal.ErrCode, refusal.Err
	return writeJSON(w, refusal.StatusCode, body)
}
