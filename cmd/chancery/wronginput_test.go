package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// answered is what a raw request got.
type answered struct {
	status int
	code   string
	body   []byte
	header http.Header
}

// has reads one string of the answer.
func (a answered) has(key string) string {
	var fields map[string]any
	_ = json.Unmarshal(a.body, &fields) // what is no object has no key
	text, _ := fields[key].(string)
	return text
}

// raw asks the client API as no library would. A body is sent as it is.
func raw(t *testing.T, method, address, token string, body io.Reader, header ...string) answered {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return answerTo(t, http.DefaultClient, request)
}

func answerTo(t *testing.T, client *http.Client, request *http.Request) answered {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", request.Method, request.URL.Path, err)
	}
	return answerOf(t, request, response)
}

// answerOf reads an answer to its end.
func answerOf(t *testing.T, request *http.Request, response *http.Response) answered {
	t.Helper()
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", request.Method, request.URL.Path, err)
	}
	a := answered{status: response.StatusCode, body: content, header: response.Header}
	a.code = a.has("errcode")
	return a
}

// wrongCase is one thing that somebody tries, and what they must see.
type wrongCase struct {
	name   string
	method string
	// path is what follows the client API's address. {room} is alice's private room, {event} an event in it, {other} a
	// room of bob's, {alice}, {bob} and {stranger} are user IDs; txn is made anew each time.
	path   string
	as     string // whose token; none if empty
	body   string
	status int
	code   string // any if empty
}

// wrongHouse is a server with people and rooms, to try things on.
type wrongHouse struct {
	*testHouse
	// finance is another server, which a test plays.
	finance *peer
	people  map[string]*mautrix.Client
	names   map[string]string
}

func newWrongHouse(t *testing.T, database func() string) *wrongHouse {
	t.Helper()
	configs := testConfigs(t, database, "interior.test", "finance.test")
	house := &testHouse{t: t, config: configs[0], url: configs[0].Client.PublicURL}
	house.open()
	t.Cleanup(house.close)
	w := &wrongHouse{testHouse: house, finance: newPeer(t, house, configs[1]), people: map[string]*mautrix.Client{}, names: map[string]string{}}
	for _, name := range []string{"alice", "bob", "gone", "stranger"} {
		w.people[name] = w.person(name)
		w.names[name] = w.people[name].UserID.String()
	}
	alice, ctx := w.people["alice"], t.Context()
	room := must(alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Invite: []id.UserID{w.people["bob"].UserID, w.people["gone"].UserID},
	}))(t, "create room").RoomID
	must(w.people["bob"].JoinRoomByID(ctx, room))(t, "bob joins")
	must(w.people["gone"].JoinRoomByID(ctx, room))(t, "gone joins")
	sent := must(alice.SendText(ctx, room, "for members"))(t, "send").EventID
	must(w.people["gone"].LeaveRoom(ctx, room))(t, "gone leaves")
	later := must(alice.SendText(ctx, room, "after they left"))(t, "send").EventID
	must(alice.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "a secret topic"}))(t, "topic")
	other := must(w.people["bob"].CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{alice.UserID}}))(t, "create another").RoomID
	must(alice.JoinRoomByID(ctx, other))(t, "alice joins bob's room")
	elsewhere := must(w.people["bob"].SendText(ctx, other, "elsewhere"))(t, "send elsewhere").EventID
	public := must(w.people["bob"].CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create a third").RoomID
	w.names["room"], w.names["event"], w.names["later"] = room.String(), sent.String(), later.String()
	w.names["other"], w.names["elsewhere"], w.names["bobs"] = other.String(), elsewhere.String(), public.String()
	return w
}

// fill puts names into a path or a body.
func (w *wrongHouse) fill(text string, escape func(string) string) string {
	for name, value := range w.names {
		text = strings.ReplaceAll(text, "{"+name+"}", escape(value))
	}
	return strings.ReplaceAll(text, "{txn}", rand.Text())
}

func (w *wrongHouse) try(t *testing.T, c wrongCase) answered {
	t.Helper()
	token := ""
	if c.as != "" {
		token = w.people[c.as].AccessToken
	}
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(w.fill(c.body, func(s string) string { return s }))
	}
	return raw(t, c.method, w.url+w.fill(c.path, url.PathEscape), token, body)
}

// check tries all cases: status and errcode as wanted, JSON and CORS on every refusal.
func (w *wrongHouse) check(t *testing.T, cases []wrongCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := w.try(t, c)
			if got.status != c.status || c.code != "" && got.code != c.code {
				t.Errorf("%s %s as %q: got %d %s, want %d %s; the answer: %.300s", c.method, c.path, c.as, got.status, got.code, c.status, c.code, got.body)
			}
			if got.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s: no CORS header on the answer %d", c.method, c.path, got.status)
			}
			if got.status >= 400 && got.has("error") == "" {
				t.Errorf("%s %s: the refusal has no text: %.300s", c.method, c.path, got.body)
			}
		})
	}
}

const (
	client = "/_matrix/client/v3"
	rooms  = client + "/rooms/{room}"
)

