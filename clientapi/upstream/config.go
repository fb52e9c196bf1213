package upstream

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"chancery/roomserver/policy"
)

// Config is what an operator may say about identity providers.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// PublicURL is where browsers reach this server: providers send them back there. clientapi fills it in.
	PublicURL string `yaml:"-"`
	// EmailDomains are the domains whose addresses may register. clientapi fills it in, from client.account.
	EmailDomains policy.EmailDomains `yaml:"-"`
	// NameSuffixes are for display names made of e-mail addresses. clientapi fills it in, from client.account.
	NameSuffixes []string `yaml:"-"`
	// TermsWanted says that there are documents to accept before an account is made. clientapi fills it in, from client.account.
	TermsWanted bool `yaml:"-"`

	// AllowedNetworks are private networks (CIDR) in which providers may stand, beyond client.outbound. Default none.
	AllowedNetworks []string `yaml:"allowed_networks"`
	// TrustedClients are the addresses to which a browser may be sent back with a login token without its user being
	// asked: each is like "https://element.example.org/" (all beneath it), or "io.element.desktop:" (an app's own scheme).
	// Default none: everybody is asked, with the name of the place.
	TrustedClients []string `yaml:"trusted_clients"`
	// Providers are the identity providers (OpenID Connect), in the order of their buttons: each with an id, a name, the
	// issuer, client_id and client_secret, and more where it needs more (docs/operators.md has a table). Default none.
	Providers []ProviderConfig `yaml:"providers"`
}

// ProviderConfig is one identity provider.
type ProviderConfig struct {
	// ID names the provider in addresses and in the database: never change it. Letters, digits, - . _ ~
	ID string `yaml:"id"`
	// Name is what people read on the button.
	Name string `yaml:"name"`
	// Brand has clients show a logo that they know: apple, facebook, github, gitlab, google, twitter. Default none.
	Brand string `yaml:"brand"`
	// Icon is a picture for the button, an mxc:// address on this server. Default none.
	Icon string `yaml:"icon"`
	// Issuer is the provider's address; what it offers is read at ISSUER/.well-known/openid-configuration.
	Issuer string `yaml:"issuer"`
	// ClientID is this server's name at the provider.
	ClientID string `yaml:"client_id"`
	// ClientSecret goes with it; `!file PATH` keeps it out of this file. Default none: PKCE alone.
	ClientSecret string `yaml:"client_secret"`
	// ClientAuth is how the secret is shown: "basic", "post", or "auto" (the default: as the provider says it likes).
	ClientAuth string `yaml:"client_auth"`
	// Scopes to ask for. Default openid, profile, email.
	Scopes []string `yaml:"scopes"`
	// Parameters are further ones of the request to sign in, as some providers want them ("acr_values": "eidas1").
	Parameters map[string]string `yaml:"parameters"`
	// UserInfo is when the provider's userinfo is asked: "auto" (the default: when the ID token says no e-mail), "always", "never".
	UserInfo string `yaml:"userinfo"`
	// Require are claims that have to have this value, or to hold it where they are lists, like "groups": "staff". Default none.
	Require map[string]string `yaml:"require"`
	// TrustEmail takes every address that the provider says for a proved one, though it does not say "email_verified".
	// Default false. Right only where the provider itself gives out the addresses.
	TrustEmail bool `yaml:"trust_email"`
	// EmailOptional lets those in too of whom the provider says no proved address. Default false.
	EmailOptional bool `yaml:"email_optional"`
	// MatchEmail finds the account of whoever comes for the first time by the e-mail address. Default true.
	MatchEmail *bool `yaml:"match_email"`
	// Rewrite are further addresses to look for, in their order, when no account has the provider's: where "match" is part of
	// the address, it is replaced by "search".
	Rewrite []RewriteRule `yaml:"rewrite"`
	// OnConflict is what happens when the account that was found by e-mail is already somebody else's at this provider: "add"
	// (the default: it is now both's), "replace" (the new one's alone), or "refuse".
	OnConflict string `yaml:"on_conflict"`
	// Registration makes accounts for people who have none. Default false.
	Registration bool `yaml:"registration"`
	// Email, Localpart and DisplayName are templates over the claims. Defaults "{{.email}}", "{{localpart .email}}" and
	// "{{displayname .email}}", where the two functions make names of an e-mail address. A claim within another is
	// {{index . "outer.inner"}}; {{lower ...}} makes small letters.
	Email       string `yaml:"email"`
	Localpart   string `yaml:"localpart"`
	DisplayName string `yaml:"display_name"`
	// BackchannelLogout ends sessions here when the provider says that theirs ended. Default true. Register
	// PUBLIC_URL/_chancery/upstream/ID/backchannel there.
	BackchannelLogout *bool `yaml:"backchannel_logout"`
	// FrontchannelLogout does so when the provider has the browser load
	// PUBLIC_URL/_chancery/upstream/ID/frontchannel. Default true.
	FrontchannelLogout *bool `yaml:"frontchannel_logout"`
}

