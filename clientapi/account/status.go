package account

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	// maxStatusUsers bounds how many accounts are asked about at once, maxStatusServers at how many other servers.
	maxStatusUsers   = 1000
	maxStatusServers = 50
)

// UsersInfo handles POST /_matrix/client/unstable/users/info: how the accounts of these users stand, here and at other servers.
// Those of whom nobody says anything are left out.
func (h *Handlers) UsersInfo(r *rest.Request) (any, error) {
	var body struct {
		Users []id.UserID `json:"user_ids"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Users == nil {
		return nil, errMissing.WithMessage("user_ids is missing")
	}
	return h.status(r.Context(), body.Users)
}

// UserInfo handles GET /_matrix/client/v3/user/{userId}/info, and its unstable name: the same of one user.
func (h *Handlers) UserInfo(r *rest.Request) (any, error) {
	user, err := r.UserID()
	if err != nil {
		return nil, err
	}
	found, err := h.status(r.Context(), []id.UserID{user})
	if err != nil {
		return nil, err
	}
	status, ok := found[user]
	if !ok {
		return nil, errNoProfile
	}
	return status, nil
}

func (h *Handlers) status(ctx context.Context, users []id.UserID) (map[id.UserID]storage.Status, error) {
	if len(users) > maxStatusUsers {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d users at once", maxStatusUsers)
	}
	byServer := map[string][]id.UserID{}
	for _, user := range users {
		if !rest.ValidUserID(user) {
			return nil, mautrix.MInvalidParam.WithMessage("One of user_ids is no user ID")
		}
		byServer[user.Homeserver()] = append(byServer[user.Homeserver()], user)
	}
	found, err := h.store.Accounts.Status(ctx, byServer[h.cfg.ServerName])
	if err != nil {
		return nil, err
	}
	delete(byServer, h.cfg.ServerName)
	if len(byServer) > maxStatusServers {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d servers at once", maxStatusServers)
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for server, theirs := range byServer {
		asking.Go(func() {
			said, err := h.askStatus(ctx, server, theirs)
			if err != nil {
				zerolog.Ctx(ctx).Debug().Err(err).Msg("Another server does not say how accounts stand")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for user, status := range said {
				found[user] = status
			}
		})
	}
	asking.Wait()
	return found, nil
}

func (h *Handlers) askStatus(ctx context.Context, server string, users []id.UserID) (said map[id.UserID]storage.Status, err error) {
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, bus.FederationQuestion{
		UserStatus: &bus.UserStatus{Server: server, Users: users},
	})
	if err != nil {
		return nil, err
	}
	return said, json.Unmarshal(answer.Body, &said)
}
