package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

const callMemberType = "org.matrix.msc3401.call.member"

// memberPath is where a device says that it is in a call.
func memberPath(room id.RoomID, who *mautrix.Client) string {
	return fmt.Sprintf("/_matrix/client/v3/rooms/%s/state/%s/%s", url.PathEscape(string(room)), callMemberType,
		url.PathEscape(fmt.Sprintf("_%s_%s_m.call", who.UserID, who.DeviceID)))
}

// enterAsElement says in the room that the device is in the call, lets its leave wait for an hour, and gives the leave's ID.
func enterAsElement(t *testing.T, who *mautrix.Client, at *testHouse, room id.RoomID) (delay string) {
	t.Helper()
	var scheduled struct {
		ID string `json:"delay_id"`
	}
	do(t, who, "PUT", memberPath(room, who)+"?org.matrix.msc4140.delay=3600000", struct{}{}, &scheduled)
	sayInCall(t, who, at, room)
	return scheduled.ID
}

func sayInCall(t *testing.T, who *mautrix.Client, at *testHouse, room id.RoomID) {
	t.Helper()
	do(t, who, "PUT", memberPath(room, who), map[string]any{
		"application": "m.call", "call_id": "", "scope": "m.room", "device_id": who.DeviceID, "expires": 14400000,
		"focus_active":   map[string]any{"type": "livekit", "focus_selection": "multi_sfu"},
		"foci_preferred": []any{map[string]any{"type": "livekit", "livekit_alias": room, "livekit_service_url": at.focus()}},
	}, nil)
}

// untilGone waits until the room no longer says that the device is in the call.
func untilGone(t *testing.T, who *mautrix.Client, room id.RoomID) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var content map[string]any
		do(t, who, "GET", memberPath(room, who), nil, &content)
		if len(content) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the room still says of %s: %v", who.UserID, content)
		}
	}
}

