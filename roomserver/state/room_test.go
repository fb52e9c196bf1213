package state

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
)

// creation is the ID of every room's create event: of the length that makes a room ID of version 12.
const creation = "$create-------------------------------------"

// room makes events by hand: their IDs are the names that the tests give them.
type room struct {
	t       testing.TB
	version id.RoomVersion
	events  map[id.EventID]Event
	// hidden events are not handed out.
	hidden map[id.EventID]bool
	clock  int64
	asked  int
}

func newRoom(t testing.TB, version id.RoomVersion) *room {
	return &room{t: t, version: version, events: map[id.EventID]Event{}, hidden: map[id.EventID]bool{}}
}

// Events implements Source.
func (r *room) Events(_ context.Context, ids []id.EventID) (map[id.EventID]Event, error) {
	found := make(map[id.EventID]Event, len(ids))
	for _, ev := range ids {
		if known, ok := r.events[ev]; ok && !r.hidden[ev] {
			found[ev] = known
		}
	}
	return found, nil
}

// Links implements Source.
func (r *room) Links(_ context.Context, ids []id.EventID) (map[id.EventID]Link, error) {
	r.asked += len(ids)
	found := make(map[id.EventID]Link, len(ids))
	for _, ev := range ids {
		if known, ok := r.events[ev]; ok && !r.hidden[ev] {
			found[ev] = linkOf(known.PDU)
		}
	}
	return found, nil
}

func linkOf(ev gomatrixserverlib.PDU) Link {
	link := Link{PowerLevels: ev.Type() == "m.room.power_levels" && ev.StateKeyEquals("")}
	for _, cited := range ev.AuthEventIDs() {
		link.Auth = append(link.Auth, id.EventID(cited))
	}
	return link
}

// at sets the clock: the next event bears this time.
func (r *room) at(clock int64) *room {
	r.clock = clock - 1
	return r
}

// send adds an event that stands after the given state, whose auth events it
// cites, and answers the state after it.
func (r *room) send(before Map, name, sender, eventType, stateKey, content string) Map {
	r.t.Helper()
	var cited []id.EventID
	if eventType != "m.room.create" {
		for _, key := range auth.Needed(r.version, eventType, &stateKey, id.UserID(sender), []byte(content)) {
			if ev, ok := before[key]; ok {
				cited = append(cited, ev)
			}
		}
	}
	r.add(name, sender, eventType, stateKey, content, cited...)
	after := maps.Clone(before)
	if after == nil {
		after = Map{}
	}
	after[pdu.Key{Type: eventType, StateKey: stateKey}] = id.EventID(name)
	return after
}

// sendAllowed is send, but leaves the state as it was if that does not allow the event.
func (r *room) sendAllowed(before Map, name, sender, eventType, stateKey, content string) Map {
	r.t.Helper()
	after := r.send(before, name, sender, eventType, stateKey, content)
	ev := r.events[id.EventID(name)].PDU
	if auth.Check(r.version, ev, allOf{room: r, state: before}) != nil {
		delete(r.events, id.EventID(name))
		return before
	}
	return after
}

// allOf is a state with events, as auth wants it.
type allOf struct {
	*room
	state Map
}

func (s allOf) Event(key pdu.Key) gomatrixserverlib.PDU {
	ev, ok := s.state[key]
	if !ok {
		return nil
	}
	return s.events[ev].PDU
}

// add makes an event that cites the given ones.
func (r *room) add(name, sender, eventType, stateKey, content string, cited ...id.EventID) {
	r.t.Helper()
	r.clock++
	fields := map[string]any{
		"type": eventType, "sender": sender, "state_key": stateKey, "content": json.RawMessage(content),
		"origin_server_ts": r.clock, "depth": r.clock, "room_id": "!room:x",
		"auth_events": cited, "prev_events": []string{}, "hashes": map[string]string{"sha256": ""}, "signatures": map[string]any{},
	}
	switch {
	case eventType == "m.room.create" && r.version == id.RoomV12:
		delete(fields, "room_id")
	case r.version == id.RoomV12:
		fields["room_id"] = "!" + creation[1:]
	case eventType != "m.room.create":
		// What the rules of joining ask for: one previous event, the creation.
		fields["prev_events"] = []string{creation}
	}
	if r.version == id.RoomV1 || r.version == id.RoomV2 {
		fields["event_id"] = name
		fields["auth_events"] = pairs(cited)
		if eventType != "m.room.create" {
			fields["prev_events"] = pairs([]id.EventID{creation})
		}
	}
	if cited == nil && fields["auth_events"] != nil && r.version != id.RoomV1 && r.version != id.RoomV2 {
		fields["auth_events"] = []string{}
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		r.t.Fatalf("event %s: %v", name, err)
	}
	ev, err := pdu.Trusted(r.version, id.EventID(name), raw)
	if err != nil {
		r.t.Fatalf("event %s: %v", name, err)
	}
	r.events[id.EventID(name)] = Event{PDU: ev}
}

