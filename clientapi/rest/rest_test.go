package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

type onlyToken map[string]Requester

func (t onlyToken) ByToken(_ context.Context, token, _, _ string) (*Requester, error) {
	if by, ok := t[token]; ok {
		return &by, nil
	}
	return nil, nil
}

type oneService struct{}

func (oneService) ServiceByToken(token string) Application {
	if token == "bridge" {
		return oneService{}
	}
	return nil
}
func (oneService) ID() string               { return "bridge" }
func (oneService) Sender() id.UserID        { return "@bridge:hs" }
func (oneService) Owns(user id.UserID) bool { return strings.HasPrefix(string(user), "@bridged_") }
func (oneService) Limited() bool            { return true }
func (oneService) MayActAs(_ context.Context, user id.UserID, device id.DeviceID) error {
	if device != "" && device != "PHONE" {
		return mautrix.RespError{ErrCode: "M_UNKNOWN_DEVICE", StatusCode: 400}
	}
	return nil
}

func testMux(t *testing.T, cfg Config) http.Handler {
	t.Helper()
	type body struct {
		Name string `json:"name"`
	}
	echo := func(r *Request) (any, error) {
		var b body
		if err := r.JSON(&b); err != nil {
			return nil, err
		}
		return b, nil
	}
	who := func(r *Request) (any, error) { return map[string]any{"user": r.By.User, "path": r.Path("x")}, nil }
	fail := func(err error) Handler { return func(*Request) (any, error) { return nil, err } }
	return NewMux([]Route{
		{Method: "POST", Path: "/_matrix/client/v3/echo", Handler: echo, MaxBody: 1000},
		{Method: "GET", Path: "/who", Handler: who, Auth: User},
		{Method: "GET", Path: "/maybe/{x}", Handler: who, Auth: Optional},
		{Method: "GET", Path: "/admin", Handler: who, Auth: Admin},
		{Method: "GET", Path: "/service", Handler: who, Auth: Service},
		{Method: "GET", Path: "/limited", Handler: who, Limit: LimitLogin},
		{Method: "GET", Path: "/limited-user", Handler: who, Auth: User, Limit: LimitLogin},
		{Method: "GET", Path: "/refused", Handler: fail(fmt.Errorf("propose: %w", bus.Refuse(403, "M_FORBIDDEN", "No")))},
		{Method: "GET", Path: "/deactivated", Handler: fail(mautrix.MUserDeactivated)},
		{Method: "GET", Path: "/broken", Handler: fail(errors.New("the disk is at 3 %"))},
		{Method: "GET", Path: "/panic", Handler: func(*Request) (any, error) { panic("oh") }},
		{Method: "GET", Path: "/status", Handler: func(*Request) (any, error) { return Status{Code: 202, Body: Empty}, nil }},
		{Method: "GET", Path: "/slow", Timeout: time.Millisecond, Handler: func(r *Request) (any, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}},
	}, Options{
		Config:   cfg,
		Log:      zerolog.Nop(),
		Tokens:   onlyToken{"alice": {User: "@alice:hs"}, "root": {User: "@root:hs", Admin: true}},
		Services: oneService{},
	})
}

