package remote_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"chancery/federation/remote"
)

type (
	keyRequest = gomatrixserverlib.PublicKeyLookupRequest
	keyResult  = gomatrixserverlib.PublicKeyLookupResult
)

// table is a key database in memory.
type table struct {
	mu     sync.Mutex
	keys   map[keyRequest]keyResult
	writes int
}

func newTable() *table { return &table{keys: make(map[keyRequest]keyResult)} }

func (t *table) FetcherName() string { return "table" }

func (t *table) FetchKeys(_ context.Context, reqs map[keyRequest]spec.Timestamp) (map[keyRequest]keyResult, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[keyRequest]keyResult)
	for req := range reqs {
		if res, ok := t.keys[req]; ok {
			out[req] = res
		}
	}
	return out, nil
}

func (t *table) StoreKeys(_ context.Context, results map[keyRequest]keyResult) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writes++
	for req, res := range results {
		t.keys[req] = res
	}
	return nil
}

// peer is another server over real TLS on loopback; its name is its address.
type peer struct {
	*httptest.Server
	name   string
	caFile string
	keys   *remote.Keys
}

func newPeer(t *testing.T, handler http.Handler) *peer {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(server.URL, "https://")
	return &peer{Server: server, name: name, caFile: caFile, keys: remote.GenerateKeys(name)}
}

func newClient(t *testing.T, cfg remote.Config) *remote.Client {
	t.Helper()
	c, err := remote.New(cfg, remote.GenerateKeys("us.example"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func loopback(caFile string) remote.Config {
	cfg := remote.DefaultConfig()
	cfg.CAFiles, cfg.AllowedNetworks = []string{caFile}, []string{"127.0.0.0/8"}
	return cfg
}

func verify(t *testing.T, ring *remote.Ring, server string, message []byte) error {
	t.Helper()
	results, err := ring.VerifyJSONs(t.Context(), []gomatrixserverlib.VerifyJSONRequest{{
		ServerName: spec.ServerName(server), AtTS: spec.AsTimestamp(time.Now()), Message: message,
		ValidityCheckingFunc: gomatrixserverlib.StrictValiditySignatureCheck,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return results[0].Error
}

func sign(t *testing.T, keys *remote.Keys, object string) []byte {
	t.Helper()
	out, err := keys.Sign([]byte(object))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRingFetchesChecksAndRemembers(t *testing.T) {
	var asked atomic.Int32
	var p *peer
	release := make(chan struct{})
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-release
		raw, _ := p.keys.Publish(time.Now())
		w.Write(raw)
	}))
	db := newTable()
	ring := remote.NewRing(newClient(t, loopback(p.caFile)), db, nil)
	message := sign(t, p.keys, `{"a":1}`)

	// Many equal questions at the same time are one.
	var wait sync.WaitGroup
	errs := make(chan error, 20)
	for range 20 {
		wait.Go(func() { errs <- verify(t, ring, p.name, message) })
	}
	close(release)
	wait.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Errorf("good signature: got %v, want none", err)
		}
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("key server was asked %d times, want 1", got)
	}
	if err := verify(t, ring, p.name, sign(t, p.keys, `{"a":2}`)[:0]); err == nil {
		t.Error("empty message: got no error, want one")
	}
	forged := []byte(strings.Replace(string(message), `"a":1`, `"a":2`, 1))
	if err := verify(t, ring, p.name, forged); err == nil {
		t.Error("changed message: got no error, want one")
	}
	writes := db.writes
	if err := verify(t, ring, p.name, message); err != nil {
		t.Error(err)
	}
	if db.writes != writes {
		t.Error("known keys were written again")
	}
	// Validity is clamped to seven days.
	for req, res := range db.keys {
		if until := time.Until(res.ValidUntilTS.Time()); until > 7*24*time.Hour+time.Minute {
			t.Errorf("%v is believed for %v, want at most seven days", req, until)
		}
	}
}

func TestRingRefusesKeysUnderAnotherName(t *testing.T) {
	var p *peer
	victim := remote.GenerateKeys("victim.example")
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := victim.Publish(time.Now()) // the peer's keys in the victim's name
		w.Write(raw)
	}))
	db := newTable()
	ring := remote.NewRing(newClient(t, loopback(p.caFile)), db, nil)
	if err := verify(t, ring, p.name, sign(t, p.keys, `{}`)); err == nil {
		t.Error("message of the peer: got no error, want one")
	}
	if err := verify(t, ring, "victim.example", sign(t, victim, `{}`)); err == nil {
		t.Error("message in the victim's name: got no error, want one")
	}
	if len(db.keys) != 0 {
		t.Errorf("stored %v, want nothing", db.keys)
	}
}

