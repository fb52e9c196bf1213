package federation

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// room gives a room to a server that may ask about it: the server's users are in it, and its ACL admits the server. Everybody
// else learns nothing of the room.
func (f *Federation) room(r *request, roomID id.RoomID) (*storage.Room, error) {
	room, err := f.store.Rooms.ByID(r.Context(), roomID)
	if err != nil {
		return nil, err
	}
	if room == nil {
		return nil, mautrix.MNotFound.WithMessage("Unknown room")
	}
	if err := f.checkACL(r.Context(), roomID, r.origin); err != nil {
		return nil, err
	}
	in, err := f.store.Rooms.HasServer(r.Context(), roomID, r.origin)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, mautrix.MForbidden.WithMessage("%s is not in this room", r.origin)
	}
	return room, nil
}

// checkACL refuses a server that the room's ACL keeps out.
func (f *Federation) checkACL(ctx context.Context, roomID id.RoomID, server string) error {
	acl, err := f.view.ACL(ctx, roomID)
	if err != nil {
		return err
	}
	if !acl.Allows(server) {
		return mautrix.MForbidden.WithMessage("%s is banned from this room by its server ACL", server)
	}
	return nil
}

// event gives an event of the room that has its place in it: no outlier, nothing rejected.
func (f *Federation) event(ctx context.Context, roomID id.RoomID, eventID id.EventID) (*storage.Event, error) {
	ev, err := f.store.Events.ByID(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if ev == nil || ev.RoomID != roomID || ev.Standing != storage.Accepted && ev.Standing != storage.SoftFailed {
		return nil, mautrix.MNotFound.WithMessage("Unknown event")
	}
	return ev, nil
}

// localUser checks that a user is one of ours.
func (f *Federation) localUser(user id.UserID) error {
	if !pdu.ValidUserID(string(user)) {
		return mautrix.MInvalidParam.WithMessage("Malformed user ID")
	}
	if user.Homeserver() != f.name {
		refusal := mautrix.MInvalidParam.WithMessage("%s is not a user of this server", user)
		refusal.StatusCode = http.StatusBadRequest
		return refusal
	}
	return nil
}
