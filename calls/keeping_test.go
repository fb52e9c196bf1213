package calls

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"chancery/calls/signal"
)

// askService asks the room service with a grant.
func askService(t *testing.T, base, method, body string, grant Grant) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http"+strings.TrimPrefix(base, "ws")+"/twirp/livekit.RoomService/"+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+testToken(t, "", "admin", func(c *Claims) { c.Video = grant }))
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestRoomServiceKeepsCalls(t *testing.T) {
	_, base := newTestFocus(t)
	create, admin := Grant{RoomCreate: true}, Grant{Room: "room", RoomAdmin: true}
	for _, c := range []struct {
		name, method, body string
		grant              Grant
		status             int
		has                string
	}{
		{"create without the right", "CreateRoom", `{"name":"room"}`, admin, 401, "unauthenticated"},
		{"create nothing", "CreateRoom", `{}`, create, 400, "invalid_argument"},
		{"create with a long name", "CreateRoom", `{"name":"` + strings.Repeat("n", maxNameLength+1) + `"}`, create, 400, "invalid_argument"},
		{"who is in a call that is not there", "ListParticipants", `{"room":"room"}`, admin, 200, `"participants":[]`},
		{"create", "CreateRoom", `{"name":"room","maxParticipants":2,"metadata":"m","emptyTimeout":60}`, create, 200, `"max_participants":2`},
		{"listed without the right", "ListRooms", `{}`, admin, 401, "unauthenticated"},
		{"listed", "ListRooms", `{}`, Grant{RoomList: true}, 200, `"metadata":"m"`},
		{"metadata", "UpdateRoomMetadata", `{"room":"room","metadata":"other"}`, admin, 200, `"metadata":"other"`},
		{"nobody's permissions", "UpdateParticipant", `{"room":"room","identity":"eve"}`, admin, 404, "not_found"},
		{"too long a name", "UpdateParticipant", `{"room":"room","identity":"eve","name":"` + strings.Repeat("n", maxMetadata+1) + `"}`, admin, 400, "invalid_argument"},
		{"data", "SendData", `{"room":"room","data":"aGk=","nonce":"MDEyMzQ1Njc4OWFiY2RlZg=="}`, admin, 200, "{}"},
		{"data with half a nonce", "SendData", `{"room":"room","data":"aGk=","nonce":"MDEyMzQ1Njc="}`, admin, 400, "invalid_argument"},
		{"too much data", "SendData", `{"room":"room","data":"` + base64.StdEncoding.EncodeToString(make([]byte, maxData+1)) + `"}`, admin, 400, "invalid_argument"},
		{"move nobody", "MoveParticipant", `{"room":"room","identity":"eve","destination_room":"other"}`, admin, 404, "not_found"},
		{"move without the right", "MoveParticipant", `{"room":"room","identity":"ann","destination_room":"other"}`, create, 401, "unauthenticated"},
	} {
		if status, text := askService(t, base, c.method, c.body, c.grant); status != c.status || !strings.Contains(strings.ReplaceAll(text, " ", ""), c.has) {
			t.Errorf("%s: got %d %s, want %d with %s", c.name, status, text, c.status, c.has)
		}
	}
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	if got := ann.joined.Room.MaxParticipants; got != 2 {
		t.Errorf("ann may find %d participants, want 2", got)
	}
	ann.publish("ann")
	bob.hears("ann")
	status, text := askService(t, base, "UpdateParticipant", `{"room":"room","identity":"ann","name":"Ann","attributes":{"a":"b"},"permission":{"canSubscribe":true,"canPublish":false,"canPublishData":true}}`, admin)
	if status != 200 || !strings.Contains(text, `"Ann"`) {
		t.Fatalf("permissions: got %d %s", status, text)
	}
	ann.wait("the end of a track", func(res *signal.Response) bool { return res.GetTrackUnpublished().GetTrackSid() != "" })
	bob.wait("ann without tracks", func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool {
			return p.Identity == "ann" && p.Name == "Ann" && p.Attributes["a"] == "b" && !p.Permission.CanPublish && len(p.Tracks) == 0
		})
	})
	for _, method := range []string{"ForwardParticipant", "MoveParticipant"} {
		if status, text := askService(t, base, method, `{"room":"room","identity":"ann","destination_room":"other"}`, admin); status != 500 || !strings.Contains(text, "not implemented") {
			t.Errorf("%s: got %d %s", method, status, text)
		}
	}
	for _, size := range []int{3, 60_000} { // what one may send at once, though as JSON it is longer than that
		data := base64.StdEncoding.EncodeToString(make([]byte, size))
		if status, text := askService(t, base, "SendData", `{"room":"room","data":"`+data+`","topic":"t"}`, admin); status != 200 {
			t.Errorf("%d bytes of data: got %d %s", size, status, text)
		}
	}
	for size, want := range map[int]int{maxMetadata: 200, maxMetadata + 1: 400} {
		metadata := strings.Repeat(`\"`, size)
		if status, text := askService(t, base, "UpdateRoomMetadata", `{"room":"room","metadata":"`+metadata+`"}`, admin); status != want {
			t.Errorf("%d bytes of metadata: got %d %.80s, want %d", size, status, text, want)
		}
	}
}

