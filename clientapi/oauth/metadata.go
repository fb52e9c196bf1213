package oauth

import (
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
)

// The grants that the token endpoint knows.
const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// Where the endpoints and pages are.
const (
	AuthorizePath     = "/oauth2/authorize"
	TokenPath         = "/oauth2/token"
	RegisterPath      = "/oauth2/register"
	RevokePath        = "/oauth2/revoke"
	IntrospectPath    = "/oauth2/introspect"
	DevicePath        = "/oauth2/device"
	AccountPath       = "/account"
	SignInPath        = "/account/login"
	SignUpPath        = "/account/register"
	SignOutPath       = "/account/logout"
	ProviderPath      = "/account/provider/{provider}"
	LinkPath          = "/account/link"
	StylePath         = "/account/style.css"
	rendezvousPath    = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
	AccountActionPath = "/account/{what}"
)

// metadata is the document by which clients find everything else.
type metadata struct {
	Issuer               string   `json:"issuer"`
	Authorization        string   `json:"authorization_endpoint"`
	Token                string   `json:"token_endpoint"`
	Revocation           string   `json:"revocation_endpoint"`
	Registration         string   `json:"registration_endpoint"`
	DeviceAuthorization  string   `json:"device_authorization_endpoint"`
	Introspection        string   `json:"introspection_endpoint,omitempty"`
	ResponseTypes        []string `json:"response_types_supported"`
	ResponseModes        []string `json:"response_modes_supported"`
	GrantTypes           []string `json:"grant_types_supported"`
	ChallengeMethods     []string `json:"code_challenge_methods_supported"`
	PromptValues         []string `json:"prompt_values_supported,omitempty"`
	TokenAuthMethods     []string `json:"token_endpoint_auth_methods_supported"`
	RevocationMethods    []string `json:"revocation_endpoint_auth_methods_supported"`
	IntrospectionMethods []string `json:"introspection_endpoint_auth_methods_supported,omitempty"`
	Scopes               []string `json:"scopes_supported"`
	Locales              []string `json:"ui_locales_supported"`
	NamesIssuer          bool     `json:"authorization_response_iss_parameter_supported"`
	Account              string   `json:"account_management_uri"`
	AccountActions       []string `json:"account_management_actions_supported"`
}

// Metadata handles GET /_matrix/client/v1/auth_metadata, the same under unstable/org.matrix.msc2965, and the paths at which RFC 8414
// and OpenID Connect look for it. A server without OAuth 2.0 must not answer: Element would use nothing else.
// Spec: client-server-api/#get_matrixclientv1auth_metadata
func (h *Handlers) Metadata(r *rest.Request) (any, error) {
	if !h.cfg.Enabled {
		return nil, mautrix.MUnrecognized.WithStatus(404).WithMessage("People sign in here by the legacy API")
	}
	m := metadata{
		Issuer:              h.at("/"),
		Authorization:       h.at(AuthorizePath),
		Token:               h.at(TokenPath),
		Revocation:          h.at(RevokePath),
		Registration:        h.at(RegisterPath),
		DeviceAuthorization: h.at(DevicePath),
		ResponseTypes:       []string{"code"},
		ResponseModes:       []string{"query", "fragment"},
		GrantTypes:          []string{grantCode, grantRefresh, grantDevice},
		ChallengeMethods:    []string{"S256"},
		TokenAuthMethods:    []string{"none"},
		RevocationMethods:   []string{"none"},
		Scopes:              []string{stableScope + "api:*", stableScope + "device:*", unstableScope + "api:*", unstableScope + "device:*"},
		Locales:             languages,
		NamesIssuer:         true,
		Account:             h.at(AccountPath),
		AccountActions:      actionNames(),
	}
	if h.cfg.IntrospectionSecret != "" {
		m.Introspection, m.IntrospectionMethods = h.at(IntrospectPath), []string{"bearer"}
	}
	ways, err := h.register.Ways(r.Context())
	if len(ways) > 0 {
		m.PromptValues = []string{"create"}
	}
	r.Header().Set("Cache-Control", "max-age=300")
	return m, err
}
