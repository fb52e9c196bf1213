package clientapi

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/clientapi/upstream"
)

// TestSSOLeavesBoth signs out here and at the provider, which tells of it by its back channel.
func TestSSOLeavesBoth(t *testing.T) {
	e := signInElsewhere(t, nil)
	s := e.surfer()
	anna := e.signIn(s, "anna")
	elsewhere := e.signIn(e.surfer(), "anna")
	page := s.get(e.url+account.LeavePath).has(200, "Staff Directory", string(anna.ID))
	ending := s.submit(page, nil)
	anna.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	asked := mustQuery(t, ending.location)
	if !strings.HasPrefix(ending.location, e.issuer) || asked.Get("id_token_hint") == "" || asked.Get("post_logout_redirect_uri") != e.url+upstream.LeftPath {
		t.Fatalf("sent to %s", ending.location)
	}
	end := s.submit(s.follow(ending, ""), url.Values{"logout": {"yes"}})
	if left := s.follow(end, ""); left.at != e.url+upstream.LeftPath && !strings.HasPrefix(left.at, e.url+upstream.LeftPath+"?") {
		t.Errorf("at the end: got %s", left.at)
	}
	// The other browser's session goes on.
	elsewhere.do("GET", v3+"/account/whoami", nil).ok()
	s.get(e.url+account.LeavePath).has(200, "Signed out")
}

// TestSSOBackchannelLogout ends at the provider what began there, though nobody told us.
func TestSSOBackchannelLogout(t *testing.T) {
	e := signInElsewhere(t, nil)
	s := e.surfer()
	anna := e.signIn(s, "anna")
	second := e.signIn(s, "anna") // the same session at the provider
	apart := e.signIn(e.surfer(), "anna")
	late := mustQuery(t, s.submit(s.follow(e.begin(s, "anna"), "").has(200, "app.example"), nil).location).Get("loginToken")
	end := s.follow(s.get(e.issuer+"/session/end"), "")
	s.submit(end, url.Values{"logout": {"yes"}})
	var token string
	select {
	case token = <-e.heard:
	case <-time.After(30 * time.Second):
		t.Fatal("the provider told of no end")
	}
	for name, gone := range map[string]*user{"first": anna, "second": second} {
		if a := gone.do("GET", v3+"/account/whoami", nil); a.code != 401 {
			t.Errorf("%s session: got %d, want it ended", name, a.code)
		}
	}
	apart.do("GET", v3+"/account/whoami", nil).ok()
	// A login token of that session opens nothing any more.
	e.do("", "POST", v3+"/login", map[string]any{"type": "m.login.token", "token": late}).fails(403, "M_FORBIDDEN")

	post := func(values url.Values) *http.Response {
		t.Helper()
		answer, err := http.PostForm(e.url+"/_chancery/upstream/staff/backchannel", values)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer
	}
	session, err := e.store.Upstream.OfDevice(t.Context(), apart.ID, id.DeviceID(apart.Device))
	if err != nil || session == nil {
		t.Fatalf("session of the device: got %v %v", session, err)
	}
	parts := strings.Split(token, ".")
	for name, bad := range map[string]string{
		"heard before": token, "an ID token": session.IDToken, "no token": "", "not signed": parts[0] + "." + parts[1] + ".",
		"signed otherwise": parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), "too long": strings.Repeat("a", 20_000),
	} {
		if answer := post(url.Values{"logout_token": {bad}}); answer.StatusCode != 400 || answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %d %q, want 400, not to be stored", name, answer.StatusCode, answer.Header.Get("Cache-Control"))
		}
	}
	apart.do("GET", v3+"/account/whoami", nil).ok()
}

func TestSSOFrontchannelLogout(t *testing.T) {
	e := signInElsewhere(t, nil)
	s := e.surfer()
	anna := e.signIn(s, "anna")
	session, err := e.store.Upstream.OfDevice(t.Context(), anna.ID, id.DeviceID(anna.Device))
	if err != nil || session == nil || session.SID == "" {
		t.Fatalf("session of the device: got %+v %v", session, err)
	}
	at := e.url + "/_chancery/upstream/staff/frontchannel?"
	for name, query := range map[string]url.Values{
		"no issuer": {"sid": {session.SID}}, "no session": {"iss": {e.issuer}}, "another issuer": {"iss": {"https://evil.example"}, "sid": {session.SID}},
	} {
		if p := s.get(at + query.Encode()); p.code != 400 {
			t.Errorf("%s: got %d, want 400", name, p.code)
		}
	}
	anna.do("GET", v3+"/account/whoami", nil).ok()
	page := s.get(at+url.Values{"iss": {e.issuer}, "sid": {session.SID}}.Encode()).has(200, "Signed out")
	if policy := page.header.Get("Content-Security-Policy"); !strings.HasSuffix(policy, "frame-ancestors "+e.issuer) {
		t.Errorf("policy: got %q, want the provider alone to frame it", policy)
	}
	anna.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}
