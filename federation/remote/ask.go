package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/federation"
)

var asked = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "chancery_federation_questions_total",
	Help: "Questions put to other servers, by endpoint and result.",
}, []string{"endpoint", "result"})

// Request is one question to another server.
type Request struct {
	Server string
	Method string
	// Path are the segments after /_matrix/federation, unescaped: "v1", "event", "$id". If Key is set, those after /_matrix/key.
	Path []string
	Key  bool
	// Media: the path is one of /_matrix/media instead.
	Media bool
	// Policy: the path is one of /_matrix/policy instead.
	Policy bool
	Query  url.Values
	// Body is marshalled as JSON; nil is no body.
	Body any
	// Unsigned leaves the X-Matrix header out, for the few endpoints that need none.
	Unsigned bool
	// Limit bounds the answer, in bytes. Default: 16 MiB.
	Limit int64
	// Timeout ends the question. Default: that of the configuration.
	Timeout time.Duration
}

// LargeAnswer is the bound for answers that hold the state of a room.
const LargeAnswer = 512 << 20

const defaultAnswer = 16 << 20

// ErrNotAllowed is what a question to a server gives that policy does not let us speak with.
var ErrNotAllowed = errors.New("remote: server is not on the list of allowed ones")

// Ask puts the question and decodes the answer into answer, which may be nil or a *json.RawMessage. If the other server refused,
// Refused tells what it said.
func (c *Client) Ask(ctx context.Context, q Request, answer any) error {
	if !c.Allows(q.Server) || q.Server == c.name {
		return fmt.Errorf("ask %s: %w", q.Server, ErrNotAllowed)
	}
	timeout := q.Timeout
	if timeout <= 0 {
		timeout = c.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	fed := *c.fed
	fed.ResponseSizeLimit = q.Limit
	if fed.ResponseSizeLimit <= 0 {
		fed.ResponseSizeLimit = defaultAnswer
	}
	_, _, err := fed.MakeFullRequest(ctx, q.params(answer))
	asked.WithLabelValues(q.endpoint(), result(err)).Inc()
	if err != nil {
		return fmt.Errorf("ask %s for %s: %w", q.Server, q.endpoint(), err)
	}
	return nil
}

// Open puts the question and hands over the answer unread. The caller closes its body, and gives the context the deadline.
func (c *Client) Open(ctx context.Context, q Request) (*http.Response, error) {
	if !c.Allows(q.Server) || q.Server == c.name {
		return nil, fmt.Errorf("ask %s: %w", q.Server, ErrNotAllowed)
	}
	params := q.params(nil)
	params.DontReadBody = true
	_, resp, err := c.fed.MakeFullRequest(ctx, params)
	asked.WithLabelValues(q.endpoint(), result(err)).Inc()
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", q.Server, q.endpoint(), err)
	}
	return resp, nil
}

// Fetch gets an https URL that another server named, such as the place of a file; redirects stay on https, addresses pass the
// policy. The caller closes the body.
func (c *Client) Fetch(ctx context.Context, where string) (*http.Response, error) {
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("fetch %q: not an https URL", where)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %q: %w", where, err)
	}
	client := *c.external
	client.Timeout = 0 // the context has the deadline; a file may take longer than a .well-known
	return client.Do(req)
}

func (q Request) params(answer any) federation.RequestParams {
	segments := make([]any, len(q.Path))
	for i, s := range q.Path {
		segments[i] = s
	}
	p := federation.RequestParams{
		ServerName: q.Server, Method: q.Method, Query: q.Query, Authenticate: !q.Unsigned,
		RequestJSON: q.Body, ResponseJSON: answer,
	}
	switch {
	case q.Key:
		p.Path = federation.KeyURLPath(segments)
	case q.Media:
		p.Path = mediaPath(segments)
	case q.Policy:
		p.Path = policyPath(segments)
	default:
		p.Path = federation.URLPath(segments)
	}
	return p
}

// mediaPath is a path of the media API of before Matrix 1.11.
type mediaPath []any

// FullPath is mautrix.PrefixableURLPath's.
func (p mediaPath) FullPath() []any { return append([]any{"_matrix", "media"}, p...) }

// policyPath is a path of a policy server.
type policyPath []any

// FullPath is mautrix.PrefixableURLPath's.
func (p policyPath) FullPath() []any { return append([]any{"_matrix", "policy"}, p...) }

// endpoint is the short name of a question, for errors and metrics: it names no room and no user.
func (q Request) endpoint() string {
	switch {
	case q.Key:
		return "key"
	case q.Media:
		return "media/old"
	case q.Policy:
		return "policy"
	case len(q.Path) > 2 && (q.Path[1] == "query" || q.Path[1] == "media" || q.Path[1] == "openid"):
		return q.Path[1] + "/" + q.Path[2]
	case len(q.Path) > 1:
		return q.Path[1]
	}
	return "unknown"
}

func result(err error) string {
	if err == nil {
		return "ok"
	}
	if _, refused := Refused(err); refused {
		return "refused"
	}
	return "failed"
}

// Refused tells what the other server answered, if the error is a refusal of its own and not a failure on the way to it. The
// status is always set; the errcode is M_UNKNOWN if it gave none.
func Refused(err error) (mautrix.RespError, bool) {
	var he mautrix.HTTPError
	if !errors.As(err, &he) || he.Response == nil || he.Response.StatusCode < 300 {
		return mautrix.RespError{}, false
	}
	refusal := mautrix.MUnknown
	if he.RespError != nil {
		refusal = *he.RespError
	}
	refusal.StatusCode = he.Response.StatusCode
	return refusal, true
}