// TestTokensCarryWhatChanged: who joins anew is called as before, and may do what the room service left.
func TestTokensCarryWhatChanged(t *testing.T) {
	_, base := newTestFocus(t)
	admin := Grant{Room: "room", RoomAdmin: true}
	enter := func(token string) (*websocket.Conn, *signal.Participant) {
		t.Helper()
		ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {token}, "protocol": {"16"}})
		first, err := readResponse(ws)
		if err != nil || first.GetJoin() == nil {
			t.Fatalf("got %v, %v, want join", first, err)
		}
		return ws, first.GetJoin().Participant
	}
	until := func(ws *websocket.Conn, what string, want func(*signal.Response) bool) *signal.Response {
		t.Helper()
		if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for {
			res, err := readResponse(ws)
			if err != nil {
				t.Fatalf("no %s: %v", what, err)
			}
			if want(res) {
				return res
			}
		}
	}
	keys := tokens{key: testKey, secret: []byte(testSecret), now: time.Now}
	carries := func(ws *websocket.Conn, what string, want func(*Claims) bool) (token string) {
		t.Helper()
		until(ws, "token with "+what, func(res *signal.Response) bool {
			token = res.GetRefreshToken()
			claims, err := keys.verify(token)
			return err == nil && want(claims)
		})
		return token
	}
	ws, ann := enter(testToken(t, "room", "ann", func(c *Claims) {
		c.Name, c.Attributes, c.Video.CanPublishSources = "Ann", map[string]string{"a": "1"}, []string{"microphone"}
	}))
	if ann.Name != "Ann" || ann.Attributes["a"] != "1" || !slices.Equal(ann.Permission.CanPublishSources, []signal.TrackSource{signal.TrackSource_MICROPHONE}) {
		t.Errorf("got %v, want what the token says", ann)
	}
	say := func(req *signal.Request) {
		t.Helper()
		frame, err := signal.EncodeBody(req, false)
		if err == nil {
			err = ws.WriteMessage(websocket.BinaryMessage, frame)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say(&signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Name: "Anna", Metadata: "m", Attributes: map[string]string{"b": "2"}}}})
	carries(ws, "a new name", func(c *Claims) bool {
		return c.Name == "Anna" && c.Metadata == "m" && c.Attributes["a"] == "1" && c.Attributes["b"] == "2" && c.Again
	})
	long := strings.Repeat("x", maxMetadata/2) // it would not fit into an address
	say(&signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Metadata: long}}})
	carries(ws, "what it said before", func(c *Claims) bool { return c.Name == "Ann" && c.Metadata == "" && c.Attributes["b"] == "" })
	say(&signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Metadata: "m", RequestId: 3}}})
	until(ws, "answer", func(res *signal.Response) bool { return res.GetRequestResponse().GetRequestId() == 3 })
	status, text := askService(t, base, "UpdateParticipant", `{"room":"room","identity":"ann","permission":{"canSubscribe":true,"canPublish":false,"canPublishSources":["CAMERA"]}}`, admin)
	if status != 200 {
		t.Fatalf("permissions: got %d %s", status, text)
	}
	token := carries(ws, "what was taken", func(c *Claims) bool { return !allowed(c.Video.CanPublish) })
	_, again := enter(token)
	if p := again.Permission; again.Name != "Anna" || again.Metadata != "m" || again.Attributes["b"] != "2" || p.CanPublish || p.CanPublishData || p.CanUpdateMetadata ||
		!p.CanSubscribe || !slices.Equal(p.CanPublishSources, []signal.TrackSource{signal.TrackSource_CAMERA}) {
		t.Errorf("joined anew: got %v, want what held before", again)
	}
}

