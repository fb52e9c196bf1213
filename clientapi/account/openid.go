package account

import (
	"context"
	"time"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// openIDAge is how long an OpenID token is good.
const openIDAge = time.Hour

// OpenIDToken handles POST /_matrix/client/v3/user/{userId}/openid/request_token. The token ends with the device that asks.
// Spec: client-server-api/#post_matrixclientv3useruseridopenidrequest_token
func (h *Handlers) OpenIDToken(r *rest.Request) (any, error) {
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	token := newToken("cho_")
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Tokens.PutPass(ctx, storage.OpenIDPass, token, user, r.By.Device, h.now().Add(openIDAge))
	})
	return map[string]any{
		"access_token": token, "token_type": "Bearer", "matrix_server_name": h.cfg.ServerName, "expires_in": int(openIDAge.Seconds()),
	}, err
}
