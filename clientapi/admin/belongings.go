package admin

import (
	"encoding/json"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// known reads {userId}: one of ours, or somebody of another server, of whom we know what our rooms tell.
func (h *Handlers) known(r *rest.Request) (id.UserID, error) {
	user, err := r.UserID()
	if err == nil && user.Homeserver() == h.server {
		_, err = h.account(r)
	}
	return user, err
}

// Joined handles GET /_synapse/admin/v1/users/{userId}/joined_rooms.
func (h *Handlers) Joined(r *rest.Request) (any, error) {
	user, err := h.known(r)
	if err != nil {
		return nil, err
	}
	list, err := h.store.Memberships.ByUser(r.Context(), user, event.MembershipJoin)
	rooms := make([]id.RoomID, len(list))
	for i, m := range list {
		rooms[i] = m.RoomID
	}
	return map[string]any{"joined_rooms": rooms, "total": len(rooms)}, err
}

// Memberships handles GET /_synapse/admin/v1/users/{userId}/memberships.
func (h *Handlers) Memberships(r *rest.Request) (any, error) {
	user, err := h.known(r)
	if err != nil {
		return nil, err
	}
	list, err := h.store.Memberships.EverOf(r.Context(), user)
	rooms := make(map[id.RoomID]event.Membership, len(list))
	for _, m := range list {
		rooms[m.RoomID] = m.Membership
	}
	return map[string]any{"memberships": rooms, "total": len(rooms)}, err
}

type shownPusher struct {
	AppID             string          `json:"app_id"`
	PushKey           string          `json:"pushkey"`
	Kind              string          `json:"kind"`
	AppDisplayName    string          `json:"app_display_name"`
	DeviceDisplayName string          `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag"`
	Lang              string          `json:"lang"`
	Data              json.RawMessage `json:"data"`
}

// Pushers handles GET /_synapse/admin/v1/users/{userId}/pushers.
func (h *Handlers) Pushers(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	stored, err := h.store.Pushers.Of(r.Context(), account.UserID)
	list := make([]shownPusher, len(stored))
	for i, p := range stored {
		list[i] = shownPusher{p.AppID, p.PushKey, p.Kind, p.AppDisplayName, p.DeviceDisplayName, p.ProfileTag, p.Lang, p.Data}
	}
	return map[string]any{"pushers": list, "total": len(list)}, err
}

// AccountData handles GET /_synapse/admin/v1/users/{userId}/accountdata.
func (h *Handlers) AccountData(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	notes, err := h.store.AccountData.Between(r.Context(), account.UserID, 0, 1<<62)
	if err != nil {
		return nil, err
	}
	global, rooms := map[string]json.RawMessage{}, map[id.RoomID]map[string]json.RawMessage{}
	for _, n := range notes {
		switch {
		case n.Deleted:
		case n.RoomID == "":
			global[n.Type] = n.Content
		default:
			if rooms[n.RoomID] == nil {
				rooms[n.RoomID] = map[string]json.RawMessage{}
			}
			rooms[n.RoomID][n.Type] = n.Content
		}
	}
	return map[string]any{"account_data": map[string]any{"global": global, "rooms": rooms}}, nil
}

// Features handles GET /_synapse/admin/v1/experimental_features/{userId}. What is here is there for everybody.
func (h *Handlers) Features(r *rest.Request) (any, error) {
	if _, err := h.account(r); err != nil {
		return nil, err
	}
	return map[string]any{"features": h.features()}, nil
}

func (h *Handlers) features() map[string]bool {
	return map[string]bool{"msc3881": true, "msc3575": false, "msc4222": true}
}

// SetFeatures handles PUT /_synapse/admin/v1/experimental_features/{userId}: a feature that everybody has cannot be taken
// away, and one that is not here cannot be given.
func (h *Handlers) SetFeatures(r *rest.Request) (any, error) {
	if _, err := h.account(r); err != nil {
		return nil, err
	}
	var body struct {
		Features map[string]bool `json:"features"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	there := h.features()
	for name, wanted := range body.Features {
		is, known := there[name]
		if !known {
			return nil, invalid("There is no feature %q", name)
		}
		if is != wanted {
			return nil, invalid("The feature %s is the same for everybody, and cannot be changed for one user", name)
		}
	}
	return rest.Empty, nil
}

// mediaOrders are the orders of a user's files, as the tools call them.
var mediaOrders = map[string]storage.MediaOrder{
	"": storage.MediaByCreated, "created_ts": storage.MediaByCreated, "last_access_ts": storage.MediaByAccessed, "media_id": storage.MediaByID,
	"upload_name": storage.MediaByName, "media_length": storage.MediaBySize, "media_type": storage.MediaByType,
	"quarantined_by": storage.MediaByQuarantined, "safe_from_quarantine": storage.MediaByProtected,
}

type shownFile struct {
	MediaID     string     `json:"media_id"`
	Type        string     `json:"media_type"`
	Length      int64      `json:"media_length"`
	Name        *string    `json:"upload_name"`
	Created     int64      `json:"created_ts"`
	Accessed    *int64     `json:"last_access_ts"`
	Quarantined *id.UserID `json:"quarantined_by"`
	Safe        bool       `json:"safe_from_quarantine"`
}

func showFile(f *storage.File) shownFile {
	s := shownFile{MediaID: f.MediaID, Type: f.ContentType, Length: f.Size, Created: f.Created, Safe: f.Protected}
	if f.Name != "" {
		s.Name = &f.Name
	}
	if f.Accessed > f.Created {
		s.Accessed = &f.Accessed
	}
	if f.Quarantined() {
		s.Quarantined = &f.QuarantinedBy
	}
	return s
}

// filesOf reads which of a user's files are meant, and finds them.
func (h *Handlers) filesOf(r *rest.Request) (user id.UserID, files []*storage.File, offset int, total int64, err error) {
	account, err := h.account(r)
	if err != nil {
		return "", nil, 0, 0, err
	}
	order, ok := mediaOrders[r.Query("order_by")]
	if !ok {
		return "", nil, 0, 0, invalid("Media cannot be put in order by %q", r.Query("order_by"))
	}
	backward, offset, limit, err := page(r)
	if err != nil {
		return "", nil, 0, 0, err
	}
	if r.Query("order_by") == "" && r.Query("dir") == "" {
		backward = true // the newest first
	}
	files, total, err = h.store.Media.OfUser(r.Context(), account.UserID, storage.MediaPage{Order: order, Descending: backward, Skip: offset, Limit: limit})
	return account.UserID, files, offset, total, err
}

// UserMedia handles GET /_synapse/admin/v1/users/{userId}/media.
func (h *Handlers) UserMedia(r *rest.Request) (any, error) {
	_, files, offset, total, err := h.filesOf(r)
	if err != nil {
		return nil, err
	}
	list := make([]shownFile, len(files))
	for i, f := range files {
		list[i] = showFile(f)
	}
	return paged(map[string]any{"media": list, "total": total}, offset, len(list), int(total), false), nil
}

// DeleteUserMedia handles DELETE /_synapse/admin/v1/users/{userId}/media: the page that a GET would show.
func (h *Handlers) DeleteUserMedia(r *rest.Request) (any, error) {
	_, files, _, _, err := h.filesOf(r)
	if err != nil {
		return nil, err
	}
	named := make([]storage.MXC, len(files))
	for i, f := range files {
		named[i] = storage.MXC{Server: f.Server, MediaID: f.MediaID}
	}
	deleted, err := h.store.Media.Delete(r.Context(), named)
	return deletedMedia(deleted), err
}
