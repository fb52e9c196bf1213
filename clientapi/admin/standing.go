package admin

import (
	"context"
	"time"

	"github.com/rs/zerolog"
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

// wanted reads the one flag of a body.
func wanted(r *rest.Request, name string) (bool, error) {
	var body map[string]any
	if err := r.JSON(&body); err != nil {
		return false, err
	}
	value, ok := body[name]
	if !ok {
		return false, missing.WithMessage("%s is missing", name)
	}
	set, ok := value.(bool)
	if !ok {
		return false, mautrix.MBadJSON.WithMessage("%s is neither true nor false", name)
	}
	return set, nil
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
	locked, err := wanted(r, "locked")
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": locked}, h.stand(r, func(a *storage.Account) { a.Locked = locked })
}

// Suspended handles GET /_matrix/client/v1/admin/suspend/{userId}.
// Spec: client-server-api/#get_matrixclientv1adminsuspenduserid
func (h *Handlers) Suspended(r *rest.Request) (any, error) {
	account, err := h.open(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": account.Suspended}, nil
}

// Suspend handles PUT /_matrix/client/v1/admin/suspend/{userId}.
// Spec: client-server-api/#put_matrixclientv1adminsuspenduserid
func (h *Handlers) Suspend(r *rest.Request) (any, error) {
	suspended, err := wanted(r, "suspended")
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": suspended}, h.stand(r, func(a *storage.Account) { a.Suspended = suspended })
}

// SuspendAsTools handles PUT /_synapse/admin/v1/suspend/{userId}, whose body differs.
func (h *Handlers) SuspendAsTools(r *rest.Request) (any, error) {
	suspended, err := wanted(r, "suspend")
	if err != nil {
		return nil, err
	}
	account, err := h.userID(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"user_" + string(account) + "_suspended": suspended}, h.stand(r, func(a *storage.Account) { a.Suspended = suspended })
}

// ShadowBan handles POST and DELETE /_synapse/admin/v1/users/{userId}/shadow_ban.
func (h *Handlers) ShadowBan(r *rest.Request) (any, error) {
	return rest.Empty, h.stand(r, func(a *storage.Account) { a.Shadowed = r.HTTP.Method == "POST" })
}

type shownRate struct {
	PerSecond *int64 `json:"messages_per_second,omitempty"`
	Burst     *int64 `json:"burst_count,omitempty"`
}

func showRate(rate *storage.Rate) shownRate {
	if rate == nil {
		return shownRate{}
	}
	return shownRate{&rate.PerSecond, &rate.Burst}
}

// Rate handles GET /_synapse/admin/v1/users/{userId}/override_ratelimit.
func (h *Handlers) Rate(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	rate, err := h.store.Rates.Of(r.Context(), account.UserID)
	return showRate(rate), err
}

// SetRate handles POST /_synapse/admin/v1/users/{userId}/override_ratelimit. It holds for all that is counted by user; 0 and 0
// is no limit at all.
func (h *Handlers) SetRate(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		PerSecond int64 `json:"messages_per_second"`
		Burst     int64 `json:"burst_count"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	const most = 1 << 31
	if body.PerSecond < 0 || body.Burst < 0 || body.PerSecond > most || body.Burst > most {
		return nil, mautrix.MInvalidParam.WithMessage("messages_per_second and burst_count are not negative, and not that large")
	}
	rate := &storage.Rate{PerSecond: body.PerSecond, Burst: body.Burst}
	return showRate(rate), h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Rates.Put(ctx, account.UserID, rate) })
}

// DeleteRate handles DELETE /_synapse/admin/v1/users/{userId}/override_ratelimit.
func (h *Handlers) DeleteRate(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Rates.Put(ctx, account.UserID, nil) })
}

// LoginAs handles POST /_synapse/admin/v1/users/{userId}/login: a session in somebody else's name. It has a device like any
// other, which its owner sees and can end: nobody is acted for behind their back.
func (h *Handlers) LoginAs(r *rest.Request) (any, error) {
	account, err := h.open(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Until *int64 `json:"valid_until_ms"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if account.UserID == r.By.User {
		return nil, mautrix.MInvalidParam.WithMessage("You are logged in as yourself already")
	}
	var until time.Time
	if body.Until != nil {
		if until = time.UnixMilli(*body.Until); !until.After(time.Now()) {
			return nil, mautrix.MInvalidParam.WithMessage("valid_until_ms has passed")
		}
	}
	token, err := h.accounts.LoginAs(r.Context(), account.UserID, "Administrator "+string(r.By.User), until)
	if err == nil {
		zerolog.Ctx(r.Context()).Info().Stringer("as", account.UserID).Msg("Administrator logged in as somebody else")
	}
	return map[string]string{"access_token": token}, err
}
