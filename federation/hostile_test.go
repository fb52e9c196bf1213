package federation_test

import (
	"context"
	"encoding/json"
	"net/http"
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
)

func TestForgedXMatrix(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example", "good.example")
	interior := w.open("interior.example")
	evil := w.stranger("evil.example")
	w.stranger("good.example")
	const path = "/_matrix/federation/v1/query/profile?user_id=@alice:interior.example"
	header := func(origin, destination, uri, method string, keys *remote.Keys, body string) string {
		t.Helper()
		object := `{"method":"` + method + `","uri":"` + uri + `","origin":"` + origin + `","destination":"` + destination + `"`
		if body != "" {
			object += `,"content":` + body
		}
		signed, err := keys.Sign([]byte(object + "}"))
		if err != nil {
			t.Fatal(err)
		}
		keyID, _ := keys.Current()
		signature := gjson.GetBytes(signed, "signatures."+gjson.Escape(keys.ServerName)+"."+keyID).Str
		return `X-Matrix origin="` + origin + `",destination="` + destination + `",key="` + keyID + `",sig="` + signature + `"`
	}
	for _, c := range []struct {
		name, header string
		status       int
		code         string
	}{
		{"good", header("evil.example", "interior.example", path, "GET", evil.keys, ""), 404, "M_NOT_FOUND"}, // no such user, but authenticated
		{"missing", "", 401, "M_UNAUTHORIZED"},
		{"another scheme", "Bearer abc", 401, "M_UNAUTHORIZED"},
		{"no parameters", "X-Matrix", 401, "M_UNAUTHORIZED"},
		{"another server's name", header("good.example", "interior.example", path, "GET", evil.keys, ""), 401, "M_UNAUTHORIZED"},
		{"our own name", header("interior.example", "interior.example", path, "GET", evil.keys, ""), 401, "M_UNAUTHORIZED"},
		{"another destination", header("evil.example", "good.example", path, "GET", evil.keys, ""), 401, "M_UNAUTHORIZED"},
		{"another path", header("evil.example", "interior.example", path+"x", "GET", evil.keys, ""), 401, "M_UNAUTHORIZED"},
		{"another method", header("evil.example", "interior.example", path, "PUT", evil.keys, ""), 401, "M_UNAUTHORIZED"},
		{"with a body that did not come", header("evil.example", "interior.example", path, "GET", evil.keys, "{}"), 401, "M_UNAUTHORIZED"},
		{"a malformed name", `X-Matrix origin="a b/",key="ed25519:a",sig="x"`, 401, "M_UNAUTHORIZED"},
		{"an unknown kind of key", `X-Matrix origin="evil.example",key="rsa:a",sig="x"`, 401, "M_UNAUTHORIZED"},
		{"a key under another name", strings.Replace(header("evil.example", "interior.example", path, "GET", evil.keys, ""), "ed25519:", "ed25519:x", 1), 401, "M_UNAUTHORIZED"},
	} {
		if status, code := interior.raw("GET", path, c.header, nil); status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.name, status, code, c.status, c.code)
		}
	}
	const send = "/_matrix/federation/v1/send/1"
	for _, c := range []struct {
		name, signed, sent string
		status             int
		code               string
	}{
		{"good", `{"pdus":[],"edus":[]}`, `{"pdus":[],"edus":[]}`, 200, ""},
		{"another body", `{"pdus":[]}`, `{"pdus":[{}]}`, 401, "M_UNAUTHORIZED"},
		{"no JSON", `{}`, `{`, 400, "M_NOT_JSON"},
		{"no object", `[]`, `[]`, 400, "M_BAD_JSON"},
		{"no body", `{}`, ``, 400, "M_NOT_JSON"},
		{"too many PDUs", `{"pdus":[` + strings.Repeat(`{},`, 50) + `{}]}`, `{"pdus":[` + strings.Repeat(`{},`, 50) + `{}]}`, 400, "M_BAD_JSON"},
		{"too large", `{}`, `{"pdus":["` + strings.Repeat("x", 17<<20) + `"]}`, 413, "M_TOO_LARGE"},
	} {
		h := header("evil.example", "interior.example", send, "PUT", evil.keys, c.signed)
		if status, code := interior.raw("PUT", send, h, []byte(c.sent)); status != c.status || code != c.code {
			t.Errorf("send, %s: got %d %s, want %d %s", c.name, status, code, c.status, c.code)
		}
	}
	if status, code := interior.raw("GET", "/_matrix/federation/v1/nothing", "", nil); status != 404 || code != "M_UNRECOGNIZED" {
		t.Errorf("unknown path: got %d %s", status, code)
	}
	if status, code := interior.raw("DELETE", send, "", nil); status != 405 || code != "M_UNRECOGNIZED" {
		t.Errorf("unknown method: got %d %s", status, code)
	}
}

