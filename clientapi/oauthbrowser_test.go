package clientapi

import (
	"context"
	"encoding/json"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"chancery/clientapi/upstream"
)

// TestBrowserOAuth lets matrix-js-sdk in a real browser register itself and people sign in on the pages, with the device grant, the
// meeting places and a real identity provider; and tries what has to be refused. CHANCERY_PICTURES names a folder for
// pictures of the pages.
func TestBrowserOAuth(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	for _, program := range []string{"node", "chromium"} {
		if _, err := exec.LookPath(program); err != nil && (program == "node" || os.Getenv("CHROMIUM") == "") {
			t.Skip(program + " is not here; `make prepare` installs it")
		}
	}
	if _, err := os.Stat("oauth/browser/node_modules/playwright-core"); err != nil {
		t.Skip("clientapi/oauth/browser has no node_modules; `make prepare` installs them")
	}
	web := httptest.NewUnstartedServer(nil)
	t.Cleanup(web.Close)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	provider := "http://" + free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := oauthConfig()
	cfg.PublicURL = "http://" + web.Listener.Addr().String()
	cfg.Outbound.AllowedNetworks = []string{"127.0.0.0/8"}
	cfg.Upstream.Providers = []upstream.ProviderConfig{{
		ID: "ministry", Name: "Ministry of the Interior", Issuer: provider, ClientID: "chancery", ClientSecret: "the secret of the house", Registration: true,
	}}
	s := start(t, cfg)
	s.register("alice")
	web.Config.Handler = s.api
	web.Start()
	facts, err := json.Marshal(map[string]any{"url": cfg.PublicURL, "provider": port, "pictures": os.Getenv("CHANCERY_PICTURES")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "oauth/browser/run.mjs", string(facts))
	cmd.WaitDelay = 5 * time.Second // chromium ends when node closes it; after a kill, waiting for its output must have an end too
	out, err := cmd.CombinedOutput()
	t.Logf("browser:\n%s", strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
}
