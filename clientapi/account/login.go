package account

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
	"chancery/storage"
)

// Kinds of login.
const (
	loginPassword = "m.login.password"
	loginToken    = "m.login.token"
	loginSSO      = "m.login.sso"
	loginService  = "m.login.application_service"
)

// thirdParty is the kind of identifier that names a user by an address.
const thirdParty = "m.id.thirdparty"

// Flows handles GET /_matrix/client/v3/login.
// Spec: client-server-api/#get_matrixclientv3login
func (h *Handlers) Flows(*rest.Request) (any, error) {
	type flow struct {
		Type      string          `json:"type"`
		GetToken  bool            `json:"get_login_token,omitempty"`
		Providers []upstream.Info `json:"identity_providers,omitempty"`
	}
	var flows []flow
	if h.cfg.PasswordLogin {
		flows = append(flows, flow{Type: loginPassword})
	}
	if providers := h.upstream.List(); len(providers) > 0 {
		flows = append(flows, flow{Type: loginSSO, Providers: providers})
	}
	return map[string]any{"flows": append(flows, flow{Type: loginToken, GetToken: true}, flow{Type: loginService})}, nil
}

// wanted is what clients may ask for of a new session, at login and at registration.
type wanted struct {
	DeviceID    id.DeviceID `json:"device_id"`
	DisplayName string      `json:"initial_device_display_name"`
	Refresh     bool        `json:"refresh_token"`
}

func (w wanted) check() error {
	if len(w.DeviceID) > 255 {
		return mautrix.MInvalidParam.WithMessage("The device ID is longer than 255 bytes")
	}
	return checkDeviceName(w.DisplayName)
}

type loginRequest struct {
	wanted
	Type       string     `json:"type"`
	Identifier identifier `json:"identifier"`
	User       string     `json:"user"` // before identifiers, and still sent
	Medium     string     `json:"medium"`
	Address    string     `json:"address"`
	Password   string     `json:"password"`
	Token      string     `json:"token"`
}

// session is what a client gets that has logged in or registered.
type session struct {
	UserID       id.UserID   `json:"user_id"`
	AccessToken  string      `json:"access_token,omitempty"`
	DeviceID     id.DeviceID `json:"device_id,omitempty"`
	HomeServer   string      `json:"home_server,omitempty"`
	RefreshToken string      `json:"refresh_token,omitempty"`
	ExpiresIn    int64       `json:"expires_in_ms,omitempty"`
}

// Login handles POST /_matrix/client/v3/login.
// Spec: client-server-api/#post_matrixclientv3login
func (h *Handlers) Login(r *rest.Request) (any, error) {
	var body loginRequest
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	var user id.UserID
	var elsewhere string
	var err error
	switch body.Type {
	case loginPassword:
		user, err = h.byPassword(r, body)
	case loginToken:
		user, elsewhere, err = h.byPass(r, body.Token)
	case loginService:
		user, err = h.byService(r, body)
	default:
		return nil, mautrix.MUnknown.WithStatus(http.StatusBadRequest).WithMessage("There is no such way to log in here")
	}
	if err != nil {
		return nil, err
	}
	return h.openSession(r, user, body.wanted, elsewhere)
}

// named is the user whom a login names. Clients send what was typed: with capitals, or without the server.
func (h *Handlers) named(ctx context.Context, body loginRequest) (id.UserID, error) {
	name := body.Identifier.User
	if body.Identifier.Type == "" && name == "" && body.User == "" && body.Medium != "" {
		body.Identifier = identifier{Type: thirdParty, Medium: body.Medium, Address: body.Address}
	}
	switch body.Identifier.Type {
	case "", "m.id.user":
	case thirdParty:
		holder, err := h.passwords.holder(ctx, body.Identifier.Medium, body.Identifier.Address)
		if err == nil && holder == "" {
			holder = id.UserID(body.Identifier.Medium + ":" + body.Identifier.Address) // nobody: looked up and hashed like anybody
		}
		return holder, err
	default:
		return "", errWrongPassword
	}
	if name == "" {
		name = body.User
	}
	if name == "" {
		return "", errMissing.WithMessage("The user is missing")
	}
	user, ok := h.userID(name)
	if !ok {
		user, ok = h.userID(strings.ToLower(name))
	}
	if !ok {
		return "", errWrongPassword
	}
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil || account != nil {
		return user, err
	}
	lower := id.NewUserID(strings.ToLower(user.Localpart()), h.cfg.ServerName)
	return lower, nil
}

