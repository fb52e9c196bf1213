package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxStatusUsers bounds how many accounts are asked about at once.
const maxStatusUsers = 1000

// answerUserStatus handles POST /_matrix/federation/unstable/users/info: how accounts of ours stand. Those that are not there
// are left out.
func (f *Federation) answerUserStatus(r *request) (any, error) {
	var q struct {
		Users []id.UserID `json:"user_ids"`
	}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if len(q.Users) > maxStatusUsers {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d users at once", maxStatusUsers)
	}
	ours := slices.DeleteFunc(q.Users, func(user id.UserID) bool { return f.localUser(user) != nil })
	return f.store.Accounts.Status(r.Context(), ours)
}

// answerUserInfoQuery handles GET /_matrix/federation/v1/query/user_info: the same of one account, for those who ask in the older way.
func (f *Federation) answerUserInfoQuery(r *request) (any, error) {
	user := id.UserID(r.query.Get("user_id"))
	if err := f.localUser(user); err != nil {
		return nil, err
	}
	found, err := f.store.Accounts.Status(r.Context(), []id.UserID{user})
	if err != nil {
		return nil, err
	}
	status, ok := found[user]
	if !ok {
		return nil, mautrix.MNotFound.WithMessage("Unknown user")
	}
	return status, nil
}

// askUserStatus asks a server how accounts of its users stand. What it says of others is no answer.
func (f *Federation) askUserStatus(ctx context.Context, q *bus.UserStatus) (json.RawMessage, error) {
	raw, err := f.ask(ctx, remote.Request{
		Server: q.Server, Method: http.MethodPost, Path: []string{"unstable", "users", "info"}, Body: map[string]any{"user_ids": q.Users},
	})
	if err != nil {
		return nil, err
	}
	var said, good map[id.UserID]storage.Status
	if json.Unmarshal(raw, &said) != nil {
		return nil, bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The other server's answer cannot be read")
	}
	good = make(map[id.UserID]storage.Status, len(q.Users))
	for _, user := range q.Users {
		if status, ok := said[user]; ok && user.Homeserver() == q.Server {
			good[user] = status
		}
	}
	return json.Marshal(good)
}
