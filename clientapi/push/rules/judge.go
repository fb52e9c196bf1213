package rules

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// Verdict is what a user's rules say of an event.
type Verdict struct {
	// Notify: it counts as unread, and goes to the user's pushers.
	Notify bool
	// Highlight: it is shown as meant for the user.
	Highlight bool
	// Tweaks go to push gateways as they are.
	Tweaks map[string]json.RawMessage
	// Rule that matched, empty if none did.
	Rule string

	actions []json.RawMessage
}

// Actions gives the rule's actions as its owner wrote them. Read only.
func (v Verdict) Actions() []json.RawMessage { return v.actions }

// Event is an event to be judged, with what the rules may ask about its room. It is for one goroutine at a time.
type Event struct {
	Type     string
	Sender   id.UserID
	RoomID   id.RoomID
	EventID  id.EventID
	StateKey *string
	// JSON holds at least the content.
	JSON []byte
	// Members is the number of joined members. SenderMayNotify: the sender's power is enough to notify the whole room.
	// Both are asked at most once, and only if a rule wants to know.
	Members         func() int
	SenderMayNotify func() bool

	read      bool
	thread    id.EventID // the root of the thread that it is in
	content   gjson.Result
	body      string // lower case
	hasBody   bool
	mentions  bool // the event says itself whom it means
	mentioned map[id.UserID]bool
	members   *int
	mayNotify *bool
}

// Person is what personal rules ask about the owner of a set.
type Person struct {
	ID id.UserID
	// DisplayName in the room, may be empty.
	DisplayName string
	// Subscribed tells whether the owner follows a thread of the room. It is nil for who never said anything of threads: their
	// clients know nothing of subscriptions, and the rules about them are not for them.
	Subscribed func(root id.EventID) bool
}

// Read reads the JSON, so that copies made by [Event.Anew] need not.
func (e *Event) Read() { e.prepare() }

// Anew gives a copy that shares what was read of the JSON and asks its room anew. Of an event that was read, several goroutines may
// take copies.
func (e *Event) Anew(members func() int, mayNotify func() bool) *Event {
	c := *e
	c.Members, c.SenderMayNotify, c.members, c.mayNotify = members, mayNotify, nil, nil
	return &c
}

func (e *Event) prepare() {
	if e.read {
		return
	}
	e.read = true
	e.content = gjson.GetBytes(e.JSON, "content")
	if body := e.content.Get("body"); body.Type == gjson.String {
		e.body, e.hasBody = strings.ToLower(body.Str), true
	}
	if relates := e.content.Get(`m\.relates_to`); relates.Get("rel_type").Str == "m.thread" {
		e.thread = id.EventID(relates.Get("event_id").Str)
	}
	if m := e.content.Get(`m\.mentions`); m.Exists() {
		e.mentions = true
		e.mentioned = map[id.UserID]bool{}
		m.Get("user_ids").ForEach(func(_, v gjson.Result) bool {
			e.mentioned[id.UserID(v.Str)] = true
			return len(e.mentioned) < 1000
		})
	}
}

// Concerns tells whether the event may be judged for this person otherwise than for others with the same class of rules.
func (e *Event) Concerns(p Person) bool {
	e.prepare()
	if e.thread != "" && p.Subscribed != nil || e.mentioned[p.ID] || (e.StateKey != nil && *e.StateKey == string(p.ID)) {
		return true
	}
	if !e.hasBody || e.mentions {
		return false
	}
	return strings.Contains(e.body, strings.ToLower(p.ID.Localpart())) ||
		(p.DisplayName != "" && strings.Contains(e.body, strings.ToLower(p.DisplayName)))
}

// Class names how the set judges events that do not concern its owner.
func (s *Set) Class() string { return s.class }

// compile prepares the rules for judging, and names the set's class.
func (s *Set) compile() {
	sum := sha256.New()
	for _, kind := range Kinds {
		for _, r := range s.rules[kind] {
			r.compile(kind)
			if r.Default {
				fmt.Fprintf(sum, "%s %s %t %s\n", kind, r.ID, r.Enabled, r.Actions)
			} else if r.Enabled {
				conditions, _ := json.Marshal(r.Conditions)
				pattern := ""
				if r.Pattern != nil {
					pattern = *r.Pattern
				}
				fmt.Fprintf(sum, "%s %q %s %q %s\n", kind, r.ID, conditions, pattern, r.Actions)
				for _, c := range r.Conditions {
					if c.Kind == "contains_display_name" {
						// Such a rule may take any text for the owner's; let nobody share it.
						fmt.Fprintf(sum, "%s\n", s.User)
					}
				}
			}
		}
	}
	s.class = base64.RawStdEncoding.EncodeToString(sum.Sum(nil)[:12])
}

