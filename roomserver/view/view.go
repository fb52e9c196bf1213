// Package view is the reading side of rooms: who may see which event, and how an
// event looks to a client or to another server.
//
// It reads storage and writes nothing. Truths to keep:
//
//   - one function decides on history visibility, for clients and for servers alike; sync, messages, context, search and federation all ask it;
//   - a redacted event is given in its pruned form from the commit of its redaction on, whoever asks;
//   - `unsigned` is made here and never taken from another server.
package view

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// Viewer is for whom events are rendered.
type Viewer struct {
	User   id.UserID
	Device id.DeviceID
}

// Reader reads rooms. It is safe for concurrent use.
type Reader struct {
	store    *storage.Store
	now      func() time.Time
	versions sync.Map // id.RoomID to id.RoomVersion: never changes
	acls     sync.Map // id.EventID to *policy.ACL
}

// New makes a Reader of the store.
func New(store *storage.Store) *Reader { return &Reader{store: store, now: time.Now} }

// Version gives a room's version; empty if we know no such room.
func (r *Reader) Version(ctx context.Context, room id.RoomID) (id.RoomVersion, error) {
	if v, ok := r.versions.Load(room); ok {
		return v.(id.RoomVersion), nil
	}
	stored, err := r.store.Rooms.ByID(ctx, room)
	if err != nil || stored == nil {
		return "", err
	}
	r.versions.Store(room, stored.Version)
	return stored.Version, nil
}

// Visible gives those of the events, all of one room and in their order, that the user may see.
// Spec: client-server-api/#room-history-visibility
func (r *Reader) Visible(ctx context.Context, user id.UserID, events []*storage.Event) ([]*storage.Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	p := &page{r: r, user: user, seen: map[lookup]*storage.Event{}}
	var err error
	if p.now, err = r.store.Memberships.Of(ctx, events[0].RoomID, user); err != nil {
		return nil, err
	}
	var visible []*storage.Event
	for _, e := range events {
		ok, err := p.visible(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("visibility of %s: %w", e.ID, err)
		}
		if ok {
			visible = append(visible, e)
		}
	}
	return visible, nil
}

// page is one question about several events of one room.
type page struct {
	r    *Reader
	user id.UserID
	now  *storage.Membership
	// left is the event by which the user left, where that is how the user stands now.
	left *storage.Event
	seen map[lookup]*storage.Event
}

type lookup struct {
	at  storage.Snapshot
	key pdu.Key
}

func (p *page) state(ctx context.Context, at storage.Snapshot, typ, key string) (*storage.Event, error) {
	l := lookup{at, pdu.Key{Type: typ, StateKey: key}}
	if e, ok := p.seen[l]; ok {
		return e, nil
	}
	e, err := p.r.store.State.Event(ctx, at, l.key)
	if err == nil {
		p.seen[l] = e
	}
	return e, err
}