func TestStrangersLearnNothing(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	room := interior.room(id.RoomV11, alice, "invite")
	message := string(interior.say(room, alice, "secret"))
	for _, c := range []struct {
		method string
		path   []string
		body   any
		status int
	}{
		{"GET", []string{"v1", "event", message}, nil, 403},
		{"GET", []string{"v1", "event", "$unknown"}, nil, 404},
		{"GET", []string{"v1", "state", string(room)}, nil, 403},
		{"GET", []string{"v1", "state_ids", string(room)}, nil, 403},
		{"GET", []string{"v1", "event_auth", string(room), message}, nil, 403},
		{"GET", []string{"v1", "backfill", string(room)}, nil, 403},
		{"GET", []string{"v1", "backfill", "!unknown:interior.example"}, nil, 404},
		{"POST", []string{"v1", "get_missing_events", string(room)}, map[string]any{"latest_events": []string{message}, "earliest_events": []string{}}, 403},
		{"GET", []string{"v1", "timestamp_to_event", string(room)}, nil, 403},
		{"GET", []string{"v1", "hierarchy", string(room)}, nil, 404},
		{"GET", []string{"v1", "make_join", string(room), "@mallory:evil.example"}, nil, 400}, // the asker knows version 1 alone
		{"GET", []string{"v1", "make_join", string(room), "@alice:interior.example"}, nil, 403},
		{"GET", []string{"v1", "make_join", "!unknown:interior.example", "@mallory:evil.example"}, nil, 404},
		{"GET", []string{"v1", "make_leave", string(room), "@mallory:evil.example"}, nil, 403},
	} {
		if status, _, _ := evil.ask(interior, c.method, c.path, c.body); status != c.status {
			t.Errorf("%s %v: got %d, want %d", c.method, c.path, status, c.status)
		}
	}
}

// joinBy has a stranger join a room of ours, as a proper server would; it gives the join's ID.
func (s *stranger) joinBy(h *house, version id.RoomVersion, room id.RoomID, user id.UserID) id.EventID {
	s.Helper()
	var t struct {
		Event json.RawMessage `json:"event"`
	}
	err := s.client.Ask(s.Context(), remote.Request{
		Server: h.name, Method: "GET", Path: []string{"v1", "make_join", string(room), string(user)}, Query: map[string][]string{"ver": {string(version)}},
	}, &t)
	if err != nil {
		s.Fatal(err)
	}
	join := s.build(version, s.member(t.Event, room, user, "join"))
	eventID := eventIDOf(s.T, version, join)
	if status, code, _ := s.ask(h, "PUT", []string{"v2", "send_join", string(room), string(eventID)}, join); status != 200 {
		s.Fatalf("send_join: got %d %s", status, code)
	}
	return eventID
}

