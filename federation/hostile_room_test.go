package federation_test

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// TestForgedSendJoinAnswer: row F19: an answer to send_join that cannot be believed joins nobody; of one that can, what is false is left out.
func TestForgedSendJoinAnswer(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice, victim := interior.account("alice"), interior.account("victim")
	const version = id.RoomV11
	host := &hosted{stranger: evil, version: version, room: "!there:evil.example", user: "@mallory:evil.example"}
	state := host.make(t)
	evil.mux.HandleFunc("GET /_matrix/federation/v1/make_join/{room}/{user}", func(rw http.ResponseWriter, r *http.Request) {
		rw.Write(host.template(r.PathValue("user")))
	})
	var answer atomic.Value
	evil.mux.HandleFunc("PUT /_matrix/federation/v2/send_join/{room}/{event}", func(rw http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(rw).Encode(answer.Load())
	})
	forged := evil.build(version, pdu.Draft{ // a membership of ours that we never signed
		Type: "m.room.member", StateKey: (*string)(&victim), Sender: victim, RoomID: host.room, Content: json.RawMessage(`{"membership":"join"}`),
		PrevEvents: []id.EventID{host.last}, AuthEvents: host.auth(), Depth: 9,
	})
	without := func(typ string) (rest []json.RawMessage) {
		for _, raw := range state {
			if gjson.GetBytes(raw, "type").Str != typ {
				rest = append(rest, raw)
			}
		}
		return rest
	}
	broken := append([]json.RawMessage{}, state...)
	broken[0], _ = sjson.DeleteBytes(broken[0], "signatures")
	other := append([]json.RawMessage{}, state...)
	other[0], _ = sjson.SetBytes(other[0], "content.room_version", "10")
	for name, a := range map[string]map[string]any{
		"no create event":             {"state": without("m.room.create"), "auth_chain": without("m.room.create")},
		"an unsigned create":          {"state": broken, "auth_chain": broken},
		"a create of another version": {"state": other, "auth_chain": other},
		"nothing":                     {"state": []any{}, "auth_chain": []any{}},
		"no objects":                  {"state": []any{5, "x", nil}, "auth_chain": []any{[]any{}}},
	} {
		answer.Store(a)
		if err := interior.tryJoin(host.room, alice, &house{name: evil.name}); err == nil {
			t.Errorf("%s: alice joined", name)
		}
		if got := interior.membership(host.room, alice); got == event.MembershipJoin {
			t.Errorf("%s: got membership %q", name, got)
		}
	}
	answer.Store(map[string]any{"state": append(state, forged), "auth_chain": state})
	if err := interior.tryJoin(host.room, alice, &house{name: evil.name}); err != nil {
		t.Fatalf("a room with a forged membership: %v", err)
	}
	if got := interior.membership(host.room, victim); got != "" {
		t.Errorf("the victim's membership: got %q, want none", got)
	}
	if got := interior.membership(host.room, alice); got != event.MembershipJoin {
		t.Errorf("alice: got %q, want join", got)
	}
}

// hosted is a room that a stranger made.
type hosted struct {
	*stranger
	version                           id.RoomVersion
	room                              id.RoomID
	user                              id.UserID
	create, join, levels, rules, last id.EventID
	depth                             int64
}

// make gives the room's first state.
func (h *hosted) make(t *testing.T) []json.RawMessage {
	t.Helper()
	var state []json.RawMessage
	add := func(typ, key, content string, auth ...id.EventID) id.EventID {
		h.depth++
		d := pdu.Draft{Type: typ, StateKey: &key, Sender: h.user, RoomID: h.room, Content: json.RawMessage(content), AuthEvents: auth, PrevEvents: []id.EventID{}, Depth: h.depth}
		if h.last != "" {
			d.PrevEvents = []id.EventID{h.last}
		}
		if d.AuthEvents == nil {
			d.AuthEvents = []id.EventID{}
		}
		raw := h.build(h.version, d)
		state, h.last = append(state, raw), eventIDOf(t, h.version, raw)
		return h.last
	}
	h.create = add("m.room.create", "", `{"room_version":"`+string(h.version)+`"}`)
	h.join = add("m.room.member", string(h.user), `{"membership":"join"}`, h.create)
	h.levels = add("m.room.power_levels", "", `{"users":{"`+string(h.user)+`":100}}`, h.create, h.join)
	h.rules = add("m.room.join_rules", "", `{"join_rule":"public"}`, h.create, h.join, h.levels)
	return state
}

func (h *hosted) auth() []id.EventID { return []id.EventID{h.create, h.levels, h.rules} }