func TestCheckServerKeys(t *testing.T) {
	now := time.Now()
	keys := remote.GenerateKeys("a.example")
	good, err := keys.Rotate(now).Publish(now)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := remote.CheckServerKeys("a.example", good, now); err != nil || len(got) != 2 {
		t.Errorf("after a rotation: got %d keys and error %v, want 2 and none", len(got), err)
	}
	other := remote.GenerateKeys("a.example")
	var fields map[string]any
	_ = json.Unmarshal(good, &fields)
	fields["signatures"] = map[string]any{}
	unsigned, _ := json.Marshal(fields)
	for name, raw := range map[string][]byte{
		"no JSON":            []byte(`{`),
		"no object":          []byte(`[]`),
		"unsigned":           unsigned,
		"signed by a third":  sign(t, other, string(unsigned)),
		"no keys":            sign(t, other, `{"server_name":"a.example","verify_keys":{},"valid_until_ts":9999999999999}`),
		"wrong name":         sign(t, keys, `{"server_name":"b.example","verify_keys":{}}`),
		"key of wrong size":  sign(t, keys, `{"server_name":"a.example","verify_keys":{"ed25519:a":{"key":"AAAA"}}}`),
		"verify_keys a list": []byte(`{"server_name":"a.example","verify_keys":[]}`),
	} {
		if got, err := remote.CheckServerKeys("a.example", raw, now); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}

func TestNotary(t *testing.T) {
	absent := remote.GenerateKeys("absent.example")
	liar := remote.GenerateKeys("liar.example")
	var p *peer
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/v2/server") {
			raw, _ := p.keys.Publish(time.Now())
			w.Write(raw)
			return
		}
		good, _ := absent.Publish(time.Now())
		good, _ = p.keys.Sign(good)
		unsigned, _ := liar.Publish(time.Now()) // not signed by the notary
		_ = json.NewEncoder(w).Encode(map[string]any{"server_keys": []json.RawMessage{good, unsigned}})
	}))
	cfg := loopback(p.caFile)
	cfg.AllowedServers = []string{p.name} // so that the others are not looked for in the DNS
	ring := remote.NewRing(newClient(t, cfg), newTable(), []string{p.name})
	if err := verify(t, ring, "absent.example", sign(t, absent, `{}`)); err != nil {
		t.Errorf("keys from the notary: got %v, want none", err)
	}
	if err := verify(t, ring, "liar.example", sign(t, liar, `{}`)); err == nil {
		t.Error("keys that the notary did not sign: got no error, want one")
	}
}

func TestOwnKeysNeedNoQuestion(t *testing.T) {
	client := newClient(t, remote.DefaultConfig())
	ring := remote.NewRing(client, newTable(), nil)
	message := sign(t, client.Keys(), `{}`)
	if err := verify(t, ring, "us.example", message); err != nil {
		t.Errorf("own signature: got %v, want none", err)
	}
	if err := verify(t, ring, "us.example", sign(t, remote.GenerateKeys("us.example"), `{}`)); err == nil {
		t.Error("foreign signature in our name: got no error, want one")
	}
}