// TestRoomRulesAreNotCarried: a token says what the room service took, also where the Matrix room would allow it, and not what the room forbade
// when it was made.
func TestRoomRulesAreNotCarried(t *testing.T) {
	f, _ := newTestFocus(t)
	room, err := f.room("room", true)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	for _, c := range []struct {
		name    string
		ruled   bool
		granted *bool
		want    bool
	}{{"forbidden for a while", false, nil, true}, {"taken", true, &no, false}} {
		claims := &Claims{Matrix: &Matrix{User: "@ann:x", Device: "D", Room: "!a"}}
		first := newParticipant(room, &entry{claims: claims, join: &signal.Join{}, ruling: ruling{publish: c.ruled}})
		first.granted = c.granted
		again := first.carried()
		second := newParticipant(room, &entry{claims: &again, join: &signal.Join{}, ruling: ruling{publish: true}})
		if got := second.info.Permission; got.CanPublish != c.want || !got.CanPublishData {
			t.Errorf("%s: got %v, want to publish: %v", c.name, got, c.want)
		}
	}
}

// TestOnlySomeSources: where kinds of tracks are named, others are refused, and end.
func TestOnlySomeSources(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	add := func(cid string, source signal.TrackSource) (refused bool) {
		t.Helper()
		ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: cid, Source: source, Type: signal.TrackType_VIDEO}}})
		res := ann.wait("an answer to "+cid, func(res *signal.Response) bool {
			return res.GetTrackPublished().GetCid() == cid || res.GetRequestResponse().GetAddTrack().GetCid() == cid
		})
		return res.GetRequestResponse().GetReason() == signal.RequestResponse_NOT_ALLOWED
	}
	if add("first", signal.TrackSource_CAMERA) {
		t.Fatal("a camera is refused though nothing is named")
	}
	ann.publish("ann") // tracks that do not say what they are
	bob.hears("ann")
	status, text := askService(t, base, "UpdateParticipant", `{"room":"room","identity":"ann","permission":{"can_subscribe":true,"can_publish":true,"can_publish_data":true,"can_publish_sources":["CAMERA"]}}`, Grant{Room: "room", RoomAdmin: true})
	if status != 200 || !strings.Contains(text, "CAMERA") {
		t.Fatalf("got %d %s", status, text)
	}
	for range 2 {
		ann.wait("the end of a track", func(res *signal.Response) bool { return res.GetTrackUnpublished().GetTrackSid() != "" })
	}
	bob.wait("ann without tracks", func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool {
			return p.Identity == "ann" && p.Permission.CanPublish && len(p.Permission.CanPublishSources) == 1 && len(p.Tracks) == 0
		})
	})
	for source, refused := range map[signal.TrackSource]bool{signal.TrackSource_CAMERA: false, signal.TrackSource_SCREEN_SHARE: true, signal.TrackSource_UNKNOWN: true} {
		if got := add("then "+source.String(), source); got != refused {
			t.Errorf("%v: refused %v, want %v", source, got, refused)
		}
	}
	for _, name := range []string{"microfone", "unknown"} { // a word that is none permits nothing
		p := &Participant{info: &signal.Participant{Permission: &signal.Permission{CanPublish: true, CanPublishSources: sourcesNamed([]string{name})}}}
		for source := range signal.TrackSource_name {
			if p.maySend(signal.TrackSource(source)) {
				t.Errorf("%q permits %v", name, signal.TrackSource(source))
			}
		}
	}
}