// shapes are bodies that are wrong wherever they come (threats I1-I4, I6).
var shapes = []struct {
	name, body string
	status     int
	code       string
}{
	{"cut off", `{"body":`, 400, "M_NOT_JSON"},
	{"no JSON", `hello`, 400, "M_NOT_JSON"},
	{"garbage behind", `{} x`, 400, "M_NOT_JSON"},
	{"two values", `{}{}`, 400, "M_NOT_JSON"},
	{"array", `[]`, 400, "M_BAD_JSON"},
	{"null", `null`, 400, "M_BAD_JSON"},
	{"string", `"{}"`, 400, "M_BAD_JSON"},
	{"a hundred thousand levels", `{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 400, "M_BAD_JSON"},
	{"not UTF-8", "{\"body\":\"\xff\xfe\"}", 400, ""},
	{"half a character", `{"body":"\ud800"}`, 400, ""},
	{"the same key twice", `{"body":"a","body":"b"}`, 400, "M_BAD_JSON"},
}

// numbers make no event (threat I3).
var numbers = []struct{ name, value string }{
	{"float", "1.5"}, {"float that is whole", "1.0"}, {"exponent", "1e3"},
	{"beyond 2^53-1", "9007199254740992"}, {"below -(2^53-1)", "-9007199254740992"},
}

// malformed tries every shape on endpoints of each chapter.
func malformed() []wrongCase {
	var cases []wrongCase
	for _, at := range []struct{ name, method, path, as string }{
		{"createRoom", "POST", client + "/createRoom", "alice"},
		{"send", "PUT", rooms + "/send/m.room.message/{txn}", "alice"},
		{"state", "PUT", rooms + "/state/test.chancery/x", "alice"},
		{"invite", "POST", rooms + "/invite", "alice"},
		{"kick", "POST", rooms + "/kick", "alice"},
		{"login", "POST", client + "/login", ""},
		{"account data", "PUT", client + "/user/{alice}/account_data/test.chancery", "alice"},
		{"keys upload", "POST", client + "/keys/upload", "alice"},
		{"keys query", "POST", client + "/keys/query", "alice"},
		{"to-device", "PUT", client + "/sendToDevice/test.chancery/{txn}", "alice"},
		{"filter", "POST", client + "/user/{alice}/filter", "alice"},
		{"public rooms", "POST", client + "/publicRooms", "alice"},
		{"alias", "PUT", client + "/directory/room/%23wrong:interior.test", "alice"},
		{"typing", "PUT", rooms + "/typing/{alice}", "alice"},
		{"display name", "PUT", client + "/profile/{alice}/displayname", "alice"},
	} {
		for _, shape := range shapes {
			cases = append(cases, wrongCase{at.name + ": " + shape.name, at.method, at.path, at.as, shape.body, shape.status, shape.code})
		}
	}
	for _, n := range numbers {
		cases = append(cases,
			wrongCase{"send: " + n.name, "PUT", rooms + "/send/m.room.message/{txn}", "alice", `{"body":"x","n":` + n.value + `}`, 400, "M_BAD_JSON"},
			wrongCase{"send deeper: " + n.name, "PUT", rooms + "/send/m.room.message/{txn}", "alice", `{"body":"x","n":[{"m":` + n.value + `}]}`, 400, "M_BAD_JSON"},
			wrongCase{"state: " + n.name, "PUT", rooms + "/state/test.chancery/x", "alice", `{"n":` + n.value + `}`, 400, "M_BAD_JSON"},
			wrongCase{"createRoom: " + n.name, "POST", client + "/createRoom", "alice", `{"initial_state":[{"type":"test.chancery","content":{"n":` + n.value + `}}]}`, 400, "M_BAD_JSON"},
			wrongCase{"createRoom content: " + n.name, "POST", client + "/createRoom", "alice", `{"creation_content":{"n":` + n.value + `}}`, 400, "M_BAD_JSON"},
		)
	}
	return append(cases,
		wrongCase{"send: nothing", "PUT", rooms + "/send/m.room.message/{txn}", "alice", ` `, 400, "M_NOT_JSON"},
		wrongCase{"invite: nothing", "POST", rooms + "/invite", "alice", ` `, 400, "M_NOT_JSON"},
		wrongCase{"createRoom: name of a wrong type", "POST", client + "/createRoom", "alice", `{"name":5}`, 400, "M_BAD_JSON"},
		wrongCase{"createRoom: invite of a wrong type", "POST", client + "/createRoom", "alice", `{"invite":{}}`, 400, "M_BAD_JSON"},
		wrongCase{"login: type of a wrong type", "POST", client + "/login", "", `{"type":1}`, 400, "M_BAD_JSON"},
		wrongCase{"login: unknown type", "POST", client + "/login", "", `{"type":"m.login.nonsense"}`, 400, ""},
		wrongCase{"invite: user of a wrong type", "POST", rooms + "/invite", "alice", `{"user_id":[]}`, 400, "M_BAD_JSON"},
		wrongCase{"invite: nobody", "POST", rooms + "/invite", "alice", `{}`, 400, ""},
		wrongCase{"invite: no user ID", "POST", rooms + "/invite", "alice", `{"user_id":"bob"}`, 400, ""},
	)
}

// tooMuch are sizes beyond the limits (threats I5, I9).
func tooMuch() []wrongCase {
	big := func(n int) string { return `{"body":"` + strings.Repeat("x", n) + `"}` }
	long := strings.Repeat("t", 256)
	return []wrongCase{
		{"event of 64 KiB and one byte", "PUT", rooms + "/send/m.room.message/{txn}", "alice", big(65536 + 1 - len(big(0))), 413, "M_TOO_LARGE"},
		{"state of 64 KiB", "PUT", rooms + "/state/test.chancery/x", "alice", big(65536 - len(big(0))), 413, "M_TOO_LARGE"},
		{"event that grows over the limit by its envelope", "PUT", rooms + "/send/m.room.message/{txn}", "alice", big(65300), 413, "M_TOO_LARGE"},
		{"ten megabytes as an event", "PUT", rooms + "/send/m.room.message/{txn}", "alice", big(10 << 20), 413, "M_TOO_LARGE"},
		{"ten megabytes as a login", "POST", client + "/login", "", big(10 << 20), 413, "M_TOO_LARGE"},
		{"type of 256 bytes", "PUT", rooms + "/send/" + long + "/{txn}", "alice", `{}`, 413, "M_TOO_LARGE"},
		{"state key of 256 bytes", "PUT", rooms + "/state/test.chancery/" + long, "alice", `{}`, 413, "M_TOO_LARGE"},
		{"createRoom with a state event of 64 KiB", "POST", client + "/createRoom", "alice", `{"initial_state":[{"type":"test.chancery","content":` + big(65536) + `}]}`, 413, "M_TOO_LARGE"},
	}
}

// nowhere are paths and methods that we do not have, and rooms that nobody has (threat I11).
func nowhere() []wrongCase {
	unknown := client + "/rooms/%21nosuch:interior.test"
	return []wrongCase{
		{"unknown path", "GET", client + "/no/such/thing", "alice", "", 404, "M_UNRECOGNIZED"},
		{"unknown path outside", "GET", "/_matrix/nothing", "", "", 404, "M_UNRECOGNIZED"},
		{"wrong method", "DELETE", client + "/createRoom", "alice", "", 405, "M_UNRECOGNIZED"},
		{"wrong method of a room", "PATCH", rooms + "/invite", "alice", `{}`, 405, "M_UNRECOGNIZED"},
		{"send to an unknown room", "PUT", unknown + "/send/m.room.message/{txn}", "alice", `{"body":"x"}`, 403, "M_FORBIDDEN"},
		{"state of an unknown room", "GET", unknown + "/state", "alice", "", 403, "M_FORBIDDEN"},
		{"members of an unknown room", "GET", unknown + "/members", "alice", "", 403, "M_FORBIDDEN"},
		{"messages of an unknown room", "GET", unknown + "/messages?dir=b", "alice", "", 403, "M_FORBIDDEN"},
		{"invite to an unknown room", "POST", unknown + "/invite", "alice", `{"user_id":"{bob}"}`, 403, "M_FORBIDDEN"},
		{"join of an unknown room", "POST", client + "/join/%21nosuch:interior.test", "alice", `{}`, 404, "M_NOT_FOUND"},
		{"join of an unknown alias", "POST", client + "/join/%23nosuch:interior.test", "alice", `{}`, 404, "M_NOT_FOUND"},
		{"leave of an unknown room", "POST", unknown + "/leave", "alice", `{}`, 404, ""},
		{"a room ID that is none", "PUT", client + "/rooms/nonsense/send/m.room.message/{txn}", "alice", `{}`, 400, "M_INVALID_PARAM"},
		{"a user ID that is none", "GET", client + "/profile/nonsense", "alice", "", 400, "M_INVALID_PARAM"},
		{"profile of nobody", "GET", client + "/profile/@nobody:interior.test", "alice", "", 404, "M_NOT_FOUND"},
		{"unknown event", "GET", rooms + "/event/$nosuch", "alice", "", 404, "M_NOT_FOUND"},
		{"unknown state", "GET", rooms + "/state/test.nothing", "alice", "", 404, "M_NOT_FOUND"},
	}
}

// numbersInQueries are absurd parameters (threat I8).
func numbersInQueries() []wrongCase {
	return []wrongCase{
		{"limit beyond all", "GET", rooms + "/messages?dir=b&limit=99999999999", "alice", "", 200, ""},
		{"limit below zero", "GET", rooms + "/messages?dir=b&limit=-1", "alice", "", 200, ""},
		{"limit that is none", "GET", rooms + "/messages?dir=b&limit=ten", "alice", "", 400, "M_INVALID_PARAM"},
		{"no direction", "GET", rooms + "/messages", "alice", "", 400, ""},
		{"wrong direction", "GET", rooms + "/messages?dir=x", "alice", "", 400, "M_INVALID_PARAM"},
		{"token that is none", "GET", rooms + "/messages?dir=b&from=garbage", "alice", "", 400, "M_INVALID_PARAM"},
		{"filter that is none", "GET", rooms + "/messages?dir=b&filter=%7B", "alice", "", 400, ""},
		{"since that is none", "GET", client + "/sync?since=garbage", "alice", "", 400, ""},
		{"timeout that is none", "GET", client + "/sync?timeout=soon", "alice", "", 400, "M_INVALID_PARAM"},
		{"filter that is not there", "GET", client + "/sync?filter=nosuch", "alice", "", 400, ""},
		{"public rooms with a limit below zero", "POST", client + "/publicRooms", "alice", `{"limit":-3}`, 200, ""},
		{"public rooms from nowhere", "GET", client + "/publicRooms?since=garbage", "alice", "", 400, "M_INVALID_PARAM"},
	}
}

// tokens are missing or wrong (threat A8).
func badTokens() []wrongCase {
	return []wrongCase{
		{"no token", "GET", client + "/account/whoami", "", "", 401, "M_MISSING_TOKEN"},
		{"token in the query", "GET", client + "/account/whoami?access_token={token}", "", "", 401, "M_MISSING_TOKEN"},
		{"no token for sync", "GET", client + "/sync", "", "", 401, "M_MISSING_TOKEN"},
		{"no token to send", "PUT", rooms + "/send/m.room.message/{txn}", "", `{}`, 401, "M_MISSING_TOKEN"},
	}
}

// strangers look at a private room (threats V1, V6).
func strangers() []wrongCase {
	v1 := "/_matrix/client/v1/rooms/{room}"
	var cases []wrongCase
	for _, path := range []string{
		rooms + "/state", rooms + "/state/m.room.create", rooms + "/state/m.room.topic", rooms + "/members", rooms + "/joined_members",
		rooms + "/messages?dir=b", rooms + "/aliases", rooms + "/context/{event}", v1 + "/relations/{event}", v1 + "/threads", v1 + "/timestamp_to_event?ts=0&dir=f",
	} {
		cases = append(cases, wrongCase{"stranger: GET " + path, "GET", path, "stranger", "", 403, "M_FORBIDDEN"})
	}
	cases = append(cases, wrongCase{"stranger: GET event", "GET", rooms + "/event/{event}", "stranger", "", 404, "M_NOT_FOUND"})
	return append(cases,
		wrongCase{"stranger: hierarchy", "GET", v1 + "/hierarchy", "stranger", "", 403, "M_FORBIDDEN"},
		wrongCase{"stranger: summary", "GET", "/_matrix/client/v1/room_summary/{room}", "stranger", "", 404, "M_NOT_FOUND"},
		wrongCase{"stranger: send", "PUT", rooms + "/send/m.room.message/{txn}", "stranger", `{"body":"x"}`, 403, "M_FORBIDDEN"},
		wrongCase{"stranger: join", "POST", rooms + "/join", "stranger", `{}`, 403, "M_FORBIDDEN"},
		wrongCase{"stranger: invite", "POST", rooms + "/invite", "stranger", `{"user_id":"{stranger}"}`, 403, "M_FORBIDDEN"},
		wrongCase{"stranger: receipt", "POST", rooms + "/receipt/m.read/{event}", "stranger", `{}`, 403, "M_FORBIDDEN"},
		wrongCase{"stranger: typing", "PUT", rooms + "/typing/{stranger}", "stranger", `{"typing":true}`, 403, "M_FORBIDDEN"},
		wrongCase{"stranger: redact", "PUT", rooms + "/redact/{event}/{txn}", "stranger", `{}`, 403, "M_FORBIDDEN"},
		wrongCase{"typing as another", "PUT", rooms + "/typing/{bob}", "alice", `{"typing":true}`, 403, "M_FORBIDDEN"},
		wrongCase{"account data of another", "GET", client + "/user/{bob}/account_data/m.direct", "alice", "", 403, "M_FORBIDDEN"},
		wrongCase{"filter of another", "POST", client + "/user/{bob}/filter", "alice", `{}`, 403, "M_FORBIDDEN"},
		wrongCase{"display name of another", "PUT", client + "/profile/{bob}/displayname", "alice", `{"displayname":"x"}`, 403, "M_FORBIDDEN"},
		wrongCase{"OpenID token of another", "POST", client + "/user/{bob}/openid/request_token", "alice", `{}`, 403, "M_FORBIDDEN"},

		// V2: who has left sees what was theirs.
		wrongCase{"left: an event of their time", "GET", rooms + "/event/{event}", "gone", "", 200, ""},
		wrongCase{"left: a later event", "GET", rooms + "/event/{later}", "gone", "", 404, "M_NOT_FOUND"},
		wrongCase{"left: context of a later event", "GET", rooms + "/context/{later}", "gone", "", 404, "M_NOT_FOUND"},
		wrongCase{"left: later state", "GET", rooms + "/state/m.room.topic", "gone", "", 404, "M_NOT_FOUND"},
		wrongCase{"left: joined members", "GET", rooms + "/joined_members", "gone", "", 403, "M_FORBIDDEN"},
		wrongCase{"left: send", "PUT", rooms + "/send/m.room.message/{txn}", "gone", `{}`, 403, "M_FORBIDDEN"},
		wrongCase{"left: back in uninvited", "POST", rooms + "/join", "gone", `{}`, 403, "M_FORBIDDEN"},

		// V4: another room's event.
		wrongCase{"foreign event: read", "GET", rooms + "/event/{elsewhere}", "alice", "", 404, "M_NOT_FOUND"},
		wrongCase{"foreign event: context", "GET", rooms + "/context/{elsewhere}", "alice", "", 404, "M_NOT_FOUND"},
		wrongCase{"foreign event: relations", "GET", v1 + "/relations/{elsewhere}", "alice", "", 404, "M_NOT_FOUND"},
		wrongCase{"foreign event: redact", "PUT", rooms + "/redact/{elsewhere}/{txn}", "alice", `{}`, 404, "M_NOT_FOUND"},
		wrongCase{"foreign event: receipt", "POST", rooms + "/receipt/m.read/{elsewhere}", "alice", `{}`, 404, "M_NOT_FOUND"},
	)
}

// levels replaces one power level in the levels of {room}.
func levels(change string) string {
	base := map[string]any{
		"users": map[string]any{"@alice:interior.test": 100}, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": 0,
	}
	var changed map[string]any
	if err := json.Unmarshal([]byte(change), &changed); err != nil {
		panic(err) // the table is wrong
	}
	for key, value := range changed {
		base[key] = value
	}
	text, _ := json.Marshal(base) // what came from JSON goes there
	return string(text)
}

// powerless try what power levels and rules forbid (threats R1-R7).
func powerless() []wrongCase {
	power := rooms + "/state/m.room.power_levels/"
	create := client + "/createRoom"
	cases := []wrongCase{
		{"powerless: name", "PUT", rooms + "/state/m.room.name/", "bob", `{"name":"mine"}`, 403, "M_FORBIDDEN"},
		{"powerless: kick", "POST", rooms + "/kick", "bob", `{"user_id":"{alice}"}`, 403, "M_FORBIDDEN"},
		{"powerless: ban", "POST", rooms + "/ban", "bob", `{"user_id":"{alice}"}`, 403, "M_FORBIDDEN"},
		{"powerless: redact", "PUT", rooms + "/redact/{event}/{txn}", "bob", `{}`, 403, "M_FORBIDDEN"},
		{"powerless: levels", "PUT", power, "bob", levels(`{}`), 403, "M_FORBIDDEN"},
		{"powerless: upgrade", "POST", rooms + "/upgrade", "bob", `{"new_version":"12"}`, 403, "M_FORBIDDEN"},
		{"powerless: tombstone", "PUT", rooms + "/state/m.room.tombstone/", "bob", `{"replacement_room":"{other}","body":"x"}`, 403, "M_FORBIDDEN"},
		{"power above one's own", "PUT", power, "alice", levels(`{"users":{"@alice:interior.test":100,"@bob:interior.test":101}}`), 403, "M_FORBIDDEN"},
		{"kick of nobody", "POST", rooms + "/kick", "alice", `{"user_id":"@nobody:interior.test"}`, 403, "M_FORBIDDEN"},
		{"unban of who is not banned", "POST", rooms + "/unban", "alice", `{"user_id":"{bob}"}`, 403, ""},
		{"invite of a member", "POST", rooms + "/invite", "alice", `{"user_id":"{bob}"}`, 403, "M_FORBIDDEN"},
		{"second create event", "PUT", rooms + "/state/m.room.create/", "alice", `{"room_version":"11","twice":true}`, 400, "M_INVALID_PARAM"},
		{"another's state key", "PUT", rooms + "/state/test.chancery/{bob}", "alice", `{}`, 403, "M_FORBIDDEN"},
		{"another's member event", "PUT", rooms + "/state/m.room.member/{bob}", "alice", `{"membership":"join"}`, 403, "M_FORBIDDEN"},
		{"member event of a stranger as a join", "PUT", rooms + "/state/m.room.member/{stranger}", "stranger", `{"membership":"join"}`, 403, "M_FORBIDDEN"},
		{"join with an authorising user of one's own choice", "PUT", rooms + "/state/m.room.member/{stranger}", "stranger",
			`{"membership":"join","join_authorised_via_users_server":"{alice}"}`, 403, "M_FORBIDDEN"},
		{"knock where nobody may", "POST", client + "/knock/{room}", "stranger", `{}`, 403, "M_FORBIDDEN"},

		{"alias of another server", "PUT", client + "/directory/room/%23desk:finance.test", "alice", `{"room_id":"{room}"}`, 400, "M_INVALID_PARAM"},
		{"alias that is none", "PUT", client + "/directory/room/desk", "alice", `{"room_id":"{room}"}`, 400, "M_INVALID_PARAM"},
		{"alias for a room not there", "PUT", client + "/directory/room/%23void:interior.test", "alice", `{"room_id":"!nosuch:interior.test"}`, 0, ""},
		{"canonical alias that does not resolve", "PUT", rooms + "/state/m.room.canonical_alias/", "alice", `{"alias":"#nosuch:interior.test"}`, 400, "M_BAD_ALIAS"},
		{"canonical alias that is none", "PUT", rooms + "/state/m.room.canonical_alias/", "alice", `{"alias":"nonsense"}`, 400, "M_INVALID_PARAM"},

		{"createRoom of an unknown version", "POST", create, "alice", `{"room_version":"99"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"createRoom of a version that is no string", "POST", create, "alice", `{"room_version":11}`, 400, "M_BAD_JSON"},
		{"createRoom with an unknown preset", "POST", create, "alice", `{"preset":"cosy_chat"}`, 400, ""},
		{"createRoom with an unknown visibility", "POST", create, "alice", `{"visibility":"dim"}`, 400, ""},
		{"createRoom with initial state that is none", "POST", create, "alice", `{"initial_state":[{"type":"m.room.topic","content":"x"}]}`, 400, ""},
		{"createRoom with levels above the creator's", "POST", create, "alice", `{"power_level_content_override":{"users":{"{alice}":0},"events":{"m.room.name":50}},"name":"x"}`, 400, ""},
		{"createRoom with levels of a wrong type", "POST", create, "alice", `{"power_level_content_override":{"users":{"{alice}":"100"}}}`, 400, ""},
		{"createRoom with levels for nonsense", "POST", create, "alice", `{"power_level_content_override":{"users":{"{alice}":100,"nonsense":50}}}`, 400, ""},
		{"createRoom inviting nonsense", "POST", create, "alice", `{"invite":["nonsense"]}`, 400, ""},
		{"createRoom with an alias that is none", "POST", create, "alice", `{"room_alias_name":"has space:and colon"}`, 400, "M_INVALID_PARAM"},
	}
	cases = cases[:len(cases):len(cases)]
	for i, c := range cases {
		if c.status == 0 { // not the spec's matter which
			cases[i].status, cases[i].code = 404, "M_NOT_FOUND"
		}
	}
	// R2: each level, above what alice has.
	for _, level := range []string{"users_default", "events_default", "state_default", "ban", "kick", "redact", "invite"} {
		cases = append(cases, wrongCase{"level above one's own: " + level, "PUT", power, "alice", levels(`{"` + level + `":101}`), 403, "M_FORBIDDEN"})
	}
	for _, within := range []string{`{"events":{"m.room.name":101}}`, `{"notifications":{"room":101}}`} {
		cases = append(cases, wrongCase{"level above one's own: " + within, "PUT", power, "alice", levels(within), 403, "M_FORBIDDEN"})
	}
	// R3: what is no level.
	for _, wrong := range []string{`{"ban":"50"}`, `{"users_default":null}`, `{"users":{"@bob:interior.test":"50"}}`, `{"events":{"m.room.name":null}}`, `{"users":[]}`, `{"users":{"nonsense":5}}`} {
		cases = append(cases, wrongCase{"no level: " + wrong, "PUT", power, "alice", levels(wrong), 403, ""})
	}
	return cases
}

