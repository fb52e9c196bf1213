package appservice_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi"
	"chancery/clientapi/account"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

// house is a whole client API of "interior" on a real store, bus and room server, and a bridge beside it.
type house struct {
	*testing.T
	url      string
	store    *storage.Store
	database string
	bridge   *bridge
	stop     func()
}

// bridge is a service made with mautrix' package, behind a door that can be shut.
type bridge struct {
	*appservice.AppService
	registration *appservice.Registration
	web          *httptest.Server

	mu      sync.Mutex
	shut    bool
	got     []delivery // what was taken
	refused []delivery // what came to a shut door
	came    chan struct{}
	aliases func(id.RoomAlias) bool
	users   func(id.UserID) bool
}

type delivery struct {
	name string
	body gjson.Result
}

func (b *bridge) QueryAlias(alias id.RoomAlias) bool { return b.aliases != nil && b.aliases(alias) }
func (b *bridge) QueryUser(user id.UserID) bool      { return b.users != nil && b.users(user) }

// ServeHTTP notes transactions, and hands everything on to mautrix.
func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, isTransaction := strings.CutPrefix(r.URL.Path, "/bridge/_matrix/app/v1/transactions/")
	r.URL.Path = strings.TrimPrefix(r.URL.Path, "/bridge")
	raw, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(raw))
	b.mu.Lock()
	d := delivery{name, gjson.ParseBytes(raw)}
	shut := b.shut
	switch {
	case isTransaction && shut:
		b.refused = append(b.refused, d)
	case isTransaction:
		b.got = append(b.got, d)
	}
	close(b.came)
	b.came = make(chan struct{})
	b.mu.Unlock()
	if shut {
		http.Error(w, "closed", http.StatusServiceUnavailable)
		return
	}
	b.Router.ServeHTTP(w, r)
}

func (b *bridge) close(shut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shut = shut
}

// newHouse starts both. change may change the registration.
func newHouse(t *testing.T, change func(*appservice.Registration)) *house {
	t.Helper()
	b := &bridge{came: make(chan struct{})}
	b.web = httptest.NewServer(b)
	t.Cleanup(b.web.Close)
	no := false
	b.registration = &appservice.Registration{
		ID: "irc", URL: b.web.URL + "/bridge", AppToken: "as secret", ServerToken: "hs secret", SenderLocalpart: "ircbot", RateLimited: &no,
		EphemeralEvents: true, MSC3202: true,
		Namespaces: appservice.Namespaces{
			UserIDs:     appservice.NamespaceList{{Regex: "@_irc_.*:interior", Exclusive: true}},
			RoomAliases: appservice.NamespaceList{{Regex: "#_irc_.*:interior", Exclusive: true}},
		},
	}
	if change != nil {
		change(b.registration)
	}
	h := &house{T: t, bridge: b, database: filepath.Join(t.TempDir(), "test.db")}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// start starts the server, for the first time or again.
func (h *house) start() {
	h.Helper()
	folder := h.TempDir()
	if err := h.bridge.registration.Save(filepath.Join(folder, "irc.yaml")); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "puppets.yaml"), []byte(
		"id: puppets\nurl: null\nas_token: puppet secret\nhs_token: x\nsender_localpart: puppeteer\nnamespaces: {users: [{regex: '@.*:interior', exclusive: false}]}\n"), 0o600); err != nil {
		h.Fatal(err)
	}
	messages, err := bus.Open(h.Context(), bus.DefaultConfig())
	if err != nil {
		h.Fatal(err)
	}
	store, err := storage.Open(h.Context(), storage.Config{Database: h.database}, messages)
	if err != nil {
		h.Fatal(err)
	}
	files, err := blobs.Open(h.TempDir())
	if err != nil {
		h.Fatal(err)
	}
	cfg := clientapi.DefaultConfig()
	cfg.ServerName = "interior"
	if h.bridge.registration.RateLimited == nil {
		cfg.HTTP.Limits.Rates["message"] = cfg.HTTP.Limits.Rates["create"]
	} else {
		cfg.HTTP.Limits.Enabled = false
	}
	cfg.Account.OpenRegistration = true
	cfg.Account.PasswordHash = account.Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}
	cfg.AppService.Folder = folder
	cfg.AppService.AllowedNetworks = []string{"127.0.0.0/8"}
	cfg.AppService.FirstRetry, cfg.AppService.LastRetry = time.Millisecond, 20*time.Millisecond
	log := zerolog.New(zerolog.NewTestWriter(h.T)).Level(zerolog.ErrorLevel)
	client, err := clientapi.New(cfg, store, files, messages, log)
	if err != nil {
		h.Fatal(err)
	}
	signer := pdu.Signer{ServerName: "interior", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	rooms := roomserver.New(roomserver.DefaultConfig(), store, messages, signer)
	ctx, cancel := context.WithCancel(log.WithContext(context.Background()))
	ended := make(chan error, 2)
	go func() { ended <- rooms.Run(ctx) }()
	go func() { ended <- client.Run(ctx) }()
	web := httptest.NewServer(client)
	h.url, h.store = web.URL, store
	h.stop = sync.OnceFunc(func() {
		web.Close()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				h.Errorf("a component ended with %v", err)
			}
		}
		store.Close()
		messages.Close()
	})
	if h.bridge.AppService, err = appservice.CreateFull(appservice.CreateOpts{
		Registration: h.bridge.registration, HomeserverDomain: "interior", HomeserverURL: h.url,
	}); err != nil {
		h.Fatal(err)
	}
	h.bridge.DefaultHTTPRetries = 0
	h.bridge.AppService.QueryHandler = h.bridge
	go func() { // nobody reads mautrix' channels
		for {
			select {
			case <-h.bridge.Events:
			case <-h.bridge.ToDeviceEvents:
			case <-h.bridge.OTKCounts:
			case <-h.bridge.DeviceLists:
			case <-ctx.Done():
				return
			}
		}
	}()
}

