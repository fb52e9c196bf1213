package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"

	"chancery/calls/signal"
	"chancery/storage"
)

// administrator registers and signs in somebody who may use the admin API.
func (h *testHouse) administrator(name string) *mautrix.Client {
	h.t.Helper()
	client, err := mautrix.NewClient(h.url, "", "")
	if err != nil {
		h.t.Fatal(err)
	}
	admin := &synapseadmin.Client{Client: client}
	if _, err := admin.SharedSecretRegister(h.t.Context(), testSecret, synapseadmin.ReqSharedSecretRegister{
		Username: name, Password: testPassword(name), InhibitLogin: true, Admin: true,
	}); err != nil {
		h.t.Fatalf("register %s: %v", name, err)
	}
	if _, err := client.Login(h.t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: testPassword(name), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
	}); err != nil {
		h.t.Fatalf("sign in %s: %v", name, err)
	}
	return client
}

// do makes a request of somebody's, and fails the test if it is refused.
func do(t *testing.T, who *mautrix.Client, method, path string, body, into any) {
	t.Helper()
	if _, err := who.MakeRequest(t.Context(), method, strings.TrimRight(who.HomeserverURL.String(), "/")+path, body, into); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// settings writes what a room says of its calls.
func (h *testHouse) settings(by *mautrix.Client, room id.RoomID, content map[string]any) {
	h.t.Helper()
	if _, err := by.SendStateEvent(h.t.Context(), room, event.Type{Type: "chancery.call.settings", Class: event.StateEventType}, "", content); err != nil {
		h.t.Fatalf("call settings: %v", err)
	}
}

// TestCallsEndWithStanding ends what lets somebody be in a call, beside membership itself.
func TestCallsEndWithStanding(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Client.Account.Validity.Period = 1000 * time.Hour
	houses := openConfigured(t, configs)
	interior, finance := houses[0], houses[1]
	anna, root := interior.person("anna"), interior.administrator("root")
	expire := func(t *testing.T, who *mautrix.Client, at time.Time) {
		do(t, root, "POST", "/_synapse/client/email_account_validity/admin", map[string]any{"user_id": who.UserID, "expiration_ts": at.UnixMilli()}, nil)
	}
	for _, c := range []struct {
		name   string
		house  *testHouse
		within time.Duration
		end    func(t *testing.T, room id.RoomID, who *mautrix.Client)
	}{
		{"locked", interior, time.Second, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "PUT", "/_synapse/admin/v2/users/"+string(who.UserID), map[string]any{"locked": true}, nil)
		}},
		{"suspended", interior, time.Second, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "PUT", "/_synapse/admin/v1/suspend/"+string(who.UserID), map[string]any{"suspend": true}, nil)
		}},
		{"deactivated", interior, time.Second, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "POST", "/_synapse/admin/v1/deactivate/"+string(who.UserID), map[string]any{"erase": false}, nil)
		}},
		{"expired", interior, time.Second, func(t *testing.T, _ id.RoomID, who *mautrix.Client) { expire(t, who, time.Now()) }},
		{"expired by itself", interior, 3 * time.Second, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			expire(t, who, time.Now().Add(2*time.Second))
		}},
		{"device deleted", interior, 5 * time.Second, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "DELETE", "/_synapse/admin/v2/users/"+string(who.UserID)+"/devices/"+string(who.DeviceID), nil, nil)
		}},
		{"server shut out", finance, time.Second, func(t *testing.T, room id.RoomID, _ *mautrix.Client) {
			if _, err := anna.SendStateEvent(t.Context(), room, event.StateServerACL, "", &event.ServerACLEventContent{Allow: []string{"*"}, Deny: []string{"finance.test"}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed by the room", interior, time.Second, func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			interior.settings(anna, room, map[string]any{"removed": []id.UserID{who.UserID}})
		}},
		{"guest removed by the room", finance, time.Second, func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			interior.settings(anna, room, map[string]any{"removed": []string{"@*:finance.test"}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
			who := c.house.person(strings.ReplaceAll(c.name, " ", ""))
			must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
			socket, token := callToken(t, who, interior, room)
			ws := enterCall(t, socket, token)
			begun := time.Now()
			c.end(t, room, who)
			if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
				t.Errorf("got reason %v, want PARTICIPANT_REMOVED", reason)
			}
			if took := time.Since(begun); took > c.within {
				t.Errorf("the session ended after %v, want within %v", took, c.within)
			}
			if status := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode()); status != http.StatusUnauthorized {
				t.Errorf("with the old token: got %d, want 401", status)
			}
		})
	}
}

