package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// authBody is a body that has nothing but user-interactive authentication.
type authBody struct {
	Auth json.RawMessage `json:"auth"`
}

// confirm asks the user for the password, or to sign in anew with an identity provider. Application services have neither, and
// need neither.
func (h *Handlers) confirm(r *rest.Request, auth json.RawMessage, bound any) error {
	if r.By.Service != nil {
		return nil
	}
	ways, err := h.uia.Ways(r)
	if err != nil {
		return err
	}
	_, err = h.uia.Confirm(r, rest.Operation{Flows: ways, Bound: bound}, auth)
	return err
}

// WhoAmI handles GET /_matrix/client/v3/account/whoami.
// Spec: client-server-api/#get_matrixclientv3accountwhoami
func (h *Handlers) WhoAmI(r *rest.Request) (any, error) {
	return struct {
		UserID   id.UserID   `json:"user_id"`
		DeviceID id.DeviceID `json:"device_id,omitempty"`
		Guest    bool        `json:"is_guest"`
	}{r.By.User, r.By.Device, false}, nil
}

// SetPassword handles POST /_matrix/client/v3/account/password.
// Spec: client-server-api/#post_matrixclientv3accountpassword
func (h *Handlers) SetPassword(r *rest.Request) (any, error) {
	body := struct {
		authBody
		Password      string `json:"new_password"`
		LogoutDevices bool   `json:"logout_devices"`
	}{LogoutDevices: true}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if err := h.passwords.checkNew(body.Password); err != nil {
		return nil, err
	}
	account, err := h.mayChangePassword(r, body.Auth)
	if err != nil {
		return nil, err
	}
	hash, err := h.passwords.Hash(r.Context(), body.Password)
	if err != nil {
		return nil, err
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		if err := h.store.Accounts.SetPassword(ctx, account.UserID, hash); err != nil {
			return err
		}
		if !body.LogoutDevices {
			return nil
		}
		return h.endOtherDevices(ctx, account.UserID, r.By.Device)
	})
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.tellOfPassword(r.Context(), r, account)
}

// mayChangePassword has somebody confirm by the present password, or by an e-mail address of the account: it says whose
// password is to be changed. Not bound to the new password: not even a hash of it may be kept, and it comes with the
// confirmation anyway.
func (h *Handlers) mayChangePassword(r *rest.Request, auth json.RawMessage) (*storage.Account, error) {
	if r.By.Service != nil {
		return h.store.Accounts.ByID(r.Context(), r.By.User)
	}
	var flows [][]string
	if r.By.User != "" {
		ways, err := h.uia.Ways(r)
		if err != nil {
			return nil, err
		}
		flows = append(flows, ways...)
	}
	if h.mailer != nil {
		flows = append(flows, []string{rest.StageEmail})
	}
	if len(flows) == 0 {
		return nil, mautrix.MMissingToken.WithMessage("An access token is needed")
	}
	session, err := h.uia.Confirm(r, rest.Operation{Flows: flows}, auth)
	if err != nil {
		return nil, err
	}
	user := r.By.User
	if session.Address != "" {
		if user, err = h.holderOf(r.Context(), session); err != nil {
			return nil, err
		}
	}
	account, err := h.store.Accounts.ByID(r.Context(), user)
	if err == nil && (account == nil || account.Deactivated) {
		err = errAuthFailed.WithMessage("This address belongs to no account")
	}
	return account, err
}

// holderOf is whose address was confirmed; the proof is spent with it.
func (h *Handlers) holderOf(ctx context.Context, session *storage.Confirmation) (user id.UserID, err error) {
	first := false
	err = h.store.Do(ctx, func(ctx context.Context) (err error) {
		first, err = h.store.Validations.End(ctx, session.Validation)
		return err
	})
	if err != nil {
		return "", err
	}
	holder, err := h.store.ThreePIDs.ByAddress(ctx, mediumEmail, session.Address)
	if err != nil || holder == nil || !first {
		return "", errors.Join(err, errAuthFailed.WithMessage("This address belongs to no account, or its confirmation was used already"))
	}
	return holder.UserID, nil
}