// compile prepares the rule, once.
func (r *Rule) compile(kind Kind) {
	if r.compiled {
		return
	}
	r.kind, r.compiled = kind, true
	r.verdict = verdictOf(r)
	if kind == Content && r.Pattern != nil {
		r.content = compile(*r.Pattern, true)
	}
	for i := range r.Conditions {
		r.Conditions[i].compile()
	}
}

// changed gives a rule like this one that may be changed.
func (r *Rule) changed(change func(*Rule)) *Rule {
	other := *r
	other.Conditions, other.compiled = slices.Clone(r.Conditions), false
	change(&other)
	return &other
}

func verdictOf(r *Rule) Verdict {
	v := Verdict{Rule: r.ID, Tweaks: map[string]json.RawMessage{}, actions: r.Actions}
	for _, raw := range r.Actions {
		a := gjson.ParseBytes(raw)
		if a.Type == gjson.String {
			v.Notify = v.Notify || a.Str == "notify" // dont_notify and coalesce are of the past
			continue
		}
		name := a.Get("set_tweak").Str
		value := a.Get("value")
		if name == "highlight" && !value.Exists() {
			v.Highlight = true
			v.Tweaks[name] = json.RawMessage("true")
			continue
		}
		if name == "highlight" {
			v.Highlight = value.Bool()
		}
		if name != "" && value.Exists() {
			v.Tweaks[name] = json.RawMessage(value.Raw)
		}
	}
	return v
}

func (c *Condition) compile() {
	if c.path == nil {
		c.path = splitPath(c.Key)
	}
	if c.Kind == "event_match" && c.Pattern != nil {
		c.glob = compile(*c.Pattern, c.Key == "content.body")
	}
}

// Judge says what the set makes of the event. A user's own events never notify them: that is the caller's to know.
func (s *Set) Judge(e *Event, p Person) Verdict {
	e.prepare()
	byKind := s.rules
	if byKind == nil {
		byKind = Default(s.User).rules
	}
	for _, kind := range Kinds {
		for _, r := range byKind[kind] {
			if r.Enabled && r.matches(e, p) {
				return r.verdict
			}
		}
	}
	return Verdict{}
}

func (r *Rule) matches(e *Event, p Person) bool {
	switch r.ID {
	case ".m.rule.contains_display_name", ".m.rule.contains_user_name", ".m.rule.roomnotif":
		if e.mentions {
			return false
		}
	}
	switch r.kind {
	case Content:
		return r.content != nil && e.hasBody && r.content.matches(e.body)
	case Room:
		return r.ID == string(e.RoomID)
	case Sender:
		return r.ID == string(e.Sender)
	}
	for i := range r.Conditions {
		if !r.Conditions[i].holds(e, p) {
			return false
		}
	}
	return true
}

// threadSubscription is the kind of the conditions about threads. Spec: MSC4306
const threadSubscription = "io.element.msc4306.thread_subscription"

// Spec: client-server-api/#conditions-1
func (c *Condition) holds(e *Event, p Person) bool {
	switch c.Kind {
	case "event_match":
		return c.matchesText(e)
	case "event_property_is":
		v, ok := e.property(c.path)
		return ok && same(v, c.Value)
	case "event_property_contains":
		v, ok := e.property(c.path)
		if !ok || !v.IsArray() {
			return false
		}
		found := false
		v.ForEach(func(_, item gjson.Result) bool {
			found = same(item, c.Value)
			return !found
		})
		return found
	case "contains_display_name":
		return p.DisplayName != "" && e.hasBody && word(e.body, strings.ToLower(p.DisplayName))
	case "room_member_count":
		return c.countHolds(e)
	case "sender_notification_permission":
		if c.Key != "room" || e.SenderMayNotify == nil {
			return false
		}
		if e.mayNotify == nil {
			may := e.SenderMayNotify()
			e.mayNotify = &may
		}
		return *e.mayNotify
	case "thread_subscription", threadSubscription:
		// Who never subscribed to a thread nor left one keeps the notifications of clients that know nothing of it:
		// there the proposal would have them hear of no thread at all.
		return e.thread != "" && c.Subscribed != nil && p.Subscribed != nil && p.Subscribed(e.thread) == *c.Subscribed
	case "call_started", "org.matrix.msc3914.call_started":
		// MSC3914: the call has an intent and has not been ended.
		return e.content.Get(`m\.intent`).Exists() && !e.content.Get(`m\.terminated`).Exists()
	}
	return false // an unknown condition never holds
}

