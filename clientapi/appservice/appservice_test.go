package appservice_test

import (
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

type m = map[string]any

// TestBridge lets a bridge live its ordinary day: ghosts speak in a room, a person answers, and everything comes back
// in transactions, in order.
func TestBridge(t *testing.T) {
	h := newHouse(t, nil)
	ctx := t.Context()
	bot, ghost := h.bridge.BotIntent(), h.bridge.Intent("@_irc_bob:interior")
	if !bot.EnsureAppserviceConnection(ctx) {
		t.Fatal("the ping failed")
	}
	for _, intent := range []*appservice.IntentAPI{bot, ghost} {
		if err := intent.EnsureRegistered(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := ghost.SetDisplayName(ctx, "Bob on IRC"); err != nil {
		t.Fatal(err)
	}
	alice := h.register("alice")
	room := must(bot.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "public_chat", RoomAliasName: "_irc_chat", Invite: []id.UserID{ghost.UserID, alice.UserID},
	}))(t).RoomID
	if err := ghost.EnsureJoined(ctx, room); err != nil {
		t.Fatal(err)
	}
	must(alice.JoinRoomByID(ctx, room))(t)

	long := time.Date(1988, 8, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	old := must(ghost.SendMassagedMessageEvent(ctx, room, event.EventMessage, m{"msgtype": "m.text", "body": "hello"}, long))(t)
	if got := h.event(old.EventID); got.Get("origin_server_ts").Int() != long || got.Get("sender").Str != string(ghost.UserID) {
		t.Errorf("massaged event: got %s, want it of the ghost, in 1988", got.Raw)
	}
	var sent []id.EventID
	for i := range 30 {
		sent = append(sent, must(alice.SendText(ctx, room, fmt.Sprint("message ", i)))(t).EventID)
	}
	h.event(sent[len(sent)-1])
	h.wantOrder(sent)

	if _, err := alice.UserTyping(ctx, room, true, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	h.find("typing", "ephemeral", func(v gjson.Result) bool {
		return v.Get("type").Str == "m.typing" && v.Get("room_id").Str == string(room) && v.Get("content.user_ids.0").Str == string(alice.UserID)
	})
	if err := alice.MarkRead(ctx, room, old.EventID); err != nil {
		t.Fatal(err)
	}
	h.find("receipt", "ephemeral", func(v gjson.Result) bool {
		return v.Get("type").Str == "m.receipt" && v.Get("content."+gjson.Escape(string(old.EventID))+`.m\.read.@alice:interior.ts`).Exists()
	})

	t.Run("a room without the bridge is none of its business", func(t *testing.T) {
		private := must(alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{}))(t).RoomID
		secret := must(alice.SendText(ctx, private, "secret"))(t).EventID
		after := must(alice.SendText(ctx, room, "after"))(t).EventID
		h.event(after)
		h.bridge.mu.Lock()
		defer h.bridge.mu.Unlock()
		for _, d := range h.bridge.got {
			for _, e := range d.body.Get("events").Array() {
				if e.Get("room_id").Str == string(private) {
					t.Errorf("the bridge got %s of the private room (%s)", e.Raw, secret)
				}
			}
		}
	})
	t.Run("an invite reaches a ghost that nobody has made", func(t *testing.T) {
		asked := make(chan id.UserID, 10)
		h.bridge.users = func(user id.UserID) bool { asked <- user; return false }
		mine := must(alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{}))(t).RoomID
		must(alice.InviteUser(ctx, mine, &mautrix.ReqInviteUser{UserID: "@_irc_new:interior"}))(t)
		h.find("invite", "events", func(v gjson.Result) bool {
			return v.Get("room_id").Str == string(mine) && v.Get("state_key").Str == "@_irc_new:interior"
		})
		if user := <-asked; user != "@_irc_new:interior" {
			t.Errorf("asked for %s, want the new ghost", user)
		}
	})
	t.Run("a ghost is made when somebody looks it up", func(t *testing.T) {
		h.bridge.users = func(user id.UserID) bool {
			if user != "@_irc_sought:interior" {
				return false
			}
			return h.bridge.Intent(user).EnsureRegistered(ctx) == nil
		}
		if profile, err := alice.GetProfile(ctx, "@_irc_sought:interior"); err != nil || profile.DisplayName != "_irc_sought" {
			t.Errorf("the profile: got %+v, %v", profile, err)
		}
		if _, err := alice.GetProfile(ctx, "@_irc_unsought:interior"); !errors.Is(err, mautrix.MNotFound) {
			t.Errorf("of one whom the bridge does not make: got %v, want M_NOT_FOUND", err)
		}
	})
	t.Run("an alias is made when somebody asks for it", func(t *testing.T) {
		h.bridge.aliases = func(alias id.RoomAlias) bool {
			if alias != "#_irc_later:interior" {
				return false
			}
			_, err := bot.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat", RoomAliasName: "_irc_later"})
			return err == nil
		}
		if _, err := alice.JoinRoom(ctx, "#_irc_later:interior", nil); err != nil {
			t.Errorf("join by alias: %v", err)
		}
		if _, err := alice.JoinRoom(ctx, "#_irc_never:interior", nil); !errors.Is(err, mautrix.MNotFound) {
			t.Errorf("join by an alias that the bridge does not make: got %v, want M_NOT_FOUND", err)
		}
	})
}

// wantOrder says that these events came each once, in this order.
func (h *house) wantOrder(want []id.EventID) {
	h.Helper()
	place := map[string]int{}
	for i, event := range want {
		place[string(event)] = i
	}
	h.bridge.mu.Lock()
	defer h.bridge.mu.Unlock()
	next, names := 0, map[string]bool{}
	for _, d := range h.bridge.got {
		if names[d.name] {
			continue // sent again, since the answer was lost
		}
		names[d.name] = true
		for _, e := range d.body.Get("events").Array() {
			at, ok := place[e.Get("event_id").Str]
			if !ok {
				continue
			}
			if at != next {
				h.Errorf("event %d came where %d was to come", at, next)
			}
			next = at + 1
		}
	}
	if next != len(want) {
		h.Errorf("%d events came, want %d", next, len(want))
	}
}

// TestDeadBridge shuts the bridge's door while people speak, and the server too: what was said comes when both are back,
// once, in order, and a transaction is the same each time.
func TestDeadBridge(t *testing.T) {
	h := newHouse(t, nil)
	ctx := t.Context()
	bot := h.bridge.BotIntent()
	alice := h.register("alice")
	room := must(bot.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t).RoomID
	must(alice.JoinRoomByID(ctx, room))(t)
	first := must(alice.SendText(ctx, room, "first"))(t).EventID
	h.event(first)

	h.bridge.close(true)
	sent := []id.EventID{first}
	for i := range 150 {
		sent = append(sent, must(alice.SendText(ctx, room, fmt.Sprint(i)))(t).EventID)
	}
	h.refuses(2)
	h.stop()
	h.start()
	alice.HomeserverURL = must(url.Parse(h.url))(t)
	for i := range 10 {
		sent = append(sent, must(alice.SendText(ctx, room, fmt.Sprint("again ", i)))(t).EventID)
	}
	h.refuses(2)
	h.bridge.close(false)
	h.event(sent[len(sent)-1])
	h.wantOrder(sent)
	h.bridge.mu.Lock()
	defer h.bridge.mu.Unlock()
	bodies := map[string]string{}
	for _, d := range append(h.bridge.refused, h.bridge.got...) {
		if old, ok := bodies[d.name]; ok && old != d.body.Raw {
			t.Errorf("transaction %s changed between two attempts", d.name)
		}
		bodies[d.name] = d.body.Raw
		if n := len(d.body.Get("events").Array()); n > 200 {
			t.Errorf("a transaction has %d events", n)
		}
	}
}

// refuses waits until the shut door has been knocked at so many times more.
func (h *house) refuses(n int) {
	h.Helper()
	deadline := time.After(patience)
	h.bridge.mu.Lock()
	want := len(h.bridge.refused) + n
	h.bridge.mu.Unlock()
	for {
		h.bridge.mu.Lock()
		came, have := h.bridge.came, len(h.bridge.refused)
		h.bridge.mu.Unlock()
		if have >= want {
			return
		}
		select {
		case <-came:
		case <-deadline:
			h.Fatalf("the bridge was tried %d times, want %d", have, want)
		}
	}
}

// TestEncryptedBridge has a ghost with a device of its own: its messages, and what others' devices do, come in
// transactions.
func TestEncryptedBridge(t *testing.T) {
	h := newHouse(t, nil)
	ctx := t.Context()
	bot := h.bridge.BotIntent()
	alice := h.register("alice")
	room := must(bot.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t).RoomID
	must(alice.JoinRoomByID(ctx, room))(t)
	const as = "as secret"
	const device = "/_matrix/client/v3/devices/BRIDGE"
	if code, body := h.do(as, "PUT", device, m{"display_name": "The bridge"}); code != 200 {
		t.Fatalf("make a device: %d %s", code, body.Raw)
	}
	if code, body := h.do(as, "GET", "/_matrix/client/v3/account/whoami?device_id=BRIDGE", nil); code != 200 || body.Get("device_id").Str != "BRIDGE" {
		t.Errorf("whoami: got %d %s, want the device", code, body.Raw)
	}
	if code, body := h.do(as, "GET", "/_matrix/client/v3/account/whoami?device_id=OTHER", nil); code != 400 || body.Get("errcode").Str != "M_UNKNOWN_DEVICE" {
		t.Errorf("another's device: got %d %s, want 400 M_UNKNOWN_DEVICE", code, body.Raw)
	}
	if code, body := h.do(alice.AccessToken, "PUT", "/_matrix/client/v3/sendToDevice/m.test/1", m{
		"messages": m{"@ircbot:interior": m{"BRIDGE": m{"secret": 42}}},
	}); code != 200 {
		t.Fatalf("send to device: %d %s", code, body.Raw)
	}
	got := h.find("message to the device", "de\\.sorunome\\.msc2409\\.to_device", func(v gjson.Result) bool { return v.Get("type").Str == "m.test" })
	if got.Get("to_user_id").Str != "@ircbot:interior" || got.Get("to_device_id").Str != "BRIDGE" || got.Get("sender").Str != string(alice.UserID) || got.Get("content.secret").Int() != 42 {
		t.Errorf("message to the device: got %s", got.Raw)
	}
	h.find("counts of keys", "org\\.matrix\\.msc3202\\.device_one_time_keys_count", func(v gjson.Result) bool {
		return v.Get("@ircbot:interior.BRIDGE.signed_curve25519").Exists()
	})
	if left, err := h.store.ToDevice.After(ctx, "@ircbot:interior", "BRIDGE", 0, h.store.Head(), 10); err != nil || len(left) != 0 {
		t.Errorf("messages still waiting: %v, %v, want none", left, err)
	}
	if code, body := h.do(alice.AccessToken, "PUT", "/_matrix/client/v3/devices/"+string(alice.DeviceID), m{"display_name": "New name"}); code != 200 {
		t.Fatalf("rename: %d %s", code, body.Raw)
	}
	h.find("Alice's device list", "org\\.matrix\\.msc3202\\.device_lists.changed", func(v gjson.Result) bool { return v.Str == string(alice.UserID) })
	if code, body := h.do(as, "DELETE", device, m{}); code != 200 {
		t.Errorf("delete the device without a password: got %d %s", code, body.Raw)
	}
}

func TestRights(t *testing.T) {
	h := newHouse(t, func(r *appservice.Registration) { r.RateLimited = nil })
	const as, v3 = "as secret", "/_matrix/client/v3"
	alice := h.register("alice")
	service := func(name string) m { return m{"type": "m.login.application_service", "username": name} }
	login := func(name string) m {
		return m{"type": "m.login.application_service", "identifier": m{"type": "m.id.user", "user": name}}
	}
	for _, c := range []struct {
		name, token, method, path string
		body                      any
		code                      int
		errcode                   string
	}{
		{"act for somebody not registered", as, "GET", v3 + "/account/whoami?user_id=@_irc_a:interior", nil, 403, "M_FORBIDDEN"},
		{"register in the namespace", as, "POST", v3 + "/register", service("_irc_a"), 200, ""},
		{"register it again", as, "POST", v3 + "/register", service("_irc_a"), 400, "M_USER_IN_USE"},
		{"register outside", as, "POST", v3 + "/register", service("carol"), 400, "M_EXCLUSIVE"},
		{"register the sender, who is there", as, "POST", v3 + "/register", service("ircbot"), 400, "M_USER_IN_USE"},
		{"register with a wrong token", "nonsense", "POST", v3 + "/register", service("_irc_b"), 401, "M_UNKNOWN_TOKEN"},
		{"register without a token", "", "POST", v3 + "/register", service("_irc_b"), 401, "M_MISSING_TOKEN"},
		{"a person in the namespace", "", "POST", v3 + "/register", m{"username": "_irc_c", "password": "correct horse battery", "auth": m{"type": "m.login.dummy"}}, 400, "M_EXCLUSIVE"},
		{"a name in the namespace is not available", "", "GET", v3 + "/register/available?username=_irc_c", nil, 400, "M_EXCLUSIVE"},
		{"act for one's own", as, "GET", v3 + "/account/whoami?user_id=@_irc_a:interior", nil, 200, ""},
		{"act for oneself", as, "GET", v3 + "/account/whoami", nil, 200, ""},
		{"act for a person", as, "GET", v3 + "/account/whoami?user_id=@alice:interior", nil, 403, "M_FORBIDDEN"},
		{"puppets act for people", "puppet secret", "GET", v3 + "/account/whoami?user_id=@alice:interior", nil, 200, ""},
		{"log in", as, "POST", v3 + "/login", login("_irc_a"), 200, ""},
		{"log in as a person", as, "POST", v3 + "/login", login("alice"), 400, "M_EXCLUSIVE"},
		{"log in without a token", "", "POST", v3 + "/login", login("_irc_a"), 401, "M_MISSING_TOKEN"},
		{"room with an alias of the namespace", as, "POST", v3 + "/createRoom", m{"room_alias_name": "_irc_r"}, 200, ""},
		{"room with another alias", as, "POST", v3 + "/createRoom", m{"room_alias_name": "other"}, 400, "M_EXCLUSIVE"},
		{"a person's room with an alias of the namespace", alice.AccessToken, "POST", v3 + "/createRoom", m{"room_alias_name": "_irc_s"}, 400, "M_EXCLUSIVE"},
		{"a person's alias of the namespace", alice.AccessToken, "PUT", v3 + "/directory/room/%23_irc_s:interior", m{"room_id": "!r:interior"}, 400, "M_EXCLUSIVE"},
		{"ping as another", "puppet secret", "POST", "/_matrix/client/v1/appservice/irc/ping", m{}, 403, "M_FORBIDDEN"},
		{"ping by a person", alice.AccessToken, "POST", "/_matrix/client/v1/appservice/irc/ping", m{}, 403, "M_FORBIDDEN"},
		{"ping to nowhere", "puppet secret", "POST", "/_matrix/client/v1/appservice/puppets/ping", m{}, 400, "M_URL_NOT_SET"},
		{"no networks", alice.AccessToken, "GET", v3 + "/thirdparty/protocols", nil, 200, ""},
		{"no such network", alice.AccessToken, "GET", v3 + "/thirdparty/protocol/irc", nil, 404, "M_NOT_FOUND"},
	} {
		code, body := h.do(c.token, c.method, c.path, c.body)
		if code != c.code || body.Get("errcode").Str != c.errcode {
			t.Errorf("%s: got %d %s, want %d %s", c.name, code, body.Raw, c.code, c.errcode)
		}
	}
	t.Run("limits hold for ghosts alone", func(t *testing.T) {
		bot, ghost := h.bridge.BotIntent(), h.bridge.Intent("@_irc_a:interior")
		room := must(bot.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t).RoomID
		must(ghost.JoinRoomByID(t.Context(), room))(t)
		refused := func(intent *appservice.IntentAPI) bool {
			for range 20 {
				if _, err := intent.SendText(t.Context(), room, "x"); errors.Is(err, mautrix.MLimitExceeded) {
					return true
				} else if err != nil {
					t.Fatal(err)
				}
			}
			return false
		}
		if refused(bot) {
			t.Error("the service's own user was held to the limits")
		}
		if !refused(ghost) {
			t.Error("a ghost was not held to the limits")
		}
	})
	t.Run("a ping that fails says why", func(t *testing.T) {
		h.bridge.close(true)
		code, body := h.do(as, "POST", "/_matrix/client/v1/appservice/irc/ping", m{"transaction_id": "x"})
		if code != 502 || body.Get("errcode").Str != "M_BAD_STATUS" || body.Get("status").Int() != 503 {
			t.Errorf("shut door: got %d %s, want 502 M_BAD_STATUS with 503", code, body.Raw)
		}
		h.bridge.web.Close()
		code, body = h.do(as, "POST", "/_matrix/client/v1/appservice/irc/ping", m{"transaction_id": "x"})
		if code != 502 || body.Get("errcode").Str != "M_CONNECTION_FAILED" {
			t.Errorf("no door: got %d %s, want 502 M_CONNECTION_FAILED", code, body.Raw)
		}
	})
}
