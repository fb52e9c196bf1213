package rest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
)

// Options are what the doors need besides the routes.
type Options struct {
	Config   Config
	Log      zerolog.Logger
	Tokens   Tokens   // who holds which access token
	Services Services // the application services; nil if there are none
	Limits   *Limits  // nil makes them from Config
}

// door serves the routes.
type door struct {
	cfg      Config
	log      zerolog.Logger
	tokens   Tokens
	services Services
	limits   *Limits
	mux      *http.ServeMux
}

// NewMux makes the handler that serves these routes. It panics when two of them contradict each other, at start.
func NewMux(routes []Route, opts Options) http.Handler {
	d := &door{cfg: opts.Config, log: opts.Log, tokens: opts.Tokens, services: opts.Services, limits: opts.Limits, mux: http.NewServeMux()}
	if d.limits == nil {
		d.limits = NewLimits(opts.Config.Limits, nil)
	}
	for _, route := range routes {
		for _, p := range aliases(route.Path) {
			d.mux.Handle(route.Method+" "+p, d.endpoint(route))
		}
	}
	return d
}

// aliases are the paths under which a route is served: r0 was the name of v3 before Matrix 1.1, and clients still use it.
func aliases(p string) []string {
	for _, family := range []string{"/_matrix/client/", "/_matrix/media/"} {
		if rest, ok := strings.CutPrefix(p, family+"v3/"); ok {
			return []string{p, family + "r0/" + rest}
		}
	}
	return []string{p}
}

// ServeHTTP finds the route. Preflights, unknown paths and wrong methods are answered here.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setCORS(w.Header())
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	if !clean(r.URL.EscapedPath()) {
		d.unrecognized(w, r, http.StatusNotFound)
		return
	}
	if _, pattern := d.mux.Handler(r); pattern == "" {
		status := http.StatusNotFound
		if d.servesOtherwise(r) {
			status = http.StatusMethodNotAllowed
		}
		d.unrecognized(w, r, status)
		return
	}
	d.mux.ServeHTTP(w, r)
}

// clean says whether the mux takes the path as it is, and would not redirect to another spelling of it.
func clean(escaped string) bool {
	if escaped == "" || escaped[0] != '/' {
		return false
	}
	cleaned := path.Clean(escaped)
	if strings.HasSuffix(escaped, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned == escaped
}

// servesOtherwise says whether the path exists under another method.
func (d *door) servesOtherwise(r *http.Request) bool {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := *r
		other.Method = method
		if _, pattern := d.mux.Handler(&other); pattern != "" {
			return true
		}
	}
	return false
}

func (d *door) unrecognized(w http.ResponseWriter, r *http.Request, status int) {
	count("unrecognized", knownMethod(r.Method), status, time.Now())
	WriteError(w, r, mautrix.MUnrecognized.WithStatus(status).WithMessage("Unrecognized request"))
}

func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
		return method
	}
	return "other"
}

// endpoint wraps a handler in everything that all of them share.
func (d *door) endpoint(route Route) http.HandlerFunc {
	return func(w http.ResponseWriter, hr *http.Request) {
		start := time.Now()
		seen := &recorder{ResponseWriter: w}
		// A deadline of the answer before on this connection is no business of this one.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		ctx := d.log.With().Str("method", hr.Method).Str("endpoint", route.Path).Logger().WithContext(hr.Context())
		timeout := route.Timeout
		if timeout == 0 {
			timeout = defaultTimeout
		}
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		r := &Request{HTTP: hr.WithContext(ctx), Limits: d.limits, writer: seen, cfg: &d.cfg, maxBody: route.MaxBody}
		defer d.finish(r, seen, route, start)
		value, err := d.admit(r, route)
		if value == nil && err == nil {
			value, err = route.Handler(r)
		}
		respond(seen, r.HTTP, value, err)
	}
}

// admit says why a request is not answered by its handler, or what is answered instead. It is no part of the handler's stack: thousands of those wait.
//
//go:noinline
func (d *door) admit(r *Request, route Route) (instead any, err error) {
	if !validQuery(r) {
		return nil, mautrix.MInvalidParam.WithMessage("The URL holds text that is not UTF-8")
	}
	if err := d.authenticate(r, route); err != nil {
		return nil, err
	}
	if r.By.User != "" {
		zerolog.Ctx(r.Context()).UpdateContext(func(c zerolog.Context) zerolog.Context {
			return c.Stringer("user_id", r.By.User)
		})
	}
	if route.Limit != "" && r.By.limited() {
		key := string(r.By.User)
		if key == "" {
			key = r.Address()
		}
		var err error
		if own := r.By.Rate; own != nil {
			err = d.limits.TakeAs(route.Limit, key, *own)
		} else {
			err = d.limits.Take(route.Limit, key)
		}
		if err != nil {
			return nil, err
		}
	}
	return act(r, route.Act)
}

// validQuery refuses paths and queries with bytes that could not be stored.
func validQuery(r *Request) bool {
	if !validText(r.HTTP.URL.Path) {
		return false
	}
	for name, values := range r.values() {
		for _, v := range values {
			if !validText(name) || !validText(v) {
				return false
			}
		}
	}
	return true
}

// finish answers for a handler that panicked, counts, and writes the log line.
func (d *door) finish(r *Request, seen *recorder, route Route, start time.Time) {
	log := zerolog.Ctx(r.Context())
	if cause := recover(); cause != nil {
		if cause == http.ErrAbortHandler {
			panic(cause)
		}
		panics.Inc()
		log.Error().Str("panic", fmt.Sprint(cause)).Bytes("stack", debug.Stack()).Msg("Handler panicked")
		if seen.code == 0 {
			WriteError(seen, r.HTTP, mautrix.MUnknown.WithMessage("Internal server error"))
		}
	}
	if seen.code == 0 {
		seen.code = http.StatusOK
	}
	count(route.Path, r.HTTP.Method, seen.code, start)
	log.Debug().Int("code", seen.code).Dur("took", time.Since(start)).Msg("Request answered")
}

// recorder remembers the status for metrics and the log.
type recorder struct {
	http.ResponseWriter
	code int
}

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack hands the connection to a WebSocket.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
