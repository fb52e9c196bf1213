package push

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/clientapi/rest"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

const bob = id.UserID("@bob:interior")

// street is a running room server and follower, with a gateway at its end.
type street struct {
	*testing.T
	store *storage.Store
	bus   *bus.Bus
	got   chan gjson.Result
	// refusals is how often the gateway fails before it takes anything; answer is what it then says.
	refusals atomic.Int32
	answer   atomic.Value
	url      string
	handlers *Handlers
}

func newStreet(t *testing.T) *street {
	t.Helper()
	ctx, cancel := context.WithCancel(zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel).WithContext(context.Background()))
	b, err := bus.Open(ctx, bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(ctx, storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, b)
	if err != nil {
		t.Fatal(err)
	}
	s := &street{T: t, store: store, bus: b, got: make(chan gjson.Result, 100)}
	s.answer.Store(`{"rejected":[]}`)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if s.refusals.Add(-1) >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		fmt.Fprint(w, s.answer.Load())
		s.got <- gjson.ParseBytes(body).Get("notification")
	}))
	s.url = gateway.URL + notifyPath
	signer := pdu.Signer{ServerName: "interior", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))}
	s.handlers = New(DefaultConfig(), store, view.New(store), http.DefaultClient, nil)
	rooms, h := roomserver.New(roomserver.DefaultConfig(), store, b, signer), s.handlers
	ended := make(chan error, 2)
	go func() { ended <- rooms.Run(ctx) }()
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
		gateway.Close()
		store.Close()
		b.Close()
	})
	return s
}

func key(s string) *string { return &s }

func (s *street) room(content string, version id.RoomVersion) id.RoomID {
	s.Helper()
	join := func(user id.UserID) bus.Proposal {
		return bus.Proposal{Sender: user, Type: "m.room.member", StateKey: key(string(user)), Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":%q}`, user.Localpart()))}
	}
	made, err := bus.Ask[bus.Create, bus.Created](s.Context(), s.bus, bus.CreateRoom, bus.Create{
		Version: version, Sender: alice, Content: json.RawMessage(content),
		Events: []bus.Proposal{join(alice), {Sender: alice, Type: "m.room.power_levels", StateKey: key(""), Content: json.RawMessage(`{"users":{"@alice:interior":100}}`)},
			{Sender: alice, Type: "m.room.join_rules", StateKey: key(""), Content: json.RawMessage(`{"join_rule":"public"}`)},
			{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: json.RawMessage(`{"name":"cabinet"}`)}, join(bob)},
	})
	if err != nil {
		s.Fatal(err)
	}
	return made.RoomID
}

func (s *street) say(room id.RoomID, user id.UserID, text string) id.EventID {
	s.Helper()
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](s.Context(), s.bus, bus.RoomDo(room), bus.RoomQuestion{Propose: &bus.Proposal{
		Sender: user, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))}})
	if err != nil {
		s.Fatal(err)
	}
	return answer.Outcomes[0].EventID
}

