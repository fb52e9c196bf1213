package account

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage/bus"
)

// Fields of a profile that rooms show too.
const (
	fieldDisplayName = "displayname"
	fieldAvatar      = "avatar_url"
)

// Bounds of a profile.
const (
	maxDisplayName = 256  // characters
	maxAvatar      = 1000 // bytes
	maxProfile     = 64 << 10
	maxFieldName   = 255
)

// Profile handles GET /_matrix/client/v3/profile/{userId}.
// Spec: client-server-api/#get_matrixclientv3profileuserid
func (h *Handlers) Profile(r *rest.Request) (any, error) {
	user, err := r.UserID()
	if err != nil {
		return nil, err
	}
	if !h.local(user) {
		return h.remoteProfile(r.Context(), user, "")
	}
	fields, err := h.localProfile(r.Context(), user)
	return fields, err
}

// ProfileField handles GET /_matrix/client/v3/profile/{userId}/{keyName}.
// Spec: client-server-api/#get_matrixclientv3profileuseridkeyname
func (h *Handlers) ProfileField(r *rest.Request) (any, error) {
	user, err := r.UserID()
	if err != nil {
		return nil, err
	}
	field := r.Path("keyName")
	if !h.local(user) {
		return h.remoteProfile(r.Context(), user, field)
	}
	fields, err := h.localProfile(r.Context(), user)
	if err != nil {
		return nil, err
	}
	value, ok := fields[field]
	if !ok {
		return nil, mautrix.MNotFound.WithMessage("The profile has no such field")
	}
	return map[string]json.RawMessage{field: value}, nil
}

var errNoProfile = mautrix.MNotFound.WithMessage("There is no such user")

func (h *Handlers) localProfile(ctx context.Context, user id.UserID) (map[string]json.RawMessage, error) {
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil {
		return nil, err
	}
	// A bridge may know somebody by this name, and makes the user now.
	if account == nil && h.wake != nil && h.wake(ctx, user) {
		if account, err = h.store.Accounts.ByID(ctx, user); err != nil {
			return nil, err
		}
	}
	if account == nil || account.Deactivated {
		return nil, errNoProfile
	}
	return h.store.Profiles.All(ctx, user)
}

func (h *Handlers) remoteProfile(ctx context.Context, user id.UserID, field string) (any, error) {
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, bus.FederationQuestion{
		QueryProfile: &bus.QueryProfile{UserID: user, Field: field},
	})
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// PutProfileField handles PUT /_matrix/client/v3/profile/{userId}/{keyName}.
// Spec: client-server-api/#put_matrixclientv3profileuseridkeyname
func (h *Handlers) PutProfileField(r *rest.Request) (any, error) {
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	field := r.Path("keyName")
	var body map[string]json.RawMessage
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	value, ok := body[field]
	if !ok {
		return nil, errMissing.WithMessage("The body does not hold the field")
	}
	remove, err := checkField(field, value)
	if err != nil {
		return nil, err
	}
	if remove {
		return rest.Empty, h.changeProfile(r.Context(), user, field, nil)
	}
	return rest.Empty, h.changeProfile(r.Context(), user, field, value)
}

// DeleteProfileField handles DELETE /_matrix/client/v3/profile/{userId}/{keyName}.
// Spec: client-server-api/#delete_matrixclientv3profileuseridkeyname
func (h *Handlers) DeleteProfileField(r *rest.Request) (any, error) {
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.changeProfile(r.Context(), user, r.Path("keyName"), nil)
}

