package admin

import (
	"context"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// open finds the account of {userId}, which must not be closed.
func (h *Handlers) open(r *rest.Request) (*storage.Account, error) {
	account, err := h.account(r)
	if err == nil && account.Deactivated {
		err = noSuchUser
	}
	return account, err
}

// stand changes how an account stands; not that of an administrator, and not one's own.
func (h *Handlers) stand(r *rest.Request, change func(*storage.Account)) error {
	account, err := h.open(r)
	if err != nil {
		return err
	}
	if account.Admin || account.UserID == r.By.User {
		return mautrix.MForbidden.WithMessage("Administrators are neither locked nor suspended")
	}
	change(account)
	return h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Accounts.SetStanding(ctx, account) })
}

// Locked handles GET /_matrix/client/v1/admin/lock/{userId}.
// Spec: client-server-api/#get_matrixclientv1adminlockuserid
func (h *Handlers) Locked(r *rest.Request) (any, error) {
	account, err := h.open(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": account.Locked}, nil
}

// Lock handles PUT /_matrix/client/v1/admin/lock/{userId}.
// Spec: client-server-api/#put_matrixclientv1adminlockuserid
func (h *Handlers) Lock(r *rest.Request) (any, error) {
	var body struct {
		Locked *bool `json:"locked"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Locked == nil {
		return nil, missing.WithMessage("locked is missing")
	}
	return map[string]bool{"locked": *body.Locked}, h.stand(r, func(a *storage.Account) { a.Locked = *body.Locked })
}
