package calls

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	testKey    = "devkey"
	testSecret = "a secret for tests, long enough for signing"
)

// testConfig is that of a focus alone on free loopback ports.
func testConfig() Config {
	config := DefaultConfig()
	config.Path, config.Standalone, config.Key, config.Secret = "", true, testKey, testSecret
	config.UDPPort, config.TCPPort, config.Loopback, config.Listen = 0, 0, true, []string{"127.0.0.1"}
	config.TURN.UDPPort, config.TURN.TCPPort = 0, 0
	return config
}

// newTestFocus starts a focus alone and gives the address of its signalling.
func newTestFocus(t testing.TB, change ...func(*Config)) (f *Focus, url string) {
	t.Helper()
	config := testConfig()
	for _, c := range change {
		c(&config)
	}
	ctx := t.Context()
	f, err := NewStandalone(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "focus:", err)
		}
	}()
	srv := httptest.NewServer(f.Handler())
	t.Cleanup(func() {
		srv.Close()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the focus did not end")
		}
	})
	return f, "ws" + strings.TrimPrefix(srv.URL, "http")
}

// scenarios is how many there are in browser/scenarios, at least: one that is not found is missed.
const scenarios = 118

// TestBrowser lets the unmodified livekit-client in headless Chromium call through the focus. SCENARIOS names words of those
// to run; none: all; YARDSTICKS those that measure something. REPEAT plays each so often, and FIGURES is a file to which what they measure is appended, a line of JSON
// for each figure; browser/table.mjs makes a table of such files.
//
// SFU_URL, SFU_KEY and SFU_SECRET name another server that speaks the protocol: then the scenarios that measure something are
// played on that, without judging it. SFU_MEDIA is its one UDP port on the loopback, for the ways that can be made worse, and
// SFU_CMD the command that starts it, for those in which it is killed.
func TestBrowser(t *testing.T) {
	node := browsers(t)
	stage, key, secret := newOtherStage(t), os.Getenv("SFU_KEY"), os.Getenv("SFU_SECRET")
	if stage == nil {
		stage, key, secret = newOwnStage(t), testKey, testSecret
	}
	cmd := stage.drive(node, key, secret, append([]string{"run.mjs"}, strings.Fields(os.Getenv("SCENARIOS"))...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var verdict struct {
			Name, Note string
			OK, Out    bool
			MS         int
			Figures    []figure
		}
		if err := json.Unmarshal(lines.Bytes(), &verdict); err != nil {
			t.Errorf("run.mjs said %q", lines.Text())
			continue
		}
		ran++
		t.Run(verdict.Name, func(t *testing.T) {
			if verdict.Out {
				t.Skip(verdict.Note)
			}
			for _, f := range verdict.Figures {
				t.Logf("%s: %.4g %s", f.Name, f.Value, f.Unit)
			}
			if t.Logf("%s (%d ms)", verdict.Note, verdict.MS); !verdict.OK {
				t.Fail()
			}
		})
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("run.mjs: %v", err)
	}
	if ran < scenarios && !stage.other && os.Getenv("SCENARIOS")+os.Getenv("YARDSTICKS") == "" {
		t.Errorf("got %d scenarios, want at least %d", ran, scenarios)
	}
}

// figure is what a scenario has measured.
type figure struct {
	Name, Unit string
	Value      float64
}

func anyInPath(names ...string) bool {
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			return true
		}
	}
	return false
}

// browsers gives the path of node, and leaves the test out where browsers cannot be driven.
func browsers(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("browsers are not short")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the browsers' tests are left out")
	}
	if !anyInPath("chromium", "chromium-browser", "google-chrome") && os.Getenv("CHROMIUM") == "" {
		t.Skip("Chromium is not installed: the browsers' tests are left out")
	}
	if _, err := os.Stat(filepath.Join("browser", "node_modules", "livekit-client")); err != nil {
		npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
		npm.Dir = "browser"
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("npm ci in calls/browser: %v\n%s", err, out)
		}
	}
	return node
}
