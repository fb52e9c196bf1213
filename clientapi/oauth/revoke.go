package oauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
)

// Revoke handles POST /oauth2/revoke: the client signs out. Whoever holds a token may end its session, whatever client it says it is.
// Spec: client-server-api/#token-revocation
func (h *Handlers) Revoke(r *rest.Request) (any, error) {
	return answer(h.revoke(r))
}

func (h *Handlers) revoke(r *rest.Request) (any, error) {
	values, err := form(r)
	if err != nil {
		return nil, err
	}
	token := values.Get("token")
	if token == "" {
		return nil, fail(invalidRequest, "token is missing")
	}
	switch values.Get("token_type_hint") {
	case "", "access_token", "refresh_token":
	default:
		return nil, fail("unsupported_token_type", "There are access tokens and refresh tokens here")
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		g, err := h.store.Tokens.Given(ctx, token)
		if err != nil || g == nil || g.Spent {
			return err
		}
		return h.store.Devices.End(ctx, g.UserID, g.DeviceID)
	})
}

// introspection is what a token is worth.
// Spec: RFC 7662, section 2.2
type introspection struct {
	Active   bool   `json:"active"`
	Scope    string `json:"scope,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Username string `json:"username,omitempty"`
	Subject  string `json:"sub,omitempty"`
	Device   string `json:"device_id,omitempty"`
	Type     string `json:"token_type,omitempty"`
	Issued   int64  `json:"iat,omitempty"`
	Expires  int64  `json:"exp,omitempty"`
	Issuer   string `json:"iss,omitempty"`
}

// Introspect handles POST /oauth2/introspect, for the operator's other programs, which know the secret. Only access tokens are active.
// Spec: RFC 7662
func (h *Handlers) Introspect(r *rest.Request) (any, error) {
	return answer(h.introspect(r))
}

func (h *Handlers) introspect(r *rest.Request) (any, error) {
	if h.cfg.IntrospectionSecret == "" {
		return nil, mautrix.MUnrecognized.WithStatus(http.StatusNotFound).WithMessage("Introspection is not configured")
	}
	if !h.knowsSecret(r) {
		r.Header().Set("WWW-Authenticate", "Bearer")
		return nil, &failure{Code: invalidClient, Text: "The introspection secret is needed", status: http.StatusUnauthorized}
	}
	values, err := form(r)
	if err != nil {
		return nil, err
	}
	if values.Get("token") == "" {
		return nil, fail(invalidRequest, "token is missing")
	}
	session, err := h.store.Tokens.Session(r.Context(), values.Get("token"))
	if err != nil || session == nil || session.Locked || session.Expired(h.now()) || !session.Expires.IsZero() && !h.now().Before(session.Expires) {
		return introspection{}, err
	}
	g, err := h.store.Tokens.Given(r.Context(), values.Get("token"))
	if err != nil || g == nil {
		return introspection{}, err
	}
	info := introspection{
		Active: true, Scope: g.Scope, ClientID: g.ClientID, Username: g.UserID.Localpart(), Subject: string(g.UserID), Device: string(g.DeviceID),
		Type: "Bearer", Issued: g.Created.Unix(), Issuer: h.at("/"),
	}
	if info.Scope == "" { // a session of the legacy API may do the same
		info.Scope = stableScope + "api:* " + stableScope + "device:" + string(g.DeviceID)
	}
	if !g.Expires.IsZero() {
		info.Expires = g.Expires.Unix()
	}
	return info, nil
}

// knowsSecret says whether the request bears the secret, as a bearer token or as the password of any name.
func (h *Handlers) knowsSecret(r *rest.Request) bool {
	given, ok := strings.CutPrefix(r.HTTP.Header.Get("Authorization"), "Bearer ")
	if !ok {
		if _, given, ok = r.HTTP.BasicAuth(); !ok {
			return false
		}
	}
	got, want := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(h.cfg.IntrospectionSecret))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
