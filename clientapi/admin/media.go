package admin

import (
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// What media are asked of storage alone: the blobs that a deletion leaves go from the disk by the media chapter's sweep.

func invalid(text string, args ...any) error { return mautrix.MInvalidParam.WithMessage(text, args...) }

var noSuchMedia = mautrix.MNotFound.WithMessage("There is no such media file")

func deletedMedia(files []storage.MXC) any {
	ids := make([]string, len(files))
	for i, f := range files {
		ids[i] = f.MediaID
	}
	return map[string]any{"deleted_media": ids, "total": len(ids)}
}

// file is the {serverName} and {mediaId} of a path; without a server, ours.
func (h *Handlers) file(r *rest.Request) storage.MXC {
	f := storage.MXC{Server: r.Path("serverName"), MediaID: r.Path("mediaId")}
	if f.Server == "" {
		f.Server = h.server
	}
	return f
}

// File handles GET /_synapse/admin/v1/media/{serverName}/{mediaId}.
func (h *Handlers) File(r *rest.Request) (any, error) {
	named := h.file(r)
	f, err := h.store.Media.ByID(r.Context(), named.Server, named.MediaID)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, noSuchMedia
	}
	var user *id.UserID
	if f.User != "" {
		user = &f.User
	}
	return map[string]any{"media_info": struct {
		shownFile
		Origin        string     `json:"media_origin"`
		User          *id.UserID `json:"user_id"`
		FilesystemID  string     `json:"filesystem_id"`
		URLCache      *string    `json:"url_cache"`
		Authenticated bool       `json:"authenticated"`
		Hash          string     `json:"sha256"`
	}{showFile(f), f.Server, user, f.Hash, nil, f.Authenticated, f.Hash}}, nil
}

// Quarantine handles POST /_synapse/admin/v1/media/quarantine/{serverName}/{mediaId}.
func (h *Handlers) Quarantine(r *rest.Request) (any, error) {
	_, err := h.store.Media.Quarantine(r.Context(), r.By.User, []storage.MXC{h.file(r)})
	return rest.Empty, err
}

// Unquarantine handles POST /_synapse/admin/v1/media/unquarantine/{serverName}/{mediaId}.
func (h *Handlers) Unquarantine(r *rest.Request) (any, error) {
	_, err := h.store.Media.Unquarantine(r.Context(), h.file(r))
	return rest.Empty, err
}

// MediaAction handles POST /_synapse/admin/v1/media/{first}/{second}, of which there are three: protect/{mediaId},
// unprotect/{mediaId}, and the older path of DeleteOldMedia, {serverName}/delete.
func (h *Handlers) MediaAction(r *rest.Request) (any, error) {
	first, second := r.Path("first"), r.Path("second")
	switch {
	case first == "protect", first == "unprotect":
		found, err := h.store.Media.Protect(r.Context(), storage.MXC{Server: h.server, MediaID: second}, first == "protect")
		if err == nil && !found {
			err = noSuchMedia
		}
		return rest.Empty, err
	case second != "delete":
		return nil, mautrix.MUnrecognized.WithStatus(404).WithMessage("Unrecognized request")
	case first != h.server:
		return nil, invalid("Only media of this server can be deleted so")
	}
	return h.DeleteOldMedia(r)
}

// RoomMedia handles GET /_synapse/admin/v1/room/{roomId}/media.
func (h *Handlers) RoomMedia(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	files, err := h.store.Media.InRoom(r.Context(), room.ID)
	local, remote := []string{}, []string{}
	for _, f := range files {
		if f.Server == h.server {
			local = append(local, f.String())
		} else {
			remote = append(remote, f.String())
		}
	}
	return map[string]any{"local": local, "remote": remote, "total": len(local)}, err
}

// QuarantineRoom handles POST /_synapse/admin/v1/room/{roomId}/media/quarantine, and the older path for the same.
func (h *Handlers) QuarantineRoom(r *rest.Request) (any, error) {
	room, err := h.room(r)
	if err != nil {
		return nil, err
	}
	n, err := h.store.Media.QuarantineRoom(r.Context(), r.By.User, room.ID)
	return map[string]int64{"num_quarantined": n}, err
}

