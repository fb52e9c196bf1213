//go:build goolm

package main

import (
	"context"
	"path/filepath"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestEncryptedRoom lets two bots of two servers speak in an encrypted room: device lists, one-time keys and room keys
// cross the federation before the first word can be read.
func TestEncryptedRoom(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		houses := openHouses(t, database, "interior.test", "finance.test")
		anna, claire := houses[0].person("anna"), houses[1].person("claire")
		atAnna, atClaire := listenEncrypted(t, anna), listenEncrypted(t, claire)

		stateKey := ""
		room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{
			Preset: "private_chat", Invite: []id.UserID{claire.UserID},
			InitialState: []*event.Event{{Type: event.StateEncryption, StateKey: &stateKey, Content: event.Content{
				Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1},
			}}},
		}))(t, "create room").RoomID
		atClaire.untilMember(room, claire.UserID, event.MembershipInvite)
		must(claire.JoinRoomByID(t.Context(), room))(t, "join")
		atAnna.untilMember(room, claire.UserID, event.MembershipJoin)
		atClaire.untilMember(room, claire.UserID, event.MembershipJoin)

		must(anna.SendText(t.Context(), room, "for your eyes only"))(t, "send encrypted")
		atClaire.untilText(room, "for your eyes only")
		must(claire.SendText(t.Context(), room, "burn after reading"))(t, "answer encrypted")
		got := atAnna.untilText(room, "burn after reading")
		if got.Mautrix.EventSource&event.SourceDecrypted == 0 {
			t.Errorf("the answer came in plain text, want it decrypted")
		}
	})
}

// listenEncrypted gives the client a device with keys, and starts its sync.
func listenEncrypted(t *testing.T, client *mautrix.Client) *listener {
	t.Helper()
	client.Syncer = mautrix.NewDefaultSyncer()
	helper, err := cryptohelper.NewCryptoHelper(client, []byte("pickle"), filepath.Join(t.TempDir(), "crypto.db"))
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{t: t, client: client, events: make(chan *event.Event, 4096)}
	client.Syncer.(mautrix.ExtensibleSyncer).OnEvent(func(_ context.Context, ev *event.Event) {
		if ev.Type != event.EventEncrypted {
			l.events <- ev
		}
	})
	if err := helper.Init(t.Context()); err != nil {
		t.Fatalf("crypto of %s: %v", client.UserID, err)
	}
	client.Crypto = helper
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := client.SyncWithContext(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("sync of %s: %v", client.UserID, err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done; helper.Close() })
	return l
}
