package federation_test

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

func TestBackfill(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV10, id.RoomV12} {
		w := newTown(t, "interior.example", "finance.example")
		interior, finance := w.open("interior.example"), w.open("finance.example")
		alice, bob := interior.account("alice"), finance.account("bob")
		room := interior.room(version, alice, "public")
		var want []string
		for i := range 30 {
			interior.say(room, alice, numbered(i))
			want = append(want, numbered(i))
			if i%10 == 5 {
				interior.set(room, alice, "m.room.topic", "", `{"topic":"`+numbered(i)+`"}`)
			}
		}
		finance.join(room, bob, interior)
		finance.waitFor(interior.say(room, alice, "after"))
		want = append(want, "after")
		for rounds := 0; ; rounds++ {
			answer, err := finance.federate(bus.FederationQuestion{Backfill: &bus.Backfill{RoomID: room, Limit: 12}})
			if err != nil {
				t.Fatalf("version %s: %v", version, err)
			}
			if answer.Events == 0 {
				break
			}
			if rounds > 20 {
				t.Fatalf("version %s: history without end", version)
			}
		}
		if got := finance.texts(room); !slices.Equal(got, want) {
			t.Errorf("version %s: got %s; want %s", version, join(got), join(want))
		}
		edges, err := finance.store.Rooms.Edges(t.Context(), room, 10)
		if err != nil || len(edges) != 0 {
			t.Errorf("version %s: edges left: %v, %v", version, edges, err)
		}
	}
}

