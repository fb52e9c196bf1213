package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/policy"
	"chancery/storage"
	"chancery/storage/bus"
)

// memberRequest is the body of requests about a membership.
type memberRequest struct {
	UserID id.UserID `json:"user_id"`
	Reason string    `json:"reason"`
	// Medium of an address that is to be invited in place of a user.
	Medium string `json:"medium"`
}

// roomAnswer names the room that a request led to.
type roomAnswer struct {
	RoomID id.RoomID `json:"room_id"`
}

// Join handles POST /_matrix/client/v3/rooms/{roomId}/join.
// Spec: client-server-api/#post_matrixclientv3roomsroomidjoin
func (h *Handlers) Join(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	return h.join(r, roomID, vias(r))
}

// JoinByAlias handles POST /_matrix/client/v3/join/{roomIdOrAlias}.
// Spec: client-server-api/#post_matrixclientv3joinroomidoralias
func (h *Handlers) JoinByAlias(r *rest.Request) (any, error) {
	roomID, servers, err := h.named(r, r.Path("roomIdOrAlias"))
	if err != nil {
		return nil, err
	}
	return h.join(r, roomID, servers)
}

func (h *Handlers) join(r *rest.Request, roomID id.RoomID, servers []string) (any, error) {
	content, err := h.joinContent(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if err := h.barred(ctx, roomID); err != nil {
		return nil, err
	}
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if room != nil && room.Joined {
		_, err := h.propose(ctx, roomID, member(r.By.User, r.By.User, content))
		if err == nil {
			h.inherit(ctx, r.By.User, roomID)
			return roomAnswer{roomID}, nil
		}
		if !unableToAuthorise(err) {
			return nil, err
		}
		// A restricted room: another server may have somebody who can let the user in.
		others, err := h.store.Rooms.ServersNow(ctx, roomID)
		if err != nil {
			return nil, err
		}
		servers = append(others, servers...)
	}
	_, err = h.federation(ctx, bus.FederationQuestion{Join: &bus.JoinRemote{
		RoomID: roomID, UserID: r.By.User, Servers: h.candidates(ctx, roomID, r.By.User, servers), Content: content,
	}})
	if err != nil {
		return nil, err
	}
	h.inherit(ctx, r.By.User, roomID)
	return roomAnswer{roomID}, nil
}

// barred refuses a room that an administrator has blocked, before other servers are asked about it; the room itself refuses too.
func (h *Handlers) barred(ctx context.Context, roomID id.RoomID) error {
	by, err := h.store.Rooms.BlockedBy(ctx, roomID)
	if err == nil && by != "" {
		err = mautrix.MForbidden.WithMessage("This room has been blocked on this server")
	}
	return err
}

// joinContent is the content of a join: what the client adds, and over it what the profile shows.
func (h *Handlers) joinContent(r *rest.Request) (json.RawMessage, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	content := json.RawMessage("{}")
	if len(body) > 0 {
		if content, err = r.Object(); err != nil {
			return nil, err
		}
	}
	if reason := gjson.GetBytes(content, "reason"); reason.Exists() && reason.Type != gjson.String {
		return nil, mautrix.MBadJSON.WithMessage("reason is not a string")
	}
	for _, field := range []string{"third_party_signed", "join_authorised_via_users_server", "displayname", "avatar_url"} {
		if content, err = sjson.DeleteBytes(content, field); err != nil {
			return nil, err
		}
	}
	if content, err = sjson.SetBytes(content, "membership", event.MembershipJoin); err != nil {
		return nil, err
	}
	return h.withProfile(r.Context(), r.By.User, content)
}

// unableToAuthorise says whether the room refused only because none of our own users can vouch for the join.
func unableToAuthorise(err error) bool {
	var refusal *bus.Refusal
	return errors.As(err, &refusal) && (refusal.Code == "M_UNABLE_TO_AUTHORISE_JOIN" || refusal.Code == "M_UNABLE_TO_GRANT_JOIN")
}

// Knock handles POST /_matrix/client/v3/knock/{roomIdOrAlias}.
// Spec: client-server-api/#post_matrixclientv3knockroomidoralias
func (h *Handlers) Knock(r *rest.Request) (any, error) {
	roomID, servers, err := h.named(r, r.Path("roomIdOrAlias"))
	if err != nil {
		return nil, err
	}
	var req memberRequest
	if err := r.OptionalJSON(&req); err != nil {
		return nil, err
	}
	ctx := r.Context()
	content, err := h.memberContent(ctx, r.By.User, event.MembershipKnock, req.Reason)
	if err != nil {
		return nil, err
	}
	if err := h.barred(ctx, roomID); err != nil {
		return nil, err
	}
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if room != nil && room.Joined {
		_, err = h.propose(ctx, roomID, member(r.By.User, r.By.User, content))
	} else {
		_, err = h.federation(ctx, bus.FederationQuestion{Knock: &bus.JoinRemote{
			RoomID: roomID, UserID: r.By.User, Servers: h.candidates(ctx, roomID, r.By.User, servers), Content: content,
		}})
	}
	if err != nil {
		return nil, err
	}
	return roomAnswer{roomID}, nil
}

// Leave handles POST /_matrix/client/v3/rooms/{roomId}/leave.
// Spec: client-server-api/#post_matrixclientv3roomsroomidleave
func (h *Handlers) Leave(r *rest.Request) (any, error) {
	roomID, req, err := h.memberRequest(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	m, err := h.store.Memberships.Of(ctx, roomID, r.By.User)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, mautrix.MNotFound.WithMessage("You are not in this room")
	}
	if m.Membership == event.MembershipLeave {
		return rest.Empty, nil // left already
	}
	if m.Membership == event.MembershipInvite && m.Sender == rest.ServerUser(h.cfg.ServerName) {
		return nil, mautrix.RespError{ErrCode: "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", StatusCode: 403, Err: "The server's notices cannot be refused"}
	}
	content := memberContentOf(event.MembershipLeave, req.Reason)
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if room != nil && room.Joined {
		_, err = h.propose(ctx, roomID, member(r.By.User, r.By.User, content))
		return rest.Empty, err
	}
	// An invite or a knock to a room that we are not in is taken back where it came from.
	_, err = h.federation(ctx, bus.FederationQuestion{Leave: &bus.LeaveRemote{
		RoomID: roomID, UserID: r.By.User, Servers: h.candidates(ctx, roomID, r.By.User, nil), Content: content,
	}})
	return rest.Empty, err
}

// Invite handles POST /_matrix/client/v3/rooms/{roomId}/invite.
// Spec: client-server-api/#post_matrixclientv3roomsroomidinvite
func (h *Handlers) Invite(r *rest.Request) (any, error) {
	roomID, req, err := h.targeted(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	p := h.invitation(r.By.User, req.UserID, req.Reason, false)
	if !h.local(req.UserID) {
		_, err = h.inviteRemote(ctx, roomID, p)
		return rest.Empty, err
	}
	if p.Content, err = h.withProfile(ctx, req.UserID, p.Content); err != nil {
		return nil, err
	}
	_, err = h.propose(ctx, roomID, p)
	return rest.Empty, err
}

// Kick handles POST /_matrix/client/v3/rooms/{roomId}/kick.
// Spec: client-server-api/#post_matrixclientv3roomsroomidkick
func (h *Handlers) Kick(r *rest.Request) (any, error) {
	return h.remove(r, event.MembershipLeave, "is not in this room", event.MembershipJoin, event.MembershipInvite, event.MembershipKnock)
}

// Unban handles POST /_matrix/client/v3/rooms/{roomId}/unban.
// Spec: client-server-api/#post_matrixclientv3roomsroomidunban
func (h *Handlers) Unban(r *rest.Request) (any, error) {
	return h.remove(r, event.MembershipLeave, "is not banned from this room", event.MembershipBan)
}

// Ban handles POST /_matrix/client/v3/rooms/{roomId}/ban.
// Spec: client-server-api/#post_matrixclientv3roomsroomidban
func (h *Handlers) Ban(r *rest.Request) (any, error) { return h.remove(r, event.MembershipBan, "") }

// remove changes another user's membership, where that is one of the ways named (any, if none is).
func (h *Handlers) remove(r *rest.Request, to event.Membership, otherwise string, from ...event.Membership) (any, error) {
	roomID, req, err := h.targeted(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if err := h.mustBeJoined(ctx, r.By.User, roomID); err != nil {
		return nil, err
	}
	m, err := h.store.Memberships.Of(ctx, roomID, req.UserID)
	if err != nil {
		return nil, err
	}
	if len(from) > 0 && !stands(m, from...) {
		return nil, mautrix.MForbidden.WithMessage("%s %s", req.UserID, otherwise)
	}
	_, err = h.propose(ctx, roomID, member(r.By.User, req.UserID, memberContentOf(to, req.Reason)))
	return rest.Empty, err
}

// stands says whether a membership is one of these.
func stands(m *storage.Membership, ways ...event.Membership) bool {
	for _, way := range ways {
		if m != nil && m.Membership == way {
			return true
		}
	}
	return false
}

// Forget handles POST /_matrix/client/v3/rooms/{roomId}/forget.
// Spec: client-server-api/#post_matrixclientv3roomsroomidforget
func (h *Handlers) Forget(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	m, err := h.store.Memberships.Of(r.Context(), roomID, r.By.User)
	if err != nil {
		return nil, err
	}
	switch {
	case m == nil:
		return nil, mautrix.MNotFound.WithMessage("You have never been in this room")
	case m.Forgotten:
		return rest.Empty, nil
	case !stands(m, event.MembershipLeave, event.MembershipBan):
		return nil, mautrix.MUnknown.WithStatus(http.StatusBadRequest).WithMessage("Leave the room first")
	}
	_, err = h.ask(r.Context(), roomID, bus.RoomQuestion{Forget: &bus.Forget{User: r.By.User}})
	return rest.Empty, err
}

// Joined handles GET /_matrix/client/v3/joined_rooms.
// Spec: client-server-api/#get_matrixclientv3joined_rooms
func (h *Handlers) Joined(r *rest.Request) (any, error) {
	list, err := h.store.Memberships.ByUser(r.Context(), r.By.User, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	rooms := make([]id.RoomID, len(list))
	for i, m := range list {
		rooms[i] = m.RoomID
	}
	return map[string]any{"joined_rooms": rooms}, nil
}

// memberRequest reads the room and the body, which may be absent.
func (h *Handlers) memberRequest(r *rest.Request) (roomID id.RoomID, req memberRequest, err error) {
	if roomID, err = r.RoomID(); err != nil {
		return
	}
	err = r.OptionalJSON(&req)
	return
}

// targeted reads the room and a body that names a user.
func (h *Handlers) targeted(r *rest.Request) (roomID id.RoomID, req memberRequest, err error) {
	if roomID, err = r.RoomID(); err != nil {
		return
	}
	if err = r.JSON(&req); err != nil {
		return
	}
	switch {
	case req.UserID == "" && req.Medium != "":
		err = mautrix.MForbidden.WithMessage("This server does not invite by e-mail address or telephone number: it has no identity server")
	case req.UserID == "":
		err = missingParam.WithMessage("user_id is missing")
	case !rest.ValidUserID(req.UserID):
		err = mautrix.MInvalidParam.WithMessage("%q is not a user ID", req.UserID)
	}
	return
}

// member proposes a membership of target.
func member(sender, target id.UserID, content json.RawMessage) bus.Proposal {
	key := string(target)
	return bus.Proposal{Sender: sender, Type: event.StateMember.Type, StateKey: &key, Content: content}
}

// invitation proposes an invite.
func (h *Handlers) invitation(sender, target id.UserID, reason string, direct bool) bus.Proposal {
	content := map[string]any{"membership": event.MembershipInvite}
	if reason != "" {
		content["reason"] = reason
	}
	if direct {
		content["is_direct"] = true
	}
	return member(sender, target, object(content))
}

// welcome refuses an invite that its target, one of our users, blocks. Every invite of them passes here, but for the server's notices.
// Spec: client-server-api/#invite-permission
func (h *Handlers) welcome(ctx context.Context, p bus.Proposal) error {
	if p.Type != event.StateMember.Type || p.StateKey == nil || gjson.GetBytes(p.Content, "membership").Str != string(event.MembershipInvite) {
		return nil
	}
	target := id.UserID(*p.StateKey)
	if !h.local(target) {
		return nil // their server's to say
	}
	wishes, err := h.view.Invites(ctx, target)
	if err != nil || wishes.Judge(p.Sender) != policy.InviteBlocked {
		return err
	}
	return mautrix.RespError{ErrCode: "M_INVITE_BLOCKED", StatusCode: http.StatusForbidden, Err: string(target) + " does not accept this invite"}
}

func memberContentOf(membership event.Membership, reason string) json.RawMessage {
	content := map[string]any{"membership": membership}
	if reason != "" {
		content["reason"] = reason
	}
	return object(content)
}

// memberContent is the content of a membership of one of our users, with what the profile shows.
func (h *Handlers) memberContent(ctx context.Context, user id.UserID, membership event.Membership, reason string) (json.RawMessage, error) {
	return h.withProfile(ctx, user, memberContentOf(membership, reason))
}

// withProfile adds the profile's display name and avatar to a membership's content.
func (h *Handlers) withProfile(ctx context.Context, user id.UserID, content json.RawMessage) (json.RawMessage, error) {
	for _, field := range []string{"displayname", "avatar_url"} {
		value, err := h.store.Profiles.Field(ctx, user, field)
		if err != nil {
			return nil, err
		}
		if len(value) == 0 || string(value) == "null" || string(value) == `""` {
			continue
		}
		if content, err = sjson.SetRawBytes(content, field, value); err != nil {
			return nil, err
		}
	}
	return content, nil
}