// TestExpiredGetNoCallToken tries to enter a call with what was good before the account expired.
func TestExpiredGetNoCallToken(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Client.Account.Validity.Period = 1000 * time.Hour
	houses := openConfigured(t, configs)
	interior, finance := houses[0], houses[1]
	anna, root, felix := interior.person("anna"), interior.administrator("root"), finance.person("felix")
	room := must(felix.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(anna.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"finance.test"}}))(t, "join room")
	var openID map[string]any
	do(t, anna, "POST", fmt.Sprintf("/_matrix/client/v3/user/%s/openid/request_token", anna.UserID), struct{}{}, &openID)
	ask := func(at *testHouse) int {
		return raw(t, "POST", at.focus()+"/sfu/get", "", jsonBody(t, map[string]any{"room": room, "openid_token": openID, "device_id": anna.DeviceID})).status
	}
	validity := func(content map[string]any) {
		content["user_id"] = anna.UserID
		do(t, root, "POST", "/_synapse/client/email_account_validity/admin", content, nil)
	}
	for _, at := range houses {
		if got := ask(at); got != http.StatusOK {
			t.Fatalf("before, at %s: got %d, want 200", at.config.ServerName, got)
		}
	}
	validity(map[string]any{"expiration_ts": time.Now().UnixMilli()})
	for _, at := range houses { // the other's focus asks us who she is
		if got := ask(at); got != http.StatusForbidden && got != http.StatusUnauthorized {
			t.Errorf("expired, at %s: got %d, want a refusal", at.config.ServerName, got)
		}
	}
	standing := func() (said map[id.UserID]storage.Status, one storage.Status) {
		do(t, felix, "POST", "/_matrix/client/unstable/users/info", map[string]any{"user_ids": []id.UserID{anna.UserID, felix.UserID, "@nobody:interior.test"}}, &said)
		do(t, felix, "GET", "/_matrix/client/r0/user/"+string(anna.UserID)+"/info", nil, &one)
		return said, one
	}
	if said, one := standing(); len(said) != 2 || !said[anna.UserID].Expired || said[felix.UserID].Expired || !one.Expired || one.Deactivated {
		t.Errorf("how accounts stand, asked at the other server: got %v and %v, want that anna's has expired", said, one)
	}
	validity(map[string]any{})
	if said, one := standing(); len(said) != 2 || said[anna.UserID].Expired || one.Expired {
		t.Errorf("how accounts stand, after the renewal: got %v and %v", said, one)
	}
	for _, at := range houses {
		if got := ask(at); got != http.StatusOK {
			t.Errorf("renewed, at %s: got %d, want 200", at.config.ServerName, got)
		}
	}
}

// TestBarredGetNoCallToken tries to enter a call, here and at the other server, with what was good before the account was locked or suspended.
func TestBarredGetNoCallToken(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna, root, felix := interior.person("anna"), interior.administrator("root"), finance.person("felix")
	room := must(felix.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(anna.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"finance.test"}}))(t, "join room")
	var openID map[string]any
	do(t, anna, "POST", fmt.Sprintf("/_matrix/client/v3/user/%s/openid/request_token", anna.UserID), struct{}{}, &openID)
	asks := map[string]func() int{"vouched for, at the other server": func() int {
		return raw(t, "POST", interior.url+"/_matrix/client/v1/rtc/livekit/get_token", anna.AccessToken, jsonBody(t, map[string]any{
			"server_name": "finance.test", "room_id": room, "slot_id": "m.call#ROOM", "member_id": "m",
		})).status
	}}
	for _, at := range houses { // the other's focus asks us who she is
		asks["with OpenID, at "+at.config.ServerName] = func() int {
			return raw(t, "POST", at.focus()+"/sfu/get", "", jsonBody(t, map[string]any{"room": room, "openid_token": openID, "device_id": anna.DeviceID})).status
		}
	}
	for _, standing := range []string{"locked", "suspended"} {
		set := func(to bool) {
			path := map[string]string{"locked": "lock", "suspended": "suspend"}[standing]
			do(t, root, "PUT", "/_matrix/client/v1/admin/"+path+"/"+string(anna.UserID), map[string]any{standing: to}, nil)
		}
		for what, ask := range asks {
			if got := ask(); got != http.StatusOK {
				t.Errorf("before she was %s, %s: got %d, want 200", standing, what, got)
			}
		}
		set(true)
		for what, ask := range asks {
			if got := ask(); got != http.StatusForbidden && got != http.StatusUnauthorized {
				t.Errorf("%s, %s: got %d, want a refusal", standing, what, got)
			}
		}
		set(false)
	}
}

