package pdu

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"crypto/ed25519"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"
)

// event is our PDU of every room version. The library's own types lose the create event
// after signing in version 12 and panic on some room IDs; this one is parsed once and
// answers from its fields.
type event struct {
	fields
	memo atomic.Pointer[any]
}

type fields struct {
	*format
	raw      []byte // canonical
	id       string
	kind     string
	sender   string
	room     string
	stateKey *string
	content  []byte
	unsigned []byte
	redacts  string
	prev     []string
	auth     []string
	depth    int64
	ts       int64
	redacted bool
}

var _ gomatrixserverlib.PDU = (*event)(nil)

// RoomIDOf is the room of an event. For the create event of a version 12 room, which
// carries none, it is made from the event's ID.
func RoomIDOf(ev gomatrixserverlib.PDU) id.RoomID {
	if e, ok := ev.(*event); ok {
		return id.RoomID(e.room)
	}
	room := ev.RoomID()
	return id.RoomID(room.String())
}

// Memo gives what compute makes of ev, and remembers it for as long as ev lives, so that
// content is parsed once. There is one memory per event: whoever asks must always ask for the same T.
// Two who ask at the same time may both compute.
func Memo[T any](ev gomatrixserverlib.PDU, compute func() T) T {
	e, ok := ev.(*event)
	if !ok {
		return compute()
	}
	if known := e.memo.Load(); known != nil {
		if value, ok := (*known).(T); ok {
			return value
		}
	}
	value := compute()
	var boxed any = value
	e.memo.Store(&boxed)
	return value
}

// Sender is the user who sent ev.
func Sender(ev gomatrixserverlib.PDU) id.UserID { return id.UserID(ev.SenderID()) }

// AuthEvents lists the auth events that ev names itself. ev.AuthEventIDs() differs in
// version 12: there the create event, implied by the room ID, comes first.
func AuthEvents(ev gomatrixserverlib.PDU) []id.EventID {
	if e, ok := ev.(*event); ok {
		return eventIDs(e.auth)
	}
	return AuthEventsOf(ev.JSON())
}

// AuthEventsOf is AuthEvents for an event that nobody has parsed.
func AuthEventsOf(raw []byte) []id.EventID {
	var ids []id.EventID
	for _, item := range gjson.GetBytes(raw, "auth_events").Array() {
		if item.IsArray() {
			item = item.Get("0")
		}
		ids = append(ids, id.EventID(item.Str))
	}
	return ids
}

func eventIDs(ids []string) []id.EventID {
	out := make([]id.EventID, len(ids))
	for i, s := range ids {
		out[i] = id.EventID(s)
	}
	return out
}

func (e *event) EventID() string              { return e.id }
func (e *event) Type() string                 { return e.kind }
func (e *event) StateKey() *string            { return e.stateKey }
func (e *event) StateKeyEquals(s string) bool { return e.stateKey != nil && *e.stateKey == s }
func (e *event) Content() []byte              { return e.content }
func (e *event) Unsigned() []byte             { return e.unsigned }
func (e *event) Redacts() string              { return e.redacts }
func (e *event) Redacted() bool               { return e.redacted }
func (e *event) PrevEventIDs() []string       { return e.prev }
func (e *event) PrevStateEventIDs() []string  { return nil }
func (e *event) Depth() int64                 { return e.depth }
func (e *event) JSON() []byte                 { return e.raw }
func (e *event) SenderID() spec.SenderID      { return spec.SenderID(e.sender) }

func (e *event) MarshalJSON() ([]byte, error) { return e.raw, nil }

func (e *event) OriginServerTS() spec.Timestamp { return spec.Timestamp(e.ts) }

func (e *event) Version() gomatrixserverlib.RoomVersion {
	return gomatrixserverlib.RoomVersion(e.version)
}

// RoomID is the zero RoomID, and no panic, should a stored room ID be malformed.
func (e *event) RoomID() spec.RoomID {
	room, err := spec.NewRoomID(e.room)
	if err != nil {
		return spec.RoomID{}
	}
	return *room
}

// AuthEventIDs includes the create event, first, in version 12, as the library has it.
func (e *event) AuthEventIDs() []string {
	if !e.hashedRoomID || e.isCreate() || e.room == "" {
		return e.auth
	}
	return append([]string{"$" + e.room[1:]}, e.auth...)
}

func (e *event) isCreate() bool { return e.kind == "m.room.create" && e.StateKeyEquals("") }