// Deactivate handles POST /_matrix/client/v3/account/deactivate.
// Spec: client-server-api/#post_matrixclientv3accountdeactivate
func (h *Handlers) Deactivate(r *rest.Request) (any, error) {
	var body struct {
		authBody
		Erase bool `json:"erase"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	// Not bound to erase: Element Web asks for the flows before its user has ticked the box.
	if err := h.confirm(r, body.Auth, nil); err != nil {
		return nil, err
	}
	if err := h.Close(r.Context(), r.By.User, body.Erase); err != nil {
		return nil, err
	}
	// There is no identity server, where something could still be bound.
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}

// Close closes an account for ever; its user leaves all rooms, in a while.
func (h *Handlers) Close(ctx context.Context, user id.UserID, erase bool) error {
	err := h.store.Do(ctx, func(ctx context.Context) error {
		if h.cfg.Reactivation && !erase {
			if err := h.store.FormerAddresses.Keep(ctx, user); err != nil {
				return err
			}
		}
		return h.store.Accounts.Deactivate(ctx, user, erase)
	})
	if err != nil {
		return err
	}
	select {
	case h.closed <- struct{}{}:
	default: // it has been rung already
	}
	return nil
}

// ResetPassword gives an account another password, and ends all its sessions if that is wanted.
func (h *Handlers) ResetPassword(ctx context.Context, user id.UserID, password string, logout bool) error {
	if err := h.passwords.checkNew(password); err != nil {
		return err
	}
	hash, err := h.passwords.Hash(ctx, password)
	if err != nil {
		return err
	}
	return h.store.Do(ctx, func(ctx context.Context) error {
		if err := h.store.Accounts.SetPassword(ctx, user, hash); err != nil || !logout {
			return err
		}
		return h.endOtherDevices(ctx, user, "")
	})
}

// ReplacePassword is ResetPassword for cmd: it takes a localpart or a whole user ID of this server, and ends all sessions.
func (h *Handlers) ReplacePassword(ctx context.Context, name, password string) (id.UserID, error) {
	user := id.UserID(name)
	if !strings.HasPrefix(name, "@") {
		user = id.NewUserID(strings.ToLower(name), h.cfg.ServerName)
	}
	account, err := h.store.Accounts.ByID(ctx, user)
	switch {
	case err != nil:
		return "", err
	case account == nil || account.Deactivated:
		return "", mautrix.MNotFound.WithMessage("There is no such account")
	}
	return user, h.ResetPassword(ctx, user, password, true)
}

// leaveRooms has users of closed accounts leave the rooms in which they still are. What fails is tried again later.
func (h *Handlers) leaveRooms(ctx context.Context) error {
	var after id.UserID
	var failed error
	for ctx.Err() == nil {
		users, err := h.store.Accounts.ClosedInRooms(ctx, after, 100)
		if err != nil || len(users) == 0 {
			return errors.Join(failed, err)
		}
		for _, user := range users {
			failed = errors.Join(failed, h.leaveAll(ctx, user))
			after = user
		}
	}
	return failed
}

func (h *Handlers) leaveAll(ctx context.Context, user id.UserID) error {
	rooms, err := h.store.Memberships.ByUser(ctx, user, event.MembershipJoin, event.MembershipInvite, event.MembershipKnock)
	if err != nil {
		return err
	}
	stateKey := string(user)
	var failed error
	for _, room := range rooms {
		_, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(room.RoomID), bus.RoomQuestion{
			Propose: &bus.Proposal{Sender: user, Type: "m.room.member", StateKey: &stateKey, Content: json.RawMessage(`{"membership":"leave"}`)},
		})
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s leaves %s: %w", user, room.RoomID, err))
		}
	}
	zerolog.Ctx(ctx).Info().Stringer("user_id", user).Int("rooms", len(rooms)).Msg("User of a closed account left the rooms")
	return failed
}
