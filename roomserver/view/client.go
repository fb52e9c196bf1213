package view

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

var typeRedaction = event.EventRedaction.Type

// Form is how events are written for a client.
type Form struct {
	// WithoutRoomID leaves room_id out, as sync has it.
	WithoutRoomID bool
	// Bare leaves out the bundled relations.
	Bare bool

	// editsOnly bundles edits alone, as in a thread's latest event.
	editsOnly bool
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

// Client renders events, in their order, as a client gets them, with bundled relations.
// Whether the viewer may see them has been asked before (Visible).
// Spec: client-server-api/#room-event-format
func (r *Reader) Client(ctx context.Context, viewer Viewer, events []*storage.Event) ([]json.RawMessage, error) {
	return r.Render(ctx, viewer, Form{}, events)
}

// Render is Client in another form.
func (r *Reader) Render(ctx context.Context, viewer Viewer, form Form, events []*storage.Event) ([]json.RawMessage, error) {
	p := &page{Reader: r, viewer: viewer, form: form, now: r.now().UnixMilli()}
	if err := p.load(ctx, events); err != nil {
		return nil, fmt.Errorf("render events: %w", err)
	}
	rendered := make([]json.RawMessage, len(events))
	for i, e := range events {
		raw, err := p.event(ctx, make([]byte, 0, len(e.JSON)+256), e)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", e.ID, err)
		}
		rendered[i] = raw
	}
	return rendered, nil
}

// page is some events being rendered, with all that belongs to them.
type page struct {
	*Reader
	viewer Viewer
	form   Form
	now    int64
	// held is what state keys hold at the events, memberships what the viewer's memberships say.
	held        map[storage.Lookup]int64
	memberships map[int64]string
	// before are events that state events replaced, by number.
	before     map[int64]*storage.Event
	redactions map[id.EventID]*storage.Event
	relations  map[id.EventID]relations
}

// load fetches what belongs to the events.
func (p *page) load(ctx context.Context, events []*storage.Event) error {
	var asked []storage.Lookup
	var redacted []id.EventID
	for _, e := range events {
		if replaced, ok := replaces(e); ok {
			asked = append(asked, replaced)
		}
		if own, ok := p.membershipAt(e); ok {
			asked = append(asked, own)
		}
		if e.RedactedBy != "" {
			redacted = append(redacted, e.RedactedBy)
		}
	}
	var err error
	if p.held, err = p.lookups(ctx, asked); err != nil {
		return err
	}
	if err = p.loadState(ctx, events); err != nil {
		return err
	}
	if len(redacted) > 0 {
		list, err := p.store.Events.ByIDs(ctx, redacted)
		if err != nil {
			return err
		}
		p.redactions = make(map[id.EventID]*storage.Event, len(list))
		for _, e := range list {
			p.redactions[e.ID] = e
		}
	}
	if !p.form.Bare && p.viewer.User != "" {
		p.relations, err = p.bundle(ctx, events)
	}
	return err
}

// loadState fetches the events that p.held names.
func (p *page) loadState(ctx context.Context, events []*storage.Event) error {
	var replaced, own []int64
	for _, e := range events {
		if q, ok := replaces(e); ok && p.held[q] != 0 && p.held[q] != e.Number {
			replaced = append(replaced, p.held[q])
		}
		if q, ok := p.membershipAt(e); ok {
			own = append(own, p.held[q])
		}
	}
	var err error
	if p.memberships, err = p.sayings(ctx, own); err != nil || len(replaced) == 0 {
		return err
	}
	list, err := p.store.Events.ByNumbers(ctx, replaced)
	p.before = make(map[int64]*storage.Event, len(list))
	for _, e := range list {
		p.before[e.Number] = e
	}
	return err
}

// replaces asks for the event that a state event replaced.
func replaces(e *storage.Event) (storage.Lookup, bool) {
	if e.StateKey == nil || e.Place == 0 {
		return storage.Lookup{}, false
	}
	return storage.Lookup{At: e.Before, Key: pdu.Key{Type: e.Type, StateKey: *e.StateKey}}, true
}

// membershipAt asks for the viewer's membership at an event that does not say it itself.
func (p *page) membershipAt(e *storage.Event) (storage.Lookup, bool) {
	if p.viewer.User == "" || e.Place == 0 || p.isOwnMembership(e) {
		return storage.Lookup{}, false
	}
	return storage.Lookup{At: e.After, Key: keyMember(p.viewer.User)}, true
}

func (p *page) isOwnMembership(e *storage.Event) bool {
	return e.Type == typeMember && e.StateKey != nil && *e.StateKey == string(p.viewer.User)
}

