package clientapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// testServer is the client API on a real store and a real bus.
type testServer struct {
	t     *testing.T
	api   *Server
	url   string
	store *storage.Store
	bus   *bus.Bus
	// What a restart needs.
	cfg   Config
	files *blobs.Store
	door  atomic.Pointer[Server]
	stop  func()
}

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.ServerName = "interior"
	cfg.HTTP.Limits.Enabled = false
	cfg.Account.OpenRegistration = true
	cfg.Account.SharedSecret = "secret"
	cfg.Account.PasswordHash = account.Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}
	return cfg
}

func start(t *testing.T, cfg Config) *testServer {
	t.Helper()
	return startBehind(t, cfg, httptest.NewUnstartedServer(nil))
}

// startBehind is start with a web server of the caller's, whose address is known before.
func startBehind(t *testing.T, cfg Config, web *httptest.Server) *testServer {
	t.Helper()
	messages, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(messages.Close)
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	files, err := blobs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(cfg, store, files, messages, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel))
	if err != nil {
		t.Fatal(err)
	}
	signer := pdu.Signer{ServerName: cfg.ServerName, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	run(t, roomserver.New(roomserver.DefaultConfig(), store, messages, signer).Run)
	s := &testServer{t: t, api: server, store: store, bus: messages, cfg: cfg, files: files, stop: run(t, server.Run)}
	s.door.Store(server)
	web.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.door.Load().ServeHTTP(w, r) })
	web.Start()
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

// restart has the server begin anew, with its first configuration changed so.
func (s *testServer) restart(set func(*Config)) {
	s.t.Helper()
	s.stop()
	cfg := s.cfg
	set(&cfg)
	server, err := New(cfg, s.store, s.files, s.bus, zerolog.New(zerolog.NewTestWriter(s.t)).Level(zerolog.WarnLevel))
	if err != nil {
		s.t.Fatal(err)
	}
	s.api, s.stop = server, run(s.t, server.Run)
	s.door.Store(server)
}

// newForTest makes a server for its route table alone: nothing of it runs.
func newForTest(t *testing.T) (*Server, error) {
	t.Helper()
	messages, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		return nil, err
	}
	t.Cleanup(messages.Close)
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, messages)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { store.Close() })
	files, err := blobs.Open(t.TempDir())
	if err != nil {
		return nil, err
	}
	return New(testConfig(), store, files, messages, zerolog.Nop())
}

// run runs a component until the test ends, or it is stopped.
func run(t *testing.T, component func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- component(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("a component ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// answer is what came back.
type answer struct {
	t    *testing.T
	what string
	code int
	body gjson.Result
}

// do sends a request; body is JSON text or anything that can be marshalled, nil for none.
func (s *testServer) do(token, method, path string, body any) *answer {
	s.t.Helper()
	var reader io.Reader
	switch v := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(v)
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			s.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	code, raw := s.exchange(method, path, token, reader)
	return &answer{t: s.t, what: method + " " + path, code: code, body: gjson.ParseBytes(raw)}
}

// exchange sends a request, and reads the whole answer.
func (s *testServer) exchange(method, path, token string, body io.Reader) (code int, answer []byte) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, raw
}

// ok says that the answer has to be a 200.
func (a *answer) ok() *answer {
	a.t.Helper()
	if a.code != http.StatusOK {
		a.t.Fatalf("%s: got %d %s, want 200", a.what, a.code, a.body.Raw)
	}
	return a
}

// fails says which status and errcode the answer has to have.
func (a *answer) fails(code int, errcode string) *answer {
	a.t.Helper()
	if a.code != code || a.str("errcode") != errcode {
		a.t.Fatalf("%s: got %d %s, want %d %s", a.what, a.code, a.body.Raw, code, errcode)
	}
	return a
}

func (a *answer) str(path string) string { return a.body.Get(path).String() }

// user is somebody who is logged in.
type user struct {
	*testServer
	ID     id.UserID
	Token  string
	Device string
}

const v3 = "/_matrix/client/v3"

func (s *testServer) register(name string) *user {
	s.t.Helper()
	a := s.do("", "POST", v3+"/register", map[string]any{
		"username": name, "password": "password of " + name, "auth": map[string]string{"type": "m.login.dummy"},
	}).ok()
	return &user{testServer: s, ID: id.UserID(a.str("user_id")), Token: a.str("access_token"), Device: a.str("device_id")}
}

// login opens another session of somebody.
func (s *testServer) login(name string) *user {
	s.t.Helper()
	a := s.do("", "POST", v3+"/login", loginBody(name, "password of "+name)).ok()
	return &user{testServer: s, ID: id.UserID(a.str("user_id")), Token: a.str("access_token"), Device: a.str("device_id")}
}

func loginBody(name, password string) map[string]any {
	return map[string]any{"type": "m.login.password", "password": password, "identifier": map[string]string{"type": "m.id.user", "user": name}}
}

// do is a request with the user's token.
func (u *user) do(method, path string, body any) *answer {
	u.t.Helper()
	return u.testServer.do(u.Token, method, path, body)
}

// confirm adds the password stage of user-interactive authentication to a body.
func (u *user) confirm(body map[string]any, session string) map[string]any {
	auth := map[string]any{
		"type": "m.login.password", "password": "password of " + u.ID.Localpart(),
		"identifier": map[string]string{"type": "m.id.user", "user": string(u.ID)},
	}
	if session != "" {
		auth["session"] = session
	}
	with := map[string]any{"auth": auth}
	for k, v := range body {
		with[k] = v
	}
	return with
}

// token is where the stream stands now, as a sync would say it.
func (s *testServer) token() string {
	return storage.Token{Incarnation: s.store.Incarnation(), Position: s.store.Head()}.String()
}