// TestRoomServiceOfAnOpenCall: what is not named stays, who is inside hears of what is new, and tools find the service as they write its address.
func TestRoomServiceOfAnOpenCall(t *testing.T) {
	_, base := newTestFocus(t)
	create := Grant{RoomCreate: true}
	if status, text := askService(t, base, "CreateRoom", `{"name":"room","metadata":"m","maxParticipants":7,"departureTimeout":50}`, create); status != 200 {
		t.Fatalf("got %d %s", status, text)
	}
	ann := join(t, base, "room", "ann")
	ann.wait("the count", func(res *signal.Response) bool { return res.GetRoomUpdate().GetRoom().GetNumParticipants() == 1 }) // nothing else is told of the room by itself
	status, text := askService(t, base, "CreateRoom", `{"name":"room","maxParticipants":9}`, create)
	text = strings.ReplaceAll(text, " ", "")
	for _, want := range []string{`"metadata":"m"`, `"max_participants":9`, `"departure_timeout":50`, `"num_participants":1`} {
		if status != 200 || !strings.Contains(text, want) {
			t.Errorf("created again: got %d %s, want %s", status, text, want)
		}
	}
	ann.wait("the new bound", func(res *signal.Response) bool {
		room := res.GetRoomUpdate().GetRoom()
		return room.GetMaxParticipants() == 9 && room.GetMetadata() == "m"
	})
	if status, text := askService(t, base+"/", "ListRooms", `{}`, Grant{RoomList: true}); status != 200 || !strings.Contains(text, "room") {
		t.Errorf("with two slashes: got %d %s", status, text)
	}
	for method, path := range map[string]string{"OPTIONS": "/twirp/livekit.RoomService/ListRooms", "POST": "/twirp/livekit.RoomService/ListRooms", "GET": "/"} {
		req, err := http.NewRequest(method, "http"+strings.TrimPrefix(base, "ws")+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "*" {
			t.Errorf("%s %s: got %q for whom it is open, want all", method, path, got)
		}
	}
}

// TestTheServiceNamesThings: what LiveKit names in its JSON has the same names in ours.
func TestTheServiceNamesThings(t *testing.T) {
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	ann.announces(&signal.AddTrack{
		Cid: "camera", Type: signal.TrackType_VIDEO, Encryption: signal.Encryption_GCM, Source: signal.TrackSource_CAMERA,
		AudioFeatures: []signal.AudioTrackFeature{signal.AudioTrackFeature_TF_AUTO_GAIN_CONTROL}, BackupCodecPolicy: signal.BackupCodecPolicy_REGRESSION,
		SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp8", Cid: "camera", VideoLayerMode: signal.VideoLayer_ONE_SPATIAL_LAYER_PER_STREAM}},
	})
	ann.sendsAs("camera")
	ann.offer()
	ann.wait("ann with her track", func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool { return len(p.Tracks) == 1 })
	})
	_, text := askService(t, base, "GetParticipant", `{"room":"room","identity":"ann"}`, Grant{Room: "room", RoomAdmin: true})
	text = strings.ReplaceAll(text, " ", "")
	for _, want := range []string{`"kind":"STANDARD"`, `"encryption":"GCM"`, `"stream":"camera"`, `"audio_features":["TF_AUTO_GAIN_CONTROL"]`, `"backup_codec_policy":"REGRESSION"`, `"video_layer_mode":"ONE_SPATIAL_LAYER_PER_STREAM"`} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}

func TestServiceHasItsOwnKeys(t *testing.T) {
	const secret = "a secret of the room service's own, long enough"
	_, base := newTestFocus(t, func(c *Config) { c.ServiceKey, c.ServiceSecret = "service", secret })
	join(t, base, "room", "ann")
	if status, text := askService(t, base, "ListRooms", `{}`, Grant{RoomList: true}); status != 401 || !strings.Contains(text, "unauthenticated") {
		t.Errorf("signed with the participants' key: got %d %s, want 401", status, text)
	}
	own := tokens{key: "service", secret: []byte(secret), now: time.Now}
	token, err := own.sign(Claims{Video: Grant{RoomList: true}}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, "http"+strings.TrimPrefix(base, "ws")+"/twirp/livekit.RoomService/ListRooms", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("signed with its own: got %d, want 200", resp.StatusCode)
	}
}

