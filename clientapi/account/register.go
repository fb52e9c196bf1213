package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the protocol says so
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

var errRegistrationClosed = mautrix.MForbidden.WithMessage("Registration is not open here")

// newUser is the ID of somebody who may be registered under this name.
// Spec: appendices/#user-identifiers
func (h *Handlers) newUser(ctx context.Context, name string) (id.UserID, error) {
	local := strings.ToLower(name)
	for _, c := range []byte(local) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._=-/+", c) >= 0) {
			return "", mautrix.MInvalidUsername.WithMessage("A username has only a-z, 0-9 and ._=-/+")
		}
	}
	user := id.NewUserID(local, h.cfg.ServerName)
	if local == "" || len(user) > 255 {
		return "", mautrix.MInvalidUsername.WithMessage("The username is empty or too long")
	}
	account, err := h.store.Accounts.ByID(ctx, user)
	if err == nil && account != nil {
		err = errTaken
	}
	return user, err
}

var errTaken = mautrix.MUserInUse.WithMessage("This username is taken")

// Available handles GET /_matrix/client/v3/register/available.
// Spec: client-server-api/#get_matrixclientv3registeravailable
func (h *Handlers) Available(r *rest.Request) (any, error) {
	flows, err := h.flows(r.Context())
	if err != nil {
		return nil, err
	}
	if len(flows) == 0 {
		return nil, errRegistrationClosed
	}
	if h.givesNames(flows) { // whose account there is, is nobody's business before the address is proved
		return map[string]bool{"available": true}, nil
	}
	user, err := h.newUser(r.Context(), r.Query("username"))
	if err == nil {
		err = h.mayChoose(user.Localpart())
	}
	return map[string]bool{"available": true}, err
}

type registerRequest struct {
	wanted
	authBody
	Type         string `json:"type"`
	Username     string `json:"username"`
	Password     string `json:"password"`
	InhibitLogin bool   `json:"inhibit_login"`
}

// Register handles POST /_matrix/client/v3/register.
// Spec: client-server-api/#post_matrixclientv3register
func (h *Handlers) Register(r *rest.Request) (any, error) {
	switch kind := r.Query("kind"); kind {
	case "", "user":
	case "guest":
		return nil, mautrix.MForbidden.WithMessage("There are no guests here")
	default:
		return nil, mautrix.MInvalidParam.WithMessage("There is no such kind of account")
	}
	var body registerRequest
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	if body.Type == loginService || r.By.Service != nil {
		return h.registerForService(r, body)
	}
	return h.registerStranger(r, body)
}

func (h *Handlers) registerStranger(r *rest.Request, body registerRequest) (any, error) {
	flows, err := h.flows(r.Context())
	if err != nil {
		return nil, err
	}
	if len(flows) == 0 {
		return nil, errRegistrationClosed
	}
	if h.givesNames(flows) {
		body.Username = ""
	}
	if body.Username != "" {
		user, err := h.newUser(r.Context(), body.Username)
		if err != nil {
			return nil, err
		}
		if err := h.mayChoose(user.Localpart()); err != nil {
			return nil, err
		}
	}
	if body.Password != "" {
		if err := h.passwords.checkNew(body.Password); err != nil {
			return nil, err
		}
	}
	op := rest.Operation{Flows: flows, Bound: body.Username, Late: true}
	if len(h.cfg.Terms) > 0 {
		op.Params = termsParams(h.cfg.Terms)
	}
	confirmed, err := h.uia.Confirm(r, op, body.Auth)
	if err != nil {
		return nil, err
	}
	if body.Username == "" {
		body.Username = strings.ToLower(rand.Text()[:12])
	}
	if err := h.passwords.checkNew(body.Password); err != nil {
		return nil, err
	}
	return h.register(r, body, newcomer{registrationToken: confirmed.Token, validation: confirmed.Validation, address: confirmed.Address})
}

