package rules

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"maunium.net/go/mautrix/id"
)

// master is the rule that silences everything.
const master = ".m.rule.master"

// me stands in the table for the owner's user ID, and localpart for its first part.
const (
	me        = "\x00me"
	localpart = "\x00localpart"
)

type line struct {
	kind       Kind
	id         string
	off        bool
	conditions []Condition
	pattern    string
	actions    string // JSON, without the brackets
}

const (
	notify    = `"notify"`
	quietly   = ``
	sound     = `"notify",{"set_tweak":"sound","value":"default"}`
	loud      = `"notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}`
	ring      = `"notify",{"set_tweak":"sound","value":"ring"}`
	highlight = `"notify",{"set_tweak":"highlight"}`
)

func is(key, pattern string) Condition {
	return Condition{Kind: "event_match", Key: key, Pattern: &pattern}
}

func equals(key, value string) Condition {
	return Condition{Kind: "event_property_is", Key: key, Value: json.RawMessage(value)}
}

func subscribed(is bool) Condition { return Condition{Kind: threadSubscription, Subscribed: &is} }

var (
	mayNotifyRoom = Condition{Kind: "sender_notification_permission", Key: "room"}
	oneToOne      = Condition{Kind: "room_member_count", Is: "2"}
)

// table is the default set, in its order.
// Spec: client-server-api/#predefined-rules
//
// The three rules by display name, localpart and "@room" in the text were taken out of the spec with intentional
// mentions (v1.17), but clients that send no m.mentions still need them; they never match an event that has m.mentions.
// The rules for polls are MSC3930's, that for calls MSC3914's,
// those for threads MSC4306's.
var table = []line{
	{kind: Override, id: master, off: true},
	{kind: Override, id: ".m.rule.suppress_notices", conditions: []Condition{is("content.msgtype", "m.notice")}, actions: quietly},
	{kind: Override, id: ".m.rule.invite_for_me", conditions: []Condition{
		is("type", "m.room.member"), is("content.membership", "invite"), is("state_key", me)}, actions: sound},
	{kind: Override, id: ".m.rule.member_event", conditions: []Condition{is("type", "m.room.member")}, actions: quietly},
	{kind: Override, id: ".m.rule.is_user_mention", conditions: []Condition{
		{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: json.RawMessage(me)}}, actions: loud},
	{kind: Override, id: ".m.rule.contains_display_name", conditions: []Condition{{Kind: "contains_display_name"}}, actions: loud},
	{kind: Override, id: ".m.rule.is_room_mention", conditions: []Condition{
		equals(`content.m\.mentions.room`, "true"), mayNotifyRoom}, actions: highlight},
	{kind: Override, id: ".m.rule.roomnotif", conditions: []Condition{is("content.body", "@room"), mayNotifyRoom}, actions: highlight},
	{kind: Override, id: ".m.rule.tombstone", conditions: []Condition{is("type", "m.room.tombstone"), is("state_key", "")}, actions: highlight},
	{kind: Override, id: ".m.rule.reaction", conditions: []Condition{is("type", "m.reaction")}, actions: quietly},
	{kind: Override, id: ".m.rule.room.server_acl", conditions: []Condition{is("type", "m.room.server_acl"), is("state_key", "")}, actions: quietly},
	{kind: Override, id: ".m.rule.suppress_edits", conditions: []Condition{equals(`content.m\.relates_to.rel_type`, `"m.replace"`)}, actions: quietly},
	{kind: Override, id: ".m.rule.poll_response", conditions: []Condition{is("type", "m.poll.response")}, actions: quietly},
	{kind: Override, id: ".org.matrix.msc3930.rule.poll_response", conditions: []Condition{is("type", "org.matrix.msc3381.poll.response")}, actions: quietly},

	{kind: Content, id: ".m.rule.contains_user_name", pattern: localpart, actions: loud},

	{kind: Postcontent, id: ".io.element.msc4306.rule.unsubscribed_thread", conditions: []Condition{subscribed(false)}, actions: quietly},
	{kind: Postcontent, id: ".io.element.msc4306.rule.subscribed_thread", conditions: []Condition{subscribed(true)}, actions: sound},

	{kind: Underride, id: ".m.rule.call", conditions: []Condition{is("type", "m.call.invite")}, actions: ring},
	{kind: Underride, id: ".m.rule.encrypted_room_one_to_one", conditions: []Condition{oneToOne, is("type", "m.room.encrypted")}, actions: sound},
	{kind: Underride, id: ".m.rule.room_one_to_one", conditions: []Condition{oneToOne, is("type", "m.room.message")}, actions: sound},
	{kind: Underride, id: ".m.rule.message", conditions: []Condition{is("type", "m.room.message")}, actions: notify},
	{kind: Underride, id: ".m.rule.encrypted", conditions: []Condition{is("type", "m.room.encrypted")}, actions: notify},
	{kind: Underride, id: ".m.rule.poll_start_one_to_one", conditions: []Condition{oneToOne, is("type", "m.poll.start")}, actions: sound},
	{kind: Underride, id: ".m.rule.poll_start", conditions: []Condition{is("type", "m.poll.start")}, actions: notify},
	{kind: Underride, id: ".m.rule.poll_end_one_to_one", conditions: []Condition{oneToOne, is("type", "m.poll.end")}, actions: sound},
	{kind: Underride, id: ".m.rule.poll_end", conditions: []Condition{is("type", "m.poll.end")}, actions: notify},
	{kind: Underride, id: ".org.matrix.msc3930.rule.poll_start_one_to_one", conditions: []Condition{oneToOne, is("type", "org.matrix.msc3381.poll.start")}, actions: sound},
	{kind: Underride, id: ".org.matrix.msc3930.rule.poll_start", conditions: []Condition{is("type", "org.matrix.msc3381.poll.start")}, actions: notify},
	{kind: Underride, id: ".org.matrix.msc3930.rule.poll_end_one_to_one", conditions: []Condition{oneToOne, is("type", "org.matrix.msc3381.poll.end")}, actions: sound},
	{kind: Underride, id: ".org.matrix.msc3930.rule.poll_end", conditions: []Condition{is("type", "org.matrix.msc3381.poll.end")}, actions: notify},
	{kind: Underride, id: ".org.matrix.msc3914.rule.room.call", conditions: []Condition{
		is("type", "org.matrix.msc3401.call"), {Kind: "call_started"}}, actions: sound},
}

