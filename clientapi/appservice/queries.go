package appservice

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"
)

// queryTime is how long a service may take to make what it is asked for.
const queryTime = 20 * time.Second

// hide takes the address out of an error of net/http: there may be a token in it.
func hide(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// exists asks the service whether something exists, which it then has made.
func (a *service) exists(ctx context.Context, path string) bool {
	if a.address() == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	code, _, err := a.request(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		zerolog.Ctx(ctx).Info().Err(err).Str("service", a.ID()).Msg("Application service does not answer a query")
		return false
	}
	return code >= 200 && code <= 299
}

// ask tells the service of a user of its namespaces whom nobody has made yet, so that it may.
// Spec: application-service-api/#get_matrixappv1usersuserid
func (f *feeder) ask(ctx context.Context, user id.UserID) {
	if !f.Owns(user) {
		return
	}
	account, err := f.all.store.Accounts.ByID(ctx, user)
	if err == nil && account == nil {
		f.exists(ctx, "/_matrix/app/v1/users/"+url.PathEscape(string(user)))
	}
}

// QueryAlias asks the services whose alias this might be to make it; true if one of them says it has.
// Spec: application-service-api/#get_matrixappv1roomsroomalias
func (s *Services) QueryAlias(ctx context.Context, alias id.RoomAlias) bool {
	for _, app := range s.list {
		if in, _ := match(app.Namespaces.Aliases, string(alias)); in && app.exists(ctx, "/_matrix/app/v1/rooms/"+url.PathEscape(string(alias))) {
			return true
		}
	}
	return false
}

// QueryUser asks the services whose user this might be to make them; true if one of them says it has.
// Spec: application-service-api/#get_matrixappv1usersuserid
func (s *Services) QueryUser(ctx context.Context, user id.UserID) bool {
	for _, app := range s.list {
		if app.Owns(user) && app.exists(ctx, "/_matrix/app/v1/users/"+url.PathEscape(string(user))) {
			return true
		}
	}
	return false
}