// event appends one event.
func (p *page) event(ctx context.Context, dst []byte, e *storage.Event) ([]byte, error) {
	raw, err := p.Federation(ctx, e)
	if err != nil {
		return nil, err
	}
	content, redacts, err := redaction(e, raw)
	if err != nil {
		return nil, err
	}
	dst = append(dst, `{"content":`...)
	dst = append(dst, content...)
	dst = appendText(append(dst, `,"event_id":`...), string(e.ID))
	dst = strconv.AppendInt(append(dst, `,"origin_server_ts":`...), e.Timestamp, 10)
	if redacts != "" {
		dst = append(append(dst, `,"redacts":`...), redacts...)
	}
	if !p.form.WithoutRoomID {
		dst = appendText(append(dst, `,"room_id":`...), string(e.RoomID))
	}
	dst = appendText(append(dst, `,"sender":`...), string(e.Sender))
	if e.StateKey != nil {
		dst = appendText(append(dst, `,"state_key":`...), *e.StateKey)
	}
	dst = appendText(append(dst, `,"type":`...), e.Type)
	if sticky := stickiness(raw); sticky != "" {
		dst = append(append(dst, `,"msc4354_sticky":`...), sticky...)
	}
	if dst, err = p.unsigned(ctx, append(dst, `,"unsigned":{`...), e); err != nil {
		return nil, err
	}
	return append(dst, "}}"...), nil
}

// unsigned appends the members of unsigned.
func (p *page) unsigned(ctx context.Context, dst []byte, e *storage.Event) ([]byte, error) {
	dst = strconv.AppendInt(append(dst, `"age":`...), max(0, p.now-e.Timestamp), 10)
	// Spec: MSC4115
	if p.isOwnMembership(e) {
		dst = appendText(append(dst, `,"membership":`...), saying(e))
	} else if q, ok := p.membershipAt(e); ok {
		membership := p.memberships[p.held[q]]
		if membership == "" {
			membership = "leave"
		}
		dst = appendText(append(dst, `,"membership":`...), membership)
	}
	switch {
	case e.TransactionID == "" || e.Sender != p.viewer.User:
	case e.Path == DelayedPath:
		dst = appendText(append(dst, `,"`+DelayID+`":`...), e.TransactionID)
	case e.DeviceID == p.viewer.Device:
		dst = appendText(append(dst, `,"transaction_id":`...), e.TransactionID)
	}
	if e.StickyUntil > p.now && e.RedactedBy == "" {
		dst = strconv.AppendInt(append(dst, `,"`+StickyFor+`":`...), e.StickyUntil-p.now, 10)
	}
	q, _ := replaces(e)
	if old := p.before[p.held[q]]; old != nil && old.ID != e.ID {
		raw, err := p.Federation(ctx, old)
		if err != nil {
			return nil, err
		}
		dst = append(append(dst, `,"prev_content":`...), contentOf(raw)...)
		dst = appendText(append(dst, `,"replaces_state":`...), string(old.ID))
		dst = appendText(append(dst, `,"prev_sender":`...), string(old.Sender))
	}
	if because := p.redactions[e.RedactedBy]; e.RedactedBy != "" && because != nil {
		bare := &page{Reader: p.Reader, form: p.form, now: p.now}
		var err error
		if dst, err = bare.event(ctx, append(dst, `,"redacted_because":`...), because); err != nil {
			return nil, err
		}
	}
	if related := p.relations[e.ID].members(e); len(related) > 0 {
		dst = append(append(append(dst, `,"m.relations":{`...), related...), '}')
	}
	return dst, nil
}

// DelayedPath is the path of events that were sent with a delay: their transaction is the delay ID, which their sender is told as
// DelayID in unsigned. Spec: MSC4140
const (
	DelayedPath = "delayed"
	DelayID     = "org.matrix.msc4140.delay_id"
)

// contentOf is the content of an event, as it stands.
func contentOf(raw []byte) string {
	if content := gjson.GetBytes(raw, "content").Raw; content != "" {
		return content
	}
	return "{}"
}

// redaction is the content of an event and, for a redaction, its redacts at top
// level. Version 11 moved it from there into the content; clients of either kind
// shall find it, so it stands in both.
// Spec: client-server-api/#mroomredaction
func redaction(e *storage.Event, raw []byte) (content, redacts string, err error) {
	content = contentOf(raw)
	if e.Type != typeRedaction {
		return content, "", nil
	}
	inside, outside := gjson.Get(content, "redacts"), gjson.GetBytes(raw, "redacts")
	switch {
	case inside.Exists():
		return content, inside.Raw, nil
	case outside.Exists():
		content, err = sjson.SetRaw(content, "redacts", outside.Raw)
		return content, outside.Raw, err
	}
	return content, "", nil
}

// StickyFor is the member of unsigned that says for how many milliseconds the event still is sticky. Spec: MSC4354
const StickyFor = "msc4354_sticky_duration_ttl_ms"

// stickiness is an event's msc4354_sticky, which clients need to see. Spec: MSC4354
func stickiness(raw []byte) string {
	if !bytes.Contains(raw, []byte(`"msc4354_sticky":`)) {
		return ""
	}
	return gjson.GetBytes(raw, "msc4354_sticky").Raw
}

// appendText appends a JSON string.
func appendText(dst []byte, s string) []byte {
	plain := utf8.ValidString(s)
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= 0x20 && s[i] != '"' && s[i] != '\\'
	}
	if plain {
		return append(append(append(dst, '"'), s...), '"')
	}
	quoted, err := json.Marshal(s)
	if err != nil { // a string can always be written
		return append(dst, `""`...)
	}
	return append(dst, quoted...)
}
