package syncing

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// maxFilter bounds a filter's JSON in bytes, and maxFilterItems each of its lists.
const (
	maxFilter      = 32 << 10
	maxFilterItems = 500
)

// The limits of timelines: what a filter gets that names none, and the most that any gets.
const (
	defaultTimeline = 20
	maxTimeline     = 200
)

// Filter says what of a sync a client wishes to see. Its zero value lets everything through.
// Spec: client-server-api/#filtering
type Filter struct {
	AccountData Part       `json:"account_data"`
	Presence    Part       `json:"presence"`
	EventFields []string   `json:"event_fields"`
	EventFormat string     `json:"event_format"`
	Room        RoomFilter `json:"room"`

	// text is what the filter was made from: a name for what a connection was sent.
	text string
}

// RoomFilter is the part of a filter that speaks of rooms.
type RoomFilter struct {
	Rooms        *[]id.RoomID `json:"rooms"`
	NotRooms     []id.RoomID  `json:"not_rooms"`
	IncludeLeave bool         `json:"include_leave"`
	AccountData  Part         `json:"account_data"`
	Ephemeral    Part         `json:"ephemeral"`
	State        Part         `json:"state"`
	Timeline     Part         `json:"timeline"`
}

// Part chooses events of one section. A list that is absent lets all through, one that is empty nothing.
type Part struct {
	Limit       *int         `json:"limit"`
	Types       *[]string    `json:"types"`
	NotTypes    []string     `json:"not_types"`
	Senders     *[]id.UserID `json:"senders"`
	NotSenders  []id.UserID  `json:"not_senders"`
	Rooms       *[]id.RoomID `json:"rooms"`
	NotRooms    []id.RoomID  `json:"not_rooms"`
	ContainsURL *bool        `json:"contains_url"`

	// RelTypes: the event relates to another in one of these ways; a list that holds "" lets through what relates to nothing.
	// Spec: MSC3874
	RelTypes    *[]string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string  `json:"org.matrix.msc3874.not_rel_types"`
	// RelatedByRelTypes and RelatedBySenders: another event relates to this one in one of these ways, sent by one of these.
	// Spec: MSC3440
	RelatedByRelTypes *[]string    `json:"related_by_rel_types"`
	RelatedBySenders  *[]id.UserID `json:"related_by_senders"`

	LazyLoadMembers           bool `json:"lazy_load_members"`
	IncludeRedundantMembers   bool `json:"include_redundant_members"`
	UnreadThreadNotifications bool `json:"unread_thread_notifications"`
}

// ParseFilter reads a filter and checks it.
func ParseFilter(raw []byte) (*Filter, error) {
	if len(raw) > maxFilter {
		return nil, mautrix.MTooLarge.WithMessage("The filter is too large")
	}
	if err := rest.CheckJSON(raw); err != nil {
		return nil, err
	}
	if !gjson.ParseBytes(raw).IsObject() {
		return nil, mautrix.MBadJSON.WithMessage("The filter is not an object")
	}
	f := &Filter{text: string(raw)}
	if err := json.Unmarshal(raw, f); err != nil {
		return nil, mautrix.MBadJSON.WithMessage("The filter does not have the shape it should have")
	}
	return f, f.check()
}