func (h *Handlers) byPassword(r *rest.Request, body loginRequest) (id.UserID, error) {
	if !h.cfg.PasswordLogin {
		return "", mautrix.MForbidden.WithMessage("Nobody logs in with a password here")
	}
	user, err := h.named(r.Context(), body)
	if err != nil {
		return "", err
	}
	account, err := h.passwords.Check(r, user, body.Password)
	if err != nil {
		return "", err
	}
	return account.UserID, nil
}

// byPass is login with a token that another device of the user has asked for, or that the browser brought from an identity
// provider: then elsewhere is the session there.
func (h *Handlers) byPass(r *rest.Request, token string) (user id.UserID, elsewhere string, err error) {
	err = h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		if user, err = h.store.Tokens.TakePass(ctx, storage.LoginPass, token); err != nil || user == "" {
			return err
		}
		session, err := h.store.Upstream.TakePass(ctx, storage.UpstreamLogin, token, "")
		elsewhere = string(session)
		return err
	})
	if err != nil {
		return "", "", err
	}
	if user == "" {
		return "", "", mautrix.MForbidden.WithMessage("This login token is unknown, used or too old")
	}
	return user, elsewhere, nil
}

// byService is login of an application service as one of its users.
// Spec: application-service-api/#server-admin-style-permissions
func (h *Handlers) byService(r *rest.Request, body loginRequest) (id.UserID, error) {
	if r.By.Service == nil {
		return "", mautrix.MMissingToken.WithMessage("This is for application services")
	}
	user, err := h.named(r.Context(), body)
	if err != nil {
		return "", err
	}
	if user != r.By.Service.Sender() && !r.By.Service.Owns(user) {
		return "", mautrix.MExclusive.WithMessage("The application service does not own this user")
	}
	return user, nil
}

// openSession makes the device, or takes it over, and gives it its tokens. Closed accounts are refused, whatever the
// way in. It ends with the session elsewhere, at an identity provider, from which it came; empty if it came from none.
func (h *Handlers) openSession(r *rest.Request, user id.UserID, want wanted, elsewhere string) (*session, error) {
	account, err := h.store.Accounts.ByID(r.Context(), user)
	if err != nil {
		return nil, err
	}
	if account == nil || account.Deactivated {
		return nil, errWrongPassword
	}
	s, pair := h.newSession(user, want)
	return s, h.store.Do(r.Context(), func(ctx context.Context) error {
		if err := h.putSession(ctx, r, s, pair, want); err != nil {
			return err
		}
		if elsewhere == "" {
			return h.store.Upstream.Detach(ctx, user, s.DeviceID)
		}
		return h.upstream.Attach(ctx, elsewhere, user, s.DeviceID)
	})
}

// newSession draws the secrets of a session.
func (h *Handlers) newSession(user id.UserID, want wanted) (*session, storage.Pair) {
	s := &session{UserID: user, AccessToken: newToken("cha_"), DeviceID: want.DeviceID, HomeServer: h.cfg.ServerName}
	if s.DeviceID == "" {
		s.DeviceID = id.DeviceID(rand.Text()[:10])
	}
	pair := storage.Pair{Access: s.AccessToken}
	if want.Refresh {
		s.RefreshToken, s.ExpiresIn = newToken("chr_"), h.cfg.TokenLifetime.Milliseconds()
		pair.Refresh, pair.Expires = s.RefreshToken, h.now().Add(h.cfg.TokenLifetime)
	}
	return s, pair
}

// putSession writes a session down, inside Do.
func (h *Handlers) putSession(ctx context.Context, r *rest.Request, s *session, pair storage.Pair, want wanted) error {
	err := h.store.Devices.Put(ctx, &storage.Device{
		UserID: s.UserID, DeviceID: s.DeviceID, DisplayName: want.DisplayName,
		Address: r.Address(), Agent: clipAgent(r.HTTP.UserAgent()),
	})
	if err != nil {
		return err
	}
	return h.store.Tokens.Put(ctx, s.UserID, s.DeviceID, pair)
}

