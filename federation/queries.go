package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage/bus"
)

// mMissingParam is what a question without a needed parameter gets.
var mMissingParam = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}

// answerProfile handles GET /_matrix/federation/v1/query/profile.
// Spec: server-server-api/#get_matrixfederationv1queryprofile
func (f *Federation) answerProfile(r *request) (any, error) {
	user, field := id.UserID(r.query.Get("user_id")), r.query.Get("field")
	if err := f.localUser(user); err != nil {
		return nil, err
	}
	account, err := f.store.Accounts.ByID(r.Context(), user)
	if err != nil {
		return nil, err
	}
	if account == nil {
		return nil, mautrix.MNotFound.WithMessage("Unknown user")
	}
	profile, err := f.store.Profiles.All(r.Context(), user)
	if err != nil {
		return nil, err
	}
	if field == "" {
		if profile == nil {
			profile = map[string]json.RawMessage{}
		}
		return profile, nil
	}
	one := map[string]json.RawMessage{}
	if value, ok := profile[field]; ok {
		one[field] = value
	}
	return one, nil
}

// askProfile asks a user's server for the profile, or one field of it.
func (f *Federation) askProfile(ctx context.Context, q *bus.QueryProfile) (json.RawMessage, error) {
	query := url.Values{"user_id": {string(q.UserID)}}
	if q.Field != "" {
		query.Set("field", q.Field)
	}
	return f.ask(ctx, remote.Request{
		Server: q.UserID.Homeserver(), Method: http.MethodGet, Path: []string{"v1", "query", "profile"}, Query: query,
	})
}

// answerDirectory handles GET /_matrix/federation/v1/query/directory.
// Spec: server-server-api/#get_matrixfederationv1querydirectory
func (f *Federation) answerDirectory(r *request) (any, error) {
	alias := id.RoomAlias(r.query.Get("room_alias"))
	if alias == "" {
		return nil, mMissingParam.WithMessage("room_alias is missing")
	}
	room, err := f.store.Rooms.ByAlias(r.Context(), alias)
	if err != nil {
		return nil, err
	}
	if room == "" {
		return nil, mautrix.MNotFound.WithMessage("Unknown alias")
	}
	servers, err := f.store.Rooms.ServersNow(r.Context(), room)
	if err != nil {
		return nil, err
	}
	if servers == nil {
		servers = []string{}
	}
	return map[string]any{"room_id": room, "servers": servers}, nil
}

// askAlias asks an alias's server for the room.
func (f *Federation) askAlias(ctx context.Context, q *bus.QueryAlias) (json.RawMessage, error) {
	_, server, ok := cutServer(string(q.Alias))
	if !ok {
		return nil, bus.Refuse(http.StatusBadRequest, "M_INVALID_PARAM", "Malformed alias")
	}
	return f.ask(ctx, remote.Request{
		Server: server, Method: http.MethodGet, Path: []string{"v1", "query", "directory"}, Query: url.Values{"room_alias": {string(q.Alias)}},
	})
}

// answerUnknownQuery handles GET /_matrix/federation/v1/query/{queryType}, for the types that we do not know.
// Spec: server-server-api/#get_matrixfederationv1queryquerytype
func (f *Federation) answerUnknownQuery(*request) (any, error) {
	return nil, mautrix.MNotFound.WithMessage("Unknown query type")
}

// answerUserInfo handles GET /_matrix/federation/v1/openid/userinfo.
// Spec: server-server-api/#get_matrixfederationv1openiduserinfo
func (f *Federation) answerUserInfo(r *request) (any, error) {
	token := r.query.Get("access_token")
	if token == "" {
		return nil, mautrix.MMissingToken.WithMessage("access_token is missing")
	}
	user, err := f.openID(r.Context(), token)
	if err != nil {
		return nil, err
	}
	if user == "" {
		return nil, mautrix.MUnknownToken.WithMessage("Access token unknown or expired")
	}
	return map[string]id.UserID{"sub": user}, nil
}

// askUserInfo asks a server whom an OpenID token of its names. A user of another server is no answer.
func (f *Federation) askUserInfo(ctx context.Context, q *bus.UserInfo) (json.RawMessage, error) {
	raw, err := f.ask(ctx, remote.Request{
		Server: q.Server, Method: http.MethodGet, Path: []string{"v1", "openid", "userinfo"}, Query: url.Values{"access_token": {q.Token}}, Unsigned: true,
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Sub id.UserID `json:"sub"`
	}
	if json.Unmarshal(raw, &answer) != nil || answer.Sub.Homeserver() != q.Server {
		return nil, bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "The server names a user that is not its own")
	}
	return raw, nil
}
