package syncing

import (
	"encoding/json"
	"slices"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

const memberType = "m.room.member"

// required says which state of a room a client wants.
// Spec: MSC4186
type required struct {
	include, exclude []stateElement
	// lazy: of members, those who matter to the timeline; only such members are given as include names by their type.
	lazy bool
	text string // the same for what wants the same
}

// stateElement matches pieces of state; a part that is absent matches all.
type stateElement struct {
	Type *string `json:"type"`
	Key  *string `json:"state_key"`
}

func (e *stateElement) matches(key pdu.Key) bool {
	return (e.Type == nil || *e.Type == key.Type) && (e.Key == nil || *e.Key == key.StateKey)
}

// parseRequired reads required_state. In the unstable shape it is a list of pairs, with $ME, $LAZY and * for the key.
func parseRequired(raw json.RawMessage, sh shape, me id.UserID) (*required, error) {
	r := &required{}
	if len(raw) == 0 || string(raw) == "null" {
		return r, nil
	}
	if sh == mergedShape {
		var body struct {
			Include, Exclude []stateElement
			Lazy             bool `json:"lazy_members"`
		}
		if json.Unmarshal(raw, &body) != nil {
			return nil, mautrix.MBadJSON.WithMessage("required_state does not have the shape it should have")
		}
		r.include, r.exclude, r.lazy = body.Include, body.Exclude, body.Lazy
	} else if err := r.pairs(raw, me); err != nil {
		return nil, err
	}
	if len(r.include)+len(r.exclude) > maxSlideRequired {
		return nil, mautrix.MInvalidParam.WithMessage("required_state holds more than %d elements", maxSlideRequired)
	}
	text, err := json.Marshal([]any{r.include, r.exclude, r.lazy})
	r.text = string(text)
	return r, err
}

func (r *required) pairs(raw json.RawMessage, me id.UserID) error {
	var pairs [][]string
	if json.Unmarshal(raw, &pairs) != nil {
		return mautrix.MBadJSON.WithMessage("required_state does not have the shape it should have")
	}
	for _, pair := range pairs {
		if len(pair) != 2 {
			return mautrix.MInvalidParam.WithMessage("required_state is not a list of pairs")
		}
		typ, key := pair[0], pair[1]
		e := stateElement{Type: &typ, Key: &key}
		if typ == "*" {
			e.Type = nil
		}
		switch key {
		case "*":
			e.Key = nil
		case "$ME":
			key = string(me)
		case "$LAZY":
			if typ != memberType {
				continue // it means nothing elsewhere
			}
			r.lazy = true
			continue
		}
		r.include = append(r.include, e)
	}
	return nil
}

// matches tells whether the client wants this piece of state whatever the timeline shows.
func (r *required) matches(key pdu.Key) bool {
	hit := func(e stateElement) bool {
		if r.lazy && key.Type == memberType && e.Type == nil && e.Key == nil {
			return false // all the rest, members lazily
		}
		return e.matches(key)
	}
	return slices.ContainsFunc(r.include, hit) && !slices.ContainsFunc(r.exclude, func(e stateElement) bool { return e.matches(key) })
}

// wishes are what several lists and subscriptions want of one room: what any of them wants.
type wishes struct {
	parts []*required
	text  string
}

func wishesOf(parts []*required) *wishes {
	slices.SortFunc(parts, func(a, b *required) int { return strings.Compare(a.text, b.text) })
	parts = slices.CompactFunc(parts, func(a, b *required) bool { return a.text == b.text })
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.text
	}
	return &wishes{parts: parts, text: strings.Join(texts, "\n")}
}

func (w *wishes) matches(key pdu.Key) bool {
	return slices.ContainsFunc(w.parts, func(r *required) bool { return r.matches(key) })
}

func (w *wishes) lazy() bool {
	return slices.ContainsFunc(w.parts, func(r *required) bool { return r.lazy })
}

// named gives the pieces that are named in full, and the types of which all pieces are wanted; whole: only the whole state
// will do.
func (w *wishes) named() (keys []pdu.Key, types []string, whole bool) {
	for _, r := range w.parts {
		for _, e := range r.include {
			switch {
			case e.Type == nil:
				return nil, nil, true
			case e.Key == nil:
				types = append(types, *e.Type)
			default:
				keys = append(keys, pdu.Key{Type: *e.Type, StateKey: *e.Key})
			}
		}
	}
	slices.Sort(types)
	return keys, slices.Compact(types), false
}
