package remote

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"

	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
)

const (
	// policyTime is how long an event that came without a signature waits for a policy server.
	policyTime = 5 * time.Second
	// maxPolicyAnswer bounds what a policy server says of one event.
	maxPolicyAnswer = 64 << 10
)

// Approved says whether the room's policy server recommends an event that came from outside. One without its signature is shown to
// it; the event comes back with the signature that it gives, so that nobody has to ask again.
// Spec: server-server-api/#validating-policy-server-signatures
func (c *Client) Approved(ctx context.Context, server, key string, ev gomatrixserverlib.PDU) (gomatrixserverlib.PDU, bool) {
	public := pdu.PublicKey(key)
	if !policy.NeedsPolicyServer(ev.Type(), ev.StateKey()) || pdu.SignedWith(ev, server, policy.PolicyServerKey, public) {
		return ev, true
	}
	if server == c.name {
		return ev, false // the room takes us for what we are not
	}
	var answer json.RawMessage
	err := c.Ask(ctx, Request{
		Server: server, Method: http.MethodPost, Path: []string{"v1", "sign"}, Policy: true, Body: json.RawMessage(ev.JSON()),
		Limit: maxPolicyAnswer, Timeout: policyTime,
	}, &answer)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Str("event_id", ev.EventID()).Msg("The policy server does not recommend an event")
		return ev, false
	}
	signature := gjson.GetBytes(answer, gjson.Escape(server)+"."+gjson.Escape(policy.PolicyServerKey)).Str
	signed, err := pdu.AddSignature(ev, server, policy.PolicyServerKey, signature)
	if err != nil || !pdu.SignedWith(signed, server, policy.PolicyServerKey, public) {
		return ev, false
	}
	return signed, true
}
