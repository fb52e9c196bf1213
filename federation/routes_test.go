package federation

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// elsewhere are the server-server endpoints that are not this door's to serve, and why.
var elsewhere = map[string]string{
	"GET /.well-known/matrix/server": "the client door serves .well-known",
	"POST /_matrix/policy/v1/sign":   "this server is no policy server: it asks one",
}

// TestEveryEndpointIsRouted walks the specification's server-server endpoints and looks for each in the route table.
func TestEveryEndpointIsRouted(t *testing.T) {
	variable := regexp.MustCompile(`\{[^}]*\}`)
	routed := map[string]bool{}
	for _, r := range (&Federation{}).routes() {
		routed[variable.ReplaceAllString(r.method+" "+r.path, "{}")] = true
	}
	raw, err := os.ReadFile("../clientapi/testdata/endpoints.tsv")
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n")[1:] {
		f := strings.Split(line, "\t")
		if f[0] != "server-server" {
			continue
		}
		listed++
		at := f[1] + " " + f[2]
		if !routed[variable.ReplaceAllString(at, "{}")] && elsewhere[at] == "" {
			t.Errorf("%s (tier %s) is not in the route table", at, f[8])
		}
	}
	if listed < 30 {
		t.Errorf("the list names %d server-server endpoints, want all", listed)
	}
}
