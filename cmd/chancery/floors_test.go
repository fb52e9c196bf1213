package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "chancery"

// packageFacts is what `go list` says of one package of ours.
type packageFacts struct {
	Dir        string
	ImportPath string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
}

// ownPackages lists every package of the module under the tags we build with.
func ownPackages(t *testing.T) []packageFacts {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "goolm,sqlite_fts5", "-json=Dir,ImportPath,GoFiles,CgoFiles,Imports", "./...")
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []packageFacts
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var facts packageFacts
		if err := decoder.Decode(&facts); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list's answer: %v", err)
		}
		packages = append(packages, facts)
	}
	if len(packages) == 0 {
		t.Fatal("go list named no package")
	}
	return packages
}

// The words of the floors' table (docs/architecture.md, section 3).
var (
	pureRooms = []string{"roomserver/pdu", "roomserver/auth", "roomserver/policy"}
	memory    = []string{"storage", "storage/bus"}
	floor3    = slices.Concat(memory, pureRooms)
	floor4    = slices.Concat(floor3, []string{"storage/blobs", "roomserver/view"})

	clientChapters = []string{
		"clientapi/account", "clientapi/rooms", "clientapi/syncing", "clientapi/keys", "clientapi/media",
		"clientapi/push", "clientapi/appservice", "clientapi/admin", "clientapi/oauth",
	}
	clientGround     = []string{"clientapi/rest", "clientapi/mail", "clientapi/upstream", "clientapi/push/rules"}
	federationRoads  = []string{"federation/receiver", "federation/sender", "federation/membership"}
	federationGround = []string{"federation/remote"}
)

// mayImport holds, for every package of the house, which packages of the house it may import.
// A package that is missing here has no floor yet: give it one in docs/architecture.md first.
func mayImport() map[string][]string {
	table := map[string][]string{
		// Floor 6: the assembly.
		"cmd/chancery": slices.Concat(floor4, []string{"clientapi", "federation", "roomserver", "calls"}),

		// Floor 5: the doors' fronts.
		"clientapi":  slices.Concat(floor4, clientGround, clientChapters),
		"federation": slices.Concat(floor4, federationGround, federationRoads),

		// Floor 4: the room server; the chapters and roads are added below.
		"roomserver": slices.Concat(floor4, []string{"roomserver/state"}),

		// Floor 3.
		"roomserver/state": floor3,
		"roomserver/view":  floor3,
		"calls":            slices.Concat(floor3, []string{"calls/sfu", "calls/packet", "calls/signal", "calls/turn"}),

		// Floor 2.
		"storage":   {"storage/schema", "storage/bus"},
		"calls/sfu": {"calls/packet"},

		// Floor 1: libraries only.
		"storage/schema":    nil,
		"storage/bus":       nil,
		"storage/blobs":     nil,
		"storage/testdb":    nil,
		"roomserver/pdu":    nil,
		"roomserver/auth":   {"roomserver/pdu"},
		"roomserver/policy": nil,
		"calls/packet":      nil,
		"calls/signal":      nil,
		"calls/turn":        nil,
	}
	for _, chapter := range clientChapters {
		table[chapter] = slices.Concat(floor4, clientGround)
	}
	for _, road := range federationRoads {
		table[road] = slices.Concat(floor4, federationGround)
	}
	for _, ground := range slices.Concat(clientGround, federationGround) {
		table[ground] = floor3
	}
	return table
}

// libraryHomes names the only packages that may import a library. A home that ends in "/..." covers its folder.
var libraryHomes = []struct {
	library string
	homes   []string
}{
	{"github.com/nats-io", []string{"storage/bus"}},
	{"github.com/mattn/go-sqlite3", []string{"storage"}},
	{"github.com/jackc/pgx", []string{"storage"}},
	{"github.com/pion", []string{"calls/..."}},
	{"google.golang.org/protobuf", []string{"calls/signal"}},
	{"github.com/livekit", nil},
	{"github.com/coreos/go-oidc", []string{"clientapi/upstream"}},
	{"golang.org/x/oauth2", []string{"clientapi/upstream"}},
	{"maunium.net/go/mautrix/federation", []string{"federation/remote"}},
	{"github.com/matrix-org/gomatrixserverlib/fclient", []string{"federation"}},
}

// TestFloors holds the table "who may import whom" of docs/architecture.md.
func TestFloors(t *testing.T) {
	table := mayImport()
	for _, facts := range ownPackages(t) {
		name := strings.TrimPrefix(facts.ImportPath, module+"/")
		allowed, known := table[name]
		if !known {
			t.Errorf("package %s has no floor in docs/architecture.md, section 3", name)
			continue
		}
		for _, imported := range facts.Imports {
			if own, ok := strings.CutPrefix(imported, module+"/"); ok {
				if !slices.Contains(allowed, own) {
					t.Errorf("%s imports %s; it may import %v", name, own, allowed)
				}
				continue
			}
			for _, rule := range libraryHomes {
				if within(imported, rule.library) && !slices.ContainsFunc(rule.homes, func(home string) bool { return covers(home, name) }) {
					t.Errorf("%s imports %s, whose home is %v", name, imported, rule.homes)
				}
			}
		}
	}
}

// TestFloorsHaveNoCircle proves that the table itself points downward only, whatever the code does.
func TestFloorsHaveNoCircle(t *testing.T) {
	table := mayImport()
	var walk func(name string, road []string)
	walk = func(name string, road []string) {
		if slices.Contains(road, name) {
			t.Fatalf("circle in the table: %v", append(road, name))
		}
		for _, next := range table[name] {
			if _, known := table[next]; !known {
				t.Fatalf("%s may import %s, which has no floor", name, next)
			}
			walk(next, append(slices.Clone(road), name))
		}
	}
	for name := range table {
		walk(name, nil)
	}
}

// TestFaces asks every package for a doc comment of at least two lines.
func TestFaces(t *testing.T) {
	for _, facts := range ownPackages(t) {
		best := 0
		for _, file := range slices.Concat(facts.GoFiles, facts.CgoFiles) {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(facts.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatalf("%s: %v", facts.ImportPath, err)
			}
			best = max(best, docLines(parsed.Doc))
		}
		if best < 2 {
			t.Errorf("package %s opens with a doc comment of %d lines, want at least 2", facts.ImportPath, best)
		}
	}
}

// docLines counts the lines of a doc comment.
func docLines(doc *ast.CommentGroup) int {
	if doc == nil || strings.TrimSpace(doc.Text()) == "" {
		return 0
	}
	return len(strings.Split(strings.TrimSpace(doc.Text()), "\n"))
}

// within says whether an import path is a library or lies inside it.
func within(path, library string) bool {
	return path == library || strings.HasPrefix(path, library+"/")
}

// covers says whether a home of libraryHomes holds the package.
func covers(home, name string) bool {
	if folder, ok := strings.CutSuffix(home, "/..."); ok {
		return within(name, folder)
	}
	return home == name
}
