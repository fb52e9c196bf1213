package admin

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// shownUser is an account as Synapse's tools read it in a list.
type shownUser struct {
	Name        id.UserID       `json:"name"`
	DisplayName json.RawMessage `json:"displayname"`
	AvatarURL   json.RawMessage `json:"avatar_url"`
	Guest       bool            `json:"is_guest"`
	Admin       bool            `json:"admin"`
	Deactivated bool            `json:"deactivated"`
	Erased      bool            `json:"erased"`
	Shadowed    bool            `json:"shadow_banned"`
	Locked      bool            `json:"locked"`
	Suspended   bool            `json:"suspended"`
	// Created in ms since 1970 in lists, in seconds in the answer about one user: so the tools have it.
	Created  int64   `json:"creation_ts"`
	Seen     *int64  `json:"last_seen_ts"`
	UserType *string `json:"user_type"`
}

// wholeUser is an account as Synapse's tools read it by itself.
type wholeUser struct {
	shownUser
	Service        *string         `json:"appservice_id"`
	ThreePIDs      []shownThreePID `json:"threepids"`
	ExternalIDs    []externalID    `json:"external_ids"`
	ConsentVersion *string         `json:"consent_version"`
	ConsentTime    *int64          `json:"consent_ts"`
	ConsentNotice  *string         `json:"consent_server_notice_sent"`
	// Expires is when the account expires, in ms since 1970, and Expired that this was before now. Not Synapse's; left out of
	// accounts that never do.
	Expires int64 `json:"expiration_ts,omitempty"`
	Expired bool  `json:"expired,omitempty"`
}

type shownThreePID struct {
	Medium    string `json:"medium"`
	Address   string `json:"address"`
	Added     int64  `json:"added_at"`
	Validated int64  `json:"validated_at"`
}

type externalID struct {
	Provider   string `json:"auth_provider"`
	ExternalID string `json:"external_id"`
}

func listed(a *storage.Account, displayName, avatar []byte, seen time.Time) shownUser {
	u := shownUser{
		Name: a.UserID, DisplayName: displayName, AvatarURL: avatar, Admin: a.Admin, Deactivated: a.Deactivated, Erased: a.Erased,
		Shadowed: a.Shadowed, Locked: a.Locked, Suspended: a.Suspended, Created: a.Created.UnixMilli(),
	}
	if !seen.IsZero() {
		ms := seen.UnixMilli()
		u.Seen = &ms
	}
	if a.Type != "" {
		u.UserType = &a.Type
	}
	return u
}

func (h *Handlers) show(ctx context.Context, a *storage.Account) (*wholeUser, error) {
	profile, err := h.store.Profiles.All(ctx, a.UserID)
	if err != nil {
		return nil, err
	}
	devices, err := h.store.Devices.All(ctx, a.UserID)
	if err != nil {
		return nil, err
	}
	var seen time.Time
	for _, d := range devices {
		if d.Seen.After(seen) {
			seen = d.Seen
		}
	}
	u := &wholeUser{shownUser: listed(a, profile["displayname"], profile["avatar_url"], seen), ThreePIDs: []shownThreePID{}, ExternalIDs: []externalID{}}
	u.Created = a.Created.Unix()
	if a.ServiceID != "" {
		u.Service = &a.ServiceID
	}
	addresses, err := h.store.ThreePIDs.Of(ctx, a.UserID)
	if err != nil {
		return nil, err
	}
	for _, t := range addresses {
		u.ThreePIDs = append(u.ThreePIDs, shownThreePID{t.Medium, t.Address, t.Added.UnixMilli(), t.Validated.UnixMilli()})
	}
	validity, err := h.store.Validity.Of(ctx, a.UserID)
	if err != nil {
		return nil, err
	}
	if validity != nil {
		u.Expires, u.Expired = validity.Until.UnixMilli(), validity.Expired(time.Now())
	}
	elsewhere, err := h.store.ExternalIDs.Of(ctx, a.UserID)
	for _, e := range elsewhere {
		u.ExternalIDs = append(u.ExternalIDs, externalID(e))
	}
	return u, err
}

// User handles GET /_synapse/admin/v2/users/{userId}.
func (h *Handlers) User(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	return h.show(r.Context(), account)
}

// Users handles GET /_synapse/admin/v2/users.
func (h *Handlers) Users(r *rest.Request) (any, error) {
	q, err := userQuery(r)
	if err != nil {
		return nil, err
	}
	if q.Deactivated != nil { // here true means: these too
		q.Deactivated = unless(*q.Deactivated)
	} else {
		q.Deactivated = new(bool)
	}
	return h.users(r, q)
}

// UsersV3 handles GET /_synapse/admin/v3/users, where deactivated tells which accounts are wanted, and not which as well.
func (h *Handlers) UsersV3(r *rest.Request) (any, error) {
	q, err := userQuery(r)
	if err != nil {
		return nil, err
	}
	return h.users(r, q)
}

// unless is the condition "not" where those are not wanted too.
func unless(wanted bool) *bool {
	if wanted {
		return nil
	}
	return new(bool)
}