func TestMediaAcrossServers(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	content := strings.Repeat("a file of some length\n", 10_000)
	hash, size, err := interior.blobs.Put(strings.NewReader(content), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, err = interior.store.Media.Add(t.Context(), &storage.File{
		Server: interior.name, MediaID: "abc", User: interior.user("alice"), ContentType: "text/plain", Name: "Élysée \"1\".txt", Size: size, Hash: hash,
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(mediaID string) error {
		_, err := finance.federate(bus.FederationQuestion{FetchMedia: &bus.FetchMedia{Server: interior.name, MediaID: mediaID}})
		return err
	}
	if err := ask("abc"); err != nil {
		t.Fatal(err)
	}
	got, err := finance.store.Media.ByID(t.Context(), interior.name, "abc")
	if err != nil || got == nil || got.ContentType != "text/plain" || got.Name != "Élysée \"1\".txt" || got.Size != size {
		t.Fatalf("got %+v and error %v", got, err)
	}
	f, err := finance.blobs.Open(got.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if raw, _ := io.ReadAll(f); string(raw) != content {
		t.Errorf("got %d bytes, want %d others", len(raw), len(content))
	}
	for _, bad := range []string{"unknown", "../../etc", ""} {
		if err := ask(bad); err == nil {
			t.Errorf("media ID %q: got no error, want one", bad)
		}
	}
}

func TestEphemeralMessages(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	room := interior.room(id.RoomV11, alice, "public")
	finance.join(room, bob, interior)
	message := interior.say(room, alice, "hello")
	finance.waitFor(message)

	// Typing.
	typing := make(chan bus.Typing, 10)
	stop, err := bus.Listen(interior.bus, bus.AllTyping, func(_ string, m bus.Typing) { typing <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := bus.Tell(finance.bus, bus.TypingIn(room), bus.Typing{RoomID: room, UserID: bob, Typing: true}); err != nil {
		t.Fatal(err)
	}
	if got := <-typing; got.UserID != bob || !got.Typing || got.RoomID != room {
		t.Errorf("typing: got %+v", got)
	}

	// Receipts: the public one travels, the private one stays.
	finance.do(func(ctx context.Context) error {
		for _, r := range []storage.Receipt{
			{RoomID: room, UserID: bob, Type: storage.ReceiptReadPrivate, EventID: message, Timestamp: 1},
			{RoomID: room, UserID: bob, Type: storage.ReceiptRead, EventID: message, Timestamp: 2},
			{RoomID: room, UserID: bob, Type: storage.ReceiptRead, Thread: "main", EventID: message, Timestamp: 3},
		} {
			if _, err := finance.store.Receipts.Put(ctx, &r); err != nil {
				return err
			}
		}
		return nil
	})
	interior.wait("bob's receipts", func() bool {
		receipts, err := interior.store.Receipts.Of(t.Context(), room, bob)
		return err == nil && len(receipts) == 2
	})
	receipts, _ := interior.store.Receipts.Of(t.Context(), room, bob)
	for _, r := range receipts {
		if r.Type != storage.ReceiptRead || r.EventID != message {
			t.Errorf("receipt: got %+v", r)
		}
	}

	// To-device, also to all of a user's devices; each message once.
	content := json.RawMessage(`{"sender":"` + string(bob) + `","type":"m.test","message_id":"1","messages":{"` + string(alice) + `":{"*":{"n":1}}}}`)
	for range 2 {
		finance.do(func(ctx context.Context) error {
			return finance.store.ToDevice.PutOutgoing(ctx, interior.name, content)
		})
	}
	waiting := func() []storage.ToDeviceMessage {
		messages, err := interior.store.ToDevice.After(t.Context(), alice, "DEVICE", 0, interior.store.Head(), 10)
		if err != nil {
			t.Fatal(err)
		}
		return messages
	}
	interior.wait("the message to alice's device", func() bool { return len(waiting()) > 0 })
	finance.wait("the acknowledgement", func() bool {
		servers, err := finance.store.Outbound.Servers(t.Context())
		return err == nil && len(servers) == 0
	})
	if got := waiting(); len(got) != 1 || string(got[0].JSON) != `{"sender":"`+string(bob)+`","type":"m.test","content":{"n":1}}` {
		t.Errorf("to-device: got %v, want one message", got)
	}

	// Device lists: once a client has asked for them a copy is kept, and fetched anew at each change.
	_, err = bus.Ask[bus.FederationQuestion, bus.FederationAnswer](t.Context(), interior.bus, bus.FederationDo, bus.FederationQuestion{
		QueryKeys: &bus.QueryKeys{Server: finance.name, Users: map[id.UserID][]id.DeviceID{bob: nil}},
	})
	if err != nil {
		t.Fatal(err)
	}
	keys := json.RawMessage(`{"user_id":"` + string(bob) + `","device_id":"DEVICE","algorithms":[],"keys":{"ed25519:DEVICE":"abc"},"signatures":{}}`)
	finance.do(func(ctx context.Context) error {
		if err := finance.store.Keys.PutDevice(ctx, storage.DeviceKeys{UserID: bob, DeviceID: "DEVICE", JSON: keys}); err != nil {
			return err
		}
		return finance.store.DeviceLists.Change(ctx, bob, "DEVICE")
	})
	interior.wait("a copy of bob's keys", func() bool {
		got, err := interior.store.Keys.Device(t.Context(), bob, "DEVICE")
		return err == nil && string(got) == string(keys)
	})
	interior.wait("belief in it", func() bool {
		list, err := interior.store.DeviceLists.Remote(t.Context(), bob)
		return err == nil && list != nil && !list.Stale
	})
}

func TestQueries(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice := interior.account("alice")
	interior.do(func(ctx context.Context) error {
		if err := interior.store.Profiles.Put(ctx, alice, "displayname", json.RawMessage(`"Alice"`)); err != nil {
			return err
		}
		_, err := interior.store.Keys.Device(ctx, alice, "DEVICE")
		return err
	})
	room := interior.room(id.RoomV11, alice, "public")
	if _, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](t.Context(), interior.bus, bus.RoomDo(room), bus.RoomQuestion{
		Alias: &bus.AliasChange{Alias: "#hall:interior.example", By: alice},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](t.Context(), interior.bus, bus.RoomDo(room), bus.RoomQuestion{
		Publish: &bus.Publish{By: alice, Listed: true},
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		q    bus.FederationQuestion
		want string
	}{
		{"profile", bus.FederationQuestion{QueryProfile: &bus.QueryProfile{UserID: alice}}, `{"displayname":"Alice"}`},
		{"one field", bus.FederationQuestion{QueryProfile: &bus.QueryProfile{UserID: alice, Field: "displayname"}}, `{"displayname":"Alice"}`},
		{"alias", bus.FederationQuestion{QueryAlias: &bus.QueryAlias{Alias: "#hall:interior.example"}}, `{"room_id":"` + string(room) + `","servers":["interior.example"]}`},
		{"keys", bus.FederationQuestion{QueryKeys: &bus.QueryKeys{Server: interior.name, Users: map[id.UserID][]id.DeviceID{alice: nil}}}, `{"device_keys":{"` + string(alice) + `":{}},"master_keys":{},"self_signing_keys":{}}`},
	} {
		answer, err := finance.federate(c.q)
		if err != nil || string(answer.Body) != c.want {
			t.Errorf("%s: got %s and error %v, want %s", c.name, answer.Body, err, c.want)
		}
	}
	listed, err := finance.federate(bus.FederationQuestion{PublicRooms: &bus.PublicRooms{Server: interior.name}})
	if err != nil || !strings.Contains(string(listed.Body), string(room)) {
		t.Errorf("public rooms: got %s and error %v", listed.Body, err)
	}
	for _, unknown := range []bus.FederationQuestion{
		{QueryProfile: &bus.QueryProfile{UserID: "@nobody:interior.example"}}, {QueryAlias: &bus.QueryAlias{Alias: "#nowhere:interior.example"}},
	} {
		if answer, err := finance.federate(unknown); err == nil {
			t.Errorf("%+v: got %s, want a refusal", unknown, answer.Body)
		}
	}
	if got := interior.membership(room, alice); got != event.MembershipJoin {
		t.Errorf("alice: got %q, want join", got)
	}
}
