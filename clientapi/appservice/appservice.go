// Package appservice is the chapter of application services: bridges and bots that a file of the operator's lets act for
// a whole namespace of users, and that are sent what happens there.
//
// It owns the registrations, the cursors of what each service was sent, and all requests to services. Truths to keep:
//
//   - what a service is sent is written down before it is sent, and is repeated unchanged until the service has taken it;
//     the next transaction is made only then: so each event comes once, and in order, whatever crashes;
//   - a slow or dead service holds up nobody but itself;
//   - a service acts for no user outside its namespaces, and hears of events only through a room, an alias or a local user
//     that is in them;
//   - its tokens are never logged, and hs_token goes to the registered address only.
package appservice

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// Config is what an operator may say about application services.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// Registrations are the registration files (YAML). Default none.
	Registrations []string `yaml:"registrations"`
	// Folder is a folder all of whose *.yaml files are registrations. Default none.
	Folder string `yaml:"folder"`
	// AllowedNetworks are private or loopback networks (CIDR) that services may live in, beside those of client.outbound.
	// Default: none; a bridge on the same machine needs ["127.0.0.0/8"].
	AllowedNetworks []string `yaml:"allowed_networks"`
	// QueryTokens sends hs_token in the query string too, for services made before Matrix 1.4. Default false: it would
	// stand in their logs.
	QueryTokens bool `yaml:"query_tokens"`
	// FirstRetry is the pause after a service did not answer; it doubles with each further failure. Default 1s.
	FirstRetry time.Duration `yaml:"first_retry"`
	// LastRetry is the longest pause. A service that pings us is tried at once. Default 1m.
	LastRetry time.Duration `yaml:"last_retry"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{FirstRetry: time.Second, LastRetry: time.Minute}
}

// Services are the registered application services. It is safe for concurrent use.
type Services struct {
	cfg     Config
	store   *storage.Store
	bus     *bus.Bus
	view    *view.Reader
	http    *http.Client
	list    []*service
	byToken map[[sha256.Size]byte]*service
	now     func() time.Time
	thirds  thirdParties
}

// service is one application service.
type service struct {
	*Registration
	all      *Services
	bot      id.UserID
	wake     chan struct{} // rings when the service is known to live
	interest *interests
}

// New reads the registrations. outbound is the mouth through which services are reached.
func New(cfg Config, store *storage.Store, messages *bus.Bus, reader *view.Reader, outbound *http.Client) (*Services, error) {
	registrations, err := load(cfg)
	if err != nil {
		return nil, fmt.Errorf("application services: %w", err)
	}
	s := &Services{
		cfg: cfg, store: store, bus: messages, view: reader, http: outbound, byToken: map[[sha256.Size]byte]*service{}, now: time.Now,
	}
	for _, r := range registrations {
		app := &service{Registration: r, all: s, bot: r.sender(cfg.ServerName), wake: make(chan struct{}, 1)}
		app.interest = newInterests(app)
		s.list = append(s.list, app)
		s.byToken[sha256.Sum256([]byte(r.ASTok))] = app
	}
	return s, nil
}

// ServiceByToken finds the service with this as_token, or nil.
func (s *Services) ServiceByToken(token string) rest.Application {
	if app := s.byToken[sha256.Sum256([]byte(token))]; app != nil {
		return app
	}
	return nil
}

// ExclusiveUser says whether an application service alone may make this user.
func (s *Services) ExclusiveUser(user id.UserID) bool {
	for _, app := range s.list {
		if _, exclusive := match(app.Namespaces.Users, string(user)); exclusive || user == app.bot {
			return true
		}
	}
	return false
}

// MayChangeAlias refuses to make or delete an alias that is not the asker's: of a service outside its namespaces, of
// anybody else inside the exclusive ones of a service.
// Spec: application-service-api/#server-admin-style-permissions
func (s *Services) MayChangeAlias(by rest.Application, alias id.RoomAlias) error {
	if by != nil {
		if app, ok := by.(*service); ok {
			if in, _ := match(app.Namespaces.Aliases, string(alias)); !in {
				return mautrix.MExclusive.WithMessage("The alias is not in the application service's namespaces")
			}
			return nil
		}
	}
	for _, app := range s.list {
		if _, exclusive := match(app.Namespaces.Aliases, string(alias)); exclusive {
			return mautrix.MExclusive.WithMessage("This alias belongs to an application service")
		}
	}
	return nil
}

// ID is the service's name.
func (a *service) ID() string { return a.Registration.ID }

// Sender is the service's own user.
func (a *service) Sender() id.UserID { return a.bot }

// Owns says whether the service may act for this user.
func (a *service) Owns(user id.UserID) bool {
	if user == a.bot {
		return true
	}
	if user.Homeserver() != a.all.cfg.ServerName {
		return false
	}
	in, _ := match(a.Namespaces.Users, string(user))
	return in
}

// Limited says whether its users are held to the rate limits.
func (a *service) Limited() bool { return a.RateLimited == nil || *a.RateLimited }

// MayActAs refuses users that do not exist, and devices that are not theirs.
// Spec: application-service-api/#identity-assertion
func (a *service) MayActAs(ctx context.Context, user id.UserID, device id.DeviceID) error {
	account, err := a.all.store.Accounts.ByID(ctx, user)
	switch {
	case err != nil:
		return err
	case account == nil && user != a.bot:
		return mautrix.MForbidden.WithMessage("The application service has not registered this user")
	case account != nil && account.Deactivated:
		return mautrix.MUserDeactivated.WithMessage("This account is closed")
	case device == "":
		return nil
	}
	known, err := a.all.store.Devices.ByID(ctx, user, device)
	if err == nil && known == nil {
		err = mautrix.RespError{ErrCode: "M_UNKNOWN_DEVICE", StatusCode: http.StatusBadRequest, Err: "The user has no such device"}
	}
	return err
}

// alive rings for a service that was just heard of.
func (a *service) alive() {
	select {
	case a.wake <- struct{}{}:
	default: // it has been rung already
	}
}

// lease is what one process alone holds, where several could send.
const lease = "appservice"

// Run makes the services' own users, and sends what happens, until ctx ends. Where another process sends already, it
// stands by.
func (s *Services) Run(ctx context.Context) error {
	if len(s.list) == 0 {
		<-ctx.Done()
		return nil
	}
	for _, app := range s.list {
		if err := app.makeSender(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("user of application service %s: %w", app.ID(), err)
		}
	}
	err := s.store.Leases.Hold(ctx, lease, s.send)
	if ctx.Err() != nil {
		return nil // what failed, failed because it was told to stop
	}
	return err
}

// makeSender makes the service's own user, which it need not register.
func (a *service) makeSender(ctx context.Context) error {
	s := a.all
	account, err := s.store.Accounts.ByID(ctx, a.bot)
	if err != nil {
		return err
	}
	if account != nil && account.ServiceID != a.ID() {
		zerolog.Ctx(ctx).Warn().Str("service", a.ID()).Stringer("user_id", a.bot).
			Msg("The sender of an application service is an account that it did not make")
	}
	if account != nil {
		return nil
	}
	return s.store.Do(ctx, func(ctx context.Context) error {
		_, err := s.store.Accounts.Create(ctx, &storage.Account{UserID: a.bot, ServiceID: a.ID()})
		return err
	})
}

// send serves all services that want traffic, each by itself.
func (s *Services) send(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, app := range s.list {
		if app.address() != "" {
			group.Go(func() error { return app.run(ctx) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
