package admin

import (
	"context"
	"encoding/json"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// shownUser is an account as Synapse's tools read it.
type shownUser struct {
	Name        id.UserID `json:"name"`
	DisplayName string    `json:"displayname"`
	AvatarURL   string    `json:"avatar_url"`
	Guest       bool      `json:"is_guest"`
	Admin       bool      `json:"admin"`
	Deactivated bool      `json:"deactivated"`
	Erased      bool      `json:"erased"`
	Locked      bool      `json:"locked"`
	Suspended   bool      `json:"suspended"`
	Created     int64     `json:"creation_ts"`
	Service     *string   `json:"appservice_id"`
	UserType    *string   `json:"user_type"`
	ThreePIDs   []any     `json:"threepids"`
	ExternalIDs []any     `json:"external_ids"`
}

func (h *Handlers) show(ctx context.Context, a *storage.Account) (*shownUser, error) {
	profile, err := h.store.Profiles.All(ctx, a.UserID)
	if err != nil {
		return nil, err
	}
	u := &shownUser{
		Name: a.UserID, Admin: a.Admin, Deactivated: a.Deactivated, Erased: a.Erased, Locked: a.Locked, Suspended: a.Suspended,
		Created: a.Created.Unix(), ThreePIDs: []any{}, ExternalIDs: []any{},
	}
	if a.ServiceID != "" {
		u.Service = &a.ServiceID
	}
	for field, into := range map[string]*string{"displayname": &u.DisplayName, "avatar_url": &u.AvatarURL} {
		if raw := profile[field]; raw != nil {
			if err := json.Unmarshal(raw, into); err != nil {
				continue // not a string: shown as none
			}
		}
	}
	return u, nil
}

// User handles GET /_synapse/admin/v2/users/{userId}.
func (h *Handlers) User(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	return h.show(r.Context(), account)
}

// Users handles GET /_synapse/admin/v2/users and v3. The list is in the order of names; from is the place to go on.
func (h *Handlers) Users(r *rest.Request) (any, error) {
	limit, err := r.Int("limit", 100, 1, 1000)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	name := strings.ToLower(r.Query("name") + r.Query("user_id"))
	closed, err := r.Bool("deactivated")
	if err != nil {
		return nil, err
	}
	accounts, total, err := h.store.Accounts.Find(ctx, name, closed, id.UserID(r.Query("from")), limit)
	if err != nil {
		return nil, err
	}
	users := make([]*shownUser, len(accounts))
	for i, a := range accounts {
		if users[i], err = h.show(ctx, a); err != nil {
			return nil, err
		}
	}
	answer := map[string]any{"users": users, "total": total}
	if len(accounts) == limit {
		answer["next_token"] = accounts[limit-1].UserID
	}
	return answer, nil
}

type userRequest struct {
	Password    string  `json:"password"`
	Logout      *bool   `json:"logout_devices"`
	DisplayName *string `json:"displayname"`
	AvatarURL   *string `json:"avatar_url"`
	Admin       *bool   `json:"admin"`
	Deactivated *bool   `json:"deactivated"`
	Locked      *bool   `json:"locked"`
}

// PutUser handles PUT /_synapse/admin/v2/users/{userId}: it makes the account, or changes it.
func (h *Handlers) PutUser(r *rest.Request) (any, error) {
	user, err := h.userID(r)
	if err != nil {
		return nil, err
	}
	var body userRequest
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	ctx := r.Context()
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil {
		return nil, err
	}
	code := 200
	if account == nil {
		name := ""
		if body.DisplayName != nil {
			name = *body.DisplayName
		}
		if _, err := h.accounts.Make(ctx, user.Localpart(), body.Password, name, body.Admin != nil && *body.Admin); err != nil {
			return nil, err
		}
		code, body.Password, body.DisplayName = 201, "", nil
	}
	if err := h.change(r, user, body); err != nil {
		return nil, err
	}
	if account, err = h.store.Accounts.ByID(ctx, user); err != nil || account == nil {
		return nil, err
	}
	shown, err := h.show(ctx, account)
	return rest.Status{Code: code, Body: shown}, err
}

// change changes what the request names.
func (h *Handlers) change(r *rest.Request, user id.UserID, body userRequest) error {
	ctx := r.Context()
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil {
		return err
	}
	if account == nil {
		return noSuchUser
	}
	if user == r.By.User && (body.Admin != nil && !*body.Admin || body.Locked != nil && *body.Locked || body.Deactivated != nil && *body.Deactivated) {
		return mautrix.MForbidden.WithMessage("You would shut yourself out")
	}
	if body.Password != "" {
		if err := h.accounts.ResetPassword(ctx, user, body.Password, body.Logout == nil || *body.Logout); err != nil {
			return err
		}
	}
	err = h.store.Do(ctx, func(ctx context.Context) error {
		for field, value := range map[string]*string{"displayname": body.DisplayName, "avatar_url": body.AvatarURL} {
			if value == nil {
				continue
			}
			raw, err := json.Marshal(*value)
			if err == nil {
				err = h.store.Profiles.Put(ctx, user, field, raw)
			}
			if err != nil {
				return err
			}
		}
		if body.Admin == nil && body.Locked == nil {
			return nil
		}
		if body.Admin != nil {
			account.Admin = *body.Admin
		}
		if body.Locked != nil {
			account.Locked = *body.Locked
		}
		return h.store.Accounts.SetStanding(ctx, account)
	})
	if err == nil && body.Deactivated != nil && *body.Deactivated && !account.Deactivated {
		err = h.accounts.Close(ctx, user, false)
	}
	return err
}

// ResetPassword handles POST /_synapse/admin/v1/reset_password/{userId}.
func (h *Handlers) ResetPassword(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Password string `json:"new_password"`
		Logout   *bool  `json:"logout_devices"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Password == "" {
		return nil, missing.WithMessage("new_password is missing")
	}
	return rest.Empty, h.accounts.ResetPassword(r.Context(), account.UserID, body.Password, body.Logout == nil || *body.Logout)
}

// Deactivate handles POST /_synapse/admin/v1/deactivate/{userId}.
func (h *Handlers) Deactivate(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Erase bool `json:"erase"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if account.UserID == r.By.User {
		return nil, mautrix.MForbidden.WithMessage("You would shut yourself out")
	}
	return map[string]string{"id_server_unbind_result": "no-support"}, h.accounts.Close(r.Context(), account.UserID, body.Erase)
}

// Joined handles GET /_synapse/admin/v1/users/{userId}/joined_rooms.
func (h *Handlers) Joined(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	list, err := h.store.Memberships.ByUser(r.Context(), account.UserID, event.MembershipJoin)
	rooms := make([]id.RoomID, len(list))
	for i, m := range list {
		rooms[i] = m.RoomID
	}
	return map[string]any{"joined_rooms": rooms, "total": len(rooms)}, err
}

type shownDevice struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
	Name     string      `json:"display_name"`
	Address  string      `json:"last_seen_ip"`
	Agent    string      `json:"last_seen_user_agent"`
	Seen     int64       `json:"last_seen_ts"`
}

