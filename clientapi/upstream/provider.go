package upstream

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// discoveryAge is how long what a provider says of itself is believed.
const discoveryAge = time.Hour

// provider is one identity provider.
type provider struct {
	cfg      ProviderConfig
	names    mapping
	client   *http.Client
	callback string

	mu    sync.Mutex
	known *discovered
}

// discovered is what a provider says of itself.
type discovered struct {
	oidc     *oidc.Provider
	verifier *oidc.IDTokenVerifier
	oauth    oauth2.Config
	at       time.Time

	EndSession string   `json:"end_session_endpoint"`
	Methods    []string `json:"token_endpoint_auth_methods_supported"`
	NamesIss   bool     `json:"authorization_response_iss_parameter_supported"`
}

func newVerifier() string { return oauth2.GenerateVerifier() }

// discover asks the provider what it offers, or remembers it. One that cannot be reached now is what it was.
func (p *provider) discover(ctx context.Context) (*discovered, error) {
	p.mu.Lock()
	known := p.known
	p.mu.Unlock()
	if known != nil && time.Since(known.at) < discoveryAge {
		return known, nil
	}
	fresh, err := p.ask(ctx)
	if err != nil {
		if known != nil {
			return known, nil
		}
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = fresh
	return fresh, nil
}

func (p *provider) ask(ctx context.Context) (*discovered, error) {
	ctx = oidc.ClientContext(ctx, p.client)
	found, err := oidc.NewProvider(ctx, p.cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	d := &discovered{oidc: found, at: time.Now()}
	if err := found.Claims(d); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	endpoint := found.Endpoint()
	if endpoint.AuthURL == "" || endpoint.TokenURL == "" {
		return nil, errors.New("discover: the provider names no endpoints")
	}
	endpoint.AuthStyle = p.authStyle(d.Methods)
	d.oauth = oauth2.Config{ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret, Endpoint: endpoint, RedirectURL: p.callback, Scopes: p.cfg.Scopes}
	d.verifier = found.VerifierContext(ctx, &oidc.Config{ClientID: p.cfg.ClientID})
	return d, nil
}

// authStyle is how the client secret is shown.
func (p *provider) authStyle(methods []string) oauth2.AuthStyle {
	basic := len(methods) == 0 || slices.Contains(methods, "client_secret_basic")
	if p.cfg.ClientSecret == "" || p.cfg.ClientAuth == "post" || p.cfg.ClientAuth == "auto" && !basic {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// authorize is the URL where somebody signs in.
func (p *provider) authorize(ctx context.Context, state string, about begun, wish Wish) (string, error) {
	d, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(about.Nonce), oauth2.S256ChallengeOption(about.Verifier)}
	set := func(name, value string) {
		if value != "" {
			options = append(options, oauth2.SetAuthURLParam(name, value))
		}
	}
	set("login_hint", clip(wish.LoginHint, 255))
	set("ui_locales", locales(wish.Locales))
	if about.Fresh {
		set("prompt", "login")
		set("max_age", "0")
	}
	for name, value := range p.cfg.Parameters {
		set(name, value)
	}
	return d.oauth.AuthCodeURL(state, options...), nil
}

// locales is a browser's list of languages as providers read it ("fr-FR fr").
func locales(accepted string) string {
	var tags []string
	for part := range strings.SplitSeq(clip(accepted, 200), ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		if tag != "" && tag != "*" && len(tag) <= 35 && len(tags) < 5 {
			tags = append(tags, tag)
		}
	}
	return strings.Join(tags, " ")
}

func clip(text string, n int) string {
	if len(text) > n {
		return ""
	}
	return text
}

// identity is whom a provider has let in.
type identity struct {
	subject, sid, idToken string
	claims                claims
}

// maxIDToken bounds the ID tokens that are kept; one that is longer is done without at the sign-out.
const maxIDToken = 16 << 10

// exchange trades the code for the identity, and checks all that is to be checked of it.
// Spec: OpenID Connect Core 1.0, section 3.1.3
func (p *provider) exchange(ctx context.Context, code string, about begun) (*identity, error) {
	d, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	ctx = oidc.ClientContext(ctx, p.client)
	token, err := d.oauth.Exchange(ctx, code, oauth2.VerifierOption(about.Verifier))
	if err != nil {
		return nil, fmt.Errorf("exchange the code: %w", withoutBody(err))
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return nil, errors.New("the answer holds no id_token")
	}
	idToken, err := d.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("check the id_token: %w", err)
	}
	who := &identity{subject: idToken.Subject, claims: claims{}}
	var rawClaims json.RawMessage
	if err := idToken.Claims(&rawClaims); err != nil {
		return nil, err
	}
	if err := who.claims.add(rawClaims); err != nil {
		return nil, err
	}
	if err := p.check(idToken, who, token.AccessToken, about); err != nil {
		return nil, err
	}
	who.sid = who.claims["sid"]
	if len(raw) <= maxIDToken {
		who.idToken = raw
	}
	return who, p.enquire(ctx, d, token, who)
}

// check is what of an ID token the library leaves to its user.
func (p *provider) check(token *oidc.IDToken, who *identity, access string, about begun) error {
	switch {
	case subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(about.Nonce)) != 1:
		return errNonce
	case token.Subject == "" || len(token.Subject) > maxSubject || len(who.claims["sid"]) > maxSubject:
		return errors.New("the id_token names nobody, or too long")
	case len(token.Audience) > 1 && who.claims["azp"] != p.cfg.ClientID:
		return errors.New("the id_token is for others too, and not ours")
	case who.claims["azp"] != "" && who.claims["azp"] != p.cfg.ClientID:
		return errors.New("the id_token was made for another")
	}
	if token.AccessTokenHash != "" {
		if err := token.VerifyAccessToken(access); err != nil {
			return fmt.Errorf("the id_token belongs to another access token: %w", err)
		}
	}
	if seconds, err := json.Number(who.claims["auth_time"]).Int64(); about.Fresh && err == nil && time.Unix(seconds, 0).Before(about.At.Add(-time.Minute)) {
		return errors.New("the provider did not have them sign in anew")
	}
	return nil
}

var errNonce = errors.New("the id_token answers another sign-in (nonce)")

// enquire asks the provider's userinfo, where that is wished or needed.
func (p *provider) enquire(ctx context.Context, d *discovered, token *oauth2.Token, who *identity) error {
	email, err := fill(p.names.email, who.claims)
	if err != nil {
		return err
	}
	needed := p.cfg.UserInfo == "always" || p.cfg.UserInfo == "auto" && email == "" && d.oidc.UserInfoEndpoint() != ""
	if !needed {
		return nil
	}
	info, err := d.oidc.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return fmt.Errorf("ask userinfo: %w", withoutBody(err))
	}
	if info.Subject != who.subject {
		return errors.New("userinfo is about somebody else")
	}
	var raw json.RawMessage
	if err := info.Claims(&raw); err != nil {
		return err
	}
	return who.claims.add(raw)
}

// withoutBody keeps what a provider wrote out of the log, but for its error code.
func withoutBody(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		code := refused.ErrorCode
		if code == "" || len(code) > 64 {
			code = "no error code"
		}
		return fmt.Errorf("the provider answered %d (%s)", refused.Response.StatusCode, code)
	}
	if text := err.Error(); len(text) > 300 {
		return errors.New(text[:300])
	}
	return err
}
