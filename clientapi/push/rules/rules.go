// Package rules holds push rules: the default set, users' own, and the judgement of events by them.
//
// It is pure: it asks nobody, and both push and syncing judge with it. Truths to keep:
//
//   - a set lists its rules in the order in which they are asked, the user's own before the defaults, .m.rule.master first of all;
//   - what is stored is the whole set as clients see it; new defaults appear by themselves when it is read;
//   - two sets of the same Class judge alike every event that does not concern their owners (see [Event.Concerns]), so that
//     an event is judged once per class and not once per member;
//   - no pattern of a user's costs more than time linear in the text.
package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"maunium.net/go/mautrix/id"
)

// Type is the type of the account data that holds a user's rules.
const Type = "m.push_rules"

// Kind of a rule. The kinds are asked in the order of Kinds.
type Kind string

// The kinds of rules.
const (
	Override Kind = "override"
	Content  Kind = "content"
	// Postcontent is for default rules alone. Spec: MSC4306
	Postcontent Kind = "postcontent"

	Room      Kind = "room"
	Sender    Kind = "sender"
	Underride Kind = "underride"
)

// Kinds in the order in which they are asked.
var Kinds = []Kind{Override, Content, Postcontent, Room, Sender, Underride}

// Rule is one push rule.
// Spec: client-server-api/#push-rules
type Rule struct {
	ID         string            `json:"rule_id"`
	Default    bool              `json:"default"`
	Enabled    bool              `json:"enabled"`
	Actions    []json.RawMessage `json:"actions"`
	Conditions []Condition       `json:"conditions,omitempty"`
	Pattern    *string           `json:"pattern,omitempty"`

	compiled bool // never changed from then on
	kind     Kind
	content  *pattern // compiled Pattern
	verdict  Verdict
}

