package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// validAlias says whether this has the form of a room alias.
func validAlias(alias id.RoomAlias) bool {
	local, server, ok := strings.Cut(string(alias), ":")
	return ok && len(alias) <= maxName && len(local) > 1 && local[0] == '#' && !strings.ContainsRune(local, 0) && pdu.ValidServerName(server)
}

// serverOf is the server that an alias belongs to.
func serverOf(alias id.RoomAlias) string {
	_, server, _ := strings.Cut(string(alias), ":")
	return server
}

// noSuchAlias answers for an alias that leads nowhere.
var noSuchAlias = mautrix.MNotFound.WithMessage("There is no such room alias")

// resolve finds the room of an alias, and servers that know it; M_NOT_FOUND if it leads nowhere.
func (h *Handlers) resolve(ctx context.Context, alias id.RoomAlias) (id.RoomID, []string, error) {
	if serverOf(alias) == h.cfg.ServerName {
		roomID, err := h.store.Rooms.ByAlias(ctx, alias)
		if err != nil {
			return "", nil, err
		}
		if roomID == "" && h.bridges.QueryAlias(ctx, alias) {
			if roomID, err = h.store.Rooms.ByAlias(ctx, alias); err != nil {
				return "", nil, err
			}
		}
		if roomID == "" {
			return "", nil, noSuchAlias
		}
		servers, err := h.store.Rooms.ServersNow(ctx, roomID)
		return roomID, first(h.cfg.ServerName, servers), err
	}
	answer, err := h.federation(ctx, bus.FederationQuestion{QueryAlias: &bus.QueryAlias{Alias: alias}})
	if err != nil {
		return "", nil, err
	}
	var found struct {
		RoomID  id.RoomID `json:"room_id"`
		Servers []string  `json:"servers"`
	}
	if err := json.Unmarshal(answer.Body, &found); err != nil || !pdu.ValidRoomID(string(found.RoomID)) {
		return "", nil, noSuchAlias
	}
	servers := slices.DeleteFunc(found.Servers, func(s string) bool { return !pdu.ValidServerName(s) })
	return found.RoomID, first(serverOf(alias), servers), nil
}

// first puts a server at the head of a list.
func first(server string, servers []string) []string {
	return append([]string{server}, slices.DeleteFunc(servers, func(s string) bool { return s == server })...)
}

// alias reads {roomAlias}.
func aliasOf(r *rest.Request) (id.RoomAlias, error) {
	alias := id.RoomAlias(r.Path("roomAlias"))
	if !validAlias(alias) {
		return "", mautrix.MInvalidParam.WithMessage("This is not a room alias")
	}
	return alias, nil
}

// Alias handles GET /_matrix/client/v3/directory/room/{roomAlias}.
// Spec: client-server-api/#get_matrixclientv3directoryroomroomalias
func (h *Handlers) Alias(r *rest.Request) (any, error) {
	alias, err := aliasOf(r)
	if err != nil {
		return nil, err
	}
	roomID, servers, err := h.resolve(r.Context(), alias)
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": roomID, "servers": servers}, nil
}

// PutAlias handles PUT /_matrix/client/v3/directory/room/{roomAlias}.
// Spec: client-server-api/#put_matrixclientv3directoryroomroomalias
func (h *Handlers) PutAlias(r *rest.Request) (any, error) {
	alias, err := h.ownAlias(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		RoomID id.RoomID `json:"room_id"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if !pdu.ValidRoomID(string(body.RoomID)) {
		return nil, mautrix.MInvalidParam.WithMessage("room_id is missing, or not a room ID")
	}
	_, err = h.ask(r.Context(), body.RoomID, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: alias, By: r.By.User}})
	return rest.Empty, err
}

// DeleteAlias handles DELETE /_matrix/client/v3/directory/room/{roomAlias}. A canonical alias that names it is mended, if
// the user may do that.
// Spec: client-server-api/#delete_matrixclientv3directoryroomroomalias
func (h *Handlers) DeleteAlias(r *rest.Request) (any, error) {
	alias, err := h.ownAlias(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	roomID, err := h.store.Rooms.ByAlias(ctx, alias)
	if err != nil {
		return nil, err
	}
	if roomID == "" {
		return nil, noSuchAlias
	}
	if _, err := h.ask(ctx, roomID, bus.RoomQuestion{Alias: &bus.AliasChange{Alias: alias, By: r.By.User, Remove: true}}); err != nil {
		return nil, err
	}
	if err := h.withdraw(ctx, roomID, r.By.User, alias); err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Stringer("room_id", roomID).Msg("A deleted alias stays in the canonical alias")
	}
	return rest.Empty, nil
}

// withdraw takes an alias out of the room's canonical alias.
func (h *Handlers) withdraw(ctx context.Context, roomID id.RoomID, user id.UserID, alias id.RoomAlias) error {
	key := pdu.Key{Type: event.StateCanonicalAlias.Type}
	e, err := h.store.State.Current(ctx, roomID, key)
	if err != nil || e == nil {
		return err
	}
	content := []byte(gjson.GetBytes(e.JSON, "content").Raw)
	if !slices.Contains(canonicalAliases(gjson.ParseBytes(content)), string(alias)) {
		return nil
	}
	if gjson.GetBytes(content, "alias").Str == string(alias) {
		if content, err = sjson.DeleteBytes(content, "alias"); err != nil {
			return err
		}
	}
	kept := []string{}
	for _, alt := range gjson.GetBytes(content, "alt_aliases").Array() {
		if alt.Str != string(alias) {
			kept = append(kept, alt.Str)
		}
	}
	if len(kept) > 0 {
		content, err = sjson.SetBytes(content, "alt_aliases", kept)
	} else {
		content, err = sjson.DeleteBytes(content, "alt_aliases")
	}
	if err != nil {
		return err
	}
	_, err = h.propose(ctx, roomID, bus.Proposal{Sender: user, Type: key.Type, StateKey: &key.StateKey, Content: content})
	return err
}

// ownAlias reads {roomAlias}, which has to be one of this server's.
func (h *Handlers) ownAlias(r *rest.Request) (id.RoomAlias, error) {
	alias, err := aliasOf(r)
	if err == nil && serverOf(alias) != h.cfg.ServerName {
		err = mautrix.MInvalidParam.WithMessage("This alias belongs to another server")
	}
	if err == nil {
		err = h.bridges.MayChangeAlias(r.By.Service, alias)
	}
	return alias, err
}

// Aliases handles GET /_matrix/client/v3/rooms/{roomId}/aliases.
// Spec: client-server-api/#get_matrixclientv3roomsroomidaliases
func (h *Handlers) Aliases(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	a, err := h.read(r.Context(), r.By.User, roomID)
	if err != nil {
		return nil, err
	}
	if a.left != nil {
		return nil, forbidden
	}
	list, err := h.store.Rooms.Aliases(r.Context(), roomID)
	if err != nil {
		return nil, err
	}
	aliases := make([]id.RoomAlias, len(list))
	for i, entry := range list {
		aliases[i] = entry.Alias
	}
	return map[string]any{"aliases": aliases}, nil
}