// registerForService lets an application service make one of its users.
// Spec: application-service-api/#server-admin-style-permissions
func (h *Handlers) registerForService(r *rest.Request, body registerRequest) (any, error) {
	if r.By.Service == nil {
		return nil, mautrix.MMissingToken.WithMessage("This is for application services")
	}
	user, err := h.newUser(r.Context(), body.Username)
	if err != nil {
		return nil, err
	}
	if user != r.By.Service.Sender() && !r.By.Service.Owns(user) {
		return nil, mautrix.MExclusive.WithMessage("The application service does not own this user")
	}
	body.Password = ""
	return h.register(r, body, newcomer{service: r.By.Service.ID()})
}

// newcomer is what the way in says of a new account.
type newcomer struct {
	admin             bool
	displayName       string // empty: the localpart
	service           string
	registrationToken string
	// unreserved: no session of user-interactive authentication has reserved the token yet.
	unreserved bool
	// validation is the proof of an e-mail address, and address what it proves.
	validation, address string
}

// register makes the account, its profile and its first session, all in one commit.
func (h *Handlers) register(r *rest.Request, body registerRequest, who newcomer) (any, error) {
	if h.cfg.NamesFromEmail && who.address != "" {
		var err error
		if body.Username, who.displayName, err = h.nameOf(r.Context(), who.address); err != nil {
			return nil, err
		}
	}
	user, err := h.newUser(r.Context(), body.Username)
	if err != nil {
		return nil, err
	}
	named, hash := user, ""
	if body.Password != "" {
		if hash, err = h.passwords.Hash(r.Context(), body.Password); err != nil {
			return nil, err
		}
	}
	if who.displayName == "" {
		who.displayName = user.Localpart()
	}
	name, err := json.Marshal(who.displayName)
	if err != nil {
		return nil, err
	}
	s, pair := h.newSession(user, body.wanted)
	made := false
	err = h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		user = named
		if made, err = h.create(ctx, &user, hash, who); err != nil || !made {
			return err
		}
		s.UserID = user
		if err := h.useToken(ctx, who); err != nil {
			return err
		}
		if err := h.takeAddress(ctx, user, who); err != nil {
			return err
		}
		if err := h.store.Profiles.Put(ctx, user, fieldDisplayName, name); err != nil || body.InhibitLogin {
			return err
		}
		return h.putSession(ctx, r, s, pair, body.wanted)
	})
	switch {
	case err != nil:
		return nil, err
	case !made:
		return nil, errTaken
	case body.InhibitLogin:
		return &session{UserID: user, HomeServer: h.cfg.ServerName}, nil
	}
	return s, nil
}

// create makes the account of a newcomer, inside Do; false if the name is taken. Who had an account here, and proves its address, gets that
// one instead.
func (h *Handlers) create(ctx context.Context, user *id.UserID, hash string, who newcomer) (bool, error) {
	back, err := h.cfg.ComeBack(ctx, h.store, who.address, "")
	if err != nil {
		return false, err
	}
	if back != "" {
		*user = back
		return true, h.store.Accounts.SetPassword(ctx, back, hash)
	}
	made, err := h.store.Accounts.Create(ctx, &storage.Account{UserID: *user, Password: hash, Admin: who.admin, ServiceID: who.service})
	if err != nil || !made || who.service != "" {
		return made, err
	}
	return true, h.cfg.Date(ctx, h.store, *user)
}

// errToken is the refusal of a registration token.
var errToken = mautrix.MForbidden.WithMessage("This registration token is not valid")

// useToken counts the registration that the token allowed, inside Do.
func (h *Handlers) useToken(ctx context.Context, who newcomer) error {
	if who.registrationToken == "" {
		return nil
	}
	if who.unreserved {
		if good, err := h.store.RegistrationTokens.Reserve(ctx, who.registrationToken); err != nil || !good {
			return errors.Join(err, errToken)
		}
	}
	return h.store.RegistrationTokens.Use(ctx, who.registrationToken)
}