func (s *stranger) member(template json.RawMessage, room id.RoomID, user id.UserID, membership string) pdu.Draft {
	key := string(user)
	d := pdu.Draft{
		Type: "m.room.member", StateKey: &key, Sender: user, RoomID: room, Content: json.RawMessage(`{"membership":"` + membership + `"}`),
		Depth: gjson.GetBytes(template, "depth").Int(),
	}
	for _, v := range gjson.GetBytes(template, "prev_events").Array() {
		d.PrevEvents = append(d.PrevEvents, id.EventID(v.Str))
	}
	for _, v := range gjson.GetBytes(template, "auth_events").Array() {
		d.AuthEvents = append(d.AuthEvents, id.EventID(v.Str))
	}
	return d
}

func TestSendJoinThatIsNone(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice, mallory := interior.account("alice"), id.UserID("@mallory:evil.example")
	const version = id.RoomV11
	room := interior.room(version, alice, "public")
	var tmpl struct {
		Event json.RawMessage `json:"event"`
	}
	err := evil.client.Ask(t.Context(), remote.Request{
		Server: interior.name, Method: "GET", Path: []string{"v1", "make_join", string(room), string(mallory)}, Query: map[string][]string{"ver": {"11"}},
	}, &tmpl)
	if err != nil {
		t.Fatal(err)
	}
	good := evil.member(tmpl.Event, room, mallory, "join")
	other := "@other:evil.example"
	theirs := string(alice)
	for name, change := range map[string]func(d *pdu.Draft){
		"a message":            func(d *pdu.Draft) { d.Type, d.StateKey = "m.room.message", nil },
		"another membership":   func(d *pdu.Draft) { d.Content = json.RawMessage(`{"membership":"knock"}`) },
		"another room":         func(d *pdu.Draft) { d.RoomID = "!other:interior.example" },
		"another's membership": func(d *pdu.Draft) { d.StateKey = &other },
		"another server's":     func(d *pdu.Draft) { d.Sender, d.StateKey = alice, &theirs },
	} {
		d := good
		change(&d)
		raw := evil.build(version, d)
		status, _, _ := evil.ask(interior, "PUT", []string{"v2", "send_join", string(room), string(eventIDOf(t, version, raw))}, raw)
		if status != 400 && status != 403 {
			t.Errorf("%s: got %d, want 400 or 403", name, status)
		}
	}
	raw := evil.build(version, good)
	if status, _, _ := evil.ask(interior, "PUT", []string{"v2", "send_join", string(room), "$another"}, raw); status != 400 {
		t.Errorf("another event ID: got %d, want 400", status)
	}
	unsigned, _ := sjson.DeleteBytes(raw, "signatures")
	if status, _, _ := evil.ask(interior, "PUT", []string{"v2", "send_join", string(room), string(eventIDOf(t, version, raw))}, json.RawMessage(unsigned)); status != 403 {
		t.Errorf("unsigned: got %d, want 403", status)
	}
	if got := interior.membership(room, mallory); got != "" {
		t.Errorf("mallory: got %q, want no membership", got)
	}
	evil.joinBy(interior, version, room, mallory)
	if got := interior.membership(room, mallory); got != event.MembershipJoin {
		t.Errorf("mallory, properly: got %q, want join", got)
	}
}

