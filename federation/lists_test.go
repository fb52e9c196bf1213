package federation_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// keysOf are identity keys of a device, in form.
func keysOf(user id.UserID, public string) json.RawMessage {
	return json.RawMessage(`{"algorithms":[],"device_id":"DEVICE","keys":{"ed25519:DEVICE":"` + public + `"},"signatures":{},"user_id":"` + string(user) + `"}`)
}

func TestDeviceListsAreToldOnce(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob := interior.account("alice"), finance.account("bob")
	publish := func(public string) {
		t.Helper()
		finance.do(func(ctx context.Context) error {
			if err := finance.store.Keys.PutDevice(ctx, storage.DeviceKeys{UserID: bob, DeviceID: "DEVICE", JSON: keysOf(bob, public)}); err != nil {
				return err
			}
			return finance.store.DeviceLists.Change(ctx, bob, "DEVICE")
		})
	}
	copied := func(public string) {
		t.Helper()
		interior.wait("a copy of bob's keys", func() bool {
			list, err := interior.store.DeviceLists.Remote(t.Context(), bob)
			if err != nil || list == nil || list.Stale {
				return false
			}
			got, err := interior.store.Keys.Device(t.Context(), bob, "DEVICE")
			return err == nil && string(got) == string(keysOf(bob, public))
		})
	}
	acknowledged := func() {
		t.Helper()
		head := finance.store.Head()
		finance.wait("the acknowledgement", func() bool {
			// The sender has come past what happened, so that there are rows for all that it has to tell; and none is left.
			at, err := finance.store.Cursor(t.Context(), "federation-sender")
			if err != nil || at < head {
				return false
			}
			servers, err := finance.store.Outbound.Servers(t.Context())
			return err == nil && len(servers) == 0
		})
	}
	newest := func() storage.Position {
		t.Helper()
		at, err := interior.store.DeviceLists.Newest(t.Context(), bob)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}

	publish("one")
	room := interior.room(id.RoomV11, alice, "public")
	interior.set(room, alice, event.StateEncryption.Type, "", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
	finance.join(room, bob, interior)
	copied("one")
	acknowledged()
	if at := newest(); at != 0 {
		t.Errorf("what a join told already was told again, at %d", at)
	}

	// The same again is no news; other keys are.
	publish("one")
	acknowledged()
	if at := newest(); at != 0 {
		t.Errorf("the same keys are news, at %d", at)
	}
	publish("two")
	copied("two")
	if newest() == 0 {
		t.Error("other keys are no news")
	}

	// While bob is away nobody tells us: the copy is not believed when he comes back.
	finance.set(room, bob, event.StateMember.Type, string(bob), `{"membership":"leave"}`)
	interior.wait("bob's leaving", func() bool { return interior.membership(room, bob) == event.MembershipLeave })
	acknowledged()
	publish("three")
	finance.join(room, bob, interior)
	copied("three")

	// A signature that verifies the device is news, though the keys are the same.
	before := newest()
	finance.do(func(ctx context.Context) error {
		if err := finance.store.Keys.PutSignature(ctx, storage.Signature{UserID: bob, KeyName: "DEVICE", SignerID: bob, SignerKey: "ed25519:self", Signature: "verified"}); err != nil {
			return err
		}
		return finance.store.DeviceLists.Change(ctx, bob, "DEVICE")
	})
	interior.wait("a copy of bob's signature", func() bool {
		got, err := interior.store.Keys.Device(t.Context(), bob, "DEVICE")
		return err == nil && strings.Contains(string(got), "verified")
	})
	if newest() == before {
		t.Error("a new signature is no news")
	}
}
