// Package account is what users do with their account and its devices: register, log in, refresh and log out, change
// the password or close the account, profile, private notes and tags, devices, OpenID tokens.
//
// It owns the rows of accounts, tokens, devices, profiles and account data, and nobody else writes them, but for clientapi/oauth, which
// opens and ends sessions too. To keep:
//
//   - a password is hashed outside any transaction, at most as many at once as there are cores, and never for nothing:
//     the buckets of failed attempts are asked first;
//   - an unknown user, a wrong password and a closed account look alike to who tries, in answer and in time;
//   - a device ends in one commit with all that belongs to it (storage.Devices.End);
//   - tokens leave this package in an answer, and nowhere else.
package account

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
	"chancery/roomserver/policy"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// Config is what an operator may say about accounts.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// PublicURL is where clients reach this server: the links in mails lead there. clientapi fills it in.
	PublicURL string `yaml:"-"`
	// OpenRegistration lets anybody register. Default false; laboratories and tests turn it on.
	OpenRegistration bool `yaml:"open_registration"`
	// RegistrationTokens lets those register who have a token from an administrator. Default true: registration is closed
	// until an administrator makes a token.
	RegistrationTokens bool `yaml:"registration_tokens"`
	// SharedSecret lets tools register at /_synapse/admin/v1/register who know it. Default none: the endpoint is off.
	SharedSecret string `yaml:"shared_secret"`
	// EmailRegistration lets those register who prove that they read e-mail at an address of email_domains. It needs
	// client.mail. Default false.
	EmailRegistration bool `yaml:"email_registration"`
	// EmailRequired has those prove an address too who register openly or with a token. It needs client.mail. Default false.
	EmailRequired bool `yaml:"email_required"`
	// EmailDomains are the domains whose addresses may register or be added to an account: "example.org" is itself alone,
	// "*.example.org" all beneath it. Default none: every domain.
	EmailDomains policy.EmailDomains `yaml:"email_domains"`
	// AddressChanges lets users add and remove e-mail addresses. Default true; turn it off where the directory of staff says
	// who has which.
	AddressChanges bool `yaml:"address_changes"`
	// NextLinkHosts are the hosts to which the browser may be sent on, when somebody has confirmed an address and the
	// client wished it. Default none: only to this server's own.
	NextLinkHosts []string `yaml:"next_link_hosts"`
	// ReservedNames are usernames that nobody registers, with * for any characters. Administrators can still make them.
	// Default: names of RFC 2142, to which strangers write.
	ReservedNames []string `yaml:"reserved_names"`
	// Terms are documents that everybody accepts who registers: each with a name, a version, and title and url by language.
	// Default none.
	Terms []Terms `yaml:"terms"`
	// PasswordLogin lets people log in with a password. Default true; turn it off where an identity provider alone shall let
	// them in.
	PasswordLogin bool `yaml:"password_login"`
	// PasswordLength is the least number of characters of a new password. Default 8.
	PasswordLength int `yaml:"password_length"`
	// PasswordNeeds are kinds of characters that a new password has to have: digit, symbol, lowercase, uppercase. Default
	// none: length does more.
	PasswordNeeds []string `yaml:"password_needs"`
	// CommonPasswords allows those that everybody tries first: for tests only. Default false.
	CommonPasswords bool `yaml:"common_passwords"`
	// BreachedPasswords is a file of passwords that are refused: their SHA-1 in hexadecimal, one a line, sorted, as Have I
	// Been Pwned offers it for download. Default none. Nothing is ever asked of another server.
	BreachedPasswords string `yaml:"breached_passwords"`
	// TokenLifetime is how long an access token lives that the client can refresh. Default 1h. Others live for ever.
	TokenLifetime time.Duration `yaml:"token_lifetime"`
	// IdleTime is how long a session may be unused before it ends. Default 0: for ever.
	IdleTime time.Duration `yaml:"idle_time"`
	// NamesFromEmail makes username and display name of the e-mail address with which somebody registers, who then does not
	// choose: @anna.blanc-example.com and "Anna Blanc [Example]". It needs client.mail. Default false.
	NamesFromEmail bool `yaml:"names_from_email"`
	// NameSuffixes are domains of which the label before says whose somebody is, for display names made of e-mail
	// addresses: with "gouv.fr", somebody at interieur.gouv.fr is [Interieur]. Default none: the label before the last.
	NameSuffixes []string `yaml:"name_suffixes"`
	// Reactivation gives a closed account back to whoever registers, or signs in with an identity provider, with an e-mail address that it had:
	// the same user, without what went when it was closed. Not one that was erased or locked. Default false: a closed account stays closed.
	Reactivation bool `yaml:"reactivation"`
	// ImportedPepper is what the server from which accounts were imported put behind each password before it was hashed
	// (Synapse: password_config.pepper). Default none.
	ImportedPepper string `yaml:"imported_pepper"`
	// PasswordHash is the cost of a password's hash.
	PasswordHash Argon2 `yaml:"password_hash"`
	// Validity is until when accounts are good.
	Validity ValidityConfig `yaml:"validity"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{
		RegistrationTokens: true,
		PasswordLogin:      true,
		AddressChanges:     true,
		ReservedNames:      []string{"abuse", "hostmaster", "postmaster", "webmaster"},
		PasswordLength:     8,
		TokenLifetime:      time.Hour,
		PasswordHash:       Argon2{MemoryKiB: 19 * 1024, Passes: 2, Lanes: 1},
		Validity:           ValidityConfig{Reminders: []time.Duration{28 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour}, Links: true},
	}
}

// Validate refuses what cannot work.
func (c Config) Validate() error {
	if c.TokenLifetime < time.Second {
		return errors.New("account: token_lifetime must be at least 1s")
	}
	if c.IdleTime != 0 && c.IdleTime < 10*time.Minute {
		return errors.New("account: idle_time must be at least 10m, or 0")
	}
	for _, pattern := range c.ReservedNames {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("account.reserved_names: %q: %w", pattern, err)
		}
	}
	if c.BreachedPasswords != "" {
		if _, err := breached(c.BreachedPasswords, ""); err != nil {
			return fmt.Errorf("account: %w", err)
		}
	}
	if err := c.EmailDomains.Validate(); err != nil {
		return fmt.Errorf("account.email_domains: %w", err)
	}
	return errors.Join(checkNeeds(c.PasswordNeeds), checkTerms(c.Terms), c.PasswordHash.validate(), c.Validity.validate())
}

// Deps are what the handlers work with.
type Deps struct {
	Store     *storage.Store
	Bus       *bus.Bus
	Passwords *Passwords
	UIA       *rest.UIA
	Mailer    *mail.Mailer // nil: no e-mails
	Upstream  *upstream.Providers
	Files     *blobs.Store // uploaded files, for exports; nil: they stay out
	// Exclusive says whether an application service alone may make this user; nil: there are none.
	Exclusive func(id.UserID) bool
	// Wake has an application service make this user, if one wants to; true if it has. Nil: there are none.
	Wake func(ctx context.Context, user id.UserID) bool
}

// Handlers are the endpoints of this chapter.
type Handlers struct {
	cfg       Config
	store     *storage.Store
	bus       *bus.Bus
	passwords *Passwords
	uia       *rest.UIA
	mailer    *mail.Mailer
	upstream  *upstream.Providers
	blobs     *blobs.Store
	exclusive func(id.UserID) bool
	wake      func(context.Context, id.UserID) bool
	now       func() time.Time
	closed    chan struct{} // rings when an account was closed, whose rooms are to be left
}

// New makes the handlers.
func New(cfg Config, deps Deps) *Handlers {
	h := &Handlers{
		cfg: cfg, store: deps.Store, bus: deps.Bus, passwords: deps.Passwords, uia: deps.UIA, exclusive: deps.Exclusive, wake: deps.Wake, mailer: deps.Mailer, blobs: deps.Files, upstream: deps.Upstream,
		now: time.Now, closed: make(chan struct{}, 1),
	}
	if h.exclusive == nil {
		h.exclusive = func(id.UserID) bool { return false }
	}
	return h
}

const (
	sweepEvery = 10 * time.Minute
	// What is kept of devices that ended, and of spent tokens: longer than anybody can be behind.
	endedAge = 7 * 24 * time.Hour
	spentAge = 30 * 24 * time.Hour
	// staleConfirmation is older than any session of user-interactive authentication can be.
	staleConfirmation = 20 * time.Minute
)

// Run forgets what is over, has closed accounts leave their rooms, and looks after those that expire, until ctx ends.
func (h *Handlers) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.tidy(ctx) })
	group.Go(func() error { return h.expire(ctx) })
	return group.Wait()
}

// tidy forgets what is over, and has closed accounts leave their rooms, until ctx ends.
func (h *Handlers) tidy(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := h.leaveRooms(ctx); err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Closed accounts could not leave all their rooms, will try again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.closed:
		case <-tick.C:
			if err := h.sweep(ctx); err != nil && ctx.Err() == nil {
				zerolog.Ctx(ctx).Warn().Err(err).Msg("Old sessions could not be swept")
			}
		}
	}
}

func (h *Handlers) sweep(ctx context.Context) error {
	now := h.now()
	return h.store.Do(ctx, func(ctx context.Context) error {
		return errors.Join(
			h.store.Devices.Sweep(ctx, now.Add(-endedAge)),
			h.store.Tokens.Sweep(ctx, now.Add(-spentAge)),
			h.store.Confirmations.Sweep(ctx, now.Add(-staleConfirmation)),
			h.store.Validations.Sweep(ctx, now.Add(-linkAge-validationAge)),
			h.sweepUpstream(ctx),
			h.endIdle(ctx, now),
		)
	})
}

// sweepUpstream forgets what is over of sign-ins at identity providers, if there are any.
func (h *Handlers) sweepUpstream(ctx context.Context) error {
	if h.upstream == nil {
		return nil
	}
	return h.upstream.Sweep(ctx)
}

// newToken makes a secret of 160 random bits; the letters before it help whoever finds one in a place where it does
// not belong.
func newToken(prefix string) string { return prefix + rand.Text() + rand.Text()[:6] }

// userID is the user whom somebody means by a localpart or a whole ID of this server; false if it cannot be one.
func (h *Handlers) userID(name string) (id.UserID, bool) {
	if !strings.HasPrefix(name, "@") {
		name = "@" + name + ":" + h.cfg.ServerName
	}
	user := id.UserID(name)
	return user, rest.ValidUserID(user) && user.Homeserver() == h.cfg.ServerName
}

// local says whether the user belongs to this server.
func (h *Handlers) local(user id.UserID) bool { return user.Homeserver() == h.cfg.ServerName }

var errMissing = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: 400}
