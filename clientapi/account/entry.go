package account

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// This file is what the account pages (clientapi/oauth) ask of this chapter: the same rules, limits and hashing as behind the endpoints.

// SignIn is who has this password. The name is what people type: a localpart, a whole user ID, or an e-mail address. Everything but
// the right password gets the same M_FORBIDDEN; a locked account M_USER_LOCKED, once its password was right.
func (h *Handlers) SignIn(r *rest.Request, name, password string) (id.UserID, error) {
	who := identifier{Type: "m.id.user", User: strings.TrimSpace(name)}
	if at := strings.IndexByte(who.User, '@'); at > 0 {
		who = identifier{Type: thirdParty, Medium: mediumEmail, Address: who.User}
	}
	user, err := h.byPassword(r, loginRequest{Identifier: who, Password: password})
	if err != nil {
		return "", err
	}
	return user, h.MayEnter(r.Context(), user)
}

// MayEnter refuses those whose account is closed, locked or unknown, however they showed who they are.
func (h *Handlers) MayEnter(ctx context.Context, user id.UserID) error {
	account, err := h.store.Accounts.ByID(ctx, user)
	switch {
	case err != nil:
		return err
	case account == nil || account.Deactivated:
		return errWrongPassword
	case account.Locked:
		return mautrix.RespError{ErrCode: "M_USER_LOCKED", StatusCode: 403}.WithMessage("This account is locked")
	}
	return nil
}

// CheckPassword says whether this is the user's own password: nil, or why not.
func (h *Handlers) CheckPassword(r *rest.Request, user id.UserID, password string) error {
	_, err := h.passwords.Check(r, user, password)
	return err
}

// HasPassword says whether the user can sign in with one.
func (h *Handlers) HasPassword(ctx context.Context, user id.UserID) (bool, error) {
	account, err := h.store.Accounts.ByID(ctx, user)
	return account != nil && account.Password != "", err
}

// Ways are the ways in which a stranger may register now, each as the stages of user-interactive authentication that it asks for;
// none: registration is closed.
func (h *Handlers) Ways(ctx context.Context) ([][]string, error) { return h.flows(ctx) }

// BeginEmail has a mail sent to an address with which somebody wants to register. sid and secret name the proof.
func (h *Handlers) BeginEmail(r *rest.Request, address string) (sid, secret string, err error) {
	if err := h.wantsEmail(r.Context()); err != nil {
		return "", "", err
	}
	first := int64(1)
	secret = rand.Text()
	sid, err = h.prove(r, forRegistration, tokenRequest{ClientSecret: secret, Email: strings.TrimSpace(address), Attempt: &first}, h.newcomersMail)
	return sid, secret, err
}

func (h *Handlers) wantsEmail(ctx context.Context) error {
	flows, err := h.flows(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(flows, func(stages []string) bool { return slices.Contains(stages, rest.StageEmail) }) {
		return errDenied.WithMessage("Nobody registers with an e-mail address here")
	}
	return nil
}

// ProvedEmail is the address that was proved so; empty if it was not (yet).
func (h *Handlers) ProvedEmail(ctx context.Context, sid, secret string) (string, error) {
	v, err := proof(ctx, h.store, h.now(), credentials{SID: sid, ClientSecret: secret}, forRegistration, "")
	if err != nil || v == nil {
		return "", err
	}
	return v.Address, nil
}

// SignUp makes an account for a stranger who took one of the Ways; Terms they have accepted where there are any. It makes no session.
func (h *Handlers) SignUp(r *rest.Request, who rest.Newcomer) (id.UserID, error) {
	ctx := r.Context()
	flows, err := h.flows(ctx)
	if err != nil {
		return "", err
	}
	v, err := proof(ctx, h.store, h.now(), credentials{SID: who.SID, ClientSecret: who.Secret}, forRegistration, "")
	if err != nil {
		return "", err
	}
	shown := []string{rest.StageDummy}
	new := newcomer{registrationToken: who.Token, unreserved: true}
	if v != nil {
		new.validation, new.address = v.SID, v.Address
		shown = append(shown, rest.StageEmail)
	}
	if who.Token != "" {
		shown = append(shown, rest.StageRegistrationToken)
	}
	if who.Terms {
		shown = append(shown, rest.StageTerms)
	}
	took := func(stages []string) bool {
		return !slices.ContainsFunc(stages, func(stage string) bool { return !slices.Contains(shown, stage) })
	}
	if !slices.ContainsFunc(flows, took) {
		return "", errRegistrationClosed
	}
	if h.cfg.NamesFromEmail && new.address != "" {
		if who.Name, _, err = h.nameOf(ctx, new.address); err != nil {
			return "", err
		}
	}
	if who.Name == "" {
		return "", errMissing.WithMessage("A username is needed")
	}
	user, err := h.newUser(ctx, who.Name)
	if err == nil {
		err = h.mayChoose(user.Localpart())
	}
	if err == nil {
		err = h.passwords.checkNew(who.Password)
	}
	if err != nil {
		return "", err
	}
	return h.signUp(r, user, who, new)
}

// signUp is SignUp once all was checked. Guesses at tokens are counted.
func (h *Handlers) signUp(r *rest.Request, user id.UserID, who rest.Newcomer, new newcomer) (id.UserID, error) {
	if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
		return "", err
	}
	made, err := h.register(r, registerRequest{Username: user.Localpart(), Password: who.Password, InhibitLogin: true}, new)
	if s, ok := made.(*session); ok {
		user = s.UserID
	}
	if !errors.Is(err, errToken) {
		r.Limits.Return(rest.LimitFailedAddress, r.Address())
	}
	return user, err
}

// ChangePassword gives the user another password, and ends the other sessions if that is wanted. Who asks has shown the old one.
func (h *Handlers) ChangePassword(r *rest.Request, user id.UserID, password string, logout bool) error {
	if err := h.ResetPassword(r.Context(), user, password, logout); err != nil {
		return err
	}
	account, err := h.store.Accounts.ByID(r.Context(), user)
	if err != nil || account == nil {
		return err
	}
	return h.tellOfPassword(r.Context(), r, account)
}

// EndSession ends one session of the user, with all that belongs to it.
func (h *Handlers) EndSession(ctx context.Context, user id.UserID, device id.DeviceID) error {
	return h.endDevices(ctx, user, device)
}

// Addresses are the user's e-mail addresses.
func (h *Handlers) Addresses(ctx context.Context, user id.UserID) ([]string, error) {
	known, err := h.store.ThreePIDs.Of(ctx, user)
	var list []string
	for _, t := range known {
		if t.Medium == mediumEmail {
			list = append(list, t.Address)
		}
	}
	return list, err
}

// OpenDevice makes the device of a client, or takes it over, and makes this its only pair of tokens; inside Do.
func (h *Handlers) OpenDevice(ctx context.Context, d storage.Device, pair storage.Pair) error {
	d.Agent = clipAgent(d.Agent)
	if err := h.store.Devices.Put(ctx, &d); err != nil {
		return err
	}
	return h.store.Tokens.Put(ctx, d.UserID, d.DeviceID, pair)
}
