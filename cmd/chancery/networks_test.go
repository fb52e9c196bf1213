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
// signalling and TURN are there, told apart by the name asked for or, where both have one name, by how a connection begins; the
// media travel through TURN over TLS alone.
func TestBrowserThroughPort443(t *testing.T) {
	for _, turn := range []string{"turn.interior.test", "matrix.interior.test"} {
		t.Run(turn, func(t *testing.T) {
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
			config.Calls.TURN.Host = turn
			house := &testHouse{t: t, config: config, url: "http://" + config.Listen.Client}
			house.open()
			t.Cleanup(house.close)
			call := callOfTwo(t, house)
			if want := "wss://matrix.interior.test:" + port + "/calls"; call["url"] != want {
				t.Errorf("the call is at %s, want %s", call["url"], want)
			}
			callBrowsers(t, "tlsAlone", call,
				"--host-resolver-rules=MAP *.interior.test 127.0.0.1", "--ignore-certificate-errors-spki-list="+keyHash(t, config.Listen.Certificate))
		})
	}
}

// callOfTwo lets anna, who made the room, and ben have tokens for its call: facts for callBrowsers.
func callOfTwo(t *testing.T, house *testHouse) map[string]any {
	t.Helper()
	anna, ben := house.person("anna"), house.person("ben")
	room := openRoom(t, anna, ben)
	url, annas := callTokenAt(t, anna, house.focus(), room)
	_, bens := callTokenAt(t, ben, house.focus(), room)
	controls := http.NewServeMux()
	for name, settings := range map[string]map[string]any{
		"mute": {"muted": []id.UserID{anna.UserID}}, "unmute": {}, "close": {"view_only": true}, "open": {},
	} {
		controls.HandleFunc("POST /"+name, func(http.ResponseWriter, *http.Request) { house.settings(anna, room, settings) })
	}
	server := httptest.NewServer(controls)
	t.Cleanup(server.Close)
	return map[string]any{"url": url, "tokens": map[string]string{"anna": annas, "ben": bens}, "controls": server.URL}
}

// TestBrowserObeysTheRoom: what a room says of its call while two browsers are in it is done, and their clients show it.
func TestBrowserObeysTheRoom(t *testing.T) {
	for _, scenario := range []string{"mutedByTheRoom", "viewOnly"} {
		t.Run(scenario, func(t *testing.T) {
			needBrowser(t, false)
			house := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
			callBrowsers(t, scenario, callOfTwo(t, house))
		})
	}
}

// TestBrowserIPv6: the focus has an IPv6 address and no other.
func TestBrowserIPv6(t *testing.T) {
	needBrowser(t, false)
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	probe.Close()
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Calls.Listen = []string{"::1"}
	house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	house.open()
	t.Cleanup(house.close)
	call := callOfTwo(t, house)
	call["address"] = "::1"
	// Chromium otherwise has no address that reaches ::1 where the machine has no other IPv6 address.
	callBrowsers(t, "sixAlone", call, "--allow-loopback-in-peer-connection")
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