// contentText is a string of the content; empty when it is absent or something else.
func (e *event) contentText(key string) string {
	all, err := members(make([]member, 0, 16), e.content)
	if err != nil {
		return ""
	}
	s, _ := text(field(all, key))
	return s
}

var errNotState = errors.New("pdu: not that kind of state event")

func (e *event) Membership() (string, error) {
	if e.stateKey == nil {
		return "", errNotState
	}
	return e.contentText("membership"), nil
}

func (e *event) JoinRule() (string, error) {
	if !e.StateKeyEquals("") {
		return "", errNotState
	}
	return e.contentText("join_rule"), nil
}

func (e *event) HistoryVisibility() (gomatrixserverlib.HistoryVisibility, error) {
	if !e.StateKeyEquals("") {
		return "", errNotState
	}
	return gomatrixserverlib.HistoryVisibility(e.contentText("history_visibility")), nil
}

func (e *event) PowerLevels() (*gomatrixserverlib.PowerLevelContent, error) {
	if !e.StateKeyEquals("") {
		return nil, errNotState
	}
	levels, err := gomatrixserverlib.NewPowerLevelContentFromEvent(e)
	if err != nil {
		return nil, err
	}
	return &levels, nil
}

// Redact makes the event its redacted form.
func (e *event) Redact() {
	if e.redacted {
		return
	}
	raw, err := Redact(e.version, e.raw)
	if err != nil {
		return // an event was parsed before it got here, and what parses can be redacted
	}
	if pruned, err := trusted(e.format, e.id, raw); err == nil {
		pruned.redacted = true
		e.fields = pruned.fields
		e.memo.Store(nil)
	}
}

func (e *event) SetUnsigned(unsigned any) (gomatrixserverlib.PDU, error) {
	value, err := json.Marshal(unsigned)
	if err != nil {
		return nil, err
	}
	changed := &event{fields: e.fields}
	if err := changed.setUnsigned(value); err != nil {
		return nil, err
	}
	return changed, nil
}

func (e *event) SetUnsignedField(path string, value any) error {
	unsigned := e.unsigned
	if len(unsigned) == 0 {
		unsigned = []byte("{}")
	}
	// sjson may write in place; the event's bytes are shared.
	unsigned, err := sjson.SetBytes(slices.Clone(unsigned), path, value)
	if err != nil {
		return err
	}
	return e.setUnsigned(unsigned)
}

func (e *event) setUnsigned(value []byte) error {
	value, err := canonical(nil, value, false)
	if err != nil {
		return err
	}
	all, err := members(make([]member, 0, 20), e.raw)
	if err != nil {
		return err
	}
	all = with(all, "unsigned", value)
	e.raw = appendObject(make([]byte, 0, len(e.raw)+len(value)+12), all)
	if all, err = members(all[:0], e.raw); err != nil {
		return err
	}
	e.content, e.unsigned = field(all, "content"), field(all, "unsigned")
	return nil
}

// Sign gives a copy of the event with one more signature.
func (e *event) Sign(name string, key gomatrixserverlib.KeyID, private ed25519.PrivateKey) gomatrixserverlib.PDU {
	raw, err := Sign(e.version, e.raw, Signer{ServerName: name, KeyID: string(key), Key: private})
	if err != nil {
		return e
	}
	signed, err := trusted(e.format, e.id, raw)
	if err != nil {
		return e
	}
	signed.redacted = e.redacted
	return signed
}

func (e *event) ToHeaderedJSON() ([]byte, error) {
	raw, err := sjson.SetBytes(slices.Clone(e.raw), "_room_version", e.version)
	if err != nil {
		return nil, err
	}
	return sjson.SetBytes(raw, "_event_id", e.id)
}

func (e *event) IsSticky(now, received time.Time) bool {
	return e.StickyEndTime(received).After(now)
}

// StickyEndTime: at most an hour after the event was made, or received if that was earlier.
// Spec: MSC4354
func (e *event) StickyEndTime(received time.Time) time.Time {
	if !strings.Contains(string(e.raw), `sticky":{`) {
		return time.Time{}
	}
	ms := gjson.GetBytes(e.raw, "sticky.duration_ms").Int()
	if ms <= 0 {
		ms = gjson.GetBytes(e.raw, "msc4354_sticky.duration_ms").Int()
	}
	if ms <= 0 {
		return time.Time{}
	}
	start := time.UnixMilli(e.ts)
	if received.Before(start) {
		start = received
	}
	return start.Add(time.Duration(min(ms, 3600000)) * time.Millisecond)
}
