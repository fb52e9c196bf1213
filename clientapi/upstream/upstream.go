// Package upstream signs people in with identity providers (OpenID Connect): ProConnect, Keycloak, Entra and their like.
//
// It owns the conversation with the provider (discovery, code flow with PKCE, ID token, userinfo, logout in its three
// forms), and says which account of ours somebody is, making it where that is allowed. It shows no page and has no route:
// account (m.login.sso) and oauth (the OAuth server) are its two users, and hand a browser on like this:
//
//   - Start says where to send the browser; it comes back to account's callback, which asks Finish;
//   - Finish sends it on to the page that Start was given, with a pass, which that page gives to Take for the user;
//   - a session that is opened upon it is told with Attach, so that it ends when the provider's session does.
//
// To keep: a sign-in is good once, ten minutes, and in the browser that began it (a cookie; the database holds hashes
// alone). An account is found by who the provider says it is, else by a proved e-mail address, never by a username.
// Closed and locked accounts come in by no provider. All requests go through the client that New was given.
package upstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

var (
	signIns = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_upstream_signins_total", Help: "Sign-ins with identity providers, by what became of them.",
	}, []string{"outcome"})
	logouts = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_upstream_logouts_total", Help: "Sessions that ended by an identity provider's word, or by leaving it, by the way.",
	}, []string{"way"})
)

const (
	// beginAge is how long somebody may take at the provider.
	beginAge = 10 * time.Minute
	// doneAge is how long the page may take that is next.
	doneAge = 10 * time.Minute
	// providerTime bounds each request to a provider, and maxAnswer what is read of it.
	providerTime = 15 * time.Second
	maxAnswer    = 1 << 20
	// maxData bounds what a sign-in carries along.
	maxData = 8 << 10
)

// Providers are the identity providers. It is safe for concurrent use.
type Providers struct {
	cfg     Config
	store   *storage.Store
	refuses func(id.UserID) bool
	date    func(context.Context, id.UserID) error
	back    func(context.Context, string, id.UserID) (id.UserID, error)
	list    []*provider
	now     func() time.Time
}

// Deps are what it works with.
type Deps struct {
	Store *storage.Store
	// Client is what requests to providers go through.
	Client *http.Client
	// Refuses says whether nobody may be given this name: an application service's, or a reserved one. Nil: no name is.
	Refuses func(id.UserID) bool
	// Date gives a new account the moment at which it expires, inside Do. Nil: it never does.
	Date func(ctx context.Context, user id.UserID) error
	// ComeBack opens the closed account again whose address this was, inside Do; only that of whose, if that is not empty. It gives the user,
	// or empty. Nil: closed accounts stay closed.
	ComeBack func(ctx context.Context, address string, whose id.UserID) (id.UserID, error)
}

// New makes it. Providers are asked only when somebody wants to sign in.
func New(cfg Config, deps Deps) (*Providers, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	p := &Providers{cfg: cfg, store: deps.Store, refuses: deps.Refuses, date: deps.Date, back: deps.ComeBack, now: time.Now}
	if p.date == nil {
		p.date = func(context.Context, id.UserID) error { return nil }
	}
	if p.back == nil {
		p.back = func(context.Context, string, id.UserID) (id.UserID, error) { return "", nil }
	}
	if p.refuses == nil {
		p.refuses = func(id.UserID) bool { return false }
	}
	client := bounded(deps.Client)
	for _, one := range cfg.Providers {
		one = one.settled()
		names, err := newMapping(one, cfg.NameSuffixes)
		if err != nil {
			return nil, fmt.Errorf("upstream: provider %q: %w", one.ID, err)
		}
		p.list = append(p.list, &provider{cfg: one, names: names, client: client, callback: cfg.PublicURL + CallbackPath(one.ID)})
	}
	return p, nil
}

// CallbackPath is where a provider sends browsers back to.
func CallbackPath(provider string) string { return "/_chancery/upstream/" + provider + "/callback" }

// LeftPath is where a provider sends browsers that have left it: the one address for it that the provider has to know.
const LeftPath = "/_chancery/upstream/loggedout"

// Info is what people see of a provider.
type Info struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Icon  string `json:"icon,omitempty"`
	Brand string `json:"brand,omitempty"`
}

// List is the providers in the order of their buttons; empty if there are none.
func (p *Providers) List() []Info {
	list := make([]Info, 0, len(p.list))
	for _, one := range p.list {
		list = append(list, Info{ID: one.cfg.ID, Name: one.cfg.Name, Icon: one.cfg.Icon, Brand: one.cfg.Brand})
	}
	return list
}

// Name is what people read of a provider; empty if there is none of this ID.
func (p *Providers) Name(provider string) string {
	if one := p.provider(provider); one != nil {
		return one.cfg.Name
	}
	return ""
}

func (p *Providers) provider(name string) *provider {
	for _, one := range p.list {
		if one.cfg.ID == name {
			return one
		}
	}
	return nil
}

// Wish is a sign-in that somebody begins.
type Wish struct {
	// Provider is the ID of one of List.
	Provider string
	// Return is the path on this server (with a query, perhaps) where the browser goes after it; "signin" is added to its query.
	Return string
	// Data comes back with Take: what the caller has to remember, and the browser must not change. At most 8 KiB.
	Data string
	// LoginHint is who they probably are: a user name or an e-mail address, or empty.
	LoginHint string
	// Locales are the languages they read, as browsers list them; or empty.
	Locales string
	// Fresh has them prove anew who they are, though the provider knows them.
	Fresh bool
}

// begun is what is remembered while somebody is at the provider.
type begun struct {
	Provider string    `json:"provider"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"`
	Return   string    `json:"return"`
	Data     string    `json:"data,omitempty"`
	Fresh    bool      `json:"fresh,omitempty"`
	At       time.Time `json:"at"`
}

