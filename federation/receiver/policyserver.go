package receiver

import (
	"context"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
)

// policyAtOnce is how many events of one transaction are shown to a policy server at the same time.
const policyAtOnce = 8

// vet shows those of the events that bear no signature of the room's policy server to it, and puts the signed ones in their place.
// What it does not sign stays as it is: the room is told (unapproved), and soft-fails it.
// Spec: server-server-api/#checks-performed-on-receipt-of-a-pdu (step 7)
func (r *Receiver) vet(ctx context.Context, room id.RoomID, events []gomatrixserverlib.PDU) error {
	server, key, err := r.view.PolicyServer(ctx, room)
	if err != nil || server == "" {
		return err
	}
	var wait sync.WaitGroup
	places := make(chan struct{}, policyAtOnce)
	for i, ev := range events {
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			events[i], _ = r.client.Approved(ctx, server, key, ev)
		})
	}
	wait.Wait()
	return nil
}

// unapproved gives the places of those events that need a signature of the room's policy server and have none.
func (r *Receiver) unapproved(ctx context.Context, room id.RoomID, events []gomatrixserverlib.PDU) ([]int, error) {
	server, key, err := r.view.PolicyServer(ctx, room)
	if err != nil || server == "" {
		return nil, err
	}
	var places []int
	for i, ev := range events {
		if policy.NeedsPolicyServer(ev.Type(), ev.StateKey()) && !pdu.SignedWith(ev, server, policy.PolicyServerKey, pdu.PublicKey(key)) {
			places = append(places, i)
		}
	}
	return places, nil
}
