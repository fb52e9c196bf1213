package main

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var updateSample = flag.Bool("update", false, "write config.sample.yaml anew from the Config structs")

const samplePath = "../../config.sample.yaml"

const sampleHead = `# Chancery's configuration, every key with its default. A file needs only server_name and what it changes:
# what is left out has the value shown here, and a key that is not listed here is an error.
#
# Any value can come from elsewhere:  key: !file /run/secrets/name  is the content of that file,
# key: !env NAME  the value of that environment variable.
#
# Times are written as 300ms, 30s, 15m, 24h.
`

// TestSample reads the sample strictly and finds the defaults in it, and finds the sample to be what the Config
// structs say: every key, its default, and the comment on its field. -update writes it anew.
func TestSample(t *testing.T) {
	want := DefaultConfig()
	want.ServerName = "example.org"

	var generated strings.Builder
	generated.WriteString(sampleHead)
	describe(t, &generated, reflect.ValueOf(want), "")
	if *updateSample {
		if err := os.WriteFile(samplePath, []byte(generated.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	raw, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := decodeConfig(raw, &got); err != nil {
		t.Fatalf("config.sample.yaml: %v", err)
	}
	gotText, gotErr := yaml.Marshal(got)
	wantText, wantErr := yaml.Marshal(want)
	if err := errors.Join(gotErr, wantErr); err != nil {
		t.Fatal(err)
	}
	if string(gotText) != string(wantText) {
		t.Errorf("config.sample.yaml differs from the defaults:\n%s", differingLines(string(gotText), string(wantText)))
	}
	if string(raw) != generated.String() {
		t.Errorf("config.sample.yaml is not what the Config structs say; run go test ./cmd/chancery -run TestSample -update, and look at what changed:\n%s",
			differingLines(string(raw), generated.String()))
	}
}

// TestConfigRefuses holds what a wrong file is told.
func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"unknown key", "server_name: a.example\nlisten: {clients: ':1'}", "line 2: there is no key clients here"},
		{"unknown top key", "server_name: a.example\nserver: x", "there is no key server here"},
		{"no name", "data: x", "server_name is missing"},
		{"wrong kind", "server_name: a.example\nlisten: 7", "cannot unmarshal"},
		{"no such file", "server_name: !file /nowhere/at/all", "/nowhere/at/all"},
		{"no such variable", "server_name: !env CHANCERY_NOT_SET", "CHANCERY_NOT_SET"},
		{"half a pair", "server_name: a.example\nlisten: {certificate: x}", "belong together"},
		{"two things wrong", "server_name: a.example\nlisten: {clients: ':1'}\nlog: {formats: xml}", "clients here; line 3: there is no key formats"},
		{"lines that moved", "\n\nserver_name: !env HOME\nlisten: {clients: ':1'}", "chancery.yaml: there is no key clients here"},
		{"no HTTP", "server_name: a.example\ncalls: {url: a.example/calls}", "https://host/calls"},
		{"another path", "server_name: a.example\ncalls: {url: 'https://a.example/media'}", "https://host/calls"},
		{"no such port", "server_name: a.example\ncalls: {udp_port: 70000}", "calls.udp_port must not be above 65535"},
		{"no UDP", "server_name: a.example\ncalls: {udp_port: -1}", "calls.udp_port must not be below 0"},
		{"relays' end alone", "server_name: a.example\ncalls: {turn: {max_port: 50999}}", "between min_port 0 and max_port 50999"},
		{"relays upside down", "server_name: a.example\ncalls: {turn: {min_port: 50999, max_port: 50000}}", "between min_port 50999"},
		{"no relays", "server_name: a.example\ncalls: {turn: {max_total_mbps: 0}}", "calls.turn.max_total_mbps must not be below 1"},
		{"records of tomorrow", "server_name: a.example\ncalls: {keep_records: -1h}", "calls.keep_records must not be below 0"},
		{"fewer than nobody", "server_name: a.example\ncalls: {max_guests: -1}", "calls.max_guests must not be below 0"},
		{"no ICE server", "server_name: a.example\ncalls: {ice_servers: [{urls: ['turn.a.example']}]}", "turns:host:port"},
		{"an ICE server without a password", "server_name: a.example\ncalls: {ice_servers: [{urls: ['turn:a.example'], username: x}]}", "needs a secret"},
		{"a server's address", "server_name: a.example\ncalls: {restricted_servers: ['https://b.example']}", "restricted_servers: \"https://b.example\" is no server name"},
		{"half a service", "server_name: a.example\ncalls: {service_key: tools}", "needs calls.service_secret"},
		{"a webhook nowhere", "server_name: a.example\ncalls: {webhook: 'http://'}", "no http address"},
		{"log format", "server_name: a.example\nlog: {format: xml}", "neither json nor text"},
	} {
		path := filepath.Join(t.TempDir(), "chancery.yaml")
		if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readConfig(path)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one that holds %q", c.name, err, c.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got more than a line: %v", c.name, err)
		}
	}
}

