package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage/bus"
)

// maxServers bounds the servers that are tried for one request.
const maxServers = 20

// vias are the servers that a request names: via, and server_name as it was called before.
func vias(r *rest.Request) []string {
	query := r.HTTP.URL.Query()
	var servers []string
	for _, server := range append(query["via"], query["server_name"]...) {
		if pdu.ValidServerName(server) && !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	return servers[:min(len(servers), maxServers)]
}

// named gives the room that a path names by ID or alias, and servers that may know it.
func (h *Handlers) named(r *rest.Request, name string) (id.RoomID, []string, error) {
	switch {
	case strings.HasPrefix(name, "!") && pdu.ValidRoomID(name):
		return id.RoomID(name), vias(r), nil
	case strings.HasPrefix(name, "#") && validAlias(id.RoomAlias(name)):
		roomID, servers, err := h.resolve(r.Context(), id.RoomAlias(name))
		return roomID, append(servers, vias(r)...), err
	}
	return "", nil, mautrix.MInvalidParam.WithMessage("This is neither a room ID nor a room alias")
}

// candidates are the other servers through which a room may be reached: who invited the user, and those named. Who knocked is let in by
// any that is there. Where none is known so far, those that were in the room when we were; where these are none either, the server
// in the room's ID is tried: the ID is no address.
func (h *Handlers) candidates(ctx context.Context, roomID id.RoomID, user id.UserID, servers []string) []string {
	knocked := false
	if m, err := h.store.Memberships.Of(ctx, roomID, user); err == nil && m != nil {
		knocked = m.Membership == event.MembershipKnock
		if m.Membership == event.MembershipInvite {
			servers = append([]string{m.Sender.Homeserver()}, servers...)
		}
	}
	if knocked || len(h.others(servers)) == 0 {
		if known, err := h.store.Rooms.ServersNow(ctx, roomID); err == nil {
			servers = append(servers, known...)
		}
	}
	if _, domain, ok := strings.Cut(string(roomID), ":"); ok && len(h.others(servers)) == 0 {
		servers = append(servers, domain)
	}
	return h.others(servers)
}

// others leaves out this server and what is named twice, and keeps no more than are tried.
func (h *Handlers) others(servers []string) []string {
	var others []string
	for _, server := range servers {
		if server != h.cfg.ServerName && !slices.Contains(others, server) {
			others = append(others, server)
		}
	}
	return others[:min(len(others), maxServers)]
}

// inviteRemote invites another server's user: the room drafts the invite, the user's server signs it too, and the room
// takes it in.
func (h *Handlers) inviteRemote(ctx context.Context, roomID id.RoomID, p bus.Proposal) (id.EventID, error) {
	draft, err := h.draft(ctx, roomID, p)
	if err != nil {
		return "", err
	}
	stripped, err := h.strippedState(ctx, roomID, p.Sender)
	if err != nil {
		return "", err
	}
	answer, err := h.federation(ctx, bus.FederationQuestion{Invite: &bus.InviteRemote{Version: draft.Version, Event: draft.Event, Stripped: stripped}})
	if err != nil {
		return "", err
	}
	signed := answer.Body
	if inner := gjson.GetBytes(signed, "event"); inner.IsObject() && !gjson.GetBytes(signed, "type").Exists() {
		signed = json.RawMessage(inner.Raw)
	}
	outcomes, err := h.ask(ctx, roomID, bus.RoomQuestion{Receive: &bus.Received{
		Origin: id.UserID(*p.StateKey).Homeserver(), Version: draft.Version, PDUs: []json.RawMessage{signed},
	}})
	if err != nil {
		return "", err
	}
	outcome, err := single(outcomes)
	return outcome.EventID, err
}

// strippedState is what the invited user learns of the room: its marks, and who invites. The create event goes whole, since
// the room's ID may be made of it.
// Spec: server-server-api/#put_matrixfederationv2inviteroomideventid
func (h *Handlers) strippedState(ctx context.Context, roomID id.RoomID, inviter id.UserID) ([]json.RawMessage, error) {
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return nil, err
	}
	events, err := h.view.StrippedState(ctx, room.State, pdu.Key{Type: event.StateMember.Type, StateKey: string(inviter)})
	if err != nil {
		return nil, err
	}
	stripped := make([]json.RawMessage, len(events))
	for i, e := range events {
		if e.Type == event.StateCreate.Type {
			stripped[i] = e.JSON
		} else if stripped[i], err = view.Stripped(e); err != nil {
			return nil, err
		}
	}
	return stripped, nil
}
