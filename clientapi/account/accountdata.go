package account

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

const typeTags = "m.tag"

// serverOwned are notes that other endpoints write.
// Spec: client-server-api/#server-behaviour-11
var serverOwned = map[string]bool{"m.fully_read": true, "m.push_rules": true}

// note is the place of a private note that a request speaks of. The room is empty on the paths that have none.
func note(r *rest.Request) (user id.UserID, room id.RoomID, typ string, err error) {
	if user, err = r.Own(); err != nil {
		return "", "", "", err
	}
	if r.Path("roomId") != "" {
		if room, err = r.RoomID(); err != nil {
			return "", "", "", err
		}
	}
	typ = r.Path("type")
	if len(typ) > 255 {
		return "", "", "", mautrix.MInvalidParam.WithMessage("The type is longer than 255 bytes")
	}
	return user, room, typ, nil
}

// AccountData handles GET /_matrix/client/v3/user/{userId}/account_data/{type},
// and the same under /rooms/{roomId}.
// Spec: client-server-api/#get_matrixclientv3useruseridaccount_datatype
func (h *Handlers) AccountData(r *rest.Request) (any, error) {
	user, room, typ, err := note(r)
	if err != nil {
		return nil, err
	}
	data, err := h.store.AccountData.ByType(r.Context(), user, room, typ)
	if err != nil {
		return nil, err
	}
	if data == nil || data.Deleted {
		return nil, mautrix.MNotFound.WithMessage("There is no account data of this type")
	}
	return data.Content, nil
}

// PutAccountData handles PUT /_matrix/client/v3/user/{userId}/account_data/{type},
// and the same under /rooms/{roomId}. An empty object deletes, as MSC3391 says.
// Spec: client-server-api/#put_matrixclientv3useruseridaccount_datatype
func (h *Handlers) PutAccountData(r *rest.Request) (any, error) {
	user, room, typ, err := note(r)
	if err != nil {
		return nil, err
	}
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	if serverOwned[typ] {
		return nil, mautrix.MBadJSON.WithStatus(http.StatusMethodNotAllowed).WithMessage("%s cannot be set here", typ)
	}
	empty := len(gjson.ParseBytes(content).Map()) == 0
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.AccountData.Put(ctx, storage.AccountData{UserID: user, RoomID: room, Type: typ, Content: content, Deleted: empty})
	})
}

// DeleteAccountData handles DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type},
// and the same under /rooms/{roomId}.
// Spec: MSC3391
func (h *Handlers) DeleteAccountData(r *rest.Request) (any, error) {
	user, room, typ, err := note(r)
	if err != nil {
		return nil, err
	}
	if serverOwned[typ] {
		return nil, mautrix.MBadJSON.WithStatus(http.StatusMethodNotAllowed).WithMessage("%s cannot be deleted here", typ)
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		data, err := h.store.AccountData.ByType(ctx, user, room, typ)
		if err != nil || data == nil || data.Deleted {
			return err
		}
		return h.store.AccountData.Put(ctx, storage.AccountData{UserID: user, RoomID: room, Type: typ, Deleted: true})
	})
}

// tags are the content of m.tag.
type tags struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// tagsOf reads the user's tags of a room; none, if there is no such note.
func (h *Handlers) tagsOf(ctx context.Context, user id.UserID, room id.RoomID) (tags, error) {
	t := tags{}
	data, err := h.store.AccountData.ByType(ctx, user, room, typeTags)
	if err == nil && data != nil {
		// It may have been written as plain account data, in any shape: what is no list of tags counts as none.
		if json.Unmarshal(data.Content, &t) != nil {
			t = tags{}
		}
	}
	if t.Tags == nil {
		t.Tags = map[string]json.RawMessage{}
	}
	return t, err
}

// Tags handles GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags.
// Spec: client-server-api/#get_matrixclientv3useruseridroomsroomidtags
func (h *Handlers) Tags(r *rest.Request) (any, error) {
	user, room, _, err := note(r)
	if err != nil {
		return nil, err
	}
	return h.tagsOf(r.Context(), user, room)
}

// PutTag handles PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}.
// Spec: client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag
func (h *Handlers) PutTag(r *rest.Request) (any, error) {
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	var tag struct {
		Order *float64 `json:"order"`
	}
	if json.Unmarshal(content, &tag) != nil {
		return nil, mautrix.MBadJSON.WithMessage("order has to be a number")
	}
	return rest.Empty, h.changeTag(r, content)
}

// DeleteTag handles DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}.
// Spec: client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag
func (h *Handlers) DeleteTag(r *rest.Request) (any, error) { return rest.Empty, h.changeTag(r, nil) }

// maxTags bounds the tags of one room.
const maxTags = 100

// changeTag writes one tag into the note that holds them all; nil takes it out.
func (h *Handlers) changeTag(r *rest.Request, content json.RawMessage) error {
	user, room, _, err := note(r)
	if err != nil {
		return err
	}
	name := r.Path("tag")
	if len(name) > 255 {
		return mautrix.MInvalidParam.WithMessage("The tag is longer than 255 bytes")
	}
	full := false
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		t, err := h.tagsOf(ctx, user, room)
		if err != nil {
			return err
		}
		if content == nil {
			delete(t.Tags, name)
		} else {
			t.Tags[name] = content
		}
		if full = len(t.Tags) > maxTags; full {
			return nil
		}
		raw, err := json.Marshal(t)
		if err != nil {
			return err
		}
		return h.store.AccountData.Put(ctx, storage.AccountData{UserID: user, RoomID: room, Type: typeTags, Content: raw})
	})
	if err == nil && full {
		return mautrix.MInvalidParam.WithMessage("A room has at most %d tags", maxTags)
	}
	return err
}