// LoginAs opens a session of a user for an administrator. Zero until: it has no end.
func (h *Handlers) LoginAs(ctx context.Context, user id.UserID, device string, until time.Time) (string, error) {
	s, pair := h.newSession(user, wanted{})
	pair.Expires = until
	return s.AccessToken, h.store.Do(ctx, func(ctx context.Context) error {
		if err := h.store.Devices.Put(ctx, &storage.Device{UserID: user, DeviceID: s.DeviceID, DisplayName: device}); err != nil {
			return err
		}
		return h.store.Tokens.Put(ctx, user, s.DeviceID, pair)
	})
}

// Refresh handles POST /_matrix/client/v3/refresh.
// Spec: client-server-api/#post_matrixclientv3refresh
func (h *Handlers) Refresh(r *rest.Request) (any, error) {
	var body struct {
		Token string `json:"refresh_token"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Token == "" {
		return nil, errMissing.WithMessage("refresh_token is missing")
	}
	pair := storage.Pair{Access: newToken("cha_"), Refresh: newToken("chr_"), Expires: h.now().Add(h.cfg.TokenLifetime)}
	known := false
	err := h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		known, err = h.store.Tokens.Refresh(ctx, body.Token, pair)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, mautrix.MUnknownToken.WithMessage("This refresh token is not known")
	}
	return map[string]any{
		"access_token": pair.Access, "refresh_token": pair.Refresh, "expires_in_ms": h.cfg.TokenLifetime.Milliseconds(),
	}, nil
}

// Logout handles POST /_matrix/client/v3/logout.
// Spec: client-server-api/#post_matrixclientv3logout
func (h *Handlers) Logout(r *rest.Request) (any, error) {
	if r.By.Device == "" {
		return nil, mautrix.MForbidden.WithMessage("An application service without a device cannot log out")
	}
	return rest.Empty, h.endDevices(r.Context(), r.By.User, r.By.Device)
}

// LogoutAll handles POST /_matrix/client/v3/logout/all.
// Spec: client-server-api/#post_matrixclientv3logoutall
func (h *Handlers) LogoutAll(r *rest.Request) (any, error) {
	return rest.Empty, h.endOtherDevices(r.Context(), r.By.User, "")
}

func (h *Handlers) endDevices(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	return h.store.Do(ctx, func(ctx context.Context) error {
		for _, device := range devices {
			if err := h.store.Devices.End(ctx, user, device); err != nil {
				return err
			}
		}
		return nil
	})
}

// endOtherDevices ends all sessions of the user but this one's. A dehydrated device, which has none, stays: it is there to
// receive keys while nobody is logged in.
func (h *Handlers) endOtherDevices(ctx context.Context, user id.UserID, but id.DeviceID) error {
	return h.store.Do(ctx, func(ctx context.Context) error {
		devices, err := h.store.Devices.All(ctx, user)
		if err != nil {
			return err
		}
		asleep, err := h.store.Dehydrated.Of(ctx, user)
		if err != nil {
			return err
		}
		for _, d := range devices {
			if d.DeviceID == but || asleep != nil && d.DeviceID == asleep.DeviceID {
				continue
			}
			if err := h.store.Devices.End(ctx, user, d.DeviceID); err != nil {
				return err
			}
		}
		return nil
	})
}

// loginPassAge is how long a login token is good.
const loginPassAge = 2 * time.Minute

// LoginToken handles POST /_matrix/client/v1/login/get_token.
// Spec: client-server-api/#post_matrixclientv1loginget_token
func (h *Handlers) LoginToken(r *rest.Request) (any, error) {
	var body authBody
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if err := h.confirm(r, body.Auth, nil); err != nil {
		return nil, err
	}
	token := newToken("chl_")
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Tokens.PutPass(ctx, storage.LoginPass, token, r.By.User, "", h.now().Add(loginPassAge))
	})
	return map[string]any{"login_token": token, "expires_in_ms": loginPassAge.Milliseconds()}, err
}