// TestWrongInput sees that what is wrong gets the spec's status and errcode, on each database.
func TestWrongInput(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		w := newWrongHouse(t, database)
		w.names["token"] = w.people["alice"].AccessToken
		for _, group := range []struct {
			name  string
			cases []wrongCase
		}{
			{"malformed", malformed()}, {"too much", tooMuch()}, {"nowhere", nowhere()}, {"queries", numbersInQueries()},
			{"tokens", badTokens()}, {"strangers", strangers()}, {"powerless", powerless()},
		} {
			t.Run(group.name, func(t *testing.T) { w.check(t, group.cases) })
		}
		t.Run("unknown token", w.tryUnknownToken)
		t.Run("preflight", w.tryPreflight)
		t.Run("no length", w.tryNoLength)
		t.Run("NUL", w.tryNUL)
		t.Run("login", w.tryLogin)
		t.Run("no half-made room", w.tryHalfMadeRoom)
		t.Run("alias taken", w.tryAliasTaken)
		t.Run("visibility", w.tryVisibility)
		t.Run("left behind", w.tryLeftBehind)
		t.Run("replay", w.tryReplay)
		t.Run("call token", w.tryCallToken)
		t.Run("servers", w.tryServers)
	})
}

// tryUnknownToken uses tokens that nobody has, and one that has ended.
func (w *wrongHouse) tryUnknownToken(t *testing.T) {
	ended := signInAgain(t, w.url, "stranger")
	must(ended.Logout(t.Context()))(t, "log out")
	for _, token := range []string{"nonsense", ended.AccessToken, strings.Repeat("x", 10_000), w.people["alice"].AccessToken + "x"} {
		got := raw(t, "GET", w.url+client+"/account/whoami", token, nil)
		if got.status != 401 || got.code != "M_UNKNOWN_TOKEN" {
			t.Errorf("token %.40s: got %d %s, want 401 M_UNKNOWN_TOKEN", token, got.status, got.code)
		}
	}
}