// leaveCall says goodbye on the socket, as a client does that ends by itself.
func leaveCall(t *testing.T, ws *websocket.Conn) {
	t.Helper()
	frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}}, false)
	if err == nil {
		err = ws.WriteMessage(websocket.BinaryMessage, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func openIDOf(t *testing.T, who *mautrix.Client) map[string]any {
	t.Helper()
	var token map[string]any
	do(t, who, "POST", fmt.Sprintf("/_matrix/client/v3/user/%s/openid/request_token", who.UserID), struct{}{}, &token)
	return token
}

// TestDelegatedLeave hands leaves over in each of the ways that there are, and looks that they are sent once the client has gone.
func TestDelegatedLeave(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Federation.Remote.ClientURLs = map[string]string{"finance.test": configs[1].Client.PublicURL}
	var houses []*testHouse
	for _, config := range configs {
		house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
		house.open()
		t.Cleanup(house.close)
		houses = append(houses, house)
	}
	interior, finance := houses[0], houses[1]
	anna := interior.person("anna")
	var fetched atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer trap.Close()

	for _, c := range []struct {
		name  string
		house *testHouse
		hand  func(t *testing.T, who *mautrix.Client, room id.RoomID, delay string) (token string)
	}{
		{"with the token", interior, func(t *testing.T, who *mautrix.Client, room id.RoomID, delay string) string {
			return handWithToken(t, who, interior, room, delay, trap.URL)
		}},
		{"a guest's", finance, func(t *testing.T, who *mautrix.Client, room id.RoomID, delay string) string {
			return handWithToken(t, who, interior, room, delay, trap.URL)
		}},
		{"by the newer route", interior, func(t *testing.T, who *mautrix.Client, room id.RoomID, delay string) string {
			member := map[string]any{"id": "m1", "claimed_user_id": who.UserID, "claimed_device_id": who.DeviceID}
			body := map[string]any{"room_id": room, "slot_id": "m.call#ROOM", "openid_token": openIDOf(t, who), "member": member}
			token := raw(t, "POST", interior.focus()+"/get_token", "", jsonBody(t, body))
			body["openid_token"], body["delay_id"], body["delay_timeout"] = openIDOf(t, who), delay, 3600000
			body["delay_cs_api_url"] = trap.URL
			if got := raw(t, "POST", interior.focus()+"/delegate_delayed_leave", "", jsonBody(t, body)); got.status != 200 || string(got.body) != "{}\n" {
				t.Fatalf("delegate: got %d %s, want 200 {}", got.status, got.body)
			}
			return jwtOf(t, token)
		}},
		{"by the homeserver", interior, func(t *testing.T, who *mautrix.Client, room id.RoomID, delay string) string {
			body := map[string]any{"room_id": room, "slot_id": "m.call#ROOM", "member_id": "m1"}
			var given struct{ JWT string }
			do(t, who, "POST", "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/get_token", body, &given)
			body["delay_id"] = delay
			do(t, who, "POST", "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave", body, nil)
			return given.JWT
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
			who := c.house.person(strings.NewReplacer(" ", "", "'", "").Replace(c.name))
			must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
			token := c.hand(t, who, room, enterAsElement(t, who, interior, room))
			ws := enterCall(t, "ws"+strings.TrimPrefix(interior.focus(), "http"), token)
			leaveCall(t, ws)
			begun := time.Now()
			untilGone(t, who, room)
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %v, want a moment", took)
			}
		})
	}
	if n := fetched.Load(); n != 0 {
		t.Errorf("an address that a caller chose was fetched %d times", n)
	}
}

// TestLeaveOfAnotherServersUser: the focus finds the client API of a guest's server by that server's name, as its .well-known says, and
// sends the guest's leave there. The server's name is an address, so that it has a port 443 here.
func TestLeaveOfAnotherServersUser(t *testing.T) {
	const name = "127.8.2.2"
	probe, err := net.Listen("tcp", name+":443")
	if err != nil {
		t.Skipf("port 443 cannot be had here: %v", err)
	}
	probe.Close()
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", name)
	configs[1].Listen.Secure, configs[1].Client.PublicURL = name+":443", "https://"+name
	var houses []*testHouse
	for _, config := range configs {
		house := &testHouse{t: t, config: config, url: "http://" + config.Listen.Client}
		house.open()
		t.Cleanup(house.close)
		houses = append(houses, house)
	}
	anna, felix := houses[0].person("anna"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(felix.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
	token := handWithToken(t, felix, houses[0], room, enterAsElement(t, felix, houses[0], room), "")
	leaveCall(t, enterCall(t, "ws"+strings.TrimPrefix(houses[0].focus(), "http"), token))
	untilGone(t, felix, room)
}

func handWithToken(t *testing.T, who *mautrix.Client, at *testHouse, room id.RoomID, delay, api string) string {
	t.Helper()
	return jwtOf(t, raw(t, "POST", at.focus()+"/sfu/get", "", jsonBody(t, map[string]any{
		"room": room, "openid_token": openIDOf(t, who), "device_id": who.DeviceID, "delay_id": delay, "delay_timeout": 3600000, "delay_cs_api_url": api,
	})))
}

func jwtOf(t *testing.T, got answered) string {
	t.Helper()
	var given struct{ JWT string }
	if got.status != 200 {
		t.Fatalf("token: got %d %s", got.status, got.body)
	}
	if err := json.Unmarshal(got.body, &given); err != nil {
		t.Fatal(err)
	}
	return given.JWT
}

// TestLeaveOutlivesThePolicyServer sends a leave while the room's policy server, which has to sign it, is away: it is sent later, and
// nobody is told before that it was.
func TestLeaveOutlivesThePolicyServer(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna, felix := interior.person("anna"), finance.person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	delay := enterAsElement(t, anna, interior, room)
	choose := func(content map[string]any) {
		kind := event.Type{Type: "m.room.policy", Class: event.StateEventType}
		must(anna.SendStateEvent(t.Context(), room, kind, "", content))(t, "policy server")
	}
	choose(map[string]any{"via": "finance.test", "public_keys": map[string]any{"ed25519": strings.Repeat("A", 43)}})
	finance.close()
	path := "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/" + delay
	if got := raw(t, "POST", interior.url+path+"/send", "", nil); got.status != http.StatusBadGateway {
		t.Errorf("while the policy server is away: got %d %s, want 502", got.status, got.body)
	}
	var waits struct{ Outcome string }
	do(t, anna, "GET", path, nil, &waits)
	if waits.Outcome != "" {
		t.Fatalf("the leave has ended with %q", waits.Outcome)
	}
	choose(map[string]any{})
	untilGone(t, anna, room)
}

// TestLeaveOutlivesTheFocus starts the server again while somebody is in a call who does not come back.
func TestLeaveOutlivesTheFocus(t *testing.T) {
	t.Parallel() // it mostly waits
	interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna := interior.person("anna")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	delay := enterAsElement(t, anna, interior, room)
	token := handWithToken(t, anna, interior, room, delay, "")
	enterCall(t, "ws"+strings.TrimPrefix(interior.focus(), "http"), token)
	interior.close()
	interior.open()
	untilGone(t, anna, room)
}

// TestCrashedClientIsClosed has clients vanish that had handed nothing over. Those whose media were here are closed; those who
// only watched here, and are in the call at another focus, are not: where the server was told its address, and where it was not.
func TestCrashedClientIsClosed(t *testing.T) {
	t.Parallel() // it mostly waits
	t.Run("with a public address", func(t *testing.T) {
		t.Parallel()
		interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
		crashedClients(t, interior, interior.focus())
	})
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
		config.Client.PublicURL = ""
		interior := &testHouse{t: t, config: config, url: "http://" + config.Listen.Client}
		interior.open()
		t.Cleanup(interior.close)
		var known struct {
			Foci []struct {
				Service string `json:"livekit_service_url"`
			} `json:"org.matrix.msc4143.rtc_foci"`
		}
		do(t, interior.person("zoe"), "GET", "/.well-known/matrix/client", nil, &known)
		if len(known.Foci) != 1 || known.Foci[0].Service != "https://interior.test/calls" {
			t.Fatalf("clients are told of %+v, want the focus at the server's name", known.Foci)
		}
		crashedClients(t, interior, known.Foci[0].Service)
	})
}

// crashedClients is TestCrashedClientIsClosed with the focus that clients call ours.
func crashedClients(t *testing.T, interior *testHouse, ours string) {
	const elsewhere = "https://finance.test/calls"
	anna := interior.person("anna")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	calls := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/org.matrix.msc4143.rtc.member/", url.PathEscape(string(room)))
	const delayed = "org.matrix.msc4140.delay=3600000"
	state := func(t *testing.T, who *mautrix.Client, focus, selection string, later bool) (delay string) {
		t.Helper()
		if later {
			var scheduled struct {
				ID string `json:"delay_id"`
			}
			do(t, who, "PUT", memberPath(room, who)+"?"+delayed, struct{}{}, &scheduled)
			delay = scheduled.ID
		}
		do(t, who, "PUT", memberPath(room, who), map[string]any{
			"application": "m.call", "device_id": who.DeviceID, "expires": 14400000,
			"focus_active":   map[string]any{"type": "livekit", "focus_selection": selection},
			"foci_preferred": []any{map[string]any{"type": "livekit", "livekit_service_url": focus}},
		}, nil)
		return delay
	}
	sticky := func(t *testing.T, who *mautrix.Client, focus string) (delay string) {
		t.Helper()
		const lasting = "?org.matrix.msc4354.sticky_duration_ms=3600000"
		do(t, who, "PUT", calls+"in"+lasting, map[string]any{"msc4354_sticky_key": who.UserID, "transports": map[string]any{
			"published": []any{map[string]any{"type": "livekit", "livekit_service_url": focus}}, "can_subscribe": []string{"livekit"},
		}}, nil)
		var scheduled struct {
			ID string `json:"delay_id"`
		}
		do(t, who, "PUT", calls+"out"+lasting+"&"+delayed, map[string]any{"msc4354_sticky_key": who.UserID}, &scheduled)
		return scheduled.ID
	}
	first := interior.person("first") // in the call for longest, and never here
	must(first.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	state(t, first, elsewhere, "oldest_membership", false)

	people := []struct {
		name  string
		enter func(t *testing.T, who *mautrix.Client) (delay string)
		stays bool
		who   *mautrix.Client
		delay string
	}{
		{name: "elsewhere, with a leave", stays: true, enter: func(t *testing.T, who *mautrix.Client) string { return state(t, who, elsewhere, "multi_sfu", true) }},
		{name: "elsewhere, without", stays: true, enter: func(t *testing.T, who *mautrix.Client) string { return state(t, who, elsewhere, "multi_sfu", false) }},
		{name: "at the oldest's", stays: true, enter: func(t *testing.T, who *mautrix.Client) string { return state(t, who, ours, "oldest_membership", true) }},
		{name: "newer, elsewhere", stays: true, enter: func(t *testing.T, who *mautrix.Client) string { return sticky(t, who, elsewhere) }},
		{name: "here, with a leave", enter: func(t *testing.T, who *mautrix.Client) string { return state(t, who, ours, "multi_sfu", true) }},
		{name: "here, without", enter: func(t *testing.T, who *mautrix.Client) string { return state(t, who, ours, "multi_sfu", false) }},
		{name: "newer, here", enter: func(t *testing.T, who *mautrix.Client) string { return sticky(t, who, ours) }},
	}
	for i := range people {
		p := &people[i]
		p.who = interior.person(fmt.Sprintf("p%d", i))
		must(p.who.JoinRoom(t.Context(), string(room), nil))(t, "join room")
		p.delay = p.enter(t, p.who)
		socket, token := callToken(t, p.who, interior, room)
		leaveCall(t, enterCall(t, socket, token)) // and never says so in the room
	}
	ben := interior.person("ben")
	must(ben.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	sayInCall(t, ben, interior, room)
	socket, token := callToken(t, ben, interior, room)
	enterCall(t, socket, token)

	gone := func(who *mautrix.Client, delay string) bool {
		var content, leave map[string]any
		if delay != "" {
			do(t, who, "GET", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"+delay, nil, &leave)
			return leave["event_id"] != nil
		}
		do(t, who, "GET", memberPath(room, who), nil, &content)
		return len(content) == 0
	}
	deadline := time.Now().Add(patience)
	for _, p := range people {
		for !p.stays && !gone(p.who, p.delay) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not closed within %v", p.name, patience)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for _, p := range people { // they left before the others
		if p.stays && gone(p.who, p.delay) {
			t.Errorf("%s: closed too", p.name)
		}
	}
	if gone(ben, "") {
		t.Error("one who is in the call was closed too")
	}
}

// TestHomeserverTokens asks a homeserver for tokens of its own focus and of another's.
func TestHomeserverTokens(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna, felix, stranger := interior.person("anna"), finance.person("felix"), finance.person("stranger")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(felix.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
	ours := "ws" + strings.TrimPrefix(interior.focus(), "http")
	request := func(change map[string]any) map[string]any {
		body := map[string]any{"room_id": room, "slot_id": "m.call#ROOM", "member_id": "m1", "url": ours}
		for k, v := range change {
			body[k] = v
			if v == nil {
				delete(body, k)
			}
		}
		return body
	}
	const unstable, stable = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/get_token", "/_matrix/client/v1/rtc/livekit/get_token"
	for _, c := range []struct {
		name, path string
		who        *mautrix.Client
		body       map[string]any
		status     int
		code       string
		publish    bool
	}{
		{"own focus", unstable, anna, request(nil), 200, "", true},
		{"own focus, stable path", stable, anna, request(map[string]any{"server_name": "interior.test"}), 200, "", true},
		{"own focus, by its service's address", unstable, anna, request(map[string]any{"url": interior.focus()}), 200, "", true},
		{"own focus, older form", unstable, anna, request(map[string]any{"member_id": nil, "member": map[string]any{"id": "m1", "claimed_device_id": "DEV"}}), 200, "", true},
		{"another's focus", unstable, felix, request(map[string]any{"server_name": "interior.test"}), 200, "", false},
		{"another's focus, stable path", stable, felix, request(map[string]any{"server_name": "interior.test"}), 200, "", false},
		{"own focus of nobody's", unstable, anna, request(map[string]any{"url": "wss://elsewhere.test"}), 400, "M_INVALID_PARAM", false},
		{"another's focus of nobody's", unstable, felix, request(map[string]any{"server_name": "interior.test", "url": "wss://elsewhere.test"}), 400, "M_INVALID_PARAM", false},
		{"no member", unstable, stranger, request(map[string]any{"server_name": "interior.test"}), 403, "M_FORBIDDEN", false},
		{"no member, no other server", unstable, stranger, request(map[string]any{"url": nil}), 403, "M_FORBIDDEN", false},
		{"unknown room", unstable, anna, request(map[string]any{"room_id": "!none:interior.test"}), 403, "M_FORBIDDEN", false},
		{"a server that does not answer", unstable, felix, request(map[string]any{"server_name": "nowhere.test"}), 502, "M_UNKNOWN", false},
		{"a server with a path", unstable, felix, request(map[string]any{"server_name": "127.0.0.1:1/x?"}), 400, "M_INVALID_PARAM", false},
		{"another slot", unstable, anna, request(map[string]any{"slot_id": "m.call#ROOM2"}), 400, "M_INVALID_PARAM", false},
		{"another slot at another's focus", unstable, felix, request(map[string]any{"server_name": "interior.test", "slot_id": "m.call#ROOM2"}), 400, "M_INVALID_PARAM", false},
		{"no slot", unstable, anna, request(map[string]any{"slot_id": nil}), 400, "M_BAD_JSON", false},
		{"no name", unstable, anna, request(map[string]any{"member_id": nil}), 400, "M_BAD_JSON", false},
	} {
		got := raw(t, "POST", strings.TrimRight(c.who.HomeserverURL.String(), "/")+c.path, c.who.AccessToken, jsonBody(t, c.body))
		if got.status != c.status || got.code != c.code {
			t.Errorf("%s: got %d %s %s, want %d %s", c.name, got.status, got.code, got.body, c.status, c.code)
			continue
		}
		if c.status != 200 {
			continue
		}
		claims := jwt.MapClaims{}
		if _, _, err := jwt.NewParser().ParseUnverified(jwtOf(t, got), claims); err != nil {
			t.Fatal(err)
		}
		video := claims["video"].(map[string]any)
		if video["canPublish"] != c.publish || video["roomJoin"] != true || video["roomCreate"] == true || claims["sub"] == "" {
			t.Errorf("%s: got claims %v", c.name, claims)
		}
		if status := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {jwtOf(t, got)}}.Encode()); status != 200 {
			t.Errorf("%s: the token opens nothing: %d", c.name, status)
		}
	}
}

// TestDelegationProbe asks as Element Call asks whether leaves may be handed over, and hands over wrongly.
func TestDelegationProbe(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[1].Calls.Enabled = false
	const route = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave"
	var houses []*testHouse
	for _, config := range configs {
		house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
		house.open()
		t.Cleanup(house.close)
		houses = append(houses, house)
	}
	interior, finance := houses[0], houses[1]
	for _, path := range []string{interior.url + route, interior.focus() + "/delegate_delayed_leave"} {
		if got := statusOf(t, "POST", path); got == http.StatusNotFound {
			t.Errorf("%s: got 404, which says that leaves are not looked after", path)
		}
	}
	if got := raw(t, "POST", finance.url+route, "", nil); got.status != 404 || got.code != "M_UNRECOGNIZED" {
		t.Errorf("without a focus: got %d %s, want 404 M_UNRECOGNIZED", got.status, got.code)
	}
	anna, ben := interior.person("anna"), interior.person("ben")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(ben.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	other := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	delay := enterAsElement(t, anna, interior, room)
	body := func(room id.RoomID, delay string) map[string]any {
		return map[string]any{"room_id": room, "slot_id": "m.call#ROOM", "member_id": "m1", "delay_id": delay}
	}
	for _, c := range []struct {
		name   string
		who    *mautrix.Client
		body   map[string]any
		status int
		code   string
	}{
		{"own", anna, body(room, delay), 200, ""},
		{"again", anna, body(room, delay), 200, ""},
		{"another's", ben, body(room, delay), 400, "M_INVALID_PARAM"},
		{"another room's", anna, body(other, delay), 400, "M_INVALID_PARAM"},
		{"nobody's", anna, body(room, "dnone"), 400, "M_INVALID_PARAM"},
		{"none", anna, body(room, ""), 400, "M_BAD_JSON"},
		{"of a room where one is not", ben, body(other, delay), 403, "M_FORBIDDEN"},
	} {
		if got := raw(t, "POST", interior.url+route, c.who.AccessToken, jsonBody(t, c.body)); got.status != c.status || got.code != c.code {
			t.Errorf("%s: got %d %s %s, want %d %s", c.name, got.status, got.code, got.body, c.status, c.code)
		}
	}
	half := map[string]any{"room": room, "openid_token": openIDOf(t, anna), "device_id": "D", "delay_id": delay}
	if got := raw(t, "POST", interior.focus()+"/sfu/get", "", jsonBody(t, half)); got.status != 400 || got.code != "M_BAD_JSON" {
		t.Errorf("half a delegation: got %d %s, want 400 M_BAD_JSON", got.status, got.code)
	}
}