// userQuery reads what both versions of the list have in common.
func userQuery(r *rest.Request) (q storage.UserQuery, err error) {
	q = storage.UserQuery{
		Name: strings.ToLower(r.Query("name")), ID: strings.ToLower(r.Query("user_id")), OrderBy: r.Query("order_by"), NotTypes: r.HTTP.URL.Query()["not_user_type"],
	}
	if q.OrderBy != "" && !storage.UserOrders(q.OrderBy) {
		return q, mautrix.MInvalidParam.WithMessage("Users cannot be put in order by %q", q.OrderBy)
	}
	if q.Backward, q.Offset, q.Limit, err = page(r); err != nil {
		return q, err
	}
	var locked *bool
	for name, into := range map[string]**bool{"admins": &q.Admin, "deactivated": &q.Deactivated, "locked": &locked, "suspended": &q.Suspended} {
		if *into, err = flag(r, name); err != nil {
			return q, err
		}
	}
	if _, err = flag(r, "guests"); err != nil { // there are none: both lists are the same
		return q, err
	}
	q.Locked = unless(locked != nil && *locked)
	return q, nil
}

func (h *Handlers) users(r *rest.Request, q storage.UserQuery) (any, error) {
	found, total, err := h.store.Accounts.Find(r.Context(), q)
	if err != nil {
		return nil, err
	}
	users := make([]shownUser, len(found))
	for i, u := range found {
		users[i] = listed(u.Account, u.DisplayName, u.AvatarURL, u.Seen)
	}
	return paged(map[string]any{"users": users, "total": total}, q.Offset, len(users), total, true), nil
}

type userRequest struct {
	Password    string          `json:"password"`
	Logout      *bool           `json:"logout_devices"`
	DisplayName *string         `json:"displayname"`
	AvatarURL   *string         `json:"avatar_url"`
	Admin       *bool           `json:"admin"`
	Deactivated *bool           `json:"deactivated"`
	Locked      *bool           `json:"locked"`
	UserType    json.RawMessage `json:"user_type"` // null takes it away, absent leaves it
	ExternalIDs *[]externalID   `json:"external_ids"`
	ThreePIDs   *[]struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	} `json:"threepids"`
}

var userTypes = []string{"", "bot", "support"}

// check refuses what cannot be, before anything is changed; it gives the type.
func (q *userRequest) check() (userType *string, err error) {
	if len(q.UserType) > 0 {
		userType = new(string)
		if err := json.Unmarshal(q.UserType, userType); err != nil || !slices.Contains(userTypes, *userType) {
			return nil, mautrix.MInvalidParam.WithMessage("user_type is bot, support or null")
		}
	}
	if q.AvatarURL != nil && *q.AvatarURL != "" {
		if _, err := id.ParseContentURI(*q.AvatarURL); err != nil {
			return nil, mautrix.MInvalidParam.WithMessage("avatar_url is no mxc URI")
		}
	}
	if q.ExternalIDs != nil {
		for _, e := range *q.ExternalIDs {
			if e.Provider == "" || e.ExternalID == "" {
				return nil, missing.WithMessage("Each of external_ids has auth_provider and external_id")
			}
		}
	}
	if q.ThreePIDs != nil {
		for i, t := range *q.ThreePIDs {
			if (*q.ThreePIDs)[i].Address, err = address(t.Medium, t.Address); err != nil {
				return nil, err
			}
		}
	}
	return userType, nil
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
	userType, err := body.check()
	if err != nil {
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
		if account, err = h.store.Accounts.ByID(ctx, user); err != nil || account == nil {
			return nil, err
		}
	}
	if err := h.change(r, account, body, userType); err != nil {
		return nil, err
	}
	if account, err = h.store.Accounts.ByID(ctx, user); err != nil || account == nil {
		return nil, err
	}
	shown, err := h.show(ctx, account)
	return rest.Status{Code: code, Body: shown}, err
}

// change changes what the request names.
func (h *Handlers) change(r *rest.Request, account *storage.Account, body userRequest, userType *string) error {
	ctx, user := r.Context(), account.UserID
	is := func(flag *bool, value bool) bool { return flag != nil && *flag == value }
	if user == r.By.User && (is(body.Admin, false) || is(body.Locked, true) || is(body.Deactivated, true)) {
		return mautrix.MForbidden.WithMessage("You would shut yourself out")
	}
	reopen := account.Deactivated && is(body.Deactivated, false)
	if account.Deactivated && !reopen && body.Password != "" {
		return mautrix.MInvalidParam.WithMessage("The account is closed: open it again to give it a password")
	}
	if err := h.stands(ctx, account, body, userType, reopen); err != nil {
		return err
	}
	if body.Password != "" {
		if err := h.accounts.ResetPassword(ctx, user, body.Password, body.Logout == nil || *body.Logout); err != nil {
			return err
		}
	}
	for field, value := range map[string]*string{"displayname": body.DisplayName, "avatar_url": body.AvatarURL} {
		if value == nil {
			continue
		}
		if err := h.accounts.SetProfile(ctx, user, field, *value); err != nil {
			return err
		}
	}
	if is(body.Deactivated, true) && !account.Deactivated {
		return h.accounts.Close(ctx, user, false)
	}
	return nil
}

