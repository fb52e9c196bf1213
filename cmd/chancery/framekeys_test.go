//go:build goolm

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const frameKeysType = "io.element.call.encryption_keys"

// TestC16FrameKeysAreNeitherSeenNorLogged: two people of two servers are in an encrypted call, and their devices tell each other the
// keys of its frames. The servers pass that on as it is; no key is in any file of theirs, and nothing of the messages in their logs,
// even where these say all that they can.
func TestC16FrameKeysAreNeitherSeenNorLogged(t *testing.T) {
	var logs logBuffer
	var houses []*testHouse
	for _, config := range testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test") {
		config.Log.Level = zerolog.TraceLevel
		house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
		house.openWith(zerolog.New(&logs).Level(zerolog.TraceLevel).WithContext(context.Background()))
		t.Cleanup(house.close)
		houses = append(houses, house)
	}
	interior := houses[0]
	anna, claire := interior.person("anna"), houses[1].person("claire")
	atAnna, atClaire := listenEncrypted(t, anna), listenEncrypted(t, claire)
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{claire.UserID}}))(t, "create room").RoomID
	atClaire.untilMember(room, claire.UserID, event.MembershipInvite)
	must(claire.JoinRoomByID(t.Context(), room))(t, "join")
	atAnna.untilMember(room, claire.UserID, event.MembershipJoin)

	var callers []*caller
	for name, who := range map[string]*mautrix.Client{"anna": anna, "claire": claire} {
		enterAsElement(t, who, interior, room)
		socket, token := callToken(t, who, interior, room)
		c := must(enter(t.Context(), socket, token))(t, name+" enters")
		t.Cleanup(c.drop)
		c.encrypted = true
		if err := c.publish(name, true); err != nil {
			t.Fatalf("%s publishes: %v", name, err)
		}
		callers = append(callers, c)
	}

	secret, open := make([]byte, 16), make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	_, _ = rand.Read(open)
	keys := func(key []byte) map[string]any {
		return map[string]any{
			"keys": map[string]any{"index": 0, "key": base64.RawStdEncoding.EncodeToString(key)}, "room_id": room, "sent_ts": 1,
			"member":  map[string]any{"claimed_device_id": anna.DeviceID, "id": string(anna.UserID) + ":" + string(anna.DeviceID)},
			"session": map[string]any{"call_id": "", "application": "m.call", "scope": "m.room"},
		}
	}
	// As clients do it, encrypted for the device; and once more in clear, which no server may make worse by writing it down.
	machine := anna.Crypto.(*cryptohelper.CryptoHelper).Machine()
	sealed := must(machine.EncryptToDevices(t.Context(), event.Type{Type: frameKeysType, Class: event.ToDeviceEventType}, &mautrix.ReqSendToDevice{
		Messages: map[id.UserID]map[id.DeviceID]*event.Content{claire.UserID: {claire.DeviceID: {Raw: keys(secret)}}},
	}))(t, "encrypt")
	inClear := &mautrix.ReqSendToDevice{Messages: map[id.UserID]map[id.DeviceID]*event.Content{claire.UserID: {claire.DeviceID: {Raw: keys(open)}}}}
	var ciphertext string
	for _, sent := range []struct {
		kind event.Type
		what *mautrix.ReqSendToDevice
	}{{event.ToDeviceEncrypted, sealed}, {event.Type{Type: frameKeysType, Class: event.ToDeviceEventType}, inClear}} {
		must(anna.SendToDevice(t.Context(), sent.kind, sent.what))(t, "send "+sent.kind.Type)
		got := atClaire.until("a "+sent.kind.Type, func(ev *event.Event) bool { return ev.Type.Type == sent.kind.Type && ev.Sender == anna.UserID })
		var want, have any
		wanted := must(json.Marshal(sent.what.Messages[claire.UserID][claire.DeviceID]))(t, "marshal")
		if json.Unmarshal(wanted, &want) != nil || json.Unmarshal(got.Content.VeryRaw, &have) != nil || !reflect.DeepEqual(have, want) {
			t.Errorf("%s: got %s, want %s", sent.kind.Type, got.Content.VeryRaw, wanted)
		}
		if sent.kind == event.ToDeviceEncrypted {
			gjson.GetBytes(wanted, "ciphertext").ForEach(func(_, of gjson.Result) bool { ciphertext = of.Get("body").Str; return false })
		}
	}
	if len(ciphertext) < 40 {
		t.Fatalf("no ciphertext in %v", sealed)
	}
	for n, c := range callers {
		if !c.hears(patience) {
			t.Errorf("caller %d hears nothing", n)
		}
	}
	for _, c := range callers {
		c.leave()
	}
	for _, house := range houses {
		house.close()
	}

	said := logs.bytes()
	if !bytes.Contains(said, []byte(`"level":"debug"`)) || !bytes.Contains(said, []byte(`"participant":"PA_`)) {
		t.Errorf("the logs say little, want them to say all: %d bytes", len(said))
	}
	for name, needles := range map[string][][]byte{"the sealed key": written(secret), "the open key": written(open), "the ciphertext": {[]byte(ciphertext[:40])}} {
		for _, needle := range needles {
			if at := bytes.Index(said, needle); at >= 0 {
				t.Errorf("%s is in the logs: …%s…", name, said[max(0, at-200):at])
			}
		}
	}
	for _, house := range houses {
		err := filepath.WalkDir(house.config.Data, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			held, err := os.ReadFile(path)
			for _, needle := range written(secret) {
				if bytes.Contains(held, needle) {
					t.Errorf("the sealed key is in %s", path)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// written are the ways in which a key may have been written down.
func written(key []byte) [][]byte {
	return [][]byte{
		key, []byte(hex.EncodeToString(key)), []byte(base64.RawStdEncoding.EncodeToString(key)), []byte(base64.RawURLEncoding.EncodeToString(key)),
	}
}

// logBuffer keeps what loggers of several goroutines say.
type logBuffer struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said.Write(line)
}

func (b *logBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.said.Bytes())
}