func TestAsk(t *testing.T) {
	p := newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/forbidden"):
			w.WriteHeader(http.StatusForbidden)
			w.Write([]byte(`{"errcode":"M_FORBIDDEN","error":"no"}`))
		case strings.HasSuffix(r.URL.Path, "/html"):
			w.WriteHeader(http.StatusBadGateway)
			w.Write([]byte(`<html>`))
		case strings.HasSuffix(r.URL.Path, "/large"):
			w.Write([]byte(`{"a":"` + strings.Repeat("x", 4096) + `"}`))
		case strings.HasSuffix(r.URL.Path, "/redirect"):
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/hang"):
			<-r.Context().Done()
		default:
			if !strings.HasPrefix(r.Header.Get("Authorization"), `X-Matrix origin="us.example"`) && !strings.HasPrefix(r.Header.Get("Authorization"), `X-Matrix origin=us.example`) {
				t.Errorf("Authorization is %q, want X-Matrix of us.example", r.Header.Get("Authorization"))
			}
			w.Write([]byte(`{"path":"` + r.URL.EscapedPath() + `"}`))
		}
	}))
	client := newClient(t, loopback(p.caFile))
	ask := func(path ...string) (string, error) {
		var answer struct{ Path string }
		q := remote.Request{Server: p.name, Method: http.MethodGet, Path: path, Limit: 1024, Timeout: 5 * time.Second}
		if path[0] == "hang" {
			q.Timeout = 50 * time.Millisecond
		}
		err := client.Ask(t.Context(), q, &answer)
		return answer.Path, err
	}
	if got, err := ask("v1", "event", "$a/b:c"); err != nil || got != "/_matrix/federation/v1/event/$a%2Fb:c" {
		t.Errorf("got path %q and error %v", got, err)
	}
	_, err := ask("forbidden")
	if refusal, ok := remote.Refused(err); !ok || refusal.ErrCode != "M_FORBIDDEN" || refusal.StatusCode != 403 {
		t.Errorf("forbidden: got %+v, %v", refusal, ok)
	}
	_, err = ask("html")
	if refusal, ok := remote.Refused(err); !ok || refusal.StatusCode != 502 {
		t.Errorf("bad gateway: got %+v, %v", refusal, ok)
	}
	for _, path := range []string{"large", "redirect", "hang"} {
		if _, err := ask(path); err == nil {
			t.Errorf("%s: got no error, want one", path)
		}
	}
}

func TestPolicyIsAskedFirst(t *testing.T) {
	var reached atomic.Int32
	p := newPeer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	ask := func(cfg remote.Config) error {
		return newClient(t, cfg).Ask(t.Context(), remote.Request{Server: p.name, Method: http.MethodGet, Path: []string{"v1", "version"}}, nil)
	}
	cfg := loopback(p.caFile)
	cfg.AllowedNetworks = nil
	if err := ask(cfg); !errors.Is(err, remote.ErrRefusedAddress) {
		t.Errorf("loopback not allowed: got %v, want %v", err, remote.ErrRefusedAddress)
	}
	cfg = loopback(p.caFile)
	cfg.AllowedServers = []string{"other.example"}
	if err := ask(cfg); !errors.Is(err, remote.ErrNotAllowed) {
		t.Errorf("server not allowed: got %v, want %v", err, remote.ErrNotAllowed)
	}
	cfg = loopback(p.caFile)
	cfg.CAFiles = nil
	if err := ask(cfg); err == nil {
		t.Error("unknown certificate authority: got no error, want one")
	}
	if got := reached.Load(); got != 0 {
		t.Errorf("the server was reached %d times, want never", got)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing.key")
	first, err := remote.CreateKeys("a.example", path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := remote.CreateKeys("a.example", path)
	if err != nil {
		t.Fatal(err)
	}
	id1, key1 := first.Current()
	id2, key2 := again.Current()
	if id1 != id2 || !key1.Equal(key2) {
		t.Errorf("the key changed from %s to %s by reading it again", id1, id2)
	}
	if err := first.Rotate(time.Now()).Save(path); err != nil {
		t.Fatal(err)
	}
	rotated, err := remote.LoadKeys("a.example", path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := rotated.Publish(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if id3, _ := rotated.Current(); id3 == id1 || !strings.Contains(string(raw), `"old_verify_keys":{"`+id1) {
		t.Errorf("after rotation %s signs and the answer is %s; want %s among the old keys", id3, raw, id1)
	}
	for _, text := range []string{
		"", "# only a comment", "ed25519 a AAAA", "ed25519 a:b " + strings.Repeat("A", 43), "rsa a " + strings.Repeat("A", 43),
		"ed25519 a " + strings.Repeat("A", 43) + "\ned25519 a " + strings.Repeat("A", 43), "old a " + strings.Repeat("A", 43) + " then",
	} {
		if _, err := remote.ParseKeys("a.example", text); err == nil {
			t.Errorf("key file %q: got no error, want one", text)
		}
	}
}

func FuzzCheckServerKeys(f *testing.F) {
	raw, _ := remote.GenerateKeys("a.example").Publish(time.Now())
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = remote.CheckServerKeys("a.example", raw, time.Unix(1_700_000_000, 0))
	})
}
