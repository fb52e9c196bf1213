package calls

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// FuzzBodies feeds the focus's HTTP routes with bodies of strangers, up to where somebody would have to be asked.
func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"room":"!r:x","device_id":"D","openid_token":{"access_token":"a","matrix_server_name":"x"},"delay_id":"d","delay_timeout":5}`))
	f.Add([]byte(`{"room_id":"!r:x","slot_id":"m.call#ROOM","member":{"id":"m","claimed_user_id":"@a:x","claimed_device_id":"D"},"openid_token":{"access_token":"a","matrix_server_name":"x"}}`))
	f.Add([]byte(`{"room":"room","identity":"ann","permission":{"can_publish":true},"attributes":{"a":"b"}}`))
	f.Add([]byte{10, 4, 'r', 'o', 'o', 'm', 18, 3, 'a', 'n', 'n'})
	focus, err := NewStandalone(f.Context(), testConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = focus.shut() })
	f.Fuzz(func(t *testing.T, body []byte) {
		var legacy legacyRequest
		if decode(body, &legacy) == nil && legacy.check() == nil {
			if legacy.Room == "" || legacy.OpenID.AccessToken == "" || legacy.Timeout < 0 || (legacy.ID == "") != (legacy.Timeout == 0) {
				t.Errorf("%q: passed as %+v", body, legacy)
			}
			roomName(legacy.Room, roomSlot)
		}
		var member memberRequest
		if decode(body, &member) == nil && member.check() == nil {
			if got := memberIdentity(member.Member.User, member.Member.Device, member.Member.ID); len(got) != 43 {
				t.Errorf("%q: identity %q", body, got)
			}
		}
		all := &Claims{Video: Grant{Room: "room", RoomAdmin: true, RoomCreate: false, RoomList: true}}
		for _, isJSON := range []bool{true, false} {
			read := func(into signal.Message) error {
				if signal.DecodeBody(body, isJSON, into) != nil {
					return errTwirpMalformed
				}
				return nil
			}
			for _, method := range []func(*Claims, decoder) (signal.Message, error){
				focus.listRooms, focus.deleteRoom, focus.listParticipants, focus.getParticipant, focus.removeParticipant, focus.mutePublishedTrack,
				focus.createRoom, focus.updateRoomMetadata, focus.updateParticipant, focus.updateSubscriptions, focus.sendData,
			} {
				_, _ = method(all, read) // a refusal is an answer
			}
		}
	})
}

// TestTokensAskedInVain bounds how often an address may guess, and how often a user may ask.
func TestTokensAskedInVain(t *testing.T) {
	limits := newTokenLimits()
	const here, there = "192.0.2.7", "192.0.2.8"
	for range failureBurst {
		if limits.failed(here, "own.test", false) != nil {
			t.Fatal("refused too soon")
		}
	}
	if limits.failed(here, "own.test", false) == nil {
		t.Errorf("after %d guesses the address may go on", failureBurst)
	}
	if limits.failed(there, "own.test", false) != nil || limits.mayAskOther(here, "other.test") != nil {
		t.Error("another address, or another server, is refused too")
	}
	names := 0 // of servers, each another one
	for limits.mayAskOther(here, fmt.Sprint(names, ".test")) == nil && names < 10*abroadBurst {
		_ = limits.failed(here, fmt.Sprint(names, ".test"), true)
		names++
	}
	if names >= 2*abroadBurst || limits.mayAskOther(there, "other.test") != nil {
		t.Errorf("%d servers were asked in vain for one address, want about %d, and for others theirs", names, abroadBurst)
	}
	asked := 0
	for limits.mayAsk("@eve:x") == nil && asked < 10*userBurst {
		asked++
	}
	if asked >= 2*userBurst || limits.mayAsk("@ann:x") != nil {
		t.Errorf("a user got %d tokens in a row, want about %d, and others theirs", asked, userBurst)
	}
}

// TestIdentityIsItsOwners lets nobody take the name of another, though two users and devices may spell one name.
func TestIdentityIsItsOwners(t *testing.T) {
	_, base := newTestFocus(t)
	of := func(user id.UserID, device id.DeviceID) string {
		return testToken(t, "room", legacyIdentity(user, device), func(c *Claims) { c.Matrix = &Matrix{User: user, Device: device, Room: "!room:x"} })
	}
	owner, other := of("@ann:x", "8448:D"), of("@ann:x:8448", "D")
	ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {owner}})
	if res, err := readResponse(ws); err != nil || res.GetJoin() == nil {
		t.Fatalf("got %v, %v, want a welcome", res, err)
	}
	for name, c := range map[string]struct {
		token string
		want  int
	}{"its owner": {owner, 200}, "another": {other, 401}} {
		resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + "/rtc/validate?" + url.Values{"access_token": {c.token}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: got %d, want %d", name, resp.StatusCode, c.want)
		}
	}
}

// TestTokenNeverAdministers looks at what a client's token says.
func TestTokenNeverAdministers(t *testing.T) {
	b := bearer{user: "@ann:x", device: "D", room: "!r:x", slot: roomSlot, identity: legacyIdentity("@ann:x", "D")}
	c := b.claims()
	if v := c.Video; !v.RoomJoin || v.Room != roomName("!r:x", roomSlot) || v.RoomAdmin || v.RoomList || v.RoomCreate || v.Hidden {
		t.Errorf("got %+v", v)
	}
	if tokenLife.Hours() > 1 {
		t.Errorf("a token opens for %v, want an hour at most", tokenLife)
	}
	config := DefaultConfig()
	if config.Secret = strings.Repeat("x", minSecret-1); config.Check() == nil || minSecret*8 < 256 {
		t.Error("a short secret is taken")
	}
}
