package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// inCall lets somebody into a call, who sends a voice and a picture.
func (h *testHouse) inCall(t *testing.T, who *mautrix.Client, room id.RoomID) *caller {
	t.Helper()
	socket, token := callToken(t, who, h, room)
	c := must(enter(t.Context(), socket, token))(t, string(who.UserID)+" enters the call")
	t.Cleanup(c.drop)
	if err := c.publish(who.UserID.Localpart(), true); err != nil {
		t.Fatalf("%s publishes: %v", who.UserID, err)
	}
	return c
}

// silent waits until nothing more is counted, and says of each when it last was.
func silent(t *testing.T, counts ...func() int) []time.Time {
	t.Helper()
	const quiet = 700 * time.Millisecond
	before, last := make([]int, len(counts)), make([]time.Time, len(counts))
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // between two looks at the counters
		still := true
		for i, count := range counts {
			if now := count(); now != before[i] {
				before[i], last[i] = now, time.Now()
			}
			still = still && time.Since(last[i]) > quiet
		}
		if still {
			return last
		}
		if time.Now().After(end) {
			t.Fatalf("packets still come after %v", patience)
		}
	}
}

// TestMediaEndAtOnce takes away what lets somebody be in a call who goes on sending, whatever the focus says: within a second
// nothing of it comes to the others, and nothing of theirs to who was sent away.
func TestMediaEndAtOnce(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Client.Account.Validity.Period = 1000 * time.Hour
	houses := openConfigured(t, configs)
	interior, finance := houses[0], houses[1]
	anna, root := interior.person("anna"), interior.administrator("root")
	kick := func(t *testing.T, room id.RoomID, who *mautrix.Client) {
		must(anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: who.UserID}))(t, "kick")
	}
	ban := func(t *testing.T, room id.RoomID, who *mautrix.Client) {
		must(anna.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: who.UserID}))(t, "ban")
	}
	leave := func(t *testing.T, room id.RoomID, who *mautrix.Client) {
		must(who.LeaveRoom(t.Context(), room))(t, "leave")
	}
	for _, c := range []struct {
		name  string
		house *testHouse
		end   func(t *testing.T, room id.RoomID, who *mautrix.Client)
	}{
		{"kicked", interior, kick},
		{"banned", interior, ban},
		{"left", interior, leave},
		{"locked", interior, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "PUT", "/_synapse/admin/v2/users/"+string(who.UserID), map[string]any{"locked": true}, nil)
		}},
		{"expired", interior, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "POST", "/_synapse/client/email_account_validity/admin", map[string]any{"user_id": who.UserID, "expiration_ts": time.Now().UnixMilli()}, nil)
		}},
		{"deactivated", interior, func(t *testing.T, _ id.RoomID, who *mautrix.Client) {
			do(t, root, "POST", "/_synapse/admin/v1/deactivate/"+string(who.UserID), map[string]any{"erase": false}, nil)
		}},
		{"guest kicked", finance, kick},
		{"guest banned", finance, ban},
		{"guest left", finance, leave},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
			who := c.house.person(strings.ReplaceAll(c.name, " ", ""))
			must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
			stays, goes := interior.inCall(t, anna, room), interior.inCall(t, who, room)
			if !stays.hears(patience) || !goes.hears(patience) {
				t.Fatal("they do not hear one another")
			}
			begun := time.Now()
			c.end(t, room, who)
			last := silent(t, func() int { return stays.bytesOf(goes.sid) }, func() int { return goes.bytesOf(stays.sid) })
			if of, to := last[0].Sub(begun), last[1].Sub(begun); max(of, to) > time.Second {
				t.Errorf("media of who was sent away came for %v, and went there for %v, want a second at most", of, to)
			}
			if stays.bytesOf(goes.sid) == 0 || goes.bytesOf(stays.sid) == 0 {
				t.Error("what came is not known by its sender")
			}
			if _, out := stays.out(); out {
				t.Error("who may stay was sent away")
			}
		})
	}
}

// TestOrdersReachThePackets mutes and removes a guest who goes on sending, in each way that there is: nothing of it comes to the others.
func TestOrdersReachThePackets(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior, finance := houses[0], houses[1]
	anna, root := interior.person("anna"), interior.administrator("root")
	command := func(content map[string]any) func(*testing.T, id.RoomID, *mautrix.Client) {
		return func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			content["user_id"] = who.UserID
			must(anna.SendMessageEvent(t.Context(), room, event.Type{Type: "chancery.call.command", Class: event.MessageEventType}, content))(t, "command")
		}
	}
	admin := func(t *testing.T, method string, room id.RoomID, verb string, content map[string]any) {
		t.Helper()
		do(t, root, method, "/_chancery/admin/v1/rooms/"+url.PathEscape(string(room))+"/call"+verb, content, nil)
	}
	adminCommand := func(verb string) func(*testing.T, id.RoomID, *mautrix.Client) {
		return func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			admin(t, "POST", room, verb, map[string]any{"user_id": who.UserID})
		}
	}
	for _, c := range []struct {
		name  string
		order func(t *testing.T, room id.RoomID, who *mautrix.Client)
	}{
		{"muted by the room", func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			interior.settings(anna, room, map[string]any{"muted": []id.UserID{who.UserID}, "no_video": []string{"@*:finance.test"}})
		}},
		{"view-only by the room", func(t *testing.T, room id.RoomID, _ *mautrix.Client) {
			interior.settings(anna, room, map[string]any{"view_only": true})
		}},
		{"without the power level", func(t *testing.T, room id.RoomID, _ *mautrix.Client) {
			levels := &event.PowerLevelsEventContent{Users: map[id.UserID]int{anna.UserID: 100}, Events: map[string]int{"org.matrix.msc3401.call.member": 30}}
			must(anna.SendStateEvent(t.Context(), room, event.StatePowerLevels, "", levels))(t, "power levels")
		}},
		{"muted by command", command(map[string]any{"command": "mute"})},
		{"removed by command", command(map[string]any{"command": "remove"})},
		{"muted by an administrator", adminCommand("/mute")},
		{"removed by an administrator", adminCommand("/remove")},
		{"view-only by an administrator", func(t *testing.T, room id.RoomID, _ *mautrix.Client) {
			admin(t, "PUT", room, "", map[string]any{"view_only": true})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
			who := finance.person(strings.ReplaceAll(c.name, " ", "-"))
			must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
			hears, sends := interior.inCall(t, anna, room), interior.inCall(t, who, room)
			if !hears.hears(patience) {
				t.Fatal("the guest is not heard")
			}
			begun := time.Now()
			c.order(t, room, who)
			if took := silent(t, func() int { return hears.bytesOf(sends.sid) })[0].Sub(begun); took > time.Second {
				t.Errorf("media came for %v, want a second at most", took)
			}
		})
	}
}