// takeAddress gives a new account the address that was proved on the way, inside Do. An address that has become somebody
// else's since undoes it all.
func (h *Handlers) takeAddress(ctx context.Context, user id.UserID, who newcomer) error {
	if who.address == "" {
		return nil
	}
	first, err := h.store.Validations.End(ctx, who.validation)
	if err != nil {
		return err
	}
	mine, err := h.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: user, Medium: mediumEmail, Address: who.address, Validated: h.now()})
	if err == nil && (!first || !mine) {
		err = errInUse.WithMessage("This address belongs to an account already")
	}
	return err
}

// TokenStage is m.login.registration_token in user-interactive authentication.
// Spec: client-server-api/#token-authenticated-registration
func TokenStage(store *storage.Store) rest.Stage {
	wrong := errToken.WithStatus(http.StatusUnauthorized)
	return func(r *rest.Request, session *storage.Confirmation, auth json.RawMessage) error {
		var given struct {
			Token string `json:"token"`
		}
		if err := rest.Decode(auth, &given); err != nil {
			return err
		}
		if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
			return err
		}
		good := false
		err := store.Do(r.Context(), func(ctx context.Context) (err error) {
			good, err = store.RegistrationTokens.Reserve(ctx, given.Token)
			return err
		})
		if err != nil {
			return err
		}
		if !good {
			return wrong
		}
		r.Limits.Return(rest.LimitFailedAddress, r.Address())
		session.Token = given.Token
		return nil
	}
}

// TokenValidity handles GET /_matrix/client/v1/register/m.login.registration_token/validity.
// Spec: client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity
func (h *Handlers) TokenValidity(r *rest.Request) (any, error) {
	if h.cfg.OpenRegistration || !h.cfg.RegistrationTokens {
		return nil, mautrix.MForbidden.WithMessage("Nobody registers with a token here")
	}
	if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
		return nil, err
	}
	token, err := h.store.RegistrationTokens.ByToken(r.Context(), r.Query("token"))
	if err != nil {
		return nil, err
	}
	valid := token != nil && token.Valid(h.now())
	if valid {
		r.Limits.Return(rest.LimitFailedAddress, r.Address())
	}
	return map[string]bool{"valid": valid}, nil
}

// nonceAge is how long a nonce of the shared-secret registration is good.
const nonceAge = time.Minute

// Nonce handles GET /_synapse/admin/v1/register. It is Synapse's endpoint, which tools use.
func (h *Handlers) Nonce(r *rest.Request) (any, error) {
	if h.cfg.SharedSecret == "" {
		return nil, mautrix.MUnrecognized.WithMessage("Registration with a shared secret is not configured")
	}
	nonce := rand.Text() + rand.Text()
	return map[string]string{"nonce": nonce}, h.store.RegistrationTokens.PutNonce(r.Context(), nonce, h.now().Add(nonceAge))
}