func TestAnswers(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Limits.Rates[LimitLogin] = Rate{PerSecond: 0.001, Burst: 1}
	mux := testMux(t, cfg)
	for _, c := range []struct {
		name, method, url, token, body string
		code                           int
		errcode                        string
		contains                       string
	}{
		{name: "body decoded", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"<a>"}`, code: 200, contains: `{"name":"<a>"}`},
		{name: "r0 is v3", method: "POST", url: "/_matrix/client/r0/echo", body: `{"name":"a"}`, code: 200},
		{name: "I1 no JSON", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name`, code: 400, errcode: "M_NOT_JSON"},
		{name: "I1 empty", method: "POST", url: "/_matrix/client/v3/echo", body: ``, code: 400, errcode: "M_NOT_JSON"},
		{name: "I1 trailing garbage", method: "POST", url: "/_matrix/client/v3/echo", body: `{} x`, code: 400, errcode: "M_NOT_JSON"},
		{name: "I2 array", method: "POST", url: "/_matrix/client/v3/echo", body: `[]`, code: 400, errcode: "M_BAD_JSON"},
		{name: "I2 wrong type", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":1}`, code: 400, errcode: "M_BAD_JSON"},
		{name: "I4 nesting", method: "POST", url: "/_matrix/client/v3/echo", body: strings.Repeat("[", 101), code: 400, errcode: "M_BAD_JSON"},
		{name: "I5 too large", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"` + strings.Repeat("a", 1000) + `"}`, code: 413, errcode: "M_TOO_LARGE"},
		{name: "I6 invalid UTF-8", method: "POST", url: "/_matrix/client/v3/echo", body: "{\"name\":\"\x81\"}", code: 400, errcode: "M_NOT_JSON"},
		{name: "I6 NUL", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"\u0000"}`, code: 400, errcode: "M_BAD_JSON"},
		{name: "I6 backslash before u0000", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"\\u0000"}`, code: 200},
		{name: "I6 half a character", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"\ud83d"}`, code: 400, errcode: "M_BAD_JSON"},
		{name: "I10 key twice", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"a","name":"b"}`, code: 400, errcode: "M_BAD_JSON"},
		{name: "floats pass where no event is made", method: "POST", url: "/_matrix/client/v3/echo", body: `{"name":"a","x":1.5e3}`, code: 200},
		{name: "I6 NUL in query", method: "GET", url: "/maybe/a?b=%00", code: 400, errcode: "M_INVALID_PARAM"},
		{name: "I6 path not UTF-8", method: "GET", url: "/maybe/%ff", code: 400, errcode: "M_INVALID_PARAM"},
		{name: "I11 unknown path", method: "GET", url: "/nowhere", code: 404, errcode: "M_UNRECOGNIZED"},
		{name: "I11 double slash", method: "GET", url: "//who", code: 404, errcode: "M_UNRECOGNIZED"},
		{name: "I11 dots", method: "GET", url: "/maybe/../who", code: 404, errcode: "M_UNRECOGNIZED"},
		{name: "I11 wrong method", method: "PUT", url: "/who", code: 405, errcode: "M_UNRECOGNIZED"},
		{name: "slash inside a segment", method: "GET", url: "/maybe/a%2Fb", code: 200, contains: `"path":"a/b"`},
		{name: "no token", method: "GET", url: "/who", code: 401, errcode: "M_MISSING_TOKEN"},
		{name: "unknown token", method: "GET", url: "/who", token: "bob", code: 401, errcode: "M_UNKNOWN_TOKEN"},
		{name: "A8 token in query", method: "GET", url: "/who?access_token=alice", code: 401, errcode: "M_MISSING_TOKEN"},
		{name: "good token", method: "GET", url: "/who", token: "alice", code: 200, contains: `"user":"@alice:hs"`},
		{name: "optional without", method: "GET", url: "/maybe/x", code: 200},
		{name: "optional with bad", method: "GET", url: "/maybe/x", token: "bob", code: 401, errcode: "M_UNKNOWN_TOKEN"},
		{name: "admin refused", method: "GET", url: "/admin", token: "alice", code: 403, errcode: "M_FORBIDDEN"},
		{name: "admin", method: "GET", url: "/admin", token: "root", code: 200},
		{name: "A18 service refused", method: "GET", url: "/service", token: "alice", code: 403, errcode: "M_FORBIDDEN"},
		{name: "service", method: "GET", url: "/service", token: "bridge", code: 200, contains: `@bridge:hs`},
		{name: "masquerade", method: "GET", url: "/who?user_id=@bridged_1:hs", token: "bridge", code: 200, contains: `@bridged_1:hs`},
		{name: "masquerade with a device", method: "GET", url: "/who?user_id=@bridged_1:hs&device_id=PHONE", token: "bridge", code: 200},
		{name: "masquerade with another's device", method: "GET", url: "/who?user_id=@bridged_1:hs&device_id=TABLET", token: "bridge", code: 400, errcode: "M_UNKNOWN_DEVICE"},
		{name: "A18 masquerade outside", method: "GET", url: "/who?user_id=@alice:hs", token: "bridge", code: 403, errcode: "M_FORBIDDEN"},
		{name: "masquerade by a user", method: "GET", url: "/who?user_id=@root:hs", token: "alice", code: 200, contains: `@alice:hs`},
		{name: "first of its bucket", method: "GET", url: "/limited", code: 200},
		{name: "second of its bucket", method: "GET", url: "/limited", code: 429, errcode: "M_LIMIT_EXCEEDED", contains: "retry_after_ms"},
		{name: "a service itself has no limit", method: "GET", url: "/limited-user", token: "bridge", code: 200},
		{name: "nor the second time", method: "GET", url: "/limited-user", token: "bridge", code: 200},
		{name: "its user has", method: "GET", url: "/limited-user?user_id=@bridged_1:hs", token: "bridge", code: 200},
		{name: "the second time", method: "GET", url: "/limited-user?user_id=@bridged_1:hs", token: "bridge", code: 429, errcode: "M_LIMIT_EXCEEDED"},
		{name: "refusal from the bus", method: "GET", url: "/refused", code: 403, errcode: "M_FORBIDDEN"},
		{name: "errcode without status", method: "GET", url: "/deactivated", code: 403, errcode: "M_USER_DEACTIVATED"},
		{name: "O2 cause stays inside", method: "GET", url: "/broken", code: 500, errcode: "M_UNKNOWN", contains: "Internal server error"},
		{name: "D6 panic", method: "GET", url: "/panic", code: 500, errcode: "M_UNKNOWN"},
		{name: "own status", method: "GET", url: "/status", code: 202},
		{name: "out of time", method: "GET", url: "/slow", code: 504, errcode: "M_UNKNOWN"},
		{name: "preflight", method: "OPTIONS", url: "/who", code: 200},
		{name: "preflight of nothing", method: "OPTIONS", url: "/nowhere", code: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := httptest.NewRequest(c.method, c.url, strings.NewReader(c.body))
			if c.token != "" {
				req.Header.Set("Authorization", "Bearer "+c.token)
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, req)
			if w.Code != c.code {
				t.Errorf("status: got %d, want %d (%s)", w.Code, c.code, w.Body)
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != "*" {
				t.Errorf("CORS origin: got %q, want *", got)
			}
			var answer struct{ Errcode string }
			if c.errcode != "" {
				if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
					t.Fatalf("answer is not JSON: %v (%s)", err, w.Body)
				}
			}
			if answer.Errcode != c.errcode {
				t.Errorf("errcode: got %q, want %q", answer.Errcode, c.errcode)
			}
			if !strings.Contains(w.Body.String(), c.contains) {
				t.Errorf("body: got %s, want %s in it", w.Body, c.contains)
			}
			if c.code == 429 && w.Header().Get("Retry-After") == "" {
				t.Error("Retry-After is missing")
			}
		})
	}
}

func TestBodyWithoutLengthIsBounded(t *testing.T) {
	server := httptest.NewServer(testMux(t, DefaultConfig()))
	defer server.Close()
	// A reader that net/http knows nothing of is sent in chunks, without Content-Length.
	endless := struct{ *strings.Reader }{strings.NewReader(`{"name":"` + strings.Repeat("a", 1<<20) + `"}`)}
	resp, err := http.Post(server.URL+"/_matrix/client/v3/echo", "application/json", endless)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", resp.StatusCode)
	}
}

func TestLimits(t *testing.T) {
	now := time.Unix(1000, 0)
	l := NewLimits(LimitsConfig{Enabled: true, Rates: map[Kind]Rate{LimitFailed: {PerSecond: 0.5, Burst: 2}}}, func() time.Time { return now })
	take := func(want bool) {
		t.Helper()
		if got := l.Take(LimitFailed, "a") == nil; got != want {
			t.Fatalf("at %d: allowed %v, want %v", now.Unix(), got, want)
		}
	}
	take(true)
	if l.Full(LimitFailed, "a") != nil {
		t.Fatal("looking into the bucket emptied it")
	}
	take(true)
	take(false)
	if l.Full(LimitFailed, "a") == nil {
		t.Fatal("an empty bucket looks full")
	}
	if l.Take(LimitFailed, "b") != nil {
		t.Fatal("another key has no bucket of its own")
	}
	now = now.Add(-time.Hour)
	take(false)
	now = now.Add(2 * time.Second)
	take(true)
	take(false)

	var off *Limits
	if off.Take(LimitFailed, "a") != nil {
		t.Fatal("no limits should let all through")
	}
}

func TestLimitsValidate(t *testing.T) {
	if err := DefaultLimits().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, rates := range map[string]map[Kind]Rate{
		"unknown kind": {"beer": {1, 1}},
		"no burst":     {LimitLogin: {1, 0}},
		"no rate":      {LimitLogin: {0, 1}},
	} {
		if (LimitsConfig{Rates: rates}).Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,"\u0000"]}`, `"\\u0000"`, `[[[[`, "\xff", `{"a":1}{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if CheckJSON(raw) == nil && !json.Valid(raw) {
			t.Errorf("passed, but is not JSON: %q", raw)
		}
	})
}