func (c *Condition) matchesText(e *Event) bool {
	if c.glob == nil {
		return false
	}
	if c.Key == "content.body" {
		return e.hasBody && c.glob.matches(e.body)
	}
	v, ok := e.property(c.path)
	return ok && v.Type == gjson.String && c.glob.matches(strings.ToLower(v.Str))
}

func (c *Condition) countHolds(e *Event) bool {
	if e.Members == nil {
		return false
	}
	number := strings.TrimLeft(c.Is, "=<>")
	operator := c.Is[:len(c.Is)-len(number)]
	n, err := strconv.Atoi(number)
	if err != nil {
		return false
	}
	if e.members == nil {
		members := e.Members()
		e.members = &members
	}
	switch operator {
	case "", "==":
		return *e.members == n
	case "<":
		return *e.members < n
	case ">":
		return *e.members > n
	case "<=":
		return *e.members <= n
	case ">=":
		return *e.members >= n
	}
	return false
}

// property finds what a dot-separated path names.
func (e *Event) property(path []string) (gjson.Result, bool) {
	text := func(s string) (gjson.Result, bool) {
		return gjson.Result{Type: gjson.String, Str: s}, len(path) == 1
	}
	switch path[0] {
	case "type":
		return text(e.Type)
	case "sender":
		return text(string(e.Sender))
	case "room_id":
		return text(string(e.RoomID))
	case "event_id":
		return text(string(e.EventID))
	case "state_key":
		if e.StateKey == nil {
			return gjson.Result{}, false
		}
		return text(*e.StateKey)
	case "content":
		v := e.content
		for _, name := range path[1:] {
			if v = child(v, name); !v.Exists() {
				return v, false
			}
		}
		return v, true
	}
	v := child(gjson.ParseBytes(e.JSON), path[0])
	for _, name := range path[1:] {
		v = child(v, name)
	}
	return v, v.Exists()
}

// child finds a member by its literal name.
func child(object gjson.Result, name string) (found gjson.Result) {
	if !object.IsObject() {
		return found
	}
	object.ForEach(func(key, value gjson.Result) bool {
		if key.Str == name {
			found = value
			return false
		}
		return true
	})
	return found
}

// same compares scalars exactly; compounds never are the same.
func same(v gjson.Result, want json.RawMessage) bool {
	w := gjson.ParseBytes(want)
	switch v.Type {
	case gjson.String:
		return w.Type == gjson.String && v.Str == w.Str
	case gjson.Number:
		return w.Type == gjson.Number && v.Num == w.Num
	case gjson.True, gjson.False:
		return v.Type == w.Type
	case gjson.Null:
		return v.Exists() && w.Type == gjson.Null && w.Exists()
	}
	return false
}

// splitPath splits a dot-separated path; a backslash takes the dot or backslash behind it literally.
// Spec: appendices/#dot-separated-property-paths
func splitPath(path string) []string {
	parts := []string{""}
	for i := 0; i < len(path); i++ {
		last := &parts[len(parts)-1]
		switch {
		case path[i] == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			*last += string(path[i])
		case path[i] == '.':
			parts = append(parts, "")
		default:
			*last += string(path[i])
		}
	}
	return parts
}

// pattern is a glob, without regard to case: the whole text, or words of it.
type pattern struct {
	words   bool
	literal string
	re      *regexp.Regexp // where there are wildcards; Go's run in linear time
}

func compile(glob string, words bool) *pattern {
	if len(glob) > maxPattern || !utf8.ValidString(glob) {
		return nil
	}
	p := &pattern{words: words, literal: strings.ToLower(glob)}
	if !strings.ContainsAny(glob, "*?") {
		return p
	}
	var b strings.Builder
	before, after := `^`, `$`
	if words {
		before, after = `(?:^|[^a-z0-9_])`, `(?:$|[^a-z0-9_])`
	}
	b.WriteString("(?s)" + before)
	for _, r := range collapse(p.literal) {
		switch r {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	b.WriteString(after)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil
	}
	p.re = re
	return p
}

// collapse makes one star of several.
func collapse(glob string) string {
	for strings.Contains(glob, "**") {
		glob = strings.ReplaceAll(glob, "**", "*")
	}
	return glob
}

// matches takes a text in lower case.
func (p *pattern) matches(text string) bool {
	switch {
	case p.re != nil:
		return p.re.MatchString(text)
	case p.words:
		return word(text, p.literal)
	}
	return text == p.literal
}

// word finds a piece of text that begins and ends at a word's border.
func word(text, piece string) bool {
	if piece == "" {
		return false
	}
	for at := 0; ; {
		i := strings.Index(text[at:], piece)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(piece)
		if (i == 0 || !wordByte(text[i-1])) && (end == len(text) || !wordByte(text[end])) {
			return true
		}
		at = i + 1
	}
}

func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
