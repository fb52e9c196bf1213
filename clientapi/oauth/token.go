package oauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// tokens is what a client gets that is let in.
// Spec: RFC 6749, section 5.1
type tokens struct {
	Access    string `json:"access_token"`
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"`
	Refresh   string `json:"refresh_token"`
	Scope     string `json:"scope"`
}

// Token handles POST /oauth2/token.
// Spec: client-server-api/#grant-types
func (h *Handlers) Token(r *rest.Request) (any, error) {
	r.Header().Set("Pragma", "no-cache")
	value, err := h.token(r)
	count("token", err)
	var f *failure
	if errors.As(err, &f) && (f.Code == invalidGrant || f.Code == invalidClient) {
		// Guesses are counted; who is right pays nothing, however many share an address.
		if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
			return nil, err
		}
	}
	return answer(value, err)
}

func (h *Handlers) token(r *rest.Request) (any, error) {
	values, err := form(r)
	if err != nil {
		return nil, err
	}
	if err := r.Limits.Full(rest.LimitFailedAddress, r.Address()); err != nil {
		return nil, err
	}
	grant := values.Get("grant_type")
	switch grant {
	case "":
		return nil, fail(invalidRequest, "grant_type is missing")
	case grantCode, grantRefresh, grantDevice:
	default:
		return nil, fail(unsupportedGrant, "There is no such grant_type here")
	}
	if values.Get("client_id") == "" {
		return nil, &failure{Code: invalidClient, Text: "client_id is missing", status: http.StatusUnauthorized}
	}
	c, err := h.client(r.Context(), values.Get("client_id"))
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, unknownClient()
	}
	if grant != grantRefresh && !c.may(grant) {
		return nil, fail(unauthorizedClient, "The client did not register for this grant")
	}
	switch grant {
	case grantCode:
		return h.tradeCode(r, c, values)
	case grantRefresh:
		return h.refresh(r, c, values)
	}
	return h.poll(r, c, values)
}

// pair draws the secrets of a session.
func (h *Handlers) pair(c *client, scope string) (storage.Pair, *tokens) {
	t := &tokens{Access: newSecret("cha_"), Type: "Bearer", ExpiresIn: int64(h.cfg.AccessLifetime / time.Second), Refresh: newSecret("chr_"), Scope: scope}
	return storage.Pair{Access: t.Access, Refresh: t.Refresh, Expires: h.now().Add(h.cfg.AccessLifetime), ClientID: c.ID, Scope: scope}, t
}

// open lets a device in, inside Do, by who let it in: it is made, or taken over from the same user with its keys; older tokens of it die.
func (h *Handlers) open(ctx context.Context, r *rest.Request, c *client, by storage.Browser, device id.DeviceID, pair storage.Pair) error {
	err := h.store.Devices.Put(ctx, &storage.Device{
		UserID: by.UserID, DeviceID: device, DisplayName: clipName(c.Title()), Address: r.Address(), Agent: clip(r.HTTP.UserAgent()),
	})
	if err != nil {
		return err
	}
	if by.Upstream != "" && h.upstream != nil {
		if err := h.upstream.Attach(ctx, by.Upstream, by.UserID, device); err != nil {
			return err
		}
	}
	return h.store.Tokens.Put(ctx, by.UserID, device, pair)
}

// clipName bounds the name that a client gives to its devices.
func clipName(name string) string {
	if runes := []rune(name); len(runes) > 100 {
		return string(runes[:100])
	}
	return name
}