// tryPreflight asks as a browser does before it dares (threat I12).
func (w *wrongHouse) tryPreflight(t *testing.T) {
	for _, path := range []string{client + "/sync", client + "/createRoom", client + "/no/such/thing", "/_matrix/client/versions"} {
		got := raw(t, "OPTIONS", w.url+path, "", nil, "Origin", "https://app.example", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization")
		allow := strings.ToLower(got.header.Get("Access-Control-Allow-Headers"))
		if got.status/100 != 2 || got.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(allow, "authorization") || !strings.Contains(allow, "content-type") ||
			got.header.Get("Access-Control-Allow-Credentials") != "" || !strings.Contains(got.header.Get("Access-Control-Allow-Methods"), "PUT") {
			t.Errorf("preflight of %s: got %d with %v", path, got.status, got.header)
		}
	}
}

// tryNoLength sends a body without end and without its length: it is cut (threat I5). Who goes on writing may find the
// connection reset before the answer was read; then it is asked again.
func (w *wrongHouse) tryNoLength(t *testing.T) {
	var cut error
	for range 10 {
		endless := io.MultiReader(strings.NewReader(`{"body":"`), io.LimitReader(endlessly('x'), 64<<20))
		request, err := http.NewRequestWithContext(t.Context(), "PUT", w.url+w.fill(rooms+"/send/m.room.message/{txn}", url.PathEscape), endless)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+w.people["alice"].AccessToken)
		request.Header.Set("Expect", "100-continue")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			cut = err
			continue
		}
		got := answerOf(t, request, response)
		if got.status != 413 || got.code != "M_TOO_LARGE" {
			t.Errorf("endless body: got %d %s, want 413 M_TOO_LARGE", got.status, got.code)
		}
		return
	}
	t.Errorf("endless body: no answer could be read: %v", cut)
}

