package clientapi

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var updateDocs = flag.Bool("update", false, "write the table of what is not served into docs/conformance.md anew")

// unserved is an endpoint of the specification that this server does not have, and why.
type unserved struct{ method, path, reason string }

const (
	ancient = "Deprecated since before Matrix 1.1, in favour of /sync, /messages and /context; no client in use asks for it."
)

// notServed is repeated in docs/conformance.md. It may name endpoints of tier 3 alone.
var notServed = []unserved{
	{"GET", "/_matrix/client/v3/events", ancient},
	{"GET", "/_matrix/client/v3/events/{eventId}", ancient},
	{"GET", "/_matrix/client/v3/initialSync", ancient},
	{"GET", "/_matrix/client/v3/rooms/{roomId}/initialSync", ancient},
}

// pending are endpoints that have yet to be built, whatever their tier. They stand in docs/conformance.md too.
var pending = []unserved{}

// TestEveryEndpointIsRouted walks the specification's endpoints, as testdata/endpoints.tsv lists them, and looks for each
// in the route table. Those of tier 1 and 2 have to be there, those of tier 3 too unless notServed says why not.
func TestEveryEndpointIsRouted(t *testing.T) {
	s, err := newForTest(t)
	if err != nil {
		t.Fatal(err)
	}
	routed := map[string]bool{}
	for _, r := range s.routes() {
		routed[shape(r.Method, r.Path)] = true
	}
	excused := map[string]string{}
	for _, u := range notServed {
		excused[shape(u.method, u.path)] = u.reason
	}
	awaited := map[string]bool{}
	for _, u := range pending {
		awaited[shape(u.method, u.path)] = true
	}
	listed, raw := map[string]bool{}, readFile(t, "testdata/endpoints.tsv")
	for _, line := range strings.Split(strings.TrimSpace(raw), "\n")[1:] {
		f := strings.Split(line, "\t")
		if f[0] != "client-server" {
			continue
		}
		method, path, tier := f[1], f[2], f[8]
		at := shape(method, path)
		listed[at] = true
		switch {
		case routed[at] && excused[at] != "":
			t.Errorf("%s %s is served, and said not to be", method, path)
		case routed[at] && awaited[at]:
			t.Errorf("%s %s is served, and said to be pending", method, path)
		case routed[at] || awaited[at]:
		case excused[at] == "":
			t.Errorf("%s %s (tier %s) is not in the route table", method, path, tier)
		case tier != "3":
			t.Errorf("%s %s is of tier %s: there is no excuse for its absence", method, path, tier)
		}
	}
	if len(listed) < 150 {
		t.Errorf("testdata lists %d endpoints, want all", len(listed))
	}
	for at := range excused {
		if !listed[at] {
			t.Errorf("%s is no endpoint of the specification", at)
		}
	}
	checkConformance(t)
}

var variable = regexp.MustCompile(`\{[^}]*\}`)

// shape is a method and a path without the names of its variables.
func shape(method, path string) string {
	return method + " " + variable.ReplaceAllString(strings.TrimSuffix(path, "{$}"), "{}")
}

const conformance = "../docs/conformance.md"

// checkConformance compares docs/conformance.md with notServed.
func checkConformance(t *testing.T) {
	t.Helper()
	const begin, end = "<!-- endpoints that are not served: made by the test of the route table -->\n", "<!-- end -->\n"
	text := readFile(t, conformance)
	before, rest, ok := strings.Cut(text, begin)
	is, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", conformance)
	}
	var want strings.Builder
	want.WriteString("| endpoint | why it is not served |\n|---|---|\n")
	for _, u := range slices.Concat(notServed, pending) {
		fmt.Fprintf(&want, "| `%s %s` | %s |\n", u.method, u.path, u.reason)
	}
	if is == want.String() {
		return
	}
	if !*updateDocs {
		t.Errorf("%s tells otherwise of what is not served; -update writes it anew", conformance)
		return
	}
	if err := os.WriteFile(conformance, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
