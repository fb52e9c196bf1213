package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// commanded is one device in a call, with a voice and a picture, and what was done to it.
type commanded struct {
	ws     *websocket.Conn
	device id.DeviceID
	tracks map[string]string // sid -> name
	done   []string
}

// announces lets somebody into a call, who announces a voice and a picture.
func (h *testHouse) announces(t *testing.T, who *mautrix.Client, room id.RoomID) *commanded {
	t.Helper()
	socket, token := callToken(t, who, h, room)
	c := &commanded{ws: enterCall(t, socket, token), device: who.DeviceID, tracks: map[string]string{}}
	for name, kind := range map[string]signal.TrackType{"voice": signal.TrackType_AUDIO, "picture": signal.TrackType_VIDEO} {
		c.say(t, &signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: name, Type: kind}}})
	}
	for len(c.tracks) < 2 {
		if taken := heard(t, c.ws).GetTrackPublished(); taken != nil {
			c.tracks[taken.Track.Sid] = taken.Cid
		}
	}
	return c
}

func (c *commanded) say(t *testing.T, req *signal.Request) {
	t.Helper()
	frame, err := signal.EncodeBody(req, false)
	if err == nil {
		err = c.ws.WriteMessage(websocket.BinaryMessage, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *commanded) sid(name string) string {
	for sid, of := range c.tracks {
		if of == name {
			return sid
		}
	}
	return ""
}

// until notes what is done to the device, until it is out or hears what end wants.
func (c *commanded) until(t *testing.T, end func(*signal.Response) bool) {
	t.Helper()
	for {
		res := heard(t, c.ws)
		if mute := res.GetMute(); mute != nil {
			c.done = append(c.done, fmt.Sprintf("mute %s %v", c.tracks[mute.Sid], mute.Muted))
		}
		if leave := res.GetLeave(); leave != nil {
			c.done = append(c.done, leave.Reason.String())
			return
		}
		if end(res) {
			return
		}
	}
}

// TestCommandsAreNarrow: a command reaches the device and the track that it names and no other, and nobody whose power level is
// not below that of the one who commands.
func TestCommandsAreNarrow(t *testing.T) {
	interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	people := map[string]*mautrix.Client{}
	for _, name := range []string{"anna", "maud", "mary", "ben", "cleo"} {
		people[name] = interior.person(name)
	}
	room := must(people["anna"].CreateRoom(t.Context(), &mautrix.ReqCreateRoom{
		Preset: "public_chat", PowerLevelOverride: &event.PowerLevelsEventContent{Users: map[id.UserID]int{
			people["anna"].UserID: 100, people["maud"].UserID: 50, people["mary"].UserID: 50, people["ben"].UserID: 10,
		}},
	}))(t, "create room").RoomID
	in := map[string]*commanded{}
	for name, who := range people {
		if name != "anna" {
			interior.takesIn(t, who, room)
		}
		in[name] = interior.announces(t, who, room)
	}
	second := must(mautrix.NewClient(interior.url, "", ""))(t, "client")
	must(second.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: testPassword("ben"), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: "ben"},
	}))(t, "second device")
	in["ben's other"] = interior.announces(t, second, room)

	command := func(by, do, whom string, narrow map[string]any) {
		content := map[string]any{"command": do, "user_id": people[whom].UserID}
		for key, value := range narrow {
			content[key] = value
		}
		must(people[by].SendMessageEvent(t.Context(), room, event.Type{Type: "chancery.call.command", Class: event.MessageEventType}, content))(t, "command")
	}
	command("anna", "mute", "ben", map[string]any{"device_id": in["ben"].device})
	command("anna", "mute", "ben", map[string]any{"track_sid": in["ben's other"].sid("picture")})
	command("anna", "mute", "cleo", map[string]any{"device_id": in["ben"].device})
	command("anna", "mute", "cleo", map[string]any{"track_sid": in["ben"].sid("voice")})
	command("maud", "mute", "mary", nil)
	command("maud", "remove", "mary", nil)
	command("maud", "mute", "anna", nil)
	command("maud", "mute", "maud", map[string]any{"track_sid": in["maud"].sid("voice")})
	command("maud", "remove", "ben", map[string]any{"device_id": second.DeviceID})
	command("ben", "mute", "cleo", nil)                                                   // above her, without the right
	command("anna", "mute", "cleo", map[string]any{"track_sid": in["cleo"].sid("voice")}) // the last: after it all others have been looked at

	in["cleo"].until(t, func(res *signal.Response) bool { return res.GetMute() != nil })
	for name, want := range map[string][]string{
		"anna": nil, "mary": nil, "maud": {"mute voice true"}, "cleo": {"mute voice true"},
		"ben": {"mute picture true", "mute voice true"}, "ben's other": {"PARTICIPANT_REMOVED", "mute picture true"},
	} {
		c := in[name]
		if name != "ben's other" { // who is out, and hears nothing
			c.say(t, &signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
		}
		c.until(t, func(res *signal.Response) bool { return res.GetPongResp() != nil })
		if slices.Sort(c.done); !slices.Equal(c.done, want) {
			t.Errorf("%s: got %v, want %v", name, c.done, want)
		}
	}
}