func pairs(ids []id.EventID) []any {
	list := []any{}
	for _, ev := range ids {
		list = append(list, []any{ev, map[string]string{"sha256": ""}})
	}
	return list
}

func (r *room) reject(name id.EventID) {
	ev := r.events[name]
	ev.Rejected = true
	r.events[name] = ev
}

// found is a room of Alice (100), Bob (50), Carol and Dave (0), whose join rule is given.
func (r *room) found(joinRule string) Map {
	r.t.Helper()
	content := `{"room_version":"` + string(r.version) + `","creator":"@alice:x"}`
	s := r.send(nil, creation, "@alice:x", "m.room.create", "", content)
	s = r.join(s, "$alice", "@alice:x")
	s = r.powers(s, "$powers", "@alice:x", r.users("@alice:x", 100, "@bob:x", 50))
	s = r.rule(s, "$public", "@alice:x", "public")
	s = r.join(s, "$bob", "@bob:x")
	s = r.join(s, "$carol", "@carol:x")
	s = r.join(s, "$dave", "@dave:x")
	if joinRule != "public" {
		s = r.rule(s, "$"+joinRule, "@alice:x", joinRule)
	}
	return s
}

// users is the users of a power levels event; creators of version 12 have no entry there.
func (r *room) users(levels ...any) string {
	list := []string{}
	for i := 0; i < len(levels); i += 2 {
		if r.version == id.RoomV12 && levels[i] == "@alice:x" {
			continue
		}
		list = append(list, fmt.Sprintf("%q:%d", levels[i], levels[i+1]))
	}
	return "{" + strings.Join(list, ",") + "}"
}

func (r *room) join(s Map, name, user string) Map {
	r.t.Helper()
	return r.send(s, name, user, "m.room.member", user, `{"membership":"join"}`)
}

func (r *room) member(s Map, name, sender, user, membership string) Map {
	r.t.Helper()
	return r.send(s, name, sender, "m.room.member", user, `{"membership":"`+membership+`"}`)
}

func (r *room) rule(s Map, name, sender, rule string) Map {
	r.t.Helper()
	return r.send(s, name, sender, "m.room.join_rules", "", `{"join_rule":"`+rule+`"}`)
}

func (r *room) powers(s Map, name, sender, users string) Map {
	r.t.Helper()
	return r.send(s, name, sender, "m.room.power_levels", "", `{"users":`+users+`}`)
}

func (r *room) topic(s Map, name, sender string) Map {
	r.t.Helper()
	return r.send(s, name, sender, "m.room.topic", "", `{"topic":"`+name+`"}`)
}

// resolve resolves the states in every order (shuffled, if they are many), with
// an old and with a new Resolver, and fails if the results differ.
func (r *room) resolve(states ...Map) Map {
	r.t.Helper()
	old := NewResolver(r.version, r)
	var result Map
	first := true
	permute(len(states), func(order []int) {
		shuffled := make([]Map, len(states))
		sets := make([]map[pdu.Key]id.EventID, len(states))
		for i, n := range order {
			shuffled[i], sets[i] = states[n], states[n]
		}
		whole, err := resolve(r.t.Context(), r.version, sets, r)
		if err != nil {
			r.t.Fatalf("resolve in order %v: %v", order, err)
		}
		fork := newFork(shuffled)
		diff, err := old.Resolve(r.t.Context(), fork)
		if err != nil {
			r.t.Fatalf("resolve in order %v, once more: %v", order, err)
		}
		if again := over(diff, fork.Common.(Map)); !maps.Equal(again, whole) {
			r.t.Fatalf("order %v: a used resolver got %v, want %v", order, again, whole)
		}
		if first {
			result, first = whole, false
		} else if !maps.Equal(Map(whole), result) {
			r.t.Fatalf("order %v: got %v, want as in the first order %v", order, whole, result)
		}
	})
	return result
}

// permute calls f with every order of n things, or with some of them where n is large.
func permute(n int, f func([]int)) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	if n > 4 {
		for shift := range n {
			f(slices.Concat(order[shift:], order[:shift]))
			slices.Reverse(order)
		}
		return
	}
	var walk func(int)
	walk = func(k int) {
		if k == n {
			f(slices.Clone(order))
			return
		}
		for i := k; i < n; i++ {
			order[k], order[i] = order[i], order[k]
			walk(k + 1)
			order[k], order[i] = order[i], order[k]
		}
	}
	walk(0)
}

// want compares some keys of a state: "type|key=event", or no event after the equals sign for an absent key.
func (r *room) want(got Map, pieces ...string) {
	r.t.Helper()
	for _, piece := range pieces {
		name, ev, _ := strings.Cut(piece, "=")
		eventType, stateKey, _ := strings.Cut(name, "|")
		if strings.HasPrefix(eventType, "@") {
			eventType, stateKey = "m.room.member", eventType
		} else {
			eventType = "m.room." + eventType
		}
		if have := got[pdu.Key{Type: eventType, StateKey: stateKey}]; have != id.EventID(ev) {
			r.t.Errorf("%s: got %q, want %q", name, have, ev)
		}
	}
}