// checkField judges a field's name and value. remove is true for the values that mean none.
func checkField(field string, value json.RawMessage) (remove bool, err error) {
	if len(field) > maxFieldName {
		return false, mautrix.RespError{ErrCode: "M_KEY_TOO_LARGE", StatusCode: http.StatusBadRequest}.WithMessage("The field's name is too long")
	}
	if field != fieldDisplayName && field != fieldAvatar {
		if !namespaced(field) {
			return false, mautrix.MInvalidParam.WithMessage("The field's name is not one that a profile may have")
		}
		return false, nil
	}
	var text *string
	if json.Unmarshal(value, &text) != nil {
		return false, mautrix.MBadJSON.WithMessage("%s has to be a string", field)
	}
	switch {
	case text == nil || field == fieldAvatar && *text == "":
		return true, nil
	case field == fieldDisplayName && utf8.RuneCountInString(*text) > maxDisplayName, field == fieldAvatar && len(*text) > maxAvatar:
		return false, mautrix.MInvalidParam.WithMessage("%s is too long", field)
	}
	return *text == "", nil
}

// SetProfile writes a string into a user's profile for the admin API, and into the rooms; the empty one takes the field away.
func (h *Handlers) SetProfile(ctx context.Context, user id.UserID, field, value string) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	remove, err := checkField(field, raw)
	if err != nil {
		return err
	}
	if remove {
		raw = nil
	}
	return h.changeProfile(ctx, user, field, raw)
}

// namespaced says whether this follows the grammar of common namespaced identifiers.
// Spec: appendices/#common-namespaced-identifier-grammar
func namespaced(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'):
		default:
			return false
		}
	}
	return name != ""
}

// changeProfile writes a field (nil takes it away) and shows it in the user's rooms.
func (h *Handlers) changeProfile(ctx context.Context, user id.UserID, field string, value json.RawMessage) error {
	fits := true
	err := h.store.Do(ctx, func(ctx context.Context) error {
		if value == nil {
			return h.store.Profiles.Delete(ctx, user, field)
		}
		fields, err := h.store.Profiles.All(ctx, user)
		if err != nil {
			return err
		}
		fields[field] = value
		if size(fields) > maxProfile {
			fits = false
			return nil
		}
		return h.store.Profiles.Put(ctx, user, field, value)
	})
	if err != nil {
		return err
	}
	if !fits {
		return mautrix.RespError{ErrCode: "M_PROFILE_TOO_LARGE", StatusCode: http.StatusBadRequest}.WithMessage("The profile is full")
	}
	if field == fieldDisplayName || field == fieldAvatar {
		return h.showProfile(ctx, user)
	}
	return nil
}

func size(fields map[string]json.RawMessage) int {
	n := 2
	for name, value := range fields {
		n += len(name) + len(value) + 4
	}
	return n
}

// showAtOnce is how many rooms are told of a new name at the same time.
const showAtOnce = 16

// showProfile writes the user's name and avatar into the rooms that the user has joined. A room that refuses keeps the
// old ones; that does not undo the change.
// Spec: client-server-api/#events-on-change-of-profile-information
func (h *Handlers) showProfile(ctx context.Context, user id.UserID) error {
	fields, err := h.store.Profiles.All(ctx, user)
	if err != nil {
		return err
	}
	content, err := json.Marshal(struct {
		Membership  event.Membership `json:"membership"`
		DisplayName json.RawMessage  `json:"displayname,omitempty"`
		Avatar      json.RawMessage  `json:"avatar_url,omitempty"`
	}{event.MembershipJoin, fields[fieldDisplayName], fields[fieldAvatar]})
	if err != nil {
		return err
	}
	rooms, err := h.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return err
	}
	slots := semaphore.NewWeighted(showAtOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, room := range rooms {
		if err := slots.Acquire(ctx, 1); err != nil {
			return err
		}
		wg.Go(func() {
			defer slots.Release(1)
			stateKey := string(user)
			_, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(room.RoomID), bus.RoomQuestion{
				Propose: &bus.Proposal{Sender: user, Type: "m.room.member", StateKey: &stateKey, Content: content},
			})
			if err != nil {
				zerolog.Ctx(ctx).Warn().Err(err).Stringer("room_id", room.RoomID).Msg("Room was not told of the new profile")
			}
		})
	}
	return nil
}
