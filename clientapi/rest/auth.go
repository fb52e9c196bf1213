package rest

import (
	"context"
	"net/http"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// Tokens says whose access token this is. It returns nil, nil for one that nobody has, and a RespError for one that
// is refused for a reason of its own (expired, account locked).
type Tokens interface {
	ByToken(ctx context.Context, token, address, agent string) (*Requester, error)
}

// Services finds the application service with this token, or nil.
type Services interface {
	ServiceByToken(token string) Application
}

// Application is an application service as the doors see it.
type Application interface {
	ID() string
	Sender() id.UserID
	// Owns says whether this is its own user, or one of its namespaces.
	Owns(user id.UserID) bool
	// Limited says whether the users of its namespaces are held to the rate limits. Its own user never is.
	Limited() bool
	// MayActAs refuses, with a RespError, users that do not exist and devices that are not theirs.
	MayActAs(ctx context.Context, user id.UserID, device id.DeviceID) error
}

func (d *door) authenticate(r *Request, route Route) error {
	auth := route.Auth
	if auth == Open {
		return nil
	}
	token := bearer(r.HTTP, r.cfg.QueryTokens)
	if token == "" {
		if auth == Optional || auth == Glimpsed {
			return nil
		}
		return mautrix.MMissingToken.WithMessage("An access token is needed")
	}
	by, err := d.identify(r, token, auth)
	if auth == Glimpsed {
		if err == nil && by != nil && by.Expired {
			return ErrExpired
		}
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case by == nil:
		return mautrix.MUnknownToken.WithMessage("This access token is not known")
	case by.Locked && !route.Locked:
		return locked
	case by.Expired && !route.Expired:
		return ErrExpired
	case auth == Service && by.Service == nil:
		return mautrix.MForbidden.WithMessage("This is for application services")
	case auth == Admin && !by.Admin:
		return mautrix.MForbidden.WithMessage("You are not a server administrator")
	}
	r.By = *by
	return nil
}

// locked is what somebody hears whose account is locked. The client shall keep what it has.
// Spec: client-server-api/#account-locking
var locked = mautrix.RespError{ErrCode: "M_USER_LOCKED", StatusCode: http.StatusUnauthorized}.
	WithMessage("This account is locked").WithExtraField("soft_logout", true)

// ErrExpired is what somebody hears whose account has expired: wherever they ask, until it is renewed. The session stays as it is.
// The errcode is the one that clients know.
var ErrExpired = mautrix.RespError{ErrCode: "ORG_MATRIX_EXPIRED_ACCOUNT", StatusCode: http.StatusForbidden}.
	WithMessage("This account has expired. It can be renewed")

// suspended is what somebody hears who may not do this for a while.
// Spec: client-server-api/#account-suspension
var suspended = mautrix.RespError{ErrCode: "M_USER_SUSPENDED", StatusCode: http.StatusForbidden}.
	WithMessage("You cannot do this while your account is suspended")

// act lets through what others notice, if the account stands so that it may; or gives the answer instead of doing it.
func act(r *Request, what *Act) (instead any, err error) {
	if what == nil || r.By.User == "" {
		return nil, nil
	}
	if r.By.Suspended {
		allowed := false
		if what.Despite != nil {
			if allowed, err = what.Despite(r); err != nil {
				return nil, err
			}
		}
		if !allowed {
			return nil, suspended
		}
	}
	if r.By.Shadowed && what.Pretend != nil {
		return what.Pretend(r), nil
	}
	return nil, nil
}

func (d *door) identify(r *Request, token string, auth Auth) (*Requester, error) {
	if d.services != nil {
		if app := d.services.ServiceByToken(token); app != nil {
			return masquerade(r, app, auth)
		}
	}
	if d.tokens == nil {
		return nil, nil
	}
	return d.tokens.ByToken(r.Context(), token, r.Address(), r.HTTP.UserAgent())
}

// masquerade lets an application service act for one of its users. Where nobody need be (to register, to log in), the user
// need not exist yet.
// Spec: application-service-api/#identity-assertion
func masquerade(r *Request, app Application, auth Auth) (*Requester, error) {
	by := &Requester{User: app.Sender(), Service: app}
	if user := id.UserID(r.Query("user_id")); user != "" && user != by.User {
		if !app.Owns(user) {
			return nil, mautrix.MForbidden.WithMessage("The application service does not own this user")
		}
		by.User = user
	}
	device := r.Query("device_id")
	if device == "" {
		device = r.Query("org.matrix.msc3202.device_id")
	}
	by.Device = id.DeviceID(device)
	if auth == Optional {
		return by, nil
	}
	return by, app.MayActAs(r.Context(), by.User, by.Device)
}

// limited says whether the rate limits hold for who asks.
func (by *Requester) limited() bool {
	return by.Service == nil || by.Service.Limited() && by.User != by.Service.Sender()
}

// bearer is the access token of a request, or "".
// Spec: client-server-api/#using-access-tokens
func bearer(r *http.Request, query bool) string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	if query {
		return r.URL.Query().Get("access_token")
	}
	return ""
}
