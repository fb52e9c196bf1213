// Package oauth is the OAuth 2.0 API: the authorization server of this homeserver, the pages on which people sign in,
// register, let a client or a device in and manage their account, and the meeting places at which one device lets
// another in by a QR code.
//
// It owns the clients that registered themselves, codes, browsers that are signed in, approvals and meeting places. Sessions
// are those of clientapi/account: a client that comes in here gets a device with a pair of tokens like every other. To keep:
//
//   - nobody is sent anywhere but to a redirect URI that the client registered; what is wrong before that is known is said on a page;
//   - codes and refresh tokens are good once: who comes again with one ends the session that came of it;
//   - a form is believed only with the token that belongs to the browser's cookie, and no page runs scripts, loads anything
//     from elsewhere or can be framed;
//   - passwords are judged by clientapi/account alone, with its limits; they are neither stored here nor sent back in a page.
package oauth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
	"chancery/storage"
)

// Config is what an operator may say about OAuth 2.0.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// PublicURL is where clients and browsers reach this server. clientapi fills it in.
	PublicURL string `yaml:"-"`
	// Enabled turns the OAuth 2.0 API and the account pages on. Default false. Element then signs people in on the pages only; other
	// clients may still log in with a password. A reverse proxy has to pass /oauth2/ and /account on, too.
	Enabled bool `yaml:"enabled"`
	// AccessLifetime is how long an access token lives until the client refreshes it. Default 5m.
	AccessLifetime time.Duration `yaml:"access_lifetime"`
	// RefreshLifetime is how long a refresh token waits to be used: a client that was away for longer signs in again. Default 0: for ever.
	RefreshLifetime time.Duration `yaml:"refresh_lifetime"`
	// BrowserLifetime is how long a browser stays signed in to the account pages that nobody uses. Default 168h, a week.
	BrowserLifetime time.Duration `yaml:"browser_lifetime"`
	// IntrospectionSecret lets other programs of yours ask at /oauth2/introspect whose token they were given. Default none: the
	// endpoint is off.
	IntrospectionSecret string `yaml:"introspection_secret"`
	// InsecureClients lets web clients register whose addresses begin with http://. Default false; for laboratories only.
	InsecureClients bool `yaml:"insecure_clients"`
	// Terms are the documents that everybody accepts who registers. clientapi fills them in.
	Terms []Document `yaml:"-"`
}

// Document is one that people accept, with its title and address by language.
type Document struct{ Titles, URLs map[string]string }

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{AccessLifetime: 5 * time.Minute, BrowserLifetime: 7 * 24 * time.Hour}
}

// Validate refuses what cannot work.
func (c Config) Validate() error {
	switch {
	case c.AccessLifetime < time.Second || c.AccessLifetime > 24*time.Hour:
		return errors.New("oauth: access_lifetime must be between 1s and 24h")
	case c.RefreshLifetime != 0 && c.RefreshLifetime < c.AccessLifetime:
		return errors.New("oauth: refresh_lifetime must be at least as long as access_lifetime, or 0")
	case c.BrowserLifetime < time.Minute:
		return errors.New("oauth: browser_lifetime must be at least 1m")
	case c.IntrospectionSecret != "" && len(c.IntrospectionSecret) < 16:
		return errors.New("oauth: introspection_secret must have at least 16 characters")
	}
	return nil
}

// Accounts is what the pages ask of the chapter that keeps accounts.
type Accounts interface {
	// SignIn is whose name and password these are; a RespError if they are nobody's, or the account may not be entered.
	SignIn(r *rest.Request, name, password string) (id.UserID, error)
	MayEnter(ctx context.Context, user id.UserID) error
	HasPassword(ctx context.Context, user id.UserID) (bool, error)
	CheckPassword(r *rest.Request, user id.UserID, password string) error
	ChangePassword(r *rest.Request, user id.UserID, password string, logout bool) error
	SetProfile(ctx context.Context, user id.UserID, field, value string) error
	Addresses(ctx context.Context, user id.UserID) ([]string, error)
	Close(ctx context.Context, user id.UserID, erase bool) error
}

// Registration is what they ask of it when strangers register.
type Registration interface {
	// Ways are the ways to register, each as its stages; none: registration is closed.
	Ways(ctx context.Context) ([][]string, error)
	SignUp(r *rest.Request, who rest.Newcomer) (id.UserID, error)
	BeginEmail(r *rest.Request, address string) (sid, secret string, err error)
	ProvedEmail(ctx context.Context, sid, secret string) (string, error)
}

// Handlers are the endpoints and pages of this chapter.
type Handlers struct {
	cfg      Config
	store    *storage.Store
	accounts Accounts
	register Registration
	upstream *upstream.Providers
	secure   bool // browsers reach us by https
	texts    catalogue
	now      func() time.Time
}

// Deps are what this chapter works with.
type Deps struct {
	Store        *storage.Store
	Accounts     Accounts
	Registration Registration
	// Upstream are the identity providers with which people may sign in; nil: there are none.
	Upstream *upstream.Providers
}

// New makes the handlers.
func New(cfg Config, deps Deps) (*Handlers, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	public, err := url.Parse(cfg.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("oauth: public_url: %w", err)
	}
	return &Handlers{
		cfg: cfg, store: deps.Store, accounts: deps.Accounts, register: deps.Registration, upstream: deps.Upstream,
		secure: public.Scheme == "https", texts: texts(), now: time.Now,
	}, nil
}

const (
	sweepEvery = 10 * time.Minute
	// overAge is how long codes are remembered after their end, so that a second use is noticed.
	overAge = time.Hour
	// clientAge is how long a client is remembered that registered and through which nobody is signed in.
	clientAge = 7 * 24 * time.Hour
)

// Run forgets what is over, until ctx ends.
func (h *Handlers) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := h.sweep(ctx); err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Old codes and browsers could not be swept")
		}
	}
}

func (h *Handlers) sweep(ctx context.Context) error {
	now := h.now()
	return h.store.Do(ctx, func(ctx context.Context) error {
		return errors.Join(
			h.store.OAuth.Sweep(ctx, now.Add(-overAge), now.Add(-clientAge)),
			h.store.Browsers.Sweep(ctx, now.Add(-h.cfg.BrowserLifetime)),
		)
	})
}

// newSecret makes a secret of 160 random bits; the letters before it help whoever finds one in a place where it does not belong.
func newSecret(prefix string) string { return prefix + rand.Text() + rand.Text()[:6] }

// at is the public address of a path of ours.
func (h *Handlers) at(path string) string { return h.cfg.PublicURL + path }