// permission waits until the focus has told the client whether it may publish.
func permission(t *testing.T, next func() *signal.Response, identity string, want bool) {
	t.Helper()
	for {
		for _, p := range next().GetUpdate().GetParticipants() {
			if strings.HasPrefix(p.Identity, identity) && p.Permission.GetCanPublish() == want {
				return
			}
		}
	}
}

// TestCallsObeyTheRoom changes what a room says of its calls while somebody is in one: a user of the focus's own server, and a guest.
func TestCallsObeyTheRoom(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	anna := houses[0].person("anna")
	for _, of := range houses {
		t.Run(of.config.ServerName, func(t *testing.T) { callsObeyTheRoom(t, houses[0], anna, of) })
	}
}

func callsObeyTheRoom(t *testing.T, interior *testHouse, anna *mautrix.Client, of *testHouse) {
	ben := of.person("ben")
	join := func(t *testing.T, who *mautrix.Client, room id.RoomID) { interior.takesIn(t, who, room) }
	begin := func(t *testing.T) (room id.RoomID, next func() *signal.Response) {
		room = must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
		join(t, ben, room)
		socket, token := callToken(t, ben, interior, room)
		ws := enterCall(t, socket, token)
		return room, func() *signal.Response { return heard(t, ws) }
	}
	validate := func(t *testing.T, who *mautrix.Client, room id.RoomID) int {
		_, token := callToken(t, who, interior, room)
		return statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode())
	}
	t.Run("view-only, and back", func(t *testing.T) {
		room, next := begin(t)
		interior.settings(anna, room, map[string]any{"view_only": true})
		permission(t, next, string(ben.UserID), false)
		interior.settings(anna, room, map[string]any{})
		permission(t, next, string(ben.UserID), true)
	})
	t.Run("power levels", func(t *testing.T) {
		room, next := begin(t)
		levels := &event.PowerLevelsEventContent{Users: map[id.UserID]int{anna.UserID: 100}, Events: map[string]int{"org.matrix.msc3401.call.member": 30}}
		if _, err := anna.SendStateEvent(t.Context(), room, event.StatePowerLevels, "", levels); err != nil {
			t.Fatal(err)
		}
		permission(t, next, string(ben.UserID), false)
		levels.Users[ben.UserID] = 30
		if _, err := anna.SendStateEvent(t.Context(), room, event.StatePowerLevels, "", levels); err != nil {
			t.Fatal(err)
		}
		permission(t, next, string(ben.UserID), true)
	})
	t.Run("a level of the call's own", func(t *testing.T) {
		room, next := begin(t)
		interior.settings(anna, room, map[string]any{"publish_level": 10})
		permission(t, next, string(ben.UserID), false)
	})
	t.Run("locked", func(t *testing.T) {
		room, _ := begin(t)
		late := of.person("late")
		join(t, late, room)
		_, token := callToken(t, late, interior, room)
		interior.settings(anna, room, map[string]any{"locked": true})
		if got := tokenStatus(t, late, interior, room); got != http.StatusForbidden {
			t.Errorf("a token for who comes late: got %d, want 403", got)
		}
		if got := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode()); got != http.StatusForbidden {
			t.Errorf("a token from before: got %d, want 403", got)
		}
		for name, who := range map[string]*mautrix.Client{"who is in": ben, "a moderator": anna} {
			if got := validate(t, who, room); got != http.StatusOK {
				t.Errorf("%s: got %d, want 200", name, got)
			}
		}
	})
	t.Run("capped", func(t *testing.T) {
		room, _ := begin(t)
		interior.settings(anna, room, map[string]any{"max_participants": 1})
		if got := validate(t, anna, room); got != http.StatusServiceUnavailable {
			t.Errorf("one too many: got %d, want 503", got)
		}
	})
	t.Run("ended by command", func(t *testing.T) {
		room, next := begin(t)
		command := func(by *mautrix.Client, content map[string]any) {
			if _, err := by.SendMessageEvent(t.Context(), room, event.Type{Type: "chancery.call.command", Class: event.MessageEventType}, content); err != nil {
				t.Fatal(err)
			}
		}
		command(ben, map[string]any{"command": "end"}) // who has no right to
		if got := validate(t, anna, room); got != http.StatusOK {
			t.Fatalf("after a stranger's command: got %d, want 200", got)
		}
		command(anna, map[string]any{"command": "end"})
		for {
			if leave := next().GetLeave(); leave != nil {
				if leave.Reason != signal.DisconnectReason_ROOM_DELETED {
					t.Errorf("got %v, want ROOM_DELETED", leave.Reason)
				}
				return
			}
		}
	})
}

