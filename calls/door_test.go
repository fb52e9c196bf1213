package calls

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TestUnrecognized: threats.md I11 and I12, for the focus's own paths, beside the client API and where it has a listener alone.
func TestUnrecognized(t *testing.T) {
	for _, base := range []string{"", "/calls"} {
		_, url := newTestFocus(t, func(c *Config) { c.Path = base })
		url = "http" + strings.TrimPrefix(url, "ws") + base
		client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for _, c := range []struct {
			method, path string
			status       int
			allow        string
			says         string // what stands in the answer; of one that is not recognized, the Matrix error
		}{
			{"POST", "/sfu_webhook", 404, "", "M_UNRECOGNIZED"},
			{"POST", "/delegate_delayed_leave", 404, "", "M_UNRECOGNIZED"}, // Element Call asks whether there is any
			{"GET", "/nothing", 404, "", "M_UNRECOGNIZED"},
			{"GET", "//nothing", 404, "", "M_UNRECOGNIZED"},
			{"GET", "/rtc/nothing", 404, "", "M_UNRECOGNIZED"},
			{"POST", "/twirp/livekit.Egress/ListEgress", 404, "", "M_UNRECOGNIZED"},
			{"POST", "/rtc/validate", 405, "GET", "M_UNRECOGNIZED"},
			{"POST", "/rtc/v1", 405, "GET", "M_UNRECOGNIZED"},
			{"POST", "/", 405, "GET", "M_UNRECOGNIZED"},
			{"GET", "/twirp/livekit.RoomService/ListRooms", 405, "POST", "M_UNRECOGNIZED"},
			{"OPTIONS", "/sfu_webhook", 200, "", ""},
			{"OPTIONS", "/rtc/validate", 200, "", ""},
			// and what is, as before
			{"GET", "/", 200, "", "OK"},
			{"HEAD", "/", 200, "", ""},
			{"HEAD", "", 200, "", ""}, // livekit-client asks whether its network is back
			{"GET", "/rtc", 401, "", "invalid token"},
			{"GET", "//rtc/v1/validate", 401, "", "invalid token"},
			{"POST", "/twirp/livekit.RoomService/ListRooms", 401, "", "unauthenticated"},
			{"POST", "/twirp/livekit.RoomService/Nothing", 401, "", "unauthenticated"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != c.status || resp.Header.Get("Allow") != c.allow || !strings.Contains(string(body), c.says) ||
				resp.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s%s: got %d %q, allowed %q, %v, want %d %q, allowed %q, with CORS", c.method, base, c.path,
					resp.StatusCode, body, resp.Header.Get("Allow"), err, c.status, c.says, c.allow)
			}
			var no struct{ ErrCode, Error string }
			if c.says == "M_UNRECOGNIZED" && (json.Unmarshal(body, &no) != nil || no.ErrCode != c.says || no.Error == "" || resp.Header.Get("Content-Type") != "application/json") {
				t.Errorf("%s %s%s: got %s %q, want a Matrix error", c.method, base, c.path, resp.Header.Get("Content-Type"), body)
			}
		}
	}
}

// TestAskingMakesNoCall: whoever asks whether the door would open is answered as at the door, and no call begins of it, nor does any focus take
// one.
func TestAskingMakesNoCall(t *testing.T) {
	f, base := newTestFocus(t, func(c *Config) { c.MaxTotalParticipants = 1 })
	ask := func(base, token string) int {
		t.Helper()
		resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + "/rtc/validate?" + url.Values{"access_token": {token}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	anns := testToken(t, "room", "ann")
	for _, path := range []string{"/rtc", "/rtc/v1"} { // without asking for a socket
		resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + path + "?" + url.Values{"access_token": {anns}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 || len(f.liveRooms()) != 0 {
			t.Errorf("GET %s without a socket: got %d, and %d calls, want 400 and none", path, resp.StatusCode, len(f.liveRooms()))
		}
	}
	if got := ask(base, anns); got != 200 {
		t.Errorf("of a call that may begin: got %d, want 200", got)
	}
	join(t, base, "other", "bob")
	if got := ask(base, anns); got != 503 {
		t.Errorf("when no more may come: got %d, want 503", got)
	}
	if rooms := f.liveRooms(); len(rooms) != 1 || rooms[0].name != "other" {
		t.Errorf("got %d calls, want the one that somebody joined", len(rooms))
	}
	foci, bases := newTestFoci(t)
	for n, base := range bases {
		token, err := foci[n].tokens.sign(Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "ann"}, Video: Grant{Room: "room", RoomJoin: true}}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(base, token); got != 200 {
			t.Errorf("of focus %d: got %d, want 200", n, got)
		}
		if home, err := foci[n].homes.rows.Home(t.Context(), "room"); err != nil || home != nil || len(foci[n].liveRooms()) != 0 {
			t.Errorf("after asking focus %d: got home %v, %v and %d calls there, want none", n, home, err, len(foci[n].liveRooms()))
		}
	}
}