// Condition of an override, postcontent or underride rule.
type Condition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key,omitempty"`
	Pattern *string         `json:"pattern,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
	Is      string          `json:"is,omitempty"`
	// Subscribed is what a condition about threads asks.
	Subscribed *bool `json:"subscribed,omitempty"`

	path []string
	glob *pattern
}

// Set is all rules of one user.
type Set struct {
	User  id.UserID
	rules map[Kind][]*Rule
	class string
}

// The bounds of a user's rules.
const (
	maxRules      = 1000
	maxConditions = 50
	maxPattern    = 512
	maxRuleID     = 512
)

// Refusals of a change, for the client to read.
var (
	ErrNoRule   = errors.New("rules: no such rule")
	ErrDefault  = errors.New("rules: default rules cannot be made or removed")
	ErrNoAnchor = errors.New("rules: the rule before or after which this one should go is not there")
	ErrTooMany  = errors.New("rules: too many rules")
	ErrBadRule  = errors.New("rules: malformed rule")
)

// stored is the form in which clients see a set, and in which it is kept.
type stored struct {
	Global map[Kind][]*Rule `json:"global"`
}

// standardClass is the class of those who never changed anything.
var standardClass atomic.Pointer[string]

// Default is the set of a user who never changed anything.
func Default(user id.UserID) *Set {
	s := &Set{User: user, rules: defaults(user)}
	if class := standardClass.Load(); class != nil {
		for kind, list := range s.rules {
			for _, r := range list {
				r.compile(kind)
			}
		}
		s.class = *class
		return s
	}
	s.compile()
	standardClass.Store(&s.class)
	return s
}

// Unchanged is the same set for judging alone. It holds nothing but its owner: thousands are at hand, and few events are judged for
// one person and not for a class.
func Unchanged(user id.UserID) *Set {
	class := standardClass.Load()
	if class == nil {
		class = &Default(user).class
	}
	return &Set{User: user, class: *class}
}

// Parse reads a stored set. Defaults keep what the user changed of them (whether they are enabled, their actions), and no
// more; those that are missing are added.
func Parse(user id.UserID, content []byte) (*Set, error) {
	var kept stored
	if err := json.Unmarshal(content, &kept); err != nil {
		return nil, fmt.Errorf("push rules of %s: %w", user, err)
	}
	s := &Set{User: user, rules: map[Kind][]*Rule{}}
	standard := defaults(user)
	for _, kind := range Kinds {
		var own []*Rule
		changed := map[string]*Rule{}
		for _, r := range kept.Global[kind] {
			switch {
			case r == nil:
			case strings.HasPrefix(r.ID, "."):
				changed[r.ID] = r
			case len(own) < maxRules:
				r.Default = false
				own = append(own, r)
			}
		}
		list := make([]*Rule, 0, len(own)+len(standard[kind]))
		for i, r := range standard[kind] {
			if c := changed[r.ID]; c != nil {
				r = r.changed(func(r *Rule) { r.Enabled, r.Actions = c.Enabled, c.Actions })
				standard[kind][i] = r
			}
			if r.ID == master {
				list = append(list, r)
			}
		}
		list = append(list, own...)
		for _, r := range standard[kind] {
			if r.ID != master {
				list = append(list, r)
			}
		}
		s.rules[kind] = list
	}
	s.compile()
	return s, nil
}

// JSON is the set as clients see it, and as it is kept.
func (s *Set) JSON() (json.RawMessage, error) { return json.Marshal(stored{s.Global()}) }

// Global gives the rules by kind. Read only.
func (s *Set) Global() map[Kind][]*Rule {
	global := make(map[Kind][]*Rule, len(Kinds))
	for _, kind := range Kinds {
		global[kind] = s.rules[kind]
		if global[kind] == nil {
			global[kind] = []*Rule{}
		}
	}
	return global
}

// Rule gives one rule, or nil.
func (s *Set) Rule(kind Kind, ruleID string) *Rule {
	for _, r := range s.rules[kind] {
		if r.ID == ruleID {
			return r
		}
	}
	return nil
}

// Put makes a rule of the user's own, or rewrites it; before and after name rules of the same kind next to which it goes.
func (s *Set) Put(kind Kind, rule Rule, before, after string) error {
	switch {
	case !slices.Contains(Kinds, kind) || kind == Postcontent:
		return fmt.Errorf("%w: no such kind", ErrBadRule)
	case strings.HasPrefix(rule.ID, "."):
		return ErrDefault
	case rule.ID == "" || len(rule.ID) > maxRuleID || strings.ContainsAny(rule.ID, `/\`):
		return fmt.Errorf("%w: rule ID", ErrBadRule)
	}
	rule.Default, rule.Enabled = false, true
	if err := rule.check(kind); err != nil {
		return err
	}
	list := slices.Clone(s.rules[kind])
	at := slices.IndexFunc(list, func(r *Rule) bool { return r.ID == rule.ID })
	switch {
	case at >= 0:
		rule.Enabled = list[at].Enabled
		if before == "" && after == "" {
			list[at] = &rule
			s.replace(kind, list)
			return nil
		}
		list = slices.Delete(list, at, at+1)
	case len(list) >= maxRules:
		return ErrTooMany
	}
	place := 0
	if len(list) > 0 && list[0].ID == master {
		place = 1
	}
	if anchor := before + after; before != "" || after != "" {
		if before != "" {
			anchor = before
		}
		i := slices.IndexFunc(list, func(r *Rule) bool { return r.ID == anchor && !r.Default })
		if i < 0 {
			return ErrNoAnchor
		}
		if place = i; before == "" {
			place = i + 1
		}
	}
	s.replace(kind, slices.Insert(list, place, &rule))
	return nil
}

// Delete removes a rule of the user's own.
func (s *Set) Delete(kind Kind, ruleID string) error {
	r := s.Rule(kind, ruleID)
	switch {
	case r == nil:
		return ErrNoRule
	case r.Default:
		return ErrDefault
	}
	s.replace(kind, slices.DeleteFunc(slices.Clone(s.rules[kind]), func(x *Rule) bool { return x == r }))
	return nil
}

// SetEnabled turns a rule on or off.
func (s *Set) SetEnabled(kind Kind, ruleID string, enabled bool) error {
	return s.change(kind, ruleID, func(r *Rule) { r.Enabled = enabled })
}

// SetActions changes what a rule does.
func (s *Set) SetActions(kind Kind, ruleID string, actions []json.RawMessage) error {
	if err := checkActions(actions); err != nil {
		return err
	}
	return s.change(kind, ruleID, func(r *Rule) { r.Actions = actions })
}

func (s *Set) change(kind Kind, ruleID string, change func(*Rule)) error {
	old := s.Rule(kind, ruleID)
	if old == nil {
		return ErrNoRule
	}
	list := slices.Clone(s.rules[kind])
	list[slices.Index(list, old)] = old.changed(change)
	s.replace(kind, list)
	return nil
}

func (s *Set) replace(kind Kind, list []*Rule) {
	s.rules[kind] = list
	s.compile()
}

// CarryOver copies the rules about one room to its successor; false if there are none, or the successor has its own.
func (s *Set) CarryOver(old, successor id.RoomID) bool {
	rule := s.Rule(Room, string(old))
	if rule == nil || s.Rule(Room, string(successor)) != nil {
		return false
	}
	copied := Rule{ID: string(successor), Enabled: rule.Enabled, Actions: rule.Actions}
	s.replace(Room, append([]*Rule{&copied}, s.rules[Room]...))
	return true
}

func (r *Rule) check(kind Kind) error {
	if err := checkActions(r.Actions); err != nil {
		return err
	}
	switch kind {
	case Content:
		if r.Pattern == nil || *r.Pattern == "" || len(*r.Pattern) > maxPattern {
			return fmt.Errorf("%w: a content rule needs a pattern of at most %d bytes", ErrBadRule, maxPattern)
		}
		r.Conditions = nil
	case Override, Underride:
		r.Pattern = nil
		if r.Conditions == nil {
			r.Conditions = []Condition{}
		}
		if len(r.Conditions) > maxConditions {
			return fmt.Errorf("%w: too many conditions", ErrBadRule)
		}
		for _, c := range r.Conditions {
			if c.Kind == "" || len(c.Key) > maxPattern || len(c.Value) > maxPattern || (c.Pattern != nil && len(*c.Pattern) > maxPattern) {
				return fmt.Errorf("%w: condition", ErrBadRule)
			}
		}
	default:
		r.Pattern, r.Conditions = nil, nil
	}
	return nil
}

func checkActions(actions []json.RawMessage) error {
	if len(actions) > maxConditions {
		return fmt.Errorf("%w: too many actions", ErrBadRule)
	}
	for _, a := range actions {
		var name string
		var tweak struct {
			Set *string `json:"set_tweak"`
		}
		if json.Unmarshal(a, &name) == nil {
			continue
		}
		if len(a) > 2*maxPattern || json.Unmarshal(a, &tweak) != nil || tweak.Set == nil {
			return fmt.Errorf("%w: action", ErrBadRule)
		}
	}
	return nil
}

// MarshalJSON gives override and underride rules their conditions even where there are none.
func (r *Rule) MarshalJSON() ([]byte, error) {
	type plain Rule
	actions := r.Actions
	if actions == nil {
		actions = []json.RawMessage{}
	}
	if r.kind == Override || r.kind == Postcontent || r.kind == Underride {
		conditions := r.Conditions
		if conditions == nil {
			conditions = []Condition{}
		}
		return json.Marshal(struct {
			*plain
			Actions    []json.RawMessage `json:"actions"`
			Conditions []Condition       `json:"conditions"`
		}{(*plain)(r), actions, conditions})
	}
	return json.Marshal(struct {
		*plain
		Actions []json.RawMessage `json:"actions"`
	}{(*plain)(r), actions})
}
