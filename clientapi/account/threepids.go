package account

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// threePID is an address as its user sees it.
type threePID struct {
	Medium      string `json:"medium"`
	Address     string `json:"address"`
	ValidatedAt int64  `json:"validated_at"`
	AddedAt     int64  `json:"added_at"`
}

// ThreePIDs handles GET /_matrix/client/v3/account/3pid.
// Spec: client-server-api/#get_matrixclientv3account3pid
func (h *Handlers) ThreePIDs(r *rest.Request) (any, error) {
	rows, err := h.store.ThreePIDs.Of(r.Context(), r.By.User)
	list := make([]threePID, len(rows))
	for i, row := range rows {
		list[i] = threePID{row.Medium, row.Address, row.Validated.UnixMilli(), row.Added.UnixMilli()}
	}
	return map[string]any{"threepids": list}, err
}

// AddThreePID handles POST /_matrix/client/v3/account/3pid/add.
// Spec: client-server-api/#post_matrixclientv3account3pidadd
func (h *Handlers) AddThreePID(r *rest.Request) (any, error) {
	var body struct {
		authBody
		credentials
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.SID == "" || body.ClientSecret == "" {
		return nil, errMissing.WithMessage("sid and client_secret are needed")
	}
	if !h.cfg.AddressChanges {
		return nil, errDenied.WithMessage("Addresses are not changed here")
	}
	if err := h.confirm(r, body.Auth, body.credentials); err != nil {
		return nil, err
	}
	return rest.Empty, h.addProved(r, body.credentials)
}

// AddThreePIDs handles POST /_matrix/client/v3/account/3pid, which /add has replaced. It has no user-interactive
// authentication; so it wants a proof that this very user has asked for, as /add does, and nothing more.
// Spec: client-server-api/#post_matrixclientv3account3pid
func (h *Handlers) AddThreePIDs(r *rest.Request) (any, error) {
	var body struct {
		authBody
		Credentials credentials `json:"three_pid_creds"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Credentials.SID == "" || body.Credentials.ClientSecret == "" {
		return nil, errMissing.WithMessage("three_pid_creds with sid and client_secret is needed")
	}
	if !h.cfg.AddressChanges {
		return nil, errDenied.WithMessage("Addresses are not changed here")
	}
	// An address that was added resets the password: it takes the present one to add it, here as well.
	if err := h.confirm(r, body.Auth, body.Credentials); err != nil {
		return nil, err
	}
	return rest.Empty, h.addProved(r, body.Credentials)
}

func (h *Handlers) addProved(r *rest.Request, c credentials) error {
	v, err := proof(r.Context(), h.store, h.now(), c, forAddition, r.By.User)
	if err != nil {
		return err
	}
	if v == nil {
		return errAuthFailed.WithMessage("The address is not confirmed: follow the link in the e-mail")
	}
	first, added := false, false
	err = h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		if first, err = h.store.Validations.End(ctx, v.SID); err != nil || !first {
			return err
		}
		added, err = h.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: r.By.User, Medium: v.Medium, Address: v.Address, Validated: v.Validated})
		return err
	})
	switch {
	case err != nil:
		return err
	case !first:
		return errAuthFailed.WithMessage("This proof was used already")
	case !added:
		return errInUse.WithMessage("This address belongs to another account")
	}
	return nil
}

// addressOf reads a body that names an address.
func addressOf(r *rest.Request) (medium, address string, err error) {
	var body struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	}
	if err := r.JSON(&body); err != nil {
		return "", "", err
	}
	if body.Medium == "" || body.Address == "" {
		return "", "", errMissing.WithMessage("medium and address are needed")
	}
	return body.Medium, body.Address, nil
}

// DeleteThreePID handles POST /_matrix/client/v3/account/3pid/delete.
// Spec: client-server-api/#post_matrixclientv3account3piddelete
func (h *Handlers) DeleteThreePID(r *rest.Request) (any, error) {
	medium, address, err := addressOf(r)
	if err != nil {
		return nil, err
	}
	if !h.cfg.AddressChanges {
		return nil, errDenied.WithMessage("Addresses are not changed here")
	}
	if medium == mediumEmail {
		if canonical, err := mail.Address(address); err == nil {
			address = canonical
		}
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		_, err := h.store.ThreePIDs.Delete(ctx, r.By.User, medium, address)
		return err
	})
	return map[string]string{"id_server_unbind_result": "no-support"}, err
}

// BindThreePID handles POST /_matrix/client/v3/account/3pid/bind. There is no identity server to bind to.
// Spec: client-server-api/#post_matrixclientv3account3pidbind
func (h *Handlers) BindThreePID(r *rest.Request) (any, error) {
	var body struct {
		credentials
		Server string `json:"id_server"`
		Token  string `json:"id_access_token"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.SID == "" || body.ClientSecret == "" || body.Server == "" || body.Token == "" {
		return nil, errMissing.WithMessage("sid, client_secret, id_server and id_access_token are needed")
	}
	return nil, mautrix.RespError{ErrCode: "M_SERVER_NOT_TRUSTED", StatusCode: http.StatusBadRequest}.
		WithMessage("This server works with no identity server; /account/3pid/add gives an address to your account")
}

// UnbindThreePID handles POST /_matrix/client/v3/account/3pid/unbind. Nothing can be bound; the spec has a word for that.
// Spec: client-server-api/#post_matrixclientv3account3pidunbind
func (h *Handlers) UnbindThreePID(r *rest.Request) (any, error) {
	if _, _, err := addressOf(r); err != nil {
		return nil, err
	}
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}

// tellOfPassword writes to all addresses of an account whose password was changed.
func (h *Handlers) tellOfPassword(ctx context.Context, r *rest.Request, account *storage.Account) error {
	if h.mailer == nil {
		return nil
	}
	addresses, err := h.store.ThreePIDs.Of(ctx, account.UserID)
	for _, a := range addresses {
		if a.Medium != mediumEmail {
			continue
		}
		// A full queue is counted there; the password is changed all the same.
		_ = h.mailer.Queue(mail.Message{
			To: a.Address, Lang: r.HTTP.Header.Get("Accept-Language"), Template: "changed", Data: mail.Data{User: string(account.UserID)},
		})
	}
	return err
}
