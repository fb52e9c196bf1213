package federation

import (
	"context"
	"encoding/json"
	"net/http"

	"chancery/federation/remote"
	"chancery/storage/bus"
)

// maxPolicyAnswer bounds what a policy server says of one event.
const maxPolicyAnswer = 64 << 10

// askPolicy asks a room's policy server to sign an event.
// Spec: server-server-api/#post_matrixpolicyv1sign
func (f *Federation) askPolicy(ctx context.Context, q *bus.PolicySign) (json.RawMessage, error) {
	return f.ask(ctx, remote.Request{
		Server: q.Server, Method: http.MethodPost, Path: []string{"v1", "sign"}, Policy: true, Body: q.Event, Limit: maxPolicyAnswer,
	})
}
