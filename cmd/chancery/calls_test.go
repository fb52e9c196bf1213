package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// callToken trades somebody's OpenID token for a token of the focus at a house.
func callToken(t *testing.T, who *mautrix.Client, at *testHouse, room id.RoomID) (socket, token string) {
	t.Helper()
	return callTokenAt(t, who, at.focus(), room)
}

// callTokenAt is callToken for a focus at an address.
func callTokenAt(t *testing.T, who *mautrix.Client, focus string, room id.RoomID) (socket, token string) {
	t.Helper()
	var openID json.RawMessage
	if _, err := who.MakeRequest(t.Context(), http.MethodPost, who.BuildClientURL("v3", "user", who.UserID, "openid", "request_token"), struct{}{}, &openID); err != nil {
		t.Fatalf("openid token: %v", err)
	}
	body, err := json.Marshal(map[string]any{"room": room, "openid_token": openID, "device_id": who.DeviceID})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(focus+"/sfu/get", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct{ URL, JWT string }
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || resp.StatusCode != http.StatusOK || reply.JWT == "" {
		t.Fatalf("call token for %s: got %d %+v, %v", who.UserID, resp.StatusCode, reply, err)
	}
	return reply.URL, reply.JWT
}

// enterCall opens the signalling socket of a call and reads the welcome. Media are not needed to be there.
func enterCall(t *testing.T, socket, token string) *websocket.Conn {
	t.Helper()
	ws, _ := openCall(t, socket, token)
	return ws
}

// enterCallAs is enterCall, and gives the welcome.
func enterCallAs(t *testing.T, socket, token string) *signal.Joined {
	t.Helper()
	_, joined := openCall(t, socket, token)
	return joined
}

func openCall(t *testing.T, socket, token string) (*websocket.Conn, *signal.Joined) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), socket+"/rtc?"+url.Values{"access_token": {token}}.Encode(), nil)
	if err != nil {
		t.Fatalf("enter call: %v (%v)", err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	joined := heard(t, ws).GetJoin()
	if joined == nil {
		t.Fatal("the first message is no welcome")
	}
	return ws, joined
}

func heard(t *testing.T, ws *websocket.Conn) *signal.Response {
	t.Helper()
	if err := ws.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, frame, err := ws.ReadMessage()
	if err != nil {
		t.Fatalf("signalling: %v", err)
	}
	var res signal.Response
	if err := signal.DecodeBody(frame, false, &res); err != nil {
		t.Fatal(err)
	}
	return &res
}

// sentAway waits until the focus ends the session.
func sentAway(t *testing.T, ws *websocket.Conn) signal.DisconnectReason {
	t.Helper()
	for {
		if leave := heard(t, ws).GetLeave(); leave != nil {
			return leave.Reason
		}
	}
}

// TestTheFocusAnswersAtItsAddress: a browser that is online again asks at the very address that clients are told, and follows no redirect that
// it may not read. What only begins like it is the client API's to answer.
func TestTheFocusAnswersAtItsAddress(t *testing.T) {
	house := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for address, want := range map[string]int{house.focus(): 200, house.focus() + "/": 200, house.focus() + "s": 404} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := answerTo(t, client, request)
		if open := got.header.Get("Access-Control-Allow-Origin"); got.status != want || open != "*" {
			t.Errorf("HEAD %s: got %d, open to %q, want %d, open to all", request.URL.Path, got.status, open, want)
		}
	}
}

// TestCallsEndWithMembership lets people of two houses into a call, and ends what lets them be there.
func TestCallsEndWithMembership(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna := interior.person("anna")
	for _, c := range []struct {
		name  string
		house *testHouse
		end   func(room id.RoomID, who *mautrix.Client) error
	}{
		{"kicked", interior, func(room id.RoomID, who *mautrix.Client) error {
			_, err := anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: who.UserID})
			return err
		}},
		{"banned", interior, func(room id.RoomID, who *mautrix.Client) error {
			_, err := anna.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: who.UserID})
			return err
		}},
		{"left", interior, func(room id.RoomID, who *mautrix.Client) error {
			_, err := who.LeaveRoom(t.Context(), room)
			return err
		}},
		{"logged out", interior, func(_ id.RoomID, who *mautrix.Client) error {
			_, err := who.Logout(t.Context())
			return err
		}},
		{"guest kicked", finance, func(room id.RoomID, who *mautrix.Client) error {
			_, err := anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: who.UserID})
			return err
		}},
		{"guest banned", finance, func(room id.RoomID, who *mautrix.Client) error {
			_, err := anna.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: who.UserID})
			return err
		}},
		{"guest left", finance, func(room id.RoomID, who *mautrix.Client) error {
			_, err := who.LeaveRoom(t.Context(), room)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
			who := c.house.person(strings.ReplaceAll(c.name, " ", ""))
			must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
			socket, token := callToken(t, anna, interior, room)
			stays := enterCall(t, socket, token)
			socket, token = callToken(t, who, interior, room)
			ws := enterCall(t, socket, token)
			begun := time.Now()
			if err := c.end(room, who); err != nil {
				t.Fatal(err)
			}
			if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
				t.Errorf("got reason %v, want PARTICIPANT_REMOVED", reason)
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("the session ended after %v, want within a second", took)
			}
			query := url.Values{"access_token": {token}}.Encode()
			if status := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+query); status != http.StatusUnauthorized {
				t.Errorf("with the old token: got %d, want 401", status)
			}
			for gone := false; !gone; { // the others hear of it, and stay
				for _, p := range heard(t, stays).GetUpdate().GetParticipants() {
					gone = gone || strings.HasPrefix(p.Identity, string(who.UserID)) && p.State == signal.Participant_DISCONNECTED
				}
			}
		})
	}
}