// Start gives the URL at the provider to which the browser is to be sent, and puts the cookie that binds the sign-in to
// this browser into the answer's header. A *Refusal says why there is none.
func (p *Providers) Start(r *http.Request, header http.Header, wish Wish) (string, error) {
	one := p.provider(wish.Provider)
	if one == nil {
		return "", &Refusal{Reason: ReasonUnknown}
	}
	if !strings.HasPrefix(wish.Return, "/") || strings.HasPrefix(wish.Return, "//") || len(wish.Data) > maxData {
		return "", errors.New("upstream: a sign-in has to return to a path of this server, with little to remember")
	}
	ctx, cancel := context.WithTimeout(r.Context(), providerTime)
	defer cancel()
	state := rand.Text()
	about := begun{Provider: one.cfg.ID, Nonce: rand.Text(), Verifier: newVerifier(), Return: wish.Return, Data: wish.Data, Fresh: wish.Fresh, At: p.now()}
	to, err := one.authorize(ctx, state, about, wish)
	if err != nil {
		return "", &Refusal{Reason: ReasonProvider, Provider: one.cfg.Name, Cause: err}
	}
	content, err := json.Marshal(about)
	if err != nil {
		return "", err
	}
	browser := p.browser(r, header)
	return to, p.store.Do(r.Context(), func(ctx context.Context) error {
		_, err := p.store.Upstream.PutPass(ctx, storage.UpstreamPass{
			Kind: storage.UpstreamBegun, Secret: state, Browser: browser, Content: content, Expires: p.now().Add(beginAge),
		})
		return err
	})
}

// SignedIn is somebody of ours who has signed in at a provider.
type SignedIn struct {
	User     id.UserID
	Provider string
	// Session is for Attach.
	Session string
	// Data is what the Wish held.
	Data string
}

// Peek is who holds the pass, which stays good; nil if it is not this browser's, used, or too old.
func (p *Providers) Peek(r *http.Request, pass string) (*SignedIn, error) {
	raw, err := p.store.Upstream.Pass(r.Context(), storage.UpstreamDone, pass, p.cookieOf(r))
	return signedIn(raw, err)
}

// Take is Peek, and uses the pass up: it is good once.
func (p *Providers) Take(r *http.Request, pass string) (who *SignedIn, err error) {
	err = p.store.Do(r.Context(), func(ctx context.Context) error {
		raw, err := p.store.Upstream.TakePass(ctx, storage.UpstreamDone, pass, p.cookieOf(r))
		who, err = signedIn(raw, err)
		return err
	})
	return who, err
}

func signedIn(raw []byte, err error) (*SignedIn, error) {
	if err != nil || raw == nil {
		return nil, err
	}
	var d done
	if err := json.Unmarshal(raw, &d); err != nil || d.User == "" {
		return nil, err
	}
	return &SignedIn{User: d.User, Provider: d.Provider, Session: d.Session, Data: d.Data}, nil
}

// Attach notes that a device came of a session at a provider, inside Do: it ends with it. M_FORBIDDEN says that the session
// has ended meanwhile, and the device is not to be.
func (p *Providers) Attach(ctx context.Context, session string, user id.UserID, device id.DeviceID) error {
	lasts, err := p.store.Upstream.Attach(ctx, session, user, device)
	if err == nil && !lasts {
		err = mautrix.MForbidden.WithMessage("The session at the identity provider has ended")
	}
	return err
}

// Knows says whether the user can sign in at one of the providers.
func (p *Providers) Knows(ctx context.Context, user id.UserID) (bool, error) {
	if len(p.list) == 0 {
		return false, nil
	}
	known, err := p.store.ExternalIDs.Of(ctx, user)
	for _, e := range known {
		if p.provider(e.Provider) != nil {
			return true, err
		}
	}
	return false, err
}

// ProviderOf is one of the providers at which the user can sign in; empty if there is none.
func (p *Providers) ProviderOf(ctx context.Context, user id.UserID) (string, error) {
	known, err := p.store.ExternalIDs.Of(ctx, user)
	for _, one := range p.list {
		for _, e := range known {
			if e.Provider == one.cfg.ID {
				return one.cfg.ID, err
			}
		}
	}
	return "", err
}

// Trusted says whether a browser may be sent there with a login token without its user being asked.
func (p *Providers) Trusted(to *url.URL) bool {
	for _, text := range p.cfg.TrustedClients {
		known, err := url.Parse(text)
		if err != nil || !strings.EqualFold(known.Scheme, to.Scheme) {
			continue
		}
		if known.Host == "" {
			return true
		}
		if strings.EqualFold(known.Host, to.Host) && to.User == nil && beneath(known.EscapedPath(), to.EscapedPath()) {
			return true
		}
	}
	return false
}

// beneath says whether a path is a folder, or in it.
func beneath(folder, path string) bool {
	if strings.Contains(path, "/../") || strings.HasSuffix(path, "/..") || strings.Contains(strings.ToLower(path), "%2e") || strings.Contains(path, `\`) {
		return false
	}
	folder = strings.TrimSuffix(folder, "/")
	return folder == "" || path == folder || strings.HasPrefix(path, folder+"/")
}

// Sweep forgets, inside Do, what is over.
func (p *Providers) Sweep(ctx context.Context) error {
	return p.store.Upstream.Sweep(ctx, p.now().Add(-24*time.Hour))
}

// bounded is a client whose answers have an end.
func bounded(client *http.Client) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	with := *client
	with.Timeout = providerTime
	with.Transport = boundedTransport{client.Transport}
	return &with
}

type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	answer, err := next.RoundTrip(r)
	if err == nil {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxAnswer), answer.Body}
	}
	return answer, err
}
