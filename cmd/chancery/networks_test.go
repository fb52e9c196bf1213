package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// callBrowsers runs a scenario of calls/browser/networks.mjs.
func callBrowsers(t *testing.T, scenario string, facts map[string]any, chromeArgs ...string) {
	t.Helper()
	needBrowser(t, false)
	folder := filepath.Join("..", "..", "calls", "browser")
	if _, err := os.Stat(filepath.Join(folder, "node_modules", "livekit-client")); err != nil {
		t.Skip("calls/browser has no node_modules; `make prepare` installs them")
	}
	text, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "networks.mjs", scenario, string(text))
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CHROME_ARGS="+strings.Join(chromeArgs, "\n"))
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s", strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("browser %s: %v", scenario, err)
	}
}

// TestBrowserThroughPort443: two people whose network lets out nothing but one TLS port, by names and a test authority. The
// signalling and TURN are there; the media travel through TURN over TLS alone.
func TestBrowserThroughPort443(t *testing.T) {
	needBrowser(t, false)
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	ca, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if config.Listen.Certificate, config.Listen.Key, err = ca.issue("matrix.interior.test", "turn.interior.test"); err != nil {
		t.Fatal(err)
	}
	config.Listen.Federation = ""
	config.Listen.Secure = loopback("tcp", 0)
	_, port, err := net.SplitHostPort(config.Listen.Secure)
	if err != nil {
		t.Fatal(err)
	}
	config.Client.PublicURL = "https://matrix.interior.test:" + port
	config.Calls.TURN.Host = "turn.interior.test"
	house := &testHouse{t: t, config: config, url: "http://" + config.Listen.Client}
	house.open()
	t.Cleanup(house.close)
	anna, ben := house.person("anna"), house.person("ben")
	room := openRoom(t, anna, ben)
	url, annas := callTokenAt(t, anna, house.url+"/calls", room)
	_, bens := callTokenAt(t, ben, house.url+"/calls", room)
	if want := "wss://matrix.interior.test:" + port + "/calls"; url != want {
		t.Errorf("the call is at %s, want %s", url, want)
	}
	callBrowsers(t, "tlsAlone", map[string]any{"url": url, "tokens": map[string]string{"anna": annas, "ben": bens}},
		"--host-resolver-rules=MAP *.interior.test 127.0.0.1", "--ignore-certificate-errors-spki-list="+keyHash(t, config.Listen.Certificate))
}

// keyHash names the public key of a certificate, as Chromium's flag wants it.
func keyHash(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate in " + file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// openRoom makes a room with somebody else in it.
func openRoom(t *testing.T, maker, other *mautrix.Client) id.RoomID {
	t.Helper()
	room := must(maker.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(other.JoinRoomByID(t.Context(), room))(t, "join room")
	return room
}

// TestBrowserSeveralFoci kills the process on which a call lives, under two browsers.
func TestBrowserSeveralFoci(t *testing.T) {
	needBrowser(t, false)
	h := openFoci(t, 2)
	anna, ben := signIn(t, h.config.Client.PublicURL, "anna"), signIn(t, h.config.Client.PublicURL, "ben")
	controls := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { h.foci[h.home()].kill() }))
	defer controls.Close()
	room := openRoom(t, anna, ben)
	callBrowsers(t, "homeKilled", map[string]any{
		"url":    "ws" + strings.TrimPrefix(h.config.Calls.URL, "http"),
		"tokens": map[string]string{"anna": h.token(anna, room), "ben": h.token(ben, room)}, "controls": controls.URL,
	})
}