// common are the default rules, compiled: all sets share those that are the same for everybody.
var common = sync.OnceValue(func() []*Rule {
	list := make([]*Rule, len(table))
	for i, l := range table {
		r := &Rule{ID: l.id, Default: true, Enabled: !l.off, Conditions: append([]Condition{}, l.conditions...)}
		if l.pattern != "" {
			r.Pattern = &l.pattern
		}
		if err := json.Unmarshal(fmt.Appendf(nil, "[%s]", l.actions), &r.Actions); err != nil {
			panic(fmt.Sprintf("rules: actions of %s: %v", l.id, err))
		}
		r.compile(l.kind)
		list[i] = r
	}
	return list
})

func (l line) personal() bool {
	return l.pattern == localpart || slices.ContainsFunc(l.conditions, func(c Condition) bool {
		return c.Pattern != nil && *c.Pattern == me || string(c.Value) == me
	})
}

// personal makes the user's own of a rule that names its owner, and shares with all what it says beside that.
func personal(common *Rule, user id.UserID) *Rule {
	r := *common
	r.Conditions = slices.Clone(r.Conditions)
	for i := range r.Conditions {
		c := &r.Conditions[i]
		if c.Pattern != nil && *c.Pattern == me {
			own := string(user)
			c.Pattern = &own
			c.compile()
		}
		if string(c.Value) == me {
			c.Value, _ = json.Marshal(user)
		}
	}
	if r.Pattern != nil && *r.Pattern == localpart {
		own := user.Localpart()
		r.Pattern, r.content = &own, compile(own, true)
	}
	return &r
}

// defaults makes the default rules of a user. Most are shared: never to be changed in place.
func defaults(user id.UserID) map[Kind][]*Rule {
	byKind := make(map[Kind][]*Rule, len(Kinds))
	for i, r := range common() {
		if table[i].personal() {
			r = personal(r, user)
		}
		byKind[table[i].kind] = append(byKind[table[i].kind], r)
	}
	return byKind
}