// TestGuestsShareABudget lets two users of one other server send more together than it may: what is beyond does not come, and
// nobody else has less. Then the room bounds all of them.
func TestGuestsShareABudget(t *testing.T) {
	const perSecond = 600 // bytes that the guests may send; each sends more
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Calls.MaxGuestBitrate = 8 * perSecond
	houses := openConfigured(t, configs)
	interior, finance := houses[0], houses[1]
	anna, bob, felix, flora := interior.person("anna"), interior.person("bob"), finance.person("felix"), finance.person("flora")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	for _, who := range []*mautrix.Client{bob, felix, flora} {
		interior.takesIn(t, who, room)
	}
	hears, own := interior.inCall(t, anna, room), interior.inCall(t, bob, room)
	first, second := interior.inCall(t, felix, room), interior.inCall(t, flora, room)
	for deadline := time.Now().Add(patience); hears.bytesOf(own.sid) == 0 || hears.bytesOf(first.sid) == 0 || hears.bytesOf(second.sid) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not everybody is heard")
		}
	}
	// Bob is the measure: a busy machine delays what he sends as it does theirs.
	brought := func() (ofGuests, ofBob int) {
		guests, bob := hears.bytesOf(first.sid)+hears.bytesOf(second.sid), hears.bytesOf(own.sid)
		time.Sleep(3 * time.Second) // what is measured is bytes in a time
		return hears.bytesOf(first.sid) + hears.bytesOf(second.sid) - guests, hears.bytesOf(own.sid) - bob
	}
	guests, others := brought()
	t.Logf("of both guests came %d bytes, of who is not bounded %d", guests, others)
	if guests == 0 || guests > others*3/2 {
		t.Errorf("of both guests came %d bytes, want some, and far less than twice the %d of who is not bounded", guests, others)
	}
	interior.settings(anna, room, map[string]any{"max_bitrate": 8 * 300})
	for deadline := time.Now().Add(patience); ; {
		_, bounded := brought()
		if bounded < others/2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of bob came %d bytes in a room that lets all together send little, and %d before", bounded, others)
		}
	}
}

// TestTokensAreForMembers asks for tokens as whoever is something else than joined, at home and as a guest.
func TestTokensAreForMembers(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	interior := houses[0]
	anna := interior.person("anna")
	invite := func(t *testing.T, room id.RoomID, who id.UserID) {
		must(anna.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: who}))(t, "invite")
	}
	join := func(t *testing.T, room id.RoomID, who *mautrix.Client) {
		invite(t, room, who.UserID)
		must(who.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}}))(t, "join room")
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, room id.RoomID, who *mautrix.Client)
		want int
	}{
		{"stranger", func(*testing.T, id.RoomID, *mautrix.Client) {}, http.StatusForbidden},
		{"invited", func(t *testing.T, room id.RoomID, who *mautrix.Client) { invite(t, room, who.UserID) }, http.StatusForbidden},
		{"joined", join, http.StatusOK},
		{"left", func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			join(t, room, who)
			must(who.LeaveRoom(t.Context(), room))(t, "leave")
		}, http.StatusForbidden},
		{"kicked", func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			join(t, room, who)
			must(anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: who.UserID}))(t, "kick")
		}, http.StatusForbidden},
		{"banned", func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			join(t, room, who)
			must(anna.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: who.UserID}))(t, "ban")
		}, http.StatusForbidden},
		{"back", func(t *testing.T, room id.RoomID, who *mautrix.Client) {
			join(t, room, who)
			must(anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: who.UserID}))(t, "kick")
			join(t, room, who)
		}, http.StatusOK},
	} {
		for _, at := range houses {
			t.Run(c.name+" of "+at.config.ServerName, func(t *testing.T) {
				room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
				who := at.person(c.name)
				c.do(t, room, who)
				got := 0 // what is done at the other server takes a moment to be known here
				for deadline := time.Now().Add(patience); got != c.want && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
					got = tokenStatus(t, who, interior, room)
				}
				if got != c.want {
					t.Errorf("got %d, want %d", got, c.want)
				}
			})
		}
	}
}