// TestConfigSecrets reads values from a file and from the environment.
func TestConfigSecrets(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte("open: sesame # 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CHANCERY_TEST_NAME", "a.example")
	var got Config
	if err := decodeConfig([]byte("server_name: !env CHANCERY_TEST_NAME\nbus:\n  password: !file "+secret+"\n"), &got); err != nil {
		t.Fatal(err)
	}
	if got.ServerName != "a.example" || got.Bus.Password != "open: sesame # 1" {
		t.Errorf("got server name %q and password %q, want a.example and the file's line", got.ServerName, got.Bus.Password)
	}
}

// describe writes a struct as commented YAML.
func describe(t *testing.T, w *strings.Builder, value reflect.Value, indent string) {
	t.Helper()
	comments := fieldComments(t, value.Type())
	for i := range value.NumField() {
		field := value.Type().Field(i)
		key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if !field.IsExported() || key == "-" {
			continue
		}
		if options == "inline" {
			describe(t, w, value.Field(i), indent)
			continue
		}
		if key == "" {
			t.Errorf("%s.%s has no yaml tag", value.Type(), field.Name)
			continue
		}
		section := field.Type.Kind() == reflect.Struct
		comment, covered := comments[field.Name], false
		if covered = comment == above; covered {
			comment = ""
		}
		if section && comment == "" {
			comment = typeComment(t, field.Type)
		}
		if comment == "" && !section && !covered {
			t.Errorf("%s.%s has no comment: config.sample.yaml is made of them", value.Type(), field.Name)
		}
		if indent == "" || section {
			w.WriteString("\n")
		}
		for line := range strings.SplitSeq(wrap(renamed(comment, value.Type()), 110-len(indent)), "\n") {
			if line != "" {
				w.WriteString(indent + "# " + line + "\n")
			}
		}
		if section {
			w.WriteString(indent + key + ":\n")
			describe(t, w, value.Field(i), indent+"  ")
			continue
		}
		var text strings.Builder
		encoder := yaml.NewEncoder(&text)
		encoder.SetIndent(2)
		if err := encoder.Encode(map[string]any{key: value.Field(i).Interface()}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(strings.TrimRight(text.String(), "\n"), "\n") {
			w.WriteString(indent + line + "\n")
		}
	}
}

// above stands for the comment of a field that the comment before it speaks of too.
const above = "see above"

// leadingNames are the names that a comment begins with: "A", "A and B", "A, B and C".
var leadingNames = regexp.MustCompile(`^[A-Z]\w*(, [A-Z]\w*)*( and [A-Z]\w*)?`)

// renamed makes a comment that begins with the fields' Go names speak of their keys.
func renamed(comment string, typ reflect.Type) string {
	return leadingNames.ReplaceAllStringFunc(comment, func(names string) string {
		return regexp.MustCompile(`[A-Z]\w*`).ReplaceAllStringFunc(names, func(name string) string {
			if field, ok := typ.FieldByName(name); ok {
				key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
				return key
			}
			return name
		})
	})
}

// wrap breaks a text into lines of at most width letters; an empty line stays one.
func wrap(text string, width int) string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

// sourceOf parses the folder of a package of ours, once.
func sourceOf(t *testing.T, path string) []*ast.File {
	t.Helper()
	if files, ok := parsed[path]; ok {
		return files
	}
	folder, ok := strings.CutPrefix(path, module+"/")
	if path == "main" || !ok {
		folder = "cmd/chancery"
	}
	names, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no source of %s: %v", path, err)
	}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed[path] = append(parsed[path], file)
	}
	return parsed[path]
}