// QuarantineUser handles POST /_synapse/admin/v1/user/{userId}/media/quarantine.
func (h *Handlers) QuarantineUser(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	n, err := h.store.Media.QuarantineUser(r.Context(), r.By.User, account.UserID)
	return map[string]int64{"num_quarantined": n}, err
}

// DeleteFile handles DELETE /_synapse/admin/v1/media/{serverName}/{mediaId}: one of ours.
func (h *Handlers) DeleteFile(r *rest.Request) (any, error) {
	f := h.file(r)
	if f.Server != h.server {
		return nil, invalid("Only media of this server can be deleted one by one")
	}
	deleted, err := h.store.Media.Delete(r.Context(), []storage.MXC{f})
	if err == nil && len(deleted) == 0 {
		err = noSuchMedia
	}
	return deletedMedia(deleted), err
}

// DeleteOldMedia handles POST /_synapse/admin/v1/media/delete: what nobody has asked for since before_ts, and is larger than
// size_gt.
func (h *Handlers) DeleteOldMedia(r *rest.Request) (any, error) {
	before, err := h.before(r)
	if err != nil {
		return nil, err
	}
	size, err := natural(r, "size_gt", 0)
	if err != nil {
		return nil, err
	}
	old := storage.OldMedia{Own: h.server, Before: before, LargerThan: int64(size)}
	keep, err := flag(r, "keep_profiles")
	if err != nil {
		return nil, err
	}
	if keep == nil || *keep {
		if old.Keep, err = h.store.Media.Avatars(r.Context()); err != nil {
			return nil, err
		}
	}
	deleted, err := h.store.Media.DeleteOld(r.Context(), old)
	return deletedMedia(deleted), err
}

// before reads before_ts. What is no time of this century was meant otherwise: in seconds, say.
func (h *Handlers) before(r *rest.Request) (int64, error) {
	if r.Query("before_ts") == "" {
		return 0, missing.WithMessage("before_ts is missing")
	}
	before, err := natural(r, "before_ts", 0)
	if err == nil && before < 30_000_000_000 {
		err = invalid("before_ts is in milliseconds since 1970")
	}
	return int64(before), err
}

// PurgeMediaCache handles POST /_synapse/admin/v1/purge_media_cache: copies of other servers' media.
func (h *Handlers) PurgeMediaCache(r *rest.Request) (any, error) {
	before, err := h.before(r)
	if err != nil {
		return nil, err
	}
	deleted, err := h.store.Media.DeleteOld(r.Context(), storage.OldMedia{Own: h.server, Remote: true, Before: before})
	return map[string]int{"deleted": len(deleted)}, err
}

var statisticsOrders = map[string]storage.UserMediaOrder{
	"": storage.UsersByID, "user_id": storage.UsersByID, "displayname": storage.UsersByDisplayname,
	"media_length": storage.UsersByBytes, "media_count": storage.UsersByFiles,
}

// MediaStatistics handles GET /_synapse/admin/v1/statistics/users/media.
func (h *Handlers) MediaStatistics(r *rest.Request) (any, error) {
	order, ok := statisticsOrders[r.Query("order_by")]
	if !ok {
		return nil, invalid("Users cannot be put in order by %q", r.Query("order_by"))
	}
	backward, offset, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	from, err := natural(r, "from_ts", 0)
	if err != nil {
		return nil, err
	}
	until, err := natural(r, "until_ts", 0)
	if err != nil {
		return nil, err
	}
	if until != 0 && until <= from {
		return nil, invalid("until_ts is not after from_ts")
	}
	found, total, err := h.store.Media.Statistics(r.Context(), storage.MediaStatistics{
		From: int64(from), Until: int64(until), Search: r.Query("search_term"), Order: order, Descending: backward, Skip: offset, Limit: limit,
	})
	if err != nil {
		return nil, err
	}
	users := make([]map[string]any, len(found))
	for i, u := range found {
		users[i] = map[string]any{"user_id": u.User, "displayname": orNull(u.Displayname), "media_count": u.Files, "media_length": u.Bytes}
	}
	return paged(map[string]any{"users": users, "total": total}, offset, len(users), int(total), false), nil
}