// takesIn has somebody join a room of the house, and waits until the house knows: who joins through a server that is in the room
// already asks nobody.
func (h *testHouse) takesIn(t *testing.T, who *mautrix.Client, room id.RoomID) {
	t.Helper()
	must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{h.config.ServerName}}))(t, "join room")
	for deadline := time.Now().Add(patience); tokenStatus(t, who, h, room) != http.StatusOK; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not know that %s has joined", h.config.ServerName, who.UserID)
		}
	}
}

// tokenStatus asks for a token, and says how that was answered.
func tokenStatus(t *testing.T, who *mautrix.Client, at *testHouse, room id.RoomID) int {
	t.Helper()
	var openID map[string]any
	do(t, who, "POST", fmt.Sprintf("/_matrix/client/v3/user/%s/openid/request_token", who.UserID), struct{}{}, &openID)
	return raw(t, "POST", at.focus()+"/sfu/get", "", jsonBody(t, map[string]any{"room": room, "openid_token": openID, "device_id": who.DeviceID})).status
}

// TestRestrictedServers lets guests join calls, and not begin them.
func TestRestrictedServers(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test", "justice.test")
	configs[0].Calls.RestrictedServers, configs[0].Calls.ViewOnlyServers, configs[0].Calls.MaxGuests = []string{"finance.test"}, []string{"justice.*"}, 1
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, felix, flora, jana := interior.person("anna"), houses[1].person("felix"), houses[1].person("flora"), houses[2].person("jana")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	interior.takesIn(t, flora, room)
	// She may begin the call: whoever asks for a token of hers does.
	must(jana.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
	ask := func(token, path string) (int, string) {
		resp, err := http.Get(interior.focus() + path + "?" + url.Values{"access_token": {token}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text := make([]byte, 200)
		n, _ := resp.Body.Read(text)
		return resp.StatusCode, string(text[:n])
	}
	socket, token := callToken(t, felix, interior, room)
	for _, path := range []string{"/rtc/validate", "/rtc/v1/validate", "/rtc", "/rtc/v1"} {
		if status, text := ask(token, path); status != http.StatusNotFound || !strings.Contains(text, "requested room does not exist") {
			t.Errorf("%s before the call: got %d %q, want 404 and the words that clients look for", path, status, text)
		}
	}
	_, host := callToken(t, anna, interior, room)
	if status, _ := ask(token, "/rtc/validate"); status != http.StatusOK {
		t.Errorf("once somebody may begin it: got %d, want 200", status)
	}
	enterCall(t, socket, host)
	enterCall(t, socket, token)
	_, second := callToken(t, flora, interior, room)
	if status, _ := ask(second, "/rtc/validate"); status != http.StatusServiceUnavailable {
		t.Errorf("a second guest of one server: got %d, want 503", status)
	}
	_, watcher := callToken(t, jana, interior, room)
	ws := enterCallAs(t, socket, watcher)
	if ws.Participant.Permission.GetCanPublish() {
		t.Error("a guest of a server that only watches may publish")
	}
}

// TestExternalsInCalls closes a room to externals while one of them is in its call.
func TestExternalsInCalls(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "e.test")
	configs[0].Calls.ExternalServers = []string{"e.*"}
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, eric := interior.person("anna"), houses[1].person("eric")
	kind := event.Type{Type: "im.vector.room.access_rules", Class: event.StateEventType}
	rule := func(t *testing.T, room id.RoomID, rule string) {
		if _, err := anna.SendStateEvent(t.Context(), room, kind, "", map[string]any{"rule": rule}); err != nil {
			t.Fatal(err)
		}
	}
	for _, before := range []string{"unrestricted", "direct"} {
		t.Run(before, func(t *testing.T) {
			room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat", PowerLevelOverride: &event.PowerLevelsEventContent{
				Users: map[id.UserID]int{anna.UserID: 100, eric.UserID: 60},
			}}))(t, "create room").RoomID
			must(eric.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
			if got := tokenStatus(t, eric, interior, room); got != http.StatusForbidden {
				t.Errorf("in a room that says nothing of externals: got %d, want 403", got)
			}
			rule(t, room, before)
			socket, token := callToken(t, eric, interior, room)
			ws := enterCall(t, socket, token)
			_, own := callToken(t, anna, interior, room)
			stays := enterCall(t, socket, own)
			command := map[string]any{"command": "end"}
			must(eric.SendMessageEvent(t.Context(), room, event.Type{Type: "chancery.call.command", Class: event.MessageEventType}, command))(t, "command")
			said := must(eric.SendText(t.Context(), room, "after it"))(t, "say something").EventID
			for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until it is here, and with it the command
				if _, err := anna.GetEvent(t.Context(), room, said); err == nil {
					break
				} else if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			if status := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode()); status != http.StatusOK {
				t.Errorf("after an external's command to end the call: got %d, want 200", status)
			}
			begun := time.Now()
			rule(t, room, "restricted")
			if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
				t.Errorf("got reason %v, want PARTICIPANT_REMOVED", reason)
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("the session ended after %v, want within a second", took)
			}
			if status := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode()); status != http.StatusUnauthorized {
				t.Errorf("with the old token: got %d, want 401", status)
			}
			if got := tokenStatus(t, eric, interior, room); got != http.StatusForbidden {
				t.Errorf("another token: got %d, want 403", got)
			}
			for gone := false; !gone; { // the others hear of it, and stay
				for _, p := range heard(t, stays).GetUpdate().GetParticipants() {
					gone = gone || strings.HasPrefix(p.Identity, string(eric.UserID)) && p.State == signal.Participant_DISCONNECTED
				}
			}
		})
	}
}