var parsed = map[string][]*ast.File{}

// declaration finds where a named type of ours is declared.
func declaration(t *testing.T, typ reflect.Type) (*ast.TypeSpec, string) {
	t.Helper()
	for _, file := range sourceOf(t, typ.PkgPath()) {
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			for _, spec := range group.Specs {
				if named := spec.(*ast.TypeSpec); named.Name.Name == typ.Name() {
					doc := named.Doc
					if doc == nil {
						doc = group.Doc
					}
					return named, doc.Text()
				}
			}
		}
	}
	t.Fatalf("type %s is not declared in %s", typ, typ.PkgPath())
	return nil, ""
}

// typeComment is the comment above a type, for sections whose field says nothing.
func typeComment(t *testing.T, typ reflect.Type) string {
	t.Helper()
	if typ.Name() == "" {
		return ""
	}
	_, text := declaration(t, typ)
	rest := strings.TrimPrefix(strings.TrimSpace(text), typ.Name()+" ")
	for _, verb := range []string{"is ", "are ", "holds ", "says "} {
		if after, ok := strings.CutPrefix(rest, verb); ok {
			rest = after
			break
		}
	}
	if rest == "" {
		return ""
	}
	return strings.ToUpper(rest[:1]) + rest[1:]
}

// fieldComments reads the comments on a struct's fields; a comment above several fields counts for the first.
func fieldComments(t *testing.T, typ reflect.Type) map[string]string {
	t.Helper()
	spec, _ := declaration(t, typ)
	body, ok := spec.Type.(*ast.StructType)
	if !ok {
		t.Fatalf("%s is no struct", typ)
	}
	comments := map[string]string{}
	previous := ""
	for _, field := range body.Fields.List {
		text := strings.TrimSpace(field.Doc.Text())
		if text == "" {
			text = strings.TrimSpace(field.Comment.Text())
		}
		for _, name := range field.Names {
			comments[name.Name] = text
			if text == "" && strings.Contains(leadingNames.FindString(previous), name.Name) {
				comments[name.Name] = above
			}
		}
		if text != "" {
			previous = text
		}
	}
	return comments
}

// differingLines shows the lines that only one of two texts has.
func differingLines(got, want string) string {
	var out strings.Builder
	count := map[string]int{}
	for line := range strings.SplitSeq(want, "\n") {
		count[line]++
	}
	for line := range strings.SplitSeq(got, "\n") {
		if count[line]--; count[line] < 0 {
			fmt.Fprintf(&out, "  got:  %s\n", line)
		}
	}
	for line := range strings.SplitSeq(want, "\n") {
		if count[line] > 0 {
			count[line]--
			fmt.Fprintf(&out, "  want: %s\n", line)
		}
	}
	return out.String()
}

// TestCheckParts holds which parts may run on what.
func TestCheckParts(t *testing.T) {
	for _, c := range []struct {
		name, only string
		change     func(*Config)
		want       string
	}{
		{"everything on SQLite", "", func(*Config) {}, ""},
		{"a part without NATS", "client", func(c *Config) { c.Storage.Database = "host=/run dbname=x" }, "bus.url"},
		{"a part on SQLite", "client", func(c *Config) { c.Bus.URL = "nats://localhost:4222" }, "PostgreSQL"},
		{"a part on both", "client, rooms", func(c *Config) {
			c.Bus.URL, c.Storage.Database = "nats://localhost:4222", "postgres:///x?host=/run"
		}, ""},
		{"no such part", "kitchen", func(*Config) {}, "kitchen"},
		{"a focus alone", "calls", func(c *Config) { c.Calls.Standalone = true }, ""},
		{"a lawless focus in a homeserver", "", func(c *Config) { c.Calls.Standalone = true }, "standalone"},
	} {
		config := DefaultConfig()
		c.change(&config)
		chosen, err := chooseParts(c.only)
		if err == nil {
			err = config.checkParts(chosen)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got error %v, want one that holds %q", c.name, err, c.want)
		}
	}
}
