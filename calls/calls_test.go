package calls

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

func TestMediaReachTheOthers(t *testing.T) {
	for _, c := range []struct {
		name     string
		networks []webrtc.NetworkType
	}{
		{"udp", []webrtc.NetworkType{webrtc.NetworkTypeUDP4}},
		{"tcp", []webrtc.NetworkType{webrtc.NetworkTypeTCP4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, base := newTestFocus(t)
			ann := join(t, base, "room", "ann", c.networks...)
			bob := join(t, base, "room", "bob", c.networks...)
			if got := bob.joined.OtherParticipants; len(got) != 1 || got[0].Identity != "ann" {
				t.Errorf("bob found %v in the room, want ann", got)
			}
			ann.wait("bob's coming", func(res *signal.Response) bool { return mentions(res, "bob", signal.Participant_JOINED) })
			ann.publish("ann")
			bob.hears("ann")
			late := join(t, base, "room", "cat", c.networks...)
			late.hears("ann")
			late.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
			bob.wait("cat's going", func(res *signal.Response) bool { return mentions(res, "cat", signal.Participant_DISCONNECTED) })
		})
	}
}

func mentions(res *signal.Response, identity string, state signal.Participant_State) bool {
	for _, p := range res.GetUpdate().GetParticipants() {
		if p.Identity == identity && p.State == state {
			return true
		}
	}
	return false
}

func TestDoor(t *testing.T) {
	_, base := newTestFocus(t, func(c *Config) { c.MaxParticipants = 1 })
	base = "http" + strings.TrimPrefix(base, "ws")
	join(t, "ws"+strings.TrimPrefix(base, "http"), "full", "ann")
	good := testToken(t, "room", "ann")
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": testKey, "sub": "ann", "exp": time.Now().Add(time.Hour).Unix(),
		"video": map[string]any{"room": "room", "roomJoin": true}}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	other := tokens{key: testKey, secret: []byte("another secret that nobody knows"), now: time.Now}
	forged, err := other.sign(Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "ann"}, Video: Grant{Room: "room", RoomJoin: true}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	old := tokens{key: testKey, secret: []byte(testSecret), now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}
	expired, err := old.sign(Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "ann"}, Video: Grant{Room: "room", RoomJoin: true}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		query  url.Values
		status int
		text   string
	}{
		{"good", url.Values{"access_token": {good}}, 200, "success"},
		{"none", url.Values{}, 401, ""},
		{"garbage", url.Values{"access_token": {"a.b.c"}}, 401, ""},
		{"unsigned", url.Values{"access_token": {unsigned}}, 401, ""},
		{"signed by another", url.Values{"access_token": {forged}}, 401, ""},
		{"altered", url.Values{"access_token": {swapPayload(good, "admin")}}, 401, ""},
		{"expired", url.Values{"access_token": {expired}}, 401, ""},
		{"not for joining", url.Values{"access_token": {testToken(t, "room", "ann", func(c *Claims) { c.Video.RoomJoin = false })}}, 401, ""},
		{"nobody", url.Values{"access_token": {testToken(t, "room", "")}}, 401, ""},
		{"bad join request", url.Values{"access_token": {good}, "join_request": {"%%%"}}, 400, ""},
		{"full", url.Values{"access_token": {testToken(t, "full", "bob")}}, 503, ""},
		{"full, but one's own place", url.Values{"access_token": {testToken(t, "full", "ann")}}, 200, "success"},
	} {
		for _, path := range []string{"/rtc/validate", "/rtc/v1/validate"} {
			resp, err := http.Get(base + path + "?" + c.query.Encode())
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status || c.text != "" && string(body) != c.text || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s: got %d %q, want %d %q with CORS", c.name, path, resp.StatusCode, body, c.status, c.text)
			}
		}
	}
}