type endlessly byte

func (c endlessly) Read(into []byte) (int, error) {
	for i := range into {
		into[i] = byte(c)
	}
	return len(into), nil
}

// tryNUL puts NUL where text goes: refused, or given back as it came; the same on both databases (threat I6).
func (w *wrongHouse) tryNUL(t *testing.T) {
	alice := w.people["alice"].AccessToken
	for _, at := range []wrongCase{
		{method: "PUT", path: rooms + "/send/m.room.message/{txn}", body: `{"body":"a\u0000b"}`},
		{method: "PUT", path: rooms + "/send/m.room.message/{txn}", body: `{"a\u0000b":"x"}`},
		{method: "PUT", path: rooms + "/state/test.chancery/a%00b", body: `{}`},
		{method: "PUT", path: rooms + "/send/a%00b/{txn}", body: `{}`},
		{method: "PUT", path: rooms + "/send/m.room.message/a%00b", body: `{}`},
		{method: "PUT", path: client + "/profile/{alice}/displayname", body: `{"displayname":"a\u0000b"}`},
		{method: "PUT", path: client + "/user/{alice}/account_data/a%00b", body: `{}`},
		{method: "PUT", path: client + "/devices/" + w.people["alice"].DeviceID.String(), body: `{"display_name":"a\u0000b"}`},
		{method: "POST", path: client + "/createRoom", body: `{"name":"a\u0000b"}`},
		{method: "POST", path: client + "/createRoom", body: `{"room_alias_name":"a\u0000b"}`},
		{method: "POST", path: client + "/join/%21a%00b:interior.test", body: `{}`},
		{method: "GET", path: rooms + "/event/a%00b"},
		{method: "GET", path: client + "/profile/@a%00b:interior.test"},
		{method: "GET", path: client + "/directory/room/%23a%00b:interior.test"},
		{method: "GET", path: client + "/sync?since=a%00b"},
		{method: "GET", path: rooms + "/messages?dir=b&from=a%00b"},
		{method: "GET", path: rooms + "/state/a%00b/%ff"},
		{method: "POST", path: client + "/login", body: `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a\u0000b"},"password":"x"}`},
	} {
		var body io.Reader
		if at.body != "" {
			body = strings.NewReader(at.body)
		}
		got := raw(t, at.method, w.url+w.fill(at.path, url.PathEscape), alice, body)
		if got.status >= 500 || got.status >= 400 && got.code == "" || !json.Valid(got.body) {
			t.Errorf("%s %s with NUL (%s): got %d %.200s, want a refusal or JSON", at.method, at.path, at.body, got.status, got.body)
		}
	}
}

