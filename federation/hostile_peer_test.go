package federation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// Where each federation row of the threats is tried:
//
//	F1  TestForgedXMatrix                     F15 TestStrangersLearnNothing
//	F2  TestExpiredKeys; remote: TestRing...,  F16 TestHistoryForServers
//	    TestCheckServerKeys, TestLeakedKeys,  F17 TestGreatQuestions
//	    TestPinnedKeys, TestNotary            F18 TestServerACL
//	F3  TestForgedXMatrix, FuzzXMatrix        F19 TestForgedSendJoinAnswer, FuzzSendJoin
//	F4  TestForgedXMatrix, TestTransactions,  F20 TestHostileEDUs; receiver: TestForeignEDUs
//	    TestHostileEDUs; FuzzTransaction      F21 TestHostileEDUs
//	F5  TestTransactions                      F22 TestHostileEDUs, TestFloodHurtsNobody; FuzzEDU
//	F6  TestTransactions                      F23 TestEndlessHistory, TestGapIsFilled
//	F7  TestTransactions,                     F24 TestGreatQuestions
//	    TestRestrictedJoinWithoutAuthority    F25 TestSilentServerHoldsUpNobody
//	F8  TestFetchedEventsAreChecked           F26 TestFloodHurtsNobody, TestTooManyRequests
//	F9  TestBadTemplates,                     F27 TestCatchUpAfterTheOtherServerWasAway, TestBadLinks
//	    TestBadLeaveAndKnockTemplates         N1  remote: TestRefusedAddresses, TestPolicyIsAskedFirst
//	F10 TestInviteThatIsNoneGetsNoSignature   N2  remote: TestPolicyIsAskedFirst, TestPinnedKeys
//	F11 the same; membership: TestStripped    N3  remote: TestResolve, TestRedirectsOfFiles, FuzzWellKnown
//	F12 TestOversizedInviteState,             N4  remote: TestOldTLS, TestPolicyIsAskedFirst
//	    TestPoisonDoesNotBlock                S1, S2, S5 to S10 TestHostileEvents
//	F13 TestSendJoinThatIsNone                S3  TestFetchedEventsAreChecked; S4 TestTransactions
//	F14 TestMakeJoinRefusals                  S11 TestRestrictedJoinWithoutAuthority, TestInviteByAddress
//
// S12 to S14 are the room server's own: see roomserver/hostile_test.go.

// member is a stranger with a user in a room of ours.
type member struct {
	*stranger
	house                *house
	version              id.RoomVersion
	room                 id.RoomID
	user                 id.UserID
	join, create, levels id.EventID
	depth                int64
	txns                 int
}

func (s *stranger) memberOf(h *house, version id.RoomVersion, room id.RoomID, localpart string) *member {
	s.Helper()
	m := &member{stranger: s, house: h, version: version, room: room, user: id.NewUserID(localpart, s.name), depth: 100}
	m.join = s.joinBy(h, version, room, m.user)
	m.create, m.levels = s.stateIDs(h, room, m.join)
	return m
}

// message builds a message on top of the parents, the join if there are none.
func (m *member) message(text string, change func(*pdu.Draft), parents ...id.EventID) json.RawMessage {
	m.Helper()
	m.depth++
	if len(parents) == 0 {
		parents = []id.EventID{m.join}
	}
	d := pdu.Draft{
		Type: "m.room.message", Sender: m.user, RoomID: m.room, Content: json.RawMessage(`{"msgtype":"m.text","body":"` + text + `"}`),
		PrevEvents: parents, AuthEvents: []id.EventID{m.create, m.levels, m.join}, Depth: m.depth,
	}
	if change != nil {
		change(&d)
	}
	return m.build(m.version, d)
}

// put sends PDUs in a transaction of their own.
func (m *member) put(pdus ...json.RawMessage) json.RawMessage {
	m.Helper()
	m.txns++
	return m.send(m.house, "m"+strconv.Itoa(m.txns), pdus...)
}

// edu sends one EDU.
func (m *member) edu(typ, content string) {
	m.Helper()
	m.txns++
	status, code, _ := m.ask(m.house, "PUT", []string{"v1", "send", "m" + strconv.Itoa(m.txns)}, map[string]any{
		"pdus": []any{}, "edus": []any{map[string]any{"edu_type": typ, "content": json.RawMessage(content)}},
	})
	if status != 200 {
		m.Errorf("%s %s: got %d %s, want 200", typ, content, status, code)
	}
}