func TestJoinsAreCounted(t *testing.T) {
	_, base := newTestFocus(t)
	query := url.Values{"access_token": {testToken(t, "room", "ann")}, "reconnect": {"1"}, "sid": {"PA_gone"}}.Encode()
	for range 10 * joinBurst { // some are earned anew meanwhile
		ws, resp, err := websocket.DefaultDialer.Dial(base+"/rtc?"+query, nil)
		if err != nil && resp != nil && resp.StatusCode == http.StatusTooManyRequests {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		ws.Close()
	}
	t.Errorf("got %d joins in a row, want some refused", 10*joinBurst)
}

// swapPayload puts another subject into a signed token.
func swapPayload(token, subject string) string {
	parts := strings.Split(token, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	raw = bytes.Replace(raw, []byte(`"sub":"ann"`), []byte(`"sub":"`+subject+`"`), 1)
	parts[1] = base64.RawURLEncoding.EncodeToString(raw)
	return strings.Join(parts, ".")
}

// TestOnePeerConnectionByEitherPath: a join request says that the client wants one peer connection, whichever way it comes.
func TestOnePeerConnectionByEitherPath(t *testing.T) {
	_, base := newTestFocus(t)
	body, err := signal.Encode(&signal.Join{ClientInfo: &signal.ClientInfo{Protocol: 16}})
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := signal.Encode(&signal.WrappedJoin{JoinRequest: body})
	if err != nil {
		t.Fatal(err)
	}
	request := base64.URLEncoding.EncodeToString(wrapped)
	for _, c := range []struct {
		path, request string
		two           bool
	}{{"/rtc/v1", request, false}, {"/rtc", request, false}, {"/rtc", "", true}} {
		ws := dialSocket(t, base, c.path, url.Values{"access_token": {testToken(t, "room", "ann")}, "join_request": {c.request}})
		first, err := readResponse(ws)
		if err != nil || first.GetJoin() == nil || first.GetJoin().SubscriberPrimary != c.two {
			t.Errorf("%s with %q: got %v, %v, want a join, of two peer connections: %v", c.path, c.request, first, err, c.two)
		}
	}
}

func TestResumeOfAnUnknownSession(t *testing.T) {
	_, base := newTestFocus(t)
	ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", "ann")}, "reconnect": {"1"}, "sid": {"PA_gone"}})
	res, err := readResponse(ws)
	if err != nil || res.GetLeave().GetAction() != signal.Leave_RECONNECT || res.GetLeave().GetReason() != signal.DisconnectReason_STATE_MISMATCH {
		t.Errorf("got %v, %v, want leave to reconnect", res, err)
	}
}

func TestResumeKeepsTheSession(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	bob.ws.Close()
	again := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", "bob")}, "reconnect": {"1"}, "sid": {bob.joined.Participant.Sid}})
	first, err := readResponse(again)
	if err != nil || first.GetReconnect() == nil {
		t.Fatalf("got %v, %v, want reconnect first", first, err)
	}
	second, err := readResponse(again)
	if err != nil || !mentions(second, "ann", signal.Participant_ACTIVE) && !mentions(second, "ann", signal.Participant_JOINED) {
		t.Errorf("got %v, %v, want an update with ann", second, err)
	}
}

func TestSameIdentityTwice(t *testing.T) {
	_, base := newTestFocus(t)
	first, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	second := join(t, base, "room", "ann")
	leave := first.wait("leave", func(res *signal.Response) bool { return res.GetLeave() != nil }).GetLeave()
	if leave.Reason != signal.DisconnectReason_DUPLICATE_IDENTITY || leave.Action != signal.Leave_DISCONNECT {
		t.Errorf("got %v, want DUPLICATE_IDENTITY", leave)
	}
	bob.wait("the new ann", func(res *signal.Response) bool {
		for _, p := range res.GetUpdate().GetParticipants() {
			if p.Sid == second.joined.Participant.Sid {
				return true
			}
		}
		return false
	})
}

func TestNonsenseEndsItsSenderOnly(t *testing.T) {
	for _, c := range []struct {
		name string
		req  *signal.Request
	}{
		{"no SDP", &signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: "nonsense"}}}},
		{"giant SDP", &signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: strings.Repeat("a=x\r\n", maxSDP/4)}}}},
		{"many sections", &signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer",
			Sdp: "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n" + strings.Repeat("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", maxSections+1)}}}},
		{"unknown session", &signal.Request{Message: &signal.Request_SyncState{SyncState: &signal.SyncState{
			PublishTracks: []*signal.TrackPublished{{Track: &signal.Track{Sid: "TR_none"}}}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, base := newTestFocus(t)
			ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
			ann.say(c.req)
			bob.wait("ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
			bob.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
			bob.wait("a pong", func(res *signal.Response) bool { return res.GetPongResp().GetLastPingTimestamp() == 7 })
		})
	}
}

func TestRoomService(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	sid := ""
	for sid == "" {
		update := bob.wait("ann's tracks", func(res *signal.Response) bool {
			return mentions(res, "ann", signal.Participant_ACTIVE) || res.GetUpdate() != nil
		})
		for _, p := range update.GetUpdate().Participants {
			if p.Identity == "ann" && len(p.Tracks) > 0 {
				sid = p.Tracks[0].Sid
			}
		}
	}
	admin := func(c *Claims) { c.Video = Grant{Room: "room", RoomAdmin: true} }
	call := func(method, body string, grant ...func(*Claims)) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequest("POST", "http"+strings.TrimPrefix(base, "ws")+"/twirp/livekit.RoomService/"+method, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+testToken(t, "room", "admin", grant...))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var reply map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return resp.StatusCode, reply
	}
	for _, c := range []struct {
		name, method, body string
		grant              func(*Claims)
		status             int
		has                string
	}{
		{"client's own token", "ListParticipants", `{"room":"room"}`, func(*Claims) {}, 401, "unauthenticated"},
		{"another room", "ListParticipants", `{"room":"else"}`, admin, 401, "unauthenticated"},
		{"list rooms", "ListRooms", `{}`, func(c *Claims) { c.Video = Grant{RoomList: true} }, 200, `"num_participants":2`},
		{"list participants", "ListParticipants", `{"room":"room"}`, admin, 200, `"identity":"bob"`},
		{"get participant", "GetParticipant", `{"room":"room","identity":"ann"}`, admin, 200, `"identity":"ann"`},
		{"get nobody", "GetParticipant", `{"room":"room","identity":"eve"}`, admin, 404, "not_found"},
		{"unmute", "MutePublishedTrack", `{"room":"room","identity":"ann","track_sid":"` + sid + `"}`, admin, 412, "failed_precondition"},
		{"mute", "MutePublishedTrack", `{"room":"room","identity":"ann","trackSid":"` + sid + `","muted":true}`, admin, 200, `"muted":true`},
		{"no such method", "MakeTea", `{}`, admin, 404, "bad_route"},
		{"not JSON", "ListRooms", `{`, admin, 400, "malformed"},
		{"remove", "RemoveParticipant", `{"room":"room","identity":"ann"}`, admin, 200, ""},
		{"delete without the right", "DeleteRoom", `{"room":"room"}`, admin, 401, "unauthenticated"},
		{"delete", "DeleteRoom", `{"room":"room"}`, func(c *Claims) { c.Video = Grant{RoomCreate: true} }, 200, ""},
	} {
		status, reply := call(c.method, c.body, c.grant)
		text, _ := json.Marshal(reply)
		if status != c.status || !strings.Contains(string(text), c.has) {
			t.Errorf("%s: got %d %s, want %d with %s", c.name, status, text, c.status, c.has)
		}
	}
	ann.wait("the mute", func(res *signal.Response) bool { return res.GetMute().GetMuted() })
	ann.wait("removal", func(res *signal.Response) bool {
		return res.GetLeave().GetReason() == signal.DisconnectReason_PARTICIPANT_REMOVED
	})
	bob.wait("the room's end", func(res *signal.Response) bool {
		return res.GetLeave().GetReason() == signal.DisconnectReason_ROOM_DELETED
	})
}

