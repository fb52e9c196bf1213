package view

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// ACL gives the room's server ACL as it stands; nil where there is none, which allows every server.
func (r *Reader) ACL(ctx context.Context, room id.RoomID) (*policy.ACL, error) {
	e, err := r.store.State.Current(ctx, room, pdu.Key{Type: "m.room.server_acl"})
	if err != nil || e == nil {
		return nil, err
	}
	if acl, ok := r.acls.Load(e.ID); ok {
		return acl.(*policy.ACL), nil
	}
	acl := policy.ParseACL([]byte(gjson.GetBytes(e.JSON, "content").Raw))
	r.acls.Store(e.ID, acl)
	return acl, nil
}

// PolicyServer gives the server that signs the room's events before they count, and its key in base64; empty where the room has none.
// Spec: server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
func (r *Reader) PolicyServer(ctx context.Context, room id.RoomID) (server, key string, err error) {
	e, err := r.store.State.Current(ctx, room, pdu.Key{Type: "m.room.policy"})
	if err != nil || e == nil || e.RedactedBy != "" {
		return "", "", err
	}
	server, key = policy.PolicyServer([]byte(gjson.GetBytes(e.JSON, "content").Raw))
	if server == "" {
		return "", "", nil
	}
	in, err := r.store.Rooms.HasServer(ctx, room, server)
	if err != nil || !in {
		return "", "", err
	}
	return server, key, nil
}

// ForServer gives the events, all of one room and in their order, as the other server gets them: whole where it may see them,
// pruned where it was redacted or the server may not see more.
// Spec: server-server-api/#backfilling-and-retrieving-missing-events
func (r *Reader) ForServer(ctx context.Context, server string, events []*storage.Event) ([]json.RawMessage, error) {
	if len(events) == 0 {
		return nil, nil
	}
	version, err := r.Version(ctx, events[0].RoomID)
	if err != nil {
		return nil, err
	}
	visible, err := r.visibleTo(ctx, server, events)
	if err != nil {
		return nil, fmt.Errorf("what %s may see: %w", server, err)
	}
	out := make([]json.RawMessage, 0, len(events))
	for i, e := range events {
		raw := json.RawMessage(e.JSON)
		if !visible[i] || e.RedactedBy != "" {
			if raw, err = pdu.Redact(version, e.JSON); err != nil {
				return nil, fmt.Errorf("prune %s: %w", e.ID, err)
			}
		}
		out = append(out, raw)
	}
	return out, nil
}

// visibleTo tells, for each of the events, whether the server may see it in
// full: because of the room's setting then, or because one of its users was there.
func (r *Reader) visibleTo(ctx context.Context, server string, events []*storage.Event) ([]bool, error) {
	asked := make([]storage.Lookup, 0, len(events))
	for _, e := range events {
		asked = append(asked, storage.Lookup{At: e.Before, Key: keyVisibility})
	}
	state, err := r.stateAt(ctx, asked)
	if err != nil {
		return nil, err
	}
	spans, err := r.store.Rooms.ServerSpans(ctx, events[0].RoomID)
	if err != nil {
		return nil, err
	}
	gone, err := r.forgotten(ctx)
	if err != nil {
		return nil, err
	}
	present := map[storage.Snapshot][]string{}
	visible := make([]bool, len(events))
	for i, e := range events {
		at := moment{settings: state.around(e, keyVisibility), memberships: []string{""}}
		// State tells no more when it is whole, and is needed to go on. Whoever
		// joined later may see shared history, and that somebody of the server
		// did, since it asks, the door has made sure.
		if e.StateKey != nil || e.Sender.Homeserver() == server || wasIn(spans, server, e.Position) || at.verdict() != denied && !gone.touches(e) {
			visible[i] = true
			continue
		}
		memberships, ok := present[e.Before]
		if !ok {
			if memberships, err = r.membershipsOf(ctx, server, e.Before); err != nil {
				return nil, err
			}
			present[e.Before] = memberships
		}
		at.memberships = memberships
		visible[i] = at.verdict() == allowed && (!gone.touches(e) || slices.Contains(memberships, "join"))
	}
	return visible, nil
}

// wasIn tells whether the server had a joined user when the position was given.
func wasIn(spans []storage.ServerSpan, server string, at storage.Position) bool {
	if at == 0 {
		return false
	}
	for _, s := range spans {
		if s.Server == server && s.Since <= at && (s.Until == 0 || at <= s.Until) {
			return true
		}
	}
	return false
}

// membershipsOf lists how the server's users stood to the room, each way once:
// the long way, for history and for invited ones.
func (r *Reader) membershipsOf(ctx context.Context, server string, at storage.Snapshot) ([]string, error) {
	members, err := r.store.State.OfType(ctx, at, typeMember)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for user, number := range members {
		if id.UserID(user).Homeserver() == server {
			numbers = append(numbers, number)
		}
	}
	ways := map[string]struct{}{}
	const some = 100
	for len(numbers) > 0 {
		n := min(some, len(numbers))
		said, err := r.sayings(ctx, numbers[:n])
		if err != nil {
			return nil, err
		}
		for _, way := range said {
			ways[way] = struct{}{}
		}
		if _, ok := ways["join"]; ok {
			return []string{"join"}, nil
		}
		numbers = numbers[n:]
	}
	return slices.Collect(maps.Keys(ways)), nil
}