// tryLogin tells nobody which names exist (threat A3).
func (w *wrongHouse) tryLogin(t *testing.T) {
	var first answered
	for i, user := range []string{"alice", "nobody", "@alice:interior.test", "@nobody:interior.test", "@alice:elsewhere.test"} {
		got := raw(t, "POST", w.url+client+"/login", "", strings.NewReader(fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":"wrong"}`, user)))
		if i == 0 {
			first = got
		}
		if got.status != 403 || got.code != "M_FORBIDDEN" || !bytes.Equal(got.body, first.body) {
			t.Errorf("wrong password for %s: got %d %s, want 403 and the same words as for alice: %s", user, got.status, got.body, first.body)
		}
	}
}

// tryHalfMadeRoom sees that a creation that is refused leaves nothing (threat R7).
func (w *wrongHouse) tryHalfMadeRoom(t *testing.T) {
	alice := w.people["alice"]
	before := len(must(alice.JoinedRooms(t.Context()))(t, "joined rooms").JoinedRooms)
	body := `{"room_alias_name":"halfmade","initial_state":[{"type":"m.room.member","state_key":"` + w.people["bob"].UserID.String() + `","content":{"membership":"join"}}]}`
	got := raw(t, "POST", w.url+client+"/createRoom", alice.AccessToken, strings.NewReader(body))
	if got.status != 400 {
		t.Errorf("createRoom with a forged member: got %d %s, want 400", got.status, got.body)
	}
	if after := len(must(alice.JoinedRooms(t.Context()))(t, "joined rooms").JoinedRooms); after != before {
		t.Errorf("joined rooms after a refused creation: got %d, want %d", after, before)
	}
	_, err := alice.ResolveAlias(t.Context(), "#halfmade:interior.test")
	wantRefused(t, err, 404, "M_NOT_FOUND", "resolve the alias of a room that was refused")
}

// tryAliasTaken takes and deletes what is another's (threat R6).
func (w *wrongHouse) tryAliasTaken(t *testing.T) {
	ctx, alias := t.Context(), id.RoomAlias("#taken:interior.test")
	must(w.people["alice"].CreateAlias(ctx, alias, id.RoomID(w.names["room"])))(t, "make alias")
	_, err := w.people["bob"].CreateAlias(ctx, alias, id.RoomID(w.names["bobs"]))
	wantRefused(t, err, 409, "M_UNKNOWN", "take an alias that is taken")
	_, err = w.people["stranger"].DeleteAlias(ctx, alias)
	wantRefused(t, err, 403, "M_FORBIDDEN", "delete another's alias")
	_, err = w.people["alice"].SendStateEvent(ctx, id.RoomID(w.names["other"]), event.StateCanonicalAlias, "", &event.CanonicalAliasEventContent{Alias: alias})
	wantRefused(t, err, 400, "M_BAD_ALIAS", "canonical alias of another room, without power")
	_, err = w.people["bob"].SendStateEvent(ctx, id.RoomID(w.names["other"]), event.StateCanonicalAlias, "", &event.CanonicalAliasEventContent{Alias: alias})
	wantRefused(t, err, 400, "M_BAD_ALIAS", "canonical alias of another room")
}

// tryVisibility opens a room later: what was said behind closed doors stays there (threat V3).
func (w *wrongHouse) tryVisibility(t *testing.T) {
	ctx, bob, stranger := t.Context(), w.people["bob"], w.people["stranger"]
	visibility := func(value string) *event.Event {
		return &event.Event{Type: event.StateHistoryVisibility, StateKey: new(string), Content: event.Content{Raw: map[string]any{"history_visibility": value}}}
	}
	room := must(bob.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat", InitialState: []*event.Event{visibility("joined")}}))(t, "create").RoomID
	hidden := must(bob.SendText(ctx, room, "behind closed doors"))(t, "send").EventID
	must(bob.SendStateEvent(ctx, room, event.StateHistoryVisibility, "", visibility("world_readable").Content.Raw))(t, "open")
	open := must(bob.SendText(ctx, room, "for the world"))(t, "send").EventID
	for joined, who := range map[string]*mautrix.Client{"not joined": stranger, "joined": stranger} {
		if joined == "joined" {
			must(who.JoinRoomByID(ctx, room))(t, "join")
		}
		_, err := who.GetEvent(ctx, room, hidden)
		wantRefused(t, err, 404, "M_NOT_FOUND", joined+": read what was hidden")
		if _, err := who.GetEvent(ctx, room, open); err != nil {
			t.Errorf("%s: read what is open: %v", joined, err)
		}
		for _, text := range history(t, who, room) {
			if text == "behind closed doors" {
				t.Errorf("%s: paging back shows what was hidden", joined)
			}
		}
	}
}

// tryLeftBehind pages and reads as somebody who has left: the state and history of then (threat V2).
func (w *wrongHouse) tryLeftBehind(t *testing.T) {
	room, gone := id.RoomID(w.names["room"]), w.people["gone"]
	for _, text := range history(t, gone, room) {
		if text == "after they left" {
			t.Error("who has left pages back through what was said afterwards")
		}
	}
	for _, ev := range must(gone.StateAsArray(t.Context(), room))(t, "state") {
		if ev.Type.Type == "m.room.topic" {
			t.Error("who has left reads state that was set afterwards")
		}
	}
	answer := must(gone.FullSyncRequest(t.Context(), mautrix.ReqSync{FilterID: `{"room":{"include_leave":true}}`}))(t, "sync")
	left := answer.Rooms.Leave[room]
	if left == nil {
		t.Fatal("the left room is not in sync with include_leave")
	}
	for _, ev := range append(left.State.Events, left.Timeline.Events...) {
		if ev.ID.String() == w.names["later"] || ev.Type.Type == "m.room.topic" {
			t.Errorf("who has left syncs %s %s, which came afterwards", ev.Type.Type, ev.ID)
		}
	}
}

// tryReplay sends one transaction eight times at once: one event (threat R8).
func (w *wrongHouse) tryReplay(t *testing.T) {
	ctx, room, alice := t.Context(), id.RoomID(w.names["room"]), w.people["alice"]
	send := func(who *mautrix.Client, kind event.Type, txn string) id.EventID {
		answer, err := who.SendMessageEvent(ctx, room, kind, map[string]any{"body": "once", "msgtype": "m.text"}, mautrix.ReqSendEvent{TransactionID: txn})
		if err != nil {
			t.Errorf("send: %v", err)
			return ""
		}
		return answer.EventID
	}
	ids := make([]id.EventID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i] = send(alice, event.EventMessage, "replayed") })
	}
	wg.Wait()
	for _, got := range ids {
		if got == "" || got != ids[0] {
			t.Errorf("the same transaction eight times: got %v, want one event", ids)
			break
		}
	}
	another := signInAgain(t, w.url, "alice")
	if got := send(another, event.EventMessage, "replayed"); got == ids[0] {
		t.Error("the same transaction ID of another device gave the same event")
	}
	if got := send(alice, event.Type{Type: "test.chancery"}, "replayed"); got == ids[0] {
		t.Error("the same transaction ID on another path gave the same event")
	}
}

