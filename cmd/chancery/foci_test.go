package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/federation"
	"chancery/storage/testdb"
)

// fociHouse is a server whose calls are taken by several processes behind one address.
type fociHouse struct {
	t      *testing.T
	config Config
	rest   *process // rooms, client API and federation
	foci   []*process
	doors  []string // of the foci
	front  *httptest.Server
}

// focusSecret signs tokens for the room service in these tests.
const focusSecret = "a secret of the foci in tests, long enough"

// openFoci starts a server with n focus processes, on PostgreSQL and an external NATS; change may alter its configuration.
func openFoci(t *testing.T, n int, change ...func(*Config)) *fociHouse {
	t.Helper()
	nats := externalNATS(t)
	config := testConfigs(t, func() string { return testdb.Postgres(t) }, "interior.test")[0]
	config.Bus.URL, config.Bus.User, config.Bus.Password = nats, natsUser, natsPassword
	config.Calls.Secret = focusSecret
	for _, fn := range change {
		fn(&config)
	}
	h := &fociHouse{t: t}
	h.front = h.balancer(0)
	config.Calls.URL = h.front.URL + config.Calls.Path
	h.config = config
	if err := os.MkdirAll(config.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := federation.LoadKeys(config.ServerName, config.inData(config.SigningKey)); err != nil {
		t.Fatal(err)
	}
	h.rest = newProcess(t, config, "")
	h.rest.part = "rooms,client,federation"
	h.rest.start()
	for range n {
		own := config
		own.Listen.Client = loopback("tcp", 0)
		own.Listen.Federation = ""
		p := newProcess(t, own, "")
		p.part = "calls"
		p.start()
		h.foci, h.doors = append(h.foci, p), append(h.doors, own.Listen.Client)
	}
	return h
}

// balancer is one address for all foci: it asks that one first.
func (h *fociHouse) balancer(first int) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.balance(w, r, first) }))
	h.t.Cleanup(server.Close)
	return server
}

// fronts are the sockets of balancers, of which each asks another focus first.
func (h *fociHouse) fronts() (sockets []string) {
	for n := range h.foci {
		sockets = append(sockets, "ws"+strings.TrimPrefix(h.balancer(n).URL, "http")+h.config.Calls.Path)
	}
	return sockets
}

// balance is what a load balancer does: it asks one focus, and another if that one does not open its door.
func (h *fociHouse) balance(w http.ResponseWriter, r *http.Request, first int) {
	for i := range h.doors {
		door := h.doors[(first+i)%len(h.doors)]
		conn, err := net.DialTimeout("tcp", door, time.Second)
		if err != nil {
			continue
		}
		conn.Close()
		target := &url.URL{Scheme: "http", Host: door}
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target); p.SetXForwarded() }}).ServeHTTP(w, r)
		return
	}
	w.WriteHeader(http.StatusBadGateway)
}

// socket is the signalling of one focus, asked directly.
func (h *fociHouse) socket(n int) string { return "ws://" + h.doors[n] + h.config.Calls.Path }

// token gives somebody's token for the call of a room.
func (h *fociHouse) token(who *mautrix.Client, room id.RoomID) string {
	h.t.Helper()
	_, token := callTokenAt(h.t, who, h.front.URL+h.config.Calls.Path, room)
	return token
}

// gauge reads one of a focus's numbers; empty while the focus is away.
func (h *fociHouse) gauge(n int, name string) string { return h.foci[n].gauge(name) }

// until waits for a gauge of some focus, and says of which.
func (h *fociHouse) until(what string, fits func(n int) bool) int {
	h.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // polling a gauge
		for n := range h.foci {
			if fits(n) {
				return n
			}
		}
	}
	h.t.Fatalf("no focus %s", what)
	return -1
}

// home is the focus that has calls.
func (h *fociHouse) home() int {
	h.t.Helper()
	return h.until("has participants", func(n int) bool {
		count := h.gauge(n, "chancery_calls_participants")
		return count != "" && count != "0"
	})
}

// comeBack resumes a session, and gives the first message.
func comeBack(t *testing.T, socket, token, sid string) (*websocket.Conn, *signal.Response) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), socket+"/rtc?"+url.Values{"access_token": {token}, "reconnect": {"1"}, "sid": {sid}}.Encode(), nil)
	if err != nil {
		t.Fatalf("resume: %v (%v)", err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	return ws, heard(t, ws)
}

// twirp asks the room service of a focus.
func (h *fociHouse) twirp(n int, room, method, body string) (int, string) {
	h.t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": h.config.Calls.Key, "exp": time.Now().Add(time.Minute).Unix(), "video": map[string]any{"room": room, "roomAdmin": true, "roomList": true},
	}).SignedString([]byte(focusSecret))
	if err != nil {
		h.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+h.doors[n]+h.config.Calls.Path+"/twirp/livekit.RoomService/"+method, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(resp.Body)
	return resp.StatusCode, text.String()
}