// Devices handles GET /_synapse/admin/v2/users/{userId}/devices.
func (h *Handlers) Devices(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	devices, err := h.store.Devices.All(r.Context(), account.UserID)
	list := make([]shownDevice, len(devices))
	for i, d := range devices {
		list[i] = shownDevice{d.UserID, d.DeviceID, d.DisplayName, d.Address, d.Agent, d.Seen.UnixMilli()}
	}
	return map[string]any{"devices": list, "total": len(list)}, err
}

// DeleteDevice handles DELETE /_synapse/admin/v2/users/{userId}/devices/{deviceId}.
func (h *Handlers) DeleteDevice(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Devices.End(ctx, account.UserID, id.DeviceID(r.Path("deviceId")))
	})
}

// WhoIs handles GET /_matrix/client/v3/admin/whois/{userId}, and Synapse's path for the same. Everybody may ask for
// themselves.
// Spec: client-server-api/#get_matrixclientv3adminwhoisuserid
func (h *Handlers) WhoIs(r *rest.Request) (any, error) {
	user, err := h.userID(r)
	if err != nil {
		return nil, err
	}
	if user != r.By.User && !r.By.Admin {
		return nil, mautrix.MForbidden.WithMessage("You are not a server administrator")
	}
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	devices, err := h.store.Devices.All(r.Context(), account.UserID)
	shown := map[id.DeviceID]any{}
	for _, d := range devices {
		connection := map[string]any{"ip": d.Address, "last_seen": d.Seen.UnixMilli(), "user_agent": d.Agent}
		shown[d.DeviceID] = map[string]any{"sessions": []any{map[string]any{"connections": []any{connection}}}}
	}
	return map[string]any{"user_id": account.UserID, "devices": shown}, err
}