func (s *street) push(appID, data string) {
	s.Helper()
	err := s.store.Do(s.Context(), func(ctx context.Context) error {
		return s.store.Pushers.Put(ctx, &storage.Pusher{UserID: bob, AppID: appID, PushKey: "K", DeviceID: "PHONE", Kind: "http", Enabled: true,
			Data: json.RawMessage(strings.ReplaceAll(data, "URL", s.url))}, false)
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *street) next() gjson.Result {
	s.Helper()
	select {
	case n := <-s.got:
		return n
	case <-time.After(20 * time.Second):
		s.Fatal("the gateway got nothing")
		return gjson.Result{}
	}
}

func TestGatewayIsCalled(t *testing.T) {
	s := newStreet(t)
	s.push("whole", `{"url":"URL"}`)
	room := s.room(`{}`, id.RoomV11)
	s.refusals.Store(1) // the first time it is not there: tried again
	event := s.say(room, alice, "hello")
	n := s.next()
	for path, want := range map[string]string{
		"event_id": string(event), "room_id": string(room), "type": "m.room.message", "sender": string(alice), "sender_display_name": "alice",
		"room_name": "cabinet", "content.body": "hello", "counts.unread": "1", "devices.0.pushkey": "K", "devices.0.tweaks.sound": "default", "prio": "high",
	} {
		if got := n.Get(path).String(); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if n.Get("devices.0.data.url").Exists() {
		t.Errorf("the gateway's own address is told: %s", n.Raw)
	}
	err := s.store.Do(t.Context(), func(ctx context.Context) error {
		_, err := s.store.Receipts.Put(ctx, &storage.Receipt{RoomID: room, UserID: bob, Type: storage.ReceiptRead, EventID: event, Timestamp: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := s.next(); n.Get("counts.unread").Raw != "0" || n.Get("event_id").Exists() {
		t.Errorf("after reading: %s, want the count alone", n.Raw)
	}
	s.say(room, bob, "my own")
	s.answer.Store(`{"rejected":["K"]}`)
	last := s.say(room, alice, "last")
	if n := s.next(); n.Get("event_id").Str != string(last) {
		t.Errorf("got %s, want the last message and not Bob's own", n.Raw)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		left, err := s.store.Pushers.Of(t.Context(), bob)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a rejected pusher stays")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestGatewayLearnsTheIDOnly(t *testing.T) {
	s := newStreet(t)
	s.push("few", `{"url":"URL","format":"event_id_only","default_payload":{"a":1}}`)
	event := s.say(s.room(`{}`, id.RoomV11), alice, "secret")
	n := s.next()
	if n.Get("event_id").Str != string(event) || n.Get("devices.0.data.default_payload.a").Int() != 1 {
		t.Errorf("got %s", n.Raw)
	}
	for _, path := range []string{"content", "sender", "type", "room_name", "sender_display_name"} {
		if n.Get(path).Exists() {
			t.Errorf("%s is told: %s", path, n.Raw)
		}
	}
}

func TestRulesAreCarriedOver(t *testing.T) {
	s := newStreet(t)
	old := s.room(`{}`, id.RoomV11)
	set := rules.Default(bob)
	if err := set.Put(rules.Room, rules.Rule{ID: string(old), Actions: []json.RawMessage{}}, "", ""); err != nil {
		t.Fatal(err)
	}
	content, err := set.JSON()
	if err != nil {
		t.Fatal(err)
	}
	err = s.store.Do(t.Context(), func(ctx context.Context) error {
		return s.store.AccountData.Put(ctx, storage.AccountData{UserID: bob, Type: rules.Type, Content: content})
	})
	if err != nil {
		t.Fatal(err)
	}
	fresh := s.room(fmt.Sprintf(`{"predecessor":{"room_id":%q}}`, old), id.RoomV11)
	deadline := time.Now().Add(20 * time.Second)
	for {
		stored, err := s.store.AccountData.ByType(t.Context(), bob, "", rules.Type)
		if err != nil {
			t.Fatal(err)
		}
		set, err := rules.Parse(bob, stored.Content)
		if err != nil {
			t.Fatal(err)
		}
		if set.Rule(rules.Room, string(fresh)) != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the rule for the old room is not there for the new one")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNotificationsAreListed(t *testing.T) {
	s := newStreet(t)
	room := s.room(`{}`, id.RoomV11)
	var events []id.EventID
	for _, text := range []string{"one", "two for bob", "three"} {
		events = append(events, s.say(room, alice, text))
	}
	s.say(room, bob, "mine")
	err := s.store.Do(t.Context(), func(ctx context.Context) error {
		_, err := s.store.Receipts.Put(ctx, &storage.Receipt{RoomID: room, UserID: bob, Type: storage.ReceiptRead, EventID: events[1], Timestamp: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.DefaultConfig()
	mux := rest.NewMux([]rest.Route{{Method: "GET", Path: "/_matrix/client/v3/notifications", Handler: s.handlers.Notifications, Auth: rest.User}},
		rest.Options{Config: cfg, Log: zerolog.Nop(), Tokens: tokens{}})
	h := &house{T: t, store: s.store, http: mux}
	code, first := h.ask(bob, "GET", "notifications?limit=2", "")
	if code != 200 || first.Get("notifications.#").Int() != 2 || first.Get("notifications.0.event.content.body").Str != "three" ||
		first.Get("notifications.0.read").Bool() || !first.Get("notifications.1.read").Bool() {
		t.Errorf("first page: %d %s", code, first.Raw)
	}
	_, second := h.ask(bob, "GET", "notifications?from="+first.Get("next_token").Str, "")
	if second.Get("notifications.#").Int() != 1 || second.Get("notifications.0.event.content.body").Str != "one" || second.Get("next_token").Exists() {
		t.Errorf("second page: %s", second.Raw)
	}
	_, loud := h.ask(bob, "GET", "notifications?only=highlight", "")
	if loud.Get("notifications.#.event.content.body").Raw != `["two for bob"]` {
		t.Errorf("highlights: %s", loud.Raw)
	}
	if code, _ := h.ask(bob, "GET", "notifications?from=x", ""); code != 400 {
		t.Errorf("bad token: %d", code)
	}
}

func TestUnwelcomeInviteRingsNobody(t *testing.T) {
	s := newStreet(t)
	s.push("whole", `{"url":"URL"}`)
	room, other := s.room(`{}`, id.RoomV11), s.room(`{}`, id.RoomV11)
	invite := func() {
		t.Helper()
		for _, p := range []bus.Proposal{
			{Sender: bob, Type: "m.room.member", StateKey: key(string(bob)), Content: json.RawMessage(`{"membership":"leave"}`)},
			{Sender: alice, Type: "m.room.member", StateKey: key(string(bob)), Content: json.RawMessage(`{"membership":"invite"}`)},
		} {
			answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](t.Context(), s.bus, bus.RoomDo(room), bus.RoomQuestion{Propose: &p})
			if err != nil || answer.Outcomes[0].Verdict != bus.Accepted {
				t.Fatalf("%s: got %+v and error %v", p.Content, answer, err)
			}
		}
	}
	invite()
	if n := s.next(); n.Get("type").Str != "m.room.member" {
		t.Errorf("got %s, want the invite", n.Raw)
	}
	err := s.store.Do(t.Context(), func(ctx context.Context) error {
		return s.store.AccountData.Put(ctx, storage.AccountData{UserID: bob, Type: "org.matrix.msc4155.invite_permission_config", Content: json.RawMessage(`{"ignored_users":["@alice:*"]}`)})
	})
	if err != nil {
		t.Fatal(err)
	}
	invite()
	// Invites alone are unwelcome.
	event := s.say(other, alice, "hello")
	if n := s.next(); n.Get("event_id").Str != string(event) {
		t.Errorf("got %s, want the message and not the invite", n.Raw)
	}
}
