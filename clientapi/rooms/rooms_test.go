package rooms_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"

	"chancery/clientapi"
	"chancery/clientapi/account"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// server is a whole client API of "interior" on a real store, bus and room server. Federation is played by the test.
type server struct {
	t     *testing.T
	url   string
	store *storage.Store
	bus   *bus.Bus
	txn   int
	stop  func()
}

func start(t *testing.T) *server { return startAt(t, filepath.Join(t.TempDir(), "test.db")) }

func startAt(t *testing.T, database string) *server {
	t.Helper()
	messages, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Database: database}, messages)
	if err != nil {
		t.Fatal(err)
	}
	files, err := blobs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := clientapi.DefaultConfig()
	cfg.ServerName = "interior"
	cfg.HTTP.Limits.Enabled = false
	cfg.Account.OpenRegistration = true
	cfg.Account.PasswordHash = account.Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	client, err := clientapi.New(cfg, store, files, messages, log)
	if err != nil {
		t.Fatal(err)
	}
	signer := pdu.Signer{ServerName: "interior", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	rooms := roomserver.New(roomserver.DefaultConfig(), store, messages, signer)
	ctx, cancel := context.WithCancel(log.WithContext(context.Background()))
	ended := make(chan error, 2)
	go func() { ended <- rooms.Run(ctx) }()
	go func() { ended <- client.Run(ctx) }()
	web := httptest.NewServer(client)
	s := &server{t: t, url: web.URL, store: store, bus: messages}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		web.Close()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("a component ended with %v", err)
			}
		}
		if err := store.Close(); err != nil {
			t.Errorf("close storage: %v", err)
		}
		messages.Close()
	}
	t.Cleanup(s.stop)
	return s
}

// user is somebody logged in.
type user struct {
	*server
	id, token string
}

func (s *server) register(name string) *user {
	s.t.Helper()
	a := (&user{server: s}).do("POST", "/_matrix/client/v3/register", m{
		"username": name, "password": "correct horse battery", "auth": m{"type": "m.login.dummy"},
	}).ok()
	return &user{s, a.str("user_id"), a.str("access_token")}
}

// m is a JSON object.
type m = map[string]any

// answer is what came back.
type answer struct {
	t    *testing.T
	what string
	code int
	body gjson.Result
}

// do sends a request; body is JSON text or anything that can be marshalled, nil for none.
func (u *user) do(method, path string, body any) *answer {
	u.t.Helper()
	var reader io.Reader
	switch v := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(v)
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			u.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, u.url+path, reader)
	if err != nil {
		u.t.Fatal(err)
	}
	if u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return &answer{t: u.t, what: method + " " + path, code: resp.StatusCode, body: gjson.ParseBytes(raw)}
}

func (u *user) get(path string) *answer {
	u.t.Helper()
	return u.do("GET", "/_matrix/client"+path, nil)
}
func (u *user) put(path string, body any) *answer {
	u.t.Helper()
	return u.do("PUT", "/_matrix/client"+path, body)
}
func (u *user) post(path string, body any) *answer {
	u.t.Helper()
	return u.do("POST", "/_matrix/client"+path, body)
}
func (u *user) room(id, rest string) string        { return "/v3/rooms/" + url.PathEscape(id) + "/" + rest }
func (u *user) in(id, rest string) *answer         { u.t.Helper(); return u.get(u.room(id, rest)) }
func (u *user) to(id, rest string, b any) *answer  { u.t.Helper(); return u.post(u.room(id, rest), b) }
func (u *user) set(id, rest string, b any) *answer { u.t.Helper(); return u.put(u.room(id, rest), b) }
func (u *user) create(body m) string {
	u.t.Helper()
	return u.post("/v3/createRoom", body).ok().str("room_id")
}
func (u *user) join(id string) *answer { u.t.Helper(); return u.to(id, "join", m{}) }
func (u *user) event(id, event, rest string) string {
	return u.room(id, rest+"/"+url.PathEscape(event))
}

// send sends a text and gives its event ID.
func (u *user) send(id, text string) string {
	u.t.Helper()
	return u.sends(id, "m.room.message", m{"msgtype": "m.text", "body": text}).ok().str("event_id")
}

func (u *user) sends(id, typ string, content any) *answer {
	u.t.Helper()
	u.txn++
	return u.set(id, fmt.Sprintf("send/%s/t%d", typ, u.txn), content)
}

func (a *answer) str(path string) string { return a.body.Get(path).String() }

// ids are the event IDs of a list in the answer.
func (a *answer) ids(list string) string {
	var ids []string
	for _, e := range a.body.Get(list).Array() {
		ids = append(ids, e.Get("event_id").Str)
	}
	return strings.Join(ids, " ")
}

// bodies are the texts of the messages of a list in the answer.
func (a *answer) bodies(list string) string {
	var texts []string
	for _, e := range a.body.Get(list).Array() {
		if e.Get("type").Str == "m.room.message" {
			texts = append(texts, e.Get("content.body").Str)
		}
	}
	return strings.Join(texts, " ")
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

// has says what a place in the answer has to hold, as text or raw JSON.
func (a *answer) has(path, want string) *answer {
	a.t.Helper()
	if got := a.body.Get(path); got.String() != want && got.Raw != want {
		a.t.Fatalf("%s: %s: got %q, want %q (%s)", a.what, path, got.String(), want, a.body.Raw)
	}
	return a
}