func jsonBody(t *testing.T, v any) io.Reader {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(body)
}

// TestServiceIsNotForParticipants tries a client's token where an administrator's is wanted.
func TestServiceIsNotForParticipants(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Calls.ServiceListen = loopback("tcp", 0)
	interior := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	interior.open()
	t.Cleanup(interior.close)
	anna := interior.person("anna")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	_, token := callToken(t, anna, interior, room)
	for _, c := range []struct {
		name, address, token string
		want                 int
	}{
		{"on the clients' door", interior.focus(), token, http.StatusNotFound},
		{"on its own, with a client's token", "http://" + config.Calls.ServiceListen, token, http.StatusUnauthorized},
		{"on its own, with an access token", "http://" + config.Calls.ServiceListen, anna.AccessToken, http.StatusUnauthorized},
		{"on its own, without any", "http://" + config.Calls.ServiceListen, "", http.StatusUnauthorized},
	} {
		for _, method := range []string{"ListRooms", "DeleteRoom", "RemoveParticipant", "CreateRoom"} {
			if got := raw(t, "POST", c.address+"/twirp/livekit.RoomService/"+method, c.token, jsonBody(t, map[string]any{"room": "x"})); got.status != c.want {
				t.Errorf("%s %s: got %d, want %d", method, c.name, got.status, c.want)
			}
		}
	}
	for _, path := range []string{"/metrics", "/calls/list", "/debug/pprof/"} {
		if status := statusOf(t, "GET", interior.url+path); status == http.StatusOK {
			t.Errorf("%s is open on the clients' door", path)
		}
	}
}

