package roomserver

import (
	"context"
	"errors"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"

	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage/bus"
)

// policyPatience is how long a room waits for its policy server.
const policyPatience = 10 * time.Second

var policyKey = pdu.Key{Type: "m.room.policy"}

// approved gives an event of ours with the signature of the room's policy server, if the room has one. The room waits for it, other rooms
// do not. What the policy server refuses is not sent, and its words reach the client as they are.
// Spec: server-server-api/#asking-for-a-policy-server-signature-on-an-event
func (r *room) approved(ctx context.Context, ev gomatrixserverlib.PDU) (gomatrixserverlib.PDU, error) {
	if _, ok := r.current[policyKey]; !ok || !policy.NeedsPolicyServer(ev.Type(), ev.StateKey()) {
		return ev, nil
	}
	content, err := r.content(ctx, policyKey)
	if err != nil {
		return nil, err
	}
	server, encoded := policy.PolicyServer([]byte(content.Raw))
	if server == "" || r.joined[server] == 0 {
		return ev, nil
	}
	if server == r.s.signer.ServerName {
		return nil, refuse(403, mautrix.MForbidden, "The room takes this server for its policy server, and it is none")
	}
	// What stands before this event need not wait for a stranger.
	r.handOver()
	waiting, cancel := context.WithTimeout(ctx, policyPatience)
	defer cancel()
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](waiting, r.s.bus, bus.FederationDo, bus.FederationQuestion{
		PolicySign: &bus.PolicySign{Server: server, Event: ev.JSON()},
	})
	if err != nil {
		if refusal := (*bus.Refusal)(nil); errors.As(err, &refusal) {
			return nil, refusal
		}
		zerolog.Ctx(ctx).Info().Err(err).Str("server", server).Msg("The room's policy server does not answer")
		return nil, refuse(502, mautrix.MUnknown, "The room's policy server does not answer")
	}
	signature := gjson.GetBytes(answer.Body, gjson.Escape(server)+"."+gjson.Escape(policy.PolicyServerKey)).Str
	signed, err := pdu.AddSignature(ev, server, policy.PolicyServerKey, signature)
	if err != nil || !pdu.SignedWith(signed, server, policy.PolicyServerKey, pdu.PublicKey(encoded)) {
		return nil, refuse(403, mautrix.MForbidden, "The room's policy server did not sign the event with the key that the room knows")
	}
	return signed, nil
}
