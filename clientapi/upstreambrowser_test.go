package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"chancery/clientapi/account"
)

// clientPage is a client that knows nothing but how to sign in with an identity provider.
const clientPage = `<!doctype html><meta charset="utf-8"><title>A client</title>
<p id="choices"></p><p id="user"></p><p id="came"></p>
<script type="module">
const server = %q;
const token = new URLSearchParams(location.search).get("loginToken");
if (token) {
  document.getElementById("came").textContent = token;
  const answer = await fetch(server + "/_matrix/client/v3/login", { method: "POST", body: JSON.stringify({ type: "m.login.token", token }) });
  const session = await answer.json();
  document.getElementById("user").textContent = session.user_id || session.error;
} else {
  const { flows } = await (await fetch(server + "/_matrix/client/v3/login")).json();
  for (const one of flows.find((flow) => flow.type === "m.login.sso").identity_providers) {
    const button = document.createElement("button");
    button.textContent = "Continue with " + one.name;
    button.onclick = () => { location = server + "/_matrix/client/v3/login/sso/redirect/" + one.id + "?redirectUrl=" + encodeURIComponent(location.href); };
    document.getElementById("choices").append(button);
  }
}
</script>`

// TestBrowserSignIn signs in and out with a real provider in a real browser. CHANCERY_PICTURE names a file for a picture of
// the page that asks (docs/signin.png).
func TestBrowserSignIn(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	if _, err := exec.LookPath("chromium"); err != nil && os.Getenv("CHROMIUM") == "" {
		t.Skip("chromium is not here; `make prepare` installs it")
	}
	e := signInElsewhere(t, nil)
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, clientPage, e.url)
	}))
	t.Cleanup(client.Close)
	// Under another name than the server's, so that the client is another site to the browser.
	at := strings.Replace(client.URL, "127.0.0.1", "element.example", 1) + "/"
	facts, err := json.Marshal(map[string]string{"client": at, "leave": e.url + account.LeavePath, "picture": os.Getenv("CHANCERY_PICTURE")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", providerFolder+"/browser.mjs", string(facts))
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("browser:\n%s", strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("browser: %v", err)
	}
}