// TestSeveralFoci: a call lives on one process, whichever is reached; when that one is killed it is back on another within
// five seconds, with the tokens that the clients have; and a process that is drained gives its calls away.
func TestSeveralFoci(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four processes")
	}
	h := openFoci(t, 2)
	anna, ben := signIn(t, h.config.Client.PublicURL, "anna"), signIn(t, h.config.Client.PublicURL, "ben")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(ben.JoinRoomByID(t.Context(), room))(t, "join room")
	annas, bens := h.token(anna, room), h.token(ben, room)

	atAnna, joined := openCall(t, h.socket(0), annas)
	call := joined.Room.Name
	atBen, joinedBen := openCall(t, h.socket(1), bens)
	if others := joinedBen.OtherParticipants; len(others) != 1 || joinedBen.Room.Sid != joined.Room.Sid {
		t.Fatalf("ben came to the call %s with %v, want anna in %s", joinedBen.Room.Sid, others, joined.Room.Sid)
	}
	for n := range h.foci {
		if status, body := h.twirp(n, call, "ListParticipants", fmt.Sprintf(`{"room":%q}`, call)); status != 200 || strings.Count(body, "PA_") != 2 {
			t.Errorf("focus %d: ListParticipants: got %d %s, want two", n, status, body)
		}
		if status, body := h.twirp(n, call, "ListRooms", "{}"); status != 200 || strings.Count(body, joined.Room.Sid) != 1 {
			t.Errorf("focus %d: ListRooms: got %d %s, want the call once", n, status, body)
		}
		if status, body := h.twirp(n, "nowhere", "ListParticipants", `{"room":"nowhere"}`); status != 200 || strings.Contains(body, "PA_") {
			t.Errorf("focus %d: participants of no call: got %d %s, want none", n, status, body)
		}
	}

	// Resumed through the other process.
	home := h.home()
	other := 1 - home
	atAnna.Close()
	atAnna, first := comeBack(t, h.socket(other), annas, joined.Participant.Sid)
	if first.GetReconnect() == nil {
		t.Errorf("resume through the other focus: got %v, want reconnect", first)
	}

	// The home is killed: both come back to what is left of the address.
	begun := time.Now()
	h.foci[home].kill()
	for name, ws := range map[string]*websocket.Conn{"anna": atAnna, "ben": atBen} {
		for {
			if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.ReadMessage(); err != nil {
				if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
					t.Fatalf("%s's socket is still open", name)
				}
				break
			}
		}
	}
	public := "ws" + strings.TrimPrefix(h.config.Calls.URL, "http")
	_, first = comeBack(t, public, annas, joined.Participant.Sid)
	if leave := first.GetLeave(); leave.GetAction() != signal.Leave_RECONNECT {
		t.Errorf("resume after the home's death: got %v, want leave with RECONNECT", first)
	}
	atAnna, joined = openCall(t, public, annas)
	atBen, joinedBen = openCall(t, public, bens)
	took := time.Since(begun)
	if took > 5*time.Second {
		t.Errorf("both were back after %v, want within 5 s", took)
	}
	t.Logf("both back %v after the home was killed", took.Round(time.Millisecond))
	if joined.Room.Sid != joinedBen.Room.Sid {
		t.Errorf("they met in %s and %s", joined.Room.Sid, joinedBen.Room.Sid)
	}

	// The killed one comes back and takes calls again, once the other is drained.
	h.foci[home].start()
	h.until("knows of the other", func(n int) bool { return n == other && h.gauge(n, "chancery_calls_foci") == "2" })
	drained := strings.TrimSuffix(h.foci[other].health, "/health") + "/calls/drain?within=0s"
	begun = time.Now()
	resp, err := http.Post(drained, "application/json", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("drain: %v, %v", resp, err)
	}
	resp.Body.Close()
	if got := h.gauge(other, "chancery_calls_draining"); got != "1" {
		t.Errorf("drained: chancery_calls_draining is %q, want 1", got)
	}
	for name, ws := range map[string]*websocket.Conn{"anna": atAnna, "ben": atBen} {
		for {
			if leave := heard(t, ws).GetLeave(); leave != nil {
				if leave.Action != signal.Leave_RECONNECT {
					t.Errorf("%s was told %v, want RECONNECT", name, leave)
				}
				break
			}
		}
	}
	atAnna, joined = openCall(t, h.socket(other), annas)
	_, joinedBen = openCall(t, h.socket(other), bens)
	t.Logf("moved %v after the drain began", time.Since(begun).Round(time.Millisecond))
	if joined.Room.Sid != joinedBen.Room.Sid || joined.ServerInfo.NodeId != joinedBen.ServerInfo.NodeId {
		t.Errorf("after the drain they met in %s on %s and %s on %s", joined.Room.Sid, joined.ServerInfo.NodeId, joinedBen.Room.Sid, joinedBen.ServerInfo.NodeId)
	}
	if now := h.home(); now != home {
		t.Errorf("after the drain the call is on focus %d, want %d", now, home)
	}

	// A membership that ends is noticed on the home, though the socket is another's.
	if _, err := anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: ben.UserID}); err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; {
		for _, p := range heard(t, atAnna).GetUpdate().GetParticipants() {
			gone = gone || strings.HasPrefix(p.Identity, string(ben.UserID)) && p.State == signal.Participant_DISCONNECTED
		}
	}
}