func TestInviteThatIsNoneGetsNoSignature(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	const version = id.RoomV11
	const room = id.RoomID("!there:evil.example")
	key, nobody, theirs := string(alice), "@nobody:interior.example", "@eve:evil.example"
	good := pdu.Draft{
		Type: "m.room.member", StateKey: &key, Sender: "@mallory:evil.example", RoomID: room, Content: json.RawMessage(`{"membership":"invite"}`),
		PrevEvents: []id.EventID{"$0000000000000000000000000000000000000000000"}, AuthEvents: []id.EventID{}, Depth: 5,
	}
	send := func(version string, d pdu.Draft, path id.RoomID, state ...string) (int, string, json.RawMessage) {
		raw := evil.build(id.RoomV11, d)
		entries := []json.RawMessage{}
		for _, s := range state {
			entries = append(entries, json.RawMessage(s))
		}
		return evil.ask(interior, "PUT", []string{"v2", "invite", string(path), string(eventIDOf(t, id.RoomV11, raw))},
			map[string]any{"room_version": version, "event": raw, "invite_room_state": entries})
	}
	for name, change := range map[string]func(d *pdu.Draft){
		"a message":         func(d *pdu.Draft) { d.Type, d.StateKey = "m.room.message", nil },
		"a join":            func(d *pdu.Draft) { d.Content = json.RawMessage(`{"membership":"join"}`) },
		"another room":      func(d *pdu.Draft) { d.RoomID = "!other:evil.example" },
		"nobody":            func(d *pdu.Draft) { d.StateKey = &nobody },
		"one of theirs":     func(d *pdu.Draft) { d.StateKey = &theirs },
		"in our user's own": func(d *pdu.Draft) { d.Sender = alice },
	} {
		d := good
		change(&d)
		if status, _, body := send("11", d, room); status != 400 && status != 403 {
			t.Errorf("%s: got %d %s, want 400 or 403", name, status, body)
		}
	}
	if status, code, _ := send("99", good, room); status != 400 || code != "M_INCOMPATIBLE_ROOM_VERSION" {
		t.Errorf("unknown version: got %d %s", status, code)
	}
	wish := func(wishes string) {
		t.Helper()
		err := interior.store.Do(t.Context(), func(ctx context.Context) error {
			return interior.store.AccountData.Put(ctx, storage.AccountData{UserID: alice, Type: "org.matrix.msc4155.invite_permission_config", Content: json.RawMessage(wishes)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wish(`{"blocked_servers":["evil.example"]}`)
	if status, code, body := send("11", good, room); status != 403 || code != "M_INVITE_BLOCKED" {
		t.Errorf("blocked: got %d %s, want 403 and M_INVITE_BLOCKED", status, body)
	}
	if m, err := interior.store.Memberships.Of(t.Context(), room, alice); err != nil || m != nil {
		t.Errorf("blocked: got %+v and error %v, want no membership", m, err)
	}
	wish(`{"ignored_servers":["evil.example"]}`) // is taken in without a word
	status, _, body := send("11", good, room, `[]`, `"x"`, `{"type":"m.room.name"}`, `{"type":"m.room.name","state_key":"","sender":"@mallory:evil.example","content":{"name":"there"}}`)
	if status != 200 || !gjson.GetBytes(body, `event.signatures.interior\.example`).Exists() {
		t.Errorf("good: got %d %s, want our signature", status, body)
	}
	m, err := interior.store.Memberships.Of(t.Context(), room, alice)
	if err != nil || m == nil || m.Membership != event.MembershipInvite || len(m.Stripped) != 1 {
		t.Errorf("got %+v and error %v, want an invite with one piece of stripped state", m, err)
	}
}

// TestBadTemplates: a server that lets us join gives templates which are not what we asked for. Nothing of it is signed.
func TestBadTemplates(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice := interior.account("alice")
	const room = id.RoomID("!there:evil.example")
	var template string
	signed := make(chan json.RawMessage, 1)
	evil.mux.HandleFunc("GET /_matrix/federation/v1/make_join/{room}/{user}", func(rw http.ResponseWriter, r *http.Request) {
		rw.Write([]byte(template))
	})
	evil.mux.HandleFunc("PUT /_matrix/federation/v2/send_join/{room}/{event}", func(rw http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body)
		signed <- body
		rw.Write([]byte(`{"state":[],"auth_chain":[]}`))
	})
	proper := `{"type":"m.room.member","state_key":"` + string(alice) + `","sender":"` + string(alice) + `","room_id":"` + string(room) +
		`","content":{"membership":"join","evil":true},"prev_events":["$0000000000000000000000000000000000000000000"],"auth_events":[],"depth":3,"origin_server_ts":1,"evil":1}`
	change := func(path, value string) string {
		out, err := sjson.SetRaw(proper, path, value)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, ev := range map[string]string{
		"another type":       change("type", `"m.room.power_levels"`),
		"another room":       change("room_id", `"!other:evil.example"`),
		"another sender":     change("sender", `"@bob:interior.example"`),
		"another state key":  change("state_key", `"@bob:interior.example"`),
		"another membership": change("content.membership", `"ban"`),
		"bad references":     change("prev_events", `["nothing"]`),
		"no object":          `[]`,
	} {
		template = `{"room_version":"11","event":` + ev + `}`
		if err := interior.tryJoin(room, alice, &house{name: evil.name}); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
		select {
		case raw := <-signed:
			t.Errorf("%s: we signed %s", name, raw)
		default:
		}
	}
	template = `{"room_version":"99","event":` + proper + `}`
	if err := interior.tryJoin(room, alice, &house{name: evil.name}); err == nil {
		t.Error("unknown version: got no error, want one")
	}
	// A proper template is signed, but none of its extras; the state without a create event is not believed.
	template = `{"room_version":"11","event":` + proper + `}`
	if err := interior.tryJoin(room, alice, &house{name: evil.name}); err == nil {
		t.Error("a room without a create event: got no error, want one")
	}
	raw := <-signed
	if gjson.GetBytes(raw, "evil").Exists() || gjson.GetBytes(raw, "content.evil").Exists() {
		t.Errorf("foreign keys were taken over: %s", raw)
	}
	if got := interior.membership(room, alice); got != "" {
		t.Errorf("alice: got %q, want no membership", got)
	}
}

// TestTransactions: what a stranger who is in a room may send, and what becomes of it.
func TestTransactions(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	alice, mallory := interior.account("alice"), id.UserID("@mallory:evil.example")
	const version = id.RoomV11
	room := interior.room(version, alice, "public")
	join := evil.joinBy(interior, version, room, mallory)
	create, levels := evil.stateIDs(interior, room, join)
	n := int64(0)
	message := func(text string, parents ...id.EventID) json.RawMessage {
		n++
		return evil.build(version, pdu.Draft{
			Type: "m.room.message", Sender: mallory, RoomID: room, Content: json.RawMessage(`{"msgtype":"m.text","body":"` + text + `"}`),
			PrevEvents: parents, AuthEvents: []id.EventID{create, levels, join}, Depth: 100 + n,
		})
	}
	send := func(txn string, pdus ...json.RawMessage) json.RawMessage {
		t.Helper()
		status, code, body := evil.ask(interior, "PUT", []string{"v1", "send", txn}, map[string]any{
			"origin": evil.name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus,
		})
		if status != 200 {
			t.Fatalf("transaction %s: got %d %s", txn, status, code)
		}
		return body
	}
	verdict := func(answer json.RawMessage, raw json.RawMessage) string {
		t.Helper()
		v := gjson.GetBytes(answer, "pdus."+gjson.Escape(string(eventIDOf(t, version, raw))))
		if !v.Exists() {
			t.Errorf("no verdict in %s", answer)
		}
		return v.Get("error").Str
	}
	first := message("first", join)
	firstID := eventIDOf(t, version, first)
	forged, _ := sjson.SetBytes(message("forged", join), "sender", "@alice:interior.example")
	unsigned, _ := sjson.DeleteBytes(message("unsigned", join), "signatures")
	changed, _ := sjson.SetBytes(message("changed", join), "content.body", "other")
	float, _ := sjson.SetRawBytes(message("float", join), "content.n", []byte("1.5"))
	foreign := evil.build(version, pdu.Draft{Type: "m.room.message", Sender: mallory, RoomID: "!unknown:evil.example", Content: json.RawMessage(`{}`),
		PrevEvents: []id.EventID{join}, AuthEvents: []id.EventID{}, Depth: 3})
	answer := send("1", first, forged, unsigned, changed, float, foreign, json.RawMessage(`{"room_id":5}`), json.RawMessage(`"x"`))
	for name, c := range map[string]struct {
		raw  json.RawMessage
		good bool
	}{
		"first": {first, true}, "forged": {forged, false}, "unsigned": {unsigned, false}, "unknown room": {foreign, false},
		"changed content": {changed, true}, // it comes in, pruned
	} {
		if got := verdict(answer, c.raw); (got == "") != c.good {
			t.Errorf("%s: got verdict %q, want good %v", name, got, c.good)
		}
	}
	if !interior.has(firstID) {
		t.Error("the good event did not come in")
	}
	if e, _ := interior.store.Events.ByID(t.Context(), eventIDOf(t, version, changed)); e == nil || gjson.GetBytes(e.JSON, "content.body").Exists() {
		t.Errorf("the changed event: got %v, want it pruned", e)
	}
	// The same transaction again: the same answer, and nothing of what it holds now; after a restart too.
	later := message("later", firstID)
	for range 2 {
		if again := send("1", later); string(again) != string(answer) {
			t.Errorf("repeated: got %s, want %s", again, answer)
		}
		if interior.has(eventIDOf(t, version, later)) {
			t.Error("a repeated transaction was worked again")
		}
		interior.wait("the answer to be kept", func() bool {
			kept, err := interior.store.Received.Answer(t.Context(), evil.name, "1")
			return err == nil && kept != nil
		})
		interior.restart()
	}
	// What was banned stays out.
	interior.set(room, alice, "m.room.member", string(mallory), `{"membership":"ban"}`)
	after := message("after the ban", firstID)
	send("2", after)
	if interior.has(eventIDOf(t, version, after)) {
		t.Error("a banned user's event on old state was shown")
	}
	// An ACL keeps the whole server out.
	interior.set(room, alice, "m.room.server_acl", "", `{"allow":["*"],"deny":["EVIL.example"]}`)
	barred := message("barred", firstID)
	if got := verdict(send("3", barred), barred); !strings.Contains(got, "ACL") {
		t.Errorf("barred by the ACL: got verdict %q", got)
	}
	if status, _, _ := evil.ask(interior, "GET", []string{"v1", "event", string(firstID)}, nil); status != 403 {
		t.Errorf("event for a barred server: got %d, want 403", status)
	}
}

// stateIDs gives the create and power levels events of a room, as state_ids and event tell.
func (s *stranger) stateIDs(h *house, room id.RoomID, at id.EventID) (create, levels id.EventID) {
	s.Helper()
	var answer struct {
		IDs []id.EventID `json:"pdu_ids"`
	}
	err := s.client.Ask(s.Context(), remote.Request{
		Server: h.name, Method: "GET", Path: []string{"v1", "state_ids", string(room)}, Query: map[string][]string{"event_id": {string(at)}},
	}, &answer)
	if err != nil {
		s.Fatal(err)
	}
	for _, eventID := range answer.IDs {
		_, _, body := s.ask(h, "GET", []string{"v1", "event", string(eventID)}, nil)
		switch gjson.GetBytes(body, "pdus.0.type").Str {
		case "m.room.create":
			create = eventID
		case "m.room.power_levels":
			levels = eventID
		}
	}
	return create, levels
}

// TestGapIsFilled: a transaction holds only the newest of a line of events; the others are fetched.
func TestGapIsFilled(t *testing.T) {
	for _, way := range []string{"missing events", "state", "nothing"} {
		t.Run(way, func(t *testing.T) {
			w := newTown(t, "interior.example", "evil.example")
			interior, evil := w.open("interior.example"), w.stranger("evil.example")
			alice, mallory := interior.account("alice"), id.UserID("@mallory:evil.example")
			const version = id.RoomV11
			room := interior.room(version, alice, "public")
			join := evil.joinBy(interior, version, room, mallory)
			create, levels := evil.stateIDs(interior, room, join)
			var line []json.RawMessage
			parent := join
			for i := range 5 {
				raw := evil.build(version, pdu.Draft{
					Type: "m.room.message", Sender: mallory, RoomID: room, Content: json.RawMessage(`{"body":"` + numbered(i) + `"}`),
					PrevEvents: []id.EventID{parent}, AuthEvents: []id.EventID{create, levels, join}, Depth: int64(50 + i),
				})
				line, parent = append(line, raw), eventIDOf(t, version, raw)
			}
			last := line[4]
			asked := make(chan string, 100)
			evil.mux.HandleFunc("POST /_matrix/federation/v1/get_missing_events/{room}", func(rw http.ResponseWriter, r *http.Request) {
				asked <- "get_missing_events"
				answer := []json.RawMessage{}
				switch way {
				case "missing events":
					answer = line[:4]
				case "state": // the parent alone, whose own parents are not told
					answer = line[3:4]
				}
				_ = json.NewEncoder(rw).Encode(map[string]any{"events": answer})
			})
			evil.mux.HandleFunc("GET /_matrix/federation/v1/state_ids/{room}", func(rw http.ResponseWriter, r *http.Request) {
				asked <- "state_ids"
				if way == "nothing" {
					rw.WriteHeader(404)
					rw.Write([]byte(`{"errcode":"M_NOT_FOUND"}`))
					return
				}
				state, err := interior.store.State.At(r.Context(), current(interior, room))
				if err != nil {
					t.Error(err)
				}
				var numbers []int64
				for _, n := range state {
					numbers = append(numbers, n)
				}
				byNumber, err := interior.store.Events.IDs(r.Context(), numbers)
				if err != nil {
					t.Error(err)
				}
				ids := []id.EventID{}
				for _, eventID := range byNumber {
					ids = append(ids, eventID)
				}
				_ = json.NewEncoder(rw).Encode(map[string]any{"pdu_ids": ids, "auth_chain_ids": []string{}})
			})
			evil.mux.HandleFunc("GET /_matrix/federation/v1/event/{event}", func(rw http.ResponseWriter, r *http.Request) {
				asked <- "event"
				for _, raw := range line[:4] {
					if string(eventIDOf(t, version, raw)) == r.PathValue("event") && way == "state" {
						_ = json.NewEncoder(rw).Encode(map[string]any{"pdus": []json.RawMessage{raw}})
						return
					}
				}
				rw.WriteHeader(404)
				rw.Write([]byte(`{"errcode":"M_NOT_FOUND"}`))
			})
			status, code, body := evil.ask(interior, "PUT", []string{"v1", "send", "1"}, map[string]any{"pdus": []json.RawMessage{last}})
			if status != 200 {
				t.Fatalf("got %d %s", status, code)
			}
			if got := gjson.GetBytes(body, "pdus."+gjson.Escape(string(parent))+".error").Str; got != "" {
				t.Errorf("verdict: got %q, want none", got)
			}
			interior.wait("the end of the gap", func() bool {
				aside, err := interior.store.Received.AsideIn(t.Context(), room, 10)
				return err == nil && len(aside) == 0
			})
			if got, want := interior.has(parent), way != "nothing"; got != want {
				t.Errorf("the last event is there: got %v, want %v", got, want)
			}
			for i, raw := range line[:4] {
				if got, want := interior.has(eventIDOf(t, version, raw)), way == "missing events" || way == "state" && i >= 2; got != want {
					t.Errorf("event %d is there: got %v, want %v", i, got, want)
				}
			}
			// The room goes on in any case.
			interior.say(room, alice, "we go on")
			if len(asked) == 0 {
				t.Error("nothing was asked")
			}
			if len(asked) > 30 {
				t.Errorf("%d questions for one gap", len(asked))
			}
		})
	}
}

// inviteOf is a stranger's invite of a user.
func inviteOf(user id.UserID, room id.RoomID) pdu.Draft {
	key := string(user)
	return pdu.Draft{
		Type: "m.room.member", StateKey: &key, Sender: "@mallory:evil.example", RoomID: room, Content: json.RawMessage(`{"membership":"invite"}`),
		PrevEvents: []id.EventID{"$0000000000000000000000000000000000000000000"}, AuthEvents: []id.EventID{}, Depth: 5,
	}
}