// TestCallTokens asks for tokens in every wrong way.
func TestCallTokens(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna, felix := interior.person("anna"), finance.person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	openID := func(who *mautrix.Client, change map[string]any) map[string]any {
		token := map[string]any{}
		if _, err := who.MakeRequest(t.Context(), http.MethodPost, who.BuildClientURL("v3", "user", who.UserID, "openid", "request_token"), struct{}{}, &token); err != nil {
			t.Fatalf("openid token: %v", err)
		}
		for k, v := range change {
			token[k] = v
		}
		return token
	}
	legacy := func(token any) map[string]any {
		return map[string]any{"room": room, "device_id": "DEV", "openid_token": token}
	}
	member := func(user id.UserID, token any) map[string]any {
		return map[string]any{"room_id": room, "slot_id": "m.call#ROOM", "openid_token": token,
			"member": map[string]any{"id": "m1", "claimed_user_id": user, "claimed_device_id": "DEV"}}
	}
	for _, c := range []struct {
		name, path string
		body       any
		status     int
		code       string
	}{
		{"member", "/sfu/get", legacy(openID(anna, nil)), 200, ""},
		{"member, new form", "/get_token", member(anna.UserID, openID(anna, nil)), 200, ""},
		{"another's claim", "/get_token", member("@eve:interior.test", openID(anna, nil)), 401, "M_UNAUTHORIZED"},
		{"made-up token", "/sfu/get", legacy(openID(anna, map[string]any{"access_token": "abc"})), 401, "M_UNAUTHORIZED"},
		{"access token in its place", "/sfu/get", legacy(openID(anna, map[string]any{"access_token": anna.AccessToken})), 401, "M_UNAUTHORIZED"},
		{"guest who is no member", "/sfu/get", legacy(openID(felix, nil)), 403, "M_FORBIDDEN"},
		{"another server's name", "/sfu/get", legacy(openID(anna, map[string]any{"matrix_server_name": "finance.test"})), 401, "M_UNAUTHORIZED"},
		{"a server that is none", "/sfu/get", legacy(openID(anna, map[string]any{"matrix_server_name": "127.0.0.1:1/x?"})), 401, "M_UNAUTHORIZED"},
		{"no room", "/sfu/get", map[string]any{"device_id": "DEV", "openid_token": openID(anna, nil)}, 400, "M_BAD_JSON"},
		{"no device", "/sfu/get", map[string]any{"room": room, "openid_token": openID(anna, nil)}, 400, "M_BAD_JSON"},
		{"no token", "/sfu/get", legacy(nil), 400, "M_BAD_JSON"},
		{"no member", "/get_token", map[string]any{"room_id": room, "slot_id": "m.call#ROOM", "openid_token": openID(anna, nil)}, 400, "M_BAD_JSON"},
		{"a slot of its own", "/get_token", map[string]any{"room_id": room, "slot_id": "m.call#ROOM2", "openid_token": openID(anna, nil),
			"member": map[string]any{"id": "m1", "claimed_user_id": anna.UserID, "claimed_device_id": "DEV"}}, 400, "M_INVALID_PARAM"},
		{"not an object", "/sfu/get", []int{1}, 400, "M_NOT_JSON"},
		{"too large", "/sfu/get", map[string]any{"room": strings.Repeat("x", 100_000)}, 413, "M_TOO_LARGE"},
		{"delegation of nothing", "/delegate_delayed_leave", struct{}{}, 400, "M_BAD_JSON"},
	} {
		body, err := json.Marshal(c.body)
		if err != nil {
			t.Fatal(err)
		}
		if got := raw(t, "POST", interior.focus()+c.path, "", bytes.NewReader(body)); got.status != c.status || got.code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.name, got.status, got.code, c.status, c.code)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{{"OPTIONS", "/sfu/get", 200}, {"GET", "/sfu/get", 405}, {"OPTIONS", "/delegate_delayed_leave", 200}, {"GET", "/healthz", 200}} {
		if status := statusOf(t, c.method, interior.focus()+c.path); status != c.status {
			t.Errorf("%s %s: got %d, want %d", c.method, c.path, status, c.status)
		}
	}
}

func statusOf(t *testing.T, method, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
