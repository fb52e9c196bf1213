package rooms

import "chancery/clientapi/rest"

// Retention handles GET /_matrix/client/unstable/org.matrix.msc1763/retention/configuration. The server itself sets neither a
// policy nor limits: a room's own m.room.retention stands, for clients to keep to.
// Spec: MSC1763
func (h *Handlers) Retention(*rest.Request) (any, error) {
	return struct {
		Policies map[string]any `json:"policies"`
		Limits   map[string]any `json:"limits"`
	}{map[string]any{}, map[string]any{}}, nil
}