func TestIdentities(t *testing.T) {
	for _, c := range []struct{ name, got, want string }{
		{"legacy", legacyIdentity("@ann:interior.test", "DEV"), "@ann:interior.test:DEV"},
		// computed with a browser: btoa(sha256(JSON.stringify([...]))) without its padding
		{"room", roomName("!room:interior.test", roomSlot), "1xf5LDWZ8WnaPtbNfKMRHs9LPlDwnfF7oxKGMDjqJ90"},
		{"markup is not escaped", hashOf("<&>"), "i2gukHYfOIXGc9sO6akU1jUWXkEJsKQczCAp/c2JrsU"},
		{"nor are the ends of lines", hashOf("a\u2028b\u2029c"), "4Y2T0YzSNVS+r4IMpAppnyOhMpGs4RQuYiv0xlBsnr0"},
		{"but what looks like their escapes stays", hashOf(`a\u2028b\` + "\u2028" + `c\\u2029`), "1HVAoUtUsVFkEV0M5BGqLGkSq3hgiD51WiucjsBhuvY"},
		{"other escapes", hashOf("\b\f\n\r\t\x01\x7f\"/\ufffd\U0001f600"), "/eZTuALhtOOz9bt9hliXbwt7ra7D7q3Rlcd3oBvYDz4"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, c.got, c.want)
		}
	}
}

func TestSpeakers(t *testing.T) {
	var s speaker
	if s.hear(127, 0) {
		t.Error("silence: told a change")
	}
	if !s.hear(0, 1) || !s.active || s.told <= 0 {
		t.Errorf("loud speech: got %+v, want active", s)
	}
	if s.hear(0, 1); s.told > 1 {
		t.Errorf("got level %v, want at most 1", s.told)
	}
	for range 12 {
		s.hear(60, 1)
	}
	if s.active || s.told != 0 {
		t.Errorf("after silence: got %+v, want inactive", s)
	}
	if s.hear(0, 0.1); s.active {
		t.Error("a click counted as speech")
	}
}

// TestResumeMeetsTheEnd: a resume that waits for a session which ends meanwhile is answered, and not forgotten with it.
func TestResumeMeetsTheEnd(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	p := ann.session(f)
	ends := make(chan struct{})
	p.do(func() {
		<-ends
		p.end(signal.DisconnectReason_CONNECTION_TIMEOUT, signal.Leave_RECONNECT)
		p.forget() // as if it had not looked again
	})
	before := len(p.inbox)
	ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", "ann")}, "reconnect": {"1"}, "sid": {p.sid}})
	for deadline := time.Now().Add(patience); len(p.inbox) <= before; time.Sleep(time.Millisecond) { // until it waits
		if time.Now().After(deadline) {
			t.Fatal("no resume came")
		}
	}
	close(ends)
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	res, err := readResponse(ws)
	if err != nil || res.GetLeave().GetAction() != signal.Leave_RECONNECT || res.GetLeave().GetReason() != signal.DisconnectReason_STATE_MISMATCH {
		t.Errorf("got %v, %v, want leave to reconnect", res, err)
	}
}
