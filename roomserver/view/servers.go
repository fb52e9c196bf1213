package view

import (
	"context"
	"encoding/json"
	"fmt"

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
	spans, err := r.store.Rooms.ServerSpans(ctx, events[0].RoomID)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		visible, err := r.serverSees(ctx, server, spans, e)
		if err != nil {
			return nil, fmt.Errorf("visibility of %s: %w", e.ID, err)
		}
		raw := json.RawMessage(e.JSON)
		if !visible || e.RedactedBy != "" {
			if raw, err = pdu.Redact(version, e.JSON); err != nil {
				return nil, fmt.Errorf("prune %s: %w", e.ID, err)
			}
		}
		out = append(out, raw)
	}
	return out, nil
}

// serverSees says whether a server may see the whole event: by the room's setting then, or because one of its users was there.
func (r *Reader) serverSees(ctx context.Context, server string, spans []storage.ServerSpan, e *storage.Event) (bool, error) {
	if e.StateKey != nil || e.Sender.Homeserver() == server {
		return true, nil // state tells no more when it is whole, and is needed to go on
	}
	setting, err := r.store.State.Event(ctx, e.Before, pdu.Key{Type: "m.room.history_visibility"})
	if err != nil {
		return false, err
	}
	if v := text(setting, "history_visibility", "shared"); v != "joined" && v != "invited" {
		return true, nil
	}
	if e.Position != 0 {
		for _, s := range spans {
			if s.Server == server && s.Since <= e.Position && (s.Until == 0 || e.Position <= s.Until) {
				return true, nil
			}
		}
		if text(setting, "history_visibility", "shared") == "joined" {
			return false, nil
		}
	}
	return r.wasThere(ctx, server, setting, e)
}

// wasThere looks for the server's members in the state before the event: the long way, for history and for invited ones.
func (r *Reader) wasThere(ctx context.Context, server string, setting, e *storage.Event) (bool, error) {
	members, err := r.store.State.OfType(ctx, e.Before, "m.room.member")
	if err != nil {
		return false, err
	}
	var numbers []int64
	for user, number := range members {
		if id.UserID(user).Homeserver() == server {
			numbers = append(numbers, number)
		}
	}
	memberships, err := r.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return false, err
	}
	invited := text(setting, "history_visibility", "shared") == "invited"
	for _, m := range memberships {
		switch text(m, "membership", "leave") {
		case "join":
			return true, nil
		case "invite":
			if invited {
				return true, nil
			}
		}
	}
	return false, nil
}