// find waits for something that was delivered: the first value under path in a transaction of which fits says so.
func (h *house) find(what, path string, fits func(gjson.Result) bool) gjson.Result {
	h.Helper()
	deadline := time.After(patience)
	for {
		h.bridge.mu.Lock()
		came := h.bridge.came
		for _, d := range h.bridge.got {
			for _, v := range values(d.body.Get(path)) {
				if fits(v) {
					h.bridge.mu.Unlock()
					return v
				}
			}
		}
		h.bridge.mu.Unlock()
		select {
		case <-came:
		case <-deadline:
			h.bridge.mu.Lock()
			defer h.bridge.mu.Unlock()
			h.Fatalf("%s did not come; the bridge got %v", what, h.bridge.got)
		}
	}
}

func values(v gjson.Result) []gjson.Result {
	if v.IsArray() {
		return v.Array()
	}
	if !v.Exists() {
		return nil
	}
	return []gjson.Result{v}
}

// event waits for an event with this ID.
func (h *house) event(event id.EventID) gjson.Result {
	h.Helper()
	return h.find("event "+string(event), "events", func(v gjson.Result) bool { return v.Get("event_id").Str == string(event) })
}

// register makes a person.
func (h *house) register(name string) *mautrix.Client {
	h.Helper()
	client, err := mautrix.NewClient(h.url, "", "")
	if err != nil {
		h.Fatal(err)
	}
	client.DefaultHTTPRetries = 0
	resp, err := client.RegisterDummy(h.Context(), &mautrix.ReqRegister[any]{Username: name, Password: "correct horse battery"})
	if err != nil {
		h.Fatalf("register %s: %v", name, err)
	}
	client.UserID, client.DeviceID, client.AccessToken = resp.UserID, resp.DeviceID, resp.AccessToken
	return client
}

// must is for answers that have to be good.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// do sends a request with a token.
func (h *house) do(token, method, path string, body any) (int, gjson.Result) {
	h.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		h.Fatal(err)
	}
	req, err := http.NewRequest(method, h.url+path, bytes.NewReader(raw))
	if err != nil {
		h.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	if err != nil {
		h.Fatal(err)
	}
	return resp.StatusCode, gjson.ParseBytes(raw)
}
