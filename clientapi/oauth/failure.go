package oauth

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"chancery/clientapi/rest"
)

// failure is an error as OAuth 2.0 writes them.
// Spec: RFC 6749, section 5.2
type failure struct {
	Code   string `json:"error"`
	Text   string `json:"error_description,omitempty"`
	status int
}

func (f *failure) Error() string { return f.Code + ": " + f.Text }

func fail(code, text string) *failure {
	return &failure{Code: code, Text: text, status: http.StatusBadRequest}
}

// The codes of RFC 6749, RFC 7591 and RFC 8628.
const (
	invalidRequest       = "invalid_request"
	invalidClient        = "invalid_client"
	invalidGrant         = "invalid_grant"
	invalidScope         = "invalid_scope"
	unauthorizedClient   = "unauthorized_client"
	unsupportedGrant     = "unsupported_grant_type"
	unsupportedResponse  = "unsupported_response_type"
	accessDenied         = "access_denied"
	loginRequired        = "login_required"
	invalidRedirect      = "invalid_redirect_uri"
	invalidMetadata      = "invalid_client_metadata"
	authorizationPending = "authorization_pending"
	slowDown             = "slow_down"
	expiredToken         = "expired_token"
)

func unknownClient() *failure {
	return &failure{Code: invalidClient, Text: "This client is not registered here", status: http.StatusUnauthorized}
}

// answer gives failures the form that OAuth 2.0 wants; all other errors are the adapter's.
func answer(value any, err error) (any, error) {
	var f *failure
	if errors.As(err, &f) {
		return rest.Status{Code: f.status, Body: f}, nil
	}
	return value, err
}

// form reads a body of the kind that browsers and OAuth 2.0 clients send. A parameter that stands there twice is refused.
func form(r *rest.Request) (url.Values, error) {
	kind, _, _ := mime.ParseMediaType(r.HTTP.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" {
		return nil, fail(invalidRequest, "The body is not application/x-www-form-urlencoded")
	}
	raw, err := r.Body()
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, fail(invalidRequest, "The form cannot be read")
	}
	for name, all := range values {
		if len(all) > 1 {
			return nil, fail(invalidRequest, "A parameter is there twice")
		}
		if !storable(name) || !storable(all[0]) {
			return nil, fail(invalidRequest, "The form holds text that is not UTF-8")
		}
	}
	return values, nil
}

// storable says whether text can be stored and looked up: UTF-8 without NUL, which PostgreSQL refuses.
func storable(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }
