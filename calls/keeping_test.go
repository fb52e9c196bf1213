package calls

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

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
	resp, err := http.DefaultClient.Do(req)
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
		{"create without the right", "CreateRoom", `{"name":"room"}`, admin, 403, "permission_denied"},
		{"create nothing", "CreateRoom", `{}`, create, 400, "malformed"},
		{"create", "CreateRoom", `{"name":"room","maxParticipants":2,"metadata":"m","emptyTimeout":60}`, create, 200, `"max_participants":2`},
		{"listed", "ListRooms", `{}`, Grant{RoomList: true}, 200, `"metadata":"m"`},
		{"metadata", "UpdateRoomMetadata", `{"room":"room","metadata":"other"}`, admin, 200, `"metadata":"other"`},
		{"nobody's permissions", "UpdateParticipant", `{"room":"room","identity":"eve"}`, admin, 404, "not_found"},
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
	if status, text := askService(t, base, "SendData", `{"room":"room","data":"aGk=","topic":"t"}`, admin); status != 200 {
		t.Errorf("data: got %d %s", status, text)
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