// RegisterBySecret handles POST /_synapse/admin/v1/register. It is Synapse's endpoint, which tools use; but what the MAC
// does not cover (a display name) is not taken from it.
func (h *Handlers) RegisterBySecret(r *rest.Request) (any, error) {
	if h.cfg.SharedSecret == "" {
		return nil, mautrix.MUnrecognized.WithMessage("Registration with a shared secret is not configured")
	}
	var body struct {
		Nonce    string  `json:"nonce"`
		Username string  `json:"username"`
		Password string  `json:"password"`
		Admin    bool    `json:"admin"`
		UserType *string `json:"user_type"`
		MAC      string  `json:"mac"`
		Inhibit  bool    `json:"inhibit_login"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Nonce == "" || body.Username == "" || body.Password == "" || body.MAC == "" {
		return nil, errMissing.WithMessage("nonce, username, password and mac are needed")
	}
	if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
		return nil, err
	}
	good, err := h.store.RegistrationTokens.TakeNonce(r.Context(), body.Nonce)
	if err != nil {
		return nil, err
	}
	if !good {
		return nil, mautrix.MForbidden.WithMessage("This nonce is unknown, used or too old")
	}
	role := "notadmin"
	if body.Admin {
		role = "admin"
	}
	parts := []string{body.Nonce, body.Username, body.Password, role}
	if body.UserType != nil {
		parts = append(parts, *body.UserType)
	}
	if !h.signed(parts, body.MAC) {
		return nil, mautrix.MForbidden.WithMessage("The MAC is wrong")
	}
	r.Limits.Return(rest.LimitFailedAddress, r.Address())
	if err := h.passwords.checkNew(body.Password); err != nil {
		return nil, err
	}
	return h.register(r, registerRequest{Username: body.Username, Password: body.Password, InhibitLogin: body.Inhibit}, newcomer{admin: body.Admin})
}

// signed says whether the MAC is that of the parts.
func (h *Handlers) signed(parts []string, mac string) bool {
	given, err := hex.DecodeString(mac)
	if err != nil {
		return false
	}
	sum := hmac.New(sha1.New, []byte(h.cfg.SharedSecret))
	sum.Write([]byte(strings.Join(parts, "\x00")))
	return hmac.Equal(sum.Sum(nil), given)
}

// NewAccount is an account that an administrator makes.
type NewAccount struct {
	Username    string
	Password    string // empty: nobody can log in with one
	DisplayName string
	Admin       bool
}

// Create makes an account without a session, for cmd and the admin API.
func (h *Handlers) Create(ctx context.Context, a NewAccount) (id.UserID, error) {
	user, err := h.newUser(ctx, a.Username)
	if err != nil {
		return "", err
	}
	hash := ""
	if a.Password != "" {
		if err := h.passwords.checkNew(a.Password); err != nil {
			return "", err
		}
		if hash, err = h.passwords.Hash(ctx, a.Password); err != nil {
			return "", err
		}
	}
	if a.DisplayName == "" {
		a.DisplayName = user.Localpart()
	}
	name, err := json.Marshal(a.DisplayName)
	if err != nil {
		return "", err
	}
	made := false
	err = h.store.Do(ctx, func(ctx context.Context) (err error) {
		if made, err = h.store.Accounts.Create(ctx, &storage.Account{UserID: user, Password: hash, Admin: a.Admin}); err != nil || !made {
			return err
		}
		if err := h.cfg.Date(ctx, h.store, user); err != nil {
			return err
		}
		return h.store.Profiles.Put(ctx, user, fieldDisplayName, name)
	})
	if err == nil && !made {
		err = errTaken
	}
	return user, err
}

// NewRegistrationToken makes a token with which so many people may register, for so long; 0 is no bound.
func (h *Handlers) NewRegistrationToken(ctx context.Context, uses int64, lifetime time.Duration) (string, error) {
	switch {
	case !h.cfg.RegistrationTokens:
		return "", mautrix.MForbidden.WithMessage("The configuration lets nobody register with a token")
	case uses < 0 || lifetime < 0:
		return "", mautrix.MInvalidParam.WithMessage("A token's uses and lifetime cannot be negative")
	}
	token := storage.RegistrationToken{Token: rand.Text(), Allowed: uses}
	if uses == 0 {
		token.Allowed = -1
	}
	if lifetime > 0 {
		token.Expires = h.now().Add(lifetime)
	}
	return token.Token, h.store.Do(ctx, func(ctx context.Context) error { return h.store.RegistrationTokens.Put(ctx, token) })
}

// Make is Create for the admin API.
func (h *Handlers) Make(ctx context.Context, name, password, displayName string, admin bool) (id.UserID, error) {
	return h.Create(ctx, NewAccount{Username: name, Password: password, DisplayName: displayName, Admin: admin})
}

// IsTaken says whether Create failed since the name is somebody's.
func IsTaken(err error) bool { return errors.Is(err, errTaken) }