func (m *member) standing(raw json.RawMessage) storage.Standing {
	m.Helper()
	e, err := m.house.store.Events.ByID(m.Context(), eventIDOf(m.T, m.version, raw))
	if err != nil {
		m.Fatal(err)
	}
	if e == nil {
		return -1
	}
	return e.Standing
}

// TestHostileEvents: rows S1, S2, S5, S6, S7, S8, S9 and S10 of what a hostile server may put into PDUs. The room goes on in any case.
func TestHostileEvents(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room, other := interior.room(id.RoomV11, alice, "public"), interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	there := evil.memberOf(interior, id.RoomV11, other, "mallory")
	alices := interior.say(room, alice, "mine")
	empty, theirs := "", "@alice:interior.example"
	raw := func(raw json.RawMessage, path, value string) json.RawMessage {
		out, err := sjson.SetRawBytes(raw, path, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	parents := make([]id.EventID, 21)
	for i := range parents {
		parents[i] = id.EventID(fmt.Sprintf("$%043d", i))
	}
	many, _ := json.Marshal(parents)
	for _, c := range []struct {
		name string
		raw  json.RawMessage
	}{
		{"S1: another server's sender", m.message("x", func(d *pdu.Draft) { d.Sender = alice })},
		{"S1: a sender who is not in the room", m.message("x", func(d *pdu.Draft) { d.Sender = "@eve:evil.example" })},
		{"S1: state without the power", m.message("x", func(d *pdu.Draft) { d.Type, d.StateKey = "m.room.name", &empty })},
		{"S1: another's membership", m.message("x", func(d *pdu.Draft) {
			d.Type, d.StateKey, d.Content = "m.room.member", &theirs, json.RawMessage(`{"membership":"leave"}`)
		})},
		{"S1: power levels", m.message("x", func(d *pdu.Draft) {
			d.Type, d.StateKey, d.Content = "m.room.power_levels", &empty, json.RawMessage(`{"users":{"@mallory:evil.example":100}}`)
		})},
		{"S2: no auth events", m.message("x", func(d *pdu.Draft) { d.AuthEvents = []id.EventID{} })},
		{"S2: an auth event twice", m.message("x", func(d *pdu.Draft) { d.AuthEvents = append(d.AuthEvents, m.join) })},
		{"S2: a surplus auth event", m.message("x", func(d *pdu.Draft) { d.AuthEvents = append(d.AuthEvents, alices) })},
		{"S2: auth events of another room", m.message("x", func(d *pdu.Draft) { d.AuthEvents = []id.EventID{there.create, there.levels, there.join} })},
		{"S2: too many parents", raw(m.message("x", nil), "prev_events", string(many))},
		{"S5: a negative depth", raw(m.message("x", nil), "depth", "-1")},
		{"S5: a depth beyond all bounds", raw(m.message("x", nil), "depth", "9007199254740992")},
		{"S5: a depth in words", raw(m.message("x", nil), "depth", `"5"`)},
		{"S6: a type that is a number", raw(m.message("x", nil), "type", "5")},
		{"S6: content that is a list", raw(m.message("x", nil), "content", "[]")},
		{"S6: a sender that is an object", raw(m.message("x", nil), "sender", "{}")},
		{"S6: parents that are an object", raw(m.message("x", nil), "prev_events", "{}")},
		{"S6: parents that are numbers", raw(m.message("x", nil), "prev_events", "[5]")},
		{"S6: hashes that are a list", raw(m.message("x", nil), "hashes", "[]")},
		{"S6: signatures that are a list", raw(m.message("x", nil), "signatures", "[]")},
		{"S6: a time in words", raw(m.message("x", nil), "origin_server_ts", `"now"`)},
		{"S7: a float", raw(m.message("x", nil), "content.x", "1.5")},
		{"S7: a great number", raw(m.message("x", nil), "content.x", "9007199254740993")},
		{"S7: a long type", raw(m.message("x", nil), "type", `"`+strings.Repeat("t", 256)+`"`)},
		{"S7: 64 KiB", raw(m.message("x", nil), "content.x", `"`+strings.Repeat("x", 65<<10)+`"`)},
	} {
		m.put(c.raw)
		if eventID, err := pdu.EventID(m.version, c.raw); err == nil && interior.has(eventID) {
			t.Errorf("%s: it was accepted", c.name)
		}
	}
	// S8 and S9: what is added beside the signed fields is not looked at.
	good := m.message("good", nil)
	eventID := eventIDOf(t, m.version, good)
	poisoned := raw(raw(good, "event_id", `"$mine:evil.example"`), "unsigned",
		`{"age":5,"redacted_because":{"x":1},"m.relations":{"m.thread":{}},"transaction_id":"x","prev_content":{"y":1}}`)
	m.put(poisoned)
	e, err := interior.store.Events.ByID(t.Context(), eventID)
	if err != nil || e == nil || e.Standing != storage.Accepted {
		t.Fatalf("S8, S9: got %v and error %v, want the event", e, err)
	}
	for _, path := range []string{"unsigned.redacted_because", `unsigned.m\.relations`, "unsigned.transaction_id", "unsigned.prev_content", "event_id"} {
		if gjson.GetBytes(e.JSON, path).Exists() {
			t.Errorf("S8, S9: %s was kept: %s", path, e.JSON)
		}
	}
	// S10: redactions without the power, of another room.
	elsewhere := interior.say(other, alice, "elsewhere")
	for _, target := range []id.EventID{alices, elsewhere, m.create} {
		m.put(m.message("x", func(d *pdu.Draft) {
			d.Type, d.Content = "m.room.redaction", json.RawMessage(`{"redacts":"`+string(target)+`"}`)
		}))
		if e, err := interior.store.Events.ByID(t.Context(), target); err != nil || e.RedactedBy != "" {
			t.Errorf("S10: %s was redacted by %q (%v)", target, e.RedactedBy, err)
		}
	}
	// S5: after the greatest depth the room goes on.
	deepest := m.message("deepest", func(d *pdu.Draft) { d.Depth = 1<<53 - 1 })
	m.put(deepest)
	if !interior.has(eventIDOf(t, m.version, deepest)) {
		t.Error("S5: the deepest event was not accepted")
	}
	interior.say(room, alice, "we go on")
	interior.say(room, alice, "and on")
}

// TestFetchedEventsAreChecked: row F8: what is fetched is checked as what is sent; S3: what was rejected stays rejected.
func TestFetchedEventsAreChecked(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	empty := ""
	unsigned, _ := sjson.DeleteBytes(m.message("unsigned", nil), "signatures")
	named := m.message("x", func(d *pdu.Draft) {
		d.Type, d.StateKey, d.Content = "m.room.name", &empty, json.RawMessage(`{"name":"mine"}`)
	})
	changed, _ := sjson.SetBytes(m.message("x", nil), "content.body", "changed")
	alien := m.message("x", func(d *pdu.Draft) { d.Sender = alice })
	for name, hidden := range map[string]json.RawMessage{"unsigned": unsigned, "state without power": named, "changed": changed, "in alice's name": alien} {
		hiddenID := eventIDOf(t, m.version, hidden)
		last := m.message("last", nil, hiddenID)
		answers := map[string]json.RawMessage{string(hiddenID): hidden}
		evil.history(func() []json.RawMessage { return []json.RawMessage{hidden} }, answers)
		m.put(last)
		interior.wait("the end of the gap", func() bool {
			aside, err := interior.store.Received.AsideIn(t.Context(), room, 10)
			return err == nil && len(aside) == 0
		})
		e, err := interior.store.Events.ByID(t.Context(), hiddenID)
		if err != nil {
			t.Fatal(err)
		}
		switch name {
		case "changed":
			if e == nil || gjson.GetBytes(e.JSON, "content.body").Exists() {
				t.Errorf("%s: got %v, want it pruned", name, e)
			}
		default:
			if e != nil && e.Standing == storage.Accepted {
				t.Errorf("%s: it was accepted", name)
			}
		}
		// S3: offered again it stays what it is, and is never state.
		m.put(hidden)
		if name != "changed" && interior.has(hiddenID) {
			t.Errorf("%s: it was accepted when it came again", name)
		}
	}
	if name, err := interior.store.State.Current(t.Context(), room, pdu.Key{Type: "m.room.name"}); err != nil || name != nil {
		t.Errorf("the room has a name: %v, %v", name, err)
	}
	interior.say(room, alice, "we go on")
}

// history lets the stranger answer get_missing_events with what the function gives, and event with what the map holds.
func (s *stranger) history(missing func() []json.RawMessage, events map[string]json.RawMessage) {
	first := s.missing == nil
	s.missing, s.events = missing, events
	if !first {
		return
	}
	s.mux.HandleFunc("POST /_matrix/federation/v1/get_missing_events/{room}", func(rw http.ResponseWriter, r *http.Request) {
		s.questions.Add(1)
		_ = json.NewEncoder(rw).Encode(map[string]any{"events": s.missing()})
	})
	s.mux.HandleFunc("GET /_matrix/federation/v1/event/{event}", func(rw http.ResponseWriter, r *http.Request) {
		s.questions.Add(1)
		if raw := s.events[r.PathValue("event")]; raw != nil {
			_ = json.NewEncoder(rw).Encode(map[string]any{"pdus": []json.RawMessage{raw}})
			return
		}
		rw.WriteHeader(404)
		_, _ = rw.Write([]byte(`{"errcode":"M_NOT_FOUND"}`))
	})
}

// TestEndlessHistory: row F23: a server that tells ever more parents is asked a bounded number of times, and the room goes on.
func TestEndlessHistory(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	// A chain without a beginning is made from its end: each parent is an event that nobody has.
	n := 0
	unknown := func() id.EventID { n++; return id.EventID(fmt.Sprintf("$%043d", n)) }
	evil.history(func() []json.RawMessage {
		var more []json.RawMessage
		for range 20 {
			more = append(more, m.message("more", nil, unknown(), unknown()))
		}
		return more
	}, nil)
	m.put(m.message("last", nil, unknown()))
	interior.wait("the end of the gap", func() bool {
		aside, err := interior.store.Received.AsideIn(t.Context(), room, 10)
		return err == nil && len(aside) == 0
	})
	if got := evil.questions.Load(); got == 0 || got > 200 {
		t.Errorf("%d questions for one gap, want some and at most 200", got)
	}
	interior.say(room, alice, "we go on")
	good := m.message("good", nil)
	m.put(good)
	if !interior.has(eventIDOf(t, m.version, good)) {
		t.Error("an event on known parents was not accepted afterwards")
	}
}

// TestOthersFillTheGap: a gap whose origin cannot be reached is filled by another server in the room.
func TestOthersFillTheGap(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example", "evil.example")
	interior, finance, evil := w.open("interior.example"), w.open("finance.example"), w.stranger("evil.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "public")
	finance.join(room, bob, interior)
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	finance.waitFor(m.join)
	known := m.message("known to finance", nil)
	m.house = finance
	m.put(known)
	if !finance.has(eventIDOf(t, m.version, known)) {
		t.Fatal("finance did not take the event")
	}
	last := m.message("last", nil, eventIDOf(t, m.version, known))
	m.house = interior
	m.put(last) // the stranger does not answer get_missing_events at all
	interior.waitFor(eventIDOf(t, m.version, last))
	if !interior.has(eventIDOf(t, m.version, known)) {
		t.Error("the parent is not there")
	}
}

// TestHostileEDUs: rows F20, F21, F22: what an EDU may not say is dropped, and those beside it are taken.
func TestHostileEDUs(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room, closed := interior.room(id.RoomV11, alice, "public"), interior.room(id.RoomV11, alice, "invite")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	said, hidden := interior.say(room, alice, "hello"), interior.say(closed, alice, "secret")
	typing := make(chan bus.Typing, 10)
	stop, err := bus.Listen(interior.bus, bus.AllTyping, func(_ string, m bus.Typing) { typing <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	receipt := func(room id.RoomID, user, event string) string {
		return `{"` + string(room) + `":{"m.read":{"` + user + `":{"data":{"ts":1},"event_ids":["` + event + `"]}}}}`
	}
	for _, e := range []struct{ typ, content string }{
		{"m.typing", `{"room_id":"` + string(room) + `","user_id":"@alice:interior.example","typing":true}`},
		{"m.typing", `{"room_id":"` + string(closed) + `","user_id":"@mallory:evil.example","typing":true}`},
		{"m.typing", `{"room_id":5}`},
		{"m.receipt", receipt(room, "@alice:interior.example", string(said))},
		{"m.receipt", receipt(closed, "@mallory:evil.example", string(hidden))},
		{"m.receipt", receipt(room, "@mallory:evil.example", "$unknown")},
		{"m.receipt", receipt(room, "@mallory:evil.example", string(hidden))},
		{"m.receipt", `[]`}, {"m.receipt", `{"x":5}`}, {"m.presence", `{"push":5}`}, {"m.direct_to_device", `{"messages":[]}`},
		{"m.direct_to_device", `{"sender":"@alice:interior.example","type":"t","message_id":"1","messages":{"@alice:interior.example":{"*":{}}}}`},
		{"m.device_list_update", `{"user_id":"@alice:interior.example","device_id":"X","stream_id":1,"keys":{}}`},
		{"m.signing_key_update", `{"user_id":"@alice:interior.example","master_key":{}}`},
		{"m.unknown", `{}`}, {"", `null`},
	} {
		m.edu(e.typ, e.content)
	}
	m.edu("m.typing", `{"room_id":"`+string(room)+`","user_id":"@mallory:evil.example","typing":true}`)
	if got := <-typing; got.UserID != "@mallory:evil.example" || got.RoomID != room {
		t.Errorf("typing: got %+v, want mallory's in the room alone", got)
	}
	for _, room := range []id.RoomID{room, closed} {
		for _, user := range []id.UserID{alice, m.user} {
			if got, err := interior.store.Receipts.Of(t.Context(), room, user); err != nil || len(got) != 0 {
				t.Errorf("receipts of %s: got %v and error %v, want none", user, got, err)
			}
		}
	}
	if got, err := interior.store.ToDevice.After(t.Context(), alice, "DEVICE", 0, interior.store.Head(), 10); err != nil || len(got) != 0 {
		t.Errorf("to-device: got %v and error %v, want none", got, err)
	}
	m.edu("m.receipt", receipt(room, "@mallory:evil.example", string(said)))
	if got, err := interior.store.Receipts.Of(t.Context(), room, m.user); err != nil || len(got) != 1 {
		t.Errorf("a good receipt: got %v and error %v, want one", got, err)
	}
	// F4: more than a hundred.
	edus := make([]any, 101)
	for i := range edus {
		edus[i] = map[string]any{"edu_type": "m.typing", "content": map[string]any{}}
	}
	if status, code, _ := evil.ask(interior, "PUT", []string{"v1", "send", "many"}, map[string]any{"pdus": []any{}, "edus": edus}); status != 400 {
		t.Errorf("101 EDUs: got %d %s, want 400", status, code)
	}
}

// TestServerACL: row F18: the ACL keeps a server out of everything that the spec names, whatever its name's case and port.
func TestServerACL(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example:8449")
	interior, evil := w.open("interior.example"), w.stranger("evil.example:8449")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	said := string(interior.say(room, alice, "hello"))
	var template struct {
		Event json.RawMessage `json:"event"`
	}
	if err := evil.client.Ask(t.Context(), remote.Request{
		Server: interior.name, Method: "GET", Path: []string{"v1", "make_join", string(room), "@eve:evil.example:8449"}, Query: map[string][]string{"ver": {"11"}},
	}, &template); err != nil {
		t.Fatal(err)
	}
	interior.set(room, alice, "m.room.server_acl", "", `{"allow":["*"],"deny":["*EVIL.example"]}`)
	eve := evil.build(id.RoomV11, evil.member(template.Event, room, "@eve:evil.example:8449", "join"))
	knock := evil.build(id.RoomV11, evil.member(template.Event, room, "@eve:evil.example:8449", "knock"))
	leave := evil.build(id.RoomV11, evil.member(template.Event, room, m.user, "leave"))
	invite := evil.build(id.RoomV11, func() pdu.Draft { d := inviteOf(alice, room); d.Sender = m.user; return d }())
	in := func(raw json.RawMessage) string { return string(eventIDOf(t, id.RoomV11, raw)) }
	for _, c := range []struct {
		method string
		path   []string
		body   any
	}{
		{"GET", []string{"v1", "make_join", string(room), "@eve:evil.example:8449"}, nil},
		{"GET", []string{"v1", "make_leave", string(room), string(m.user)}, nil},
		{"GET", []string{"v1", "make_knock", string(room), "@eve:evil.example:8449"}, nil},
		{"PUT", []string{"v1", "send_join", string(room), in(eve)}, eve},
		{"PUT", []string{"v2", "send_join", string(room), in(eve)}, eve},
		{"PUT", []string{"v1", "send_leave", string(room), in(leave)}, leave},
		{"PUT", []string{"v2", "send_leave", string(room), in(leave)}, leave},
		{"PUT", []string{"v1", "send_knock", string(room), in(knock)}, knock},
		{"PUT", []string{"v2", "invite", string(room), in(invite)}, map[string]any{"room_version": "11", "event": invite, "invite_room_state": []any{}}},
		{"GET", []string{"v1", "state", string(room)}, nil},
		{"GET", []string{"v1", "state_ids", string(room)}, nil},
		{"GET", []string{"v1", "backfill", string(room)}, nil},
		{"GET", []string{"v1", "event", said}, nil},
		{"GET", []string{"v1", "event_auth", string(room), said}, nil},
		{"GET", []string{"v1", "timestamp_to_event", string(room)}, nil},
		{"POST", []string{"v1", "get_missing_events", string(room)}, map[string]any{"latest_events": []string{said}, "earliest_events": []string{}}},
		{"PUT", []string{"v1", "exchange_third_party_invite", string(room)}, map[string]any{
			"type": "m.room.member", "room_id": room, "sender": alice, "state_key": "@eve:evil.example:8449",
			"content": map[string]any{"membership": "invite", "third_party_invite": map[string]any{"signed": map[string]any{"mxid": "@eve:evil.example:8449", "token": "x"}}},
		}},
	} {
		if status, code, _ := evil.ask(interior, c.method, c.path, c.body); status != 403 || code != "M_FORBIDDEN" {
			t.Errorf("%s %v: got %d %s, want 403 M_FORBIDDEN", c.method, c.path[:2], status, code)
		}
	}
	barred := m.message("barred", nil)
	if got := gjson.GetBytes(m.put(barred), "pdus."+gjson.Escape(in(barred))+".error").Str; !strings.Contains(got, "ACL") {
		t.Errorf("event: got verdict %q, want one that names the ACL", got)
	}
	m.edu("m.receipt", `{"`+string(room)+`":{"m.read":{"`+string(m.user)+`":{"data":{"ts":1},"event_ids":["`+said+`"]}}}}`)
	if got, err := interior.store.Receipts.Of(t.Context(), room, m.user); err != nil || len(got) != 0 {
		t.Errorf("receipt: got %v and error %v, want none", got, err)
	}
}

// TestGreatQuestions: row F24: absurd limits are clamped; F17: an event of another room is not there.
func TestGreatQuestions(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room, other := interior.room(id.RoomV11, alice, "public"), interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	var last id.EventID
	for i := range 130 {
		last = interior.say(room, alice, numbered(i))
	}
	elsewhere := interior.say(other, alice, "elsewhere")
	ask := func(q remote.Request) (json.RawMessage, error) {
		q.Server = interior.name
		var answer json.RawMessage
		err := evil.client.Ask(t.Context(), q, &answer)
		return answer, err
	}
	v := []string{string(last)}
	for i := range 299 {
		v = append(v, fmt.Sprintf("$%043d", i))
	}
	answer, err := ask(remote.Request{Method: "GET", Path: []string{"v1", "backfill", string(room)}, Query: map[string][]string{"limit": {"1000000000"}, "v": v}})
	if n := len(gjson.GetBytes(answer, "pdus").Array()); err != nil || n == 0 || n > 100 {
		t.Errorf("backfill: got %d events and error %v, want at most 100", n, err)
	}
	answer, err = ask(remote.Request{Method: "POST", Path: []string{"v1", "get_missing_events", string(room)},
		Body: map[string]any{"latest_events": []id.EventID{last}, "earliest_events": []string{}, "limit": 1000000000}})
	if n := len(gjson.GetBytes(answer, "events").Array()); err != nil || n == 0 || n > 20 {
		t.Errorf("get_missing_events: got %d events and error %v, want at most 20", n, err)
	}
	if _, err = ask(remote.Request{Method: "POST", Path: []string{"v1", "publicRooms"}, Body: map[string]any{"limit": 1000000000}}); err != nil {
		t.Errorf("publicRooms: %v", err)
	}
	for _, path := range [][]string{{"v1", "state", string(room)}, {"v1", "state_ids", string(room)}} {
		_, err := ask(remote.Request{Method: "GET", Path: path, Query: map[string][]string{"event_id": {string(elsewhere)}}})
		if said, ok := remote.Refused(err); !ok || said.StatusCode != 404 {
			t.Errorf("%s at another room's event: got %v, want 404", path[1], err)
		}
	}
	_, err = ask(remote.Request{Method: "GET", Path: []string{"v1", "event_auth", string(room), string(elsewhere)}})
	if said, ok := remote.Refused(err); !ok || said.StatusCode != 404 {
		t.Errorf("event_auth of another room's event: got %v, want 404", err)
	}
	_ = m
}

// TestMakeJoinRefusals: row F14.
func TestMakeJoinRefusals(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	public, private := interior.room(id.RoomV11, alice, "public"), interior.room(id.RoomV11, alice, "invite")
	for _, c := range []struct {
		name   string
		room   id.RoomID
		user   string
		ver    string
		status int
		code   string
	}{
		{"private", private, "@mallory:evil.example", "11", 403, "M_FORBIDDEN"},
		{"another's user", public, "@alice:interior.example", "11", 403, "M_FORBIDDEN"},
		{"no user", public, "mallory", "11", 403, "M_FORBIDDEN"},
		{"unknown version", public, "@mallory:evil.example", "6", 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"unknown room", "!nowhere:interior.example", "@mallory:evil.example", "11", 404, "M_NOT_FOUND"},
		{"public", public, "@mallory:evil.example", "11", 0, ""},
	} {
		err := evil.client.Ask(t.Context(), remote.Request{
			Server: interior.name, Method: "GET", Path: []string{"v1", "make_join", string(c.room), c.user}, Query: map[string][]string{"ver": {c.ver}},
		}, nil)
		said, _ := remote.Refused(err)
		if c.status == 0 && err == nil {
			continue
		}
		if said.StatusCode != c.status || said.ErrCode != c.code {
			t.Errorf("%s: got %v, want %d %s", c.name, err, c.status, c.code)
		}
	}
}

// TestHistoryForServers: row F16: what was said before a server's first user came is pruned for it, where the room says so; a
// server that was sent away is told nothing more.
func TestHistoryForServers(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "public")
	interior.set(room, alice, event.StateHistoryVisibility.Type, "", `{"history_visibility":"joined"}`)
	before := interior.say(room, alice, "before")
	got := evil.takeTransactions(func(int, sent) int { return 200 })
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	after := interior.say(room, alice, "after")
	for target, visible := range map[id.EventID]bool{before: false, after: true} {
		_, _, body := evil.ask(interior, "GET", []string{"v1", "event", string(target)}, nil)
		if has := gjson.GetBytes(body, "pdus.0.content.body").Exists(); has != visible {
			t.Errorf("%s: got %s, want its content %v", target, body, visible)
		}
	}
	interior.set(room, alice, "m.room.member", string(m.user), `{"membership":"ban"}`)
	interior.say(room, alice, "behind closed doors")
	interior.say(interior.room(id.RoomV11, alice, "public"), alice, "x")
	for {
		s := next(t, got)
		for _, p := range gjson.Get(s.body, "pdus").Array() {
			if p.Get("content.body").Str == "behind closed doors" {
				t.Fatal("a banned server was sent what was said after the ban")
			}
			if p.Get("content.membership").Str == "ban" {
				return
			}
		}
	}
}

// TestExpiredKeys: row F2 for events: what was signed after the key had expired is dropped, what was signed before is believed.
func TestExpiredKeys(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "public")
	m := evil.memberOf(interior, id.RoomV11, room, "mallory")
	retired := time.Now().Add(-time.Minute)
	before := m.message("before", func(d *pdu.Draft) { d.Timestamp = retired.Add(-time.Minute) })
	after := m.message("after", func(d *pdu.Draft) { d.Timestamp = retired.Add(30 * time.Second) })
	evil.keys = evil.keys.Rotate(retired)
	evil.client, _ = remote.New(w.config().Remote, evil.keys)
	interior.forgetKeys()
	m.put(before, after)
	if got := m.standing(before); got != storage.Accepted {
		t.Errorf("signed while the key was good: got %v, want accepted", got)
	}
	if got := m.standing(after); got != -1 {
		t.Errorf("signed after the key had expired: got %v, want dropped", got)
	}
}