func (f *Filter) check() error {
	switch f.EventFormat {
	case "", "client", "federation":
	default:
		return mautrix.MBadJSON.WithMessage("event_format is neither client nor federation")
	}
	if len(f.EventFields) > maxFilterItems || !validRooms(f.Room.Rooms, f.Room.NotRooms) {
		return mautrix.MBadJSON.WithMessage("A list of the filter is too long, or holds what is no room ID")
	}
	for _, p := range []*Part{&f.AccountData, &f.Presence, &f.Room.AccountData, &f.Room.Ephemeral, &f.Room.State, &f.Room.Timeline} {
		if err := p.check(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Part) check() error {
	if p.Limit != nil && *p.Limit < 0 {
		return mautrix.MBadJSON.WithMessage("limit is below zero")
	}
	if !validRooms(p.Rooms, p.NotRooms) {
		return mautrix.MBadJSON.WithMessage("A list of rooms is too long, or holds what is no room ID")
	}
	senders := p.NotSenders
	if p.Senders != nil {
		senders = slices.Concat(senders, *p.Senders)
	}
	if p.RelatedBySenders != nil {
		senders = slices.Concat(senders, *p.RelatedBySenders)
	}
	if len(senders) > 2*maxFilterItems {
		return mautrix.MBadJSON.WithMessage("A list of senders is too long")
	}
	for _, s := range senders {
		if !strings.HasPrefix(string(s), "@") {
			return mautrix.MBadJSON.WithMessage("A list of senders holds what is no user ID")
		}
	}
	types := len(p.NotTypes) + len(p.NotRelTypes)
	for _, list := range []*[]string{p.Types, p.RelTypes, p.RelatedByRelTypes} {
		if list != nil {
			types += len(*list)
		}
	}
	if types > maxFilterItems {
		return mautrix.MBadJSON.WithMessage("The lists of types are too long")
	}
	return nil
}

// related tells whether the part asks what relates to events.
func (p *Part) related() bool { return p.RelatedByRelTypes != nil || p.RelatedBySenders != nil }

func validRooms(some *[]id.RoomID, not []id.RoomID) bool {
	rooms := not
	if some != nil {
		rooms = slices.Concat(rooms, *some)
	}
	for _, r := range rooms {
		if !strings.HasPrefix(string(r), "!") {
			return false
		}
	}
	return len(rooms) <= 2*maxFilterItems
}

// room tells whether the filter lets anything of the room through.
func (f *Filter) room(room id.RoomID) bool { return allowsRoom(f.Room.Rooms, f.Room.NotRooms, room) }

func (p *Part) room(room id.RoomID) bool { return allowsRoom(p.Rooms, p.NotRooms, room) }

func allowsRoom(some *[]id.RoomID, not []id.RoomID, room id.RoomID) bool {
	return !slices.Contains(not, room) && (some == nil || slices.Contains(*some, room))
}

// kind tells whether the part lets events of this type from this sender through; sender may be empty where there is none.
func (p *Part) kind(typ string, sender id.UserID) bool {
	if matches(p.NotTypes, typ) || (p.Types != nil && !matches(*p.Types, typ)) {
		return false
	}
	if sender == "" {
		return true
	}
	return !slices.Contains(p.NotSenders, sender) && (p.Senders == nil || slices.Contains(*p.Senders, sender))
}

// event tells whether the part lets the room's event through.
func (p *Part) event(e *storage.Event) bool {
	if !p.kind(e.Type, e.Sender) || !p.room(e.RoomID) {
		return false
	}
	if e.RelType != "" && slices.Contains(p.NotRelTypes, e.RelType) || p.RelTypes != nil && !slices.Contains(*p.RelTypes, e.RelType) {
		return false
	}
	return p.ContainsURL == nil || *p.ContainsURL == (gjson.GetBytes(e.JSON, "content.url").Type == gjson.String)
}

// limit of a timeline.
func (p *Part) limit() int {
	if p.Limit == nil {
		return defaultTimeline
	}
	return min(*p.Limit, maxTimeline)
}

// matches tells whether one of the patterns fits the whole text; * stands for anything.
func matches(patterns []string, text string) bool {
	for _, p := range patterns {
		if p == text || strings.Contains(p, "*") && glob(p, text) {
			return true
		}
	}
	return false
}

// glob matches a pattern whose * stands for anything, in linear time: each piece is taken where it first fits.
func glob(pattern, text string) bool {
	pieces := strings.Split(pattern, "*")
	last := len(pieces) - 1
	if !strings.HasPrefix(text, pieces[0]) {
		return false
	}
	text = text[len(pieces[0]):]
	for _, piece := range pieces[1:last] {
		i := strings.Index(text, piece)
		if i < 0 {
			return false
		}
		text = text[i+len(piece):]
	}
	return strings.HasSuffix(text, pieces[last])
}

// fields keeps of an event what event_fields names, and what no event is without.
func (f *Filter) fields(event []byte) []byte {
	if len(f.EventFields) == 0 {
		return event
	}
	kept := map[string]any{}
	for _, path := range f.EventFields {
		keep(kept, gjson.ParseBytes(event), splitPath(path))
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return event
	}
	return raw
}

func keep(into map[string]any, from gjson.Result, path []string) {
	if !from.IsObject() {
		return
	}
	// An unescaped name: gjson's own paths would read dots and stars in it.
	value, ok := from.Map()[path[0]]
	if !ok {
		return
	}
	if len(path) == 1 {
		into[path[0]] = json.RawMessage(value.Raw)
		return
	}
	inner, ok := into[path[0]].(map[string]any)
	if !ok {
		if into[path[0]] != nil {
			return // the whole is kept already
		}
		inner = map[string]any{}
	}
	keep(inner, value, path[1:])
	if len(inner) > 0 {
		into[path[0]] = inner
	}
}

// splitPath splits a dot-separated path; a backslash takes the dot behind it literally.
// Spec: appendices/#dot-separated-property-paths
func splitPath(path string) []string {
	parts := []string{""}
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			parts[len(parts)-1] += string(path[i])
		case path[i] == '.':
			parts = append(parts, "")
		default:
			parts[len(parts)-1] += string(path[i])
		}
	}
	return parts
}