// template answers make_join.
func (h *hosted) template(user string) []byte {
	raw, _ := json.Marshal(map[string]any{"room_version": h.version, "event": map[string]any{
		"type": "m.room.member", "state_key": user, "sender": user, "room_id": h.room, "content": map[string]any{"membership": "join"},
		"prev_events": []id.EventID{h.last}, "auth_events": h.auth(), "depth": h.depth + 1, "origin_server_ts": time.Now().UnixMilli(),
	}})
	return raw
}

// TestBadLeaveAndKnockTemplates: row F9 for what is no join: nothing is signed but what we asked for.
func TestBadLeaveAndKnockTemplates(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	const room = id.RoomID("!there:evil.example")
	raw := evil.build(id.RoomV11, inviteOf(alice, room))
	create := `{"type":"m.room.create","state_key":"","sender":"@mallory:evil.example","content":{"room_version":"11"}}`
	if status, code, _ := evil.ask(interior, "PUT", []string{"v2", "invite", string(room), string(eventIDOf(t, id.RoomV11, raw))},
		map[string]any{"room_version": "11", "event": raw, "invite_room_state": []json.RawMessage{json.RawMessage(create)}}); status != 200 {
		t.Fatalf("invite: got %d %s", status, code)
	}
	var template atomic.Value
	var signed atomic.Int32
	for _, kind := range []string{"leave", "knock"} {
		evil.mux.HandleFunc("GET /_matrix/federation/v1/make_"+kind+"/{room}/{user}", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Write([]byte(template.Load().(string)))
		})
		for _, v := range []string{"v1", "v2"} {
			evil.mux.HandleFunc("PUT /_matrix/federation/"+v+"/send_"+kind+"/{room}/{event}", func(rw http.ResponseWriter, r *http.Request) {
				signed.Add(1)
				rw.Write([]byte(`{}`))
			})
		}
	}
	for name, change := range map[string][2]string{
		"another type": {"type", `"m.room.power_levels"`}, "another room": {"room_id", `"!other:evil.example"`},
		"another sender": {"sender", `"@bob:interior.example"`}, "another's state key": {"state_key", `"@bob:interior.example"`}, "a ban": {"content.membership", `"ban"`},
	} {
		for _, kind := range []string{"knock", "leave"} {
			proper := `{"type":"m.room.member","state_key":"` + string(alice) + `","sender":"` + string(alice) + `","room_id":"` + string(room) +
				`","content":{"membership":"` + kind + `"},"prev_events":["$0000000000000000000000000000000000000000000"],"auth_events":[],"depth":3}`
			bad, _ := sjson.SetRaw(proper, change[0], change[1])
			template.Store(`{"room_version":"11","event":` + bad + `}`)
			var err error
			if kind == "knock" {
				_, err = interior.federate(bus.FederationQuestion{Knock: &bus.JoinRemote{RoomID: room, UserID: alice, Servers: []string{evil.name}}})
				if err == nil {
					t.Errorf("knock, %s: got no error, want one", name)
				}
			} else if interior.membership(room, alice) == event.MembershipInvite {
				// Leaving never fails; but the room is not told by what the other server wrote.
				_, _ = interior.federate(bus.FederationQuestion{Leave: &bus.LeaveRemote{RoomID: room, UserID: alice, Servers: []string{evil.name}}})
			}
			if got := signed.Load(); got != 0 {
				t.Errorf("%s, %s: %d events were signed", kind, name, got)
			}
		}
	}
}

// TestRestrictedJoinWithoutAuthority: rows F7 and S11: a join that names one of our users as its authority needs our signature.
func TestRestrictedJoinWithoutAuthority(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	space := interior.room(id.RoomV11, alice, "invite")
	empty := ""
	room := interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	rules := interior.set(room, alice, "m.room.join_rules", empty, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"`+string(space)+`"}]}`)
	alices, err := interior.store.State.Current(t.Context(), room, pdu.Key{Type: "m.room.member", StateKey: string(alice)})
	if err != nil {
		t.Fatal(err)
	}
	eve := "@eve:evil.example"
	forged := evil.build(id.RoomV11, pdu.Draft{
		Type: "m.room.member", StateKey: &eve, Sender: id.UserID(eve), RoomID: room, Depth: 200,
		Content:    json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"` + string(alice) + `"}`),
		PrevEvents: []id.EventID{rules}, AuthEvents: []id.EventID{m.create, m.levels, rules, alices.ID},
	})
	m.put(forged)
	if got := interior.membership(room, id.UserID(eve)); got != "" {
		t.Errorf("by transaction: got membership %q, want none", got)
	}
	if status, _, _ := evil.ask(interior, "PUT", []string{"v2", "send_join", string(room), string(eventIDOf(t, id.RoomV11, forged))}, forged); status != 403 {
		t.Errorf("by send_join: got %d, want 403", status)
	}
	if got := interior.membership(room, id.UserID(eve)); got != "" {
		t.Errorf("by send_join: got membership %q, want none", got)
	}
}