// RewriteRule is another address under which an account may be found.
type RewriteRule struct {
	// Match is a part of the address.
	Match string `yaml:"match"`
	// Search is what stands in its place in the other address.
	Search string `yaml:"search"`
}

var (
	idForm    = regexp.MustCompile(`^[0-9A-Za-z._~-]{1,64}$`)
	brandForm = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,63}$`)
)

// settled is the provider with its defaults filled in.
func (c ProviderConfig) settled() ProviderConfig {
	fill := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	yes := func(b **bool) {
		if *b == nil {
			t := true
			*b = &t
		}
	}
	fill(&c.ClientAuth, "auto")
	fill(&c.UserInfo, "auto")
	fill(&c.OnConflict, "add")
	fill(&c.Email, "{{.email}}")
	fill(&c.Localpart, "{{localpart .email}}")
	fill(&c.DisplayName, "{{displayname .email}}")
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "profile", "email"}
	}
	yes(&c.MatchEmail)
	yes(&c.BackchannelLogout)
	yes(&c.FrontchannelLogout)
	return c
}

// validate refuses what cannot work. It is asked of settled ones.
func (c ProviderConfig) validate() error {
	issuer, err := url.Parse(c.Issuer)
	switch {
	case !idForm.MatchString(c.ID):
		return fmt.Errorf("id: %q is not made of 1 to 64 letters, digits and -._~", c.ID)
	case strings.TrimSpace(c.Name) == "":
		return errors.New("name is missing")
	case c.Brand != "" && !brandForm.MatchString(c.Brand):
		return fmt.Errorf("brand: %q is none", c.Brand)
	case c.Icon != "" && !strings.HasPrefix(c.Icon, "mxc://"):
		return fmt.Errorf("icon: %q is no mxc:// address", c.Icon)
	case err != nil || issuer.Scheme != "https" && issuer.Scheme != "http" || issuer.Host == "" || issuer.RawQuery != "" || issuer.Fragment != "":
		return fmt.Errorf("issuer: %q is no https:// address", c.Issuer)
	case c.ClientID == "":
		return errors.New("client_id is missing")
	case !slices.Contains([]string{"auto", "basic", "post"}, c.ClientAuth):
		return fmt.Errorf("client_auth: %q is none of auto, basic, post", c.ClientAuth)
	case !slices.Contains([]string{"auto", "always", "never"}, c.UserInfo):
		return fmt.Errorf("userinfo: %q is none of auto, always, never", c.UserInfo)
	case !slices.Contains([]string{"add", "replace", "refuse"}, c.OnConflict):
		return fmt.Errorf("on_conflict: %q is none of add, replace, refuse", c.OnConflict)
	case !slices.Contains(c.Scopes, "openid"):
		return errors.New("scopes: openid has to be one of them")
	}
	for name := range c.Parameters {
		if slices.Contains([]string{"client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce", "code_challenge", "code_challenge_method"}, name) {
			return fmt.Errorf("parameters: %s is this server's own", name)
		}
	}
	for _, rule := range c.Rewrite {
		if rule.Match == "" {
			return errors.New("rewrite: match is missing")
		}
	}
	return nil
}

// validate refuses what cannot work.
func (c Config) validate() error {
	seen := map[string]bool{}
	for _, p := range c.Providers {
		if err := p.settled().validate(); err != nil {
			return fmt.Errorf("provider %q: %w", p.ID, err)
		}
		if seen[p.ID] {
			return fmt.Errorf("two providers are called %q", p.ID)
		}
		seen[p.ID] = true
	}
	for _, client := range c.TrustedClients {
		if u, err := url.Parse(client); err != nil || u.Scheme == "" || (u.Scheme == "http" || u.Scheme == "https") == (u.Host == "") {
			return fmt.Errorf("trusted_clients: %q is neither like https://app.example/ nor like app.example:", client)
		}
	}
	return nil
}
