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

// TestBrowser lets the unmodified livekit-client in headless Chromium call through the focus. SCENARIOS names words of those
// to run; none: all.
func TestBrowser(t *testing.T) {
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
	f, url := newTestFocus(t)
	stage := newStage(t, f, url)
	cmd := exec.CommandContext(t.Context(), node, append([]string{"run.mjs"}, strings.Fields(os.Getenv("SCENARIOS"))...)...)
	cmd.Dir = "browser"
	cmd.Env = append(os.Environ(), "FOCUS_URL="+url, "FOCUS_KEY="+testKey, "FOCUS_SECRET="+testSecret, "STAGE_URL="+stage.server.URL)
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
			OK         bool
			MS         int
		}
		if err := json.Unmarshal(lines.Bytes(), &verdict); err != nil {
			t.Errorf("run.mjs said %q", lines.Text())
			continue
		}
		ran++
		t.Run(verdict.Name, func(t *testing.T) {
			if t.Logf("%s (%d ms)", verdict.Note, verdict.MS); !verdict.OK {
				t.Fail()
			}
		})
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("run.mjs: %v", err)
	}
	if ran < 30 && os.Getenv("SCENARIOS") == "" {
		t.Errorf("got %d scenarios, want at least 30", ran)
	}
}

func anyInPath(names ...string) bool {
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			return true
		}
	}
	return false
}