func TestWebhooks(t *testing.T) {
	type told struct {
		Event, ID          string
		CreatedAt          string
		Room               struct{ Name, Sid string }
		Participant, Track struct {
			Sid, Identity string
		}
	}
	events := make(chan told, 64)
	failures := 1
	address := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var claims struct {
			jwt.RegisteredClaims
			SHA256 string `json:"sha256"`
		}
		_, err = jwt.ParseWithClaims(r.Header.Get("Authorization"), &claims, func(*jwt.Token) (any, error) { return []byte(testSecret), nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(testKey), jwt.WithExpirationRequired())
		sum := sha256.Sum256(body)
		if err != nil || claims.SHA256 != base64.StdEncoding.EncodeToString(sum[:]) || r.Header.Get("Content-Type") != "application/webhook+json" {
			t.Errorf("the signature does not hold: %v, %q", err, claims.SHA256)
		}
		if failures > 0 { // it is told again
			failures--
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var e told
		if err := json.Unmarshal(body, &e); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		events <- e
	}))
	defer address.Close()
	_, base := newTestFocus(t, func(c *Config) { c.Webhook, c.EmptyTimeout = address.URL, time.Millisecond })
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	ann.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	bob.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	var heard []string
	var all []told
	deadline := time.After(patience)
	for len(heard) == 0 || heard[len(heard)-1] != "room_finished" {
		select {
		case e := <-events:
			if e.ID == "" || e.CreatedAt == "" || e.Room.Name != "room" || e.Room.Sid == "" {
				t.Errorf("got %+v, want the room and an ID", e)
			}
			if strings.HasPrefix(e.Event, "participant") && e.Participant.Identity == "" || strings.HasPrefix(e.Event, "track") && e.Track.Sid == "" {
				t.Errorf("got %+v, want whom it is about", e)
			}
			heard, all = append(heard, e.Event), append(all, e)
		case <-deadline:
			t.Fatalf("the end was not told, only %v", heard)
		}
	}
	var anns []string // the tracks at their end, and then ann
	for _, e := range all {
		if e.Event == "track_unpublished" || e.Event == "participant_left" && e.Participant.Identity == "ann" {
			anns = append(anns, e.Event)
		}
	}
	if want := []string{"track_unpublished", "track_unpublished", "participant_left"}; !slices.Equal(anns, want) {
		t.Errorf("of ann's going: got %v, want %v", anns, want)
	}
	for want, times := range map[string]int{"room_started": 1, "participant_joined": 2, "track_published": 2, "track_unpublished": 2, "participant_left": 2} {
		if got := len(slices.DeleteFunc(slices.Clone(heard), func(e string) bool { return e != want })); got != times || heard[0] != "room_started" {
			t.Errorf("got %v, want room_started, and %d times %s", heard, times, want)
		}
	}
}

// TestTheEndOfACallIsToldLast: also of who was replaced, and is slow to notice, it is told that he has left before it is told that the call is over.
func TestTheEndOfACallIsToldLast(t *testing.T) {
	type told struct {
		Event string
		Room  struct{ NumParticipants int }
	}
	events := make(chan told, 64)
	address := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e told
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		events <- e
	}))
	defer address.Close()
	f, base := newTestFocus(t, func(c *Config) { c.Webhook = address.URL })
	heard := map[string]int{}
	hears := func(event string, times int) (last told) {
		t.Helper()
		for timeout := time.After(patience); heard[event] < times; {
			select {
			case last = <-events:
				heard[last.Event]++
			case <-timeout:
				t.Fatalf("got %v, want %d times %s", heard, times, event)
			}
		}
		return last
	}
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.publish("bob")
	hears("track_published", 4)
	hears("participant_joined", 2)
	old := ann.session(f)
	busy, gate := make(chan struct{}), make(chan struct{})
	old.do(func() { close(busy); <-gate })
	<-busy
	join(t, base, "room", "ann")
	hears("participant_joined", 3)
	bob.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	if got := hears("participant_left", 1).Room.NumParticipants; got != 1 {
		t.Errorf("when bob has left there are %d in the call, want 1", got)
	}
	if status, text := askService(t, base, "DeleteRoom", `{"room":"room"}`, Grant{RoomCreate: true}); status != 200 {
		t.Fatalf("got %d %s", status, text)
	}
	hears("participant_left", 2)
	close(gate)
	hears("room_finished", 1)
	if heard["participant_left"] != 3 || heard["track_unpublished"] != 4 {
		t.Errorf("before the end of the call: got %v, want that three have left, and the end of four tracks", heard)
	}
}
