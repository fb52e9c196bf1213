package rooms

import (
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage/bus"
)

// Visibility handles GET /_matrix/client/v3/directory/list/room/{roomId}.
// Spec: client-server-api/#get_matrixclientv3directorylistroomroomid
func (h *Handlers) Visibility(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	room, err := h.store.Rooms.ByID(r.Context(), roomID)
	if err != nil {
		return nil, err
	}
	if room == nil {
		return nil, mautrix.MNotFound.WithMessage("There is no such room")
	}
	visibility := "private"
	if room.Listed {
		visibility = "public"
	}
	return map[string]string{"visibility": visibility}, nil
}

// PutVisibility handles PUT /_matrix/client/v3/directory/list/room/{roomId}.
// Spec: client-server-api/#put_matrixclientv3directorylistroomroomid
func (h *Handlers) PutVisibility(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	body := struct {
		Visibility string `json:"visibility"`
	}{"public"}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return nil, mautrix.MInvalidParam.WithMessage("visibility is neither public nor private")
	}
	_, err = h.ask(r.Context(), roomID, bus.RoomQuestion{Publish: &bus.Publish{By: r.By.User, Listed: body.Visibility == "public"}})
	return rest.Empty, err
}

// PublicRooms handles GET /_matrix/client/v3/publicRooms.
// Spec: client-server-api/#get_matrixclientv3publicrooms
func (h *Handlers) PublicRooms(r *rest.Request) (any, error) {
	limit, err := r.Int("limit", 0, 0, maxPage)
	if err != nil {
		return nil, err
	}
	return h.publicRooms(r, view.DirectoryQuery{Limit: limit, Since: r.Query("since")})
}

// SearchPublicRooms handles POST /_matrix/client/v3/publicRooms.
// Spec: client-server-api/#post_matrixclientv3publicrooms
func (h *Handlers) SearchPublicRooms(r *rest.Request) (any, error) {
	var q view.DirectoryQuery
	if err := r.OptionalJSON(&q); err != nil {
		return nil, err
	}
	return h.publicRooms(r, q)
}

func (h *Handlers) publicRooms(r *rest.Request, q view.DirectoryQuery) (any, error) {
	server := r.Query("server")
	if server == "" || server == h.cfg.ServerName {
		page, err := h.view.Directory(r.Context(), q)
		if errors.Is(err, view.ErrDirectoryToken) {
			return nil, badToken
		}
		return page, err
	}
	if !pdu.ValidServerName(server) {
		return nil, mautrix.MInvalidParam.WithMessage("This is not a server name")
	}
	query, err := json.Marshal(remoteQuery(q))
	if err != nil {
		return nil, err
	}
	answer, err := h.federation(r.Context(), bus.FederationQuestion{PublicRooms: &bus.PublicRooms{Server: server, Query: query}})
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// remoteQuery is the query as other servers read it: without what was not asked for.
func remoteQuery(q view.DirectoryQuery) map[string]any {
	body := map[string]any{}
	if q.Limit > 0 {
		body["limit"] = q.Limit
	}
	if q.Since != "" {
		body["since"] = q.Since
	}
	filter := map[string]any{}
	if q.Filter.Term != "" {
		filter["generic_search_term"] = q.Filter.Term
	}
	if q.Filter.Types != nil {
		filter["room_types"] = q.Filter.Types
	}
	if len(filter) > 0 {
		body["filter"] = filter
	}
	return body
}
