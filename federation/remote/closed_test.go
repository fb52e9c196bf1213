package remote_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/federation/remote"
)

func public(keys *remote.Keys) (keyID, key string) {
	keyID, private := keys.Current()
	return keyID, base64.RawStdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
}

// TestPinnedKeys: the keys of a pinned server are those of the configuration, whatever it says itself. It is not asked.
func TestPinnedKeys(t *testing.T) {
	var asked atomic.Int32
	var p *peer
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		raw, _ := p.keys.Publish(time.Now())
		w.Write(raw)
	}))
	pinned := remote.GenerateKeys(p.name)
	keyID, key := public(pinned)
	cfg := loopback(p.caFile)
	cfg.PinnedKeys = map[string]map[string]string{p.name: {keyID: key}}
	db := newTable()
	ring := remote.NewRing(newClient(t, cfg), db, nil)
	if err := verify(t, ring, p.name, sign(t, pinned, `{}`)); err != nil {
		t.Errorf("signed with the pinned key: got %v, want none", err)
	}
	if err := verify(t, ring, p.name, sign(t, p.keys, `{}`)); err == nil {
		t.Error("signed with a key that the server serves: got no error, want one")
	}
	if got := asked.Load(); got != 0 || len(db.keys) != 0 {
		t.Errorf("asked %d times and stored %d keys, want never and none", got, len(db.keys))
	}
	for name, wrong := range map[string]map[string]map[string]string{
		"no key":           {"a.example": {}},
		"no server name":   {"a b": {keyID: key}},
		"no key ID":        {"a.example": {"rsa:a": key}},
		"not 32 bytes":     {"a.example": {keyID: "AAAA"}},
		"something unlike": {"a.example": {keyID: "%"}},
	} {
		cfg.PinnedKeys = wrong
		if _, err := remote.New(cfg, remote.GenerateKeys("us.example")); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

// TestLeakedKeys: nothing signed with a denied key is believed, whether the key is served, known from before, or neither.
func TestLeakedKeys(t *testing.T) {
	var p *peer
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := p.keys.Publish(time.Now())
		w.Write(raw)
	}))
	_, key := public(p.keys)
	db := newTable()
	message := sign(t, p.keys, `{}`)
	if err := verify(t, remote.NewRing(newClient(t, loopback(p.caFile)), db, nil), p.name, message); err != nil {
		t.Fatalf("before the leak: %v", err)
	}
	cfg := loopback(p.caFile)
	cfg.DeniedKeys = []string{key}
	client := newClient(t, cfg)
	for name, db := range map[string]*table{"known before": db, "served": newTable()} {
		if err := verify(t, remote.NewRing(client, db, nil), p.name, message); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
	if _, _, err := client.ServerKeys(t.Context(), p.name, time.Now()); err == nil {
		t.Error("as a notary: got no error, want one")
	}
}

// TestRefusedAddresses: no connection is opened to an address that is no public one, however it is written.
func TestRefusedAddresses(t *testing.T) {
	hosts := map[string]string{}
	for _, addr := range []string{
		"127.0.0.1:8448", "127.1.2.3:8448", "[::1]:8448", "[::ffff:127.0.0.1]:8448", "0.0.0.0:8448", "[::]:8448",
		"10.0.0.1:8448", "172.16.0.1:8448", "192.168.1.1:8448", "169.254.169.254:80", "100.64.0.1:8448",
		"[fe80::1]:8448", "[fc00::1]:8448", "[64:ff9b::7f00:1]:8448", "224.0.0.1:8448", "255.255.255.255:8448", "localhost:8448",
	} {
		hosts["s"+strings.NewReplacer(":", "-", "[", "", "]", "").Replace(addr)+".example"] = addr
	}
	cfg := remote.DefaultConfig()
	cfg.Hosts = hosts
	client := newClient(t, cfg)
	for name, addr := range hosts {
		err := client.Ask(t.Context(), remote.Request{Server: name, Method: http.MethodGet, Path: []string{"v1", "version"}}, nil)
		if !errors.Is(err, remote.ErrRefusedAddress) {
			t.Errorf("%s: got %v, want %v", addr, err, remote.ErrRefusedAddress)
		}
	}
	for _, literal := range []string{"127.0.0.1", "[::1]:8448", "10.0.0.1", "169.254.169.254:80"} {
		err := client.Ask(t.Context(), remote.Request{Server: literal, Method: http.MethodGet, Path: []string{"v1", "version"}}, nil)
		if !errors.Is(err, remote.ErrRefusedAddress) {
			t.Errorf("as a name, %s: got %v, want %v", literal, err, remote.ErrRefusedAddress)
		}
	}
	if _, err := client.Fetch(t.Context(), "https://127.0.0.1:1/x"); !errors.Is(err, remote.ErrRefusedAddress) {
		t.Errorf("a file: got %v, want %v", err, remote.ErrRefusedAddress)
	}
	if _, err := client.Fetch(t.Context(), "http://example.org/x"); err == nil {
		t.Error("a file over http: got no error, want one")
	}
}

// TestRedirectsAreNotFollowed: a question that is answered with a redirect is refused; nobody else sees it.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	var p *peer
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/elsewhere"):
			elsewhere.Add(1)
		case strings.HasSuffix(r.URL.Path, "/absolute"):
			http.Redirect(w, r, p.URL+"/_matrix/federation/v1/elsewhere", http.StatusTemporaryRedirect)
		default:
			http.Redirect(w, r, "/_matrix/federation/v1/elsewhere", http.StatusPermanentRedirect)
		}
	}))
	client := newClient(t, loopback(p.caFile))
	for _, path := range []string{"absolute", "relative"} {
		err := client.Ask(t.Context(), remote.Request{Server: p.name, Method: http.MethodGet, Path: []string{"v1", path}}, nil)
		if said, ok := remote.Refused(err); !ok || said.StatusCode/100 != 3 {
			t.Errorf("%s: got %v, want the redirect as a refusal", path, err)
		}
		if resp, err := client.Open(t.Context(), remote.Request{Server: p.name, Method: http.MethodGet, Path: []string{"v1", path}}); err == nil {
			resp.Body.Close()
			t.Errorf("%s, opened: got no error, want one", path)
		}
	}
	if got := elsewhere.Load(); got != 0 {
		t.Errorf("%d redirects were followed, want none", got)
	}
}

// TestRedirectsOfFiles: where a file is may be redirected, on https, and five times at most.
func TestRedirectsOfFiles(t *testing.T) {
	var p *peer
	var hops atomic.Int32
	p = newPeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hops.Add(1)
		switch r.URL.Path {
		case "/once":
			http.Redirect(w, r, "/file", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/http":
			http.Redirect(w, r, "http://"+p.name+"/file", http.StatusFound)
		}
	}))
	client := newClient(t, loopback(p.caFile))
	for path, good := range map[string]bool{"/once": true, "/loop": false, "/http": false} {
		hops.Store(0)
		resp, err := client.Fetch(t.Context(), p.URL+path)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != good {
			t.Errorf("%s: got %v, want good %v", path, err, good)
		}
		if got := hops.Load(); got > 5 {
			t.Errorf("%s: %d hops", path, got)
		}
	}
}

// TestOldTLS: a server that speaks nothing newer than TLS 1.1 is not spoken with.
func TestOldTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	server.StartTLS()
	t.Cleanup(server.Close)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(server.URL, "https://")
	err := newClient(t, loopback(caFile)).Ask(t.Context(), remote.Request{Server: name, Method: http.MethodGet, Path: []string{"v1", "version"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("got %v, want a refusal for the protocol's version", err)
	}
}
