package admin

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage/bus"
)

// peersTime is how long the federation component may take to tell of its peers.
const peersTime = 10 * time.Second

// Peers handles GET /_chancery/admin/v1/federation: how it stands with other servers, by name, a page at a time.
func (h *Handlers) Peers(r *rest.Request) (any, error) {
	limit, err := r.Int("limit", 100, 1, 100)
	if err != nil {
		return nil, err
	}
	return h.peers(r.Context(), bus.Peers{After: r.Query("from"), Limit: limit})
}

// Peer handles GET /_chancery/admin/v1/federation/{serverName}: how it stands with one.
func (h *Handlers) Peer(r *rest.Request) (any, error) {
	raw, err := h.peers(r.Context(), bus.Peers{Server: r.Path("serverName")})
	if err != nil {
		return nil, err
	}
	var list bus.PeerList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	if len(list.Peers) == 0 {
		return nil, mautrix.MNotFound.WithMessage("Nothing is known of this server")
	}
	return list.Peers[0], nil
}

func (h *Handlers) peers(ctx context.Context, q bus.Peers) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, peersTime)
	defer cancel()
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, bus.FederationQuestion{Peers: &q})
	return answer.Body, err
}