// TestMembershipIsAClaim has somebody write of another that they are in the call, and that they are not.
func TestMembershipIsAClaim(t *testing.T) {
	interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna, eve := interior.person("anna"), interior.person("eve")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(eve.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	socket, token := callToken(t, anna, interior, room)
	ws := enterCall(t, socket, token)
	for _, content := range []any{struct{}{}, map[string]any{"application": "m.call", "device_id": "OTHER"}} {
		if _, err := eve.MakeRequest(t.Context(), "PUT", interior.url+memberPath(room, anna), content, nil); err != nil {
			t.Fatalf("the room's rules let everybody write this state: %v", err)
		}
	}
	interior.settings(anna, room, map[string]any{"max_participants": 9}) // comes after it in the stream, and is told
	frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Ping{Ping: 7}}, false)
	if err == nil {
		err = ws.WriteMessage(2, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		res := heard(t, ws)
		if res.GetLeave() != nil {
			t.Fatalf("a claim of another's ended the session: %v", res)
		}
		if res.GetPong() != 0 {
			break
		}
	}
	if status := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {token}}.Encode()); status != http.StatusOK {
		t.Errorf("the token: got %d, want 200", status)
	}
}

// TestGuestsDoNotStart: where guests begin no calls, they join those of our users, and no others.
func TestGuestsDoNotStart(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Calls.GuestsStart = false
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, felix := interior.person("anna"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	socket, token := callToken(t, felix, interior, room)
	if got := interior.atTheDoor(t, token); got != http.StatusNotFound {
		t.Errorf("a guest, before the call: got %d, want 404", got)
	}
	_, host := callToken(t, anna, interior, room)
	enterCall(t, socket, host)
	enterCall(t, socket, token)
	if got := interior.atTheDoor(t, token); got != http.StatusOK {
		t.Errorf("a guest, once it has begun: got %d, want 200", got)
	}
}

// TestWhoMayNotBeginKeepsNoRight: that somebody else may begin a call lets guests join it for some minutes, and asking again does not prolong that.
func TestWhoMayNotBeginKeepsNoRight(t *testing.T) {
	configs := testConfigs(t, func() string { return filepath.Join(t.TempDir(), "interior.db") }, "interior.test", "finance.test")
	configs[1].Storage.Database = DefaultConfig().Storage.Database
	configs[0].Calls.RestrictedServers = []string{"finance.test"}
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, felix := interior.person("anna"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	callToken(t, anna, interior, room)
	_, token := callToken(t, felix, interior, room)
	if got := interior.atTheDoor(t, token); got != http.StatusOK {
		t.Fatalf("once anna may begin it: got %d, want 200", got)
	}
	rows := must(sql.Open("sqlite3", configs[0].Storage.Database))(t, "open the database")
	defer rows.Close()
	soon := must(rows.Exec("UPDATE call_starts SET until = ?", time.Now().Add(time.Second).UnixMilli()))(t, "let it end soon")
	if n := must(soon.RowsAffected())(t, "rows"); n != 1 {
		t.Fatalf("got %d calls that may begin, want one", n)
	}
	callToken(t, felix, interior, room) // in vain
	for deadline := time.Now().Add(patience); interior.atTheDoor(t, token) != http.StatusNotFound; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("felix may still begin the call")
		}
	}
}