// tradeCode is the authorization code grant. A code that comes a second time was stolen: the session that came of it ends.
// Spec: RFC 6749, section 4.1.3
func (h *Handlers) tradeCode(r *rest.Request, c *client, values url.Values) (any, error) {
	code, verifier := values.Get("code"), values.Get("code_verifier")
	if code == "" {
		return nil, fail(invalidRequest, "code is missing")
	}
	if verifier == "" {
		return nil, fail(invalidRequest, "code_verifier is missing: PKCE is needed")
	}
	var refused error
	var given *tokens
	stolen := false
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		refused, given, stolen = nil, nil, false
		known, err := h.store.OAuth.Code(ctx, code)
		if err != nil {
			return err
		}
		switch {
		case known == nil || known.ClientID != c.ID:
			refused = fail(invalidGrant, "This code is not known")
		case known.Used:
			refused, stolen = fail(invalidGrant, "This code was used already: the session that came of it is over"), true
			return h.store.Devices.End(ctx, known.UserID, known.DeviceID)
		case !h.now().Before(known.Expires):
			refused = fail(invalidGrant, "This code is too old")
		case known.RedirectURI != values.Get("redirect_uri"):
			refused = fail(invalidGrant, "redirect_uri is not that of the request")
		case !proves(verifier, known.Challenge):
			refused = fail(invalidGrant, "code_verifier does not belong to the code_challenge")
		}
		if refused != nil {
			return nil
		}
		if refused = h.accounts.MayEnter(ctx, known.UserID); refused != nil {
			refused = fail(invalidGrant, "This account cannot be entered")
			return nil
		}
		if err := h.store.OAuth.UseCode(ctx, code); err != nil {
			return err
		}
		var pair storage.Pair
		pair, given = h.pair(c, known.Scope)
		return h.open(ctx, r, c, storage.Browser{UserID: known.UserID, Upstream: known.Upstream}, known.DeviceID, pair)
	})
	if stolen && err == nil {
		reused.Inc()
		zerolog.Ctx(r.Context()).Warn().Str("client_id", c.ID).Str("grant", values.Get("grant_type")).Msg("Something good once came twice: the session is ended")
	}
	if err := errors.Join(err, refused); err != nil {
		return nil, err
	}
	return given, nil
}

// proves says whether the verifier is what the challenge was made of.
// Spec: RFC 7636, section 4.6
func proves(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	for _, c := range []byte(verifier) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0) {
			return false
		}
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// refresh is the refresh token grant. The old pair lives until the new one is used; who comes with it after that ends the session.
// Spec: client-server-api/#refresh-token-grant
func (h *Handlers) refresh(r *rest.Request, c *client, values url.Values) (any, error) {
	old := values.Get("refresh_token")
	if old == "" {
		return nil, fail(invalidRequest, "refresh_token is missing")
	}
	var refused error
	var given *tokens
	stolen := false
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		refused, given, stolen = nil, nil, false
		g, err := h.store.Tokens.GivenToRefresh(ctx, old)
		if err != nil {
			return err
		}
		switch {
		case g == nil || g.ClientID != c.ID:
			refused = fail(invalidGrant, "This refresh token is not known")
			return nil
		case g.Spent:
			refused, stolen = fail(invalidGrant, "This refresh token was used already: the session is over"), true
			return h.store.Devices.End(ctx, g.UserID, g.DeviceID)
		case h.cfg.RefreshLifetime > 0 && h.now().Sub(g.Created) > h.cfg.RefreshLifetime:
			refused = fail(invalidGrant, "This refresh token is too old")
			return nil
		}
		if wanted := values.Get("scope"); wanted != "" && !within(wanted, g.Scope) {
			refused = fail(invalidScope, "More is asked for than was granted")
			return nil
		}
		var pair storage.Pair
		pair, given = h.pair(c, g.Scope)
		good, err := h.store.Tokens.Refresh(ctx, old, pair)
		if err == nil && !good {
			refused = fail(invalidGrant, "This refresh token is not known")
		}
		return err
	})
	if stolen && err == nil {
		reused.Inc()
		zerolog.Ctx(r.Context()).Warn().Str("client_id", c.ID).Str("grant", values.Get("grant_type")).Msg("Something good once came twice: the session is ended")
	}
	if err := errors.Join(err, refused); err != nil {
		return nil, err
	}
	return given, nil
}

// within says whether all of a scope was granted.
func within(wanted, granted string) bool {
	for token := range strings.FieldsSeq(wanted) {
		if !strings.Contains(" "+granted+" ", " "+token+" ") {
			return false
		}
	}
	return true
}