// tryCallToken asks the focus for a token: only a member of the room gets one.
func (w *wrongHouse) tryCallToken(t *testing.T) {
	for _, c := range []struct {
		name, room string
		status     int
	}{
		{"alice", w.names["room"], 200}, {"stranger", w.names["room"], 403}, {"gone", w.names["room"], 403}, {"alice", "!nosuch:interior.test", 403},
	} {
		who := w.people[c.name]
		token := must(who.RequestOpenIDToken(t.Context()))(t, "OpenID token")
		openid := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","matrix_server_name":"interior.test","expires_in":3600}`, token.AccessToken)
		for path, body := range map[string]string{
			"/sfu/get":   fmt.Sprintf(`{"room":%q,"openid_token":%s,"device_id":%q}`, c.room, openid, who.DeviceID),
			"/get_token": fmt.Sprintf(`{"room_id":%q,"slot_id":"m.call#ROOM","openid_token":%s,"member":{"id":"x","claimed_user_id":%q,"claimed_device_id":%q}}`, c.room, openid, who.UserID, who.DeviceID),
		} {
			got := raw(t, "POST", w.focus()+path, "", strings.NewReader(body))
			if got.status != c.status || c.status != 200 && got.code != "M_FORBIDDEN" {
				t.Errorf("%s asks %s for %s: got %d %s (%.200s), want %d", c.name, path, c.room, got.status, got.code, got.body, c.status)
			}
		}
	}
}

// signInAgain signs in somebody who is registered, on a new device.
func signInAgain(t *testing.T, url, name string) *mautrix.Client {
	t.Helper()
	client := must(mautrix.NewClient(url, "", ""))(t, "client")
	must(client.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: testPassword(name), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
	}))(t, "sign in "+name)
	return client
}