// TestGuestsComeBackBeforeOurUsers: after a new start of the focus a guest who may not begin the call may be the first to ask for it
// again. Clients take 404 for the last word, so he is told to try again, and comes in once one of our users is back.
func TestGuestsComeBackBeforeOurUsers(t *testing.T) {
	configs := testConfigs(t, func() string { return filepath.Join(t.TempDir(), "interior.db") }, "interior.test", "finance.test")
	configs[1].Storage.Database = DefaultConfig().Storage.Database
	configs[0].Calls.RestrictedServers = []string{"finance.test"}
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, felix := interior.person("anna"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	socket, host := callToken(t, anna, interior, room)
	enterCall(t, socket, host)
	_, first := callToken(t, felix, interior, room)
	inside := refreshed(t, enterCall(t, socket, first))
	interior.close()
	rows := must(sql.Open("sqlite3", configs[0].Storage.Database))(t, "open the database")
	must(rows.Exec("UPDATE call_starts SET until = 0"))(t, "let nobody have begun it lately")
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	interior.open()
	for _, path := range []string{"/rtc/validate", "/rtc/v1/validate", "/rtc", "/rtc/v1"} {
		for token, want := range map[string]int{first: http.StatusNotFound, inside: http.StatusServiceUnavailable} {
			if got := statusOf(t, "GET", interior.focus()+path+"?"+url.Values{"access_token": {token}}.Encode()); got != want {
				t.Errorf("%s, inside before %v: got %d, want %d", path, token == inside, got, want)
			}
		}
	}
	enterCall(t, socket, host)
	enterCall(t, socket, inside)
}

// TestUnknownDevicesEndWithTheLast: what a client calls its device when it asks for a token is its own choice. If that is none of the user's, the token
// ends with the last one that is.
func TestUnknownDevicesEndWithTheLast(t *testing.T) {
	interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna := interior.person("anna")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	openID := openIDOf(t, anna)
	var answer struct{ JWT string }
	body := raw(t, "POST", interior.focus()+"/sfu/get", "", jsonBody(t, map[string]any{"room": room, "device_id": "MADEUP", "openid_token": openID})).body
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.JWT == "" {
		t.Fatalf("got %s, want a token", body)
	}
	if got := interior.atTheDoor(t, answer.JWT); got != http.StatusOK {
		t.Fatalf("while she has a device: got %d, want 200", got)
	}
	must(anna.LogoutAll(t.Context()))(t, "log out everywhere")
	if got := interior.atTheDoor(t, answer.JWT); got != http.StatusUnauthorized {
		t.Errorf("when she has none: got %d, want 401", got)
	}
}

// TestOpenIDEndsWithItsDevice logs a device out: what it had got to prove who it is opens no call any more, whatever it calls itself there.
func TestOpenIDEndsWithItsDevice(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna, felix := interior.person("anna"), finance.person("felix")
	other := must(mautrix.NewClient(interior.url, "", ""))(t, "client")
	must(other.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: testPassword("anna"), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: "anna"},
	}))(t, "sign in again")
	room := must(felix.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(anna.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"finance.test"}}))(t, "join room")
	first, second := openIDOf(t, anna), openIDOf(t, other)
	ask := func(at *testHouse, openID map[string]any, device id.DeviceID) answered {
		return raw(t, "POST", at.focus()+"/sfu/get", "", jsonBody(t, map[string]any{"room": room, "openid_token": openID, "device_id": device}))
	}
	devices := []id.DeviceID{anna.DeviceID, other.DeviceID, "MADEUP"}
	var inside []*websocket.Conn
	var tokens []string
	for _, device := range devices {
		tokens = append(tokens, jwtOf(t, ask(interior, first, device)))
		inside = append(inside, enterCall(t, "ws"+strings.TrimPrefix(interior.focus(), "http"), tokens[len(tokens)-1]))
	}
	must(anna.Logout(t.Context()))(t, "log out")
	for i, device := range devices {
		sentAway(t, inside[i])
		if got := interior.atTheDoor(t, tokens[i]); got != http.StatusUnauthorized {
			t.Errorf("with the token that %s had: got %d, want 401", device, got)
		}
	}
	for _, at := range houses {
		for _, device := range devices {
			if got := ask(at, first, device); got.status != http.StatusUnauthorized {
				t.Errorf("at %s, as %s: got %d %s, want 401", at.config.ServerName, device, got.status, got.body)
			}
		}
		if got := ask(at, second, other.DeviceID); got.status != http.StatusOK {
			t.Errorf("at %s, of the other device: got %d %s, want 200", at.config.ServerName, got.status, got.body)
		}
	}
}

// TestCallsEndWithOurLastUser: a call has its home at the focus of a server that is in the room. When its last user leaves, the guests go.
func TestCallsEndWithOurLastUser(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior := houses[0]
	anna, bea, felix := interior.person("anna"), interior.person("bea"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(bea.JoinRoomByID(t.Context(), room))(t, "join room")
	interior.takesIn(t, felix, room)
	socket, token := callToken(t, felix, interior, room)
	ws := enterCall(t, socket, token)
	beas, watched := openCall(t, socket, func() string { _, token := callToken(t, bea, interior, room); return token }())
	if len(watched.OtherParticipants) != 1 {
		t.Fatalf("bea found %v, want felix", watched.OtherParticipants)
	}
	must(bea.LeaveRoom(t.Context(), room))(t, "leave room")
	sentAway(t, beas)
	for gone := false; !gone; { // and felix stays
		res := heard(t, ws)
		if res.GetLeave() != nil {
			t.Fatalf("sent away while one of our users is in the room: %v", res)
		}
		for _, p := range res.GetUpdate().GetParticipants() {
			gone = gone || strings.HasPrefix(p.Identity, string(bea.UserID)) && p.State == signal.Participant_DISCONNECTED
		}
	}
	if got := interior.atTheDoor(t, token); got != http.StatusOK {
		t.Errorf("while one of our users is in the room: got %d, want 200", got)
	}
	begun := time.Now()
	must(anna.LeaveRoom(t.Context(), room))(t, "leave room")
	if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
		t.Errorf("got reason %v, want PARTICIPANT_REMOVED", reason)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the session ended after %v, want within a second", took)
	}
	if got := interior.atTheDoor(t, token); got != http.StatusUnauthorized {
		t.Errorf("with the old token: got %d, want 401", got)
	}
}