// stands writes how the account stands, who its user is elsewhere, and its addresses, in one commit.
func (h *Handlers) stands(ctx context.Context, account *storage.Account, body userRequest, userType *string, reopen bool) error {
	return h.store.Do(ctx, func(ctx context.Context) error {
		if reopen {
			if err := h.store.Accounts.Reopen(ctx, account.UserID); err != nil {
				return err
			}
		}
		changed := *account
		if body.Admin != nil {
			changed.Admin = *body.Admin
		}
		if body.Locked != nil {
			changed.Locked = *body.Locked
		}
		if userType != nil {
			changed.Type = *userType
		}
		if changed != *account {
			if err := h.store.Accounts.SetStanding(ctx, &changed); err != nil {
				return err
			}
		}
		if body.ExternalIDs != nil {
			ids := make([]storage.ExternalID, len(*body.ExternalIDs))
			for i, e := range *body.ExternalIDs {
				ids[i] = storage.ExternalID(e)
			}
			if free, err := h.store.ExternalIDs.Replace(ctx, account.UserID, ids); err != nil || !free {
				return errors.Join(err, errElsewhere)
			}
		}
		if body.ThreePIDs == nil {
			return nil
		}
		return h.setAddresses(ctx, account.UserID, body)
	})
}

// setAddresses replaces the user's addresses, inside Do. An administrator's word is the proof of them.
func (h *Handlers) setAddresses(ctx context.Context, user id.UserID, body userRequest) error {
	wanted := map[[2]string]bool{}
	for _, t := range *body.ThreePIDs {
		wanted[[2]string{t.Medium, t.Address}] = true
	}
	had, err := h.store.ThreePIDs.Of(ctx, user)
	if err != nil {
		return err
	}
	for _, t := range had {
		key := [2]string{t.Medium, t.Address}
		if !wanted[key] {
			if _, err := h.store.ThreePIDs.Delete(ctx, user, t.Medium, t.Address); err != nil {
				return err
			}
		}
		delete(wanted, key)
	}
	for key := range wanted {
		free, err := h.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: user, Medium: key[0], Address: key[1], Validated: time.Now()})
		if err != nil || !free {
			return errors.Join(err, errAddress)
		}
	}
	return nil
}

var (
	errElsewhere = mautrix.MUnknown.WithStatus(409).WithMessage("One of external_ids is another user's already")
	errAddress   = mautrix.RespError{ErrCode: "M_THREEPID_IN_USE", StatusCode: 400, Err: "One of threepids is another user's already"}
)

// address is an address in its canonical form.
func address(medium, text string) (string, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	switch medium {
	case "email":
		if at := strings.LastIndexByte(text, '@'); at > 0 && at < len(text)-1 && len(text) <= 500 {
			return text, nil
		}
	case "msisdn":
		if text = strings.TrimPrefix(text, "+"); len(text) > 2 && len(text) < 20 && strings.Trim(text, "0123456789") == "" {
			return text, nil
		}
	}
	return "", mautrix.MInvalidParam.WithMessage("Each of threepids has the medium email or msisdn, and an address that can be one")
}

// ByAddress handles GET /_synapse/admin/v1/threepid/{medium}/users/{address}.
func (h *Handlers) ByAddress(r *rest.Request) (any, error) {
	text, err := address(r.Path("medium"), r.Path("address"))
	if err != nil {
		return nil, err
	}
	found, err := h.store.ThreePIDs.ByAddress(r.Context(), r.Path("medium"), text)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, noSuchUser
	}
	return map[string]id.UserID{"user_id": found.UserID}, nil
}

// ByProvider handles GET /_synapse/admin/v1/auth_providers/{provider}/users/{externalId}.
func (h *Handlers) ByProvider(r *rest.Request) (any, error) {
	user, err := h.store.ExternalIDs.User(r.Context(), storage.ExternalID{Provider: r.Path("provider"), ExternalID: r.Path("externalId")})
	if err == nil && user == "" {
		err = noSuchUser
	}
	return map[string]id.UserID{"user_id": user}, err
}

// IsAdmin handles GET /_synapse/admin/v1/users/{userId}/admin.
func (h *Handlers) IsAdmin(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"admin": account.Admin}, nil
}

// SetAdmin handles PUT /_synapse/admin/v1/users/{userId}/admin.
func (h *Handlers) SetAdmin(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Admin *bool `json:"admin"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Admin == nil {
		return nil, missing.WithMessage("admin is missing")
	}
	return rest.Empty, h.change(r, account, userRequest{Admin: body.Admin}, nil)
}

// ResetPassword handles POST /_synapse/admin/v1/reset_password/{userId}.
func (h *Handlers) ResetPassword(r *rest.Request) (any, error) {
	account, err := h.open(r)
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
