package pdu

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"
)

// MaxSticky is the longest time, in milliseconds, for which an event may be sticky.
// Spec: MSC4354
const MaxSticky = 3_600_000

// Draft is an event before it has hashes and a signature.
type Draft struct {
	Type string
	// StateKey is nil for what is no state.
	StateKey *string
	Sender   id.UserID
	// RoomID is empty for the create event of a version 12 room.
	RoomID id.RoomID
	// Content is a JSON object; Build makes it canonical.
	Content json.RawMessage
	// Redacts is put where the room version wants it.
	Redacts    id.EventID
	PrevEvents []id.EventID
	AuthEvents []id.EventID
	// Hashes are the reference hashes of the events above. Only versions 1 and 2 write them.
	Hashes map[id.EventID][]byte
	// Depth is one more than the deepest of PrevEvents; Build keeps it below the limit.
	Depth     int64
	Timestamp time.Time
	// Unsigned is a JSON object, or empty.
	Unsigned json.RawMessage
	// Sticky is for how many milliseconds the event is to be sticky; 0: not at all.
	// Spec: MSC4354
	Sticky int64
}

// Build makes an event of a draft: canonical, hashed, signed. The error is ErrTooLarge,
// ErrBadJSON, ErrMalformed or ErrUnknownVersion.
// Spec: server-server-api/#adding-hashes-and-signatures-to-outgoing-events
func Build(version id.RoomVersion, draft Draft, signer Signer) (gomatrixserverlib.PDU, error) {
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	all, err := f.draftMembers(&draft)
	if err != nil {
		return nil, err
	}
	if f.references {
		all = with(all, "event_id", appendText(nil, "$"+rand.Text()+":"+signer.ServerName))
	}
	return f.finish(all, signer)
}

// Template is the draft as the answer to make_join and its kin shows it: no hashes, no signature, no event ID.
func Template(version id.RoomVersion, draft Draft) ([]byte, error) {
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	all, err := f.draftMembers(&draft)
	if err != nil {
		return nil, err
	}
	return appendObject(nil, all), nil
}

// draftMembers writes the fields of a draft, in order of their keys.
func (f *format) draftMembers(d *Draft) ([]member, error) {
	content, err := f.draftContent(d)
	if err != nil {
		return nil, err
	}
	all := make([]member, 0, 16)
	add := func(key string, value []byte) { all = append(all, member{[]byte(key), value}) }
	add("auth_events", f.appendReferences(d.AuthEvents, d.Hashes))
	add("content", content)
	add("depth", strconv.AppendInt(nil, min(max(d.Depth, 0), MaxDepth), 10))
	if d.Sticky > 0 {
		add("msc4354_sticky", append(strconv.AppendInt([]byte(`{"duration_ms":`), min(d.Sticky, MaxSticky), 10), '}'))
	}
	add("origin_server_ts", strconv.AppendInt(nil, d.Timestamp.UnixMilli(), 10))
	add("prev_events", f.appendReferences(d.PrevEvents, d.Hashes))
	if d.Redacts != "" && !f.redactsInContent {
		add("redacts", appendText(nil, string(d.Redacts)))
	}
	if d.RoomID != "" {
		add("room_id", appendText(nil, string(d.RoomID)))
	}
	add("sender", appendText(nil, string(d.Sender)))
	if d.StateKey != nil {
		add("state_key", appendText(nil, *d.StateKey))
	}
	add("type", appendText(nil, d.Type))
	if len(d.Unsigned) > 0 {
		unsigned, err := canonical(nil, d.Unsigned, f.strictNumbers)
		if err != nil {
			return nil, fmt.Errorf("unsigned: %w", err)
		}
		add("unsigned", unsigned)
	}
	return all, nil
}

func (f *format) draftContent(d *Draft) ([]byte, error) {
	content, err := canonical(make([]byte, 0, len(d.Content)), d.Content, f.strictNumbers)
	if err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	if content[0] != '{' {
		return nil, fmt.Errorf("%w: content is no object", ErrMalformed)
	}
	if d.Redacts == "" || !f.redactsInContent {
		return content, nil
	}
	all, err := members(make([]member, 0, 8), content)
	if err != nil {
		return nil, err
	}
	return appendObject(nil, with(all, "redacts", appendText(nil, string(d.Redacts)))), nil
}

func (f *format) appendReferences(ids []id.EventID, hashes map[id.EventID][]byte) []byte {
	out := make([]byte, 0, 2+len(ids)*48)
	out = append(out, '[')
	for i, s := range ids {
		if i > 0 {
			out = append(out, ',')
		}
		if !f.references {
			out = appendText(out, string(s))
			continue
		}
		out = append(out, '[')
		out = appendText(out, string(s))
		out = append(out, `,{"sha256":"`...)
		out = base64.RawStdEncoding.AppendEncode(out, hashes[s])
		out = append(out, `"}]`...)
	}
	return append(out, ']')
}

// finish hashes, signs and checks the event of these members.
func (f *format) finish(all []member, signer Signer) (gomatrixserverlib.PDU, error) {
	hash := contentHash(all)
	hashes := append([]byte(nil), `{"sha256":"`...)
	hashes = base64.RawStdEncoding.AppendEncode(hashes, hash[:])
	all = with(all, "hashes", append(hashes, `"}`...))
	kept, err := f.redact(all)
	if err != nil {
		return nil, err
	}
	message := appendObject(make([]byte, 0, 1024), kept, "signatures", "unsigned")
	signatures, err := addSignature(nil, signer, message)
	if err != nil {
		return nil, err
	}
	all = with(all, "signatures", signatures)
	raw := appendObject(make([]byte, 0, len(message)+len(signatures)+len(field(all, "content"))+64), all)
	if all, err = members(all[:0], raw); err != nil {
		return nil, err
	}
	e, err := f.read(raw, all)
	if err != nil {
		return nil, err
	}
	if err := e.check(all); err != nil {
		return nil, err
	}
	if err := e.checkOwn(); err != nil {
		return nil, err
	}
	return e, e.identify(all)
}

// checkOwn holds our own events to the strictest reading of the limits: bytes, in every version.
func (e *event) checkOwn() error {
	for _, s := range []string{e.kind, e.sender, e.room} {
		if len(s) > MaxIDLength {
			return fmt.Errorf("%w: an identifier of %d bytes", ErrTooLarge, len(s))
		}
	}
	if e.stateKey != nil && len(*e.stateKey) > MaxIDLength {
		return fmt.Errorf("%w: a state key of %d bytes", ErrTooLarge, len(*e.stateKey))
	}
	return nil
}