// TestPeersNoLongerAllowed closes the federation to a peer whose user is in a call, by a new start with another configuration.
func TestPeersNoLongerAllowed(t *testing.T) {
	configs := testConfigs(t, func() string { return filepath.Join(t.TempDir(), "interior.db") }, "interior.test", "finance.test")
	configs[1].Storage.Database = DefaultConfig().Storage.Database
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, felix := interior.person("anna"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	socket, token := callToken(t, felix, interior, room)
	tokens := []string{token, refreshed(t, enterCall(t, socket, token))}
	_, own := callToken(t, anna, interior, room)
	for allowed, want := range map[string]int{"justice.test": http.StatusUnauthorized, "*.test": http.StatusOK} {
		interior.close()
		interior.config.Federation.Remote.AllowedServers = []string{allowed}
		interior.open()
		for _, token := range tokens {
			if got := interior.atTheDoor(t, token); got != want {
				t.Errorf("where %s is allowed: got %d, want %d", allowed, got, want)
			}
		}
		if got := interior.atTheDoor(t, own); got != http.StatusOK {
			t.Errorf("where %s is allowed, a user of ours: got %d, want 200", allowed, got)
		}
	}
}

// TestLateCommandsHitNoOtherCall: a command may arrive long after it was written, when its server was cut off meanwhile. What was said of
// another call is not done to the one that goes on now.
func TestLateCommandsHitNoOtherCall(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	registration := filepath.Join(t.TempDir(), "registration.yaml")
	if err := os.WriteFile(registration, []byte("id: m\nas_token: as\nhs_token: hs\nsender_localpart: moderator\nnamespaces: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	configs[1].Client.AppService.Registrations = []string{registration}
	houses := openConfigured(t, configs)
	interior, finance := houses[0], houses[1]
	anna, ben := interior.person("anna"), interior.person("ben")
	moderator := must(mautrix.NewClient(finance.url, id.NewUserID("moderator", "finance.test"), "as"))(t, "client") // may say when it said something
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat", PowerLevelOverride: &event.PowerLevelsEventContent{
		Users: map[id.UserID]int{anna.UserID: 100, moderator.UserID: 100},
	}}))(t, "create room").RoomID
	must(ben.JoinRoomByID(t.Context(), room))(t, "join room")
	must(moderator.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
	command := func(at time.Time, content map[string]any) id.EventID {
		sent := must(moderator.SendMessageEvent(t.Context(), room, event.Type{Type: "chancery.call.command", Class: event.MessageEventType},
			content, mautrix.ReqSendEvent{Timestamp: at.UnixMilli()}))(t, "command")
		return sent.EventID
	}
	socket, token := callToken(t, ben, interior, room)
	ws := enterCall(t, socket, token)
	command(time.Now().Add(-time.Hour), map[string]any{"command": "remove", "user_id": ben.UserID})
	last := command(time.Now().Add(-time.Hour), map[string]any{"command": "end"})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := anna.GetEvent(t.Context(), room, last); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	interior.settings(anna, room, map[string]any{"view_only": true}) // comes after them in the stream
	permission(t, func() *signal.Response {
		res := heard(t, ws)
		if leave := res.GetLeave(); leave != nil {
			t.Fatalf("a command of an hour ago ended the session: %v", leave)
		}
		return res
	}, string(ben.UserID), false)
	command(time.Now(), map[string]any{"command": "end"})
	if reason := sentAway(t, ws); reason != signal.DisconnectReason_ROOM_DELETED {
		t.Errorf("by a command of now: got %v, want ROOM_DELETED", reason)
	}
}