func (p *page) visible(ctx context.Context, e *storage.Event) (bool, error) {
	if e.Standing != storage.Accepted || e.Place == 0 {
		return false, nil
	}
	memberships, err := p.around(ctx, e, "m.room.member", string(p.user), "membership", "leave")
	if err != nil {
		return false, err
	}
	settings, err := p.around(ctx, e, "m.room.history_visibility", "", "history_visibility", "shared")
	if err != nil {
		return false, err
	}
	for _, setting := range settings {
		for _, membership := range memberships {
			if ok, err := p.allows(ctx, e, setting, membership); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

// around gives what the state says before the event and, where the event changes it, after it too: the more permissive counts.
func (p *page) around(ctx context.Context, e *storage.Event, typ, key, field, otherwise string) ([]string, error) {
	values := make([]string, 0, 2)
	before, err := p.state(ctx, e.Before, typ, key)
	if err != nil {
		return nil, err
	}
	values = append(values, text(before, field, otherwise))
	if e.Type == typ && e.StateKey != nil && *e.StateKey == key {
		values = append(values, text(e, field, otherwise))
	}
	return values, nil
}

func text(e *storage.Event, field, otherwise string) string {
	if e == nil {
		return otherwise
	}
	if v := gjson.GetBytes(e.JSON, "content."+field); v.Type == gjson.String {
		return v.Str
	}
	return otherwise
}

// allows applies the four settings.
func (p *page) allows(ctx context.Context, e *storage.Event, setting, membership string) (bool, error) {
	// 1. world_readable: anybody. 2. Joined at the event: the user.
	if setting == "world_readable" || membership == "join" {
		return true, nil
	}
	switch setting {
	case "joined":
		return false, nil
	case "invited": // 4. invited at the event, and joined since
		return membership == "invite" && p.now != nil && p.now.Membership == "join", nil
	default: // 3. shared, or a setting nobody knows: whoever joined after it
		return p.joinedAfter(ctx, e)
	}
}

// joinedAfter tells whether the user was joined at some time after the event.
func (p *page) joinedAfter(ctx context.Context, e *storage.Event) (bool, error) {
	if p.now == nil {
		return false, nil
	}
	switch p.now.Membership {
	case "join":
		return true, nil
	case "leave", "ban":
	default:
		return false, nil
	}
	if p.left == nil {
		left, err := p.r.store.Events.ByNumbers(ctx, []int64{p.now.Event})
		if err != nil || len(left) == 0 {
			return false, err
		}
		p.left = left[0]
	}
	before, err := p.state(ctx, p.left.Before, "m.room.member", string(p.user))
	if err != nil {
		return false, err
	}
	return text(before, "membership", "leave") == "join" && e.Place < p.left.Place, nil
}

// Federation gives the event as other servers get it: pruned where it was redacted.
func (r *Reader) Federation(ctx context.Context, e *storage.Event) (json.RawMessage, error) {
	if e.RedactedBy == "" {
		return e.JSON, nil
	}
	version, err := r.Version(ctx, e.RoomID)
	if err != nil {
		return nil, err
	}
	return pdu.Redact(version, e.JSON)
}

// Client renders events, in their order, as a client gets them.
func (r *Reader) Client(ctx context.Context, viewer Viewer, events []*storage.Event) ([]json.RawMessage, error) {
	rendered := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		raw, err := r.client(ctx, viewer, e)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", e.ID, err)
		}
		rendered = append(rendered, raw)
	}
	return rendered, nil
}

func (r *Reader) client(ctx context.Context, viewer Viewer, e *storage.Event) (json.RawMessage, error) {
	raw, err := r.Federation(ctx, e)
	if err != nil {
		return nil, err
	}
	raw, err = clientFields(e, raw)
	if err != nil {
		return nil, err
	}
	set := func(path string, v any) {
		if err == nil {
			raw, err = sjson.SetBytes(raw, path, v)
		}
	}
	set("unsigned.age", max(0, r.now().UnixMilli()-e.Timestamp))
	if e.TransactionID != "" && e.Sender == viewer.User && e.DeviceID == viewer.Device {
		set("unsigned.transaction_id", e.TransactionID)
	}
	if e.StateKey != nil && e.Place != 0 {
		old, err := r.store.State.Event(ctx, e.Before, pdu.Key{Type: e.Type, StateKey: *e.StateKey})
		if err != nil {
			return nil, err
		}
		if old != nil && old.ID != e.ID {
			set("unsigned.replaces_state", old.ID)
			set("unsigned.prev_content", json.RawMessage(gjson.GetBytes(old.JSON, "content").Raw))
			set("unsigned.prev_sender", old.Sender)
		}
	}
	if e.RedactedBy != "" {
		by, err := r.store.Events.ByID(ctx, e.RedactedBy)
		if err != nil {
			return nil, err
		}
		if by != nil {
			because, err := r.client(ctx, Viewer{}, by)
			if err != nil {
				return nil, err
			}
			set("unsigned.redacted_because", because)
		}
	}
	return raw, err
}

// clientFields keeps the members of an event that clients get, and puts in those that the wire leaves out.
func clientFields(e *storage.Event, raw []byte) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "content", "type", "sender", "state_key", "origin_server_ts", "redacts":
			fields[key.Str] = json.RawMessage(value.Raw)
		}
		return true
	})
	fields["event_id"], _ = json.Marshal(e.ID)
	fields["room_id"], _ = json.Marshal(e.RoomID)
	// Version 11 moved `redacts` into the content, older clients look for it outside, and the other way round.
	if e.Type == "m.room.redaction" && e.RedactedBy == "" {
		if inside := gjson.GetBytes(raw, "content.redacts"); inside.Exists() {
			fields["redacts"] = json.RawMessage(inside.Raw)
		} else if outside, ok := fields["redacts"]; ok {
			content, err := sjson.SetRawBytes(fields["content"], "redacts", outside)
			if err != nil {
				return nil, err
			}
			fields["content"] = content
		}
	}
	return json.Marshal(fields)
}

// Stripped gives the event as it is shown to those who are not in the room: type, state key, content and sender alone.
func Stripped(e *storage.Event) (json.RawMessage, error) {
	return json.Marshal(struct {
		Content  json.RawMessage `json:"content"`
		Sender   id.UserID       `json:"sender"`
		StateKey *string         `json:"state_key"`
		Type     string          `json:"type"`
	}{json.RawMessage(gjson.GetBytes(e.JSON, "content").Raw), e.Sender, e.StateKey, e.Type})
}
